// Weights of 3, 5 and 6 bits, and those with a scale per 64 columns: the avx2 family. A file of its
// own so that the families compile side by side.
#include "kernels/cpu/linear/linear_driver.h"
#include "kernels/cpu/linear/linear_kernels.h"
#include "kernels/cpu/linear/quant_dots_avx2.h"

namespace llmir::kernels {
namespace {

template <typename Groups>
using Driver = LinearDriver<LanesAvx2, QuantDotAvx2<Groups>, QuantShapeAvx2<Groups::kBits>>;

}  // namespace

void linear_q8_q3_0__avx2(const LinearArgs& args) { Driver<PairedGroups<3>>::Run(args); }
void linear_q8_q3_1__avx2(const LinearArgs& args) { Driver<SingleGroups<3>>::Run(args); }
void linear_q8_q5_0__avx2(const LinearArgs& args) { Driver<PairedGroups<5>>::Run(args); }
void linear_q8_q5_1__avx2(const LinearArgs& args) { Driver<SingleGroups<5>>::Run(args); }
void linear_q8_q6_0__avx2(const LinearArgs& args) { Driver<PairedGroups<6>>::Run(args); }
void linear_q8_q6_1__avx2(const LinearArgs& args) { Driver<SingleGroups<6>>::Run(args); }
void linear_q8_q3_1_64__avx2(const LinearArgs& args) { Driver<JointGroups<3>>::Run(args); }
void linear_q8_q4_1_64__avx2(const LinearArgs& args) { Driver<JointGroups<4>>::Run(args); }
void linear_q8_q5_1_64__avx2(const LinearArgs& args) { Driver<JointGroups<5>>::Run(args); }
void linear_q8_q6_1_64__avx2(const LinearArgs& args) { Driver<JointGroups<6>>::Run(args); }

}  // namespace llmir::kernels
