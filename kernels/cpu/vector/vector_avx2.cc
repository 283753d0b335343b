#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace llmir::kernels {
const VectorKernels kVectorAvx2 = VectorImpl<SimdAvx2>::Table(Isa::kAvx2);
}  // namespace llmir::kernels
