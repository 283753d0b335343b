// What `llmir-exec --calibrate` measured, read and asked.
#include "plan_schema/cost/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "plan_schema/base/hash.h"
#include "tests/unit/plan_schema/checkpoint/test_files.h"

namespace llmir::plan {
namespace {

using checkpoint::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kFile = R"({
  "version": 2, "machine": {"cpu": "a cpu", "isa": "avx512", "cores": 2}, "commit": "c", "command": "llmir-exec",
  "threads": 2, "memory_bytes_per_s": 2e10, "barrier_us": 0.5, "launch_us": 1.5,
  "rope_us_per_element": 0.01, "sample_us_per_id": 0.001, "process_bytes": 1000,
  "linear": [
    {"kernel": "linear_q8_q4_1", "rows": 100, "columns": 64,
     "tokens": [{"tokens": 8, "us": 20}, {"tokens": 1, "us": 6}, {"tokens": 128, "us": 260}]},
    {"kernel": "linear_q8_q4_1", "rows": 300, "columns": 64,
     "tokens": [{"tokens": 1, "us": 12}, {"tokens": 128, "us": 600}]},
    {"kernel": "linear_q8_q4_1", "rows": 100, "columns": 64, "leaf_columns": 32,
     "tokens": [{"tokens": 1, "us": 7}]},
    {"kernel": "linear_q8_q8_0", "rows": 100, "columns": 64, "tokens": [{"tokens": 1, "us": 9}]}],
  "attention": [
    {"kv": "bf16", "form": "flash", "block_size": 16, "head_dim": 64, "heads_per_kv": 3, "fused": false,
     "batch": 32, "context": 64, "tokens": 1, "us": 96},
    {"kv": "bf16", "form": "flash", "block_size": 16, "head_dim": 64, "heads_per_kv": 3, "fused": false,
     "batch": 32, "context": 192, "tokens": 1, "us": 192}],
  "vector": [{"kernel": "rms_norm_f32", "columns": 576, "us_per_row": 0.25}]
})";

class CalibrationTest : public testing::Test {
 protected:
  StatusOr<Calibration> Read(const std::string& text) {
    const std::string path = folder_ / "machine.json";
    checkpoint::WriteFile(path, text);
    return Calibration::Read(path);
  }
  // kFile with `before` replaced by `after`.
  std::string Refusal(const std::string& before, const std::string& after) {
    return checkpoint::RefusalOf(Read(checkpoint::Replaced(kFile, before, after)));
  }
  const TemporaryFolder folder_;
};

TEST_F(CalibrationTest, ReadsWhatWasMeasured) {
  const auto calibration = Read(kFile);
  ASSERT_TRUE(calibration.ok()) << calibration.status().ToString();
  EXPECT_EQ(calibration->file(), "machine.json");
  const std::string_view text = kFile;
  EXPECT_EQ(calibration->hash(), Hash64(std::as_bytes(std::span(text.data(), text.size()))));
  EXPECT_EQ(calibration->all().threads, 2);
  EXPECT_DOUBLE_EQ(calibration->all().barrier_us, 0.5);
  EXPECT_DOUBLE_EQ(calibration->all().MemoryUs(1e6), 50);
}

TEST_F(CalibrationTest, LinearTimesAreInterpolatedByTokensAndByElements) {
  const auto calibration = Read(kFile);
  ASSERT_TRUE(calibration.ok());
  const auto us = [&](double rows, double columns, double tokens) {
    return calibration->all().LinearUs("linear_q8_q4_1", rows, columns, tokens).value();
  };
  EXPECT_DOUBLE_EQ(us(100, 64, 1), 6);
  EXPECT_DOUBLE_EQ(us(100, 64, 8), 20);
  EXPECT_DOUBLE_EQ(us(100, 64, 4.5), 13);
  EXPECT_DOUBLE_EQ(us(100, 64, 256), 520);
  // Over shapes on the line through 6 us for 6400 elements and 12 us for 19200, in both directions;
  // very small ones not below their part of the first.
  EXPECT_DOUBLE_EQ(us(50, 64, 1), 4.5);
  EXPECT_DOUBLE_EQ(us(600, 64, 1), 21);
  EXPECT_DOUBLE_EQ(us(200, 64, 1), 9);
  EXPECT_FALSE(calibration->all().LinearUs("linear_f32_f32", 100, 64, 1).has_value());
}

