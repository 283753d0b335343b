#include "plan_schema/plan_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "plan_schema/base/hash.h"
#include "tests/unit/plan_schema/plan_builder.h"

namespace llmir::plan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::vector<std::byte> Bytes() { return PlanFile::Serialize(*BuildPlan({})); }

PlanTrailer* TrailerOf(std::vector<std::byte>& bytes) {
  return reinterpret_cast<PlanTrailer*>(bytes.data() + bytes.size() - sizeof(PlanTrailer));
}

void ExpectError(std::vector<std::byte> bytes, StatusCode code, const std::string& text) {
  const auto file = PlanFile::FromBytes(std::move(bytes), "plan.fb");
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.status().code(), code) << file.status().ToString();
  EXPECT_THAT(file.status().message(),
              AllOf(HasSubstr("plan.fb: "), HasSubstr(text), Not(HasSubstr("\n"))));
}

TEST(PlanFile, WhatIsWrittenIsReadBack) {
  const auto plan = BuildPlan({.ranks = {2, 1}, .overlap = true});
  const std::vector<std::byte> bytes = PlanFile::Serialize(*plan);
  const auto path =
      std::filesystem::temp_directory_path() / ("llmir_plan_file_test." + std::to_string(getpid()));
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  const auto file = PlanFile::Read(path.string());
  std::filesystem::remove(path);
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_EQ(file->origin(), path.string());
  EXPECT_TRUE(std::ranges::equal(file->bytes(), bytes));
  EXPECT_EQ(file->checksum(), Hash64(std::span(bytes).first(bytes.size() - sizeof(PlanTrailer))));
  PlanT again;
  file->plan().UnPackTo(&again);
  EXPECT_EQ(PlanFile::Serialize(again), bytes);
}

