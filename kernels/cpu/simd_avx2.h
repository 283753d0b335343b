// The sixteen lanes of simd_portable.h in two AVX2 registers. Only for files compiled with the AVX2
// flags.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/simd_portable.h"

namespace llmir::kernels {

struct SimdAvx2 {
  static constexpr int kRegisters = 8;  // vectors of 16 lanes that a kernel may keep at once
  struct F {
    __m256 lo, hi;
  };
  struct I {
    __m256i lo, hi;
  };
  struct Mask {
    __m256 lo, hi;  // all bits of a lane, or none
  };

  static LLMIR_INLINE F Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static LLMIR_INLINE F Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static LLMIR_INLINE F Load(const float* p) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
  }
  // Masks are for tails alone: AMD's processors take some forty operations for a masked store (6 %
  // of a prefill in fp32 on Zen 3).
  static LLMIR_INLINE F LoadPartial(const float* p, int64_t count) {
    if (count >= 16) return Load(p);
    const Mask m = FirstLanes(count);
    return {_mm256_maskload_ps(p, _mm256_castps_si256(m.lo)),
            _mm256_maskload_ps(p + 8, _mm256_castps_si256(m.hi))};
  }
  static LLMIR_INLINE void Store(float* p, F a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
  }
  static LLMIR_INLINE void StorePartial(float* p, int64_t count, F a) {
    if (count >= 16) return Store(p, a);
    const Mask m = FirstLanes(count);
    _mm256_maskstore_ps(p, _mm256_castps_si256(m.lo), a.lo);
    _mm256_maskstore_ps(p + 8, _mm256_castps_si256(m.hi), a.hi);
  }
  static LLMIR_INLINE F LoadBF16(const uint16_t* p) { return {Widen(p), Widen(p + 8)}; }
  // The same with the even lanes in the low half and the odd ones in the high half, which needs no
  // shuffles: one load and two operations instead of two and four.
  static LLMIR_INLINE F LoadBF16Pairs(const uint16_t* p) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i odd = _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), _mm256_castsi256_ps(odd)};
  }
  static LLMIR_INLINE F FromPairs(F a) {
    const __m256 lo = _mm256_unpacklo_ps(a.lo, a.hi);
    const __m256 hi = _mm256_unpackhi_ps(a.lo, a.hi);
    return {_mm256_permute2f128_ps(lo, hi, 0x20), _mm256_permute2f128_ps(lo, hi, 0x31)};
  }
  static LLMIR_INLINE F ToPairs(F a) {
    // shuffle works within 128-bit halves.
    const auto gather = [](__m256 x) __attribute__((always_inline)) {
      return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xd8));
    };
    return {gather(_mm256_shuffle_ps(a.lo, a.hi, 0x88)),
            gather(_mm256_shuffle_ps(a.lo, a.hi, 0xdd))};
  }
  static LLMIR_INLINE F LoadBF16Partial(const uint16_t* p, int64_t count) {
    uint16_t copy[16] = {};
    __builtin_memcpy(copy, p, static_cast<size_t>(count) * 2);
    return LoadBF16(copy);
  }

  static LLMIR_INLINE F RoundStoreBF16(uint16_t* p, F a) {
    const __m256i lo = RoundBF16(_mm256_castps_si256(a.lo));
    const __m256i hi = RoundBF16(_mm256_castps_si256(a.hi));
    // packus works within 128-bit halves.
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(lo, hi), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), words);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
  }
  static LLMIR_INLINE F RoundBF16(F a) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(RoundBF16(_mm256_castps_si256(a.lo)), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(RoundBF16(_mm256_castps_si256(a.hi)), 16))};
  }
  // Shuffles rather than a load of an index vector: the lane stays in registers.
  template <int i>
  static LLMIR_INLINE F Broadcast(F a) {
    const __m256 half = i < 8 ? a.lo : a.hi;
    const __m256 quarter = _mm256_permute2f128_ps(half, half, i % 8 < 4 ? 0x00 : 0x11);
    const __m256 all = _mm256_permute_ps(quarter, i % 4 * 0x55);
    return {all, all};
  }
  template <int i>
  static LLMIR_INLINE void StoreLane(float* p, F a) {
    _mm_store_ss(p, _mm_permute_ps(Quarter<i / 4>(a), i % 4));
  }
  template <int i>
  static LLMIR_INLINE void StoreLane(uint16_t* p, F a) {
    *p = static_cast<uint16_t>(
        _mm_extract_epi16(_mm_castps_si128(Quarter<i / 4>(a)), i % 4 * 2 + 1));
  }
  static LLMIR_INLINE F LoadI8(const int8_t* p) {
    const auto widen = [](const int8_t* bytes) {
      const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
      return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
    };
    return {widen(p), widen(p + 8)};
  }
  static LLMIR_INLINE F LoadF8(const uint8_t* p) {
    // As a half, the same fields mean 2^-8 times the value; 0x7f, the NaN, becomes the half's.
    const __m256i words =
        _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i magnitude =
        _mm256_slli_epi16(_mm256_and_si256(words, _mm256_set1_epi16(0x7f)), 7);
    const __m256i nan = _mm256_and_si256(_mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x3f80)),
                                         _mm256_set1_epi16(0x7fff));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(words, _mm256_set1_epi16(0x80)), 8);
    const __m256i half = _mm256_or_si256(_mm256_or_si256(magnitude, nan), sign);
    const __m256 factor = _mm256_set1_ps(256.0f);
    return {_mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(half)), factor),
            _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(half, 1)), factor)};
  }

  static LLMIR_INLINE F Add(F a, F b) {
    return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
  }
  static LLMIR_INLINE F Sub(F a, F b) {
    return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
  }
  static LLMIR_INLINE F Mul(F a, F b) {
    return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
  }
  static LLMIR_INLINE F Div(F a, F b) {
    return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
  }
  static LLMIR_INLINE F Fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  static LLMIR_INLINE F NegFma(F a, F b, F c) {
    return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
  }
  static LLMIR_INLINE F Max(F a, F b) {
    return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
  }
  static LLMIR_INLINE Mask Less(F a, F b) {
    return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
  }
  static LLMIR_INLINE F Select(Mask m, F yes, F no) {
    return {_mm256_blendv_ps(no.lo, yes.lo, m.lo), _mm256_blendv_ps(no.hi, yes.hi, m.hi)};
  }
  static LLMIR_INLINE Mask FirstLanes(int64_t count) {
    const __m256i n = _mm256_set1_epi32(static_cast<int32_t>(count));
    return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(n, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))),
            _mm256_castsi256_ps(
                _mm256_cmpgt_epi32(n, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)))};
  }
  static LLMIR_INLINE uint32_t EqualBits(F a, F b) {
    const int lo = _mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ));
    const int hi = _mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ));
    return static_cast<uint32_t>(lo | hi << 8);
  }

  static LLMIR_INLINE I Bits(F a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
  static LLMIR_INLINE F AddExponent(F a, I exponent) {
    const I bits = Bits(a);
    return {_mm256_castsi256_ps(_mm256_add_epi32(bits.lo, _mm256_slli_epi32(exponent.lo, 23))),
            _mm256_castsi256_ps(_mm256_add_epi32(bits.hi, _mm256_slli_epi32(exponent.hi, 23)))};
  }
  static LLMIR_INLINE I ZeroInt() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static LLMIR_INLINE I AbsBits(F a) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    const I bits = Bits(a);
    return {_mm256_and_si256(bits.lo, mask), _mm256_and_si256(bits.hi, mask)};
  }
  static LLMIR_INLINE I MaxInt(I a, I b) {
    return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)};
  }
  static LLMIR_INLINE I AddInt(I a, I b) {
    return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
  }
  static LLMIR_INLINE int32_t ReduceMaxInt(I a) {
    const __m256i w8 = _mm256_max_epi32(a.lo, a.hi);
    __m128i w = _mm_max_epi32(_mm256_castsi256_si128(w8), _mm256_extracti128_si256(w8, 1));
    w = _mm_max_epi32(w, _mm_shuffle_epi32(w, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(w, _mm_shuffle_epi32(w, 0xb1)));
  }
  static LLMIR_INLINE int32_t ReduceAddInt(I a) {
    const __m256i w8 = _mm256_add_epi32(a.lo, a.hi);
    __m128i w = _mm_add_epi32(_mm256_castsi256_si128(w8), _mm256_extracti128_si256(w8, 1));
    w = _mm_add_epi32(w, _mm_shuffle_epi32(w, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(w, _mm_shuffle_epi32(w, 0xb1)));
  }
  static LLMIR_INLINE I Round(F a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
  static LLMIR_INLINE void StoreBytes(int8_t* p, I a) {
    // packs works within 128-bit halves: [lo0 hi0 | lo1 hi1] is put back in order before the second
    // step.
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }

  static LLMIR_INLINE float FoldAdd(F a) {
    const __m256 w8 = _mm256_add_ps(a.lo, a.hi);
    const __m128 w4 = _mm_add_ps(_mm256_castps256_ps128(w8), _mm256_extractf128_ps(w8, 1));
    const __m128 w2 = _mm_add_ps(w4, _mm_movehl_ps(w4, w4));
    return _mm_cvtss_f32(_mm_add_ss(w2, _mm_movehdup_ps(w2)));
  }
  static LLMIR_INLINE float FoldMax(F a) {
    const __m256 w8 = _mm256_max_ps(a.lo, a.hi);
    const __m128 w4 = _mm_max_ps(_mm256_castps256_ps128(w8), _mm256_extractf128_ps(w8, 1));
    const __m128 w2 = _mm_max_ps(w4, _mm_movehl_ps(w4, w4));
    return _mm_cvtss_f32(_mm_max_ss(w2, _mm_movehdup_ps(w2)));
  }

 private:
  template <int i>
  static LLMIR_INLINE __m128 Quarter(F a) {
    return _mm256_extractf128_ps(i < 2 ? a.lo : a.hi, i % 2);
  }
  // The upper halves of the rounded values, in the lower ones.
  static LLMIR_INLINE __m256i RoundBF16(__m256i bits) {
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(
        _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_cmpgt_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)),
                                           _mm256_set1_epi32(0x7f800000));
    return _mm256_blendv_epi8(rounded, quiet, nan);
  }
  static LLMIR_INLINE __m256 Widen(const uint16_t* p) {
    const __m128i bf16 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16));
  }
};

}  // namespace llmir::kernels
