#include "plan_schema/checkpoint/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "gguf_writer.h"
#include "test_files.h"

namespace llmir::checkpoint {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr uint64_t kHuge = ~uint64_t{0} / 2;

Status Read(const GgufWriter& writer) {
  return ReadGgufHeader(BytesOf(writer.Finish()), "tiny.gguf").status();
}

StatusOr<ModelConfig> ReadConfig(const GgufWriter& writer) {
  const std::string file = writer.Finish();
  LLMIR_ASSIGN_OR_RETURN(const GgufHeader header, ReadGgufHeader(BytesOf(file), "tiny.gguf"));
  return GgufModelConfig(header, BytesOf(file));
}

Status Open(const GgufWriter& writer) {
  const TemporaryFolder folder;
  WriteFile(folder / "tiny.gguf", writer.Finish());
  return Checkpoint::Open(folder / "tiny.gguf").status();
}

TEST(Gguf, TinyModelOpensInVersions2And3) {
  for (const uint32_t version : {2u, 3u}) {
    GgufWriter writer = TinyLlamaMetadata();
    writer.version = version;
    EXPECT_EQ(Open(AddTinyLlamaTensors(writer)).ToString(), "OK") << version;
  }
}

TEST(Gguf, ConfigHoldsTheMetadata) {
  GgufWriter writer = TinyLlamaMetadata();
  const auto config = ReadConfig(AddTinyLlamaTensors(writer));
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  EXPECT_EQ(config->architecture, "llama");
  EXPECT_EQ(config->name, "tiny");
  EXPECT_EQ(config->layers, 2);
  EXPECT_EQ(config->hidden, 64);
  EXPECT_EQ(config->query_heads, 4);
  EXPECT_EQ(config->kv_heads, 2);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->mlp_columns, 96);
  EXPECT_EQ(config->vocabulary, 40);
  EXPECT_EQ(config->context, 128);
  EXPECT_EQ(config->norm_epsilon, 1e-5f);
  EXPECT_EQ(config->rope_style, RopeStyle::kInterleaved);
  EXPECT_EQ(config->rope_dim, 16);
  EXPECT_TRUE(config->tied_head);
  ASSERT_EQ(config->rope_frequencies.size(), 8u);
  for (size_t i = 0; i < 8; ++i)
    EXPECT_FLOAT_EQ(config->rope_frequencies[i], std::pow(10.0, -0.5 * i));
}

TEST(Gguf, KeyLengthOverridesHiddenOverHeads) {
  GgufWriter writer = TinyLlamaMetadata();
  writer.Integer("llama.attention.key_length", 24).Integer("llama.attention.value_length", 24);
  const auto config = ReadConfig(writer);
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  EXPECT_EQ(config->head_dim, 24);
  EXPECT_EQ(config->rope_dim, 24);
}

TEST(Gguf, LinearScalingAndRopeFactorsDivideFrequencies) {
  GgufWriter writer = TinyLlamaMetadata();
  writer.String("llama.rope.scaling.type", "linear").Float("llama.rope.scaling.factor", 4);
  writer.Floats("rope_freqs.weight", {1, 1, 1, 2, 2, 8, 8, 8});
  const auto config = ReadConfig(writer);
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  const float factors[] = {1, 1, 1, 2, 2, 8, 8, 8};
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_FLOAT_EQ(config->rope_frequencies[i], std::pow(10.0, -0.5 * i) / 4 / factors[i]) << i;
  }
}

TEST(Gguf, UntypedScaleFactorOfOlderFilesIsLinear) {
  GgufWriter writer = TinyLlamaMetadata();
  writer.Float("llama.rope.scale_linear", 2);
  const auto config = ReadConfig(writer);
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  EXPECT_FLOAT_EQ(config->rope_frequencies[0], 0.5);
}

TEST(Gguf, RopeFactorsOfWrongLengthOrValueAreRefused) {
  for (const std::vector<float>& factors :
       {std::vector<float>(7, 1), std::vector<float>(8, 0), std::vector<float>(8, NAN)}) {
    GgufWriter writer = TinyLlamaMetadata();
    writer.Floats("rope_freqs.weight", factors);
    EXPECT_THAT(ReadConfig(writer).status().message(), HasSubstr("rope_freqs.weight"));
  }
}

