// Plans from a model's shape alone, and layouts for a number of ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>
#include <string>

#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_file.h"
#include "plan_schema/plan_verifier.h"
#include "planner/Frontend/ImportShape.h"
#include "planner/Layout.h"
#include "planner/Planner.h"
#include "tests/unit/plan_schema/checkpoint/test_files.h"

namespace llmir {
namespace {

using checkpoint::Checkpoint;
using checkpoint::Role;
using checkpoint::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kModels = LLMIR_SOURCE_DIR "/configs/models";

Checkpoint Shape(const std::string& name) {
  auto shape = readShape(fmt::format("{}/{}.yaml", kModels, name));
  EXPECT_TRUE(shape.ok()) << shape.status().ToString();
  return std::move(shape).value();
}

TEST(Shape, EveryShapeOfTheProjectLoadsAndIsPlanned) {
  for (const auto& entry : std::filesystem::directory_iterator(kModels)) {
    SCOPED_TRACE(entry.path().filename());
    ASSERT_TRUE(isShape(entry.path()));
    const auto shape = readShape(entry.path());
    ASSERT_TRUE(shape.ok()) << shape.status().ToString();
    EXPECT_FALSE(shape->has_weights());
    PlannerOptions options;
    options.planFolder = kModels;
    options.context = 64;
    const auto planned = planCheckpoint(*shape, nullptr, options);
    ASSERT_TRUE(planned.ok()) << planned.status().ToString();
    const auto file = plan::PlanFile::FromBytes(plan::PlanFile::Serialize(**planned), "plan");
    ASSERT_TRUE(file.ok()) << file.status().ToString();
    const Status valid = plan::VerifyPlan(file->plan());
    EXPECT_TRUE(valid.ok()) << valid.ToString();
    for (const auto& tensor : (*planned)->tensors) EXPECT_TRUE(tensor->leaf_hashes.empty());
    EXPECT_EQ((*planned)->files[0]->path, entry.path().filename());
  }
}

TEST(Shape, TensorsAreThoseOfTheModel) {
  const Checkpoint shape = Shape("llama-2-70b");
  // The published model: 68,976,648,192 parameters.
  int64_t elements = 0;
  for (const auto& tensor : shape.tensors()) elements += tensor.rows * tensor.columns;
  EXPECT_EQ(elements, 68'976'648'192);
  const auto key = shape.Find(Role::kKey, 79);
  ASSERT_TRUE(key.ok());
  EXPECT_EQ(key->name, "model.layers.79.self_attn.k_proj.weight");
  EXPECT_EQ(key->rows, 8 * 128);
  EXPECT_EQ(key->columns, 8192);
  EXPECT_NEAR(shape.config().rope_frequencies[63], std::pow(10000.0, -126.0 / 128), 1e-9);
}

TEST(Shape, ErrorsNameFileLineAndKey) {
  const TemporaryFolder folder;
  const std::string path = folder / "shape.yaml";
  const std::string good =
      "name: x\nlayers: 2\nhidden: 64\nquery_heads: 4\nkv_heads: 2\nhead_dim: 16\n"
      "mlp_columns: 96\nvocabulary: 300\ncontext: 64\nnorm_epsilon: 1.0e-5\n"
      "rope_theta: 10000.0\ntied_head: true\n";
  const auto refusal = [&](const std::string& before, const std::string& after) {
    std::string text = good;
    text.replace(text.find(before), before.size(), after);
    checkpoint::WriteFile(path, text);
    const auto read = readShape(path);
    EXPECT_FALSE(read.ok());
    return read.ok() ? "" : read.status().message();
  };
  checkpoint::WriteFile(path, good);
  EXPECT_TRUE(readShape(path).ok());
  EXPECT_THAT(refusal("layers: 2\n", ""), AllOf(HasSubstr("shape.yaml"), HasSubstr("layers")));
  EXPECT_THAT(refusal("layers: 2", "layers: two"), HasSubstr("line 2"));
  EXPECT_THAT(refusal("layers: 2", "layers: 0"), HasSubstr("layer count is 0"));
  EXPECT_THAT(refusal("kv_heads: 2", "kv_heads: 3"), HasSubstr("multiple of the 3 KV heads"));
  EXPECT_THAT(refusal("tied_head: true", "tied: true"), HasSubstr("tied"));
  EXPECT_THAT(refusal("rope_theta: 10000.0", "rope_theta: 0.5"), HasSubstr("rope_theta: 0.5"));
  EXPECT_THAT(readShape(folder / "none.yaml").status().message(), HasSubstr("configs/models"));
}

TEST(Layout, EveryNumberOfRanksUsesThemAll) {
  for (const std::string name : {"llama-2-7b", "llama-2-13b", "llama-2-70b"}) {
    const Checkpoint shape = Shape(name);
    const int64_t largest = getLargestTp(shape.config());
    double before = 0;
    for (int64_t ranks = 1; ranks <= 64; ++ranks) {
      SCOPED_TRACE(fmt::format("{} on {}", name, ranks));
      const auto layout = chooseLayout(shape, {.ranks = ranks});
      ASSERT_TRUE(layout.ok()) << layout.status().ToString();
      EXPECT_EQ(std::accumulate(layout->tp.begin(), layout->tp.end(), int64_t{0}), ranks);
      for (const int64_t tp : layout->tp) EXPECT_TRUE(tp >= 1 && tp <= largest);
      EXPECT_GT(layout->efficiency, 0.2);
      EXPECT_LE(layout->efficiency, 1.0 + 1e-9);
      if (ranks == 1) before = layout->usPerToken;
      EXPECT_LE(layout->usPerToken, before * 1.01);
    }
  }
}

TEST(Layout, RanksThatCannotBeUsedHaveAOneLineReason) {
  const Checkpoint shape = Shape("tiny-test");  // 3 layers, 5 query heads, 5 MLP leaves
  EXPECT_TRUE(chooseLayout(shape, {.ranks = 15}).ok());
  const auto many = chooseLayout(shape, {.ranks = 16});
  EXPECT_EQ(many.status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(many.status().message(),
            "--ranks 16: expected 1 to 15: the model has 3 layers, and at most 5 ranks can divide "
            "one");
  const auto large = chooseLayout(Shape("llama-2-70b"), {.ranks = 2, .rankMemory = 1'000'000'000});
  EXPECT_THAT(large.status().message(),
              AllOf(HasSubstr("--ranks 2"), HasSubstr("--rank-memory allows 1000000000")));
}

TEST(Layout, FewerBitsAndMoreRanksTakeLessMemory) {
  const Checkpoint shape = Shape("llama-2-7b");
  const auto bf16 = chooseLayout(shape, {.ranks = 4});
  const auto q4 = chooseLayout(shape, {.ranks = 4, .weights = "q4"});
  ASSERT_TRUE(bf16.ok() && q4.ok());
  EXPECT_NEAR(q4->largestRank / bf16->largestRank, 5.0 / 16, 0.01);
}

// Stages of unequal ranks take layers in proportion, and the plan holds for each.
TEST(Layout, UnequalStagesArePlanned) {
  const Checkpoint shape = Shape("llama-2-7b");
  PlannerOptions options;
  options.planFolder = kModels;
  options.context = 64;
  options.tp = {2, 1};
  options.pp = 2;
  const auto planned = planCheckpoint(shape, nullptr, options);
  ASSERT_TRUE(planned.ok()) << planned.status().ToString();
  const auto& stages = (*planned)->replicas[0]->stages;
  EXPECT_EQ(stages[0]->ranks.size(), 2u);
  EXPECT_NEAR(stages[0]->layer_end, 32 * 2 / 3, 1);
  options.tp = {1};
  options.pp = 1;
  options.ranks = 33;
  const auto odd = planCheckpoint(shape, nullptr, options);
  ASSERT_TRUE(odd.ok()) << odd.status().ToString();
  const auto file = plan::PlanFile::FromBytes(plan::PlanFile::Serialize(**odd), "plan");
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_EQ(plan::WorldSize(file->plan()), 33u);
  EXPECT_TRUE(plan::VerifyPlan(file->plan()).ok());
  EXPECT_THAT((*odd)->provenance->explanations[0]->pass, testing::StrEq("--ranks"));
}

}  // namespace
}  // namespace llmir
