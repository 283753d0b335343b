#include "kvpool/prefix_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace llmir::kvpool {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr uint64_t kAnn = 1;
constexpr uint64_t kBob = 2;

class PrefixTreeTest : public testing::Test {
 protected:
  PrefixTree Make(int32_t blocks, double patience = 0) {
    PrefixTreeOptions options;
    options.now = [this] { return now_; };
    options.patience = patience;
    return {blocks, 2, options};
  }
  static std::vector<int32_t> Match(const PrefixTree& tree, std::vector<int32_t> ids,
                                    uint64_t salt) {
    std::vector<int32_t> path;
    tree.Match(ids, salt, &path);
    return path;
  }
  double now_ = 0;
};

TEST_F(PrefixTreeTest, AHitIsTheLongestPathOfWholeBlocks) {
  PrefixTree tree = Make(8);
  EXPECT_EQ(tree.Insert(-1, kAnn, std::vector{1, 2}, 5), 5);
  EXPECT_EQ(tree.Insert(5, kAnn, std::vector{3, 4}, 3), 3);
  EXPECT_EQ(tree.Insert(5, kAnn, std::vector{3, 5}, 7), 7);
  EXPECT_THAT(Match(tree, {1, 2, 3, 4, 9, 9}, kAnn), ElementsAre(5, 3));
  EXPECT_THAT(Match(tree, {1, 2, 3, 5}, kAnn), ElementsAre(5, 7));
  EXPECT_THAT(Match(tree, {1, 2, 3}, kAnn), ElementsAre(5));
  EXPECT_THAT(Match(tree, {1}, kAnn), IsEmpty());
  EXPECT_THAT(Match(tree, {3, 4}, kAnn), IsEmpty()) << "the same tokens after others";
  tree.CheckInvariants();
}

TEST_F(PrefixTreeTest, TheFirstBlockOfEqualTokensStays) {
  PrefixTree tree = Make(8);
  EXPECT_EQ(tree.Insert(-1, kAnn, std::vector{1, 2}, 5), 5);
  EXPECT_EQ(tree.Insert(-1, kAnn, std::vector{1, 2}, 6), 5);
  EXPECT_FALSE(tree.contains(6));
  EXPECT_EQ(tree.size(), 1);
}

TEST_F(PrefixTreeTest, ATenantSeesItsOwnAndWhatIsShared) {
  PrefixTree tree = Make(8);
  tree.Insert(-1, kSharedSalt, std::vector{1, 2}, 0);
  tree.Insert(0, kAnn, std::vector{3, 4}, 1);
  tree.Insert(0, kBob, std::vector{3, 4}, 2);
  tree.Insert(-1, kAnn, std::vector{5, 6}, 3);
  EXPECT_THAT(Match(tree, {1, 2, 3, 4}, kAnn), ElementsAre(0, 1));
  EXPECT_THAT(Match(tree, {1, 2, 3, 4}, kBob), ElementsAre(0, 2));
  EXPECT_THAT(Match(tree, {1, 2, 3, 4}, kSharedSalt), ElementsAre(0));
  EXPECT_THAT(Match(tree, {5, 6}, kBob), IsEmpty());
  // What is shared already isn't kept twice.
  EXPECT_EQ(tree.Insert(-1, kBob, std::vector{1, 2}, 4), 0);
  tree.CheckInvariants();
}

TEST_F(PrefixTreeTest, TheLeastRecentlyUsedLeafGoesFirstAndHeldOnesStay) {
  PrefixTree tree = Make(8);
  for (int32_t block = 0; block < 4; ++block) {
    tree.Insert(block == 3 ? 0 : -1, kAnn, std::vector{block, block}, block);
  }
  EXPECT_EQ(tree.Evict(), -1);
  for (const int32_t block : {3, 2, 1, 0}) {
    now_ += 1;
    tree.SetIdle(block);
  }
  now_ += 1;
  tree.SetHeld(2);
  tree.SetIdle(2);
  EXPECT_EQ(tree.idle(), 4);
  EXPECT_EQ(tree.Evict(), 3);
  EXPECT_EQ(tree.Evict(), 1);
  tree.SetHeld(0);
  EXPECT_EQ(tree.Evict(), 2);
  EXPECT_EQ(tree.Evict(), -1);
  tree.SetIdle(0);
  EXPECT_EQ(tree.Evict(), 0);
  EXPECT_EQ(tree.size(), 0);
  tree.CheckInvariants();
}

