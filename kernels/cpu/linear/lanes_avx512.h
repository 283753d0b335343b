// The 16 rows of a panel in one AVX-512 register. Only for files compiled with the AVX512 flags.
#pragma once

#include "kernels/cpu/linear/panel_layouts.h"
#include "kernels/cpu/simd_avx512.h"

namespace llmir::kernels {

struct LanesAvx512 : SimdAvx512 {
  static LLMIR_INLINE F LoadHalf(const void* from) {
    return _mm512_cvtph_ps(_mm256_load_si256(static_cast<const __m256i*>(from)));
  }
  static LLMIR_INLINE I LoadLine(const void* from) { return _mm512_load_si512(from); }
  // The even and the odd columns of a line of bf16 pairs.
  static LLMIR_INLINE F EvenBF16(I pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  }
  static LLMIR_INLINE F OddBF16(I pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)));
  }
  static LLMIR_INLINE F ToFloat(I v) { return _mm512_cvtepi32_ps(v); }
};

}  // namespace llmir::kernels
