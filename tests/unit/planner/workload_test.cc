// Workload files: what they say, what is refused, and what a plan takes from them.
#include "planner/Workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>

#include "tests/unit/plan_schema/checkpoint/test_files.h"

namespace llmir {
namespace {

using checkpoint::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

class WorkloadTest : public testing::Test {
 protected:
  StatusOr<Workload> Read(const std::string& text) {
    const std::string path = folder_ / "load.yaml";
    checkpoint::WriteFile(path, text);
    return readWorkload(path);
  }
  std::string Refusal(const std::string& text) { return checkpoint::RefusalOf(Read(text)); }
  const TemporaryFolder folder_;
};

TEST_F(WorkloadTest, EveryWorkloadOfTheProjectLoads) {
  int files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(LLMIR_SOURCE_DIR "/configs/workloads")) {
    const auto workload = readWorkload(entry.path());
    ASSERT_TRUE(workload.ok()) << workload.status().ToString();
    EXPECT_EQ(workload->name + ".yaml", entry.path().filename());
    EXPECT_EQ(workload->file, entry.path().filename());
    EXPECT_GE(workload->batch, 1);
    EXPECT_FALSE(workload->requests.empty());
    ++files;
  }
  EXPECT_GE(files, 3);
}

TEST_F(WorkloadTest, RequestsAndPrefixesAreReadAsListed) {
  const auto workload = Read(
      "name: two\n"
      "batch: 3\n"
      "requests: [{prompt: 10, answer: 20}, {prompt: 30, answer: 60}]\n"
      "prefixes:\n"
      "  - {name: a, ids: [5, 6], share: 0.5}\n"
      "  - {name: b, text: \"x\\ny\"}\n"
      "prompts: [\"one\", \"two\"]\n");
  ASSERT_TRUE(workload.ok()) << workload.status().ToString();
  EXPECT_EQ(workload->batch, 3);
  ASSERT_EQ(workload->requests.size(), 2u);
  EXPECT_EQ(workload->requests[1].prompt, 30);
  EXPECT_EQ(workload->requests[1].answer, 60);
  EXPECT_DOUBLE_EQ(workload->getMeanContext(), 40);
  ASSERT_EQ(workload->prefixes.size(), 2u);
  EXPECT_THAT(workload->prefixes[0].ids, testing::ElementsAre(5, 6));
  EXPECT_DOUBLE_EQ(workload->prefixes[0].share, 0.5);
  EXPECT_EQ(workload->prefixes[1].text, "x\ny");
  EXPECT_DOUBLE_EQ(workload->prefixes[1].share, 1);
  EXPECT_THAT(workload->prompts, testing::ElementsAre("one", "two"));
}

TEST_F(WorkloadTest, DistributionsGiveEvenlySpacedQuantiles) {
  const Lognormal distribution{100, 0.5, 1, 100000};
  std::vector<int64_t> values = drawEvenly(distribution, 1001, 1);
  EXPECT_EQ(values[500], 100);  // the median
  EXPECT_TRUE(std::is_sorted(values.begin(), values.end()));
  // One standard deviation above lies below 84.13 % of the values.
  EXPECT_NEAR(values[842], 100 * std::exp(0.5), 1.5);
  double mean = 0;
  for (const int64_t value : values) mean += static_cast<double>(value) / 1001;
  EXPECT_NEAR(mean, 100 * std::exp(0.125), 1);
  // Another order of the same values; and a bound on either side.
  std::vector<int64_t> shuffled = drawEvenly(distribution, 1001, 618);
  EXPECT_NE(shuffled, values);
  std::sort(shuffled.begin(), shuffled.end());
  EXPECT_EQ(shuffled, values);
  values = drawEvenly({100, 0.5, 90, 120}, 101, 1);
  EXPECT_EQ(values.front(), 90);
  EXPECT_EQ(values.back(), 120);
}

TEST_F(WorkloadTest, ErrorsNameFileLineAndWhatWasExpected) {
  const std::string requests = "requests: [{prompt: 10, answer: 20}]\n";
  EXPECT_THAT(Refusal("name: x\nbatch: 0\n" + requests),
              AllOf(HasSubstr("load.yaml"), HasSubstr("batch: 0"), HasSubstr("expected 1 to")));
  EXPECT_THAT(Refusal("name: x\nbatch: 1\n"), HasSubstr("either requests"));
  EXPECT_THAT(Refusal("name: x\nbatch: 1\n" + requests +
                      "lengths: {prompt: {median: 1, sigma: 0, most: 1}, answer: {median: 1, "
                      "sigma: 0, most: 1}}\n"),
              HasSubstr("either requests"));
  EXPECT_THAT(Refusal("name: x\nbatch: 1\nrequests: [{prompt: 0, answer: 20}]\n"),
              AllOf(HasSubstr("line 3"), HasSubstr("0 and 20 tokens")));
  EXPECT_THAT(Refusal("name: x\nbatch: many\n" + requests), HasSubstr("line 2"));
  EXPECT_THAT(Refusal("batch: 1\n" + requests), HasSubstr("name"));
  EXPECT_THAT(Refusal("name: x\nbatch: 1\nrate: 2\n" + requests), HasSubstr("rate"));
  EXPECT_THAT(Refusal("name: x\nbatch: 1\n" + requests + "prefixes: [{name: p}]\n"),
              AllOf(HasSubstr("prefix p"), HasSubstr("either text or ids")));
  EXPECT_THAT(
      Refusal("name: x\nbatch: 1\n" + requests + "prefixes: [{name: p, ids: [1], share: 2}]\n"),
      HasSubstr("share 2"));
  EXPECT_THAT(readWorkload(folder_ / "none.yaml").status().message(),
              AllOf(HasSubstr("none.yaml"), HasSubstr("configs/workloads")));
}

}  // namespace
}  // namespace llmir
