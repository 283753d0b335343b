#include "comm/wire.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace llmir::comm {
namespace {

using Floats = std::vector<float>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Floats Received(const Floats& sent) {
  std::vector<std::byte> wire(WireBytes(Wire::kInt8, sent.size() * sizeof(float)));
  EncodeInt8(sent.data(), sent.size(), wire.data());
  Floats received(sent.size());
  DecodeInt8(wire.data(), received.size(), received.data());
  return received;
}

// Of every magnitude that a float has, with groups in which one value outweighs all others.
Floats Random(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Floats values(count);
  for (size_t i = 0; i < count; ++i) {
    const int exponent = static_cast<int>((i / kWireGroup * 7) % 200) - 100;
    values[i] = std::ldexp(normal(random), exponent) * (random() % 97 == 0 ? 1000.0F : 1.0F);
  }
  return values;
}

TEST(Wire, BytesOfWholeGroupsAndOfTheRest) {
  EXPECT_EQ(WireBytes(Wire::kFloat32, 400), 400U);
  EXPECT_EQ(WireBytes(Wire::kInt8, 0), 0U);
  EXPECT_EQ(WireBytes(Wire::kInt8, 4), 3U);
  EXPECT_EQ(WireBytes(Wire::kInt8, 128), 34U);
  EXPECT_EQ(WireBytes(Wire::kInt8, 132), 37U);
  for (size_t count = 1; count < 200; ++count) {
    EXPECT_LE(WireBytes(Wire::kInt8, count * 4), count * 4) << count;
  }
}

TEST(Wire, AValueErrsByNoMoreThanItsGroupAllows) {
  for (const size_t count : {1, 2, 31, 32, 33, 64, 4096, 4099}) {
    const Floats sent = Random(count, static_cast<uint32_t>(count));
    const Floats received = Received(sent);
    for (size_t begin = 0; begin < count; begin += kWireGroup) {
      const size_t end = std::min(count, begin + kWireGroup);
      double largest = 0;
      for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(double{sent[i]}));
      for (size_t i = begin; i < end; ++i) {
        const double error = std::fabs(double{received[i]} - double{sent[i]});
        EXPECT_LE(error, kInt8WireError * largest) << count << ", " << i;
      }
    }
  }
}

TEST(Wire, WhatHasBeenEncodedOnceStaysAsItIs) {
  const Floats once = Received(Random(40000, 3));
  EXPECT_EQ(Received(once), once);
  Floats rounded = Random(40000, 3);
  RoundInt8(rounded.data(), rounded.size());
  EXPECT_EQ(rounded, once);
}

// The scale rounded to bf16, then the value to a byte, in doubles.
TEST(Wire, ValuesAreThoseOfTheFormat) {
  const Floats sent = Random(kWireGroup * 200, 5);
  const Floats received = Received(sent);
  for (size_t i = 0; i < sent.size(); ++i) {
    const size_t begin = i / kWireGroup * kWireGroup;
    float largest = 0;
    for (size_t k = begin; k < begin + kWireGroup; ++k) {
      largest = std::max(largest, std::fabs(sent[k]));
    }
    int exponent = 0;
    const double fraction = std::frexp(largest / 127, &exponent);  // of 0.5 to 1: 8 bits of it
    const double scale = std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
    const double steps = double{received[i]} / scale;
    EXPECT_EQ(steps, std::nearbyint(steps)) << i;
    EXPECT_LE(std::fabs(steps - double{sent[i]} / scale), 0.5 + 1e-4) << i;
  }
}

TEST(Wire, WhatIsNotFiniteTakesItsGroupAlong) {
  for (const float odd : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    for (const size_t count : {size_t{7}, kWireGroup, 3 * kWireGroup}) {
      Floats sent(count, 1.0F);
      sent[count / 2] = odd;
      const Floats received = Received(sent);
      for (size_t i = 0; i < count; ++i) {
        const bool same_group = i / kWireGroup == count / 2 / kWireGroup;
        EXPECT_EQ(std::isnan(received[i]), same_group) << odd << ", " << i;
      }
    }
  }
}

TEST(Wire, NothingAndNextToNothingAreZero) {
  for (const float small : {0.0F, -0.0F, 1e-38F, std::numeric_limits<float>::denorm_min()}) {
    for (const float value : Received(Floats(kWireGroup + 3, small))) EXPECT_EQ(value, 0.0F);
  }
}

}  // namespace
}  // namespace llmir::comm
