// The AVX2 family. maddubs multiplies unsigned by signed bytes and adds pairs into int16, which
// must not saturate.
#include "kernels/cpu/linear/lanes_avx2.h"
#include "kernels/cpu/linear/linear_driver.h"
#include "kernels/cpu/linear/linear_kernels.h"

namespace llmir::kernels {
namespace {

using Lanes = LanesAvx2;

LLMIR_INLINE __m256i Broadcast4(const std::byte* x) {
  return _mm256_set1_epi32(*reinterpret_cast<const int32_t*>(x));
}

template <typename GroupsType, bool kMinimumValue>
struct Dot {
  using Groups = GroupsType;
  static constexpr bool kInt8 = true;
  static constexpr bool kMinimum = kMinimumValue;
  // These tiles have no room for it: 13.5 to 11.8 GB/s (q4_1, 4 tokens).
  static constexpr bool kPrefetch = false;
  static LLMIR_INLINE int64_t PanelBytes(int64_t columns) {
    return Groups::PanelBytes(columns / kGroup);
  }
};

// |w| is at most 128 and |x| at most 127, so a pair is at most 2 * 128 * 127 = 32512. The sign goes
// to the activation: -x always exists, while -w doesn't for -128.
struct Q8_0 : Dot<Q8Groups, false> {
  static LLMIR_INLINE __m256i Add(__m256i dot, __m256i w, __m256i w_abs, __m256i x) {
    const __m256i pairs = _mm256_maddubs_epi16(w_abs, _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  template <int kPanels, int kTokens>
  static LLMIR_INLINE void Group(const std::byte* const (&quants)[kPanels],
                                 const std::byte* const (&x)[kTokens], const int32_t (&)[kTokens],
                                 Lanes::I (&dots)[kPanels][kTokens]) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) dots[p][t] = Lanes::ZeroInt();
    }
    // Not unrolled, here and in Q4: unrolled, GCC 12 keeps the sums of all lines alive at once and
    // spills (q4_1 prefill 126 instead of 150 GOP/s).
#pragma GCC unroll 1
    for (int line = 0; line < 8; ++line) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        const Lanes::I w = Lanes::LoadLine(quants[p] + line * kLine);
        const __m256i lo_abs = _mm256_abs_epi8(w.lo);
        const __m256i hi_abs = _mm256_abs_epi8(w.hi);
#pragma GCC unroll 16
        for (int t = 0; t < kTokens; ++t) {
          const __m256i value = Broadcast4(x[t] + line * 4);
          dots[p][t].lo = Add(dots[p][t].lo, w.lo, lo_abs, value);
          dots[p][t].hi = Add(dots[p][t].hi, w.hi, hi_abs, value);
        }
      }
    }
  }
};

// The sums of a whole group fit int16: 16 products of at most 15 * 127 per lane pair make 30480.
template <typename GroupsType, int kZero, bool kMinimumValue>
struct Q4 : Dot<GroupsType, kMinimumValue> {
  template <int kPanels, int kTokens>
  static LLMIR_INLINE void Group(const std::byte* const (&quants)[kPanels],
                                 const std::byte* const (&x)[kTokens],
                                 const int32_t (&x_sum)[kTokens],
                                 Lanes::I (&dots)[kPanels][kTokens]) {
    const __m256i mask = _mm256_set1_epi8(15);
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) dots[p][t] = Lanes::ZeroInt();
    }
#pragma GCC unroll 1
    for (int line = 0; line < 4; ++line) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        const Lanes::I w = Lanes::LoadLine(quants[p] + line * kLine);
        const Lanes::I low = {_mm256_and_si256(w.lo, mask), _mm256_and_si256(w.hi, mask)};
        const Lanes::I high = {_mm256_and_si256(_mm256_srli_epi16(w.lo, 4), mask),
                               _mm256_and_si256(_mm256_srli_epi16(w.hi, 4), mask)};
#pragma GCC unroll 16
        for (int t = 0; t < kTokens; ++t) {
          Lanes::I& dot = dots[p][t];
          const __m256i first = Broadcast4(x[t] + line * 8);
          dot.lo = _mm256_add_epi16(dot.lo, _mm256_maddubs_epi16(low.lo, first));
          dot.hi = _mm256_add_epi16(dot.hi, _mm256_maddubs_epi16(low.hi, first));
          const __m256i second = Broadcast4(x[t] + line * 8 + 4);
          dot.lo = _mm256_add_epi16(dot.lo, _mm256_maddubs_epi16(high.lo, second));
          dot.hi = _mm256_add_epi16(dot.hi, _mm256_maddubs_epi16(high.hi, second));
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
        dot = {_mm256_madd_epi16(dot.lo, ones), _mm256_madd_epi16(dot.hi, ones)};
        if constexpr (kZero != 0) {
          dot = {_mm256_sub_epi32(dot.lo, zero), _mm256_sub_epi32(dot.hi, zero)};
        }
      }
    }
  }
};

using Q4_0 = Q4<Q4_0Groups, 8, false>;
using Q4_1 = Q4<Q4_1Groups, 0, true>;

// One row: 4 streams, which a machine with AVX2 alone needs for its full bandwidth (26 GB/s against
// 18-22 for one).
using FloatShape = TileShape<4, 1, 1, 6>;
using QuantShape = TileShape<4, 1, 1, 4>;

}  // namespace

void linear_f32_f32__avx2(const LinearArgs& args) {
  LinearDriver<Lanes, F32Weight<Lanes>, FloatShape>::Run(args);
}
void linear_f32_f16__avx2(const LinearArgs& args) {
  LinearDriver<Lanes, F16Weight<Lanes>, FloatShape>::Run(args);
}
void linear_f32_bf16__avx2(const LinearArgs& args) {
  LinearDriver<Lanes, BF16Weight<Lanes>, FloatShape>::Run(args);
}
void linear_q8_q8_0__avx2(const LinearArgs& args) {
  LinearDriver<Lanes, Q8_0, QuantShape>::Run(args);
}
void linear_q8_q4_0__avx2(const LinearArgs& args) {
  LinearDriver<Lanes, Q4_0, QuantShape>::Run(args);
}
void linear_q8_q4_1__avx2(const LinearArgs& args) {
  LinearDriver<Lanes, Q4_1, QuantShape>::Run(args);
}

}  // namespace llmir::kernels
