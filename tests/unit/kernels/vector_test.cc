#include "kernels/vector.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/activations.h"
#include "tests/unit/kernels/families.h"

namespace llmir::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class VectorTest : public testing::TestWithParam<Isa> {
 protected:
  const VectorKernels& kernels() const { return FindVector(GetParam()); }
  const VectorKernels& portable() const { return FindVector(Isa::kPortable); }
};
INSTANTIATE_TEST_SUITE_P(Families, VectorTest, testing::ValuesIn(AvailableFamilies()), FamilyName);

TEST_P(VectorTest, TableNamesItsFamily) { EXPECT_EQ(kernels().isa, GetParam()); }

TEST_P(VectorTest, RmsNormAgreesWithDoubleAndWithPortable) {
  constexpr float kEpsilon = 1e-5f;
  for (const int64_t columns : {1, 7, 15, 16, 17, 31, 64, 576, 1000}) {
    const int64_t rows = 3, x_stride = columns + 5, out_stride = columns + 3;
    const std::vector<float> x = RandomFloats(rows * x_stride, 1, 3.0f);
    const std::vector<float> weight = RandomFloats(columns, 2);
    std::vector<float> out(static_cast<size_t>(rows * out_stride), 77.0f);
    std::vector<float> expected = out;
    kernels().rms_norm(x.data(), x_stride, weight.data(), kEpsilon, rows, columns, out.data(),
                       out_stride);
    portable().rms_norm(x.data(), x_stride, weight.data(), kEpsilon, rows, columns, expected.data(),
                        out_stride);
    EXPECT_EQ(std::memcmp(out.data(), expected.data(), out.size() * 4), 0) << columns;
    for (int64_t row = 0; row < rows; ++row) {
      double sum = 0;
      for (int64_t c = 0; c < columns; ++c) sum += std::pow(x[row * x_stride + c], 2);
      const double inverse = 1 / std::sqrt(sum / columns + kEpsilon);
      for (int64_t c = 0; c < columns; ++c) {
        const double want = x[row * x_stride + c] * inverse * weight[c];
        EXPECT_NEAR(out[row * out_stride + c], want, 1e-6 * std::abs(want) + 1e-12);
      }
      for (int64_t c = columns; c < out_stride; ++c) {
        EXPECT_EQ(out[row * out_stride + c], 77.0f) << "written beyond the row";
      }
    }
  }
}

struct Q8Row {
  std::vector<int8_t> quants;
  std::vector<float> scales;
  std::vector<int32_t> sums;
};
Q8Row Parse(const std::byte* row, int64_t columns) {
  const auto groups = static_cast<size_t>(columns / kActivationGroup);
  Q8Row parsed{std::vector<int8_t>(static_cast<size_t>(columns)), std::vector<float>(groups),
               std::vector<int32_t>(groups)};
  std::memcpy(parsed.quants.data(), row, static_cast<size_t>(columns));
  std::memcpy(parsed.scales.data(), row + columns, groups * 4);
  std::memcpy(parsed.sums.data(), row + columns + groups * 4, groups * 4);
  return parsed;
}

TEST_P(VectorTest, QuantizedValuesAreNearest) {
  for (const int64_t columns : {32, 64, 96, 576}) {
    const int64_t rows = 3, stride = columns + 1, out_stride = Q8RowBytes(columns) + 64;
    std::vector<float> x = RandomFloats(rows * stride, 3, 5.0f);
    std::fill(x.begin(), x.begin() + 32, 0.0f);
    std::vector<std::byte> out(static_cast<size_t>(rows * out_stride), std::byte{0x5a});
    std::vector<std::byte> expected = out;
    kernels().quantize(x.data(), stride, rows, columns, out.data(), out_stride);
    portable().quantize(x.data(), stride, rows, columns, expected.data(), out_stride);
    EXPECT_EQ(out, expected);
    for (int64_t row = 0; row < rows; ++row) {
      const Q8Row q = Parse(out.data() + row * out_stride, columns);
      for (int64_t group = 0; group < columns / 32; ++group) {
        const float* values = x.data() + row * stride + group * 32;
        float maximum = 0;
        int32_t sum = 0;
        for (int i = 0; i < 32; ++i) maximum = std::max(maximum, std::abs(values[i]));
        EXPECT_EQ(q.scales[group], maximum / 127.0f);
        for (int i = 0; i < 32; ++i) {
          const int quant = q.quants[group * 32 + i];
          sum += quant;
          EXPECT_LE(std::abs(values[i] - quant * static_cast<double>(q.scales[group])),
                    q.scales[group] * 0.50001);
        }
        EXPECT_EQ(q.sums[group], sum);
      }
    }
    EXPECT_EQ(Parse(out.data(), columns).scales[0], 0.0f);
  }
}

