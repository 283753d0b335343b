// The AVX-512 family.
#include "kernels/cpu/linear/linear_bf16_dots.h"
#include "kernels/cpu/linear/linear_driver.h"
#include "kernels/cpu/linear/linear_kernels.h"
#include "kernels/cpu/linear/quant_dots_avx512.h"
#include "kernels/cpu/linear/rounded.h"

namespace llmir::kernels {
namespace {

using Lanes = LanesAvx512;

// One row of bf16, one thread, GB/s: Ice Lake 25 with 1 stream, 28 with 2, 29 with 4; Zen 5, whose
// memory gives 44, 34, 43, 42 with 3, 40 with 4. Four rows on Zen 5: 37 with 2, 35 with 3, 32 with
// 4.
using FloatShape = TileShape<2, 12, 2, 12>;

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
void linear_bf16_bf16__avx512(const LinearArgs& args) {
  if (HasBF16Dots()) return LinearBF16Dots(args);
  RunRounded<LinearDriver<Lanes, BF16PairsWeight<Lanes>, FloatShape>, RoundToFloats<Lanes>>(args);
}
void linear_q8_q8_0__avx512(const LinearArgs& args) {
  LinearDriver<Lanes, QuantDotAvx512<PairedGroups<8>>, QuantShapeAvx512>::Run(args);
}
void linear_q8_q4_0__avx512(const LinearArgs& args) {
  LinearDriver<Lanes, QuantDotAvx512<PairedGroups<4>>, QuantShapeAvx512>::Run(args);
}
void linear_q8_q4_1__avx512(const LinearArgs& args) {
  LinearDriver<Lanes, QuantDotAvx512<SingleGroups<4>>, QuantShapeAvx512>::Run(args);
}

}  // namespace llmir::kernels
