// The read bandwidth of this machine as this rank can have it now: the yardstick for decode, which
// reads every weight once per token.
#pragma once

#include "kernels/worker_pool.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

// Bytes per second that the pool's threads read together, each with four streams (one stream
// reaches two thirds of it), from a buffer far larger than the last-level cache; the best of a few
// passes. Takes about a quarter of a second.
StatusOr<double> MeasureReadBandwidth(kernels::WorkerPool& pool);

}  // namespace llmir::executor
