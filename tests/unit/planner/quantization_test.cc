#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "planner/Quantization/BitBudget.h"
#include "planner/Quantization/DenseKernels.h"
#include "planner/Quantization/Quantizers.h"

namespace llmir::quantization {
namespace {

using kernels::Encoding;

constexpr int64_t kRows = 24;
constexpr int64_t kColumns = 128;

Matrix RandomMatrix(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.05f);
  Matrix matrix{rows, columns, std::vector<float>(rows * columns)};
  for (float& value : matrix.values) value = normal(random);
  return matrix;
}

// The mean of x x^T over vectors whose columns are correlated and of very different size.
std::vector<float> RandomGram(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> gram(n * n);
  std::vector<double> x(n);
  constexpr int kVectors = 600;
  for (int v = 0; v < kVectors; ++v) {
    const double common = normal(random);
    for (int64_t i = 0; i < n; ++i) x[i] = (common + normal(random)) * (i % 17 == 0 ? 8 : 1);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) gram[i * n + j] += x[i] * x[j] / kVectors;
  }
  return {gram.begin(), gram.end()};
}

// trace((W - Q) G (W - Q)^T), in doubles.
double ReferenceError(const Matrix& weights, const Matrix& quantized, std::span<const float> gram) {
  const int64_t n = weights.columns;
  double sum = 0;
  for (int64_t r = 0; r < weights.rows; ++r)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j)
        sum += (static_cast<double>(weights.row(r)[i]) - quantized.row(r)[i]) * gram[i * n + j] *
               (static_cast<double>(weights.row(r)[j]) - quantized.row(r)[j]);
  return sum;
}

Matrix Rounded(Encoding encoding, const Matrix& weights) {
  std::vector<std::byte> blocks(weights.rows * kernels::BlockRowBytes(encoding, weights.columns));
  roundToNearest(encoding, weights, 0, weights.rows, blocks.data());
  return decode(encoding, weights.rows, weights.columns, blocks.data());
}

Matrix Compensated(Encoding encoding, const Matrix& weights, const Curvature& curvature) {
  std::vector<std::byte> blocks(weights.rows * kernels::BlockRowBytes(encoding, weights.columns));
  compensate(encoding, weights, 0, weights.rows, curvature, blocks.data());
  return decode(encoding, weights.rows, weights.columns, blocks.data());
}

TEST(DenseKernels, FactorOfTheInverseMultipliesBackToTheIdentity) {
  constexpr int64_t n = 40;
  const std::vector<float> gram = RandomGram(n, 1);
  constexpr Damping kDamping{0.2, 0.5};
  const std::vector<float> u = invertAndFactor(gram, n, kDamping);
  ASSERT_EQ(u.size(), static_cast<size_t>(n * n));
  auto damped = [&](int64_t i, int64_t j) {
    return i == j ? gram[i * n + j] + kDamping.ridge : (1 - kDamping.shrink) * gram[i * n + j];
  };
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) EXPECT_EQ(u[i * n + j], 0) << "lower triangle";
    for (int64_t j = 0; j < n; ++j) {
      double product = 0;  // (U^T U H)[i][j]
      for (int64_t k = 0; k < n; ++k) {
        double inverse = 0;
        for (int64_t l = 0; l < n; ++l) inverse += static_cast<double>(u[l * n + i]) * u[l * n + k];
        product += inverse * damped(k, j);
      }
      EXPECT_NEAR(product, i == j ? 1 : 0, 1e-4) << i << " " << j;
    }
  }
}

TEST(DenseKernels, AMatrixThatIsNotPositiveDefiniteHasNoFactor) {
  EXPECT_THAT(invertAndFactor(std::vector<float>{1, 2, 2, 1}, 2, {}), testing::IsEmpty());
}

TEST(DenseKernels, ProductsAreThoseOfASimpleLoop) {
  const Matrix factors = RandomMatrix(7, 13, 2);
  const Matrix matrix = RandomMatrix(13, 150, 3);
  Matrix target = RandomMatrix(7, 150, 4);
  Matrix expected = target;
  for (int64_t r = 0; r < 7; ++r)
    for (int64_t i = 0; i < 13; ++i)
      for (int64_t j = 0; j < 150; ++j) expected.row(r)[j] -= factors.row(r)[i] * matrix.row(i)[j];
  subtractProduct(target.values.data(), 150, factors.values.data(), 13, 7, matrix.values.data(),
                  150, 13, 150);
  EXPECT_EQ(target.values, expected.values) << "one order of sums";
}