TEST_F(PrefixTreeTest, WhatTakesLongToComputeAgainStaysLonger) {
  PrefixTree tree = Make(8, /*patience=*/10);
  tree.SetRecomputeCost(1, 0.5);  // the second block of a path takes 1.5 s
  tree.Insert(-1, kAnn, std::vector{1, 1}, 0);
  tree.Insert(0, kAnn, std::vector{2, 2}, 1);
  tree.Insert(-1, kAnn, std::vector{3, 3}, 2);
  tree.SetIdle(1);
  tree.SetIdle(0);
  now_ = 4.9;  // less than 10 x (1.5 - 1) later
  tree.SetIdle(2);
  EXPECT_EQ(tree.Evict(), 2);
  tree.Insert(-1, kAnn, std::vector{3, 3}, 2);
  now_ = 5.1;
  tree.SetIdle(2);
  EXPECT_EQ(tree.Evict(), 1);
}

TEST_F(PrefixTreeTest, ANodeBelowAnEvictedOneIsNotFoundUnderTheBlocksNextTokens) {
  PrefixTree tree = Make(8);
  tree.Insert(-1, kAnn, std::vector{1, 1}, 0);
  tree.Insert(0, kAnn, std::vector{2, 2}, 1);
  tree.SetIdle(0);  // its window has passed it, the one below is held
  EXPECT_EQ(tree.idle(), 1);
  EXPECT_EQ(tree.Evict(), 0);
  EXPECT_THAT(Match(tree, {1, 1, 2, 2}, kAnn), IsEmpty());
  tree.Insert(-1, kAnn, std::vector{1, 1}, 0);
  EXPECT_THAT(Match(tree, {1, 1, 2, 2}, kAnn), ElementsAre(0));
  tree.CheckInvariants();
  tree.SetIdle(1);
  tree.SetIdle(0);
  EXPECT_EQ(tree.idle(), 2);
  tree.CheckInvariants();
}

// Random operations against paths in a std::map, and eviction against a search of all nodes.
class PrefixTreeModel : public testing::TestWithParam<int> {};

