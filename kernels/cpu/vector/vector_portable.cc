#include "kernels/cpu/simd_portable.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace llmir::kernels {
const VectorKernels kVectorPortable = VectorImpl<SimdPortable>::Table(Isa::kPortable);
}  // namespace llmir::kernels
