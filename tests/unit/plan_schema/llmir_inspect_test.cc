// Runs the llmir-inspect that this build made.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "plan_schema/plan_file.h"
#include "tests/unit/plan_schema/plan_builder.h"

namespace llmir::plan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class LlmirInspect : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              fmt::format("llmir_inspect_test.{}.{}", getpid(),
                          ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Write(const PlanT& plan) const {
    const std::vector<std::byte> bytes = PlanFile::Serialize(plan);
    const std::string path = (folder_ / "plan.fb").string();
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    return path;
  }

  struct Result {
    int exit_code;
    std::string output;
    std::string error;
  };
  Result Run(const std::string& arguments) const {
    const std::string error_path = (folder_ / "stderr").string();
    const std::string command =
        fmt::format("{}/bin/llmir-inspect {} 2>{}", LLMIR_BINARY_DIR, arguments, error_path);
    Result result;
    FILE* pipe = popen(command.c_str(), "r");
    char buffer[4096];
    while (const size_t count = fread(buffer, 1, sizeof buffer, pipe)) {
      result.output.append(buffer, count);
    }
    const int status = pclose(pipe);
    result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    std::ifstream error(error_path);
    result.error.assign(std::istreambuf_iterator<char>(error), {});
    return result;
  }

  // Failed with one line, which holds `text`.
  static void ExpectOneLine(const Result& result, int exit_code, const std::string& text) {
    EXPECT_EQ(result.exit_code, exit_code);
    EXPECT_THAT(result.output, IsEmpty());
    EXPECT_THAT(result.error, AllOf(HasSubstr("llmir-inspect: "), HasSubstr(text)));
    EXPECT_EQ(result.error.find('\n'), result.error.size() - 1) << result.error;
  }

  std::filesystem::path folder_;
};

TEST_F(LlmirInspect, ShowsAndVerifiesAPlan) {
  const std::string path = Write(*BuildPlan({.ranks = {2, 1}}));
  const Result shown = Run("show " + path);
  EXPECT_EQ(shown.exit_code, 0) << shown.error;
  EXPECT_THAT(shown.output, AllOf(HasSubstr("LLMIR plan 0.1"), HasSubstr("Program decode")));
  const Result verified = Run("verify " + path);
  EXPECT_EQ(verified.exit_code, 0) << verified.error;
  EXPECT_THAT(verified.output, HasSubstr("verified: 3 ranks"));
}

TEST_F(LlmirInspect, ShowsJsonEvenOfAPlanThatMayNotRun) {
  auto plan = BuildPlan({});
  plan->kv->block_size = 17;
  const std::string path = Write(*plan);
  const Result json = Run("show --json " + path);
  EXPECT_EQ(json.exit_code, 0) << json.error;
  EXPECT_EQ(nlohmann::json::parse(json.output)["kv"]["block_size"], 17);
  ExpectOneLine(Run("show " + path), 1, "kv.block_size: 17");
  ExpectOneLine(Run("verify " + path), 1, "kv.block_size: 17");
}

TEST_F(LlmirInspect, ChoosesPrograms) {
  const std::string path = Write(*BuildPlan({}));
  const Result result = Run("show --program score --steps " + path);
  EXPECT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.output, HasSubstr("Program score"));
  EXPECT_EQ(result.output.find("Program mixed"), std::string::npos);
}

TEST_F(LlmirInspect, ShowsWhatPassesDid) {
  auto plan = BuildPlan({});
  for (const auto& [pass, text, gain] :
       {std::tuple{"llm-first", "joined 3 things", "2 fewer steps"},
        std::tuple{"llm-second", "found nothing", ""}}) {
    auto explanation = std::make_unique<ExplanationT>();
    explanation->pass = pass;
    explanation->text = text;
    explanation->gain = gain;
    plan->provenance->explanations.push_back(std::move(explanation));
  }
  const Result result = Run("show --explain " + Write(*plan));
  EXPECT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.output, HasSubstr("\n\nllm-first: joined 3 things\n    gain: 2 fewer steps\n"
                                       "llm-second: found nothing\n"));
  EXPECT_EQ(result.output.find("Program"), std::string::npos);
}

TEST_F(LlmirInspect, ErrorsAreOneLine) {
  ExpectOneLine(Run("show /nonexistent.fb"), 1, "/nonexistent.fb: no such file");
  ExpectOneLine(Run("verify"), 2, "PLAN is required");
  ExpectOneLine(Run(""), 2, "subcommand");
  ExpectOneLine(Run("show --program sing " + Write(*BuildPlan({}))), 2, "--program");
}

TEST_F(LlmirInspect, HelpAndVersionSucceed) {
  EXPECT_THAT(Run("--version").output, HasSubstr("llmir-inspect 0."));
  const Result help = Run("--help");
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.output, AllOf(HasSubstr("show"), HasSubstr("verify")));
}

}  // namespace
}  // namespace llmir::plan
