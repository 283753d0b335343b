#include "kernels/cpu/attention/attention_kernels.h"
#include "kernels/cpu/simd_portable.h"

namespace llmir::kernels {
const AttentionKernels kAttentionPortable = AttentionImpl<SimdPortable>::Table(Isa::kPortable);
}  // namespace llmir::kernels
