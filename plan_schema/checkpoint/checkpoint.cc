#include "plan_schema/checkpoint/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "plan_schema/checkpoint/activation_file.h"
#include "plan_schema/checkpoint/checkpoint_parts.h"
#include "plan_schema/checkpoint/gguf.h"
#include "plan_schema/checkpoint/huggingface.h"

namespace llmir::checkpoint {
namespace {

// By SourceType. A q block is its scale, _1 also a minimum, in f16, and the bits of 32 or 64
// values.
constexpr std::array<SourceTypeTraits, 16> kTraits = {{
    {"f32", 1, 4},
    {"f16", 1, 2},
    {"bf16", 1, 2},
    {"q8_0", 32, 34},
    {"q4_0", 32, 18},
    {"q4_1", 32, 20},
    {"q5_0", 32, 22},
    {"q5_1", 32, 24},
    {"q3_0", 32, 14},
    {"q3_1", 32, 16},
    {"q6_0", 32, 26},
    {"q6_1", 32, 28},
    {"q3_1_64", 64, 28},
    {"q4_1_64", 64, 36},
    {"q5_1_64", 64, 44},
    {"q6_1_64", 64, 52},
}};

struct RoleNames {
  Role role;
  bool in_layer;
  const char* gguf;
  const char* huggingface;
};
// By Role. Inside layers, the names follow "blk.<layer>." or "model.layers.<layer>.".
constexpr RoleNames kRoles[] = {
    {Role::kEmbedding, false, "token_embd.weight", "model.embed_tokens.weight"},
    {Role::kAttentionNorm, true, "attn_norm.weight", "input_layernorm.weight"},
    {Role::kQuery, true, "attn_q.weight", "self_attn.q_proj.weight"},
    {Role::kKey, true, "attn_k.weight", "self_attn.k_proj.weight"},
    {Role::kValue, true, "attn_v.weight", "self_attn.v_proj.weight"},
    {Role::kAttentionOutput, true, "attn_output.weight", "self_attn.o_proj.weight"},
    {Role::kMlpNorm, true, "ffn_norm.weight", "post_attention_layernorm.weight"},
    {Role::kGate, true, "ffn_gate.weight", "mlp.gate_proj.weight"},
    {Role::kUp, true, "ffn_up.weight", "mlp.up_proj.weight"},
    {Role::kDown, true, "ffn_down.weight", "mlp.down_proj.weight"},
    {Role::kOutputNorm, false, "output_norm.weight", "model.norm.weight"},
    {Role::kHead, false, "output.weight", "lm_head.weight"},
};

struct Shape {
  int64_t rows, columns;
};

Shape ExpectedShape(Role role, const ModelConfig& config) {
  switch (role) {
    case Role::kEmbedding:
    case Role::kHead:
      return {config.vocabulary, config.hidden};
    case Role::kAttentionNorm:
    case Role::kMlpNorm:
    case Role::kOutputNorm:
      return {1, config.hidden};
    case Role::kQuery:
      return {config.query_heads * config.head_dim, config.hidden};
    case Role::kKey:
    case Role::kValue:
      return {config.kv_heads * config.head_dim, config.hidden};
    case Role::kAttentionOutput:
      return {config.hidden, config.query_heads * config.head_dim};
    case Role::kGate:
    case Role::kUp:
      return {config.mlp_columns, config.hidden};
    case Role::kDown:
      return {config.hidden, config.mlp_columns};
  }
  std::abort();
}

bool IsNorm(Role role) {
  return role == Role::kAttentionNorm || role == Role::kMlpNorm || role == Role::kOutputNorm;
}

// Tensors that hold nothing beyond what the configuration already said.
bool IsRedundant(std::string_view name, Format format, const ModelConfig& config) {
  if (format == Format::kGguf) return name == "rope_freqs.weight";  // went into rope_frequencies
  return name.ends_with(".rotary_emb.inv_freq") || (config.tied_head && name == "lm_head.weight");
}

Status RefuseTensor(const TensorInfo& tensor, std::string_view path) {
  std::string_view why = "it is not part of a Llama model of this size";
  if (tensor.name.ends_with(".bias")) why = "biases are not supported";
  if (tensor.name.find("exp") != std::string::npos) why = "mixtures of experts are not supported";
  if (tensor.name.find("q_norm") != std::string::npos ||
      tensor.name.find("k_norm") != std::string::npos) {
    why = "norms of queries and keys are not supported";
  }
  return Incompatible("{}: tensor {}: {}", path, tensor.name, why);
}

const TensorInfo* FindByName(const std::vector<TensorInfo>& tensors, std::string_view name) {
  const auto found = std::ranges::lower_bound(tensors, name, {}, &TensorInfo::name);
  return found == tensors.end() || found->name != name ? nullptr : &*found;
}

// Checks that `tensors`, sorted by name, are the model's tensors: each with its shape, and none
// besides.
Status CheckModelTensors(const std::vector<TensorInfo>& tensors, Format format,
                         const ModelConfig& config, const std::string& path) {
  std::vector<bool> used(tensors.size());
  const auto require = [&](Role role, int64_t layer) -> Status {
    const std::string name = TensorName(format, role, layer);
    const TensorInfo* tensor = FindByName(tensors, name);
    if (tensor == nullptr) return NotFound("{}: tensor {} is missing", path, name);
    used[static_cast<size_t>(tensor - tensors.data())] = true;
    const Shape expected = ExpectedShape(role, config);
    if (tensor->rows != expected.rows || tensor->columns != expected.columns) {
      return InvalidArgument(
          "{}: tensor {}: {} rows of {}, expected {} rows of {} from the model's configuration",
          path, name, tensor->rows, tensor->columns, expected.rows, expected.columns);
    }
    if (IsNorm(role) && Traits(tensor->type).block_values != 1) {
      return Incompatible("{}: tensor {}: a norm in {}, expected f32, f16 or bf16", path, name,
                          Traits(tensor->type).name);
    }
    return {};
  };
  for (const RoleNames& names : kRoles) {
    if (names.in_layer || (names.role == Role::kHead && config.tied_head)) continue;
    LLMIR_RETURN_IF_ERROR(require(names.role, -1));
  }
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    for (const RoleNames& names : kRoles) {
      if (names.in_layer) LLMIR_RETURN_IF_ERROR(require(names.role, layer));
    }
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!used[i] && !IsRedundant(tensors[i].name, format, config))
      return RefuseTensor(tensors[i], path);
  }
  return {};
}

}  // namespace

