#include "kernels/cpu/vector_math.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace llmir::kernels {
namespace {

// The portable family; the others are compared with it bit by bit through the kernels that use
// them.
using S = SimdPortable;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

float ExpOf(float x) { return Exp<S>(S::Set(x)).v[7]; }
float SiluOf(float x) { return Silu<S>(S::Set(x)).v[7]; }
float GeluOf(float x) { return Gelu<S>(S::Set(x)).v[7]; }
float GeluTanhOf(float x) { return GeluTanh<S>(S::Set(x)).v[7]; }

// |got - want| in units in the last place of want, a normal float.
double UlpError(float got, double want) {
  int exponent;
  std::frexp(want, &exponent);
  return std::abs(static_cast<double>(got) - want) / std::ldexp(1.0, exponent - 24);
}

TEST(VectorMathTest, ExpIsWithinOneUlp) {
  double worst = 0;
  for (uint32_t bits = 0; bits < 0x7f800000u; bits += 4001) {
    for (const float x : {std::bit_cast<float>(bits), -std::bit_cast<float>(bits)}) {
      if (x < -87.3365f || x > 88.7228f) continue;
      worst = std::max(worst, UlpError(ExpOf(x), std::exp(static_cast<double>(x))));
    }
  }
  EXPECT_LE(worst, 1.0);
}

TEST(VectorMathTest, ExpOfSpecialValues) {
  EXPECT_EQ(ExpOf(0.0f), 1.0f);
  EXPECT_EQ(ExpOf(-0.0f), 1.0f);
  EXPECT_EQ(ExpOf(kInfinity), kInfinity);
  EXPECT_EQ(ExpOf(89.0f), kInfinity);
  EXPECT_EQ(ExpOf(-kInfinity), 0.0f);
  EXPECT_EQ(ExpOf(-88.0f), 0.0f);
  EXPECT_EQ(ExpOf(-3e38f), 0.0f);
  EXPECT_TRUE(std::isnan(ExpOf(std::numeric_limits<float>::quiet_NaN())));
}

TEST(VectorMathTest, ExpNeverFalls) {
  float last = 0;
  for (float x = -88.0f; x < 88.8f; x += 0.00173f) {
    const float y = ExpOf(x);
    ASSERT_GE(y, last) << x;
    last = y;
  }
}

TEST(VectorMathTest, SiluIsWithinThreeUlp) {
  for (float x = -80.0f; x < 100.0f; x += 0.00373f) {
    const double want = static_cast<double>(x) / (1.0 + std::exp(-static_cast<double>(x)));
    ASSERT_LE(UlpError(SiluOf(x), want), 3.0) << x;
  }
  EXPECT_EQ(SiluOf(0.0f), 0.0f);
  EXPECT_EQ(SiluOf(-200.0f), 0.0f);
  EXPECT_EQ(SiluOf(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(SiluOf(std::numeric_limits<float>::quiet_NaN())));
}

TEST(VectorMathTest, GeluIsWithinNineUlp) {
  for (float x = -13.0f; x < 20.0f; x += 0.00037f) {
    const double want = static_cast<double>(x) * 0.5 * std::erfc(-static_cast<double>(x) / M_SQRT2);
    ASSERT_LE(UlpError(GeluOf(x), want), 9.0) << x;
  }
  EXPECT_EQ(GeluOf(0.0f), 0.0f);
  EXPECT_EQ(GeluOf(-15.0f), 0.0f);
  EXPECT_EQ(GeluOf(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(GeluOf(std::numeric_limits<float>::quiet_NaN())));
}

// In the tail the argument of exp is rounded: a relative error of 2^-24 times that argument.
TEST(VectorMathTest, GeluByTanhIsWithinTheRoundingOfItsExponent) {
  for (float x = -9.0f; x < 20.0f; x += 0.00037f) {
    const double argument = std::sqrt(2 / M_PI) * (x + 0.044715 * std::pow(double{x}, 3));
    const double want = double{x} / (1 + std::exp(-2 * argument));
    ASSERT_LE(UlpError(GeluTanhOf(x), want), 3 + 4 * std::abs(std::min(argument, 0.0))) << x;
  }
  EXPECT_EQ(GeluTanhOf(0.0f), 0.0f);
  EXPECT_EQ(GeluTanhOf(-30.0f), 0.0f);
  EXPECT_EQ(GeluTanhOf(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(GeluTanhOf(std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace
}  // namespace llmir::kernels
