// The portable family: the reference for the others.
#include "kernels/cpu/linear/lanes_portable.h"
#include "kernels/cpu/linear/linear_driver.h"
#include "kernels/cpu/linear/linear_kernels.h"

namespace llmir::kernels {
namespace {

using Lanes = LanesPortable;
using Shape = TileShape<1, 1, 1, 4>;

// Quant `k` of row `r` of a group, as the layouts place it.
struct Q8 {
  static int At(const std::byte* quants, int r, int k) {
    return static_cast<int8_t>(quants[k / 4 * kLine + r * 4 + k % 4]);
  }
};
template <int kZero>
struct Q4 {
  static int At(const std::byte* quants, int r, int k) {
    const int pair = std::to_integer<int>(quants[k / 8 * kLine + r * 4 + k % 4]);
    return (k % 8 < 4 ? pair & 15 : pair >> 4) - kZero;
  }
};

template <typename Quants, typename GroupsType, bool kMinimumValue>
struct Dot {
  using Groups = GroupsType;
  static constexpr bool kInt8 = true;
  static constexpr bool kMinimum = kMinimumValue;
  static constexpr bool kPrefetch = false;
  static int64_t PanelBytes(int64_t columns) { return Groups::PanelBytes(columns / kGroup); }
  template <int kPanels, int kTokens>
  static void Group(const std::byte* const (&quants)[kPanels], const std::byte* const (&x)[kTokens],
                    const int32_t (&)[kTokens], Lanes::I (&dots)[kPanels][kTokens]) {
    for (int p = 0; p < kPanels; ++p) {
      for (int t = 0; t < kTokens; ++t) {
        for (int r = 0; r < kPanelRows; ++r) {
          int32_t sum = 0;
          for (int k = 0; k < kGroup; ++k) {
            sum += Quants::At(quants[p], r, k) * static_cast<int8_t>(x[t][k]);
          }
          dots[p][t].v[r] = sum;
        }
      }
    }
  }
};

using Q8_0 = Dot<Q8, Q8Groups, false>;
using Q4_0 = Dot<Q4<8>, Q4_0Groups, false>;
using Q4_1 = Dot<Q4<0>, Q4_1Groups, true>;

}  // namespace

void linear_f32_f32__portable(const LinearArgs& args) {
  LinearDriver<Lanes, F32Weight<Lanes>, Shape>::Run(args);
}
void linear_f32_f16__portable(const LinearArgs& args) {
  LinearDriver<Lanes, F16Weight<Lanes>, Shape>::Run(args);
}
void linear_f32_bf16__portable(const LinearArgs& args) {
  LinearDriver<Lanes, BF16Weight<Lanes>, Shape>::Run(args);
}
void linear_q8_q8_0__portable(const LinearArgs& args) {
  LinearDriver<Lanes, Q8_0, Shape>::Run(args);
}
void linear_q8_q4_0__portable(const LinearArgs& args) {
  LinearDriver<Lanes, Q4_0, Shape>::Run(args);
}
void linear_q8_q4_1__portable(const LinearArgs& args) {
  LinearDriver<Lanes, Q4_1, Shape>::Run(args);
}

}  // namespace llmir::kernels
