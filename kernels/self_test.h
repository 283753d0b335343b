// Whether the kernels of a family compute, on this processor, what the portable ones do. A family
// is compiled on machines that can't run it; this is run where it can be, before it is used.
#pragma once

#include <span>

#include "kernels/attention.h"
#include "kernels/isa.h"
#include "kernels/linear.h"
#include "kernels/vector.h"

namespace llmir::kernels {

// The first kernel of `isa` whose results differ in a bit from the portable family's, as in
// "linear_q8_q4_1" or "append_attend"; null: none. Small inputs that don't fill panels, tiles and
// groups of lanes: about 65 ms, most of them the portable attention's. Any thread.
const char* FailedKernel(Isa isa);
// The same of these kernels.
const char* FailedKernel(std::span<const LinearKernel> linear, const VectorKernels& vector,
                         const AttentionKernels& attention);

}  // namespace llmir::kernels
