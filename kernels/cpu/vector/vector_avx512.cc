#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace llmir::kernels {
const VectorKernels kVectorAvx512 = VectorImpl<SimdAvx512>::Table(Isa::kAvx512);
}  // namespace llmir::kernels
