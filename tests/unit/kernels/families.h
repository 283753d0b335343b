// What the kernel tests share: the families that this machine can run, and random values that are
// the same everywhere.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/isa.h"

namespace llmir::kernels {

inline std::vector<Isa> AvailableFamilies() {
  std::vector<Isa> families;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (IsaAvailable(isa)) families.push_back(isa);
  }
  return families;
}

inline std::string FamilyName(const testing::TestParamInfo<Isa>& info) {
  return IsaName(info.param);
}

// `count` values of a normal distribution. mt19937 is specified to the bit; normal_distribution is
// the library's, and no test depends on its exact values.
inline std::vector<float> RandomFloats(int64_t count, uint32_t seed, float deviation = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution(0.0f, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = distribution(generator);
  return values;
}

}  // namespace llmir::kernels