TEST_F(CalibrationTest, SumsOverLeavesHaveTimesOfTheirOwnWhereTheyWereMeasured) {
  const auto calibration = Read(kFile);
  ASSERT_TRUE(calibration.ok());
  const Profile& all = calibration->all();
  EXPECT_DOUBLE_EQ(all.LinearUs("linear_q8_q4_1", 100, 64, 1, /*leaves=*/true).value(), 7);
  EXPECT_DOUBLE_EQ(all.LinearUs("linear_q8_q4_1", 100, 64, 1, /*leaves=*/false).value(), 6);
  EXPECT_DOUBLE_EQ(all.LinearUs("linear_q8_q8_0", 100, 64, 1, /*leaves=*/true).value(), 9);
}

TEST_F(CalibrationTest, AttentionTimesFollowContextAndWork) {
  const auto calibration = Read(kFile);
  ASSERT_TRUE(calibration.ok());
  AttentionShape shape;
  shape.heads_per_kv = 3;
  shape.batch = 32;
  shape.context = 128;
  EXPECT_DOUBLE_EQ(calibration->all().AttentionUs(shape).value(), 144);
  shape.batch = 16;
  shape.kv_heads = 4;
  shape.context = 64;
  EXPECT_DOUBLE_EQ(calibration->all().AttentionUs(shape).value(), 192);
  shape.block_size = 32;
  EXPECT_FALSE(calibration->all().AttentionUs(shape).has_value());
  shape.block_size = 16;
  shape.kv = "f32";
  EXPECT_FALSE(calibration->all().AttentionUs(shape).has_value());
}

TEST_F(CalibrationTest, VectorTimesAreInProportionToElements) {
  const auto calibration = Read(kFile);
  ASSERT_TRUE(calibration.ok());
  EXPECT_DOUBLE_EQ(calibration->all().VectorUs("rms_norm_f32", 576, 8).value(), 1);
  EXPECT_DOUBLE_EQ(calibration->all().VectorUs("rms_norm_f32", 1152, 1).value(), 0.5);
  EXPECT_FALSE(calibration->all().VectorUs("add_f32", 576, 1).has_value());
}

TEST_F(CalibrationTest, AnErrorNamesFileFieldAndWhatWasExpected) {
  EXPECT_THAT(Refusal("\"version\": 2", "\"version\": 1"),
              AllOf(HasSubstr("machine.json"), HasSubstr("version 1"), HasSubstr("reads 2")));
  EXPECT_THAT(Refusal("\"threads\": 2", "\"threads\": 0"),
              AllOf(HasSubstr("machine.json"), HasSubstr("calibration.threads"),
                    HasSubstr("expected an integer above 0")));
  EXPECT_THAT(Refusal("\"us\": 6", "\"us\": -1"),
              AllOf(HasSubstr("calibration.linear[0].tokens[1].us"),
                    HasSubstr("expected a number above 0")));
  EXPECT_THAT(Refusal("\"fused\": false", "\"fused\": 0"),
              AllOf(HasSubstr("calibration.attention[0].fused"), HasSubstr("true or false")));
  EXPECT_THAT(Refusal("\"kernel\": \"rms_norm_f32\"", "\"name\": \"rms_norm_f32\""),
              AllOf(HasSubstr("calibration.vector[0].kernel"), HasSubstr("missing")));
  EXPECT_THAT(Refusal("\"version\": 2,", "\"version\": 2"), HasSubstr("no JSON"));
  EXPECT_THAT(Calibration::Read(folder_ / "none.json").status().message(),
              AllOf(HasSubstr("none.json"), HasSubstr("llmir-exec --calibrate")));
}