TEST_P(VectorTest, QuantizeRoundsTiesToEven) {
  std::vector<float> x(32, 0.0f);
  x[0] = -127.0f;
  const float ties[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 100.5f, -101.5f};
  std::copy(std::begin(ties), std::end(ties), x.begin() + 1);
  std::vector<std::byte> out(static_cast<size_t>(Q8RowBytes(32)));
  kernels().quantize(x.data(), 32, 1, 32, out.data(), 0);
  const Q8Row q = Parse(out.data(), 32);
  EXPECT_THAT(std::vector<int>(q.quants.begin(), q.quants.begin() + 8),
              testing::ElementsAre(-127, 0, 2, 2, 0, -2, 100, -102));
  EXPECT_EQ(q.scales[0], 1.0f);
}

TEST_P(VectorTest, QuantizeKeepsNonFiniteGroupsVisible) {
  for (const float bad : {kNan, -kNan, kInfinity, -kInfinity}) {
    for (const size_t place : {0u, 15u, 16u, 31u}) {
      std::vector<float> x = RandomFloats(64, 4);
      x[place] = bad;
      std::vector<std::byte> out(static_cast<size_t>(Q8RowBytes(64)));
      kernels().quantize(x.data(), 64, 1, 64, out.data(), 0);
      const Q8Row q = Parse(out.data(), 64);
      EXPECT_FALSE(std::isfinite(q.scales[0]));
      EXPECT_THAT(std::vector<int>(q.quants.begin(), q.quants.begin() + 32), testing::Each(0));
      EXPECT_TRUE(std::isfinite(q.scales[1])) << "the other group is not touched by it";
    }
  }
}

TEST_P(VectorTest, QuantizeTakesTheTiniestValuesAsZero) {
  const std::vector<float> x(32, 1e-40f);
  std::vector<std::byte> out(static_cast<size_t>(Q8RowBytes(32)));
  kernels().quantize(x.data(), 32, 1, 32, out.data(), 0);
  const Q8Row q = Parse(out.data(), 32);
  EXPECT_EQ(q.scales[0], 0.0f);
  EXPECT_EQ(q.sums[0], 0);
}

TEST_P(VectorTest, RmsNormQ8EqualsRmsNormThenQuantize) {
  for (const int64_t columns : {32, 96, 576, 1536}) {
    const int64_t rows = 5;
    const std::vector<float> x = RandomFloats(rows * columns, 5, 2.0f);
    const std::vector<float> weight = RandomFloats(columns, 6);
    const int64_t stride = Q8RowBytes(columns);
    std::vector<float> normed(static_cast<size_t>(rows * columns));
    std::vector<std::byte> fused(static_cast<size_t>(rows * stride)), separate = fused;
    kernels().rms_norm_q8(x.data(), columns, weight.data(), 1e-6f, rows, columns, fused.data(),
                          stride);
    kernels().rms_norm(x.data(), columns, weight.data(), 1e-6f, rows, columns, normed.data(),
                       columns);
    portable().quantize(normed.data(), columns, rows, columns, separate.data(), stride);
    EXPECT_EQ(fused, separate);
  }
}

TEST_P(VectorTest, AddIsExactAndStaysWithinItsCount) {
  for (const int64_t count : {0, 1, 15, 16, 17, 100}) {
    const std::vector<float> a = RandomFloats(count, 7), b = RandomFloats(count, 8);
    std::vector<float> out(static_cast<size_t>(count) + 16, 5.0f);
    kernels().add(a.data(), b.data(), count, out.data());
    for (int64_t i = 0; i < count; ++i) EXPECT_EQ(out[i], a[i] + b[i]);
    for (size_t i = static_cast<size_t>(count); i < out.size(); ++i) EXPECT_EQ(out[i], 5.0f);
  }
}

TEST_P(VectorTest, ArgmaxFindsTheLargest) {
  for (const int64_t count : {1, 2, 15, 16, 17, 63, 64, 65, 1000, 49152}) {
    const std::vector<float> x = RandomFloats(count, static_cast<uint32_t>(count));
    EXPECT_EQ(kernels().argmax(x.data(), count), std::max_element(x.begin(), x.end()) - x.begin());
    // Wherever it stands, and before a second one of the same value.
    for (int64_t place = 0; place < std::min<int64_t>(count, 130); ++place) {
      std::vector<float> y = x;
      y[place] = 1000.0f;
      y.back() = 1000.0f;
      EXPECT_EQ(kernels().argmax(y.data(), count), place);
    }
  }
}

