#include "executor/memory_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <span>

#include "plan_schema/base/memory_map.h"

namespace llmir::executor {
namespace {

constexpr size_t kBytes = size_t{256} << 20;
constexpr int kPasses = 3;  // of each number of streams

// The sum keeps the loads alive.
template <size_t streams>
__attribute__((always_inline)) inline uint64_t Sum(const uint64_t* data, size_t count) {
  constexpr size_t kStep = 16;
  const size_t per = count / streams / kStep * kStep;
  uint64_t lanes[kStep] = {};
  for (size_t i = 0; i < per; i += kStep) {
    for (size_t s = 0; s < streams; ++s) {
      for (size_t j = 0; j < kStep; ++j) lanes[j] += data[s * per + i + j];
    }
  }
  uint64_t sum = 0;
  for (const uint64_t lane : lanes) sum += lane;
  return sum;
}

// Vectorized by the compiler once per ISA.
__attribute__((target_clones("default", "avx2", "avx512f"))) uint64_t
ReadStreams(const uint64_t* data, size_t count, size_t streams) {
  switch (streams) {
    case 1:
      return Sum<1>(data, count);
    case 2:
      return Sum<2>(data, count);
    case 4:
      return Sum<4>(data, count);
    default:
      return Sum<8>(data, count);
  }
}

}  // namespace

uint64_t ReadOnce(kernels::WorkerPool& pool, std::span<const std::byte> memory, size_t streams) {
  std::atomic<uint64_t> sum{0};
  pool.Run([&](int thread) {
    const auto share =
        kernels::ShareOf(static_cast<int64_t>(memory.size()), 4096, thread, pool.threads());
    sum += ReadStreams(reinterpret_cast<const uint64_t*>(memory.data() + share.begin),
                       static_cast<size_t>(share.end - share.begin) / sizeof(uint64_t), streams);
  });
  return sum;
}

StatusOr<double> MeasureReadBandwidth(kernels::WorkerPool& pool,
                                      const std::function<Status()>& ready) {
  LLMIR_ASSIGN_OR_RETURN(const MemoryMap buffer,
                         MemoryMap::Create(kBytes, "bandwidth measurement"));
  double best = 0;
  uint64_t sink = 0;
  pool.Run([&](int thread) {
    const auto share = kernels::ShareOf(kBytes, 4096, thread, pool.threads());
    std::memset(buffer.data() + share.begin, thread + 1, share.end - share.begin);
  });
  LLMIR_RETURN_IF_ERROR(ready());
  for (int pass = 0; pass < kPasses; ++pass) {
    for (const size_t streams : kReadStreams) {
      const auto start = std::chrono::steady_clock::now();
      sink += ReadOnce(pool, {buffer.data(), kBytes}, streams);
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      best = std::max(best, kBytes / seconds);
    }
  }
  // The sum is of known bytes; using it keeps the reads.
  return sink == 0 ? 0 : best;
}

}  // namespace llmir::executor