const SourceTypeTraits& Traits(SourceType type) { return kTraits[static_cast<size_t>(type)]; }

std::optional<SourceType> FindSourceType(std::string_view name) {
  for (size_t i = 0; i < kTraits.size(); ++i)
    if (name == kTraits[i].name) return static_cast<SourceType>(i);
  return std::nullopt;
}

int64_t RowBytes(SourceType type, int64_t columns) {
  return columns / Traits(type).block_values * Traits(type).block_bytes;
}

std::string TensorName(Format format, Role role, int64_t layer) {
  const RoleNames& names = kRoles[static_cast<size_t>(role)];
  const bool gguf = format == Format::kGguf;
  const char* name = gguf ? names.gguf : names.huggingface;
  if (!names.in_layer) return name;
  return fmt::format("{}.{}.{}", gguf ? "blk" : "model.layers", layer, name);
}

Status CheckConfig(const ModelConfig& config, std::string_view where) {
  constexpr int64_t kMaxExtent = int64_t{1} << 28;
  constexpr int64_t kMaxLayers = 1 << 16;
  constexpr int64_t kMaxHeadDim = 1 << 14;
  struct Bound {
    const char* name;
    int64_t value;
    int64_t limit;
  };
  for (const auto& [name, value, limit] : {
           Bound{"layer count", config.layers, kMaxLayers},
           Bound{"hidden size", config.hidden, kMaxExtent},
           Bound{"query head count", config.query_heads, kMaxExtent},
           Bound{"KV head count", config.kv_heads, kMaxExtent},
           Bound{"head size", config.head_dim, kMaxHeadDim},
           Bound{"MLP size", config.mlp_columns, kMaxExtent},
           Bound{"vocabulary size", config.vocabulary, kMaxExtent},
           Bound{"context length", config.context, kMaxExtent},
           Bound{"rope dimension count", config.rope_dim, config.head_dim},
       }) {
    if (value < 1 || value > limit)
      return InvalidArgument("{}: {} is {}, expected 1 to {}", where, name, value, limit);
  }
  if (config.query_heads % config.kv_heads != 0) {
    return InvalidArgument("{}: {} query heads, expected a multiple of the {} KV heads", where,
                           config.query_heads, config.kv_heads);
  }
  if (config.rope_dim % 2 != 0) {
    return InvalidArgument("{}: rope dimension count {}, expected an even number", where,
                           config.rope_dim);
  }
  for (const int64_t window : config.attention_windows) {
    if (window < 0 || window > kMaxExtent)
      return InvalidArgument("{}: attention window {}, expected 0 to {}", where, window,
                             kMaxExtent);
  }
  if (!(config.attention_softcap >= 0) || !std::isfinite(config.attention_softcap)) {
    return InvalidArgument("{}: attention softcap {}, expected a number from 0", where,
                           config.attention_softcap);
  }
  if (!(config.norm_epsilon > 0) || !(config.norm_epsilon < 1)) {
    return InvalidArgument("{}: norm epsilon {}, expected a number between 0 and 1", where,
                           config.norm_epsilon);
  }
  return {};
}