TEST_P(VectorTest, ArgmaxPassesOverNan) {
  EXPECT_EQ(kernels().argmax(nullptr, 0), -1);
  for (const int64_t count : {1, 5, 16, 17, 80, 131}) {
    std::vector<float> x(static_cast<size_t>(count), kNan);
    EXPECT_EQ(kernels().argmax(x.data(), count), -1);
    for (int64_t place = 0; place < count; ++place) {
      std::vector<float> y = x;
      y[place] = -kInfinity;
      EXPECT_EQ(kernels().argmax(y.data(), count), place);
      y[count - 1] = -3.0f;
      EXPECT_EQ(kernels().argmax(y.data(), count), count - 1);
    }
  }
  const float zeros[] = {-0.0f, 0.0f};
  EXPECT_EQ(kernels().argmax(zeros, 2), 0) << "zeros are equal";
}

TEST_P(VectorTest, ScorePartAgreesWithDoubleAndWithPortable) {
  for (const int64_t count : {1, 15, 16, 17, 31, 32, 33, 64, 1000, 24576}) {
    const std::vector<float> x = RandomFloats(count, static_cast<uint32_t>(count), 8.0f);
    const ScorePart part = kernels().score_part(x.data(), count, count / 2);
    const ScorePart expected = portable().score_part(x.data(), count, count / 2);
    EXPECT_EQ(std::memcmp(&part, &expected, sizeof part), 0) << count;
    const float maximum = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (const float value : x) sum += std::exp(static_cast<double>(value) - maximum);
    EXPECT_EQ(part.maximum, maximum);
    EXPECT_NEAR(part.sum, sum, 1e-5 * sum);
    EXPECT_EQ(part.target, x[count / 2]);
    EXPECT_EQ(kernels().score_part(x.data(), count, -1).target, 0.0f);
  }
}

TEST_P(VectorTest, ScorePartOfMaskedShardIsEmpty) {
  const std::vector<float> masked(40, -kInfinity);
  for (const int64_t count : {0, 1, 40}) {
    const ScorePart part = kernels().score_part(masked.data(), count, -1);
    EXPECT_EQ(part.maximum, -kInfinity);
    EXPECT_EQ(part.sum, 0.0f);
  }
  std::vector<float> spoiled(40, 1.0f);
  spoiled[33] = kNan;
  EXPECT_TRUE(std::isnan(kernels().score_part(spoiled.data(), 40, -1).sum));
}

TEST_P(VectorTest, LayerNormAgreesWithDoubleAndWithPortable) {
  constexpr float kEpsilon = 1e-5f;
  for (const int64_t columns : {1, 7, 15, 16, 17, 31, 64, 576, 1000}) {
    const int64_t rows = 3, x_stride = columns + 5, out_stride = columns + 3;
    std::vector<float> x = RandomFloats(rows * x_stride, 1, 3.0f);
    for (float& value : x) value += 2.0f;
    const std::vector<float> weight = RandomFloats(columns, 2);
    std::vector<float> out(static_cast<size_t>(rows * out_stride), 77.0f);
    std::vector<float> expected = out;
    kernels().layer_norm(x.data(), x_stride, weight.data(), kEpsilon, rows, columns, out.data(),
                         out_stride);
    portable().layer_norm(x.data(), x_stride, weight.data(), kEpsilon, rows, columns,
                          expected.data(), out_stride);
    EXPECT_EQ(std::memcmp(out.data(), expected.data(), out.size() * 4), 0) << columns;
    for (int64_t row = 0; row < rows; ++row) {
      double sum = 0, squares = 0;
      for (int64_t c = 0; c < columns; ++c) sum += x[row * x_stride + c];
      const double mean = sum / columns;
      for (int64_t c = 0; c < columns; ++c) squares += std::pow(x[row * x_stride + c] - mean, 2);
      const double inverse = 1 / std::sqrt(squares / columns + kEpsilon);
      for (int64_t c = 0; c < columns; ++c) {
        const double want = (x[row * x_stride + c] - mean) * inverse * weight[c];
        // The mean is rounded: that error stays where x is near it.
        EXPECT_NEAR(out[row * out_stride + c], want,
                    1e-6 * (std::abs(want) + std::abs(mean * inverse * weight[c])) + 1e-12);
      }
      for (int64_t c = columns; c < out_stride; ++c) {
        EXPECT_EQ(out[row * out_stride + c], 77.0f) << "written beyond the row";
      }
    }
  }
}

