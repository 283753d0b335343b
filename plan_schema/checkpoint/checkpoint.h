// A model on disk: GGUF file or Hugging Face folder, read through one interface. Nothing is
// trusted: every offset, count and type is checked against the file before it is used, and an error
// names file, field, got and expected.
//
// A Checkpoint owns its file maps; it is immutable after Open and any thread may read it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "plan_schema/base/file_map.h"
#include "plan_schema/base/status.h"

namespace llmir::checkpoint {

// Element encodings that a checkpoint can hold and LLMIR can read. The q types are GGUF's blocks of
// 32 along a row.
enum class SourceType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  // Only of values that quantization made.
  kQ3_0,
  kQ3_1,
  kQ6_0,
  kQ6_1,
  kQ3_1_64,
  kQ4_1_64,
  kQ5_1_64,
  kQ6_1_64,
};

struct SourceTypeTraits {
  const char* name;      // "q4_1"
  int64_t block_values;  // values per block
  int64_t block_bytes;
};
const SourceTypeTraits& Traits(SourceType type);
// The type of this name; nothing if there is none.
std::optional<SourceType> FindSourceType(std::string_view name);

// Bytes of `columns` values of one row; `columns` must be a multiple of the type's block.
int64_t RowBytes(SourceType type, int64_t columns);

enum class Format : uint8_t { kGguf, kSafetensors, kPacked };

// What a tensor is in the model, independent of how a format names it.
enum class Role : uint8_t {
  kEmbedding,
  kAttentionNorm,
  kQuery,
  kKey,
  kValue,
  kAttentionOutput,
  kMlpNorm,
  kGate,
  kUp,
  kDown,
  kOutputNorm,
  kHead,
};

struct TensorInfo {
  std::string name;
  SourceType type;
  int64_t rows;     // 1 for a vector
  int64_t columns;  // innermost, contiguous
  int file;         // index into files()
  uint64_t offset;  // from the start of the file; of a packed one: which of the values in memory
  uint64_t bytes;
};

// A tensor with values of its own.
struct TensorValues {
  std::string name;
  SourceType type;
  int64_t rows;
  int64_t columns;
  std::vector<std::byte> bytes;  // rows x RowBytes(type, columns)
};

enum class RopeStyle : uint8_t { kHalves, kInterleaved };

// The facts of a Llama-family model, in one form for both formats.
struct ModelConfig {
  std::string architecture;  // "llama"
  std::string name;
  int64_t layers, hidden, query_heads, kv_heads, head_dim, mlp_columns, vocabulary, context;
  float norm_epsilon;
  RopeStyle rope_style;
  int64_t rope_dim;
  // [rope_dim / 2] radians per position, scaling (linear, llama3) applied.
  std::vector<float> rope_frequencies;
  bool tied_head;
  // [layers] tokens that a token attends to, itself included, 0: all; empty: all layers to all.
  std::vector<int64_t> attention_windows;
  float attention_softcap = 0;  // scores become cap * tanh(score / cap); 0: they don't
};

struct FileInfo {
  std::string path;
  Format format;
  uint64_t bytes;         // of the file
  uint64_t header_bytes;  // before the first tensor's data
  uint64_t header_hash;   // Hash64 of those bytes
};

class Checkpoint {
 public:
  // Opens a .gguf file, or a folder with config.json and model.safetensors (or its index and
  // parts). Checks that every tensor that the model needs is there with the right shape.
  static StatusOr<Checkpoint> Open(const std::string& path);

  // A model of which only the shape is known: its matrices are of type `type`, its norms f32, named
  // as in a Hugging Face folder; `path` is where the shape was found. has_weights() is false, and
  // Bytes and map must not be called.
  static StatusOr<Checkpoint> FromShape(const ModelConfig& config, SourceType type,
                                        const std::string& path);

  bool has_weights() const { return !maps_.empty(); }
  // The same with `tensors` in place of its own of these names. They are in memory: files() has a
  // last entry with the path `packed_path`, where they are to be written, and nothing else.
  static StatusOr<Checkpoint> OpenWith(const std::string& path, std::vector<TensorValues> tensors,
                                       const std::string& packed_path);

  Format format() const { return format_; }
  const std::string& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  const std::vector<FileInfo>& files() const { return files_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // by name

  // The tensor with this role (of layer `layer`; -1 for those outside layers). kHead of a tied
  // model is kEmbedding's.
  StatusOr<TensorInfo> Find(Role role, int64_t layer = -1) const;

  // The tensor's bytes, in the map or in memory.
  std::span<const std::byte> Bytes(const TensorInfo& tensor) const;
  // Identifies the checkpoint's own files, not the packed one (ModelIdentity, activation_file.h).
  uint64_t identity() const;
  const FileMap& map(int file) const { return maps_[file]; }

 private:
  Format format_{};
  std::string path_;
  ModelConfig config_;
  std::vector<FileInfo> files_;
  std::vector<FileMap> maps_;
  std::vector<std::vector<std::byte>> values_;  // of the tensors whose file is kPacked
  std::vector<TensorInfo> tensors_;
};

}  // namespace llmir::checkpoint
