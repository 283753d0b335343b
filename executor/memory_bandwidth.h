// The read bandwidth of this machine as this rank can have it now: the yardstick for decode, which
// reads every weight once per token.
#pragma once

#include <functional>

#include "kernels/worker_pool.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

// Bytes per second that the pool's threads read together, each with four streams (one stream
// reaches two thirds of it), from a buffer far larger than the last-level cache; the best of a few
// passes. Takes about a quarter of a second.
// `ready` is called once the buffer is there and before it is read: ranks that measure together
// meet in it.
StatusOr<double> MeasureReadBandwidth(kernels::WorkerPool& pool,
                                      const std::function<Status()>& ready);

}  // namespace llmir::executor
