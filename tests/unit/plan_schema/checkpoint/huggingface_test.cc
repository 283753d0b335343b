#include "plan_schema/checkpoint/huggingface.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "safetensors_writer.h"
#include "test_files.h"

namespace llmir::checkpoint {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Json TinyConfig() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"num_hidden_layers", 2},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"vocab_size", 40},
          {"max_position_embeddings", 128},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"rms_norm_eps", 1e-5},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", true}};
}

StatusOr<ModelConfig> Read(const Json& change) {
  Json json = TinyConfig();
  json.update(change);
  return HuggingFaceModelConfig(json, "config.json");
}

// Expected frequencies for head size 16 and base 500000, by the formulas of `transformers`
// (ROPE_INIT_FUNCTIONS), in numpy.
constexpr float kPlain[] = {1.f,
                            0.193922745f,
                            0.0376060309f,
                            0.00729266474f,
                            0.00141421356f,
                            0.000274248176f,
                            5.3182959e-05f,
                            1.03133854e-05f};
constexpr float kLlama3[] = {1.f,
                             0.193922745f,
                             0.0376060309f,
                             0.00729266474f,
                             0.000524846161f,
                             3.4281022e-05f,
                             6.64786987e-06f,
                             1.28917317e-06f};

TEST(HuggingFace, TinyFolderOpens) {
  const TemporaryFolder folder;
  WriteFile(folder / "config.json", TinyConfig().dump());
  WriteFile(folder / "model.safetensors", TinyLlamaSafetensors(0, 2, true).Finish());
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  EXPECT_EQ(checkpoint->format(), Format::kSafetensors);
  const ModelConfig& config = checkpoint->config();
  EXPECT_EQ(config.architecture, "llama");
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.rope_style, RopeStyle::kHalves);
  EXPECT_EQ(config.norm_epsilon, 1e-5f);
  EXPECT_TRUE(config.tied_head);
  EXPECT_FLOAT_EQ(config.rope_frequencies[4], 0.01f);
  EXPECT_EQ(checkpoint->Find(Role::kHead)->name, "model.embed_tokens.weight");
  EXPECT_EQ(checkpoint->Find(Role::kDown, 1)->name, "model.layers.1.mlp.down_proj.weight");
  EXPECT_EQ(checkpoint->Find(Role::kKey, 0)->type, SourceType::kF16);
}

