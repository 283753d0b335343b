// The AVX-512 family. VNNI's dpbusd adds four products of unsigned and signed bytes to each lane:
// unsigned are the weights, and what that shifts them by is taken out again exactly with the sum of
// the activations, where the sum starts.
#include "kernels/cpu/linear/lanes_avx512.h"
#include "kernels/cpu/linear/linear_driver.h"
#include "kernels/cpu/linear/linear_kernels.h"

namespace llmir::kernels {
namespace {

using Lanes = LanesAvx512;

LLMIR_INLINE __m512i Broadcast4(const std::byte* x) {
  return _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x));
}

template <typename GroupsType, int kZero, bool kMinimumValue>
struct Dot {
  using Groups = GroupsType;
  static constexpr bool kInt8 = true;
  static constexpr bool kMinimum = kMinimumValue;
  static constexpr bool kPrefetch = true;
  static LLMIR_INLINE int64_t PanelBytes(int64_t columns) {
    return Groups::PanelBytes(columns / kGroup);
  }

  template <int kPanels, int kTokens>
  static LLMIR_INLINE void Start(const int32_t (&x_sum)[kTokens],
                                 __m512i (&dots)[kPanels][kTokens]) {
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      const __m512i start =
          kZero == 0 ? _mm512_setzero_si512() : _mm512_set1_epi32(-kZero * x_sum[t]);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) dots[p][t] = start;
    }
  }
};

struct Q8_0 : Dot<Q8Groups, 128, false> {
  template <int kPanels, int kTokens>
  static LLMIR_INLINE void Group(const std::byte* const (&quants)[kPanels],
                                 const std::byte* const (&x)[kTokens],
                                 const int32_t (&x_sum)[kTokens],
                                 __m512i (&dots)[kPanels][kTokens]) {
    Start(x_sum, dots);
#pragma GCC unroll 8
    for (int line = 0; line < 8; ++line) {
      __m512i w[kPanels];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) w[p] = Lanes::LoadLine(quants[p] + line * kLine);
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        const __m512i value = Broadcast4(x[t] + line * 4);
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) dots[p][t] = _mm512_dpbusd_epi32(dots[p][t], w[p], value);
      }
    }
  }
};

template <typename GroupsType, int kZero, bool kMinimumValue>
struct Q4 : Dot<GroupsType, kZero, kMinimumValue> {
  template <int kPanels, int kTokens>
  static LLMIR_INLINE void Group(const std::byte* const (&quants)[kPanels],
                                 const std::byte* const (&x)[kTokens],
                                 const int32_t (&x_sum)[kTokens],
                                 __m512i (&dots)[kPanels][kTokens]) {
    const __m512i mask = _mm512_set1_epi8(15);
    Dot<GroupsType, kZero, kMinimumValue>::Start(x_sum, dots);
#pragma GCC unroll 4
    for (int line = 0; line < 4; ++line) {
      __m512i w[kPanels];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        w[p] = _mm512_and_si512(Lanes::LoadLine(quants[p] + line * kLine), mask);
      }
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        const __m512i value = Broadcast4(x[t] + line * 8);
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) dots[p][t] = _mm512_dpbusd_epi32(dots[p][t], w[p], value);
      }
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        w[p] =
            _mm512_and_si512(_mm512_srli_epi16(Lanes::LoadLine(quants[p] + line * kLine), 4), mask);
      }
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        const __m512i value = Broadcast4(x[t] + line * 8 + 4);
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) dots[p][t] = _mm512_dpbusd_epi32(dots[p][t], w[p], value);
      }
    }
  }
};

using Q4_0 = Q4<Q4_0Groups, 8, false>;
using Q4_1 = Q4<Q4_1Groups, 0, true>;

// Decode of one row reads 27 GB/s of q4_1 with 2 streams, 25 with 4, 27 with 1; of bf16 29, 28, 25.
using FloatShape = TileShape<4, 6, 2, 12>;
using QuantShape = TileShape<2, 6, 2, 6>;

}  // namespace

void linear_f32_f32__avx512(const LinearArgs& args) {
  LinearDriver<Lanes, F32Weight<Lanes>, FloatShape>::Run(args);
}
void linear_f32_f16__avx512(const LinearArgs& args) {
  LinearDriver<Lanes, F16Weight<Lanes>, FloatShape>::Run(args);
}
void linear_f32_bf16__avx512(const LinearArgs& args) {
  LinearDriver<Lanes, BF16Weight<Lanes>, FloatShape>::Run(args);
}
void linear_q8_q8_0__avx512(const LinearArgs& args) {
  LinearDriver<Lanes, Q8_0, QuantShape>::Run(args);
}
void linear_q8_q4_0__avx512(const LinearArgs& args) {
  LinearDriver<Lanes, Q4_0, QuantShape>::Run(args);
}
void linear_q8_q4_1__avx512(const LinearArgs& args) {
  LinearDriver<Lanes, Q4_1, QuantShape>::Run(args);
}

}  // namespace llmir::kernels
