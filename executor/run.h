// llmir-exec from its options to its exit code, on every rank.
#pragma once

#include <chrono>

#include "comm/world.h"
#include "executor/options.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

// When main() began, and how long MPI's start took of the time since.
struct Startup {
  std::chrono::steady_clock::time_point begin;
  double mpi_seconds = 0;
};

// Loads the plan, checks it, loads this rank, and runs or serves. Errors that every rank knows are
// returned on all of them; main prints them once.
// `startup`: of this process.
Status Run(comm::World& world, const Options& options, const Startup& startup);

}  // namespace llmir::executor
