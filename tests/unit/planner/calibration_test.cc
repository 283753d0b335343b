// What `llmir-exec --calibrate` measured, read and asked.
#include "planner/Calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "plan_schema/base/hash.h"
#include "tests/unit/plan_schema/checkpoint/test_files.h"

namespace llmir {
namespace {

using checkpoint::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kFile = R"({
  "version": 1, "machine": {"cpu": "a cpu", "isa": "avx512", "cores": 2}, "commit": "c", "command": "llmir-exec",
  "threads": 2, "memory_bytes_per_s": 2e10, "barrier_us": 0.5,
  "linear": [
    {"kernel": "linear_q8_q4_1", "rows": 100, "columns": 64,
     "tokens": [{"tokens": 8, "us": 20}, {"tokens": 1, "us": 6}, {"tokens": 128, "us": 260}]},
    {"kernel": "linear_q8_q4_1", "rows": 300, "columns": 64,
     "tokens": [{"tokens": 1, "us": 12}, {"tokens": 128, "us": 600}]}],
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
    return Calibration::read(path);
  }
  // kFile with `before` replaced by `after`.
  std::string Refusal(const std::string& before, const std::string& after) {
    std::string text = kFile;
    const size_t at = text.find(before);
    EXPECT_NE(at, std::string::npos);
    text.replace(at, before.size(), after);
    const auto read = Read(text);
    EXPECT_FALSE(read.ok());
    return read.ok() ? "" : read.status().message();
  }
  const TemporaryFolder folder_;
};

TEST_F(CalibrationTest, ReadsWhatWasMeasured) {
  const auto calibration = Read(kFile);
  ASSERT_TRUE(calibration.ok()) << calibration.status().ToString();
  EXPECT_EQ(calibration->getFile(), "machine.json");
  const std::string_view text = kFile;
  EXPECT_EQ(calibration->getHash(), Hash64(std::as_bytes(std::span(text.data(), text.size()))));
  EXPECT_EQ(calibration->getThreads(), 2);
  EXPECT_DOUBLE_EQ(calibration->getBarrierUs(), 0.5);
  EXPECT_DOUBLE_EQ(calibration->getMemoryUs(1e6), 50);
}

TEST_F(CalibrationTest, LinearTimesAreInterpolatedByTokensAndByElements) {
  const auto calibration = Read(kFile);
  ASSERT_TRUE(calibration.ok());
  const auto us = [&](double rows, double columns, double tokens) {
    return calibration->getLinearUs("linear_q8_q4_1", rows, columns, tokens).value();
  };
  EXPECT_DOUBLE_EQ(us(100, 64, 1), 6);
  EXPECT_DOUBLE_EQ(us(100, 64, 8), 20);
  EXPECT_DOUBLE_EQ(us(100, 64, 4.5), 13);
  EXPECT_DOUBLE_EQ(us(100, 64, 256), 520);
  // Beyond the measured shapes in proportion, between them by their times per element: halfway
  // between 6 / 6400 and 12 / 19200.
  EXPECT_DOUBLE_EQ(us(50, 64, 1), 3);
  EXPECT_DOUBLE_EQ(us(600, 64, 1), 24);
  EXPECT_DOUBLE_EQ(us(200, 64, 1), 12800 * (6.0 / 6400 + 12.0 / 19200) / 2);
  EXPECT_FALSE(calibration->getLinearUs("linear_f32_f32", 100, 64, 1).has_value());
}

TEST_F(CalibrationTest, AttentionTimesFollowContextAndWork) {
  const auto calibration = Read(kFile);
  ASSERT_TRUE(calibration.ok());
  AttentionShape shape;
  shape.headsPerKv = 3;
  shape.batch = 32;
  shape.context = 128;
  EXPECT_DOUBLE_EQ(calibration->getAttentionUs(shape).value(), 144);
  shape.batch = 16;
  shape.kvHeads = 4;
  shape.context = 64;
  EXPECT_DOUBLE_EQ(calibration->getAttentionUs(shape).value(), 192);
  shape.blockSize = 32;
  EXPECT_FALSE(calibration->getAttentionUs(shape).has_value());
  shape.blockSize = 16;
  shape.kv = "f32";
  EXPECT_FALSE(calibration->getAttentionUs(shape).has_value());
}

TEST_F(CalibrationTest, VectorTimesAreInProportionToElements) {
  const auto calibration = Read(kFile);
  ASSERT_TRUE(calibration.ok());
  EXPECT_DOUBLE_EQ(calibration->getVectorUs("rms_norm_f32", 576, 8).value(), 1);
  EXPECT_DOUBLE_EQ(calibration->getVectorUs("rms_norm_f32", 1152, 1).value(), 0.5);
  EXPECT_FALSE(calibration->getVectorUs("add_f32", 576, 1).has_value());
}

TEST_F(CalibrationTest, AnErrorNamesFileFieldAndWhatWasExpected) {
  EXPECT_THAT(Refusal("\"version\": 1", "\"version\": 2"),
              AllOf(HasSubstr("machine.json"), HasSubstr("version 2"), HasSubstr("reads 1")));
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
  EXPECT_THAT(Refusal("\"version\": 1,", "\"version\": 1"), HasSubstr("no JSON"));
  EXPECT_THAT(Calibration::read(folder_ / "none.json").status().message(),
              AllOf(HasSubstr("none.json"), HasSubstr("llmir-exec --calibrate")));
}

}  // namespace
}  // namespace llmir
