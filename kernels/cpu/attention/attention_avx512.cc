#include "kernels/cpu/attention/attention_kernels.h"
#include "kernels/cpu/simd_avx512.h"

namespace llmir::kernels {
const AttentionKernels kAttentionAvx512 = AttentionImpl<SimdAvx512>::Table(Isa::kAvx512);
}  // namespace llmir::kernels
