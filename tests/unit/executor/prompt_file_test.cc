#include "executor/prompt_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace llmir::executor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

PromptContext IdsOnly() {
  PromptContext context{nullptr, nullptr, {}};
  context.defaults.max_tokens = 12;
  context.defaults.sampling.temperature = 0.25f;
  return context;
}

TEST(PromptFileTest, FieldsOfALineOverrideTheDefaults) {
  const auto request = ParsePromptLine(
      R"({"prompt_ids": [3, 4], "max_tokens": 5, "temperature": 0.5, "top_k": 7, "top_p": 0.5, "min_p": 0.125,
          "seed": 18446744073709551615, "stop": ["a", "b"], "ignore_eos": true, "force_ids": [9]})",
      IdsOnly());
  ASSERT_TRUE(request.ok()) << request.status().ToString();
  EXPECT_THAT(request->prompt_ids, ElementsAre(3, 4));
  EXPECT_EQ(request->max_tokens, 5);
  EXPECT_EQ(request->sampling.temperature, 0.5f);
  EXPECT_EQ(request->sampling.top_k, 7);
  EXPECT_EQ(request->sampling.top_p, 0.5f);
  EXPECT_EQ(request->sampling.min_p, 0.125f);
  EXPECT_EQ(request->sampling.seed, 18446744073709551615ull);
  EXPECT_THAT(request->stop, ElementsAre("a", "b"));
  EXPECT_TRUE(request->ignore_eos);
  EXPECT_THAT(request->force_ids, ElementsAre(9));

  const auto plain = ParsePromptLine(R"({"prompt_ids": [1], "stop": "x"})", IdsOnly());
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->max_tokens, 12);
  EXPECT_EQ(plain->sampling.temperature, 0.25f);
  EXPECT_THAT(plain->stop, ElementsAre("x"));
}

TEST(PromptFileTest, WrongLinesSayWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"{", "not JSON"},
      {"[1]", "expected an object"},
      {"{}", "0 of \"prompt\""},
      {R"({"prompt_ids": [1], "messages": []})", "messages"},
      {R"({"prompt_ids": 5})", "expected a list of ids"},
      {R"({"prompt_ids": [1, -2]})", "prompt_ids[1] is -2"},
      {R"({"prompt_ids": [1, 2.5]})", "prompt_ids[1] is 2.5"},
      {R"({"prompt_ids": [99999999999]})", "prompt_ids[0]"},
      {R"({"prompt_ids": [1], "max_token": 5})", "field \"max_token\" is not known"},
      {R"({"prompt_ids": [1], "max_tokens": -1})", "\"max_tokens\" is -1"},
      {R"({"prompt_ids": [1], "top_k": 4294967296})", "\"top_k\" is 4294967296"},
      {R"({"prompt_ids": [1], "temperature": "hot"})", "expected a number"},
      {R"({"prompt_ids": [1], "temperature": -1})", "temperature is -1"},
      {R"({"prompt_ids": [1], "top_p": 0})", "top_p is 0"},
      {R"({"prompt_ids": [1], "stop": ["", "x"]})", "stop[0]"},
      {R"({"prompt_ids": [1], "ignore_eos": 1})", "expected true or false"},
      {R"({"prompt": "text"})", "no tokenizer"},
  };
  for (const auto& [line, expected] : cases) {
    const auto request = ParsePromptLine(line, IdsOnly());
    ASSERT_FALSE(request.ok()) << line;
    EXPECT_THAT(request.status().message(), HasSubstr(expected)) << line;
  }
}

TEST(PromptFileTest, ErrorsNameFileAndLine) {
  const std::string path = testing::TempDir() + "/prompts.jsonl";
  std::ofstream(path) << R"({"prompt_ids": [1]})" << "\n\n" << R"({"prompt_ids": []  )" << "\n";
  const auto requests = ReadPromptFile(path, IdsOnly());
  ASSERT_FALSE(requests.ok());
  EXPECT_THAT(requests.status().message(), HasSubstr(path + ":3"));
  EXPECT_EQ(ReadPromptFile(path + ".missing", IdsOnly()).status().code(), StatusCode::kNotFound);
  std::ofstream(path) << "\n";
  EXPECT_THAT(ReadPromptFile(path, IdsOnly()).status().message(), HasSubstr("no prompts"));
}

TEST(ScoreFileTest, TakesPromptIdsAndNothingElse) {
  const std::string path = testing::TempDir() + "/score.jsonl";
  std::ofstream(path) << R"({"prompt_ids": [1, 2, 3]})" << "\n"
                      << R"({"prompt_ids": [4, 5]})" << "\n";
  const auto texts = ReadScoreFile(path, nullptr);
  ASSERT_TRUE(texts.ok());
  EXPECT_THAT(*texts, ElementsAre(ElementsAre(1, 2, 3), ElementsAre(4, 5)));
  std::ofstream(path) << R"({"prompt": "x"})" << "\n";
  EXPECT_THAT(ReadScoreFile(path, nullptr).status().message(), HasSubstr("prompt_ids"));
}

}  // namespace
}  // namespace llmir::executor
