// Exact dots of a group in plain C++: the reference for the other families.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear/lanes_portable.h"
#include "kernels/cpu/linear/linear_driver.h"

namespace llmir::kernels {

using QuantShapePortable = TileShape<1, 1, 1, 4>;

// Of weights in groups laid out as GroupsType. 8 bits are signed.
template <typename GroupsType>
struct QuantDotPortable {
  using Lanes = LanesPortable;
  using Groups = GroupsType;
  static constexpr int kBits = Groups::kBits;
  static constexpr bool kInt8 = true;
  static constexpr bool kPrefetch = false;
  static int64_t PanelBytes(int64_t columns) { return Groups::PanelBytes(columns / kGroup); }

  // Column k of row r of a plane of `width` bits.
  static int Field(const std::byte* plane, int width, int r, int k) {
    const int bit = k / 4 * width;
    return std::to_integer<int>(plane[bit / 8 * kLine + r * 4 + k % 4]) >> bit % 8 &
           ((1 << width) - 1);
  }
  static int Quant(const std::byte* quants, int r, int k) {
    constexpr int kLow = LowBits(kBits);
    int quant = Field(quants, kLow, r, k);
    if constexpr (kBits == 8) return static_cast<int8_t>(quant);
    if constexpr (kBits > kLow) {
      quant |= Field(quants + kLow * kLine, kBits - kLow, r, k) << kLow;
    }
    return Groups::kMinimum ? quant : quant - (1 << (kBits - 1));
  }

  template <int kPanels, int kTokens>
  static void Group(const std::byte* const (&quants)[kPanels], const std::byte* const (&x)[kTokens],
                    const int32_t (&)[kTokens], Lanes::I (&dots)[kPanels][kTokens]) {
    for (int p = 0; p < kPanels; ++p) {
      for (int t = 0; t < kTokens; ++t) {
        for (int r = 0; r < kPanelRows; ++r) {
          int32_t sum = 0;
          for (int k = 0; k < kGroup; ++k) {
            sum += Quant(quants[p], r, k) * static_cast<int8_t>(x[t][k]);
          }
          dots[p][t].v[r] = sum;
        }
      }
    }
  }
};

}  // namespace llmir::kernels
