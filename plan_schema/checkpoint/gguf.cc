#include "plan_schema/checkpoint/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "plan_schema/base/hash.h"
#include "plan_schema/checkpoint/rope.h"

namespace llmir::checkpoint {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr uint64_t kMaxNameBytes = 65535;  // the format's limit for keys
constexpr uint32_t kMaxDimensions = 4;

constexpr std::array<const char*, 13> kTypeNames = {
    "uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
    "bool",  "string", "array",  "uint64", "int64",  "float64"};

std::string_view TypeName(GgufType type) { return kTypeNames[static_cast<size_t>(type)]; }

// Bytes of one scalar; 0 for string and array, whose size is in the file.
uint64_t ScalarBytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// The encodings of GGML by number. Those without a SourceType are named so that a refusal can say
// what the file holds.
struct TensorEncoding {
  uint32_t number;
  const char* name;
  std::optional<SourceType> type;
};
constexpr TensorEncoding kEncodings[] = {
    {0, "F32", SourceType::kF32},
    {1, "F16", SourceType::kF16},
    {2, "Q4_0", SourceType::kQ4_0},
    {3, "Q4_1", SourceType::kQ4_1},
    {6, "Q5_0", SourceType::kQ5_0},
    {7, "Q5_1", SourceType::kQ5_1},
    {8, "Q8_0", SourceType::kQ8_0},
    {30, "BF16", SourceType::kBF16},
    {9, "Q8_1", {}},
    {10, "Q2_K", {}},
    {11, "Q3_K", {}},
    {12, "Q4_K", {}},
    {13, "Q5_K", {}},
    {14, "Q6_K", {}},
    {15, "Q8_K", {}},
    {16, "IQ2_XXS", {}},
    {17, "IQ2_XS", {}},
    {18, "IQ3_XXS", {}},
    {19, "IQ1_S", {}},
    {20, "IQ4_NL", {}},
    {21, "IQ3_S", {}},
    {22, "IQ2_S", {}},
    {23, "IQ4_XS", {}},
    {24, "I8", {}},
    {25, "I16", {}},
    {26, "I32", {}},
    {27, "I64", {}},
    {28, "F64", {}},
    {29, "IQ1_M", {}},
    {34, "TQ1_0", {}},
    {35, "TQ2_0", {}},
    {39, "MXFP4", {}},
};

StatusOr<SourceType> TensorType(uint32_t number, std::string_view tensor, std::string_view path) {
  const auto* encoding = std::ranges::find(kEncodings, number, &TensorEncoding::number);
  if (encoding != std::end(kEncodings) && encoding->type) return *encoding->type;
  return Incompatible(
      "{}: tensor {}: encoding {} ({}) cannot be read; expected F32, F16, BF16, Q8_0, Q4_0, "
      "Q4_1, Q5_0 or Q5_1: use a file of one of "
      "these, or requantize this one",
      path, tensor, number, encoding == std::end(kEncodings) ? "unknown" : encoding->name);
}

// Reads forward through the bytes of a file; every read is checked against what is left.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  uint64_t offset() const { return offset_; }
  uint64_t left() const { return bytes_.size() - offset_; }

  StatusOr<std::span<const std::byte>> Take(uint64_t count, std::string_view what) {
    if (count > left()) {
      return DataLoss("{}: truncated: {} at offset {} needs {} bytes, but the file ends at {}",
                      path_, what, offset_, count, bytes_.size());
    }
    const auto taken = bytes_.subspan(offset_, count);
    offset_ += count;
    return taken;
  }

  template <typename T>
  StatusOr<T> Scalar(std::string_view what) {
    LLMIR_ASSIGN_OR_RETURN(const auto bytes, Take(sizeof(T), what));
    return Load<T>(bytes.data());
  }