TEST(Gguf, OtherFilesAreRefused) {
  EXPECT_THAT(ReadGgufHeader(BytesOf("PK\3\4 something else"), "a.zip").status().message(),
              HasSubstr("not a GGUF file"));
  EXPECT_EQ(ReadGgufHeader({}, "empty").status().code(), StatusCode::kDataLoss);
  GgufWriter writer;
  writer.version = 1;
  EXPECT_EQ(Read(writer).code(), StatusCode::kIncompatible);
  writer.version = 0x03000000;
  EXPECT_THAT(Read(writer).message(), HasSubstr("big-endian"));
}

TEST(Gguf, EveryTruncationIsRefusedAndNamed) {
  GgufWriter writer = TinyLlamaMetadata();
  const std::string file = AddTinyLlamaTensors(writer).Finish();
  // The last tensor, 256 bytes, needs no padding behind it: every shorter file lacks something.
  for (size_t size = 0; size < file.size(); size += size < 4096 ? 1 : 97) {
    const auto header = ReadGgufHeader(BytesOf(file).first(size), "tiny.gguf");
    ASSERT_FALSE(header.ok()) << size;
    EXPECT_EQ(header.status().code(), StatusCode::kDataLoss)
        << size << ": " << header.status().ToString();
  }
}

TEST(Gguf, TensorBeyondTheEndNamesTensorOffsetBytesAndFileSize) {
  GgufWriter writer = TinyLlamaMetadata();
  std::string file = AddTinyLlamaTensors(writer).Finish();
  file.resize(file.size() - 1);
  EXPECT_THAT(
      ReadGgufHeader(BytesOf(file), "tiny.gguf").status().message(),
      AllOf(HasSubstr("truncated"), HasSubstr("output_norm.weight"), HasSubstr("needs 256 bytes"),
            HasSubstr(fmt::format("the file has {}", file.size()))));
}

TEST(Gguf, AbsurdCountsAreRefusedBeforeAnythingIsReserved) {
  for (const int64_t extra : {int64_t{1} << 20, int64_t{1} << 40, static_cast<int64_t>(kHuge)}) {
    GgufWriter tensors = TinyLlamaMetadata();
    tensors.extra_tensors = extra;
    EXPECT_EQ(Read(tensors).code(), StatusCode::kDataLoss);
    GgufWriter metadata = TinyLlamaMetadata();
    metadata.extra_metadata = extra;
    EXPECT_EQ(Read(metadata).code(), StatusCode::kDataLoss);
  }
  std::string array(12, '\0');
  const uint32_t type = GgufWriter::kUint64;
  std::memcpy(array.data(), &type, 4);
  std::memcpy(array.data() + 4, &kHuge, 8);
  EXPECT_THAT(Read(GgufWriter().Raw("numbers", GgufWriter::kArray, array)).message(),
              AllOf(HasSubstr("numbers"), HasSubstr("cannot fit")));
  EXPECT_EQ(Read(GgufWriter().Raw("text", GgufWriter::kString,
                                  {reinterpret_cast<const char*>(&kHuge), 8}))
                .code(),
            StatusCode::kDataLoss);
}

TEST(Gguf, DuplicatesAreRefused) {
  GgufWriter keys;
  keys.Integer("a", 1).Integer("a", 2);
  EXPECT_THAT(Read(keys).message(), HasSubstr("metadata a is there twice"));
  GgufWriter tensors;
  tensors.Tensor("t", {4}, 0, 16).Tensor("t", {4}, 0, 16);
  EXPECT_THAT(Read(tensors).message(), HasSubstr("tensor t is there twice"));
}

TEST(Gguf, OverlappingTensorsAreRefused) {
  GgufWriter writer;
  writer.Tensor("a", {16}, 0, 64).TensorAt("b", {8}, 0, 32);
  EXPECT_THAT(Read(writer).message(),
              AllOf(HasSubstr("a (offset"), HasSubstr("b (offset"), HasSubstr("overlap")));
}

TEST(Gguf, MisalignedTensorIsRefused) {
  GgufWriter writer;
  writer.Tensor("pad", {64}, 0, 256).TensorAt("t", {4}, 0, 4);
  EXPECT_THAT(Read(writer).message(), AllOf(HasSubstr("tensor t"), HasSubstr("misaligned")));
}

