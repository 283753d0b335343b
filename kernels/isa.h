// Which instructions the kernels may use. One family is picked at load for the whole process;
// kernel, packer and tile follow from it together.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace llmir::kernels {

enum class Isa : uint8_t {
  kPortable = 0,  // plain C++; what all others are tested against
  kAvx2 = 1,      // AVX2, FMA, F16C
  kAvx512 = 2,    // AVX-512 F, BW, VL, DQ and VNNI
};

// The best family of this processor (CPUID and the operating system's saved state, both).
Isa DetectIsa();
bool IsaAvailable(Isa isa);
// Whether the processor also has AVX-512's dots of bf16 pairs.
bool HasBF16Dots();
const char* IsaName(Isa isa);  // "portable", "avx2", "avx512"
std::optional<Isa> ParseIsa(std::string_view name);

}  // namespace llmir::kernels
