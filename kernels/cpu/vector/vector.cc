#include "kernels/vector.h"

#include "kernels/cpu/vector/vector_kernels.h"

namespace llmir::kernels {

const VectorKernels& FindVector(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kVectorAvx512;
    case Isa::kAvx2:
      return kVectorAvx2;
    case Isa::kPortable:
      break;
  }
  return kVectorPortable;
}

}  // namespace llmir::kernels
