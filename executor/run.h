// llmir-exec from its options to its exit code, on every rank.
#pragma once

#include "comm/world.h"
#include "executor/options.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

// Loads the plan, checks it, loads this rank, and runs or serves. Errors that every rank knows are
// returned on all of them; main prints them once.
Status Run(comm::World& world, const Options& options);

}  // namespace llmir::executor
