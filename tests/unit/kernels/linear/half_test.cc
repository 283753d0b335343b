#include "kernels/cpu/linear/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/unit/kernels/linear/linear_problem.h"

namespace llmir::kernels {
namespace {

TEST(HalfTest, EveryHalfDecodesToItsValueAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const double value = HalfValue(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(half))) << bits;
      EXPECT_TRUE(std::isnan(HalfValue(FloatToHalf(HalfToFloat(half))))) << bits;
    } else {
      ASSERT_EQ(HalfToFloat(half), value) << bits;
      ASSERT_EQ(FloatToHalf(HalfToFloat(half)), half) << bits;
    }
  }
}

// Between neighbours a < b: the nearer one, at the middle the one with an even last bit.
TEST(HalfTest, RoundsToNearestEven) {
  for (uint16_t half = 0; half < 0x7bff; ++half) {
    const double a = HalfValue(half);
    const double b = HalfValue(static_cast<uint16_t>(half + 1));
    const auto middle = static_cast<float>((a + b) / 2);
    ASSERT_EQ(FloatToHalf(middle), half + (half & 1)) << half;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), half) << half;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 1e9f)), half + 1) << half;
    ASSERT_EQ(FloatToHalf(-middle), 0x8000 | (half + (half & 1))) << half;
  }
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-1e30f), 0xfc00);
}

TEST(BFloat16Test, RoundsToNearestEven) {
  std::mt19937 random(3);
  for (int i = 0; i < 100000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    const float back = BFloat16ToFloat(FloatToBFloat16(value));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(back));
      continue;
    }
    const uint32_t down_bits = std::bit_cast<uint32_t>(value) & 0xffff0000u;
    const double down = std::bit_cast<float>(down_bits);
    const uint32_t rest = std::bit_cast<uint32_t>(value) & 0xffffu;
    const bool up = rest > 0x8000u || (rest == 0x8000u && (down_bits & 0x10000u) != 0);
    if (up) {
      EXPECT_EQ(back, std::bit_cast<float>(down_bits + 0x10000u));
    } else {
      EXPECT_EQ(back, down);
    }
  }
}

}  // namespace
}  // namespace llmir::kernels
