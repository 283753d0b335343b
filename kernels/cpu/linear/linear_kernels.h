// The run functions of linear_list.inc, "linear_<activation>_<weight>__<family>".
#pragma once

#include "kernels/linear.h"

namespace llmir::kernels {

#define LLMIR_LINEAR(activation, weight, family, isa, encoding, int8, layout) \
  void linear_##activation##_##weight##__##family(const LinearArgs& args);
#include "kernels/cpu/linear/linear_list.inc"
#undef LLMIR_LINEAR

}  // namespace llmir::kernels
