#include "plan_schema/checkpoint/huggingface.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "plan_schema/base/hash.h"
#include "plan_schema/checkpoint/rope.h"
#include "plan_schema/checkpoint/safetensors.h"

namespace llmir::checkpoint {
namespace {

StatusOr<int64_t> RequiredInteger(const Json& json, const char* key, const std::string& where) {
  LLMIR_ASSIGN_OR_RETURN(const auto value, JsonInteger(json, key, where));
  if (!value) return InvalidArgument("{}: {} is missing", where, key);
  return *value;
}

StatusOr<double> PositiveNumber(const Json& json, const char* key, const std::string& where) {
  LLMIR_ASSIGN_OR_RETURN(const auto value, JsonNumber(json, key, where));
  if (!value) return InvalidArgument("{}: {} is missing", where, key);
  if (!(*value > 0) || !std::isfinite(*value)) {
    return InvalidArgument("{}: {}: {}, expected a positive number", where, key, *value);
  }
  return *value;
}

// The architecture's class name: what `transformers` would instantiate.
StatusOr<std::string> ReadArchitecture(const Json& json, const std::string& where) {
  const Json* names = JsonField(json, "architectures");
  if (names == nullptr || !names->is_array() || names->size() != 1 || !(*names)[0].is_string()) {
    return InvalidArgument("{}: architectures: expected an array of one name", where);
  }
  auto name = (*names)[0].get<std::string>();
  if (name != "LlamaForCausalLM" && name != "MistralForCausalLM" &&
      name != "MinistralForCausalLM") {
    return Incompatible(
        "{}: architecture {} is not supported; expected LlamaForCausalLM, MistralForCausalLM or "
        "MinistralForCausalLM",
        where, name);
  }
  return name;
}

Status RefuseUnsupported(const Json& json, const std::string& where) {
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    LLMIR_ASSIGN_OR_RETURN(const auto bias, JsonBool(json, key, where));
    if (bias.value_or(false)) return Incompatible("{}: {}: biases are not supported", where, key);
  }
  if (JsonField(json, "quantization_config") != nullptr) {
    return Incompatible(
        "{}: quantization_config: quantized folders are not supported; use F32, F16 or BF16 "
        "weights",
        where);
  }
  LLMIR_ASSIGN_OR_RETURN(const auto activation, JsonString(json, "hidden_act", where));
  if (activation && *activation != "silu") {
    return Incompatible("{}: hidden_act \"{}\" is not supported; expected silu", where,
                        *activation);
  }
  return {};
}

// Per layer, as `transformers` reads them; empty where no layer has a window. Which layers have it
// is told by layer_types, or by max_window_layers (those from it on), or else by nothing: all.
StatusOr<std::vector<int64_t>> ReadWindows(const Json& json, bool mistral, int64_t layers,
                                           const std::string& where) {
  LLMIR_ASSIGN_OR_RETURN(auto window, JsonInteger(json, "sliding_window", where));
  LLMIR_ASSIGN_OR_RETURN(const auto use, JsonBool(json, "use_sliding_window", where));
  constexpr int64_t kMistralWindow = 4096;  // where the key is absent, not where it is null
  if (mistral && !json.contains("sliding_window")) window = kMistralWindow;
  if (!window || !use.value_or(true)) return std::vector<int64_t>();
  if (!mistral) {
    return Incompatible(
        "{}: sliding_window: {}, but a Llama model has no window, so that it isn't clear what is "
        "meant; expected null, or the architecture MistralForCausalLM",
        where, *window);
  }
  if (*window < 1)
    return InvalidArgument("{}: sliding_window: {}, expected 1 or more", where, *window);
  std::vector<int64_t> windows(static_cast<size_t>(layers), *window);
  if (const Json* types = JsonField(json, "layer_types")) {
    if (!types->is_array() || types->size() != windows.size()) {
      return InvalidArgument("{}: layer_types: {}, expected one for each of {} layers", where,
                             JsonExcerpt(*types), layers);
    }
    for (size_t i = 0; i < windows.size(); ++i) {
      const Json& type = (*types)[i];
      if (type == "full_attention") {
        windows[i] = 0;
      } else if (type != "sliding_attention") {
        return Incompatible("{}: layer_types[{}]: {}, expected full_attention or sliding_attention",
                            where, i, JsonExcerpt(type));
      }
    }
  } else {
    LLMIR_ASSIGN_OR_RETURN(const auto first, JsonInteger(json, "max_window_layers", where));
    const int64_t full = std::clamp<int64_t>(first.value_or(0), 0, layers);
    std::fill_n(windows.begin(), full, 0);
  }
  if (std::ranges::count(windows, 0) == layers) windows.clear();
  return windows;
}

struct Rope {
  double base = 10000;
  RopeScaling scaling;
};

// rope_theta and rope_scaling at the top level, or both together in the newer rope_parameters.
StatusOr<Rope> ReadRope(const Json& json, const std::string& config_path) {
  Rope rope;
  const Json* parameters = JsonField(json, "rope_parameters");
  const bool newer = parameters != nullptr;
  if (!newer) parameters = JsonField(json, "rope_scaling");
  const Json& base_holder =
      newer && parameters->is_object() && parameters->contains("rope_theta") ? *parameters : json;
  if (JsonField(base_holder, "rope_theta") != nullptr) {
    LLMIR_ASSIGN_OR_RETURN(rope.base, PositiveNumber(base_holder, "rope_theta", config_path));
  }
  LLMIR_ASSIGN_OR_RETURN(const auto top_partial,
                         JsonNumber(json, "partial_rotary_factor", config_path));
  if (top_partial.value_or(1) != 1)
    return Incompatible("{}: partial_rotary_factor is not supported", config_path);
  if (parameters == nullptr) return rope;

  const std::string where =
      fmt::format("{}: {}", config_path, newer ? "rope_parameters" : "rope_scaling");
  if (!parameters->is_object())
    return InvalidArgument("{}: {}, expected an object", where, JsonExcerpt(*parameters));
  LLMIR_ASSIGN_OR_RETURN(const auto partial,
                         JsonNumber(*parameters, "partial_rotary_factor", where));
  if (partial.value_or(1) != 1)
    return Incompatible("{}: partial_rotary_factor is not supported", where);
  LLMIR_ASSIGN_OR_RETURN(const auto rope_type, JsonString(*parameters, "rope_type", where));
  LLMIR_ASSIGN_OR_RETURN(const auto old_type, JsonString(*parameters, "type", where));
  const std::string type = rope_type ? *rope_type : old_type.value_or("default");
  if (type == "default") return rope;
  if (type != "linear" && type != "llama3") {
    return Incompatible("{}: type \"{}\" is not supported; expected default, linear or llama3",
                        where, type);
  }
  LLMIR_ASSIGN_OR_RETURN(const double factor, PositiveNumber(*parameters, "factor", where));
  if (type == "linear") {
    rope.scaling.linear_factor = factor;
    return rope;
  }
  Llama3Scaling scaling{factor, 0, 0, 0};
  LLMIR_ASSIGN_OR_RETURN(scaling.low_frequency_factor,
                         PositiveNumber(*parameters, "low_freq_factor", where));
  LLMIR_ASSIGN_OR_RETURN(scaling.high_frequency_factor,
                         PositiveNumber(*parameters, "high_freq_factor", where));
  LLMIR_ASSIGN_OR_RETURN(scaling.original_context,
                         PositiveNumber(*parameters, "original_max_position_embeddings", where));
  if (scaling.high_frequency_factor <= scaling.low_frequency_factor) {
    return InvalidArgument("{}: high_freq_factor {} must be larger than low_freq_factor {}", where,
                           scaling.high_frequency_factor, scaling.low_frequency_factor);
  }
  rope.scaling.llama3 = scaling;
  return rope;
}

// The files that hold tensors, by name inside the folder; with an index, also which tensors each
// must hold.
using TensorFiles = std::map<std::string, std::vector<std::string>>;

StatusOr<TensorFiles> ListTensorFiles(const std::filesystem::path& folder) {
  const std::filesystem::path whole = folder / "model.safetensors";
  const std::filesystem::path index = folder / "model.safetensors.index.json";
  std::error_code error;
  if (std::filesystem::exists(whole, error)) return TensorFiles{{"model.safetensors", {}}};
  if (!std::filesystem::exists(index, error)) {
    return NotFound("{}: holds neither model.safetensors nor model.safetensors.index.json",
                    folder.string());
  }
  LLMIR_ASSIGN_OR_RETURN(const Json json, ReadJsonObject(index.string()));
  const Json* map = JsonField(json, "weight_map");
  if (map == nullptr || !map->is_object() || map->empty()) {
    return InvalidArgument("{}: weight_map: missing, empty or not an object", index.string());
  }
  TensorFiles files;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    // A part lies beside its index; anything that could lead elsewhere is refused.
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      return InvalidArgument(
          "{}: weight_map[\"{}\"]: {}, expected the name of a file in the folder", index.string(),
          tensor, JsonExcerpt(file));
    }
    files[name].push_back(tensor);
  }
  return files;
}

}  // namespace

