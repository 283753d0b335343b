// Reader of GGUF files, versions 2 and 3, little-endian. Internal to this folder.
//
// Nothing in the file is trusted: each count is compared with the bytes that are left before
// anything is reserved, each offset with the size of the file before it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint_parts.h"

namespace llmir::checkpoint {

enum class GgufType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

// A checked value, still in the file's encoding.
struct GgufValue {
  GgufType type;  // of the elements, for an array
  bool array;
  uint64_t count;                    // elements; 1 for a scalar
  std::span<const std::byte> bytes;  // count elements; a string is a 64-bit length and its bytes
};

// The key-value part of a file. Values are views: they live as long as the bytes that were read.
class GgufMetadata {
 public:
  explicit GgufMetadata(std::string path) : path_(std::move(path)) {}

  // False if `key` is already there.
  bool Add(std::string_view key, const GgufValue& value) {
    return values_.emplace(key, value).second;
  }

  // The value of `key`, nothing when the key is absent; a value of another kind is an error.
  StatusOr<std::optional<int64_t>> Integer(std::string_view key) const;
  StatusOr<std::optional<double>> Number(std::string_view key) const;
  StatusOr<std::optional<bool>> Bool(std::string_view key) const;
  StatusOr<std::optional<std::string_view>> String(std::string_view key) const;
  StatusOr<std::optional<std::vector<std::string_view>>> Strings(std::string_view key) const;
  StatusOr<std::optional<std::vector<int64_t>>> Integers(std::string_view key) const;

  // The same, but an absent key is an error.
  StatusOr<int64_t> RequiredInteger(std::string_view key) const;

  const std::string& path() const { return path_; }

 private:
  const GgufValue* Find(std::string_view key) const;
  Status WrongKind(std::string_view key, const GgufValue& value, std::string_view expected) const;
  Status Missing(std::string_view key) const;

  std::string path_;
  std::map<std::string_view, GgufValue> values_;
};

struct GgufHeader {
  GgufMetadata metadata;
  std::vector<TensorInfo> tensors;  // in the file's order; file is 0
  uint64_t data_offset;             // where the first tensor's data may start
};

// Reads everything before the tensors' data out of `file`, the bytes of a whole file; `path` is for
// messages.
StatusOr<GgufHeader> ReadGgufHeader(std::span<const std::byte> file, const std::string& path);

// The model's facts. `tensors` must be those of the same header: the vocabulary, a tied head and
// rope factors show there.
StatusOr<ModelConfig> GgufModelConfig(const GgufHeader& header, std::span<const std::byte> file);

StatusOr<CheckpointParts> OpenGguf(const std::string& path);

}  // namespace llmir::checkpoint
