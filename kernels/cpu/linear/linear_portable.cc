// The portable family: the reference for the others.
#include "kernels/cpu/linear/linear_driver.h"
#include "kernels/cpu/linear/linear_kernels.h"
#include "kernels/cpu/linear/quant_dots_portable.h"
#include "kernels/cpu/linear/rounded.h"

namespace llmir::kernels {
namespace {

using Lanes = LanesPortable;
using Shape = QuantShapePortable;

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
void linear_bf16_bf16__portable(const LinearArgs& args) {
  RunRounded<LinearDriver<Lanes, BF16PairsWeight<Lanes>, Shape>, RoundToFloats<Lanes>>(args);
}
void linear_q8_q8_0__portable(const LinearArgs& args) {
  LinearDriver<Lanes, QuantDotPortable<PairedGroups<8>>, Shape>::Run(args);
}
void linear_q8_q4_0__portable(const LinearArgs& args) {
  LinearDriver<Lanes, QuantDotPortable<PairedGroups<4>>, Shape>::Run(args);
}
void linear_q8_q4_1__portable(const LinearArgs& args) {
  LinearDriver<Lanes, QuantDotPortable<SingleGroups<4>>, Shape>::Run(args);
}

}  // namespace llmir::kernels
