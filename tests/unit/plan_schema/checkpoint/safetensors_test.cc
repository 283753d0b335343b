#include "plan_schema/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "safetensors_writer.h"
#include "test_files.h"

namespace llmir::checkpoint {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Status Read(const std::string& file) {
  return ReadSafetensorsHeader(BytesOf(file), "a.safetensors").status();
}
Status ReadJson(const std::string& json, size_t data_bytes = 0) {
  return Read(SafetensorsWriter::FileOf(json, std::string(data_bytes, '\0')));
}

TEST(Safetensors, TensorsAreReadInOrderOfOffset) {
  SafetensorsWriter writer;
  writer.Entry(R"("__metadata__":{"format":"pt"})")
      .Tensor("b", "F32", {2, 3}, 24)
      .Tensor("a", "BF16", {4}, 8);
  writer.Tensor("scalar", "F32", {}, 4).Tensor("c", "F16", {2, 2, 2}, 16);
  const std::string file = writer.Finish();
  const auto header = ReadSafetensorsHeader(BytesOf(file), "a.safetensors");
  ASSERT_TRUE(header.ok()) << header.status().ToString();
  ASSERT_EQ(header->tensors.size(), 4u);
  const auto& [b, a, scalar, c] =
      std::tie(header->tensors[0], header->tensors[1], header->tensors[2], header->tensors[3]);
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.type, SourceType::kF32);
  EXPECT_EQ(b.rows, 2);
  EXPECT_EQ(b.columns, 3);
  EXPECT_EQ(b.offset, header->header_bytes);
  EXPECT_EQ(b.bytes, 24u);
  EXPECT_EQ(a.type, SourceType::kBF16);
  EXPECT_EQ(a.rows, 1);
  EXPECT_EQ(a.columns, 4);
  EXPECT_EQ(a.offset, b.offset + 24);
  EXPECT_EQ(scalar.columns, 1);
  EXPECT_EQ(c.rows, 4);
  EXPECT_EQ(header->header_bytes + 52, file.size());
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string file =
      SafetensorsWriter().Tensor("a", "F32", {8, 8}, 256).Tensor("b", "F32", {4}, 16).Finish();
  ASSERT_EQ(Read(file).ToString(), "OK");
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_EQ(Read(file.substr(0, size)).code(), StatusCode::kDataLoss) << size;
  }
}

TEST(Safetensors, HeaderLengthIsBounded) {
  std::string file = SafetensorsWriter().Finish();
  file[7] = '\x7f';
  EXPECT_THAT(Read(file).message(), HasSubstr("expected at most 100000000"));
  file[7] = '\0';
  file[2] = '\x01';
  EXPECT_THAT(Read(file).message(), HasSubstr("truncated: header"));
}

TEST(Safetensors, MalformedHeadersAreNamed) {
  EXPECT_THAT(ReadJson("{\"a\":").message(), HasSubstr("not valid JSON"));
  EXPECT_THAT(ReadJson("[1]").message(), HasSubstr("expected a JSON object"));
  EXPECT_THAT(ReadJson(R"({"a":1})").message(), HasSubstr("tensor a: dtype is missing"));
  EXPECT_THAT(ReadJson(R"({"a":{"dtype":"F32","data_offsets":[0,0]}})").message(),
              HasSubstr("shape is missing"));
  EXPECT_THAT(ReadJson(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4).message(),
              HasSubstr("shape[0]: -1"));
  EXPECT_THAT(ReadJson(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})").message(),
              HasSubstr("shape[0] = 0"));
  EXPECT_THAT(ReadJson(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4).message(),
              HasSubstr("data_offsets"));
  EXPECT_THAT(ReadJson(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4).message(),
              HasSubstr("expected 4 bytes"));
  EXPECT_THAT(
      ReadJson(R"({"a":{"dtype":"F32","shape":[4611686018427387904,8,8],"data_offsets":[0,4]}})", 4)
          .message(),
      HasSubstr("out of range"));
  EXPECT_THAT(
      ReadJson(R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}})", 4)
          .message(),
      HasSubstr("more bytes"));
  EXPECT_THAT(ReadJson(R"({"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", 8).message(),
              AllOf(HasSubstr("\"I64\" cannot be read"), HasSubstr("tensor a")));
}

TEST(Safetensors, DuplicatesHolesOverlapsAndMisalignmentAreRefused) {
  SafetensorsWriter twice;
  twice.Tensor("a", "F32", {1}, 4).Tensor("a", "F32", {1}, 4);
  EXPECT_THAT(Read(twice.Finish()).message(), HasSubstr("\"a\" is there twice"));
  SafetensorsWriter hole;
  hole.Tensor("a", "F32", {3}, 12).TensorAt("b", "F32", {1}, 16, 20);
  EXPECT_EQ(Read(hole.Finish()).code(), StatusCode::kDataLoss);
  EXPECT_THAT(Read(hole.Finish() + std::string(8, '\0')).message(), HasSubstr("no holes"));
  SafetensorsWriter overlap;
  overlap.Tensor("a", "F32", {3}, 12).TensorAt("b", "F32", {1}, 8, 12);
  EXPECT_THAT(Read(overlap.Finish()).message(), HasSubstr("overlap"));
  SafetensorsWriter shifted;
  shifted.Tensor("a", "F16", {1}, 2).Tensor("b", "F32", {1}, 4);
  EXPECT_THAT(Read(shifted.Finish()).message(), HasSubstr("misaligned"));
  EXPECT_THAT(Read(SafetensorsWriter().Tensor("a", "F32", {1}, 4).Finish() + "more").message(),
              HasSubstr("expected"));
}

}  // namespace
}  // namespace llmir::checkpoint
