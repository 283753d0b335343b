#include "kvpool/block_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace llmir::kvpool {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

SequenceId MustCreate(BlockPool& pool) {
  StatusOr<SequenceId> sequence = pool.Create();
  EXPECT_TRUE(sequence.ok()) << sequence.status().ToString();
  return sequence.ok() ? *sequence : -1;
}

// Where nothing is to be copied.
Status Grow(BlockPool& pool, SequenceId sequence, int32_t tokens, int32_t window = 0) {
  std::vector<BlockCopy> copies;
  const Status status = pool.Grow(sequence, tokens, window, &copies);
  EXPECT_TRUE(copies.empty());
  return status;
}

TEST(BlockPool, NewSequenceStartsAtTheLowestFreeBlockAndGrowsNextToItsLast) {
  BlockPool pool(8, 16, 2, 8);
  const SequenceId a = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, a, 33).ok());
  EXPECT_THAT(pool.blocks(a), ElementsAre(0, 1, 2));
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, b, 1).ok());
  EXPECT_THAT(pool.blocks(b), ElementsAre(3));
  ASSERT_TRUE(Grow(pool, a, 49).ok());
  EXPECT_THAT(pool.blocks(a), ElementsAre(0, 1, 2, 4));
  ASSERT_TRUE(Grow(pool, b, 17).ok());
  EXPECT_THAT(pool.blocks(b), ElementsAre(3, 5));
  EXPECT_EQ(pool.free_blocks(), 2);
  pool.CheckInvariants();
}

TEST(BlockPool, SequencesThatGrowInTurnsLieInOnePieceWithinTheirRuns) {
  // Two runs of 3 blocks at the end; what is left before them is for a slot without a run.
  BlockPool pool(8, 16, 3, 8, 3);
  const SequenceId pinned = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, pinned, 32).ok());
  EXPECT_THAT(pool.blocks(pinned), ElementsAre(0, 1));
  const SequenceId a = MustCreate(pool);
  const SequenceId b = MustCreate(pool);
  pool.Fork(b, pinned);
  for (int32_t tokens = 1; tokens <= 48; ++tokens) {
    ASSERT_TRUE(Grow(pool, a, tokens).ok());
    ASSERT_TRUE(Grow(pool, b, 32 + tokens).ok());
  }
  EXPECT_THAT(pool.blocks(a), ElementsAre(2, 3, 4));
  EXPECT_THAT(pool.blocks(b), ElementsAre(0, 1, 5, 6, 7));
  pool.CheckInvariants();
}

TEST(BlockPool, SearchWrapsAroundTheEnd) {
  BlockPool pool(130, 1, 3, 130);
  const SequenceId a = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, a, 5).ok());
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, b, 125).ok());
  EXPECT_EQ(pool.blocks(b).back(), 129);
  pool.Release(a);
  const SequenceId c = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, c, 1).ok());
  EXPECT_THAT(pool.blocks(c), ElementsAre(0));
  ASSERT_TRUE(Grow(pool, b, 126).ok());
  EXPECT_EQ(pool.blocks(b).back(), 1);
  pool.CheckInvariants();
}

TEST(BlockPool, GrowWithinTheLastBlockTakesNone) {
  BlockPool pool(2, 16, 1, 2);
  const SequenceId a = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, a, 1).ok());
  ASSERT_TRUE(Grow(pool, a, 16).ok());
  EXPECT_EQ(pool.free_blocks(), 1);
  EXPECT_EQ(pool.tokens(a), 16);
}

TEST(BlockPool, ExhaustionChangesNothing) {
  BlockPool pool(3, 16, 2, 3);
  const SequenceId a = MustCreate(pool);
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, a, 32).ok());
  const Status status = Grow(pool, b, 17);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("need 2 more blocks, 1 of 3 are free"));
  EXPECT_EQ(pool.tokens(b), 0);
  EXPECT_TRUE(pool.blocks(b).empty());
  EXPECT_EQ(pool.free_blocks(), 1);
  pool.CheckInvariants();
  pool.Release(a);
  EXPECT_TRUE(Grow(pool, b, 17).ok());
}