  StatusOr<std::string_view> String(std::string_view what,
                                    uint64_t limit = std::numeric_limits<uint64_t>::max()) {
    LLMIR_ASSIGN_OR_RETURN(const uint64_t length, Scalar<uint64_t>(what));
    if (length > limit) {
      return InvalidArgument("{}: {} at offset {}: length {}, expected at most {}", path_, what,
                             offset_ - 8, length, limit);
    }
    LLMIR_ASSIGN_OR_RETURN(const auto bytes, Take(length, what));
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

 private:
  std::span<const std::byte> bytes_;
  uint64_t offset_ = 0;
  const std::string& path_;
};

StatusOr<GgufType> ReadType(Cursor& cursor, std::string_view key, const std::string& path) {
  LLMIR_ASSIGN_OR_RETURN(const uint32_t number, cursor.Scalar<uint32_t>(key));
  if (number >= kTypeNames.size()) {
    return InvalidArgument("{}: metadata {}: value type {}, expected 0 to {}", path, key, number,
                           kTypeNames.size() - 1);
  }
  return static_cast<GgufType>(number);
}

StatusOr<GgufValue> ReadValue(Cursor& cursor, std::span<const std::byte> file, std::string_view key,
                              const std::string& path) {
  LLMIR_ASSIGN_OR_RETURN(GgufType type, ReadType(cursor, key, path));
  GgufValue value{type, type == GgufType::kArray, 1, {}};
  if (value.array) {
    LLMIR_ASSIGN_OR_RETURN(value.type, ReadType(cursor, key, path));
    if (value.type == GgufType::kArray) {
      return Incompatible("{}: metadata {}: arrays of arrays cannot be read", path, key);
    }
    LLMIR_ASSIGN_OR_RETURN(value.count, cursor.Scalar<uint64_t>(key));
    const uint64_t smallest =
        value.type == GgufType::kString ? sizeof(uint64_t) : ScalarBytes(value.type);
    if (value.count > cursor.left() / smallest) {
      return DataLoss(
          "{}: metadata {}: {} elements at offset {} cannot fit into the {} bytes that are left",
          path, key, value.count, cursor.offset(), cursor.left());
    }
  }
  const uint64_t start = cursor.offset();
  if (value.type == GgufType::kString) {
    for (uint64_t i = 0; i < value.count; ++i) LLMIR_RETURN_IF_ERROR(cursor.String(key).status());
  } else {
    LLMIR_RETURN_IF_ERROR(cursor.Take(value.count * ScalarBytes(value.type), key).status());
  }
  value.bytes = file.subspan(start, cursor.offset() - start);
  if (value.type == GgufType::kBool) {
    for (const std::byte flag : value.bytes) {
      if (std::to_integer<int>(flag) > 1) {
        return InvalidArgument("{}: metadata {}: bool is {}, expected 0 or 1", path, key,
                               std::to_integer<int>(flag));
      }
    }
  }
  return value;
}

// An entry of the tensor table; `offset` is still relative to the data section, which starts after
// the table.
StatusOr<TensorInfo> ReadTensor(Cursor& cursor, uint64_t index, uint64_t alignment,
                                const std::string& path) {
  LLMIR_ASSIGN_OR_RETURN(const auto name,
                         cursor.String(fmt::format("name of tensor {}", index), kMaxNameBytes));
  TensorInfo tensor{};
  tensor.name = name;
  if (name.empty()) return InvalidArgument("{}: tensor {} has no name", path, index);
  LLMIR_ASSIGN_OR_RETURN(const uint32_t dimensions, cursor.Scalar<uint32_t>(name));
  if (dimensions < 1 || dimensions > kMaxDimensions) {
    return InvalidArgument("{}: tensor {}: {} dimensions, expected 1 to {}", path, name, dimensions,
                           kMaxDimensions);
  }
  tensor.rows = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    LLMIR_ASSIGN_OR_RETURN(const uint64_t extent, cursor.Scalar<uint64_t>(name));
    int64_t& product = i == 0 ? tensor.columns : tensor.rows;
    if (i == 0) product = 1;
    if (extent == 0 || extent > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) ||
        __builtin_mul_overflow(product, static_cast<int64_t>(extent), &product)) {
      return InvalidArgument("{}: tensor {}: dimension[{}] = {} is out of range", path, name, i,
                             extent);
    }
  }
  LLMIR_ASSIGN_OR_RETURN(const uint32_t encoding, cursor.Scalar<uint32_t>(name));
  LLMIR_ASSIGN_OR_RETURN(tensor.offset, cursor.Scalar<uint64_t>(name));
  LLMIR_ASSIGN_OR_RETURN(tensor.type, TensorType(encoding, name, path));
  const SourceTypeTraits& traits = Traits(tensor.type);
  if (tensor.columns % traits.block_values != 0) {
    return InvalidArgument(
        "{}: tensor {}: rows of {} values, expected a multiple of {}'s block of {}", path, name,
        tensor.columns, traits.name, traits.block_values);
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(tensor.columns / traits.block_values, traits.block_bytes, &bytes) ||
      __builtin_mul_overflow(bytes, tensor.rows, &bytes)) {
    return InvalidArgument(
        "{}: tensor {}: {} x {} values of {} are more bytes than a file can have", path, name,
        tensor.rows, tensor.columns, traits.name);
  }
  tensor.bytes = static_cast<uint64_t>(bytes);
  if (tensor.offset % alignment != 0) {
    return InvalidArgument(
        "{}: tensor {}: misaligned: data offset {} is not a multiple of the alignment {}", path,
        name, tensor.offset, alignment);
  }
  return tensor;
}

