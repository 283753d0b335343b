// Exact dots of a group of 3 to 6 bits by AVX2. Only for files compiled with the AVX2 flags.
//
// maddubs multiplies unsigned by signed bytes and adds pairs into int16, which must not saturate:
// with |x| at most 127, the 16 products of a group that meet in a lane pair make at most 14224 for
// 3 bits and 30480 for 4, so they are added up in int16; the 4 products of two quads make at most
// 15748 for 5 bits and 32004 for 6, so these are widened after every two.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear/lanes_avx2.h"
#include "kernels/cpu/linear/linear_driver.h"

namespace llmir::kernels {

LLMIR_INLINE __m256i Broadcast4Avx2(const std::byte* x) {
  return _mm256_set1_epi32(*reinterpret_cast<const int32_t*>(x));
}

// One row: 4 streams, which a machine with AVX2 alone needs for its full bandwidth (26 GB/s against
// 18-22 for one).
//
// Unpacked, 6 tokens fill the registers where sums fit in int16, else 4.
template <int kBits>
using QuantShapeAvx2 = TileShape<4, 1, 1, 4, kBits <= 4 ? 6 : 4>;

// The line that the same stream reads 16 lines later. A line takes some sixteen instructions here,
// so the loads themselves don't run far enough ahead (one token, two threads: q3_0 13 to 18 GB/s,
// q4_0 22.6 to 25.5, q5_1 17.7 to 22, q6_0 16.6 to 20; q8_0, with fewer, gains nothing); half as
// far and twice as far gain less.
LLMIR_INLINE void FetchAhead(const std::byte* line) { __builtin_prefetch(line + 16 * kLine, 0, 3); }

// The value is computed before what follows. Left alone, GCC 12 makes the products of all tokens
// first and spills the sums that they go to: twice the instructions.
LLMIR_INLINE void Settle(LanesAvx2::I& value) { asm volatile("" : "+x"(value.lo), "+x"(value.hi)); }

// The pieces of a dot of unsigned weights of kBits bits: sums in int16 as long as they fit.
template <int kBits>
struct UnpackedDotAvx2 {
  using Lanes = LanesAvx2;
  // Products whose pairs can be added in int16.
  static constexpr int kQuads = 32767 / (2 * ((1 << kBits) - 1) * 127);
  static_assert(kQuads >= 2);
  static constexpr int kStep = kQuads >= 8 ? 8 : kQuads >= 4 ? 4 : 2;

  template <int kTokens>
  static LLMIR_INLINE void Run(const UnpackedGroup& w, const std::byte* const (&x)[kTokens],
                               Lanes::I (&dots)[kTokens]) {
    const __m256i ones = _mm256_set1_epi16(1);
    if constexpr (kStep < 8) {
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) dots[t] = Lanes::ZeroInt();
    }
#pragma GCC unroll 1
    for (int begin = 0; begin < 8; begin += kStep) {
      Lanes::I sums[kTokens];
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) sums[t] = Lanes::ZeroInt();
#pragma GCC unroll 1
      for (int quad = begin; quad < begin + kStep; ++quad) {
        const Lanes::I line = Lanes::LoadLine(w.quants[quad]);
#pragma GCC unroll 16
        for (int t = 0; t < kTokens; ++t) {
          const __m256i value = Broadcast4Avx2(x[t] + quad * 4);
          sums[t].lo = _mm256_add_epi16(sums[t].lo, _mm256_maddubs_epi16(line.lo, value));
          sums[t].hi = _mm256_add_epi16(sums[t].hi, _mm256_maddubs_epi16(line.hi, value));
          Settle(sums[t]);
        }
      }
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        const __m256i lo = _mm256_madd_epi16(sums[t].lo, ones);
        const __m256i hi = _mm256_madd_epi16(sums[t].hi, ones);
        dots[t].lo = kStep == 8 ? lo : _mm256_add_epi32(dots[t].lo, lo);
        dots[t].hi = kStep == 8 ? hi : _mm256_add_epi32(dots[t].hi, hi);
        Settle(dots[t]);
      }
    }
  }
};

template <typename GroupsType>
struct QuantDotAvx2 {
  using Lanes = LanesAvx2;
  using Groups = GroupsType;
  static constexpr int kBits = Groups::kBits;
  static constexpr bool kInt8 = true;
  // These tiles have no room for it: 13.5 to 11.8 GB/s (q4_1, 4 tokens).
  static constexpr bool kPrefetch = false;
  static LLMIR_INLINE int64_t PanelBytes(int64_t columns) {
    return Groups::PanelBytes(columns / kGroup);
  }

  static constexpr int kLow = LowBits(kBits);
  static constexpr int kHigh = kBits - kLow;
  static constexpr int kZero = Groups::kMinimum ? 0 : 1 << (kBits - 1);
  static constexpr bool kSumsFitInt16 = 16 * ((1 << kBits) - 1) * 127 <= 32767;

