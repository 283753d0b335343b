// Exact dots of a group by AVX-512 with VNNI. Only for files compiled with the AVX512 flags.
//
// VNNI's dpbusd adds four products of unsigned and signed bytes to each lane: unsigned are the
// weights, and what that shifts them by is taken out again exactly with the sum of the activations,
// where the sum starts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear/lanes_avx512.h"
#include "kernels/cpu/linear/linear_driver.h"

namespace llmir::kernels {

// Decode of one row reads 27 GB/s of q4_1 with 2 streams, 25 with 4, 27 with 1. 8 tokens of
// SmolLM2's matrices on Zen 5, two threads: q8_0 3.0 ms in one pass of one panel, 3.6 in two of
// two, q4_0 2.2 and 2.4, q6_0 2.5 and 2.8; 12 tokens of q4_0 3.3 and 3.1. Of many tokens a group's
// 96 dots, 12 products of scales and 12 sums share two ports: 80 % of the peak of int8 at most. The
// loop takes 68 cycles for those 60; a leaf of 64 columns costs another 15 %. 3 panels x 4 tokens
// and 4 x 3, which load less, are not faster.
using QuantShapeAvx512 = TileShape<2, 6, 2, 6, 0, 1, 10>;

template <typename GroupsType>
struct QuantDotAvx512 {
  using Lanes = LanesAvx512;
  using Groups = GroupsType;
  static constexpr int kBits = Groups::kBits;
  static constexpr bool kInt8 = true;
  static constexpr bool kPrefetch = true;
  static LLMIR_INLINE int64_t PanelBytes(int64_t columns) {
    return Groups::PanelBytes(columns / kGroup);
  }

  static constexpr int kLow = LowBits(kBits);
  static constexpr int kHigh = kBits - kLow;
  static constexpr int kZero = Groups::kMinimum ? 0 : 1 << (kBits - 1);

  template <int kPanels, int kTokens>
  static LLMIR_INLINE void Group(const std::byte* const (&quants)[kPanels],
                                 const std::byte* const (&x)[kTokens],
                                 const int32_t (&x_sum)[kTokens],
                                 __m512i (&dots)[kPanels][kTokens]) {
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      const __m512i start =
          kZero == 0 ? _mm512_setzero_si512() : _mm512_set1_epi32(-kZero * x_sum[t]);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) dots[p][t] = start;
    }
    AddQuads<0>(quants, x, dots);
  }

 private:
  static LLMIR_INLINE __m512i Broadcast4(const std::byte* x) {
    return _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x));
  }

  // Bytes shifted as words: what crosses a byte's border is masked away afterwards.
  template <int kLeft>
  static LLMIR_INLINE __m512i Shift(__m512i line) {
    if constexpr (kLeft > 0) return _mm512_slli_epi16(line, kLeft);
    if constexpr (kLeft < 0) return _mm512_srli_epi16(line, -kLeft);
    return line;
  }
  template <int kQuad>
  static LLMIR_INLINE __m512i Quad(const std::byte* quants) {
    const __m512i line = Lanes::LoadLine(quants + kQuad * kLow / 8 * kLine);
    if constexpr (kLow == 8) return line;
    const __m512i low =
        _mm512_and_si512(Shift<-(kQuad * kLow % 8)>(line), _mm512_set1_epi8((1 << (kLow % 8)) - 1));
    if constexpr (kHigh == 0) return low;
    const __m512i high = Lanes::LoadLine(quants + (kLow + kQuad * kHigh / 8) * kLine);
    constexpr int kOrOfAnd = 0xf8;  // a | (b & c)
    return _mm512_ternarylogic_epi32(low, Shift<kLow - kQuad * kHigh % 8>(high),
                                     _mm512_set1_epi8(((1 << kHigh) - 1) << (kLow % 8)), kOrOfAnd);
  }

  // By recursion, not a loop: shifts need constants.
  template <int kQuad, int kPanels, int kTokens>
  static LLMIR_INLINE void AddQuads(const std::byte* const (&quants)[kPanels],
                                    const std::byte* const (&x)[kTokens],
                                    __m512i (&dots)[kPanels][kTokens]) {
    __m512i w[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) w[p] = Quad<kQuad>(quants[p]);
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      const __m512i value = Broadcast4(x[t] + kQuad * 4);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) dots[p][t] = _mm512_dpbusd_epi32(dots[p][t], w[p], value);
    }
    if constexpr (kQuad + 1 < 8) AddQuads<kQuad + 1>(quants, x, dots);
  }
};

}  // namespace llmir::kernels
