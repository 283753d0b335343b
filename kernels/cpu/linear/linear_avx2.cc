// The AVX2 family. maddubs multiplies unsigned by signed bytes and adds pairs into int16, which
// must not saturate.
#include "kernels/cpu/linear/linear_driver.h"
#include "kernels/cpu/linear/linear_kernels.h"
#include "kernels/cpu/linear/quant_dots_avx2.h"
#include "kernels/cpu/linear/rounded.h"

namespace llmir::kernels {
namespace {

using Lanes = LanesAvx2;

// |w| is at most 128 and |x| at most 127, so a pair is at most 2 * 128 * 127 = 32512. The sign goes
// to the activation: -x always exists, while -w doesn't for -128.
struct Q8_0 {
  using Groups = PairedGroups<8>;
  static constexpr bool kInt8 = true;
  static constexpr bool kPrefetch = false;
  static LLMIR_INLINE int64_t PanelBytes(int64_t columns) {
    return Groups::PanelBytes(columns / kGroup);
  }

  static LLMIR_INLINE __m256i Add(__m256i dot, __m256i w, __m256i w_abs, __m256i x) {
    const __m256i pairs = _mm256_maddubs_epi16(w_abs, _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static constexpr int kZero = 0;
  static LLMIR_INLINE void UnpackGroup(const std::byte* panel, int64_t group, UnpackedGroup* to) {
    const GroupPlace place = Groups::At(group);
    for (int line = 0; line < 8; ++line) {
      Lanes::StoreLine(to->quants[line], Lanes::LoadLine(panel + place.quants + line * kLine));
    }
    Lanes::Store(to->scale, Lanes::LoadHalf(panel + place.scale));
  }
  template <int kTokens>
  static LLMIR_INLINE void UnpackedDots(const UnpackedGroup& w,
                                        const std::byte* const (&x)[kTokens],
                                        Lanes::I (&dots)[kTokens]) {
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) dots[t] = Lanes::ZeroInt();
#pragma GCC unroll 1
    for (int line = 0; line < 8; ++line) {
      const Lanes::I weights = Lanes::LoadLine(w.quants[line]);
      const __m256i lo_abs = _mm256_abs_epi8(weights.lo);
      const __m256i hi_abs = _mm256_abs_epi8(weights.hi);
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        const __m256i value = Broadcast4Avx2(x[t] + line * 4);
        dots[t].lo = Add(dots[t].lo, weights.lo, lo_abs, value);
        dots[t].hi = Add(dots[t].hi, weights.hi, hi_abs, value);
        Settle(dots[t]);
      }
    }
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
    // Not unrolled, as in QuantDotAvx2: unrolled, GCC 12 keeps the sums of all lines alive at once
    // and spills (q4_1 prefill 126 instead of 150 GOP/s).
#pragma GCC unroll 1
    for (int line = 0; line < 8; ++line) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        const Lanes::I w = Lanes::LoadLine(quants[p] + line * kLine);
        const __m256i lo_abs = _mm256_abs_epi8(w.lo);
        const __m256i hi_abs = _mm256_abs_epi8(w.hi);
#pragma GCC unroll 16
        for (int t = 0; t < kTokens; ++t) {
          const __m256i value = Broadcast4Avx2(x[t] + line * 4);
          dots[p][t].lo = Add(dots[p][t].lo, w.lo, lo_abs, value);
          dots[p][t].hi = Add(dots[p][t].hi, w.hi, hi_abs, value);
        }
      }
    }
  }
};

// One row: 4 streams, which a machine with AVX2 alone needs for its full bandwidth (26 GB/s against
// 18-22 for one).
using FloatShape = TileShape<4, 1, 1, 6, 6>;

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
void linear_bf16_bf16__avx2(const LinearArgs& args) {
  RunRounded<LinearDriver<Lanes, BF16PairsWeight<Lanes>, FloatShape>, RoundToFloats<Lanes>>(args);
}
void linear_q8_q8_0__avx2(const LinearArgs& args) {
  LinearDriver<Lanes, Q8_0, QuantShapeAvx2<8>>::Run(args);
}
void linear_q8_q4_0__avx2(const LinearArgs& args) {
  LinearDriver<Lanes, QuantDotAvx2<PairedGroups<4>>, QuantShapeAvx2<4>>::Run(args);
}
void linear_q8_q4_1__avx2(const LinearArgs& args) {
  LinearDriver<Lanes, QuantDotAvx2<SingleGroups<4>>, QuantShapeAvx2<4>>::Run(args);
}

}  // namespace llmir::kernels