TEST(BlockPool, MoreThanTheLimitPerSequenceIsOutOfRange) {
  BlockPool pool(8, 16, 1, 2);
  const SequenceId a = MustCreate(pool);
  EXPECT_EQ(Grow(pool, a, 33).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(Grow(pool, a, INT32_MAX).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(pool.free_blocks(), 8);
  EXPECT_TRUE(Grow(pool, a, 32).ok());
}

TEST(BlockPool, ShrinkingIsRefused) {
  BlockPool pool(8, 16, 1, 8);
  const SequenceId a = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, a, 40).ok());
  EXPECT_EQ(Grow(pool, a, 39).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(pool.tokens(a), 40);
}

TEST(BlockPool, SlotsRunOutAndComeBack) {
  BlockPool pool(4, 16, 2, 4);
  const SequenceId a = MustCreate(pool);
  MustCreate(pool);
  EXPECT_EQ(pool.Create().status().code(), StatusCode::kResourceExhausted);
  pool.Release(a);
  EXPECT_EQ(MustCreate(pool), a);
}

TEST(BlockPool, PageTableIsCompressedRowsInTheGivenOrder) {
  BlockPool pool(8, 16, 3, 8);
  const SequenceId a = MustCreate(pool);
  const SequenceId empty = MustCreate(pool);
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, a, 32).ok());
  ASSERT_TRUE(Grow(pool, b, 17).ok());
  PageTable table;
  for (int repeat = 0; repeat < 2; ++repeat) {
    pool.FillPageTable(std::vector<SequenceId>{b, empty, a}, &table);
    EXPECT_THAT(table.indptr, ElementsAre(0, 2, 2, 4));
    EXPECT_THAT(table.indices, ElementsAre(2, 3, 0, 1));
    EXPECT_THAT(table.last_page_len, ElementsAre(1, 0, 16));
  }
}

TEST(BlockPoolDeathTest, ReleasedSequenceCannotBeUsed) {
  BlockPool pool(4, 16, 1, 4);
  const SequenceId a = MustCreate(pool);
  pool.Release(a);
  EXPECT_DEATH(pool.Release(a), "sequence 0 is not live");
  EXPECT_DEATH((void)pool.tokens(7), "sequence 7 is not live");
}

TEST(BlockPool, SharedBlocksAreFreeWhenTheLastHolderLeaves) {
  BlockPool pool(6, 16, 3, 6);
  const SequenceId a = MustCreate(pool);
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, a, 32).ok());
  pool.Fork(b, a);
  EXPECT_EQ(pool.tokens(b), 32);
  EXPECT_THAT(pool.blocks(b), ElementsAre(0, 1));
  ASSERT_TRUE(Grow(pool, a, 40).ok());
  ASSERT_TRUE(Grow(pool, b, 33).ok());
  EXPECT_THAT(pool.blocks(b), ElementsAre(0, 1, 3));
  pool.Release(a);
  EXPECT_EQ(pool.free_blocks(), 3);
  pool.CheckInvariants();
  pool.Release(b);
  EXPECT_EQ(pool.free_blocks(), 6);
  pool.CheckInvariants();
}

TEST(BlockPool, WritingIntoASharedBlockCopiesIt) {
  BlockPool pool(6, 16, 3, 6);
  const SequenceId a = MustCreate(pool);
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, a, 20).ok());
  pool.Fork(b, a);
  EXPECT_EQ(pool.Missing(b, 20), 0);
  EXPECT_EQ(pool.Missing(b, 21), 1);
  EXPECT_EQ(pool.Missing(b, 33), 2);
  std::vector<BlockCopy> copies;
  ASSERT_TRUE(pool.Grow(b, 33, 0, &copies).ok());
  ASSERT_EQ(copies.size(), 1u);
  EXPECT_EQ(copies[0].from, 1);
  EXPECT_EQ(copies[0].to, 2);
  EXPECT_THAT(pool.blocks(b), ElementsAre(0, 2, 3));
  // The other one is alone with its block now.
  ASSERT_TRUE(Grow(pool, a, 21).ok());
  EXPECT_THAT(pool.blocks(a), ElementsAre(0, 1));
  pool.CheckInvariants();
}

