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

TEST(BlockPool, NewSequenceStartsAtTheLowestFreeBlockAndGrowsNextToItsLast) {
  BlockPool pool(8, 16, 2, 8);
  const SequenceId a = MustCreate(pool);
  ASSERT_TRUE(pool.Grow(a, 33).ok());
  EXPECT_THAT(pool.blocks(a), ElementsAre(0, 1, 2));
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(pool.Grow(b, 1).ok());
  EXPECT_THAT(pool.blocks(b), ElementsAre(3));
  ASSERT_TRUE(pool.Grow(a, 49).ok());
  EXPECT_THAT(pool.blocks(a), ElementsAre(0, 1, 2, 4));
  ASSERT_TRUE(pool.Grow(b, 17).ok());
  EXPECT_THAT(pool.blocks(b), ElementsAre(3, 5));
  EXPECT_EQ(pool.free_blocks(), 2);
  pool.CheckInvariants();
}

TEST(BlockPool, SequencesThatGrowInTurnsLieInOnePieceWithinTheirRuns) {
  // Two runs of 3 blocks at the end; what is left before them is for a slot without a run.
  BlockPool pool(8, 16, 3, 8, 3);
  const SequenceId pinned = MustCreate(pool);
  ASSERT_TRUE(pool.Grow(pinned, 32).ok());
  EXPECT_THAT(pool.blocks(pinned), ElementsAre(0, 1));
  const SequenceId a = MustCreate(pool);
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(pool.Share(b, pinned, 2).ok());
  for (int32_t tokens = 1; tokens <= 48; ++tokens) {
    ASSERT_TRUE(pool.Grow(a, tokens).ok());
    ASSERT_TRUE(pool.Grow(b, 32 + tokens).ok());
  }
  EXPECT_THAT(pool.blocks(a), ElementsAre(2, 3, 4));
  EXPECT_THAT(pool.blocks(b), ElementsAre(0, 1, 5, 6, 7));
  pool.CheckInvariants();
}

TEST(BlockPool, SearchWrapsAroundTheEnd) {
  BlockPool pool(130, 1, 3, 130);
  const SequenceId a = MustCreate(pool);
  ASSERT_TRUE(pool.Grow(a, 5).ok());
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(pool.Grow(b, 125).ok());
  EXPECT_EQ(pool.blocks(b).back(), 129);
  pool.Release(a);
  const SequenceId c = MustCreate(pool);
  ASSERT_TRUE(pool.Grow(c, 1).ok());
  EXPECT_THAT(pool.blocks(c), ElementsAre(0));
  ASSERT_TRUE(pool.Grow(b, 126).ok());
  EXPECT_EQ(pool.blocks(b).back(), 1);
  pool.CheckInvariants();
}

TEST(BlockPool, GrowWithinTheLastBlockTakesNone) {
  BlockPool pool(2, 16, 1, 2);
  const SequenceId a = MustCreate(pool);
  ASSERT_TRUE(pool.Grow(a, 1).ok());
  ASSERT_TRUE(pool.Grow(a, 16).ok());
  EXPECT_EQ(pool.free_blocks(), 1);
  EXPECT_EQ(pool.tokens(a), 16);
}

TEST(BlockPool, ExhaustionChangesNothing) {
  BlockPool pool(3, 16, 2, 3);
  const SequenceId a = MustCreate(pool);
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(pool.Grow(a, 32).ok());
  const Status status = pool.Grow(b, 17);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("need 2 more blocks, 1 of 3 are free"));
  EXPECT_EQ(pool.tokens(b), 0);
  EXPECT_TRUE(pool.blocks(b).empty());
  EXPECT_EQ(pool.free_blocks(), 1);
  pool.CheckInvariants();
  pool.Release(a);
  EXPECT_TRUE(pool.Grow(b, 17).ok());
}

