#include "plan_schema/sum_tree.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

namespace llmir::plan {
namespace {

// The sum of leaves [begin, end) as a binary counter adds carries (kernels/linear.h): equal
// neighbours as soon as both exist, then what is left from the last to the first.
float CounterSum(const std::vector<float>& leaves, uint32_t begin, uint32_t end) {
  std::vector<std::pair<uint32_t, float>> stack;  // leaves, sum
  for (uint32_t i = begin; i < end; ++i) {
    stack.emplace_back(1, leaves[i]);
    while (stack.size() > 1 && stack[stack.size() - 2].first == stack.back().first) {
      const auto upper = stack.back();
      stack.pop_back();
      stack.back() = {2 * upper.first, stack.back().second + upper.second};
    }
  }
  float sum = stack.back().second;
  for (size_t i = stack.size() - 1; i-- > 0;) sum = stack[i].second + sum;
  return sum;
}

std::vector<float> RandomLeaves(uint32_t count, std::mt19937& random) {
  std::vector<float> leaves(count);
  for (float& leaf : leaves) {
    leaf = std::ldexp(static_cast<float>(static_cast<int32_t>(random())),
                      -40 + static_cast<int>(random() % 20));
  }
  return leaves;
}

std::string Text(const std::vector<Leaves>& nodes) {
  std::string text;
  for (const Leaves& node : nodes) text += fmt::format("[{},{})", node.begin, node.end);
  return text;
}

TEST(SumTree, RangesAreCoveredByTheFewestNodes) {
  EXPECT_EQ(Text(CoveringNodes({0, 9}, 9)), "[0,9)");
  EXPECT_EQ(Text(CoveringNodes({0, 5}, 9)), "[0,4)[4,5)");
  EXPECT_EQ(Text(CoveringNodes({5, 9}, 9)), "[5,6)[6,8)[8,9)");
  EXPECT_EQ(Text(CoveringNodes({0, 12}, 24)), "[0,8)[8,12)");
  EXPECT_EQ(Text(CoveringNodes({12, 24}, 24)), "[12,16)[16,24)");
  EXPECT_EQ(Text(CoveringNodes({44, 88}, 88)), "[44,48)[48,64)[64,88)");
  EXPECT_EQ(Text(CoveringNodes({8, 11}, 11)), "[8,11)");
  EXPECT_EQ(Text(CoveringNodes({3, 4}, 11)), "[3,4)");
  EXPECT_EQ(Text(CoveringNodes({4, 4}, 11)), "");
}

// Any division of any number of leaves among any number of ranks.
TEST(SumTree, RanksNodesAddUpToTheBitsOfOneRank) {
  std::mt19937 random(1);
  for (uint32_t total = 1; total <= 130; ++total) {
    const std::vector<float> leaves = RandomLeaves(total, random);
    const float whole = CounterSum(leaves, 0, total);
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<Leaves> nodes;
      for (uint32_t begin = 0; begin < total;) {
        const uint32_t end = begin + 1 + static_cast<uint32_t>(random()) % (total - begin);
        const std::vector<Leaves> own = CoveringNodes({begin, end}, total);
        EXPECT_LE(own.size(), 2 * std::bit_width(total));
        nodes.insert(nodes.end(), own.begin(), own.end());
        begin = end;
      }
      const std::vector<uint8_t> sums_after = SumsAfterNodes(nodes, total);
      ASSERT_EQ(sums_after.size(), nodes.size());
      std::vector<float> stack;
      for (size_t node = 0; node < nodes.size(); ++node) {
        // A node's own sum is that of its leaves by themselves.
        stack.push_back(CounterSum(leaves, nodes[node].begin, nodes[node].end));
        for (int i = 0; i < sums_after[node]; ++i) {
          const float upper = stack.back();
          stack.pop_back();
          ASSERT_FALSE(stack.empty());
          stack.back() += upper;
        }
      }
      ASSERT_EQ(stack.size(), 1u) << total << ": " << Text(nodes);
      EXPECT_EQ(stack.front(), whole) << total << ": " << Text(nodes);
    }
  }
}

}  // namespace
}  // namespace llmir::plan
