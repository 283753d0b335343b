#include "plan_schema/checkpoint/packed_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "plan_schema/checkpoint/activation_file.h"
#include "test_files.h"

namespace llmir::checkpoint {
namespace {

using testing::HasSubstr;

PackedTensor MakeTensor(const std::string& name, SourceType type, int64_t rows, int64_t columns) {
  PackedTensor tensor{name, type, rows, columns, {}};
  tensor.bytes.resize(rows * RowBytes(type, columns));
  for (size_t i = 0; i < tensor.bytes.size(); ++i)
    tensor.bytes[i] = static_cast<std::byte>(i * 7 + name.size());
  return tensor;
}

TEST(PackedFile, GivesBackWhatWasWritten) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.pack";
  const std::vector<PackedTensor> tensors = {MakeTensor("first", SourceType::kQ4_1_64, 3, 128),
                                             MakeTensor("norm", SourceType::kF32, 1, 5),
                                             MakeTensor("last", SourceType::kQ3_0, 2, 32)};
  ASSERT_TRUE(WritePackedFile(path, 42, tensors).ok());
  const auto file = OpenPackedFile(path);
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_EQ(file->model_identity, 42u);
  EXPECT_EQ(file->info.bytes, file->map.size());
  ASSERT_EQ(file->tensors.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const TensorInfo& tensor = file->tensors[i];
    EXPECT_EQ(tensor.name, tensors[i].name);
    EXPECT_EQ(tensor.type, tensors[i].type);
    EXPECT_EQ(tensor.rows, tensors[i].rows);
    EXPECT_EQ(tensor.columns, tensors[i].columns);
    EXPECT_EQ(tensor.offset % 64, 0u);
    ASSERT_EQ(tensor.bytes, tensors[i].bytes.size());
    EXPECT_EQ(std::memcmp(file->map.bytes().data() + tensor.offset, tensors[i].bytes.data(),
                          tensor.bytes),
              0);
  }
}

TEST(PackedFile, EveryTruncationAndEveryFlippedBitOfTheDataIsRefused) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.pack";
  ASSERT_TRUE(WritePackedFile(path, 1, {MakeTensor("t", SourceType::kQ4_0, 2, 64)}).ok());
  const std::string good = ReadFile(path);
  const auto file = OpenPackedFile(path);
  ASSERT_TRUE(file.ok());
  const TensorInfo tensor = file->tensors[0];
  const std::string bad = folder / "b.pack";
  for (size_t size = 0; size < tensor.offset + tensor.bytes; ++size) {
    WriteFile(bad, good.substr(0, size));
    EXPECT_FALSE(OpenPackedFile(bad).ok()) << size;
  }
  for (size_t byte = 0; byte < tensor.bytes; ++byte) {
    std::string text = good;
    text[tensor.offset + byte] ^= 4;
    WriteFile(bad, text);
    EXPECT_EQ(OpenPackedFile(bad).status().code(), StatusCode::kDataLoss) << byte;
  }
}

TEST(PackedFile, OtherFilesAndVersionsAreNamed) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.pack";
  ASSERT_TRUE(WritePackedFile(path, 1, {MakeTensor("t", SourceType::kQ4_0, 2, 64)}).ok());
  std::string text = ReadFile(path);
  text[8] = 9;
  WriteFile(path, text);
  EXPECT_EQ(OpenPackedFile(path).status().code(), StatusCode::kIncompatible);
  text[0] = 'X';
  WriteFile(path, text);
  EXPECT_THAT(OpenPackedFile(path).status().message(), HasSubstr("--pack"));
}

TEST(PackedFile, TakesThePlaceOfACheckpointsTensors) {
  const TemporaryFolder folder;
  const auto checkpoint = Checkpoint::Open(TestModel());
  ASSERT_TRUE(checkpoint.ok());
  const TensorInfo own = *checkpoint->Find(Role::kDown, 3);
  const std::string path = folder / "a.pack";
  ASSERT_TRUE(WritePackedFile(path, checkpoint->identity(),
                              {MakeTensor(own.name, SourceType::kQ3_1, own.rows, own.columns)})
                  .ok());
  const auto both = Checkpoint::OpenWithPacked(TestModel(), path);
  ASSERT_TRUE(both.ok()) << both.status().ToString();
  EXPECT_EQ(both->Find(Role::kDown, 3)->type, SourceType::kQ3_1);
  EXPECT_EQ(both->files().back().format, Format::kPacked);
  EXPECT_EQ(both->identity(), checkpoint->identity());
  EXPECT_EQ(both->Find(Role::kDown, 4)->type, own.type);

  ASSERT_TRUE(WritePackedFile(path, checkpoint->identity() + 1,
                              {MakeTensor(own.name, SourceType::kQ3_1, own.rows, own.columns)})
                  .ok());
  EXPECT_THAT(Checkpoint::OpenWithPacked(TestModel(), path).status().message(),
              HasSubstr("another checkpoint"));
  ASSERT_TRUE(WritePackedFile(path, checkpoint->identity(),
                              {MakeTensor(own.name, SourceType::kQ3_1, 4, own.columns)})
                  .ok());
  EXPECT_THAT(Checkpoint::OpenWithPacked(TestModel(), path).status().message(),
              HasSubstr(own.name));
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