  // The field of quad `pair * 2` in the lowest bits of each byte, of quad `pair * 2 + 1` above it;
  // other fields further up.
  template <int kWidth>
  static LLMIR_INLINE Lanes::I PairOfFields(const std::byte* plane, int pair) {
    const Lanes::I line = Lanes::LoadLine(plane + pair * 2 * kWidth / 8 * kLine);
    if constexpr (kWidth == 4) return line;
    const __m128i count = _mm_cvtsi32_si128(pair * 2 * kWidth % 8);
    return {_mm256_srl_epi16(line.lo, count), _mm256_srl_epi16(line.hi, count)};
  }
  // Quads `pair * 2` and `pair * 2 + 1` from half of their fields' lines.
  static LLMIR_INLINE void Join(__m256i low, __m256i high, __m256i* first, __m256i* second) {
    const __m256i low_mask = _mm256_set1_epi8((1 << kLow) - 1);
    *first = _mm256_and_si256(low, low_mask);
    *second = _mm256_and_si256(_mm256_srli_epi16(low, kLow), low_mask);
    if constexpr (kHigh != 0) {
      const __m256i high_mask = _mm256_set1_epi8(((1 << kHigh) - 1) << kLow);
      *first = _mm256_or_si256(*first, _mm256_and_si256(_mm256_slli_epi16(high, kLow), high_mask));
      *second = _mm256_or_si256(*second,
                                _mm256_and_si256(_mm256_slli_epi16(high, kLow - kHigh), high_mask));
    }
  }
  static LLMIR_INLINE __m256i Add(__m256i dot, __m256i first, __m256i second, __m256i x_first,
                                  __m256i x_second) {
    if constexpr (kSumsFitInt16) {
      dot = _mm256_add_epi16(dot, _mm256_maddubs_epi16(first, x_first));
      return _mm256_add_epi16(dot, _mm256_maddubs_epi16(second, x_second));
    } else {
      const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(first, x_first),
                                             _mm256_maddubs_epi16(second, x_second));
      return _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
  }

  static LLMIR_INLINE void UnpackGroup(const std::byte* panel, int64_t group, UnpackedGroup* to) {
    const GroupPlace place = Groups::At(group);
    for (int pair = 0; pair < 4; ++pair) {
      const Lanes::I low = PairOfFields<kLow>(panel + place.quants, pair);
      Lanes::I high = {};
      if constexpr (kHigh != 0) {
        high = PairOfFields<kHigh>(panel + place.quants + kLow * kLine, pair);
      }
      Lanes::I first;
      Lanes::I second;
      Join(low.lo, high.lo, &first.lo, &second.lo);
      Join(low.hi, high.hi, &first.hi, &second.hi);
      Lanes::StoreLine(to->quants[2 * pair], first);
      Lanes::StoreLine(to->quants[2 * pair + 1], second);
    }
    Lanes::Store(to->scale, Lanes::LoadHalf(panel + place.scale));
    if constexpr (Groups::kMinimum) {
      Lanes::Store(to->minimum, Lanes::LoadHalf(panel + place.scale + kLine / 2));
    }
  }
  template <int kTokens>
  static LLMIR_INLINE void UnpackedDots(const UnpackedGroup& w,
                                        const std::byte* const (&x)[kTokens],
                                        Lanes::I (&dots)[kTokens]) {
    UnpackedDotAvx2<kBits>::Run(w, x, dots);
  }

  template <int kPanels, int kTokens>
  static LLMIR_INLINE void Group(const std::byte* const (&quants)[kPanels],
                                 const std::byte* const (&x)[kTokens],
                                 const int32_t (&x_sum)[kTokens],
                                 Lanes::I (&dots)[kPanels][kTokens]) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) dots[p][t] = Lanes::ZeroInt();
    }
    // Not unrolled: unrolled, GCC 12 keeps the sums of all lines alive at once and spills (q4_1
    // prefill 126 instead of 150 GOP/s).
#pragma GCC unroll 1
    for (int pair = 0; pair < 4; ++pair) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        FetchAhead(quants[p] + pair * kLine);
        const Lanes::I low = PairOfFields<kLow>(quants[p], pair);
        Lanes::I high = {};
        if constexpr (kHigh != 0) high = PairOfFields<kHigh>(quants[p] + kLow * kLine, pair);
        Lanes::I first;
        Lanes::I second;
        Join(low.lo, high.lo, &first.lo, &second.lo);
        Join(low.hi, high.hi, &first.hi, &second.hi);
#pragma GCC unroll 16
        for (int t = 0; t < kTokens; ++t) {
          const __m256i x_first = Broadcast4Avx2(x[t] + pair * 8);
          const __m256i x_second = Broadcast4Avx2(x[t] + pair * 8 + 4);
          Lanes::I& dot = dots[p][t];
          dot.lo = Add(dot.lo, first.lo, second.lo, x_first, x_second);
          dot.hi = Add(dot.hi, first.hi, second.hi, x_first, x_second);
        }
      }
    }
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      const __m256i zero = _mm256_set1_epi32(kZero * x_sum[t]);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        Lanes::I& dot = dots[p][t];
        if constexpr (kSumsFitInt16) {
          dot = {_mm256_madd_epi16(dot.lo, ones), _mm256_madd_epi16(dot.hi, ones)};
        }
        if constexpr (kZero != 0) {
          dot = {_mm256_sub_epi32(dot.lo, zero), _mm256_sub_epi32(dot.hi, zero)};
        }
      }
    }
  }
};

}  // namespace llmir::kernels
