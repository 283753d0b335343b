// The 16 rows of a panel in two AVX2 registers. Only for files compiled with the AVX2 flags.
#pragma once

#include "kernels/cpu/linear/panel_layouts.h"
#include "kernels/cpu/simd_avx2.h"

namespace llmir::kernels {

struct LanesAvx2 : SimdAvx2 {
  static LLMIR_INLINE F LoadHalf(const void* from) {
    const auto* halves = static_cast<const __m128i*>(from);
    return {_mm256_cvtph_ps(_mm_load_si128(halves)), _mm256_cvtph_ps(_mm_load_si128(halves + 1))};
  }
  static LLMIR_INLINE I LoadLine(const void* from) {
    const auto* halves = static_cast<const __m256i*>(from);
    return {_mm256_load_si256(halves), _mm256_load_si256(halves + 1)};
  }
  static LLMIR_INLINE void StoreLine(void* to, I line) {
    auto* halves = static_cast<__m256i*>(to);
    _mm256_store_si256(halves, line.lo);
    _mm256_store_si256(halves + 1, line.hi);
  }
  // The even and the odd columns of a line of bf16 pairs.
  static LLMIR_INLINE F EvenBF16(I pairs) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs.lo, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(pairs.hi, 16))};
  }
  static LLMIR_INLINE F OddBF16(I pairs) {
    const __m256i mask = _mm256_set1_epi32(-65536);
    return {_mm256_castsi256_ps(_mm256_and_si256(pairs.lo, mask)),
            _mm256_castsi256_ps(_mm256_and_si256(pairs.hi, mask))};
  }
  static LLMIR_INLINE I SetInt(int32_t value) {
    return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)};
  }
  static LLMIR_INLINE I SubInt(I a, I b) {
    return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
  }
  static LLMIR_INLINE F ToFloat(I v) {
    return {_mm256_cvtepi32_ps(v.lo), _mm256_cvtepi32_ps(v.hi)};
  }
};

}  // namespace llmir::kernels
