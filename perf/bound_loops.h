// Loops that a core can't run faster: reading memory, fp32 multiply-add, dot products of bf16 and
// int8. One set per ISA family.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmir::perf {

struct BoundLoops {
  const char* family;
  // Reads `bytes` at `data` (64-byte aligned; bytes a multiple of 64 * streams) as `streams` equal
  // parts side by side: 1, 2, 4 or 8. Returns a value that depends on every byte.
  uint64_t (*read)(const void* data, size_t bytes, int streams);
  // Returns the floating-point operations (a multiply-add is two) that `iterations` took; `sink`
  // keeps the result alive.
  double (*multiply_add)(int64_t iterations, float* sink);
  // The same in bf16, products of pairs summed in fp32. Where the processor has none, that of fp32.
  double (*bf16_dot)(int64_t iterations, float* sink);
  // The same in int8 operations: products of 8-bit values summed in 32 bits.
  double (*int8_dot)(int64_t iterations, int32_t* sink);
};

namespace portable {
extern const BoundLoops kLoops;
}
namespace avx2 {
extern const BoundLoops kLoops;
}
namespace avx512 {
extern const BoundLoops kLoops;
}

}  // namespace llmir::perf
