#include "plan_schema/plan_printer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "plan_schema/plan_file.h"
#include "tests/unit/plan_schema/plan_builder.h"

namespace llmir::plan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string TextOf(const PlanT& plan, const PrintOptions& options = {}) {
  const auto file = PlanFile::FromBytes(PlanFile::Serialize(plan), "test");
  EXPECT_TRUE(file.ok()) << file.status().ToString();
  return PlanToText(file->plan(), options);
}

nlohmann::json JsonOf(const PlanT& plan) {
  const auto file = PlanFile::FromBytes(PlanFile::Serialize(plan), "test");
  EXPECT_TRUE(file.ok()) << file.status().ToString();
  return nlohmann::json::parse(PlanToJson(file->plan()));
}

TEST(PlanText, NamesModelLayoutLimitsAndOptions) {
  EXPECT_THAT(TextOf(*BuildPlan({.ranks = {2, 1}})),
              AllOf(HasSubstr("tiny (llama): 2 layers, hidden 128, 4 query and 2 KV heads of 32"),
                    HasSubstr("tiny.gguf (gguf,"), HasSubstr("3 ranks"), HasSubstr("[2+1]"),
                    HasSubstr("32 blocks of 16 tokens = 512 tokens"), HasSubstr("tp=1, pp=1"),
                    HasSubstr("needs: tensor_parallel, pipeline_parallel, quantized_weights")));
}

TEST(PlanText, TellsWhereTheKvBlocksLie) {
  auto plan = BuildPlan({});
  EXPECT_THAT(TextOf(*plan), HasSubstr("behind the activations, on rank 0 at 0:2097152"));
  plan->replicas[0]->stages[0]->ranks[0]->kv_arena = -1;
  EXPECT_THAT(TextOf(*plan), HasSubstr("KV blocks have memory of their own"));
}

TEST(PlanText, EqualLayersAreShownOnce) {
  const auto plan = BuildPlan({.layers = 5});
  const auto count = [](const std::string& text, const std::string& word) {
    size_t found = 0;
    for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
      ++found;
    }
    return found;
  };
  const std::string folded = TextOf(*plan, {.program = ProgramKind::mixed});
  EXPECT_THAT(folded, HasSubstr("layers 0-4, x 5:"));
  EXPECT_EQ(count(folded, "\n  attention.qkv "), 1u);
  const std::string full = TextOf(*plan, {.program = ProgramKind::mixed, .all_steps = true});
  EXPECT_EQ(count(full, "\n  attention.qkv "), 5u);
  EXPECT_EQ(count(folded, " qkv "), 1u);  // the buffer
  EXPECT_EQ(count(full, " qkv "), 5u);
}

TEST(PlanText, LayersThatDifferAreShownApart) {
  auto plan = BuildPlan({.layers = 5});
  FindStep(FindProgram(*plan, ProgramKind::mixed), StepKind::rope_append, 2)
      .ranks[0]
      ->cost->flops_per_token = 123456;
  EXPECT_THAT(TextOf(*plan, {.program = ProgramKind::mixed}),
              AllOf(HasSubstr("layers 0-1, x 2:"), HasSubstr("layer 2\n"),
                    HasSubstr("layers 3-4, x 2:"), HasSubstr("123k")));
}

TEST(PlanText, OneKindOfProgramCanBeChosen) {
  const std::string text = TextOf(*BuildPlan({}), {.program = ProgramKind::decode});
  EXPECT_THAT(text, AllOf(HasSubstr("Program decode"), Not(HasSubstr("Program mixed"))));
}

TEST(PlanText, TimesAreShownOnlyWithACalibration) {
  auto plan = BuildPlan({});
  FindStep(FindProgram(*plan, ProgramKind::mixed), StepKind::linear).ranks[0]->predicted_us = 12.5f;
  EXPECT_THAT(TextOf(*plan), Not(HasSubstr("12.5")));
  plan->provenance->calibration_file = "host.json";
  EXPECT_THAT(TextOf(*plan), AllOf(HasSubstr("12.5"), HasSubstr("times from host.json")));
}

TEST(PlanText, FitsAHundredColumns) {
  for (const auto& ranks : {std::vector<uint32_t>{1}, {2}, {3, 2}}) {
    std::istringstream lines(TextOf(*BuildPlan({.ranks = ranks, .layers = 30, .overlap = true})));
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
  }
}

TEST(PlanJson, HoldsDefaultsAndNamesEnums) {
  const auto plan = BuildPlan({.ranks = {2}});
  const nlohmann::json json = JsonOf(*plan);
  EXPECT_EQ(json["model"]["rope_style"], "halves");
  EXPECT_EQ(json["tensors"].size(), plan->tensors.size());
  EXPECT_EQ(json["tensors"][0]["dtype"], "q8_0");
  EXPECT_EQ(json["tensors"][0]["offset"], plan->tensors[0]->offset);
  EXPECT_EQ(json["required_features"], plan->required_features);
  const nlohmann::json& program = json["replicas"][0]["stages"][0]["programs"][0];
  EXPECT_EQ(program["kind"], "mixed");
  EXPECT_EQ(program["steps"][0]["kind"], "embedding");
  EXPECT_EQ(program["steps"][0]["inputs"], nlohmann::json::array());
  EXPECT_EQ(program["steps"][0]["ranks"][1]["skip"], false);
  EXPECT_EQ(program["steps"].size(), plan->replicas[0]->stages[0]->programs[0]->steps.size());
}

TEST(PlanJson, NumbersReadBackToTheSameValue) {
  auto plan = BuildPlan({});
  plan->model->norm_epsilon = 0.1f;
  plan->numerics = 0xfedcba9876543210;
  StepRankT& rank = *FindProgram(*plan, ProgramKind::mixed).steps[0]->ranks[0];
  rank.cost->flops = 1.0 / 3;
  rank.cost->bytes = std::numeric_limits<double>::infinity();
  const nlohmann::json json = JsonOf(*plan);
  EXPECT_EQ(json["model"]["norm_epsilon"].get<float>(), 0.1f);
  EXPECT_EQ(json["numerics"].get<uint64_t>(), 0xfedcba9876543210);
  const nlohmann::json& cost =
      json["replicas"][0]["stages"][0]["programs"][0]["steps"][0]["ranks"][0]["cost"];
  EXPECT_EQ(cost["flops"].get<double>(), 1.0 / 3);
  EXPECT_TRUE(cost["bytes"].is_null());
}

TEST(PlanJson, AnyStringIsEscaped) {
  auto plan = BuildPlan({});
  plan->model->name = "\"quoted\"\n\\ é 𝄞";
  plan->files[0]->path = "not\xffutf8";
  const nlohmann::json json = JsonOf(*plan);
  EXPECT_EQ(json["model"]["name"], "\"quoted\"\n\\ é 𝄞");
  EXPECT_EQ(json["files"][0]["path"], "not\u00ffutf8");
}

}  // namespace
}  // namespace llmir::plan