TEST(HuggingFace, IndexWithPartsOpens) {
  const TemporaryFolder folder;
  Json config = TinyConfig();
  config["tie_word_embeddings"] = false;
  WriteFile(folder / "config.json", config.dump());
  SafetensorsWriter second = TinyLlamaSafetensors(1, 2, true);
  second.Tensor("lm_head.weight", "F16", {40, 64}, 40 * 64 * 2);
  WriteFile(folder / "one.safetensors", TinyLlamaSafetensors(0, 1, false).Finish());
  WriteFile(folder / "two.safetensors", second.Finish());
  WriteFile(
      folder / "model.safetensors.index.json",
      R"({"weight_map":{"model.layers.0.input_layernorm.weight":"one.safetensors","lm_head.weight":"two.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  EXPECT_EQ(checkpoint->files().size(), 2u);
  const auto head = checkpoint->Find(Role::kHead);
  EXPECT_EQ(head->name, "lm_head.weight");
  EXPECT_EQ(checkpoint->files()[static_cast<size_t>(head->file)].path, folder / "two.safetensors");
  EXPECT_EQ(checkpoint->Find(Role::kQuery, 0)->file, 0);
}

TEST(HuggingFace, BrokenIndexesAreRefused) {
  const TemporaryFolder folder;
  WriteFile(folder / "config.json", TinyConfig().dump());
  WriteFile(folder / "one.safetensors", TinyLlamaSafetensors(0, 2, true).Finish());
  WriteFile(folder / "two.safetensors", TinyLlamaSafetensors(0, 2, true).Finish());
  const auto open = [&](const std::string& index) {
    WriteFile(folder / "model.safetensors.index.json", index);
    return Checkpoint::Open(folder.path()).status().message();
  };
  EXPECT_THAT(open("{}"), HasSubstr("weight_map"));
  for (const std::string file : {"../../etc/passwd", "/etc/passwd", "..", "", "a/b"}) {
    EXPECT_THAT(open(Json{{"weight_map", {{"t", file}}}}.dump()),
                HasSubstr("expected the name of a file"))
        << file;
  }
  EXPECT_THAT(open(R"({"weight_map":{"t":7}})"), HasSubstr("expected the name of a file"));
  EXPECT_THAT(open(R"({"weight_map":{"t":"three.safetensors"}})"),
              HasSubstr("three.safetensors: no such file"));
  EXPECT_THAT(open(R"({"weight_map":{"t":"one.safetensors"}})"), HasSubstr("tensor t is missing"));
  EXPECT_THAT(
      open(
          R"({"weight_map":{"model.norm.weight":"one.safetensors","model.embed_tokens.weight":"two.safetensors"}})"),
      HasSubstr("is there twice"));
}

TEST(HuggingFace, UnexpectedTensorsAreRefused) {
  const TemporaryFolder folder;
  WriteFile(folder / "config.json", TinyConfig().dump());
  const auto open = [&](const std::string& name, std::vector<uint64_t> shape) {
    SafetensorsWriter writer = TinyLlamaSafetensors(0, 2, true);
    writer.Tensor(name, "F32", shape, 256);
    WriteFile(folder / "model.safetensors", writer.Finish());
    return Checkpoint::Open(folder.path()).status();
  };
  EXPECT_THAT(open("model.layers.0.self_attn.q_proj.bias", {64}).message(), HasSubstr("biases"));
  EXPECT_THAT(open("model.layers.0.self_attn.q_norm.weight", {64}).message(),
              HasSubstr("norms of queries"));
  EXPECT_EQ(open("model.layers.0.self_attn.rotary_emb.inv_freq", {64}).ToString(), "OK");
  EXPECT_EQ(open("lm_head.weight", {4, 16}).ToString(), "OK") << "a tied model doesn't read it";
}

TEST(HuggingFace, RopeThetaIsReadFromBothForms) {
  for (const Json& form :
       {Json{{"rope_theta", 500000.0}}, Json{{"rope_theta", 500000}, {"rope_scaling", nullptr}},
        Json{{"rope_parameters", {{"rope_theta", 500000.0}, {"rope_type", "default"}}}},
        Json{{"rope_theta", 500000.0}, {"rope_parameters", {{"rope_type", "default"}}}}}) {
    const auto config = Read(form);
    ASSERT_TRUE(config.ok()) << config.status().ToString();
    for (size_t i = 0; i < 8; ++i)
      EXPECT_FLOAT_EQ(config->rope_frequencies[i], kPlain[i]) << form << i;
  }
}

TEST(HuggingFace, LinearScalingDivides) {
  for (const char* key : {"type", "rope_type"}) {
    const auto config =
        Read({{"rope_theta", 500000.0}, {"rope_scaling", {{key, "linear"}, {"factor", 4.0}}}});
    ASSERT_TRUE(config.ok()) << config.status().ToString();
    for (size_t i = 0; i < 8; ++i) EXPECT_FLOAT_EQ(config->rope_frequencies[i], kPlain[i] / 4);
  }
}

TEST(HuggingFace, Llama3ScalingMatchesTransformers) {
  const Json scaling = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}};
  Json parameters = scaling;
  parameters["rope_theta"] = 500000.0;
  for (const Json& form : {Json{{"rope_theta", 500000.0}, {"rope_scaling", scaling}},
                           Json{{"rope_parameters", parameters}}}) {
    const auto config = Read(form);
    ASSERT_TRUE(config.ok()) << config.status().ToString();
    for (size_t i = 0; i < 8; ++i) EXPECT_FLOAT_EQ(config->rope_frequencies[i], kLlama3[i]) << i;
  }
}

TEST(HuggingFace, HeadSizeMayDifferFromHiddenOverHeads) {
  EXPECT_EQ(Read({{"head_dim", 24}})->head_dim, 24);
  EXPECT_EQ(Read({{"head_dim", nullptr}})->head_dim, 16);
}