double ActivationOf(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGelu:
      return 0.5 * x * std::erfc(-x / M_SQRT2);
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      return std::max(x, 0.0);
  }
  return 0;
}

TEST_P(VectorTest, ActivationsAgreeWithDoubleAndWithPortable) {
  for (const Activation activation :
       {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
    for (const int64_t count : {1, 15, 16, 17, 64, 1001}) {
      const std::vector<float> gate = RandomFloats(count, 5, 3.0f);
      const std::vector<float> up = RandomFloats(count, 6);
      for (const float* second : {static_cast<const float*>(nullptr), up.data()}) {
        std::vector<float> out(static_cast<size_t>(count + 1), 77.0f);
        std::vector<float> expected = out;
        kernels().activate(activation, gate.data(), second, count, out.data());
        portable().activate(activation, gate.data(), second, count, expected.data());
        EXPECT_EQ(std::memcmp(out.data(), expected.data(), out.size() * 4), 0) << count;
        EXPECT_EQ(out[count], 77.0f) << "written beyond the end";
        for (int64_t i = 0; i < count; ++i) {
          const double want = ActivationOf(activation, gate[i]) * (second ? second[i] : 1.0);
          EXPECT_NEAR(out[i], want, 2e-6 * std::abs(want) + 1e-9) << gate[i];
        }
      }
    }
  }
}

TEST_P(VectorTest, ReluKeepsNan) {
  const float x[] = {kNan, -1.0f, 2.0f};
  float out[3];
  kernels().activate(Activation::kRelu, x, nullptr, 3, out);
  EXPECT_TRUE(std::isnan(out[0]));
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_EQ(out[2], 2.0f);
}

TEST_P(VectorTest, SoftcapAgreesWithDoubleAndWithPortable) {
  for (const int64_t count : {1, 15, 16, 17, 1001}) {
    for (const float cap : {0.5f, 30.0f, 50.0f}) {
      std::vector<float> x = RandomFloats(count, 7, 40.0f);
      x[0] = kInfinity;
      std::vector<float> out(static_cast<size_t>(count + 1), 77.0f);
      std::vector<float> expected = out;
      kernels().softcap(x.data(), cap, count, out.data());
      portable().softcap(x.data(), cap, count, expected.data());
      EXPECT_EQ(std::memcmp(out.data(), expected.data(), out.size() * 4), 0) << count;
      EXPECT_EQ(out[0], cap);
      EXPECT_EQ(out[count], 77.0f) << "written beyond the end";
      for (int64_t i = 1; i < count; ++i) {
        const double want = cap * std::tanh(static_cast<double>(x[i]) / cap);
        EXPECT_NEAR(out[i], want, 1e-6 * std::abs(want)) << x[i];
      }
    }
  }
}

TEST_P(VectorTest, DequantizedValuesAreScaleTimesQuant) {
  for (const int64_t columns : {32, 96, 576}) {
    const int64_t rows = 3, x_stride = Q8RowBytes(columns) + 64, out_stride = columns + 3;
    const std::vector<float> x = RandomFloats(rows * columns, 8, 2.0f);
    std::vector<std::byte> q8(static_cast<size_t>(rows * x_stride));
    kernels().quantize(x.data(), columns, rows, columns, q8.data(), x_stride);
    std::vector<float> out(static_cast<size_t>(rows * out_stride), 77.0f);
    kernels().dequantize(q8.data(), x_stride, rows, columns, out.data(), out_stride);
    for (int64_t row = 0; row < rows; ++row) {
      const Q8Row q = Parse(q8.data() + row * x_stride, columns);
      for (int64_t c = 0; c < columns; ++c) {
        EXPECT_EQ(out[row * out_stride + c],
                  q.scales[c / kActivationGroup] * static_cast<float>(q.quants[c]));
        EXPECT_NEAR(out[row * out_stride + c], x[row * columns + c],
                    0.501f * q.scales[c / kActivationGroup]);
      }
      EXPECT_EQ(out[row * out_stride + columns], 77.0f) << "written beyond the row";
    }
  }
}

}  // namespace
}  // namespace llmir::kernels