StatusOr<ModelConfig> HuggingFaceModelConfig(const Json& json, const std::string& where) {
  LLMIR_ASSIGN_OR_RETURN(const std::string architecture, ReadArchitecture(json, where));
  const bool mistral = architecture != "LlamaForCausalLM";
  LLMIR_RETURN_IF_ERROR(RefuseUnsupported(json, where));

  ModelConfig config{};
  config.architecture = "llama";  // Mistral is the same beside its windows
  LLMIR_ASSIGN_OR_RETURN(config.layers, RequiredInteger(json, "num_hidden_layers", where));
  LLMIR_ASSIGN_OR_RETURN(config.hidden, RequiredInteger(json, "hidden_size", where));
  LLMIR_ASSIGN_OR_RETURN(config.mlp_columns, RequiredInteger(json, "intermediate_size", where));
  LLMIR_ASSIGN_OR_RETURN(config.vocabulary, RequiredInteger(json, "vocab_size", where));
  LLMIR_ASSIGN_OR_RETURN(config.context, RequiredInteger(json, "max_position_embeddings", where));
  LLMIR_ASSIGN_OR_RETURN(config.query_heads, RequiredInteger(json, "num_attention_heads", where));
  LLMIR_ASSIGN_OR_RETURN(const auto kv_heads, JsonInteger(json, "num_key_value_heads", where));
  if (!kv_heads && mistral) return InvalidArgument("{}: num_key_value_heads is missing", where);
  config.kv_heads = kv_heads.value_or(config.query_heads);
  LLMIR_ASSIGN_OR_RETURN(const auto head_dim, JsonInteger(json, "head_dim", where));
  if (!head_dim && (config.query_heads <= 0 || config.hidden % config.query_heads != 0)) {
    return InvalidArgument(
        "{}: num_attention_heads {} does not divide hidden_size {}, and head_dim is missing", where,
        config.query_heads, config.hidden);
  }
  config.head_dim = head_dim ? *head_dim : config.hidden / config.query_heads;
  LLMIR_ASSIGN_OR_RETURN(const auto epsilon, JsonNumber(json, "rms_norm_eps", where));
  config.norm_epsilon = static_cast<float>(epsilon.value_or(1e-6));
  LLMIR_ASSIGN_OR_RETURN(const auto tied, JsonBool(json, "tie_word_embeddings", where));
  config.tied_head = tied.value_or(false);
  config.rope_style = RopeStyle::kHalves;
  config.rope_dim = config.head_dim;
  LLMIR_RETURN_IF_ERROR(CheckConfig(config, where));
  LLMIR_ASSIGN_OR_RETURN(config.attention_windows,
                         ReadWindows(json, mistral, config.layers, where));
  LLMIR_RETURN_IF_ERROR(CheckConfig(config, where));
  LLMIR_ASSIGN_OR_RETURN(const Rope rope, ReadRope(json, where));
  config.rope_frequencies = RopeFrequencies(config.rope_dim, rope.base, rope.scaling);
  return config;
}