TEST(BlockPool, ShrinkingGivesBackWhatOnlyTheForgottenTokensNeeded) {
  BlockPool pool(6, 16, 3, 6);
  const SequenceId a = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, a, 50).ok());
  pool.Shrink(a, 33);
  EXPECT_EQ(pool.tokens(a), 33);
  EXPECT_EQ(pool.free_blocks(), 3);
  pool.Shrink(a, 32);
  EXPECT_EQ(pool.free_blocks(), 4);
  pool.CheckInvariants();
}

std::vector<int32_t> Count(int32_t first, int32_t count) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) ids[static_cast<size_t>(i)] = first + i;
  return ids;
}

TEST(BlockPool, CachedBlocksStayAfterReleaseAndAreFoundAgain) {
  BlockPool pool(6, 16, 3, 6);
  const std::vector<int32_t> ids = Count(100, 40);
  const SequenceId a = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, a, 40).ok());
  pool.Cache(a, ids, 1);
  pool.Release(a);
  EXPECT_EQ(pool.free_blocks(), 4);
  EXPECT_EQ(pool.available_blocks(), 6);
  std::vector<int32_t> path;
  pool.Match(ids, 2, &path);
  EXPECT_TRUE(path.empty()) << "another tenant's";
  pool.Match(ids, 1, &path);
  EXPECT_THAT(path, ElementsAre(0, 1));
  const SequenceId b = MustCreate(pool);
  pool.Begin(b, path);
  EXPECT_EQ(pool.tokens(b), 32);
  EXPECT_EQ(pool.available_blocks(), 4);
  // What is held isn't evicted: four of six can be had.
  const SequenceId c = MustCreate(pool);
  EXPECT_EQ(Grow(pool, c, 65).code(), StatusCode::kResourceExhausted);
  ASSERT_TRUE(Grow(pool, c, 64).ok());
  pool.Release(b);
  EXPECT_EQ(pool.available_blocks(), 2);
  // A leaf goes first.
  ASSERT_TRUE(Grow(pool, c, 65).ok());
  EXPECT_EQ(pool.evicted_blocks(), 1u);
  path.clear();
  pool.Match(ids, 1, &path);
  EXPECT_THAT(path, ElementsAre(0));
  pool.CheckInvariants();
}

TEST(BlockPool, ASequenceGoesOnWithTheEqualBlockThatWasThereFirst) {
  BlockPool pool(6, 16, 3, 6);
  const std::vector<int32_t> ids = Count(7, 40);
  const SequenceId a = MustCreate(pool);
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, a, 40).ok());
  ASSERT_TRUE(Grow(pool, b, 40).ok());
  pool.Cache(a, ids, 1);
  pool.Cache(b, ids, 1);
  EXPECT_THAT(pool.blocks(a), ElementsAre(0, 1, 2));
  EXPECT_THAT(pool.blocks(b), ElementsAre(0, 1, 5));
  EXPECT_EQ(pool.free_blocks(), 2);
  pool.CheckInvariants();
}

TEST(BlockPool, WhatAWindowHasPassedIsTakenFromTheTreeWhenNothingElseIsLeft) {
  // Four sequences of 64 tokens and a window of 32 each give back their first blocks, which stay
  // cached above blocks that are held; they can be had all the same.
  BlockPool pool(8, 16, 4, 100);
  const SequenceId a = MustCreate(pool);
  const std::vector<int32_t> ids = Count(1, 80);
  ASSERT_TRUE(Grow(pool, a, 64, 32).ok());
  pool.Cache(a, ids, 1);
  ASSERT_TRUE(Grow(pool, a, 80, 32).ok());
  EXPECT_THAT(pool.blocks(a), ElementsAre(-1, -1, 2, 3, 4));
  EXPECT_EQ(pool.free_blocks(), 3);
  EXPECT_EQ(pool.available_blocks(), 5);
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, b, 80).ok());
  EXPECT_EQ(pool.available_blocks(), 0);
  std::vector<int32_t> path;
  pool.Match(ids, 1, &path);
  EXPECT_TRUE(path.empty());
  pool.CheckInvariants();
  pool.Release(a);
  pool.Release(b);
  EXPECT_EQ(pool.available_blocks(), 8);
  pool.CheckInvariants();
}

