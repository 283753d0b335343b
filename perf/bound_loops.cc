#include "perf/bound_loops.h"

#include <immintrin.h>

// Compiled once per family with that family's flags; see perf/CMakeLists.txt.
#define LLMIR_STRING_OF(x) #x
#define LLMIR_STRING(x) LLMIR_STRING_OF(x)

namespace llmir::perf::LLMIR_BOUND_FAMILY {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
typedef uint64_t Words __attribute__((vector_size(kVectorBytes), may_alias));
typedef float Floats __attribute__((vector_size(kVectorBytes)));
constexpr int kFloats = kVectorBytes / sizeof(float);

template <int kStreams>
uint64_t ReadStreams(const char* data, size_t bytes) {
  constexpr int kPerLine = 64 / kVectorBytes;
  Words sums[kStreams * kPerLine] = {};
  const size_t stream_bytes = bytes / kStreams;
  for (size_t at = 0; at < stream_bytes; at += 64) {
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) {
#pragma GCC unroll 4
      for (int v = 0; v < kPerLine; ++v) {
        sums[s * kPerLine + v] ^=
            *reinterpret_cast<const Words*>(data + s * stream_bytes + at + v * kVectorBytes);
      }
    }
  }
  uint64_t all = 0;
  for (const Words& sum : sums) {
    for (size_t i = 0; i < kVectorBytes / sizeof(uint64_t); ++i) all ^= sum[i];
  }
  return all;
}

uint64_t Read(const void* data, size_t bytes, int streams) {
  const auto* p = static_cast<const char*>(data);
  switch (streams) {
    case 1:
      return ReadStreams<1>(p, bytes);
    case 2:
      return ReadStreams<2>(p, bytes);
    case 4:
      return ReadStreams<4>(p, bytes);
    default:
      return ReadStreams<8>(p, bytes);
  }
}

// Enough independent sums to hide the latency of a multiply-add on two ports, few enough to stay in
// registers.
constexpr int kSums = 12;

double MultiplyAdd(int64_t iterations, float* sink) {
  Floats sums[kSums], factor, addend;
  for (int i = 0; i < kFloats; ++i) factor[i] = 0.9999f, addend[i] = 1e-4f;
#pragma GCC unroll 12
  for (int s = 0; s < kSums; ++s) sums[s] = addend * static_cast<float>(s);
  for (int64_t k = 0; k < iterations; ++k) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) sums[s] = sums[s] * factor + addend;
    // Not to be moved out of the loop or folded over iterations.
    asm volatile("" : "+x"(sums[0]), "+x"(sums[kSums - 1]));
  }
#pragma GCC unroll 12
  for (int s = 0; s < kSums; ++s) *sink += sums[s][0];
  return 2.0 * kFloats * kSums * static_cast<double>(iterations);
}

#if defined(__AVX512F__)
__attribute__((target("avx512bf16"))) double BF16Products(int64_t iterations, float* sink) {
  constexpr int kBF16PerVector = 32;
  constexpr int kBF16Sums = 24;  // of 6 cycles each, two at a time
  const __m512 value = _mm512_set1_ps(1e-2f);
  __m512 sums[kBF16Sums];
  __m512bh factor = _mm512_cvtne2ps_pbh(value, value), other = factor;
#pragma GCC unroll 24
  for (int s = 0; s < kBF16Sums; ++s) sums[s] = _mm512_set1_ps(static_cast<float>(s));
  for (int64_t k = 0; k < iterations; ++k) {
    asm volatile("" : "+v"(factor));  // or the products of constants are computed once
#pragma GCC unroll 24
    for (int s = 0; s < kBF16Sums; ++s) sums[s] = _mm512_dpbf16_ps(sums[s], factor, other);
  }
#pragma GCC unroll 24
  for (int s = 0; s < kBF16Sums; ++s) *sink += sums[s][0];
  return 2.0 * kBF16PerVector * kBF16Sums * static_cast<double>(iterations);
}

double BF16Dot(int64_t iterations, float* sink) {
  const bool has_products = __builtin_cpu_supports("avx512bf16");
  return has_products ? BF16Products(iterations, sink) : MultiplyAdd(iterations, sink);
}
#else
constexpr auto BF16Dot = MultiplyAdd;
#endif

#if defined(__AVX512VNNI__)
using Bytes = __m512i;
Bytes Set(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
Bytes Dot(Bytes sum, Bytes a, Bytes b) { return _mm512_dpbusd_epi32(sum, a, b); }
constexpr int kInt8PerVector = 64;
#elif defined(__AVX2__)
using Bytes = __m256i;
Bytes Set(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
Bytes Dot(Bytes sum, Bytes a, Bytes b) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}
constexpr int kInt8PerVector = 32;
#else
// SSE2 has no 8-bit products: values widened to 16 bits, 8 a vector.
using Bytes = __m128i;
Bytes Set(int value) { return _mm_set1_epi16(static_cast<short>(value)); }
Bytes Dot(Bytes sum, Bytes a, Bytes b) { return _mm_add_epi32(sum, _mm_madd_epi16(a, b)); }
constexpr int kInt8PerVector = 8;
#endif

double Int8Dot(int64_t iterations, int32_t* sink) {
  // Products of equal inputs would be computed once where they are added apart: 6 inputs then,
  // which with 6 sums, weights and constants fit into 16 registers. Where product and sum are one,
  // 4 inputs do, and with 12 the compiler moved them about: three quarters of the rate on a Zen 5.
  constexpr bool kFused = sizeof(Bytes) == 64;
  constexpr int kInt8Sums = kFused ? 12 : 6;
  constexpr int kInputs = kFused ? 4 : 6;
  Bytes sums[kInt8Sums], inputs[kInputs], weights = Set(3);
#pragma GCC unroll 12
  for (int s = 0; s < kInt8Sums; ++s) sums[s] = Set(s);  // equal ones would be computed once
#pragma GCC unroll 6
  for (int i = 0; i < kInputs; ++i) inputs[i] = Set(i + 1);
  for (int64_t k = 0; k < iterations; ++k) {
    // Otherwise the products of constants would be computed once. "v": any of 32 registers, "x"
    // is 16.
    asm volatile("" : "+v"(weights));
#pragma GCC unroll 12
    for (int s = 0; s < kInt8Sums; ++s) {
      sums[s] = Dot(sums[s], inputs[s % kInputs], weights);
    }
  }
#pragma GCC unroll 12
  for (int s = 0; s < kInt8Sums; ++s) *sink += static_cast<int32_t>(sums[s][0]);
  return 2.0 * kInt8PerVector * kInt8Sums * static_cast<double>(iterations);
}

}  // namespace

const BoundLoops kLoops = {LLMIR_STRING(LLMIR_BOUND_FAMILY), Read, MultiplyAdd, BF16Dot, Int8Dot};

}  // namespace llmir::perf::LLMIR_BOUND_FAMILY
