#include "comm/rank_order_sum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace llmir::comm {
namespace {

// Ranks and count; `out` is the source of each rank in turn, and a place of its own.
class RankOrderSum : public testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(RankOrderSum, EqualsAddingOneRankAfterTheOtherWhereverItIsPut) {
  const auto [ranks, count] = GetParam();
  const size_t n = static_cast<size_t>(count);
  std::mt19937 random(static_cast<uint32_t>(ranks * 10007 + count));
  std::vector<std::vector<float>> values(static_cast<size_t>(ranks), std::vector<float>(n));
  for (auto& row : values) {
    for (float& value : row) {
      value = std::ldexp(static_cast<float>(static_cast<int32_t>(random())),
                         -40 + static_cast<int>(random() % 30));
    }
  }
  std::vector<float> expected = values[0];
  for (size_t rank = 1; rank < values.size(); ++rank) {
    for (size_t i = 0; i < n; ++i) expected[i] += values[rank][i];
  }
  for (size_t place = 0; place <= values.size(); ++place) {
    std::vector<std::vector<float>> rows = values;
    rows.emplace_back(n, -1.0f);
    std::vector<const float*> sources;
    for (size_t rank = 0; rank < values.size(); ++rank) sources.push_back(rows[rank].data());
    SumInRankOrder(sources, n, rows[place].data());
    EXPECT_EQ(std::memcmp(rows[place].data(), expected.data(), n * sizeof(float)), 0)
        << "out is row " << place;
    for (size_t rank = 0; rank < values.size(); ++rank) {
      if (rank != place) {
        EXPECT_EQ(rows[rank], values[rank]) << "row " << rank << " changed";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, RankOrderSum,
                         testing::Combine(testing::Values(1, 2, 3, 4, 7),
                                          testing::Values(1, 3, 16, 17, 1023, 1024, 1025, 5000)));

TEST(RankOrderSum, OrderIsTheRanksNotTheMagnitudes) {
  const float big = 1e8f;
  const float one = 1.0f;
  const float minus_big = -1e8f;
  const std::vector<const float*> lost = {&big, &one, &minus_big};
  const std::vector<const float*> kept = {&big, &minus_big, &one};
  float sum = -1;
  SumInRankOrder(lost, 1, &sum);
  EXPECT_EQ(sum, 0.0f);
  SumInRankOrder(kept, 1, &sum);
  EXPECT_EQ(sum, 1.0f);
}

}  // namespace
}  // namespace llmir::comm
