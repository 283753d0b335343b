#include "plan_schema/checkpoint/rope.h"

#include <cmath>
#include <numbers>

namespace llmir::checkpoint {
namespace {

double ScaleLlama3(double frequency, const Llama3Scaling& scaling) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double turns = scaling.original_context / wavelength;  // over the context of pre-training
  if (turns < scaling.low_frequency_factor) return frequency / scaling.factor;
  if (turns > scaling.high_frequency_factor) return frequency;
  const double kept = (turns - scaling.low_frequency_factor) /
                      (scaling.high_frequency_factor - scaling.low_frequency_factor);
  return (1 - kept) * frequency / scaling.factor + kept * frequency;
}

}  // namespace

std::vector<float> RopeFrequencies(int64_t rope_dim, double base, const RopeScaling& scaling) {
  std::vector<float> frequencies(static_cast<size_t>(rope_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double frequency =
        std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(rope_dim)) /
        scaling.linear_factor;
    if (scaling.llama3) frequency = ScaleLlama3(frequency, *scaling.llama3);
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

}  // namespace llmir::checkpoint
