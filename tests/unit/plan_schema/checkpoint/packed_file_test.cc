#include "plan_schema/checkpoint/packed_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "plan_schema/base/hash.h"
#include "plan_schema/checkpoint/activation_file.h"
#include "test_files.h"

namespace llmir::checkpoint {
namespace {

using testing::HasSubstr;

std::vector<std::byte> Bytes(size_t size, int seed) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 251 + seed);
  return bytes;
}

TEST(PackedFile, HasEachWeightOnAPageWhereTheIndexSays) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.pack";
  PackedFileWriter writer(
      path, {42, "avx2"},
      {{"first", "q4_1", 7, {"a", "b"}, true, 5000}, {"norm", "f32", 0, {"c"}, false, 20}});
  const auto first = Bytes(5000, 1);
  const auto norm = Bytes(20, 2);
  writer.Add(first);
  writer.Add(norm);
  const auto info = writer.Finish();
  ASSERT_TRUE(info.ok()) << info.status().ToString();
  const std::string text = ReadFile(path);
  EXPECT_EQ(info->bytes, text.size());
  EXPECT_EQ(info->format, Format::kPacked);
  EXPECT_EQ(info->header_hash, Hash64(std::string_view(text).substr(0, info->header_bytes)));
  uint64_t index_bytes = 0;
  std::memcpy(&index_bytes, text.data() + 16, sizeof index_bytes);
  const auto index = nlohmann::json::parse(text.substr(24, index_bytes));
  EXPECT_EQ(index["isa"], "avx2");
  EXPECT_EQ(index["model_identity"], "000000000000002a");
  ASSERT_EQ(index["weights"].size(), 2u);
  EXPECT_EQ(index["weights"][0]["layout"], 7);
  EXPECT_EQ(index["weights"][0]["tensors"], nlohmann::json({"a", "b"}));
  for (size_t i = 0; i < 2; ++i) {
    const auto& bytes = i == 0 ? first : norm;
    const uint64_t offset = index["weights"][i]["offset"];
    EXPECT_EQ(offset, writer.entries()[i].offset);
    EXPECT_EQ(offset % 4096, 0u);
    EXPECT_GE(offset, info->header_bytes);
    EXPECT_EQ(std::memcmp(text.data() + offset, bytes.data(), bytes.size()), 0);
  }
}

TEST(PackedFile, OtherFilesAndVersionsAreNamed) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.pack";
  PackedFileWriter writer(path, {1, "avx2"}, {{"t", "q4_0", 6, {"t"}, false, 64}});
  writer.Add(Bytes(64, 0));
  ASSERT_TRUE(writer.Finish().ok());
  const auto check = [&](const std::string& text) {
    return CheckPackedVersion(std::as_bytes(std::span(text)), path);
  };
  std::string text = ReadFile(path);
  EXPECT_TRUE(check(text).ok());
  EXPECT_FALSE(check(text.substr(0, 20)).ok());
  text[8] = 9;
  EXPECT_EQ(check(text).code(), StatusCode::kIncompatible);
  EXPECT_THAT(check(text).message(), HasSubstr("version 9"));
  text[0] = 'X';
  EXPECT_THAT(check(text).message(), HasSubstr("--pack"));
}

TEST(PackedFile, NothingAppearsWhereItCannotBeWritten) {
  const TemporaryFolder folder;
  PackedFileWriter writer(folder / "missing/a.pack", {1, "avx2"},
                          {{"t", "q4_0", 6, {"t"}, false, 64}});
  writer.Add(Bytes(64, 0));
  EXPECT_EQ(writer.Finish().status().code(), StatusCode::kResourceExhausted);
  EXPECT_FALSE(std::filesystem::exists(folder / "missing"));
}

TEST(PackedFile, HashesOfLeavesAreThoseOfTheirBytesJoined) {
  constexpr uint64_t kStride = 1000;
  const auto bytes = Bytes(5 * kStride, 3);
  const std::vector<PanelBytes> leaves = {{0, 64}, {64, 640}, {640, 700}, {0, kStride}};
  std::vector<uint64_t> hashes(leaves.size());
  HashPanels(bytes.data(), kStride, 5, leaves, hashes);
  for (size_t i = 0; i < leaves.size(); ++i) {
    std::vector<std::byte> joined;
    for (int p = 0; p < 5; ++p) {
      const auto* panel = bytes.data() + p * kStride;
      joined.insert(joined.end(), panel + leaves[i].begin, panel + leaves[i].end);
    }
    EXPECT_EQ(hashes[i], Hash64(std::span<const std::byte>(joined))) << i;
  }
  uint64_t whole = 0;
  HashPanels(bytes.data(), kStride, 5, {&leaves[3], 1}, {&whole, 1});
  EXPECT_EQ(whole, hashes[3]);
}

