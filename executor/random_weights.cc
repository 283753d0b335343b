#include "executor/random_weights.h"

#include <cmath>

#include "plan_schema/base/hash.h"

namespace llmir::executor {
namespace {

// SplitMix64's finalizer (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
constexpr uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}
constexpr uint64_t kStep = 0x9e3779b97f4a7c15;  // 2^64 over the golden ratio, odd

}  // namespace

void RandomRow(uint64_t seed, const plan::Tensor& tensor, uint64_t row, plan::Extent columns,
               float* out) {
  const uint64_t key = Mix(Mix(Hash64(tensor.name()->string_view()) + seed * kStep) + row * kStep);
  const bool vector = tensor.rows() == 1;
  const float middle = vector ? 1.0f : 0.0f;
  // A uniform number in [-a, a) has variance a^2 / 3.
  const float reach =
      vector ? 0.1f : static_cast<float>(std::sqrt(3.0 / static_cast<double>(tensor.columns())));
  for (uint64_t column = columns.begin; column < columns.end; ++column) {
    const auto bits = static_cast<int32_t>(Mix(key + (column + 1) * kStep) >> 40);
    const float unit = static_cast<float>(bits - (1 << 23)) * 0x1p-23f;  // exact, [-1, 1)
    *out++ = middle + reach * unit;
  }
}

}  // namespace llmir::executor