// Random operations against an oracle of plain sets.
class BlockPoolModel : public testing::TestWithParam<int> {};

TEST_P(BlockPoolModel, AgreesWithSetsAfterEveryOperation) {
  std::mt19937 random(static_cast<uint32_t>(GetParam()));
  const int32_t blocks = 1 + static_cast<int32_t>(random() % 60);
  const int32_t block_size = 16 << (random() % 3);
  const int32_t max_sequences = 4 + static_cast<int32_t>(random() % 12);
  const int32_t max_blocks = 50 + static_cast<int32_t>(random() % 64);
  BlockPool pool(blocks, block_size, max_sequences, max_blocks);

  struct Model {
    int32_t tokens = 0;
    std::vector<int32_t> blocks;
  };
  std::map<SequenceId, Model> live;
  std::set<int32_t> free;
  for (int32_t block = 0; block < blocks; ++block) free.insert(block);
  // A block is free when no sequence has it.
  const auto release_unheld = [&](const std::vector<int32_t>& candidates) {
    for (const int32_t block : candidates) {
      const bool held = std::any_of(live.begin(), live.end(), [&](const auto& entry) {
        return std::count(entry.second.blocks.begin(), entry.second.blocks.end(), block) > 0;
      });
      if (!held) free.insert(block);
    }
  };
  int exhausted = 0;
  int shared = 0;

  for (int operation = 0; operation < 3000; ++operation) {
    const uint32_t choice = random() % 10;
    auto chosen = live.begin();
    if (!live.empty()) std::advance(chosen, random() % live.size());
    if (choice < 2 || live.empty()) {
      StatusOr<SequenceId> id = pool.Create();
      ASSERT_EQ(id.ok(), static_cast<int32_t>(live.size()) < max_sequences);
      if (id.ok()) {
        ASSERT_FALSE(live.contains(*id));
        live[*id] = {};
      }
    } else if (choice < 3) {
      const std::vector<int32_t> given_back = chosen->second.blocks;
      pool.Release(chosen->first);
      live.erase(chosen);
      release_unheld(given_back);
    } else if (choice < 5) {
      auto target = live.begin();
      std::advance(target, random() % live.size());
      if (target->second.tokens == 0) {
        pool.Fork(target->first, chosen->first);
        target->second = chosen->second;
        shared += chosen->second.tokens > 0;
      }
    } else {
      auto& [id, model] = *chosen;
      const int32_t tokens = model.tokens + static_cast<int32_t>(random() % (3 * block_size));
      const int32_t needed = tokens / block_size + (tokens % block_size != 0);
      const auto holders = [&live](int32_t block) {
        return std::ranges::count_if(live, [&](const auto& entry) {
          return std::ranges::count(entry.second.blocks, block) > 0;
        });
      };
      const bool copies = tokens > model.tokens && model.tokens % block_size != 0 &&
                          holders(model.blocks.back()) > 1;
      const int32_t missing = needed - static_cast<int32_t>(model.blocks.size()) + copies;
      const StatusCode expected = needed > max_blocks ? StatusCode::kOutOfRange
                                  : missing > static_cast<int32_t>(free.size())
                                      ? StatusCode::kResourceExhausted
                                      : StatusCode::kOk;
      std::vector<BlockCopy> asked;
      ASSERT_EQ(pool.Grow(id, tokens, 0, &asked).code(), expected);
      if (expected == StatusCode::kOk) {
        const auto take = [&](int32_t start) {
          auto next = free.lower_bound(start);
          if (next == free.end()) next = free.begin();
          return free.extract(next).value();
        };
        ASSERT_EQ(asked.size(), static_cast<size_t>(copies));
        if (copies) {
          ASSERT_EQ(asked[0].from, model.blocks.back());
          model.blocks.back() = take(asked[0].from);
          ASSERT_EQ(asked[0].to, model.blocks.back());
        }
        while (static_cast<int32_t>(model.blocks.size()) < needed) {
          // Behind what it shares lie the other holders' blocks: its own begin at the lowest.
          const bool begins = model.blocks.empty() || holders(model.blocks.back()) > 1;
          model.blocks.push_back(take(begins ? 0 : model.blocks.back()));
        }
        model.tokens = tokens;
      } else {
        exhausted += expected == StatusCode::kResourceExhausted;
      }
    }
    pool.CheckInvariants();
    ASSERT_EQ(pool.free_blocks(), static_cast<int32_t>(free.size()));
    for (const auto& [id, model] : live) {
      ASSERT_EQ(pool.tokens(id), model.tokens);
      ASSERT_THAT(pool.blocks(id), testing::ElementsAreArray(model.blocks));
    }
  }
  EXPECT_GT(exhausted, 0);  // the sizes above are such that every seed gets there
  EXPECT_GT(shared, 0);
}

