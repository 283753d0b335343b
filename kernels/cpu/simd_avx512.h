// The sixteen lanes of simd_portable.h in one AVX-512 register. Only for files compiled with the
// AVX512 flags.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/simd_portable.h"

namespace llmir::kernels {

struct SimdAvx512 {
  static constexpr int kRegisters = 32;  // vectors of 16 lanes that a kernel may keep at once
  using F = __m512;
  using I = __m512i;
  using Mask = __mmask16;

  static LLMIR_INLINE F Zero() { return _mm512_setzero_ps(); }
  static LLMIR_INLINE F Set(float x) { return _mm512_set1_ps(x); }
  static LLMIR_INLINE F Load(const float* p) { return _mm512_loadu_ps(p); }
  static LLMIR_INLINE F LoadPartial(const float* p, int64_t count) {
    return _mm512_maskz_loadu_ps(FirstLanes(count), p);
  }
  static LLMIR_INLINE void Store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static LLMIR_INLINE void StorePartial(float* p, int64_t count, F a) {
    _mm512_mask_storeu_ps(p, FirstLanes(count), a);
  }
  static LLMIR_INLINE F LoadBF16(const uint16_t* p) {
    return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static LLMIR_INLINE F LoadBF16Pairs(const uint16_t* p) { return LoadBF16(p); }
  static LLMIR_INLINE F FromPairs(F a) { return a; }
  static LLMIR_INLINE F ToPairs(F a) { return a; }
  static LLMIR_INLINE F LoadBF16Partial(const uint16_t* p, int64_t count) {
    return Widen(_mm256_maskz_loadu_epi16(FirstLanes(count), p));
  }

  static LLMIR_INLINE F RoundStoreBF16(uint16_t* p, F a) {
    const __m512i words = RoundToWords(a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(words));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  }
  static LLMIR_INLINE F RoundBF16(F a) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(RoundToWords(a), 16));
  }
  // Shuffles rather than a load of an index vector: the lane stays in registers.
  template <int i>
  static LLMIR_INLINE F Broadcast(F a) {
    const F quarter = _mm512_shuffle_f32x4(a, a, i / 4 * 0x55);
    return _mm512_permute_ps(quarter, i % 4 * 0x55);
  }
  template <int i>
  static LLMIR_INLINE void StoreLane(float* p, F a) {
    _mm_store_ss(p, _mm_permute_ps(_mm512_extractf32x4_ps(a, i / 4), i % 4));
  }
  template <int i>
  static LLMIR_INLINE void StoreLane(uint16_t* p, F a) {
    const __m128 quarter = _mm512_extractf32x4_ps(a, i / 4);
    *p = static_cast<uint16_t>(_mm_extract_epi16(_mm_castps_si128(quarter), i % 4 * 2 + 1));
  }
  static LLMIR_INLINE F LoadI8(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
  }
  static LLMIR_INLINE F LoadF8(const uint8_t* p) {
    // As a half, the same fields mean 2^-8 times the value; 0x7f, the NaN, becomes the half's.
    const __m256i words =
        _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i magnitude =
        _mm256_slli_epi16(_mm256_and_si256(words, _mm256_set1_epi16(0x7f)), 7);
    const __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x3f80));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(words, _mm256_set1_epi16(0x80)), 8);
    const __m256i half =
        _mm256_or_si256(_mm256_mask_blend_epi16(nan, magnitude, _mm256_set1_epi16(0x7fff)), sign);
    return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f));
  }

  static LLMIR_INLINE F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static LLMIR_INLINE F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static LLMIR_INLINE F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static LLMIR_INLINE F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static LLMIR_INLINE F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static LLMIR_INLINE F NegFma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  static LLMIR_INLINE F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static LLMIR_INLINE Mask Less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static LLMIR_INLINE F Select(Mask m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }
  static LLMIR_INLINE Mask FirstLanes(int64_t count) {
    return static_cast<Mask>(count >= 16 ? 0xffffu : (1u << count) - 1);
  }
  static LLMIR_INLINE uint32_t EqualBits(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }

  static LLMIR_INLINE I Bits(F a) { return _mm512_castps_si512(a); }
  static LLMIR_INLINE F AddExponent(F a, I exponent) {
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(a), _mm512_slli_epi32(exponent, 23)));
  }
  static LLMIR_INLINE I ZeroInt() { return _mm512_setzero_si512(); }
  static LLMIR_INLINE I AbsBits(F a) {
    return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff));
  }
  static LLMIR_INLINE I MaxInt(I a, I b) { return _mm512_max_epi32(a, b); }
  static LLMIR_INLINE I AddInt(I a, I b) { return _mm512_add_epi32(a, b); }
  static LLMIR_INLINE int32_t ReduceMaxInt(I a) { return _mm512_reduce_max_epi32(a); }
  static LLMIR_INLINE int32_t ReduceAddInt(I a) { return _mm512_reduce_add_epi32(a); }
  static LLMIR_INLINE I Round(F a) { return _mm512_cvtps_epi32(a); }
  static LLMIR_INLINE void StoreBytes(int8_t* p, I a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
  }

  static LLMIR_INLINE float FoldAdd(F a) {
    const __m256 w8 = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 w4 = _mm_add_ps(_mm256_castps256_ps128(w8), _mm256_extractf128_ps(w8, 1));
    const __m128 w2 = _mm_add_ps(w4, _mm_movehl_ps(w4, w4));
    return _mm_cvtss_f32(_mm_add_ss(w2, _mm_movehdup_ps(w2)));
  }
  static LLMIR_INLINE float FoldMax(F a) {
    const __m256 w8 = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 w4 = _mm_max_ps(_mm256_castps256_ps128(w8), _mm256_extractf128_ps(w8, 1));
    const __m128 w2 = _mm_max_ps(w4, _mm_movehl_ps(w4, w4));
    return _mm_cvtss_f32(_mm_max_ss(w2, _mm_movehdup_ps(w2)));
  }

 private:
  // The upper halves of the values rounded to bfloat16, in the lower ones.
  static LLMIR_INLINE __m512i RoundToWords(F a) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i upper = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(
        _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
    const __mmask16 nan = _mm512_cmpgt_epi32_mask(
        _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)), _mm512_set1_epi32(0x7f800000));
    return _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
  }
  // One permutation of words, zeros in the lower halves, rather than an extension and a shift.
  static LLMIR_INLINE F Widen(__m256i bf16) {
    const __m512i from =
        _mm512_set_epi32(0xf0000, 0xe0000, 0xd0000, 0xc0000, 0xb0000, 0xa0000, 0x90000, 0x80000,
                         0x70000, 0x60000, 0x50000, 0x40000, 0x30000, 0x20000, 0x10000, 0);
    return _mm512_castsi512_ps(
        _mm512_maskz_permutexvar_epi16(0xaaaaaaaau, from, _mm512_castsi256_si512(bf16)));
  }
};

}  // namespace llmir::kernels
