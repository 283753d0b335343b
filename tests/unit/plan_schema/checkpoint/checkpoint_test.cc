#include "plan_schema/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "gguf_writer.h"
#include "plan_schema/base/hash.h"
#include "test_files.h"

namespace llmir::checkpoint {
namespace {

using testing::HasSubstr;

TEST(Checkpoint, TraitsAreThoseOfGguf) {
  EXPECT_EQ(RowBytes(SourceType::kF32, 64), 256);
  EXPECT_EQ(RowBytes(SourceType::kF16, 64), 128);
  EXPECT_EQ(RowBytes(SourceType::kBF16, 64), 128);
  EXPECT_EQ(RowBytes(SourceType::kQ8_0, 64), 68);
  EXPECT_EQ(RowBytes(SourceType::kQ4_0, 64), 36);
  EXPECT_EQ(RowBytes(SourceType::kQ4_1, 64), 40);
  EXPECT_EQ(RowBytes(SourceType::kQ5_0, 64), 44);
  EXPECT_EQ(RowBytes(SourceType::kQ5_1, 64), 48);
  EXPECT_STREQ(Traits(SourceType::kQ4_1).name, "q4_1");
  EXPECT_STREQ(Traits(SourceType::kQ5_1).name, "q5_1");
}

// Numbers as the `gguf` Python package prints them for the same file.
TEST(Checkpoint, RealModelIsReadAsItIs) {
  const std::string path = TestModel();
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  const ModelConfig& config = checkpoint->config();
  EXPECT_EQ(config.layers, 30);
  EXPECT_EQ(config.hidden, 576);
  EXPECT_EQ(config.query_heads, 9);
  EXPECT_EQ(config.kv_heads, 3);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.mlp_columns, 1536);
  EXPECT_EQ(config.vocabulary, 49152);
  EXPECT_EQ(config.context, 8192);
  EXPECT_FLOAT_EQ(config.norm_epsilon, 1e-5f);
  EXPECT_TRUE(config.tied_head);
  ASSERT_EQ(config.rope_frequencies.size(), 32u);
  EXPECT_EQ(config.rope_frequencies[0], 1.0f);
  EXPECT_FLOAT_EQ(config.rope_frequencies[31], std::pow(100000.0, -62.0 / 64));

  EXPECT_EQ(checkpoint->tensors().size(), 272u);
  ASSERT_EQ(checkpoint->files().size(), 1u);
  const FileInfo& file = checkpoint->files()[0];
  EXPECT_EQ(file.header_bytes, 1785664u);
  EXPECT_EQ(file.bytes, std::filesystem::file_size(path));
  EXPECT_EQ(file.header_hash,
            Hash64(std::string_view(ReadFile(path)).substr(0, file.header_bytes)));

  const auto query = checkpoint->Find(Role::kQuery, 0);
  ASSERT_TRUE(query.ok());
  EXPECT_EQ(query->name, "blk.0.attn_q.weight");
  EXPECT_EQ(query->type, SourceType::kQ4_1);
  EXPECT_EQ(query->rows, 576);
  EXPECT_EQ(query->columns, 576);
  EXPECT_EQ(query->offset, 1785664u + 32020992u);
  EXPECT_EQ(query->bytes, 576u * 576 / 32 * 20);
  EXPECT_EQ(checkpoint->Bytes(*query).data(), checkpoint->map(0).bytes().data() + query->offset);
  EXPECT_EQ(checkpoint->Bytes(*query).size(), query->bytes);

  const auto head = checkpoint->Find(Role::kHead);
  ASSERT_TRUE(head.ok());
  EXPECT_EQ(head->name, "token_embd.weight");
  EXPECT_EQ(head->type, SourceType::kQ8_0);
}

TEST(Checkpoint, FindRefusesLayersThatAreNotThere) {
  const TemporaryFolder folder;
  GgufWriter writer = TinyLlamaMetadata();
  WriteFile(folder / "tiny.gguf", AddTinyLlamaTensors(writer).Finish());
  const auto checkpoint = Checkpoint::Open(folder / "tiny.gguf");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  EXPECT_EQ(checkpoint->Find(Role::kQuery, 2).status().code(), StatusCode::kOutOfRange);
  EXPECT_EQ(checkpoint->Find(Role::kQuery).status().code(), StatusCode::kOutOfRange);
  EXPECT_EQ(checkpoint->Find(Role::kEmbedding, 0).status().code(), StatusCode::kOutOfRange);
  EXPECT_EQ(checkpoint->Find(Role::kDown, 1)->name, "blk.1.ffn_down.weight");
}

TEST(Checkpoint, UntiedHeadIsItsOwnTensor) {
  const TemporaryFolder folder;
  GgufWriter writer = TinyLlamaMetadata();
  AddTinyLlamaTensors(writer).Tensor("output.weight", {64, 40}, 8, 64 / 32 * 34 * 40);
  WriteFile(folder / "tiny.gguf", writer.Finish());
  const auto checkpoint = Checkpoint::Open(folder / "tiny.gguf");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  EXPECT_FALSE(checkpoint->config().tied_head);
  EXPECT_EQ(checkpoint->Find(Role::kHead)->name, "output.weight");
}

TEST(Checkpoint, MissingPathsAreNamed) {
  const TemporaryFolder folder;
  const auto file = Checkpoint::Open(folder / "absent.gguf");
  EXPECT_EQ(file.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(file.status().message(), HasSubstr("absent.gguf"));
  const auto empty = Checkpoint::Open(folder.path());
  EXPECT_EQ(empty.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(empty.status().message(), HasSubstr("config.json"));
}

}  // namespace
}  // namespace llmir::checkpoint
