#include "comm/rank_order_sum.h"

#include <algorithm>
#include <cstring>

namespace llmir::comm {
namespace {

// The loops below, for what instructions they are compiled: an addition per element in the same
// order, so the same bits.
__attribute__((always_inline)) inline void Sum(std::span<const float* const> sources, size_t count,
                                               float* out) {
  if (sources.size() == 2) {
    const float* a = sources[0];
    const float* b = sources[1];
#pragma GCC ivdep
    for (size_t i = 0; i < count; ++i) out[i] = a[i] + b[i];
    return;
  }
  // `out` may be the last source, so that a partial sum must not go there.
  constexpr size_t kBlock = 1024;
  float partial[kBlock];
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t block = std::min(kBlock, count - begin);
    const float* first = sources[0] + begin;
    const float* second = sources[1] + begin;
    for (size_t i = 0; i < block; ++i) partial[i] = first[i] + second[i];
    for (size_t rank = 2; rank + 1 < sources.size(); ++rank) {
      const float* next = sources[rank] + begin;
      for (size_t i = 0; i < block; ++i) partial[i] += next[i];
    }
    const float* last = sources.back() + begin;
    float* result = out + begin;
#pragma GCC ivdep
    for (size_t i = 0; i < block; ++i) result[i] = partial[i] + last[i];
  }
}

using SumFunction = void (*)(std::span<const float* const>, size_t, float*);

void SumPortable(std::span<const float* const> sources, size_t count, float* out) {
  Sum(sources, count, out);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void SumAvx2(std::span<const float* const> sources, size_t count,
                                             float* out) {
  Sum(sources, count, out);
}
const SumFunction kSum = __builtin_cpu_supports("avx2") != 0 ? SumAvx2 : SumPortable;
#else
constexpr SumFunction kSum = SumPortable;
#endif

}  // namespace

void SumInRankOrder(std::span<const float* const> sources, size_t count, float* out) {
  if (sources.size() == 1) {
    if (sources[0] != out) std::memcpy(out, sources[0], count * sizeof(float));
    return;
  }
  kSum(sources, count, out);
}

}  // namespace llmir::comm
