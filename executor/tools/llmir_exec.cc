// llmir-exec: one rank of a plan. Started by mpirun, one process per rank; a plan of one rank runs
// without it.

#include <cstdio>

#include "comm/world.h"
#include "executor/options.h"
#include "executor/run.h"

namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
constexpr int kExitCancelled = 130;

}  // namespace

int main(int argc, char** argv) {
  llmir::executor::Startup startup{std::chrono::steady_clock::now()};
  auto world = llmir::comm::World::Create(&argc, &argv);
  startup.mpi_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - startup.begin).count();
  if (!world.ok()) {
    std::fprintf(stderr, "llmir-exec: %s\n", world.status().ToString().c_str());
    return kExitFailure;
  }
  const bool speaker = (*world)->rank() == 0;
  auto options = llmir::executor::ParseOptions(argc, argv);
  if (!options.ok()) {
    if (speaker) std::fprintf(stderr, "llmir-exec: %s\n", options.status().message().c_str());
    return kExitUsage;
  }
  if (!options->message.empty()) {
    if (speaker) std::fputs(options->message.c_str(), stdout);
    return 0;
  }
  const llmir::Status status = llmir::executor::Run(**world, *options, startup);
  if (status.ok()) return 0;
  if (speaker) std::fprintf(stderr, "llmir-exec: %s\n", status.ToString().c_str());
  return status.code() == llmir::StatusCode::kCancelled ? kExitCancelled : kExitFailure;
}