TEST_P(PrefixTreeModel, AgreesWithAMapOfPaths) {
  std::mt19937 random(static_cast<uint32_t>(GetParam()));
  const auto below = [&random](size_t n) { return static_cast<int32_t>(random() % n); };
  double now = 0;
  PrefixTreeOptions options;
  options.now = [&now] { return now; };
  options.patience = GetParam() % 2 == 0 ? 0 : 3;
  const int32_t blocks = 20 + below(60);
  PrefixTree tree(blocks, 3, options);
  tree.SetRecomputeCost(0.5, 0.25);

  using Path = std::pair<std::vector<uint64_t>, std::vector<int32_t>>;  // salts, tokens
  struct Model {
    int32_t block;
    bool held;
    double last_use;
  };
  std::map<Path, Model> nodes;
  std::set<int32_t> free;
  for (int32_t block = 0; block < blocks; ++block) free.insert(block);
  const auto has_below = [&](const Path& path, auto&& predicate) {
    return std::ranges::any_of(nodes, [&](const auto& entry) {
      const auto& [salts, tokens] = entry.first;
      return tokens.size() > path.second.size() &&
             std::equal(path.second.begin(), path.second.end(), tokens.begin()) &&
             std::equal(path.first.begin(), path.first.end(), salts.begin()) &&
             predicate(entry.second);
    });
  };
  int hits = 0;
  int evictions = 0;
  for (int operation = 0; operation < 4000; ++operation) {
    now += 0.01 * below(100);
    std::vector<int32_t> ids;
    for (int32_t i = 3 * below(6) + below(3); i >= 0; --i) ids.push_back(below(8) == 0 ? 1 : 0);
    const uint64_t salt = static_cast<uint64_t>(below(3));
    std::vector<int32_t> path;
    tree.Match(ids, salt, &path);
    std::vector<int32_t> expected;
    Path at;
    while (at.second.size() + 3 <= ids.size()) {
      Path own = at;
      const auto from = ids.begin() + static_cast<int64_t>(at.second.size());
      own.second.insert(own.second.end(), from, from + 3);
      Path shared = own;
      own.first.push_back(salt);
      shared.first.push_back(kSharedSalt);
      const bool may_share = at.first.empty() || at.first.back() == kSharedSalt;
      auto found = nodes.find(own);
      if (found == nodes.end() && may_share) found = nodes.find(shared);
      if (found == nodes.end()) break;
      at = found->first;
      expected.push_back(found->second.block);
    }
    ASSERT_EQ(path, expected);
    hits += !path.empty();

    if (below(3) > 0) {
      // A sequence computes the next block of this path, or takes the path as it is.
      for (const int32_t block : path) {
        auto& model = std::ranges::find_if(nodes, [&](const auto& e) {
                        return e.second.block == block;
                      })->second;
        if (!model.held) {
          tree.SetHeld(block);
          model.held = true;
          model.last_use = now;
        }
      }
      const size_t next = 3 * path.size();
      if (next + 3 <= ids.size() && !free.empty()) {
        const int32_t block = *free.begin();
        const std::span<const int32_t> tokens(ids.data() + next, 3);
        const int32_t parent = path.empty() ? -1 : path.back();
        ASSERT_EQ(tree.Insert(parent, salt, tokens, block), block);
        free.erase(block);
        at.first.push_back(salt);
        at.second.insert(at.second.end(), tokens.begin(), tokens.end());
        nodes[at] = {block, true, now};
      }
    } else if (below(2) == 0) {
      // All sequences whose blocks begin with this path end.
      std::vector<Path> longest_first;
      for (const auto& entry : nodes) longest_first.push_back(entry.first);
      std::ranges::stable_sort(longest_first, [](const Path& a, const Path& b) {
        return a.second.size() > b.second.size();
      });
      for (const Path& ended : longest_first) {
        Model& model = nodes[ended];
        if (!model.held || below(2) == 0) continue;
        if (has_below(ended, [](const Model& m) { return m.held; })) continue;
        tree.SetIdle(model.block);
        model.held = false;
        model.last_use = now;
      }
    } else {
      const auto worth = [&](const auto& entry) {
        const double depth = static_cast<double>(entry.first.second.size()) / 3 - 1;
        return entry.second.last_use + options.patience * 0.5 * (1 + 0.25 * depth);
      };
      double least = 1e300;
      for (const auto& entry : nodes) {
        if (entry.second.held || has_below(entry.first, [](const Model&) { return true; }))
          continue;
        least = std::min(least, worth(entry));
      }
      const int32_t block = tree.Evict();
      ASSERT_EQ(block < 0, least == 1e300);
      if (block >= 0) {
        const auto gone = std::ranges::find_if(
            nodes, [&](const auto& entry) { return entry.second.block == block; });
        ASSERT_NE(gone, nodes.end());
        ASSERT_FALSE(gone->second.held);
        ASSERT_FALSE(has_below(gone->first, [](const Model&) { return true; }));
        ASSERT_DOUBLE_EQ(worth(*gone), least);
        nodes.erase(gone);
        free.insert(block);
        ++evictions;
      }
    }
    tree.CheckInvariants();
    ASSERT_EQ(tree.size(), static_cast<int32_t>(nodes.size()));
    ASSERT_EQ(tree.idle(),
              std::ranges::count_if(nodes, [](const auto& entry) { return !entry.second.held; }));
  }
  EXPECT_GT(hits, 0);
  EXPECT_GT(evictions, 0);
}

INSTANTIATE_TEST_SUITE_P(Seeds, PrefixTreeModel, testing::Range(1, 13));

}  // namespace
}  // namespace llmir::kvpool