INSTANTIATE_TEST_SUITE_P(Seeds, BlockPoolModel, testing::Range(1, 21));

TEST(BlockPool, AWindowGivesBackWhatNoNewTokenAttendsTo) {
  BlockPool pool(4, 16, 2, 100);
  const SequenceId a = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, a, 47, 32).ok());
  EXPECT_THAT(pool.blocks(a), ElementsAre(0, 1, 2));
  // Token 47 attends to tokens 16 to 47.
  ASSERT_TRUE(Grow(pool, a, 48, 32).ok());
  EXPECT_THAT(pool.blocks(a), ElementsAre(-1, 1, 2));
  ASSERT_TRUE(Grow(pool, a, 49, 32).ok());
  EXPECT_THAT(pool.blocks(a), ElementsAre(-1, 1, 2, 3));
  PageTable table;
  pool.FillPageTable(std::vector<SequenceId>{a}, &table);
  EXPECT_THAT(table.indices, ElementsAre(-1, 1, 2, 3));
  for (int32_t tokens = 50; tokens <= 1600; ++tokens) {
    ASSERT_TRUE(Grow(pool, a, tokens, 32).ok()) << tokens;
    ASSERT_GE(pool.free_blocks(), 1);
    pool.CheckInvariants();
  }
  // All that it has may be out of the window: it goes on as a new one.
  ASSERT_TRUE(Grow(pool, a, 1600, 1).ok());
  EXPECT_EQ(pool.free_blocks(), 4);
  pool.CheckInvariants();
  pool.Release(a);
  EXPECT_EQ(pool.free_blocks(), 4);
  pool.CheckInvariants();
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(Grow(pool, b, 64, 32).ok());
  EXPECT_EQ(pool.free_blocks(), 0);
  pool.CheckInvariants();
}

// What sequences read through their page tables is what they wrote, whatever they share, copy,
// cache, find again, give back and evict: a memory of tokens beside the pool.
class BlockPoolMemory : public testing::TestWithParam<int> {};