TEST_F(CalibrationTest, OneThreadAloneAndLinksAreReadWhereTheyWereMeasured) {
  const auto without = Read(kFile);
  ASSERT_TRUE(without.ok());
  EXPECT_EQ(&without->alone(), &without->all());
  EXPECT_FALSE(without->LinkUs("all_reduce", false, 2, 4096).has_value());
  EXPECT_DOUBLE_EQ(without->process_bytes(), 1000);

  std::string text = kFile;
  text.insert(text.rfind('}'), R"(,
  "alone": {"threads": 1, "memory_bytes_per_s": 1e10, "barrier_us": 0, "launch_us": 0,
    "rope_us_per_element": 0.01, "sample_us_per_id": 0.001, "linear": [], "vector": [],
    "attention": [{"kv": "bf16", "form": "flash", "block_size": 16, "head_dim": 64,
      "heads_per_kv": 3, "fused": false, "batch": 1, "context": 64, "tokens": 1, "us": 6}]},
  "links": [
    {"channel": "shared-memory", "ranks": 2, "hosts": 1, "operations": [
      {"operation": "all_reduce", "sizes": [{"bytes": 1000, "us": 1}, {"bytes": 3000, "us": 2}]}]},
    {"channel": "mpi", "ranks": 2, "hosts": 1, "operations": [
      {"operation": "all_reduce", "sizes": [{"bytes": 1000, "us": 100}]}]},
    {"channel": "mpi", "ranks": 4, "hosts": 4, "operations": [
      {"operation": "all_reduce", "sizes": [{"bytes": 1000, "us": 50}]}]}])");
  const auto calibration = Read(text);
  ASSERT_TRUE(calibration.ok()) << calibration.status().ToString();
  EXPECT_DOUBLE_EQ(calibration->alone().MemoryUs(1e6), 100);
  // Of few block sizes, the nearest one's figures.
  AttentionShape shape;
  shape.heads_per_kv = 3;
  shape.context = 64;
  shape.block_size = 64;
  EXPECT_DOUBLE_EQ(calibration->alone().AttentionUs(shape).value(), 6);
  const auto us = [&](bool between, int64_t ranks, double bytes) {
    return calibration->LinkUs("all_reduce", between, ranks, bytes).value();
  };
  EXPECT_DOUBLE_EQ(us(false, 2, 10), 1);
  EXPECT_DOUBLE_EQ(us(false, 2, 2000), 1.5);
  EXPECT_DOUBLE_EQ(us(false, 8, 5000), 3);
  EXPECT_DOUBLE_EQ(us(true, 2, 1000), 50);
  EXPECT_FALSE(calibration->LinkUs("gather", false, 2, 100).has_value());
}

// Predicted from bytes alone, such a step took a quarter of its time.
TEST_F(CalibrationTest, AFormThatOneThreadWasNotMeasuredInIsToFlashAsWithAllThreads) {
  std::string text = kFile;
  text.insert(text.find(R"({"kv": "bf16")"), R"({"kv": "bf16", "form": "fused_softmax",
    "block_size": 16, "head_dim": 64, "heads_per_kv": 3, "fused": false, "batch": 32, "context": 64,
    "tokens": 1, "us": 48}, )");
  text.insert(text.rfind('}'), R"(,
  "alone": {"threads": 1, "memory_bytes_per_s": 1e10, "barrier_us": 0, "launch_us": 0,
    "rope_us_per_element": 0.01, "sample_us_per_id": 0.001, "linear": [], "vector": [],
    "attention": [{"kv": "bf16", "form": "flash", "block_size": 16, "head_dim": 64,
      "heads_per_kv": 3, "fused": false, "batch": 1, "context": 64, "tokens": 1, "us": 6}]})");
  const auto calibration = Read(text);
  ASSERT_TRUE(calibration.ok()) << calibration.status().ToString();
  AttentionShape shape;
  shape.form = "fused_softmax";
  shape.heads_per_kv = 3;
  shape.context = 64;
  EXPECT_FALSE(calibration->alone().AttentionUs(shape).has_value());
  EXPECT_DOUBLE_EQ(calibration->AttentionUs(calibration->alone(), shape).value(), 3);
  shape.form = "masked";
  EXPECT_FALSE(calibration->AttentionUs(calibration->alone(), shape).has_value());
}

TEST_F(CalibrationTest, TokensOfAPromptAttendToHalfOfEachOther) {
  const auto calibration = Read(kFile);
  ASSERT_TRUE(calibration.ok());
  // 129 tokens that see 1 to 129: as many pairs as 129 with 65 each.
  AttentionShape prompt, decode;
  prompt.heads_per_kv = decode.heads_per_kv = 3;
  prompt.tokens = prompt.context = 129;
  decode.batch = 129;
  decode.context = 65;
  EXPECT_DOUBLE_EQ(calibration->all().AttentionUs(prompt).value(),
                   calibration->all().AttentionUs(decode).value());
}

}  // namespace
}  // namespace llmir::plan