Status CheckTensorTable(const std::vector<TensorInfo>& tensors, std::string_view path) {
  std::vector<const TensorInfo*> sorted;
  sorted.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) sorted.push_back(&tensor);
  std::ranges::sort(sorted, {}, &TensorInfo::name);
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i]->name == sorted[i - 1]->name)
      return InvalidArgument("{}: tensor {} is there twice", path, sorted[i]->name);
  }
  std::ranges::sort(sorted, [](const TensorInfo* a, const TensorInfo* b) {
    return std::pair(a->file, a->offset) < std::pair(b->file, b->offset);
  });
  for (size_t i = 1; i < sorted.size(); ++i) {
    const TensorInfo& before = *sorted[i - 1];
    if (before.file == sorted[i]->file && before.offset + before.bytes > sorted[i]->offset) {
      return InvalidArgument("{}: tensors {} (offset {}, {} bytes) and {} (offset {}) overlap",
                             path, before.name, before.offset, before.bytes, sorted[i]->name,
                             sorted[i]->offset);
    }
  }
  return {};
}

StatusOr<Checkpoint> Checkpoint::Open(const std::string& path) {
  std::error_code error;
  const bool folder = std::filesystem::is_directory(path, error);
  LLMIR_ASSIGN_OR_RETURN(CheckpointParts parts, folder ? OpenHuggingFace(path) : OpenGguf(path));
  Checkpoint checkpoint;
  checkpoint.format_ = folder ? Format::kSafetensors : Format::kGguf;
  checkpoint.path_ = path;
  checkpoint.config_ = std::move(parts.config);
  checkpoint.files_ = std::move(parts.files);
  checkpoint.maps_ = std::move(parts.maps);
  checkpoint.tensors_ = std::move(parts.tensors);
  std::ranges::sort(checkpoint.tensors_, {}, &TensorInfo::name);
  LLMIR_RETURN_IF_ERROR(
      CheckModelTensors(checkpoint.tensors_, checkpoint.format_, checkpoint.config_, path));
  return checkpoint;
}