TEST(PlanFile, MissingFileIsNamed) {
  const auto file = PlanFile::Read("/nonexistent/plan.fb");
  EXPECT_EQ(file.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(file.status().message(), HasSubstr("/nonexistent/plan.fb: no such file"));
}

TEST(PlanFile, EmptyAndShortFilesAreTooShort) {
  ExpectError({}, StatusCode::kDataLoss, "0 bytes, too short for a plan");
  ExpectError(std::vector<std::byte>(40), StatusCode::kDataLoss, "40 bytes, too short for a plan");
}

TEST(PlanFile, OtherFilesAreNoPlans) {
  ExpectError(std::vector<std::byte>(4096, std::byte{'G'}), StatusCode::kInvalidArgument,
              "not a plan");
}

TEST(PlanFile, EveryTruncationIsRefused) {
  const std::vector<std::byte> whole = Bytes();
  for (size_t size = 0; size < whole.size(); size += 7) {
    const auto file = PlanFile::FromBytes({whole.begin(), whole.begin() + size}, "plan.fb");
    EXPECT_EQ(file.status().code(), StatusCode::kDataLoss) << size;
  }
  ExpectError({whole.begin(), whole.end() - 1}, StatusCode::kDataLoss, "truncated");
}

TEST(PlanFile, EveryFlippedBitOfThePlanIsRefused) {
  const std::vector<std::byte> whole = Bytes();
  for (size_t at = 0; at < whole.size() - sizeof(PlanTrailer); at += 97) {
    std::vector<std::byte> bytes = whole;
    bytes[at] ^= std::byte{1};
    EXPECT_EQ(PlanFile::FromBytes(std::move(bytes), "plan.fb").status().code(),
              StatusCode::kDataLoss)
        << at;
  }
  std::vector<std::byte> bytes = whole;
  const uint64_t expected = TrailerOf(bytes)->checksum;
  bytes[bytes.size() / 2] ^= std::byte{1};
  const uint64_t got = Hash64(std::span(bytes).first(bytes.size() - sizeof(PlanTrailer)));
  ExpectError(bytes, StatusCode::kDataLoss,
              fmt::format("checksum {:016x}, expected {:016x}", got, expected));
}

TEST(PlanFile, LaterMajorVersionIsRefusedWithBothVersions) {
  auto plan = BuildPlan({});
  plan->version->major = 7;
  plan->version->minor = 0;
  ExpectError(PlanFile::Serialize(*plan), StatusCode::kIncompatible,
              "made for plan version 7.0, this llmir reads 0.x; plan it again with this version's "
              "llmir-plan or run it with a newer llmir-exec");
}

TEST(PlanFile, OlderAndNewerMinorVersionsLoad) {
  for (const uint16_t minor : {0, kMinorVersion + 1, 999}) {
    auto plan = BuildPlan({});
    plan->version->minor = minor;
    EXPECT_TRUE(PlanFile::FromBytes(PlanFile::Serialize(*plan), "plan.fb").ok()) << minor;
  }
}

TEST(PlanFile, AbsentVersionIsTheTrailers) {
  auto plan = BuildPlan({});
  plan->version.reset();
  EXPECT_TRUE(PlanFile::FromBytes(PlanFile::Serialize(*plan), "plan.fb").ok());
}

TEST(PlanFile, UnknownFeaturesAreRefusedByNumberAndKnownOnesNamed) {
  auto plan = BuildPlan({});
  plan->required_features |= uint64_t{1} << 60 | uint64_t{1} << 63;
  ExpectError(PlanFile::Serialize(*plan), StatusCode::kIncompatible,
              "does not have: bit 60, bit 63 (it has tensor_parallel, pipeline_parallel, "
              "quantized_weights, bf16_kv_cache, score_programs");
}

TEST(PlanFile, TrailerThatContradictsThePlanIsRefused) {
  std::vector<std::byte> bytes = Bytes();
  TrailerOf(bytes)->minor = 0;
  ExpectError(bytes, StatusCode::kDataLoss, "version 0.0 in the trailer, but 0.1 in the plan");
  bytes = Bytes();
  TrailerOf(bytes)->required_features = 0;
  ExpectError(bytes, StatusCode::kDataLoss, "required features 0x0 in the trailer");
}

TEST(PlanFile, BytesThatFlatBuffersRefusesAreRefusedThoughTheirChecksumHolds) {
  std::vector<std::byte> bytes = Bytes();
  const uint32_t root = 0x7ffffff0;
  std::memcpy(bytes.data(), &root, sizeof root);
  TrailerOf(bytes)->checksum = Hash64(std::span(bytes).first(bytes.size() - sizeof(PlanTrailer)));
  ExpectError(bytes, StatusCode::kDataLoss, "FlatBuffers' verifier refuses it");
}

TEST(PlanFile, PlansWithManyTablesLoad) {
  auto plan = BuildPlan({.layers = 600});  // 3 programs x 600 layers x 9 steps x 3 tables
  EXPECT_TRUE(PlanFile::FromBytes(PlanFile::Serialize(*plan), "plan.fb").ok());
}

TEST(PlanFile, EqualPartsAreStoredOnceAndReadTheSame) {
  const auto plan = BuildPlan({.layers = 20});
  flatbuffers::FlatBufferBuilder plain;
  plain.Finish(CreatePlan(plain, plan.get()));
  const auto file = PlanFile::FromBytes(PlanFile::Serialize(*plan), "plan.fb");
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  // Layers differ by names and weights only.
  EXPECT_LT(file->bytes().size(), plain.GetSize() / 2);

  // Unpacked and packed again without sharing, the file gives the bytes that the plan gives.
  PlanT unpacked;
  file->plan().UnPackTo(&unpacked);
  flatbuffers::FlatBufferBuilder again;
  again.Finish(CreatePlan(again, &unpacked));
  ASSERT_EQ(again.GetSize(), plain.GetSize());
  EXPECT_EQ(std::memcmp(again.GetBufferPointer(), plain.GetBufferPointer(), plain.GetSize()), 0);
}

}  // namespace
}  // namespace llmir::plan
