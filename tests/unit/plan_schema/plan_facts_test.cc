#include "plan_schema/plan_facts.h"

#include <gtest/gtest.h>

#include <set>

#include "plan_schema/plan_file.h"
#include "tests/unit/plan_schema/plan_builder.h"

namespace llmir::plan {
namespace {

PlanFile Load(const PlanT& plan) {
  StatusOr<PlanFile> file = PlanFile::FromBytes(PlanFile::Serialize(plan), "test");
  EXPECT_TRUE(file.ok()) << file.status().ToString();
  return std::move(file).value();
}

TEST(PlanFacts, RowBytesAreThoseOfTheBlockFormats) {
  EXPECT_EQ(RowBytes(DType::f32, 5), 20u);
  EXPECT_EQ(RowBytes(DType::i32, 5), 20u);
  EXPECT_EQ(RowBytes(DType::f16, 5), 10u);
  EXPECT_EQ(RowBytes(DType::bf16, 5), 10u);
  EXPECT_EQ(RowBytes(DType::q8_0, 64), 68u);
  EXPECT_EQ(RowBytes(DType::q4_0, 64), 36u);
  EXPECT_EQ(RowBytes(DType::q4_1, 64), 40u);
  EXPECT_EQ(RowBytes(DType::q3_0, 64), 28u);
  EXPECT_EQ(RowBytes(DType::q3_1, 64), 32u);
  EXPECT_EQ(RowBytes(DType::q5_0, 64), 44u);
  EXPECT_EQ(RowBytes(DType::q5_1, 64), 48u);
  EXPECT_EQ(RowBytes(DType::q6_0, 64), 52u);
  EXPECT_EQ(RowBytes(DType::q6_1, 64), 56u);
  EXPECT_EQ(RowBytes(DType::q3_1_64, 128), 56u);
  EXPECT_EQ(RowBytes(DType::q4_1_64, 128), 72u);
  EXPECT_EQ(RowBytes(DType::q5_1_64, 128), 88u);
  EXPECT_EQ(RowBytes(DType::q6_1_64, 128), 104u);
  EXPECT_EQ(RowBytes(DType::q8_rows, 64), 64u + 2 * (4 + 4));
  EXPECT_EQ(RowBytes(DType::none, 64), 0u);
  EXPECT_EQ(RowBytes(static_cast<DType>(200), 64), 0u);
}

TEST(PlanFacts, OnlyBlockFormatsAreQuantizedAndFewOfThemOld) {
  for (const DType dtype : EnumValuesDType()) {
    const std::string name = DTypeName(dtype);
    const bool is_format = name.starts_with("q") && dtype != DType::q8_rows;
    EXPECT_EQ(IsQuantized(dtype), is_format) << name;
    EXPECT_EQ(QuantGroup(dtype), !is_format ? 0u : name.ends_with("_64") ? 64u : 32u) << name;
    EXPECT_EQ(IsFewBits(dtype), is_format && name != "q8_0" && name != "q4_0" && name != "q4_1")
        << name;
  }
}

TEST(PlanFacts, TheLastLeafMayBeShort) {
  EXPECT_EQ(LeafExtent({1, 3}, 64, 160).begin, 64u);
  EXPECT_EQ(LeafExtent({1, 3}, 64, 160).end, 160u);
  EXPECT_EQ(LeafExtent({2, 2}, 64, 160).size(), 0u);
  const PlanFile file = Load(*BuildPlan({}));
  EXPECT_EQ(LeafCount(*file.plan().model(), Unit::vocabulary), 3u);
  EXPECT_EQ(LeafCount(*file.plan().model(), Unit::mlp_column), 3u);
  EXPECT_EQ(LeafCount(*file.plan().model(), Unit::query_head), 4u);
  EXPECT_EQ(LeafCount(*file.plan().model(), Unit::whole), 1u);
}

TEST(PlanFacts, RanksTakeEveryRowAndColumnOfATensor) {
  const PlanFile file = Load(*BuildPlan({.ranks = {3}}));
  const Stage& stage = *file.plan().replicas()->Get(0)->stages()->Get(0);
  for (const Tensor* tensor : *file.plan().tensors()) {
    std::set<std::pair<uint64_t, uint64_t>> taken;
    uint64_t sum = 0;
    for (const Rank* rank : *stage.ranks()) {
      const TensorPart part = RankTensorPart(*tensor, *rank);
      sum += part.rows.size() * part.columns.size();
      for (uint64_t row = part.rows.begin; row < part.rows.end; ++row) {
        for (uint64_t column = part.columns.begin; column < part.columns.end; ++column) {
          taken.insert({row, column});
        }
      }
    }
    EXPECT_EQ(taken.size(), tensor->rows() * tensor->columns()) << tensor->name()->str();
    const bool shared = tensor->unit() == Unit::whole || tensor->unit() == Unit::kv_head;
    EXPECT_EQ(sum > taken.size(), shared) << tensor->name()->str();
  }
}

TEST(PlanFacts, JoinedWeightsHaveTheRowsOfTheirPieces) {
  const PlanFile file = Load(*BuildPlan({.ranks = {3}}));
  const Plan& plan = file.plan();
  const Stage& stage = *plan.replicas()->Get(0)->stages()->Get(0);
  const Weight& qkv = *plan.weights()->Get(2);
  ASSERT_EQ(qkv.name()->str(), "layers.0.attention.qkv");
  const uint64_t rows[] = {(2 + 1 + 1) * 32, (1 + 1 + 1) * 32, (1 + 1 + 1) * 32};
  for (uint32_t r = 0; r < 3; ++r) {
    const WeightShape shape = RankWeightShape(plan, qkv, *stage.ranks()->Get(r));
    EXPECT_EQ(shape.rows, rows[r]);
    EXPECT_EQ(shape.columns, 128u);
  }
}

TEST(PlanFacts, ExtentsMakeRunsOfAboutTheirSize) {
  const uint64_t head = KvHeadBytes(DType::bf16, 16, 64);
  EXPECT_EQ(KvExtentBlocks(head, 1000, uint64_t{32} << 10), 16u);
  EXPECT_EQ(KvExtentBlocks(head, 1000, (uint64_t{64} << 10) - 1), 16u) << "a power of two, no more";
  EXPECT_EQ(KvExtentBlocks(head, 5, uint64_t{32} << 10), 8u) << "one extent has room for all";
  EXPECT_EQ(KvExtentBlocks(head, 1000, 1), 1u) << "each block by itself";
  EXPECT_EQ(KvExtentBlocks(head << 20, 1000), 1u) << "a slice is a run";
}

TEST(PlanFacts, PeakGrowsWithBlocksInUse) {
  auto plan = BuildPlan({});
  MemoryT& memory = *plan->replicas[0]->stages[0]->ranks[0]->memory;
  memory.weights = 1000;
  memory.activations = 200;
  memory.fixed = 30;
  memory.kv_block = 4;
  const PlanFile file = Load(*plan);
  const Memory& packed =
      *file.plan().replicas()->Get(0)->stages()->Get(0)->ranks()->Get(0)->memory();
  EXPECT_EQ(PeakBytes(packed, 0), 1230u);
  EXPECT_EQ(PeakBytes(packed, 10), 1270u);
}

TEST(PlanFacts, WorldHoldsTheRanksOfAllReplicas) {
  EXPECT_EQ(WorldSize(Load(*BuildPlan({.ranks = {2, 1}, .replicas = 3})).plan()), 9u);
}

// Whatever the number of tokens, halves and shares are all rows, each once; some may be empty.
TEST(PlanFacts, PartsOfTheTokensAreAllOfThem) {
  for (uint64_t tokens = 1; tokens < 40; ++tokens) {
    const Extent first = TokenRows(Rows::first_half, tokens, 0, 1);
    const Extent second = TokenRows(Rows::second_half, tokens, 0, 1);
    EXPECT_EQ(first.begin, 0u);
    EXPECT_EQ(first.end, (tokens + 1) / 2);
    EXPECT_EQ(second.begin, first.end);
    EXPECT_EQ(second.end, tokens);
    for (uint32_t ranks = 1; ranks <= 5; ++ranks) {
      uint64_t next = 0;
      for (uint32_t r = 0; r < ranks; ++r) {
        const Extent share = TokenRows(Rows::share, tokens, r, ranks);
        EXPECT_EQ(share.begin, next);
        EXPECT_LE(share.size(), tokens / ranks + 1);
        next = share.end;
      }
      EXPECT_EQ(next, tokens);
      EXPECT_EQ(TokenRows(Rows::tokens, tokens, ranks - 1, ranks).size(), tokens);
    }
  }
}

TEST(PlanFacts, OnlyHalvesHaveNoRowInCommon) {
  EXPECT_FALSE(ShareRows(Rows::first_half, Rows::second_half));
  EXPECT_FALSE(ShareRows(Rows::second_half, Rows::first_half));
  EXPECT_TRUE(ShareRows(Rows::first_half, Rows::first_half));
  EXPECT_TRUE(ShareRows(Rows::first_half, Rows::share));
  EXPECT_TRUE(ShareRows(Rows::share, Rows::tokens));
  EXPECT_FALSE(ShareRows(Rows::tokens, Rows::sampled));
}

TEST(PlanFacts, TheLongestPrefixThatLeavesATokenIsFound) {
  auto plan = BuildPlan({});
  for (const int32_t tokens : {32, 16, 64}) AddPrefix(*plan, tokens);
  AddPrefix(*plan, 16, 99);
  const PlanFile file = Load(*plan);
  std::vector<int32_t> ids = plan->prefixes[2]->ids;
  EXPECT_EQ(LongestPrefix(file.plan(), ids), 0) << "the whole of prefix 2: no token is left";
  ids.push_back(5);
  EXPECT_EQ(LongestPrefix(file.plan(), ids), 2);
  ids[40] += 1;
  EXPECT_EQ(LongestPrefix(file.plan(), ids), 0);
  ids[20] += 1;
  EXPECT_EQ(LongestPrefix(file.plan(), ids), 1);
  ids[0] += 1;
  EXPECT_EQ(LongestPrefix(file.plan(), ids), -1);
  EXPECT_EQ(LongestPrefix(file.plan(), {}), -1);
  EXPECT_EQ(PinnedBlocks(file.plan()), 4u + 1u) << "one of the longest, and the other one's";
  EXPECT_EQ(PinnedBlocks(Load(*BuildPlan({})).plan()), 0u);
}

}  // namespace
}  // namespace llmir::plan
