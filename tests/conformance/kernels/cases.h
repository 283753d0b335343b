// Cases of conformance: each is drawn from (suite, kernel, seed) alone, the same on every machine
// and for every family, so a failure names what repeats it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace llmir::kernels {

// At least this many in an unfiltered run, whatever families the machine has.
inline constexpr int64_t kLeastCases = 10000;
inline constexpr int64_t kLinearCases = 6000;
inline constexpr int64_t kAttentionCases = 1600;
inline constexpr int64_t kVectorCases = 3000;
static_assert(kLinearCases + kAttentionCases + kVectorCases >= kLeastCases);

struct Cases {
  std::optional<uint32_t> only;  // --seed: this case of each test alone
  int64_t every = 1;             // --one-in N: seeds 0, N, 2N, ... of each test
  int64_t run = 0;
};
inline Cases cases;

// Draws of a case. Specified to the bit, unlike the standard library's distributions.
class Draw {
 public:
  Draw(std::string_view suite, std::string_view kernel, uint32_t seed) {
    std::vector<uint32_t> words(suite.begin(), suite.end());
    words.insert(words.end(), kernel.begin(), kernel.end());
    words.push_back(seed);
    std::seed_seq sequence(words.begin(), words.end());
    random_.seed(sequence);
  }
  std::mt19937& random() { return random_; }
  // Of [low, high], both included.
  int64_t Uniform(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  bool OneIn(int64_t n) { return Uniform(1, n) == 1; }
  template <typename T>
  T Of(std::initializer_list<T> values) {
    return values.begin()[Uniform(0, static_cast<int64_t>(values.size()) - 1)];
  }
  float Float(float deviation) { return std::normal_distribution<float>(0.0f, deviation)(random_); }
  // Of [1, most]; every second one at, before or behind a multiple of 16.
  int64_t Ragged(int64_t most) {
    if (most < 32 || OneIn(2)) return Uniform(1, most);
    return std::clamp<int64_t>(Uniform(1, most / 16) * 16 + Uniform(-1, 1), 1, most);
  }
  // 0, subnormal and tiny unless `normal`, and large values of either sign; with `finite` false
  // also infinities and NaN.
  float Special(bool finite, float large, bool normal = false) {
    const float value = normal ? Of({0.0f, 1e-6f, 1.0f, large})
                               : Of({0.0f, 0x1p-149f, 0x1.8p-130f, 1e-30f, 1.0f, large});
    if (!finite && OneIn(2)) {
      constexpr float kInfinity = std::numeric_limits<float>::infinity();
      return Of({kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()});
    }
    return OneIn(2) ? -value : value;
  }

 private:
  std::mt19937 random_;
};

// Calls body(draw) for the first `count` seeds of the running test (or those of `cases`), until one
// fails.
template <typename Body>
void ForCases(std::string_view kernel, int64_t count, const Body& body) {
  const testing::TestInfo& test = *testing::UnitTest::GetInstance()->current_test_info();
  const std::string name = std::string(test.test_suite_name()) + "." + test.name();
  for (int64_t i = 0; i < count; i += cases.every) {
    const auto seed = cases.only.value_or(static_cast<uint32_t>(i));
    SCOPED_TRACE("repeat it: kernel_conformance --gtest_filter=" + name + " --seed " +
                 std::to_string(seed));
    Draw draw(test.test_suite_name(), kernel, seed);
    body(draw);
    ++cases.run;
    if (testing::Test::HasFailure() || cases.only) return;
  }
}

// Rows of floats at any alignment and distance, with guards before, between and behind them. The
// allocation ends soon after the last row: what lies beyond is AddressSanitizer's.
class GuardedRows {
 public:
  GuardedRows(int64_t rows, int64_t width, Draw& draw)
      : rows_(rows),
        width_(width),
        first_(draw.Uniform(0, 17)),
        stride_(std::max<int64_t>(width, 1) + (draw.OneIn(3) ? 0 : draw.Uniform(1, 19))),
        values_(static_cast<size_t>(first_ + (rows > 0 ? (rows - 1) * stride_ + width : 0) +
                                    draw.Uniform(0, 1)),
                kGuard) {}
  float* Row(int64_t r) { return values_.data() + first_ + r * stride_; }
  const float* Row(int64_t r) const { return values_.data() + first_ + r * stride_; }
  int64_t stride() const { return stride_; }
  int64_t rows() const { return rows_; }
  int64_t width() const { return width_; }
  void Fill(Draw& draw, float deviation) {
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < width_; ++c) Row(r)[c] = draw.Float(deviation);
    }
  }
  bool GuardsStand() const {
    for (int64_t i = 0; i < static_cast<int64_t>(values_.size()); ++i) {
      const int64_t at = i - first_;
      if (at >= 0 && at / stride_ < rows_ && at % stride_ < width_) continue;
      if (values_[static_cast<size_t>(i)] != kGuard) return false;
    }
    return true;
  }

 private:
  static constexpr float kGuard = -12345.0f;
  int64_t rows_;
  int64_t width_;
  int64_t first_;
  int64_t stride_;
  std::vector<float> values_;
};

// The bits, all NaNs taken as one.
inline uint32_t BitsOf(float value) {
  return std::isnan(value) ? 0x7fc00000u : std::bit_cast<uint32_t>(value);
}
inline bool SameBits(const GuardedRows& a, const GuardedRows& b) {
  for (int64_t r = 0; r < a.rows(); ++r) {
    for (int64_t c = 0; c < a.width(); ++c) {
      if (BitsOf(a.Row(r)[c]) != BitsOf(b.Row(r)[c])) return false;
    }
  }
  return true;
}

inline constexpr double kRounding = 0x1p-24;  // of one operation in float, relative

// Whether `value` is `exact` within `error`: NaN where that is NaN and only there, infinity
// likewise but for results that float can't hold.
inline bool Within(float value, double exact, double error) {
  if (std::isnan(exact)) return std::isnan(value);
  if (std::isinf(exact)) return static_cast<double>(value) == exact;
  if (std::fabs(exact) + error > 0x1.fffffep+127 && std::isinf(value))
    return std::signbit(value) == std::signbit(exact);
  return std::fabs(value - exact) <= error;
}

}  // namespace llmir::kernels