StatusOr<uint64_t> Alignment(const GgufMetadata& metadata) {
  LLMIR_ASSIGN_OR_RETURN(const auto alignment, metadata.Integer("general.alignment"));
  if (!alignment) return kDefaultAlignment;
  const auto value = static_cast<uint64_t>(*alignment);
  if (value == 0 || value > kMaxAlignment || (value & (value - 1)) != 0) {
    return InvalidArgument("{}: metadata general.alignment: {}, expected a power of two up to {}",
                           metadata.path(), *alignment, kMaxAlignment);
  }
  return value;
}

StatusOr<int64_t> IntegerElement(const GgufValue& value, size_t index) {
  const std::byte* at = value.bytes.data() + index * ScalarBytes(value.type);
  switch (value.type) {
    case GgufType::kUint8:
      return Load<uint8_t>(at);
    case GgufType::kInt8:
      return Load<int8_t>(at);
    case GgufType::kUint16:
      return Load<uint16_t>(at);
    case GgufType::kInt16:
      return Load<int16_t>(at);
    case GgufType::kUint32:
      return Load<uint32_t>(at);
    case GgufType::kInt32:
      return Load<int32_t>(at);
    case GgufType::kInt64:
      return Load<int64_t>(at);
    case GgufType::kUint64: {
      const auto number = Load<uint64_t>(at);
      if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return OutOfRange("{} does not fit 63 bits", number);
      }
      return static_cast<int64_t>(number);
    }
    default:
      return InvalidArgument("expected an integer");
  }
}

std::string_view StringAt(const std::byte* at) {
  return {reinterpret_cast<const char*>(at) + sizeof(uint64_t), Load<uint64_t>(at)};
}

// Keys that change the computation in ways the plan cannot express. Absent, zero, one of the
// neutral values: fine.
Status RefuseUnsupported(const GgufMetadata& metadata) {
  struct Feature {
    const char* key;
    double neutral;
    const char* what;
  };
  static constexpr Feature kFeatures[] = {
      {"llama.expert_count", 0, "mixtures of experts"},
      {"llama.attention.scale", 0, "custom attention scales"},
      {"llama.attention.clamp_kqv", 0, "clamped projections"},
      {"llama.attention.max_alibi_bias", 0, "ALiBi"},
      {"llama.logit_scale", 0, "scaled logits"},
      {"llama.embedding_scale", 0, "scaled embeddings"},
      {"llama.residual_scale", 0, "scaled residuals"},
      {"llama.final_logit_softcapping", 0, "soft-capped logits"},
      {"llama.rope.scaling.attn_factor", 1, "rope attention factors"},
  };
  for (const Feature& feature : kFeatures) {
    LLMIR_ASSIGN_OR_RETURN(const auto value, metadata.Number(feature.key));
    if (value && *value != feature.neutral) {
      return Incompatible("{}: metadata {} = {}: {} are not supported", metadata.path(),
                          feature.key, *value, feature.what);
    }
  }
  LLMIR_ASSIGN_OR_RETURN(const auto parts, metadata.Integer("split.count"));
  if (parts && *parts > 1) {
    return Incompatible(
        "{}: one of {} parts; split files are not supported: merge them into one file",
        metadata.path(), *parts);
  }
  LLMIR_ASSIGN_OR_RETURN(const auto causal, metadata.Bool("llama.attention.causal"));
  if (causal && !*causal)
    return Incompatible("{}: attention that is not causal is not supported", metadata.path());
  return {};
}

