#include "executor/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <random>

namespace llmir::executor {
namespace {

const kernels::VectorKernels& Kernels() { return kernels::FindVector(kernels::DetectIsa()); }

// Frequencies over many positions, as a share of the draws.
std::map<int32_t, double> Frequencies(const std::vector<float>& logits, SamplingOptions options,
                                      int draws) {
  Sampler sampler(static_cast<int64_t>(logits.size()), Kernels());
  std::map<int32_t, double> counts;
  for (int i = 0; i < draws; ++i) counts[sampler.Sample(logits, options, i)] += 1.0 / draws;
  return counts;
}

TEST(SamplerTest, GreedyTakesTheLargestAndTheLowestIdOfEquals) {
  Sampler sampler(5, Kernels());
  EXPECT_EQ(sampler.Sample(std::vector<float>{1, 7, 3, 7, 2}, {}, 0), 1);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(sampler.Sample(std::vector<float>{nan, -5, nan, -4, nan}, {}, 0), 3);
}

TEST(SamplerTest, FrequenciesFollowTheSoftmaxAtItsTemperature) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f};
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    SamplingOptions options;
    options.temperature = temperature;
    options.seed = 11;
    const auto counts = Frequencies(logits, options, 200000);
    double sum = 0;
    for (const float logit : logits) sum += std::exp(logit / temperature);
    for (int id = 0; id < 4; ++id) {
      EXPECT_NEAR(counts.count(id) ? counts.at(id) : 0, std::exp(logits[id] / temperature) / sum,
                  0.005)
          << "id " << id << " at temperature " << temperature;
    }
  }
}

TEST(SamplerTest, TopKKeepsExactlyTheMostProbable) {
  SamplingOptions options;
  options.temperature = 10;
  options.top_k = 2;
  const auto counts = Frequencies({3, 1, 2, 0, 2.5f}, options, 5000);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_TRUE(counts.count(0) && counts.count(4));
}

TEST(SamplerTest, TopPKeepsTheFewestThatReachTheMass) {
  // Probabilities 0.5, 0.3, 0.15, 0.05.
  const std::vector<float> logits = {std::log(0.15f), std::log(0.5f), std::log(0.05f),
                                     std::log(0.3f)};
  SamplingOptions options;
  options.temperature = 1;
  options.top_p = 0.79f;
  auto counts = Frequencies(logits, options, 50000);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_NEAR(counts[1], 0.5 / 0.8, 0.01);
  options.top_p = 0.81f;
  EXPECT_EQ(Frequencies(logits, options, 50000).size(), 3u);
  options.top_p = 1e-6f;
  EXPECT_EQ(Frequencies(logits, options, 100).size(), 1u);
}

TEST(SamplerTest, TopPAfterTopKCountsTheMassOfTheKept) {
  const std::vector<float> logits = {std::log(0.15f), std::log(0.5f), std::log(0.05f),
                                     std::log(0.3f)};
  SamplingOptions options;
  options.temperature = 1;
  options.top_k = 2;  // masses 0.625 and 0.375
  options.top_p = 0.62f;
  EXPECT_EQ(Frequencies(logits, options, 2000).size(), 1u);
  options.top_p = 0.63f;
  EXPECT_EQ(Frequencies(logits, options, 2000).size(), 2u);
}

TEST(SamplerTest, MinPDropsWhatIsFarBelowTheBest) {
  const std::vector<float> logits = {std::log(0.15f), std::log(0.5f), std::log(0.05f),
                                     std::log(0.3f)};
  SamplingOptions options;
  options.temperature = 1;
  options.min_p = 0.31f;  // of 0.5: 0.155
  EXPECT_EQ(Frequencies(logits, options, 5000).size(), 2u);
  options.min_p = 0.29f;
  EXPECT_EQ(Frequencies(logits, options, 5000).size(), 3u);
  options.top_p = 0.95f;  // both filters: the same set as either alone would leave
  EXPECT_EQ(Frequencies(logits, options, 5000).size(), 3u);
}

TEST(SamplerTest, ADrawDependsOnSeedAndPositionAlone) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> logits(1000);
  for (float& logit : logits) logit = normal(random);
  SamplingOptions options;
  options.temperature = 1;
  options.seed = 42;
  Sampler one(1000, Kernels());
  Sampler other(1000, Kernels());
  std::vector<int32_t> forward;
  for (int i = 0; i < 50; ++i) forward.push_back(one.Sample(logits, options, i));
  for (int i = 49; i >= 0; --i) EXPECT_EQ(other.Sample(logits, options, i), forward[i]);
  options.seed = 43;
  int same = 0;
  for (int i = 0; i < 50; ++i) same += other.Sample(logits, options, i) == forward[i];
  EXPECT_LT(same, 25);
}

TEST(SamplerTest, CounterUniformIsUniform) {
  double sum = 0, squares = 0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double u = CounterUniform(7, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 0.005);
}

}  // namespace
}  // namespace llmir::executor