StatusOr<CheckpointParts> OpenHuggingFace(const std::string& folder) {
  const std::filesystem::path root(folder);
  const std::string config_path = (root / "config.json").string();
  CheckpointParts parts;
  LLMIR_ASSIGN_OR_RETURN(const Json json, ReadJsonObject(config_path));
  LLMIR_ASSIGN_OR_RETURN(parts.config, HuggingFaceModelConfig(json, config_path));
  LLMIR_ASSIGN_OR_RETURN(const auto name, JsonString(json, "_name_or_path", config_path));
  std::error_code error;
  parts.config.name = name && !name->empty()
                          ? *name
                          : std::filesystem::weakly_canonical(root, error).filename().string();

  LLMIR_ASSIGN_OR_RETURN(const TensorFiles files, ListTensorFiles(root));
  for (const auto& [file, expected] : files) {
    const std::string path = (root / file).string();
    LLMIR_ASSIGN_OR_RETURN(FileMap map, FileMap::Open(path));
    LLMIR_ASSIGN_OR_RETURN(SafetensorsHeader header, ReadSafetensorsHeader(map.bytes(), path));
    for (const std::string& tensor : expected) {
      if (std::ranges::find(header.tensors, tensor, &TensorInfo::name) == header.tensors.end()) {
        return NotFound("{}: tensor {} is missing, though the index says that it is here", path,
                        tensor);
      }
    }
    for (TensorInfo& tensor : header.tensors) {
      tensor.file = static_cast<int>(parts.files.size());
      parts.tensors.push_back(std::move(tensor));
    }
    parts.files.push_back({path, Format::kSafetensors, map.size(), header.header_bytes,
                           Hash64(map.bytes().first(header.header_bytes))});
    parts.maps.push_back(std::move(map));
  }
  LLMIR_RETURN_IF_ERROR(CheckTensorTable(parts.tensors, folder));
  return parts;
}

}  // namespace llmir::checkpoint