TEST(Checkpoint, ValuesInMemoryTakeThePlaceOfItsTensors) {
  const auto checkpoint = Checkpoint::Open(TestModel());
  ASSERT_TRUE(checkpoint.ok());
  const TensorInfo own = *checkpoint->Find(Role::kDown, 3);
  const auto make = [&](int64_t rows, const std::string& name) {
    TensorValues values{name, SourceType::kQ3_1, rows, own.columns, {}};
    values.bytes = Bytes(rows * RowBytes(values.type, own.columns), 4);
    return std::vector<TensorValues>{values};
  };
  const auto both = Checkpoint::OpenWith(TestModel(), make(own.rows, own.name), "a.pack");
  ASSERT_TRUE(both.ok()) << both.status().ToString();
  const TensorInfo changed = *both->Find(Role::kDown, 3);
  EXPECT_EQ(changed.type, SourceType::kQ3_1);
  EXPECT_TRUE(std::ranges::equal(both->Bytes(changed), make(own.rows, own.name)[0].bytes));
  EXPECT_EQ(both->files().back().format, Format::kPacked);
  EXPECT_EQ(both->files().back().path, "a.pack");
  EXPECT_EQ(both->identity(), checkpoint->identity());
  EXPECT_EQ(both->Find(Role::kDown, 4)->type, own.type);
  EXPECT_THAT(Checkpoint::OpenWith(TestModel(), make(4, own.name), "a.pack").status().message(),
              HasSubstr(own.name));
  EXPECT_THAT(Checkpoint::OpenWith(TestModel(), make(4, "none"), "a.pack").status().message(),
              HasSubstr("none"));
}

class ActivationFiles : public testing::Test {
 protected:
  ActivationFile Make() {
    ActivationFile file;
    file.facts = {"llmir-exec", "a machine", "a model", 7, "text.jsonl", 9};
    file.embedding = "embedding";
    file.embedding_uses = uses_;
    ActivationInput input{"layers.0.qkv", {"q", "k"}, 2, 3, {1, 2}, {3, 4}, {5, 6}, gram_};
    file.inputs = {input};
    return file;
  }
  const TemporaryFolder folder_;
  const std::string path_ = folder_ / "a.json";
  std::vector<float> uses_ = {0, 4, 1};
  std::vector<float> gram_ = {1, 2, 2, 5};
};

TEST_F(ActivationFiles, AreReadAsWritten) {
  ASSERT_TRUE(WriteActivationFile(path_, Make()).ok());
  const auto file = ReadActivationFile(path_);
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_EQ(file->facts.model_identity, 7u);
  EXPECT_EQ(file->facts.text_hash, 9u);
  const ActivationInput* input = file->Find("k");
  ASSERT_NE(input, nullptr);
  EXPECT_EQ(input->tokens, 3u);
  EXPECT_THAT(input->mean_abs, testing::ElementsAre(1, 2));
  EXPECT_THAT(input->gram, testing::ElementsAreArray(gram_));
  EXPECT_THAT(file->embedding_uses, testing::ElementsAreArray(uses_));
  EXPECT_EQ(file->Find("v"), nullptr);
}

TEST_F(ActivationFiles, ADamagedOrMissingPartIsRefused) {
  ASSERT_TRUE(WriteActivationFile(path_, Make()).ok());
  const std::string matrices = path_ + ".safetensors";
  std::string bytes = ReadFile(matrices);
  bytes.back() ^= 1;
  WriteFile(matrices, bytes);
  EXPECT_EQ(ReadActivationFile(path_).status().code(), StatusCode::kDataLoss);
  std::filesystem::remove(matrices);
  EXPECT_EQ(ReadActivationFile(path_).status().code(), StatusCode::kNotFound);
  gram_[3] = NAN;
  ASSERT_TRUE(WriteActivationFile(path_, Make()).ok());
  EXPECT_THAT(ReadActivationFile(path_).status().message(), HasSubstr("layers.0.qkv"));
}

TEST_F(ActivationFiles, NoPartRemainsWhereWritingFails) {
  EXPECT_FALSE(WriteActivationFile(folder_ / "missing/a.json", Make()).ok());
  EXPECT_FALSE(std::filesystem::exists(folder_ / "missing"));
}

}  // namespace
}  // namespace llmir::checkpoint