TEST(HuggingFace, MistralHasTheWindowsThatTransformersGivesIt) {
  const auto windows = [](Json fields) {
    fields["architectures"] = {"MistralForCausalLM"};
    const auto config = Read(fields);
    EXPECT_TRUE(config.ok()) << config.status().ToString();
    return config.ok() ? config->attention_windows : std::vector<int64_t>();
  };
  using Windows = std::vector<int64_t>;
  EXPECT_EQ(windows({{"sliding_window", nullptr}}), Windows());
  EXPECT_EQ(windows({{"sliding_window", 100}}), Windows({100, 100}));
  EXPECT_EQ(windows(Json::object()), Windows({4096, 4096}));
  EXPECT_EQ(windows({{"sliding_window", 100}, {"use_sliding_window", false}}), Windows());
  EXPECT_EQ(windows({{"sliding_window", 100}, {"max_window_layers", 1}}), Windows({0, 100}));
  EXPECT_EQ(windows({{"sliding_window", 100}, {"max_window_layers", 5}}), Windows());
  const Json types = {"sliding_attention", "full_attention"};
  EXPECT_EQ(windows({{"sliding_window", 100}, {"layer_types", types}, {"max_window_layers", 2}}),
            Windows({100, 0}));
}

TEST(HuggingFace, WindowsThatAreUnclearAreRefused) {
  const auto refusal = [](Json fields, const char* architecture = "MistralForCausalLM") {
    fields["architectures"] = {architecture};
    return Read(fields).status().message();
  };
  EXPECT_THAT(refusal({{"sliding_window", 4096}}, "LlamaForCausalLM"),
              HasSubstr("a Llama model has no window"));
  EXPECT_THAT(refusal({{"sliding_window", 0}}), HasSubstr("expected 1 or more"));
  const Json chunked = {"chunked_attention", "full_attention"};
  EXPECT_THAT(refusal({{"sliding_window", 16}, {"layer_types", chunked}}),
              HasSubstr("layer_types[0]: \"chunked_attention\""));
  EXPECT_THAT(refusal({{"sliding_window", 16}, {"layer_types", {"full_attention"}}}),
              HasSubstr("one for each of 2 layers"));
}

TEST(HuggingFace, UnsupportedConfigurationsAreNamed) {
  EXPECT_THAT(Read({{"architectures", {"GPT2LMHeadModel"}}}).status().message(),
              HasSubstr("GPT2LMHeadModel is not supported"));
  EXPECT_THAT(Read({{"attention_bias", true}}).status().message(), HasSubstr("attention_bias"));
  EXPECT_THAT(Read({{"mlp_bias", true}}).status().message(), HasSubstr("mlp_bias"));
  EXPECT_THAT(Read({{"hidden_act", "gelu"}}).status().message(), HasSubstr("\"gelu\""));
  EXPECT_THAT(Read({{"quantization_config", {{"bits", 4}}}}).status().message(),
              HasSubstr("quantization_config"));
  EXPECT_THAT(Read({{"rope_scaling", {{"type", "yarn"}, {"factor", 2}}}}).status().message(),
              HasSubstr("\"yarn\""));
  EXPECT_THAT(Read({{"rope_scaling", {{"type", "linear"}, {"factor", -2}}}}).status().message(),
              HasSubstr("factor: -2"));
  EXPECT_THAT(Read({{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}).status().message(),
              HasSubstr("partial_rotary"));
}

TEST(HuggingFace, FieldsOfWrongTypeOrValueAreNamed) {
  EXPECT_THAT(Read({{"num_hidden_layers", "two"}}).status().message(),
              AllOf(HasSubstr("num_hidden_layers"), HasSubstr("\"two\"")));
  EXPECT_THAT(Read({{"num_hidden_layers", 1e3}}).status().message(),
              HasSubstr("num_hidden_layers"));
  EXPECT_THAT(Read({{"hidden_size", -64}}).status().message(), HasSubstr("expected 1 to"));
  EXPECT_THAT(Read({{"vocab_size", 18446744073709551615u}}).status().message(),
              HasSubstr("vocab_size"));
  EXPECT_THAT(Read({{"num_attention_heads", 0}}).status().message(),
              HasSubstr("num_attention_heads"));
  EXPECT_THAT(Read({{"num_key_value_heads", 3}}).status().message(),
              HasSubstr("multiple of the 3 KV heads"));
  EXPECT_THAT(Read({{"head_dim", 1 << 20}}).status().message(), HasSubstr("head size"));
  EXPECT_THAT(Read({{"head_dim", 15}}).status().message(), HasSubstr("even number"));
  EXPECT_THAT(Read({{"rms_norm_eps", 0}}).status().message(), HasSubstr("epsilon"));
  EXPECT_THAT(Read({{"rope_theta", "big"}}).status().message(), HasSubstr("rope_theta"));
  EXPECT_THAT(Read({{"hidden_size", nullptr}}).status().message(),
              HasSubstr("hidden_size is missing"));
}

}  // namespace
}  // namespace llmir::checkpoint