TEST_P(BlockPoolMemory, EverySequenceReadsItsOwnTokens) {
  std::mt19937 random(static_cast<uint32_t>(GetParam()));
  const auto below = [&random](int64_t n) { return static_cast<int32_t>(random() % n); };
  const int32_t block_size = 4;
  const int32_t total = 40 + below(60);
  const int32_t window = GetParam() % 3 == 0 ? 6 + below(20) : 0;
  double now = 0;
  PrefixTreeOptions options;
  options.now = [&now] { return now; };
  BlockPool pool(total, block_size, 10, 200, 0, options);
  pool.tree().SetRecomputeCost(0.01, 0.1);
  std::vector<std::vector<int32_t>> memory(static_cast<size_t>(total), std::vector<int32_t>(4, -1));
  struct Model {
    std::vector<int32_t> ids;
    uint64_t salt;
  };
  std::map<SequenceId, Model> live;
  uint64_t reused = 0;
  uint64_t copied = 0;
  // Few different continuations, so that prompts have beginnings in common.
  const auto next_id = [&](const std::vector<int32_t>& ids) {
    return static_cast<int32_t>(ids.size()) * 10 + (below(40) == 0 ? 1 : 0);
  };
  for (int operation = 0; operation < 4000; ++operation) {
    now += 0.001 * below(1000);
    auto chosen = live.begin();
    if (!live.empty()) std::advance(chosen, below(static_cast<int64_t>(live.size())));
    const int32_t choice = below(10);
    if (live.empty() || (choice < 2 && live.size() < 10)) {
      Model model{{}, kSharedSalt + static_cast<uint64_t>(below(3))};
      std::vector<int32_t> prompt;
      for (int32_t i = below(60); i >= 0; --i) prompt.push_back(next_id(prompt));
      const SequenceId id = MustCreate(pool);
      std::vector<int32_t> path;
      pool.Match(prompt, model.salt, &path);
      pool.Begin(id, path);
      model.ids.assign(prompt.begin(),
                       prompt.begin() + block_size * static_cast<int64_t>(path.size()));
      reused += path.size();
      live[id] = std::move(model);
    } else if (choice < 3) {
      pool.Release(chosen->first);
      live.erase(chosen);
    } else if (choice < 4 && live.size() < 10) {
      const SequenceId id = MustCreate(pool);
      pool.Fork(id, chosen->first);
      live[id] = chosen->second;
    } else if (choice < 5) {
      Model& model = chosen->second;
      // As a draft that isn't accepted: what was cached stays.
      const auto kept = static_cast<int32_t>(model.ids.size()) - below(3);
      const auto blocks = pool.blocks(chosen->first);
      const auto cached = std::ranges::count_if(
          blocks, [&](int32_t block) { return block >= 0 && pool.tree().contains(block); });
      if (window == 0 && kept >= 0 && kept / block_size >= cached) {
        pool.Shrink(chosen->first, kept);
        model.ids.resize(static_cast<size_t>(kept));
      }
    } else {
      auto& [id, model] = *chosen;
      std::vector<int32_t> ids = model.ids;
      for (int32_t i = below(12); i >= 0; --i) ids.push_back(next_id(ids));
      std::vector<BlockCopy> copies;
      const Status status = pool.Grow(id, static_cast<int32_t>(ids.size()), window, &copies);
      if (status.ok()) {
        for (const BlockCopy& copy : copies) {
          memory[static_cast<size_t>(copy.to)] = memory[static_cast<size_t>(copy.from)];
        }
        copied += copies.size();
        for (size_t i = model.ids.size(); i < ids.size(); ++i) {
          const int32_t block = pool.blocks(id)[i / block_size];
          ASSERT_EQ(pool.holders(block), 1) << "written while others read it";
          memory[static_cast<size_t>(block)][i % block_size] = ids[i];
        }
        model.ids = ids;
        if (below(4) > 0) pool.Cache(id, model.ids, model.salt);
      } else {
        ASSERT_EQ(status.code(), StatusCode::kResourceExhausted);
        ASSERT_GT(pool.Missing(id, static_cast<int32_t>(ids.size())), pool.available_blocks());
      }
    }
    pool.CheckInvariants();
    for (const auto& [id, model] : live) {
      ASSERT_EQ(pool.tokens(id), static_cast<int32_t>(model.ids.size()));
      const auto blocks = pool.blocks(id);
      for (size_t i = 0; i < model.ids.size(); ++i) {
        const int32_t block = blocks[i / block_size];
        const auto unread = static_cast<int32_t>(model.ids.size()) + 1 - window;
        if (window > 0 && static_cast<int32_t>(i) < unread && block < 0) continue;
        ASSERT_EQ(memory[static_cast<size_t>(block)][i % block_size], model.ids[i]);
      }
    }
  }
  for (const auto& [id, model] : live) pool.Release(id);
  EXPECT_EQ(pool.available_blocks(), total);
  pool.CheckInvariants();
  EXPECT_GT(reused, 0u);
  EXPECT_GT(copied, 0u);
  EXPECT_GT(pool.evicted_blocks(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, BlockPoolMemory, testing::Range(1, 13));

}  // namespace
}  // namespace llmir::kvpool