StatusOr<Checkpoint> Checkpoint::FromShape(const ModelConfig& config, SourceType type,
                                           const std::string& path) {
  LLMIR_RETURN_IF_ERROR(CheckConfig(config, path));
  Checkpoint checkpoint;
  checkpoint.format_ = Format::kSafetensors;
  checkpoint.path_ = path;
  checkpoint.config_ = config;
  uint64_t offset = 0;
  const auto add = [&](Role role, int64_t layer) {
    const Shape shape = ExpectedShape(role, config);
    const SourceType stored = IsNorm(role) ? SourceType::kF32 : type;
    TensorInfo tensor{TensorName(checkpoint.format_, role, layer),
                      stored,
                      shape.rows,
                      shape.columns,
                      /*file=*/0,
                      offset,
                      0};
    tensor.bytes = static_cast<uint64_t>(shape.rows * RowBytes(stored, shape.columns));
    offset += tensor.bytes;
    checkpoint.tensors_.push_back(std::move(tensor));
  };
  for (const RoleNames& names : kRoles) {
    if (names.role == Role::kHead && config.tied_head) continue;
    for (int64_t layer = 0; layer < (names.in_layer ? config.layers : 1); ++layer)
      add(names.role, names.in_layer ? layer : -1);
  }
  checkpoint.files_.push_back({path, checkpoint.format_, offset, 0, 0});
  std::ranges::sort(checkpoint.tensors_, {}, &TensorInfo::name);
  return checkpoint;
}

uint64_t Checkpoint::identity() const {
  ModelIdentity identity;
  for (const FileInfo& file : files_) {
    if (file.format != Format::kPacked) identity.Add(file.bytes, file.header_hash);
  }
  return identity.value();
}

StatusOr<Checkpoint> Checkpoint::OpenWith(const std::string& path,
                                          std::vector<TensorValues> tensors,
                                          const std::string& packed_path) {
  LLMIR_ASSIGN_OR_RETURN(Checkpoint checkpoint, Open(path));
  const int file = static_cast<int>(checkpoint.files_.size());
  checkpoint.files_.push_back({packed_path, Format::kPacked, 0, 0, 0});
  for (TensorValues& tensor : tensors) {
    const auto own =
        std::ranges::lower_bound(checkpoint.tensors_, tensor.name, {}, &TensorInfo::name);
    if (own == checkpoint.tensors_.end() || own->name != tensor.name)
      return InvalidArgument("tensor {} isn't one of {}", tensor.name, path);
    *own = {tensor.name,        tensor.type, tensor.rows,
            tensor.columns,     file,        checkpoint.values_.size(),
            tensor.bytes.size()};
    checkpoint.values_.push_back(std::move(tensor.bytes));
  }
  LLMIR_RETURN_IF_ERROR(
      CheckModelTensors(checkpoint.tensors_, checkpoint.format_, checkpoint.config_, path));
  return checkpoint;
}

StatusOr<TensorInfo> Checkpoint::Find(Role role, int64_t layer) const {
  if (kRoles[static_cast<size_t>(role)].in_layer ? layer < 0 || layer >= config_.layers
                                                 : layer != -1) {
    return OutOfRange("{}: layer {} of a model with {} layers", path_, layer, config_.layers);
  }
  const std::string name = TensorName(
      format_, role == Role::kHead && config_.tied_head ? Role::kEmbedding : role, layer);
  const TensorInfo* tensor = FindByName(tensors_, name);
  if (tensor == nullptr) return NotFound("{}: tensor {} is missing", path_, name);
  return *tensor;
}

std::span<const std::byte> Checkpoint::Bytes(const TensorInfo& tensor) const {
  if (files_[static_cast<size_t>(tensor.file)].format == Format::kPacked)
    return values_[tensor.offset];
  return maps_[static_cast<size_t>(tensor.file)].bytes().subspan(tensor.offset, tensor.bytes);
}

}  // namespace llmir::checkpoint
