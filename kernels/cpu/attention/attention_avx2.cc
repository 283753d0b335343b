#include "kernels/cpu/attention/attention_kernels.h"
#include "kernels/cpu/simd_avx2.h"

namespace llmir::kernels {
const AttentionKernels kAttentionAvx2 = AttentionImpl<SimdAvx2>::Table(Isa::kAvx2);
}  // namespace llmir::kernels
