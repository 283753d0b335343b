// Ranks as the processes of an MPI job (or this process alone), over the backend that --backend
// names. All ranks run the same tests; rank 0 prints, the others only what fails; the exit status
// is the whole job's.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <numeric>
#include <string_view>

#include "comm/world.h"
#include "tests/conformance/comm/job.h"
#include "tests/conformance/comm/ranks.h"

namespace llmir::comm {
namespace {

World* job_world = nullptr;
Backend job_backend = Backend::kAuto;

// Says on which rank a test failed.
class FailurePrinter : public testing::EmptyTestEventListener {
  // Kept, since gtest's lock is held while it reports a result, and asking it for the test would
  // wait for that.
  void OnTestStart(const testing::TestInfo& test) override {
    name_ = fmt::format("{}.{}", test.test_suite_name(), test.name());
  }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    fmt::print(stderr, "rank {}: {}: {}:{}: {}\n", job_world->rank(), name_,
               result.file_name() == nullptr ? "" : result.file_name(), result.line_number(),
               result.message());
  }
  std::string name_;
};

// The backend of "--backend=NAME"; false if there is no such option or name.
bool ParseBackend(int argc, char** argv, Backend* backend) {
  constexpr std::string_view kOption = "--backend=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (!argument.starts_with(kOption)) continue;
    const std::string_view name = argument.substr(kOption.size());
    if (name == "shared-memory") *backend = Backend::kSharedMemory;
    if (name == "mpi") *backend = Backend::kMpi;
    if (name == "auto") *backend = Backend::kAuto;
    return name == "shared-memory" || name == "mpi" || name == "auto";
  }
  return false;
}

}  // namespace

World& JobWorld() { return *job_world; }
Backend JobBackend() { return job_backend; }

std::vector<int> GroupSizes() { return {job_world->size()}; }

void OnEachRank(int size, size_t max_bytes, int channels, const RankBody& body) {
  ASSERT_EQ(size, job_world->size());
  std::vector<int> ranks(static_cast<size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  std::vector<std::unique_ptr<Channel>> ends;
  for (int channel = 0; channel < channels; ++channel) {
    StatusOr<std::unique_ptr<Channel>> end =
        job_world->CreateChannel(ranks, max_bytes, job_backend);
    ASSERT_TRUE(end.ok()) << end.status().ToString();
    ends.push_back(std::move(end).value());
  }
  body(ends);
}

int RunJob(int argc, char** argv) {
  if (!ParseBackend(argc, argv, &job_backend)) {
    fmt::print(stderr, "usage: {} --backend=shared-memory|mpi|auto [gtest options]\n", argv[0]);
    return 2;
  }
  StatusOr<std::unique_ptr<World>> world = World::Create(&argc, &argv);
  if (!world.ok()) {
    fmt::print(stderr, "{}\n", world.status().ToString());
    return 1;
  }
  job_world = world->get();
  testing::InitGoogleTest(&argc, argv);
  if (job_world->rank() != 0) {
    testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter);
  }
  const int failed = RUN_ALL_TESTS();
  const bool ran = testing::UnitTest::GetInstance()->test_to_run_count() > 0;
  const Status outcome = job_world->Agree(
      failed != 0 ? Internal("tests failed") : (ran ? Status() : Internal("no test has run")));
  if (!outcome.ok() && job_world->rank() == 0) fmt::print(stderr, "{}\n", outcome.ToString());
  return outcome.ok() ? 0 : 1;
}

}  // namespace llmir::comm

int main(int argc, char** argv) { return llmir::comm::RunJob(argc, argv); }