StatusOr<RopeScaling> ReadRopeScaling(const GgufMetadata& metadata) {
  RopeScaling scaling;
  LLMIR_ASSIGN_OR_RETURN(const auto type, metadata.String("llama.rope.scaling.type"));
  LLMIR_ASSIGN_OR_RETURN(const auto factor, metadata.Number("llama.rope.scaling.factor"));
  LLMIR_ASSIGN_OR_RETURN(const auto old_factor, metadata.Number("llama.rope.scale_linear"));
  if (type && *type != "none" && *type != "linear") {
    return Incompatible(
        "{}: metadata llama.rope.scaling.type: \"{}\" is not supported; expected none or linear",
        metadata.path(), *type);
  }
  if (type && *type == "none") return scaling;
  // A file with a factor and no type means linear, as its older form does.
  if (const auto given = factor ? factor : old_factor; given && *given != 0) {
    if (!(*given > 0) || !std::isfinite(*given)) {
      return InvalidArgument("{}: rope scaling factor {}, expected a positive number",
                             metadata.path(), *given);
    }
    scaling.linear_factor = *given;
  } else if (type) {
    return InvalidArgument("{}: linear rope scaling without llama.rope.scaling.factor",
                           metadata.path());
  }
  return scaling;
}

// rope_freqs.weight: each frequency is divided by its factor (how converters write Llama 3
// scaling).
Status ApplyRopeFactors(const TensorInfo& tensor, std::span<const std::byte> file,
                        const std::string& path, std::vector<float>& frequencies) {
  if (tensor.type != SourceType::kF32 || tensor.rows != 1 ||
      tensor.columns != static_cast<int64_t>(frequencies.size())) {
    return InvalidArgument("{}: tensor {}: {} of {} x {}, expected f32 of 1 x {}", path,
                           tensor.name, Traits(tensor.type).name, tensor.rows, tensor.columns,
                           frequencies.size());
  }
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const auto factor = Load<float>(file.data() + tensor.offset + i * sizeof(float));
    if (!(factor > 0) || !std::isfinite(factor)) {
      return InvalidArgument("{}: tensor {}[{}] = {}, expected a positive number", path,
                             tensor.name, i, factor);
    }
    frequencies[i] /= factor;
  }
  return {};
}

}  // namespace