TEST(Quantizers, OutputErrorIsTheQuadraticForm) {
  const Matrix weights = RandomMatrix(kRows, kColumns, 5);
  const Matrix quantized = Rounded(Encoding::kQ4_0, weights);
  const std::vector<float> gram = RandomGram(kColumns, 6);
  const Curvature curvature{kColumns, gram, {}};
  const double reference = ReferenceError(weights, quantized, gram);
  EXPECT_NEAR(outputError(weights, quantized, curvature), reference, 1e-4 * reference);
  EXPECT_EQ(outputError(weights, quantized, curvature, {}, 3),
            outputError(weights, quantized, curvature, {}, 1));
}

class EveryFormat : public testing::TestWithParam<Encoding> {};

TEST_P(EveryFormat, GptqHasALessOutputErrorThanRoundingToTheNearest) {
  const Matrix weights = RandomMatrix(kRows, kColumns, 7);
  const std::vector<float> gram = RandomGram(kColumns, 8);
  const Curvature curvature = makeCurvature(gram, kColumns);
  const double nearest = ReferenceError(weights, Rounded(GetParam(), weights), gram);
  const double compensated =
      ReferenceError(weights, Compensated(GetParam(), weights, curvature), gram);
  EXPECT_LT(compensated, 0.9 * nearest);
}

TEST_P(EveryFormat, GptqKeepsAMatrixThatLiesOnTheGrid) {
  const Matrix weights = Rounded(GetParam(), RandomMatrix(kRows, kColumns, 9));
  const Matrix again = Rounded(GetParam(), weights);
  if (again.values != weights.values) {
    // Formats without a minimum find their grid again from the largest value alone.
    EXPECT_LT(ReferenceError(weights, again, RandomGram(kColumns, 10)), 1e-2);
    return;
  }
  const std::vector<float> gram = RandomGram(kColumns, 10);
  EXPECT_EQ(Compensated(GetParam(), weights, makeCurvature(gram, kColumns)).values, weights.values);
}

TEST_P(EveryFormat, RowsDependOnNoOtherRow) {
  const Matrix weights = RandomMatrix(kRows, kColumns, 11);
  const std::vector<float> gram = RandomGram(kColumns, 12);
  const Curvature curvature = makeCurvature(gram, kColumns);
  const int64_t bytes = kernels::BlockRowBytes(GetParam(), kColumns);
  std::vector<std::byte> all(kRows * bytes);
  compensate(GetParam(), weights, 0, kRows, curvature, all.data());
  std::vector<std::byte> part(5 * bytes);
  compensate(GetParam(), weights, 9, 14, curvature, part.data());
  EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 9 * bytes));
}

INSTANTIATE_TEST_SUITE_P(Formats, EveryFormat,
                         testing::Values(Encoding::kQ3_0, Encoding::kQ3_1, Encoding::kQ4_0,
                                         Encoding::kQ4_1, Encoding::kQ5_0, Encoding::kQ6_1,
                                         Encoding::kQ3_1_64, Encoding::kQ4_1_64),
                         [](const auto& info) { return kernels::FormatOf(info.param).name; });

TEST(Quantizers, AwqScalesLessenTheErrorAndKeepTiedColumnsAlike) {
  const Matrix weights = RandomMatrix(kRows, kColumns, 13);
  const std::vector<float> gram = RandomGram(kColumns, 14);
  const Curvature curvature{kColumns, gram, {}};
  std::vector<float> mean_abs(kColumns);
  std::vector<int32_t> tie(kColumns);
  for (int64_t i = 0; i < kColumns; ++i) {
    mean_abs[i] = std::sqrt(gram[i * kColumns + i]);
    tie[i] = static_cast<int32_t>(i % 64);
  }
  const Matrix* matrices[] = {&weights};
  auto error = [&](const std::vector<float>& scale) {
    Matrix scaled = weights;
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t i = 0; i < kColumns; ++i) scaled.row(r)[i] *= scale[i];
    Matrix rounded = Rounded(Encoding::kQ4_0, scaled);
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t i = 0; i < kColumns; ++i) rounded.row(r)[i] /= scale[i];
    return ReferenceError(weights, rounded, gram);
  };
  const std::vector<float> free = findScales(Encoding::kQ4_0, matrices, mean_abs, {}, curvature, 2);
  EXPECT_LT(error(free), 0.95 * error(std::vector<float>(kColumns, 1.0f)));
  const std::vector<float> tied =
      findScales(Encoding::kQ4_0, matrices, mean_abs, tie, curvature, 2);
  for (int64_t i = 64; i < kColumns; ++i) EXPECT_EQ(tied[i], tied[i - 64]);
  EXPECT_EQ(free, findScales(Encoding::kQ4_0, matrices, mean_abs, {}, curvature, 1));
}

