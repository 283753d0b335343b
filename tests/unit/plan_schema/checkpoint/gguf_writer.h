// Builds GGUF files in memory, valid ones and broken ones: nothing is checked here.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace llmir::checkpoint {

class GgufWriter {
 public:
  enum : uint32_t {
    kUint32 = 4,
    kInt32 = 5,
    kFloat32 = 6,
    kBool = 7,
    kString = 8,
    kArray = 9,
    kUint64 = 10
  };

  uint32_t version = 3;
  uint64_t alignment = 32;
  int64_t extra_tensors = 0;  // added to the true counts in the header
  int64_t extra_metadata = 0;

  GgufWriter& Raw(std::string_view key, uint32_t type, std::string_view value) {
    AppendString(metadata_, key);
    Append(metadata_, type);
    metadata_ += value;
    ++metadata_count_;
    return *this;
  }
  template <typename T>
  GgufWriter& Number(std::string_view key, uint32_t type, T value) {
    return Raw(key, type, {reinterpret_cast<const char*>(&value), sizeof value});
  }
  GgufWriter& Integer(std::string_view key, uint32_t value) { return Number(key, kUint32, value); }
  GgufWriter& Float(std::string_view key, float value) { return Number(key, kFloat32, value); }
  GgufWriter& Bool(std::string_view key, bool value) { return Number(key, kBool, value); }
  GgufWriter& String(std::string_view key, std::string_view value) {
    std::string text;
    AppendString(text, value);
    return Raw(key, kString, text);
  }
  GgufWriter& Strings(std::string_view key, const std::vector<std::string>& values) {
    std::string bytes;
    Append(bytes, uint32_t{kString});
    Append(bytes, static_cast<uint64_t>(values.size()));
    for (const std::string& value : values) AppendString(bytes, value);
    return Raw(key, kArray, bytes);
  }
  GgufWriter& Integers(std::string_view key, const std::vector<int32_t>& values) {
    std::string bytes;
    Append(bytes, uint32_t{kInt32});
    Append(bytes, static_cast<uint64_t>(values.size()));
    for (const int32_t value : values) Append(bytes, value);
    return Raw(key, kArray, bytes);
  }

  // A tensor whose data is the next `bytes` of the data section; `columns` is the first extent.
  GgufWriter& Tensor(std::string_view name, std::vector<uint64_t> extents, uint32_t type,
                     uint64_t bytes) {
    TensorAt(name, extents, type, data_.size());
    for (uint64_t i = 0; i < bytes; ++i) data_ += static_cast<char>(i * 7 + data_.size());
    data_.resize((data_.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }
  // A float32 vector with these values.
  GgufWriter& Floats(std::string_view name, const std::vector<float>& values) {
    TensorAt(name, {values.size()}, 0, data_.size());
    data_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    data_.resize((data_.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }
  // Only the entry in the table.
  GgufWriter& TensorAt(std::string_view name, const std::vector<uint64_t>& extents, uint32_t type,
                       uint64_t offset) {
    AppendString(tensors_, name);
    Append(tensors_, static_cast<uint32_t>(extents.size()));
    for (const uint64_t extent : extents) Append(tensors_, extent);
    Append(tensors_, type);
    Append(tensors_, offset);
    ++tensor_count_;
    return *this;
  }

  std::string Finish() const {
    std::string file = "GGUF";
    Append(file, version);
    Append(file, tensor_count_ + static_cast<uint64_t>(extra_tensors));
    Append(file, metadata_count_ + static_cast<uint64_t>(extra_metadata));
    file += metadata_ + tensors_;
    file.resize((file.size() + alignment - 1) / alignment * alignment, '\0');
    return file + data_;
  }

 private:
  template <typename T>
  static void Append(std::string& to, T value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static void AppendString(std::string& to, std::string_view text) {
    Append(to, static_cast<uint64_t>(text.size()));
    to += text;
  }

  std::string metadata_, tensors_, data_;
  uint64_t metadata_count_ = 0, tensor_count_ = 0;
};

// The metadata of a Llama model with hidden size 64, 4 query heads on 2 KV heads, 96 MLP columns,
// 40 tokens, 2 layers.
inline GgufWriter TinyLlamaMetadata() {
  GgufWriter writer;
  writer.String("general.architecture", "llama")
      .String("general.name", "tiny")
      .Integer("llama.block_count", 2)
      .Integer("llama.embedding_length", 64)
      .Integer("llama.feed_forward_length", 96)
      .Integer("llama.context_length", 128)
      .Integer("llama.attention.head_count", 4)
      .Integer("llama.attention.head_count_kv", 2)
      .Integer("llama.vocab_size", 40)
      .Float("llama.attention.layer_norm_rms_epsilon", 1e-5f)
      .Float("llama.rope.freq_base", 10000.0f);
  return writer;
}

// The tensors of that model, of every encoding that can be read; without those named in `left_out`.
inline GgufWriter& AddTinyLlamaTensors(GgufWriter& writer,
                                       const std::vector<std::string>& left_out = {}) {
  constexpr uint32_t kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ5_0 = 6, kQ5_1 = 7, kQ8_0 = 8,
                     kBF16 = 30;
  const auto add = [&](const std::string& name, std::vector<uint64_t> extents, uint32_t type,
                       uint64_t bytes) {
    for (const std::string& skipped : left_out) {
      if (name == skipped) return;
    }
    writer.Tensor(name, std::move(extents), type, bytes);
  };
  add("token_embd.weight", {64, 40}, kQ8_0, 64 / 32 * 34 * 40);
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    add(layer + "attn_norm.weight", {64}, kF32, 64 * 4);
    add(layer + "attn_q.weight", {64, 64}, kQ4_1, 64 / 32 * 20 * 64);
    add(layer + "attn_k.weight", {64, 32}, kQ4_0, 64 / 32 * 18 * 32);
    add(layer + "attn_v.weight", {64, 32}, kF16, 64 * 2 * 32);
    add(layer + "attn_output.weight", {64, 64}, kBF16, 64 * 2 * 64);
    add(layer + "ffn_norm.weight", {64}, kF32, 64 * 4);
    add(layer + "ffn_gate.weight", {64, 96}, kQ5_1, 64 / 32 * 24 * 96);
    add(layer + "ffn_up.weight", {64, 96}, kQ5_0, 64 / 32 * 22 * 96);
    add(layer + "ffn_down.weight", {96, 64}, kF32, 96 * 4 * 64);
  }
  add("output_norm.weight", {64}, kF32, 64 * 4);
  return writer;
}

}  // namespace llmir::checkpoint