TEST(BlockPool, MoreThanTheLimitPerSequenceIsOutOfRange) {
  BlockPool pool(8, 16, 1, 2);
  const SequenceId a = MustCreate(pool);
  EXPECT_EQ(pool.Grow(a, 33).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(pool.Grow(a, INT32_MAX).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(pool.free_blocks(), 8);
  EXPECT_TRUE(pool.Grow(a, 32).ok());
}

TEST(BlockPool, ShrinkingIsRefused) {
  BlockPool pool(8, 16, 1, 8);
  const SequenceId a = MustCreate(pool);
  ASSERT_TRUE(pool.Grow(a, 40).ok());
  EXPECT_EQ(pool.Grow(a, 39).code(), StatusCode::kInvalidArgument);
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
  ASSERT_TRUE(pool.Grow(a, 32).ok());
  ASSERT_TRUE(pool.Grow(b, 17).ok());
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
  ASSERT_TRUE(pool.Grow(a, 40).ok());
  EXPECT_EQ(pool.Share(b, a, 3).code(), StatusCode::kInvalidArgument);  // the third isn't full
  ASSERT_TRUE(pool.Share(b, a, 2).ok());
  EXPECT_EQ(pool.tokens(b), 32);
  EXPECT_THAT(pool.blocks(b), ElementsAre(0, 1));
  EXPECT_EQ(pool.free_blocks(), 3);
  ASSERT_TRUE(pool.Grow(b, 33).ok());
  EXPECT_THAT(pool.blocks(b), ElementsAre(0, 1, 3));
  EXPECT_EQ(pool.Share(b, a, 1).code(), StatusCode::kInvalidArgument);  // not empty any more
  pool.Release(a);
  EXPECT_EQ(pool.free_blocks(), 3);
  pool.CheckInvariants();
  pool.Release(b);
  EXPECT_EQ(pool.free_blocks(), 6);
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
      const auto& [holder, held] = *chosen;
      auto target = live.begin();
      std::advance(target, random() % live.size());
      const int32_t count = static_cast<int32_t>(random() % 8);
      const bool possible = target->second.tokens == 0 && count <= held.tokens / block_size;
      const StatusCode expected = possible ? StatusCode::kOk : StatusCode::kInvalidArgument;
      ASSERT_EQ(pool.Share(target->first, holder, count).code(), expected);
      if (expected == StatusCode::kOk && count > 0) {
        target->second.blocks.assign(held.blocks.begin(), held.blocks.begin() + count);
        target->second.tokens = count * block_size;
        ++shared;
      }
    } else {
      auto& [id, model] = *chosen;
      const int32_t tokens = model.tokens + static_cast<int32_t>(random() % (3 * block_size));
      const int32_t needed = tokens / block_size + (tokens % block_size != 0);
      const int32_t missing = needed - static_cast<int32_t>(model.blocks.size());
      const StatusCode expected = needed > max_blocks ? StatusCode::kOutOfRange
                                  : missing > static_cast<int32_t>(free.size())
                                      ? StatusCode::kResourceExhausted
                                      : StatusCode::kOk;
      ASSERT_EQ(pool.Grow(id, tokens).code(), expected);
      if (expected == StatusCode::kOk) {
        for (int32_t i = 0; i < missing; ++i) {
          // Behind what it shares lie the other holders' blocks: its own begin at the lowest.
          const auto holds_last = [&model](const auto& entry) {
            return std::ranges::count(entry.second.blocks, model.blocks.back()) > 0;
          };
          const bool begins = model.blocks.empty() || std::ranges::count_if(live, holds_last) > 1;
          auto next = begins ? free.begin() : free.lower_bound(model.blocks.back());
          if (next == free.end()) next = free.begin();
          model.blocks.push_back(*next);
          free.erase(next);
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
  ASSERT_TRUE(pool.Grow(a, 47, 32).ok());
  EXPECT_THAT(pool.blocks(a), ElementsAre(0, 1, 2));
  // Token 47 attends to tokens 16 to 47.
  ASSERT_TRUE(pool.Grow(a, 48, 32).ok());
  EXPECT_THAT(pool.blocks(a), ElementsAre(-1, 1, 2));
  ASSERT_TRUE(pool.Grow(a, 49, 32).ok());
  EXPECT_THAT(pool.blocks(a), ElementsAre(-1, 1, 2, 3));
  PageTable table;
  pool.FillPageTable(std::vector<SequenceId>{a}, &table);
  EXPECT_THAT(table.indices, ElementsAre(-1, 1, 2, 3));
  for (int32_t tokens = 50; tokens <= 1600; ++tokens) {
    ASSERT_TRUE(pool.Grow(a, tokens, 32).ok()) << tokens;
    ASSERT_GE(pool.free_blocks(), 1);
    pool.CheckInvariants();
  }
  // All that it has may be out of the window: it goes on as a new one.
  ASSERT_TRUE(pool.Grow(a, 1600, 1).ok());
  EXPECT_EQ(pool.free_blocks(), 4);
  pool.CheckInvariants();
  pool.Release(a);
  EXPECT_EQ(pool.free_blocks(), 4);
  pool.CheckInvariants();
  const SequenceId b = MustCreate(pool);
  ASSERT_TRUE(pool.Grow(b, 64, 32).ok());
  EXPECT_EQ(pool.free_blocks(), 0);
  pool.CheckInvariants();
}

}  // namespace
}  // namespace llmir::kvpool
