// Rotary position frequencies and their scalings, for the readers of this folder and of
// shapes.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace llmir::checkpoint {

// The scaling that Llama 3.1 introduced: long wavelengths are divided by `factor`, short ones are
// kept, those between are blended.
struct Llama3Scaling {
  double factor;
  double low_frequency_factor;
  double high_frequency_factor;
  double original_context;
};

struct RopeScaling {
  double linear_factor = 1;  // every frequency is divided by it
  std::optional<Llama3Scaling> llama3;
};

// base^(-2i / rope_dim) for i in [0, rope_dim / 2), scaled: radians per position. Computed in
// double, rounded once.
std::vector<float> RopeFrequencies(int64_t rope_dim, double base, const RopeScaling& scaling);

}  // namespace llmir::checkpoint
