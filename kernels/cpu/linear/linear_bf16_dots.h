// linear_bf16_bf16 by AVX-512's dots of pairs, where the processor has them (HasBF16Dots).
#pragma once

#include "kernels/linear.h"

namespace llmir::kernels {

void LinearBF16Dots(const LinearArgs& args);

}  // namespace llmir::kernels
