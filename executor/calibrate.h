// `llmir-exec --calibrate`: how fast this machine's kernels, memory and messages are, as JSON that
// llmir-plan and llmir-inspect read (plan_schema/cost/calibration.h; docs/running.md).
#pragma once

#include <atomic>

#include "comm/world.h"
#include "executor/options.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

// Collective over the world. Rank 0 measures kernels on options.threads threads (0: one per core),
// then on one thread, and messages between threads of its host, while the other ranks sleep; then
// all ranks exchange messages over MPI. Writes options.calibrate on rank 0: the whole file, or none
// where something fails or `cancelled` turns true. Takes about a minute.
Status Calibrate(comm::World& world, const Options& options, const std::atomic<bool>& cancelled);

}  // namespace llmir::executor
