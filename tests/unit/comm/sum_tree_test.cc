#include "comm/sum_tree.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace llmir::comm {
namespace {

// ((0 + 1) + (2 + (3 + 4))) + 5
const SumTree kTree{{2, 3, 1}, {0, 1, 0, 0, 3, 1}};

TEST(SumTree, AddsInTheTreesOrderWhereverItIsPut) {
  std::mt19937 random(7);
  for (const size_t count : {1, 3, 255, 256, 257, 1000}) {
    std::vector<std::vector<float>> values(6, std::vector<float>(count));
    for (auto& row : values) {
      for (float& value : row) {
        value = std::ldexp(static_cast<float>(static_cast<int32_t>(random())),
                           -40 + static_cast<int>(random() % 30));
      }
    }
    std::vector<float> expected(count);
    for (size_t i = 0; i < count; ++i) {
      const auto at = [&](size_t row) { return values[row][i]; };
      const float left = at(0) + at(1);
      const float right = at(2) + (at(3) + at(4));
      expected[i] = (left + right) + at(5);
    }
    for (size_t place = 0; place <= values.size(); ++place) {
      std::vector<std::vector<float>> rows = values;
      rows.emplace_back(count, -1.0f);
      std::vector<const float*> sources;
      for (size_t row = 0; row < values.size(); ++row) sources.push_back(rows[row].data());
      SumInTreeOrder(sources, kTree, count, rows[place].data());
      EXPECT_EQ(std::memcmp(rows[place].data(), expected.data(), count * sizeof(float)), 0)
          << "out is row " << place << ", count " << count;
      for (size_t row = 0; row < values.size(); ++row) {
        if (row != place) {
          EXPECT_EQ(rows[row], values[row]) << "row " << row << " changed";
        }
      }
    }
  }
}

TEST(SumTree, IsOneForItsRanksOnly) {
  EXPECT_TRUE(kTree.IsValid(3));
  EXPECT_FALSE(kTree.IsValid(2));
  EXPECT_EQ(kTree.MostNodes(), 3u);
  EXPECT_FALSE((SumTree{{2, 0, 1}, {0, 1, 1}}).IsValid(3));            // a rank without a node
  EXPECT_FALSE((SumTree{{1, 1}, {0}}).IsValid(2));                     // a node without a place
  EXPECT_FALSE((SumTree{{1, 1}, {0, 0}}).IsValid(2));                  // two roots
  EXPECT_FALSE((SumTree{{1, 1}, {1, 0}}).IsValid(2));                  // nothing to add to
  EXPECT_FALSE((SumTree{{65}, std::vector<uint8_t>(65)}).IsValid(1));  // more than room
}

}  // namespace
}  // namespace llmir::comm
