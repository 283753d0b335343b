// `llmir-exec --calibrate`: how fast this machine's kernels and memory are, as JSON that the
// planner reads (docs/running.md, "Calibration").
#pragma once

#include <atomic>

#include "comm/world.h"
#include "executor/options.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

// Measures on options.threads threads (0: one per core) and writes options.calibrate: the whole
// file, or none where something fails or `cancelled` turns true. One process: INVALID_ARGUMENT in a
// larger world. Takes less than a minute.
Status Calibrate(comm::World& world, const Options& options, const std::atomic<bool>& cancelled);

}  // namespace llmir::executor