TEST(Gguf, AlignmentOfTheFileIsHonoured) {
  GgufWriter writer;
  writer.alignment = 8;
  writer.Integer("general.alignment", 8).Tensor("a", {2}, 0, 8).Tensor("b", {2}, 0, 8);
  const std::string file = writer.Finish();
  const auto header = ReadGgufHeader(BytesOf(file), "tiny.gguf");
  ASSERT_TRUE(header.ok()) << header.status().ToString();
  EXPECT_EQ(header->tensors[1].offset, header->data_offset + 8);
  for (const uint32_t alignment : {0u, 24u, 1u << 31}) {
    EXPECT_THAT(Read(GgufWriter().Integer("general.alignment", alignment)).message(),
                HasSubstr("power of two"))
        << alignment;
  }
}

TEST(Gguf, UnreadableEncodingsAreNamed) {
  EXPECT_THAT(Read(GgufWriter().TensorAt("t", {256}, 12, 0)).message(),
              AllOf(HasSubstr("tensor t"), HasSubstr("Q4_K")));
  EXPECT_THAT(Read(GgufWriter().TensorAt("t", {256}, 999, 0)).message(),
              HasSubstr("999 (unknown)"));
  EXPECT_THAT(Read(GgufWriter().Raw("key", 13, "")).message(), HasSubstr("value type 13"));
}

TEST(Gguf, ImpossibleShapesAreRefused) {
  EXPECT_THAT(Read(GgufWriter().TensorAt("t", {}, 0, 0)).message(), HasSubstr("0 dimensions"));
  EXPECT_THAT(Read(GgufWriter().TensorAt("t", {1, 1, 1, 1, 1}, 0, 0)).message(),
              HasSubstr("5 dimensions"));
  EXPECT_THAT(Read(GgufWriter().TensorAt("t", {0}, 0, 0)).message(), HasSubstr("dimension[0] = 0"));
  EXPECT_THAT(Read(GgufWriter().TensorAt("t", {4, kHuge, kHuge}, 0, 0)).message(),
              HasSubstr("out of range"));
  EXPECT_THAT(Read(GgufWriter().TensorAt("t", {kHuge, 4}, 0, 0)).message(),
              HasSubstr("more bytes"));
  EXPECT_THAT(Read(GgufWriter().TensorAt("t", {48, 2}, 3, 0)).message(),
              HasSubstr("multiple of q4_1's block of 32"));
}

TEST(Gguf, OtherModelsAndFeaturesAreRefusedByName) {
  GgufWriter other;
  other.String("general.architecture", "mamba");
  EXPECT_THAT(ReadConfig(other).status().message(), HasSubstr("\"mamba\" is not supported"));
  const auto with = [](auto change) {
    GgufWriter writer = TinyLlamaMetadata();
    change(writer);
    return ReadConfig(writer).status();
  };
  EXPECT_THAT(with([](auto& w) { w.Integer("llama.expert_count", 8); }).message(),
              HasSubstr("experts"));
  EXPECT_THAT(with([](auto& w) { w.Integer("llama.attention.value_length", 8); }).message(),
              HasSubstr("value_length"));
  EXPECT_THAT(with([](auto& w) { w.String("llama.rope.scaling.type", "yarn"); }).message(),
              HasSubstr("\"yarn\""));
  EXPECT_THAT(with([](auto& w) { w.Integer("split.count", 3); }).message(), HasSubstr("3 parts"));
  EXPECT_EQ(with([](auto& w) { w.Integer("llama.expert_count", 0); }).ToString(), "OK");
}

TEST(Gguf, WindowAndSoftcapOfAttentionAreRead) {
  const auto plain = ReadConfig(TinyLlamaMetadata());
  ASSERT_TRUE(plain.ok());
  EXPECT_TRUE(plain->attention_windows.empty());
  EXPECT_EQ(plain->attention_softcap, 0.0f);
  GgufWriter writer = TinyLlamaMetadata();
  writer.Integer("llama.attention.sliding_window", 24).Float("llama.attn_logit_softcapping", 50.0f);
  const auto config = ReadConfig(writer);
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  EXPECT_EQ(config->attention_windows, (std::vector<int64_t>{24, 24}));
  EXPECT_EQ(config->attention_softcap, 50.0f);
  GgufWriter negative = TinyLlamaMetadata();
  negative.Float("llama.attn_logit_softcapping", -1.0f);
  EXPECT_THAT(ReadConfig(negative).status().message(), HasSubstr("softcap"));
}