// The least loss of all choices within the budget.
double BestLoss(const std::vector<std::vector<Offer>>& groups, double budget, size_t group = 0) {
  if (group == groups.size()) return budget >= 0 ? 0 : INFINITY;
  double best = INFINITY;
  for (const Offer& offer : groups[group])
    best = std::min(best, offer.loss + BestLoss(groups, budget - offer.bits, group + 1));
  return best;
}

TEST(BitBudget, SpendsAsTheBestOfAllChoicesDoes) {
  std::mt19937 random(15);
  std::uniform_real_distribution<double> loss(0, 1);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::vector<Offer>> groups(5);
    double least = 0;
    for (auto& offers : groups) {
      const int weights = 1 + static_cast<int>(random() % 20);
      for (const int bits : {3, 4, 5, 8})
        offers.push_back({1.0 * bits * weights, loss(random) / bits});
      least += 3.0 * weights;
    }
    const double budget = least * (1 + 0.05 * (round % 20));
    const std::vector<size_t> chosen = spendBits(groups, budget);
    ASSERT_EQ(chosen.size(), groups.size());
    double bits = 0;
    double sum = 0;
    for (size_t g = 0; g < groups.size(); ++g) {
      bits += groups[g][chosen[g]].bits;
      sum += groups[g][chosen[g]].loss;
    }
    EXPECT_LE(bits, budget);
    EXPECT_NEAR(sum, BestLoss(groups, budget), 1e-9) << "round " << round;
  }
}

TEST(BitBudget, NeverLosesMoreThanOneTypeForAllGroups) {
  std::mt19937 random(16);
  std::uniform_real_distribution<double> loss(0, 1);
  for (int round = 0; round < 50; ++round) {
    // So many groups of odd sizes that rounding to steps costs more than a step of the budget.
    std::vector<std::vector<Offer>> groups(150);
    constexpr int kTypes = 4;
    double bits[kTypes] = {};
    double sum[kTypes] = {};
    for (auto& offers : groups) {
      const double weights = 1000003 + static_cast<double>(random() % 1000000);
      for (int type = 0; type < kTypes; ++type) {
        // A type of more bits may lose more, as one off the source's grid does.
        offers.push_back({(3.5 + type) * weights, loss(random) / (1 + type), type});
        bits[type] += offers.back().bits;
        sum[type] += offers.back().loss;
      }
      std::shuffle(offers.begin(), offers.end(), random);
    }
    for (int type = 0; type < kTypes; ++type) {
      const std::vector<size_t> chosen = spendBits(groups, bits[type]);
      ASSERT_EQ(chosen.size(), groups.size());
      double chosen_bits = 0;
      double chosen_loss = 0;
      for (size_t g = 0; g < groups.size(); ++g) {
        chosen_bits += groups[g][chosen[g]].bits;
        chosen_loss += groups[g][chosen[g]].loss;
      }
      EXPECT_LE(chosen_bits, bits[type]);
      for (int other = 0; other <= type; ++other)
        EXPECT_LE(chosen_loss, sum[other] + 1e-9) << "round " << round << " type " << other;
    }
  }
}

// Rounding to steps kept it out, though it fits to the bit and is best.
TEST(BitBudget, TakesOneTypeThatSpendsTheBudgetToTheBit) {
  std::vector<std::vector<Offer>> groups;
  double budget = 0;
  for (int g = 0; g < 121; ++g) {
    const double weights = 1000003 + 1009.0 * g * g;
    groups.push_back({{3.5 * weights, 1, 0}, {4.5 * weights, 0.2, 1}, {5.5 * weights, 0.19, 2}});
    budget += 4.5 * weights;
  }
  EXPECT_EQ(spendBits(groups, budget), std::vector<size_t>(groups.size(), 1));
}

TEST(BitBudget, ABudgetBelowTheCheapestOffersIsRefused) {
  EXPECT_TRUE(spendBits({{{10, 0.1}, {20, 0}}, {{5, 1}}}, 14.9).empty());
  EXPECT_EQ(spendBits({{{10, 0.1}, {20, 0}}, {{5, 1}}}, 15), (std::vector<size_t>{0, 0}));
}

}  // namespace
}  // namespace llmir::quantization
