// comm_bench: all-reduces among the ranks of an MPI job, by shared memory, by the MPI backend and
// by MPI_Allreduce itself, in turns, so that all see the same noise. Prints JSON on rank 0.
//
//   mpirun --bind-to none -n 2 comm_bench --bytes 4096 65536 1048576
#include <mpi.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "comm/world.h"

namespace llmir::comm {
namespace {

using nlohmann::json;

struct Implementation {
  std::string name;
  std::function<Status(float* data, size_t count)> all_reduce;
  std::vector<double> microseconds;  // one per operation
};

double Quantile(const std::vector<double>& sorted, double q) {
  return sorted[static_cast<size_t>(q * static_cast<double>(sorted.size() - 1))];
}

// Times `operations` all-reduces, one after the other.
Status Measure(size_t count, int operations, bool keep, Implementation* implementation) {
  using Clock = std::chrono::steady_clock;
  std::vector<float> data(count, 0.0f);  // sums of zeros stay what they are
  Clock::time_point begin = Clock::now();
  for (int i = 0; i < operations; ++i) {
    LLMIR_RETURN_IF_ERROR(implementation->all_reduce(data.data(), count));
    const Clock::time_point end = Clock::now();
    if (keep) {
      implementation->microseconds.push_back(
          std::chrono::duration<double, std::micro>(end - begin).count());
    }
    begin = end;
  }
  return Status();
}

StatusOr<json> Run(World* world, const std::vector<size_t>& sizes, int operations, int turns) {
  std::vector<int> ranks(static_cast<size_t>(world->size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  const size_t max_bytes = *std::max_element(sizes.begin(), sizes.end());
  LLMIR_ASSIGN_OR_RETURN(const auto shared,
                         world->CreateChannel(ranks, max_bytes, Backend::kSharedMemory));
  LLMIR_ASSIGN_OR_RETURN(const auto mpi, world->CreateChannel(ranks, max_bytes, Backend::kMpi));

  json results = json::array();
  for (const size_t bytes : sizes) {
    std::vector<Implementation> implementations = {
        {"shared-memory",
         [&](float* data, size_t count) { return shared->AllReduce(data, count); },
         {}},
        {"mpi", [&](float* data, size_t count) { return mpi->AllReduce(data, count); }, {}},
        {"MPI_Allreduce",
         [](float* data, size_t count) {
           const int code = MPI_Allreduce(MPI_IN_PLACE, data, static_cast<int>(count), MPI_FLOAT,
                                          MPI_SUM, MPI_COMM_WORLD);
           return code == MPI_SUCCESS ? Status() : Internal("MPI_Allreduce: error {}", code);
         },
         {}}};
    for (Implementation& implementation : implementations) {
      implementation.microseconds.reserve(static_cast<size_t>(operations) *
                                          static_cast<size_t>(turns));
    }
    for (int turn = -1; turn < turns; ++turn) {  // the first one warms up
      for (Implementation& implementation : implementations) {
        LLMIR_RETURN_IF_ERROR(shared->Barrier());
        LLMIR_RETURN_IF_ERROR(
            Measure(bytes / sizeof(float), operations, turn >= 0, &implementation));
      }
    }
    for (Implementation& implementation : implementations) {
      std::sort(implementation.microseconds.begin(), implementation.microseconds.end());
      results.push_back({{"bytes", bytes},
                         {"implementation", implementation.name},
                         {"operations", implementation.microseconds.size()},
                         {"median_us", Quantile(implementation.microseconds, 0.5)},
                         {"p10_us", Quantile(implementation.microseconds, 0.1)},
                         {"p90_us", Quantile(implementation.microseconds, 0.9)}});
    }
  }
  return json{{"benchmark", "all-reduce"},
              {"ranks", world->size()},
              {"host", world->host()},
              {"results", results}};
}

int Main(int argc, char** argv) {
  CLI::App app("All-reduces among the ranks of an MPI job, timed; prints JSON.");
  std::vector<size_t> sizes = {4096, 65536, 1048576};
  int operations = 500;
  int turns = 10;
  app.add_option("--bytes", sizes, "sizes of the data, multiples of 4")
      ->capture_default_str()
      ->check(CLI::Range(size_t{4}, size_t{1} << 30));
  app.add_option("--operations", operations, "all-reduces in a turn of an implementation")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--turns", turns, "turns of each implementation")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);

  StatusOr<std::unique_ptr<World>> world = World::Create(&argc, &argv);
  if (!world.ok()) {
    std::cerr << "comm_bench: " << world.status().ToString() << "\n";
    return 1;
  }
  const StatusOr<json> report = Run(world->get(), sizes, operations, turns);
  const Status outcome = (*world)->Agree(report.status());
  if ((*world)->rank() == 0) {
    if (outcome.ok()) {
      std::cout << report->dump(2) << "\n";
    } else {
      std::cerr << "comm_bench: " << outcome.ToString() << "\n";
    }
  }
  return outcome.ok() ? 0 : 1;
}

}  // namespace
}  // namespace llmir::comm

int main(int argc, char** argv) { return llmir::comm::Main(argc, argv); }