TEST(Gguf, MetadataOfAnotherKindIsRefused) {
  GgufWriter writer;
  writer.String("general.architecture", "llama").String("llama.block_count", "two");
  EXPECT_THAT(ReadConfig(writer).status().message(),
              AllOf(HasSubstr("llama.block_count"), HasSubstr("string")));
  EXPECT_THAT(Read(GgufWriter().Raw("flag", GgufWriter::kBool, "\2")).message(),
              HasSubstr("bool is 2"));
}

TEST(Gguf, ImpossibleModelsAreRefused) {
  const auto with_heads = [](uint32_t heads, uint32_t kv_heads) {
    GgufWriter writer;
    writer.String("general.architecture", "llama")
        .Integer("llama.block_count", 2)
        .Integer("llama.embedding_length", 64);
    writer.Integer("llama.feed_forward_length", 96)
        .Integer("llama.context_length", 128)
        .Integer("llama.vocab_size", 40);
    writer.Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    writer.Integer("llama.attention.head_count", heads)
        .Integer("llama.attention.head_count_kv", kv_heads);
    return ReadConfig(writer).status();
  };
  EXPECT_EQ(with_heads(4, 2).ToString(), "OK");
  EXPECT_THAT(with_heads(0, 1).message(), HasSubstr("0 query heads"));
  EXPECT_THAT(with_heads(5, 1).message(), HasSubstr("do not divide"));
  EXPECT_THAT(with_heads(4, 3).message(), HasSubstr("multiple of the 3 KV heads"));
  EXPECT_THAT(with_heads(4, 0).message(), HasSubstr("KV head count is 0"));
}

TEST(Gguf, MissingUnknownAndMisshapenTensorsAreNamed) {
  for (const std::string name :
       {"token_embd.weight", "blk.1.ffn_up.weight", "output_norm.weight"}) {
    GgufWriter writer = TinyLlamaMetadata();
    EXPECT_THAT(Open(AddTinyLlamaTensors(writer, {name})).message(),
                HasSubstr(name + " is missing"));
  }
  GgufWriter bias = TinyLlamaMetadata();
  AddTinyLlamaTensors(bias).Tensor("blk.0.attn_q.bias", {64}, 0, 256);
  EXPECT_THAT(Open(bias).message(), HasSubstr("blk.0.attn_q.bias: biases are not supported"));
  GgufWriter layer = TinyLlamaMetadata();
  AddTinyLlamaTensors(layer).Tensor("blk.2.attn_norm.weight", {64}, 0, 256);
  EXPECT_THAT(Open(layer).message(), HasSubstr("blk.2.attn_norm.weight"));
  GgufWriter shape = TinyLlamaMetadata();
  AddTinyLlamaTensors(shape, {"blk.1.attn_k.weight"})
      .Tensor("blk.1.attn_k.weight", {64, 64}, 0, 64 * 64 * 4);
  EXPECT_THAT(Open(shape).message(), AllOf(HasSubstr("blk.1.attn_k.weight: 64 rows"),
                                           HasSubstr("expected 32 rows of 64")));
  GgufWriter norm = TinyLlamaMetadata();
  AddTinyLlamaTensors(norm, {"output_norm.weight"}).Tensor("output_norm.weight", {64}, 8, 68);
  EXPECT_THAT(Open(norm).message(), HasSubstr("a norm in q8_0"));
}

TEST(Gguf, HugeLayerCountIsRefusedBeforeAnythingIsMadeForIt) {
  GgufWriter writer;
  writer.String("general.architecture", "llama")
      .Integer("llama.block_count", 1u << 28)
      .Integer("llama.embedding_length", 64);
  writer.Integer("llama.feed_forward_length", 96)
      .Integer("llama.context_length", 128)
      .Integer("llama.vocab_size", 40);
  writer.Integer("llama.attention.head_count", 4).Integer("llama.attention.head_count_kv", 2);
  writer.Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  EXPECT_THAT(Open(AddTinyLlamaTensors(writer)).message(),
              HasSubstr("layer count is 268435456, expected 1 to 65536"));
}

}  // namespace
}  // namespace llmir::checkpoint
