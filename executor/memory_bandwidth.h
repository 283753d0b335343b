// The read bandwidth of this machine as this rank can have it now: the yardstick for decode, which
// reads every weight once per token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "kernels/worker_pool.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

// Streams that a thread reads at once: which number gives most is the machine's affair (on one with
// AVX-512 four gave 31 GB/s and eight 45, on one with AVX2 four gave most, one two thirds of that).
inline constexpr size_t kReadStreams[] = {1, 2, 4, 8};

// Reads `memory` once with all of the pool's threads, each with `streams` streams, one of the
// above. Returns a sum over it, so that the reading isn't optimized away.
uint64_t ReadOnce(kernels::WorkerPool& pool, std::span<const std::byte> memory, size_t streams);

// Bytes per second that the pool's threads read together from a buffer far larger than the
// last-level cache; the best of a few passes. Takes about a quarter of a second.
// `ready` is called once the buffer is there and before it is read: ranks that measure together
// meet in it.
StatusOr<double> MeasureReadBandwidth(kernels::WorkerPool& pool,
                                      const std::function<Status()>& ready);

}  // namespace llmir::executor