const GgufValue* GgufMetadata::Find(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

Status GgufMetadata::WrongKind(std::string_view key, const GgufValue& value,
                               std::string_view expected) const {
  return InvalidArgument("{}: metadata {}: {}{}, expected {}", path_, key,
                         value.array ? "array of " : "", TypeName(value.type), expected);
}

Status GgufMetadata::Missing(std::string_view key) const {
  return InvalidArgument("{}: metadata {} is missing", path_, key);
}

StatusOr<std::optional<int64_t>> GgufMetadata::Integer(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<int64_t>();
  if (value->array) return WrongKind(key, *value, "one integer");
  auto number = IntegerElement(*value, 0);
  if (!number.ok()) {
    return number.status().WithContext(
        fmt::format("{}: metadata {}: {}", path_, key, TypeName(value->type)));
  }
  return std::optional<int64_t>(*number);
}

StatusOr<std::optional<double>> GgufMetadata::Number(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<double>();
  if (!value->array && value->type == GgufType::kFloat32)
    return std::optional<double>(Load<float>(value->bytes.data()));
  if (!value->array && value->type == GgufType::kFloat64)
    return std::optional<double>(Load<double>(value->bytes.data()));
  LLMIR_ASSIGN_OR_RETURN(const auto number, Integer(key));
  return std::optional<double>(static_cast<double>(*number));
}

StatusOr<std::optional<bool>> GgufMetadata::Bool(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<bool>();
  if (value->array || value->type != GgufType::kBool) return WrongKind(key, *value, "one bool");
  return std::optional<bool>(value->bytes[0] != std::byte{0});
}

StatusOr<std::optional<std::string_view>> GgufMetadata::String(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<std::string_view>();
  if (value->array || value->type != GgufType::kString) return WrongKind(key, *value, "one string");
  return std::optional<std::string_view>(StringAt(value->bytes.data()));
}

StatusOr<std::optional<std::vector<std::string_view>>> GgufMetadata::Strings(
    std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<std::vector<std::string_view>>();
  if (!value->array || value->type != GgufType::kString)
    return WrongKind(key, *value, "an array of strings");
  std::vector<std::string_view> strings;
  strings.reserve(value->count);
  for (const std::byte* at = value->bytes.data(); strings.size() < value->count;) {
    strings.push_back(StringAt(at));
    at += sizeof(uint64_t) + strings.back().size();
  }
  return std::optional(std::move(strings));
}

StatusOr<std::optional<std::vector<int64_t>>> GgufMetadata::Integers(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<std::vector<int64_t>>();
  if (!value->array) return WrongKind(key, *value, "an array of integers");
  std::vector<int64_t> integers;
  integers.reserve(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    auto number = IntegerElement(*value, i);
    if (!number.ok())
      return number.status().WithContext(fmt::format("{}: metadata {}[{}]", path_, key, i));
    integers.push_back(*number);
  }
  return std::optional(std::move(integers));
}

StatusOr<int64_t> GgufMetadata::RequiredInteger(std::string_view key) const {
  LLMIR_ASSIGN_OR_RETURN(const auto value, Integer(key));
  if (!value) return Missing(key);
  return *value;
}

StatusOr<GgufHeader> ReadGgufHeader(std::span<const std::byte> file, const std::string& path) {
  Cursor cursor(file, path);
  LLMIR_ASSIGN_OR_RETURN(const uint32_t magic, cursor.Scalar<uint32_t>("magic"));
  if (magic != kMagic)
    return InvalidArgument("{}: not a GGUF file: it starts with {:#010x}, expected \"GGUF\"", path,
                           magic);
  LLMIR_ASSIGN_OR_RETURN(const uint32_t version, cursor.Scalar<uint32_t>("version"));
  if (version != 2 && version != 3) {
    return Incompatible("{}: GGUF version {}{}, expected 2 or 3", path, version,
                        (version & 0xffff) == 0 ? " (a big-endian file?)" : "");
  }
  LLMIR_ASSIGN_OR_RETURN(const uint64_t tensor_count, cursor.Scalar<uint64_t>("tensor count"));
  LLMIR_ASSIGN_OR_RETURN(const uint64_t metadata_count, cursor.Scalar<uint64_t>("metadata count"));
  constexpr uint64_t kSmallestPair = 8 + 4 + 1;                // empty key, type, one byte
  constexpr uint64_t kSmallestTensor = 8 + 1 + 4 + 8 + 4 + 8;  // name of one byte, one dimension
  if (metadata_count > cursor.left() / kSmallestPair) {
    return DataLoss("{}: {} metadata pairs cannot fit into the {} bytes that are left", path,
                    metadata_count, cursor.left());
  }

  GgufHeader header{GgufMetadata(path), {}, 0};
  for (uint64_t i = 0; i < metadata_count; ++i) {
    LLMIR_ASSIGN_OR_RETURN(const auto key,
                           cursor.String(fmt::format("key of metadata {}", i), kMaxNameBytes));
    LLMIR_ASSIGN_OR_RETURN(const GgufValue value, ReadValue(cursor, file, key, path));
    if (!header.metadata.Add(key, value))
      return InvalidArgument("{}: metadata {} is there twice", path, key);
  }
  LLMIR_ASSIGN_OR_RETURN(const uint64_t alignment, Alignment(header.metadata));

  if (tensor_count > cursor.left() / kSmallestTensor) {
    return DataLoss("{}: {} tensors cannot fit into the {} bytes that are left", path, tensor_count,
                    cursor.left());
  }
  header.tensors.reserve(tensor_count);
  for (uint64_t i = 0; i < tensor_count; ++i) {
    LLMIR_ASSIGN_OR_RETURN(TensorInfo tensor, ReadTensor(cursor, i, alignment, path));
    header.tensors.push_back(std::move(tensor));
  }

  header.data_offset = (cursor.offset() + alignment - 1) / alignment * alignment;
  for (TensorInfo& tensor : header.tensors) {
    // Compared by subtraction: the sum of the three can wrap around.
    const uint64_t room = header.data_offset < file.size() ? file.size() - header.data_offset : 0;
    if (tensor.offset > room || tensor.bytes > room - tensor.offset) {
      return DataLoss(
          "{}: truncated: tensor {} at data offset {} (data starts at {}) needs {} bytes, but the "
          "file has {}: fetch it again",
          path, tensor.name, tensor.offset, header.data_offset, tensor.bytes, file.size());
    }
    tensor.offset += header.data_offset;
  }
  LLMIR_RETURN_IF_ERROR(CheckTensorTable(header.tensors, path));
  return header;
}

StatusOr<ModelConfig> GgufModelConfig(const GgufHeader& header, std::span<const std::byte> file) {
  const GgufMetadata& metadata = header.metadata;
  const std::string& path = metadata.path();
  LLMIR_ASSIGN_OR_RETURN(const auto architecture, metadata.String("general.architecture"));
  if (!architecture) return InvalidArgument("{}: metadata general.architecture is missing", path);
  if (*architecture != "llama") {
    return Incompatible("{}: architecture \"{}\" is not supported; expected \"llama\"", path,
                        *architecture);
  }
  LLMIR_RETURN_IF_ERROR(RefuseUnsupported(metadata));

  ModelConfig config{};
  config.architecture = *architecture;
  LLMIR_ASSIGN_OR_RETURN(const auto name, metadata.String("general.name"));
  config.name = name ? std::string(*name) : std::filesystem::path(path).stem().string();
  LLMIR_ASSIGN_OR_RETURN(config.layers, metadata.RequiredInteger("llama.block_count"));
  LLMIR_ASSIGN_OR_RETURN(config.hidden, metadata.RequiredInteger("llama.embedding_length"));
  LLMIR_ASSIGN_OR_RETURN(config.mlp_columns, metadata.RequiredInteger("llama.feed_forward_length"));
  LLMIR_ASSIGN_OR_RETURN(config.context, metadata.RequiredInteger("llama.context_length"));
  LLMIR_ASSIGN_OR_RETURN(config.query_heads,
                         metadata.RequiredInteger("llama.attention.head_count"));
  LLMIR_ASSIGN_OR_RETURN(const auto kv_heads, metadata.Integer("llama.attention.head_count_kv"));
  config.kv_heads = kv_heads.value_or(config.query_heads);
  LLMIR_ASSIGN_OR_RETURN(const auto key_length, metadata.Integer("llama.attention.key_length"));
  LLMIR_ASSIGN_OR_RETURN(const auto value_length, metadata.Integer("llama.attention.value_length"));
  if (!key_length && (config.query_heads <= 0 || config.hidden % config.query_heads != 0)) {
    return InvalidArgument(
        "{}: {} query heads do not divide the hidden size {}, and llama.attention.key_length is "
        "missing",
        path, config.query_heads, config.hidden);
  }
  config.head_dim = key_length ? *key_length : config.hidden / config.query_heads;
  if (value_length && *value_length != config.head_dim) {
    return Incompatible(
        "{}: metadata llama.attention.value_length = {} differs from the key length {}: not "
        "supported",
        path, *value_length, config.head_dim);
  }
  LLMIR_ASSIGN_OR_RETURN(const auto epsilon,
                         metadata.Number("llama.attention.layer_norm_rms_epsilon"));
  if (!epsilon)
    return InvalidArgument("{}: metadata llama.attention.layer_norm_rms_epsilon is missing", path);
  config.norm_epsilon = static_cast<float>(*epsilon);

  const auto find = [&](std::string_view tensor) {
    return std::ranges::find(header.tensors, tensor, &TensorInfo::name);
  };
  LLMIR_ASSIGN_OR_RETURN(const auto vocabulary, metadata.Integer("llama.vocab_size"));
  if (vocabulary) {
    config.vocabulary = *vocabulary;
  } else if (const auto embedding = find(TensorName(Format::kGguf, Role::kEmbedding, -1));
             embedding != header.tensors.end()) {
    config.vocabulary = embedding->rows;
  } else {
    return NotFound(
        "{}: neither metadata llama.vocab_size nor an embedding tensor says how large the "
        "vocabulary is",
        path);
  }
  config.tied_head = find(TensorName(Format::kGguf, Role::kHead, -1)) == header.tensors.end();

  config.rope_style =
      RopeStyle::kInterleaved;  // converters permute q and k rows so that pairs are neighbours
  LLMIR_ASSIGN_OR_RETURN(const auto rope_dim, metadata.Integer("llama.rope.dimension_count"));
  config.rope_dim = rope_dim.value_or(config.head_dim);
  LLMIR_ASSIGN_OR_RETURN(const auto softcap, metadata.Number("llama.attn_logit_softcapping"));
  config.attention_softcap = static_cast<float>(softcap.value_or(0));
  LLMIR_RETURN_IF_ERROR(CheckConfig(config, path));
  LLMIR_ASSIGN_OR_RETURN(const auto window, metadata.Integer("llama.attention.sliding_window"));
  if (window.value_or(0) != 0) {
    config.attention_windows.assign(static_cast<size_t>(config.layers), *window);
    LLMIR_RETURN_IF_ERROR(CheckConfig(config, path));
  }
  LLMIR_ASSIGN_OR_RETURN(const auto base, metadata.Number("llama.rope.freq_base"));
  if (base && (!(*base > 0) || !std::isfinite(*base))) {
    return InvalidArgument("{}: metadata llama.rope.freq_base = {}, expected a positive number",
                           path, *base);
  }
  LLMIR_ASSIGN_OR_RETURN(const RopeScaling scaling, ReadRopeScaling(metadata));
  config.rope_frequencies = RopeFrequencies(config.rope_dim, base.value_or(10000.0), scaling);
  if (const auto factors = find("rope_freqs.weight"); factors != header.tensors.end()) {
    LLMIR_RETURN_IF_ERROR(ApplyRopeFactors(*factors, file, path, config.rope_frequencies));
  }
  return config;
}

StatusOr<CheckpointParts> OpenGguf(const std::string& path) {
  LLMIR_ASSIGN_OR_RETURN(FileMap map, FileMap::Open(path));
  LLMIR_ASSIGN_OR_RETURN(GgufHeader header, ReadGgufHeader(map.bytes(), path));
  CheckpointParts parts;
  LLMIR_ASSIGN_OR_RETURN(parts.config, GgufModelConfig(header, map.bytes()));
  const uint64_t header_bytes = std::min<uint64_t>(header.data_offset, map.size());
  parts.files.push_back(
      {path, Format::kGguf, map.size(), header_bytes, Hash64(map.bytes().first(header_bytes))});
  parts.maps.push_back(std::move(map));
  parts.tensors = std::move(header.tensors);
  return parts;
}

}  // namespace llmir::checkpoint
