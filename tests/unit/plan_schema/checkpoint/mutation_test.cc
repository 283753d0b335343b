// Damaged files: whatever the bytes, reading gives a Status or a value. Built with sanitizers, this
// also finds reads outside the file.
#include <gtest/gtest.h>

#include <random>

#include "gguf_writer.h"
#include "plan_schema/checkpoint/chat_template.h"
#include "plan_schema/checkpoint/gguf.h"
#include "plan_schema/checkpoint/huggingface.h"
#include "plan_schema/checkpoint/safetensors.h"
#include "plan_schema/checkpoint/tokenizer_definition.h"
#include "safetensors_writer.h"
#include "test_files.h"

namespace llmir::checkpoint {
namespace {

constexpr int kRounds = 4000;

// `text` with one to four bytes changed, each a flipped bit or an extreme value, and in one of four
// cases cut off. Only the first `header` bytes change: those behind are data that nobody reads
// here.
std::string Mutate(std::string text, size_t header, std::mt19937& random) {
  const unsigned changes = 1 + random() % 4;
  for (unsigned i = 0; i < changes; ++i) {
    char& byte = text[random() % header];
    switch (random() % 4) {
      case 0:
        byte = '\xff';
        break;
      case 1:
        byte = '\0';
        break;
      default:
        byte = static_cast<char>(byte ^ (1 << random() % 8));
    }
  }
  if (random() % 4 == 0) text.resize(random() % text.size());
  return text;
}

struct Outcomes {
  int accepted = 0, refused = 0;
  void Add(const Status& status) {
    ++(status.ok() ? accepted : refused);
    EXPECT_NE(status.code(), StatusCode::kInternal) << status.ToString();
    EXPECT_EQ(status.ok(), status.message().empty());
  }
};

TEST(Mutation, GgufHeaders) {
  GgufWriter writer = TinyLlamaMetadata();
  writer.String("tokenizer.ggml.model", "gpt2")
      .String("tokenizer.ggml.pre", "smollm")
      .Integer("tokenizer.ggml.bos_token_id", 0);
  writer.Strings("tokenizer.ggml.tokens", {"<s>", "a", "b", "ab"})
      .Integers("tokenizer.ggml.token_type", {3, 1, 1, 1});
  writer.Strings("tokenizer.ggml.merges", {"a b"})
      .Floats("rope_freqs.weight", std::vector<float>(8, 1));
  const std::string file = AddTinyLlamaTensors(writer).Finish();
  const size_t header = ReadGgufHeader(BytesOf(file), "tiny.gguf")->data_offset;
  std::mt19937 random(11);
  Outcomes outcomes;
  for (int round = 0; round < kRounds; ++round) {
    const std::string mutated = Mutate(file, header, random);
    const auto read = ReadGgufHeader(BytesOf(mutated), "tiny.gguf");
    outcomes.Add(read.status());
    if (!read.ok()) continue;
    for (const TensorInfo& tensor : read->tensors) {
      ASSERT_LE(tensor.offset, mutated.size());
      ASSERT_LE(tensor.bytes, mutated.size() - tensor.offset);
    }
    outcomes.Add(GgufModelConfig(*read, BytesOf(mutated)).status());
    outcomes.Add(GgufTokenizerDefinition(read->metadata).status());
  }
  EXPECT_GT(outcomes.accepted, 100);
  EXPECT_GT(outcomes.refused, 100);
}

TEST(Mutation, SafetensorsHeaders) {
  const std::string file = TinyLlamaSafetensors(0, 1, true).Finish();
  const size_t header = ReadSafetensorsHeader(BytesOf(file), "tiny.safetensors")->header_bytes;
  std::mt19937 random(12);
  Outcomes outcomes;
  for (int round = 0; round < kRounds; ++round) {
    const std::string mutated = Mutate(file, header, random);
    const auto read = ReadSafetensorsHeader(BytesOf(mutated), "tiny.safetensors");
    outcomes.Add(read.status());
    if (!read.ok()) continue;
    for (const TensorInfo& tensor : read->tensors) {
      ASSERT_LE(tensor.offset, mutated.size());
      ASSERT_LE(tensor.bytes, mutated.size() - tensor.offset);
    }
  }
  EXPECT_GT(outcomes.accepted, 100);  // letters of names
  EXPECT_GT(outcomes.refused, 100);
}

TEST(Mutation, ConfigAndTokenizerJson) {
  const std::string config =
      R"({"architectures":["LlamaForCausalLM"],"num_hidden_layers":2,"hidden_size":64,"intermediate_size":96,"vocab_size":40,)"
      R"("max_position_embeddings":128,"num_attention_heads":4,"num_key_value_heads":2,"rms_norm_eps":1e-5,"rope_theta":1e4,)"
      R"("rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,)"
      R"("original_max_position_embeddings":64}})";
  const std::string tokenizer =
      R"({"added_tokens":[{"id":3,"content":"<s>","special":true}],"pre_tokenizer":{"type":"Sequence","pretokenizers":[)"
      R"({"type":"Digits","individual_digits":true},{"type":"Split","pattern":{"Regex":"a+"},"behavior":"Isolated"},)"
      R"({"type":"ByteLevel","add_prefix_space":false}]},"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}})";
  std::mt19937 random(13);
  Outcomes outcomes;
  for (int round = 0; round < kRounds; ++round) {
    const auto json = ParseJsonObject(Mutate(config, config.size(), random), "config.json");
    outcomes.Add(json.ok() ? HuggingFaceModelConfig(*json, "config.json").status() : json.status());
    const auto definition =
        ParseJsonObject(Mutate(tokenizer, tokenizer.size(), random), "tokenizer.json");
    outcomes.Add(definition.ok() ? JsonTokenizerDefinition(*definition, "tokenizer.json").status()
                                 : definition.status());
  }
  EXPECT_GT(outcomes.accepted, 100);
  EXPECT_GT(outcomes.refused, 100);
}

TEST(Mutation, ChatTemplates) {
  const std::string source =
      "{%- set ns = namespace(n=0) %}{% for m in messages[1:] %}{% if loop.first and m.role != "
      "'system' %}{{ m['content'] | trim }}"
      "{% elif m.content is string %}{{ 'x' ~ m.content.split(',')[-1][::-1] }}{% else %}{{ {'a': "
      "[1, 2.5, none]} | tojson }}"
      "{% endif %}{% set ns.n = ns.n + loop.index * 2 // 3 %}{% endfor %}{{ ns.n if ns.n > 1 else "
      "raise_exception('none') }}";
  std::mt19937 random(14);
  Outcomes outcomes;
  for (int round = 0; round < kRounds; ++round) {
    const auto chat = ChatTemplate::Parse(Mutate(source, source.size(), random), "<s>", "</s>");
    outcomes.Add(chat.ok()
                     ? chat->Render({{"system", "a"}, {"user", "b,c"}, {"assistant", "d"}}).status()
                     : chat.status());
  }
  EXPECT_GT(outcomes.accepted, 10);  // most damage breaks the syntax
  EXPECT_GT(outcomes.refused, 100);
}

}  // namespace
}  // namespace llmir::checkpoint
