// Builds safetensors files in memory, valid ones and broken ones: nothing is checked here.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <vector>

namespace llmir::checkpoint {

class SafetensorsWriter {
 public:
  // A tensor whose data is the next `bytes` of the file.
  SafetensorsWriter& Tensor(const std::string& name, const std::string& dtype,
                            const std::vector<uint64_t>& shape, uint64_t bytes) {
    TensorAt(name, dtype, shape, data_.size(), data_.size() + bytes);
    for (uint64_t i = 0; i < bytes; ++i) data_ += static_cast<char>(i * 5 + data_.size());
    return *this;
  }
  // Only the entry in the header.
  SafetensorsWriter& TensorAt(const std::string& name, const std::string& dtype,
                              const std::vector<uint64_t>& shape, uint64_t begin, uint64_t end) {
    return Entry(fmt::format(R"("{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", name,
                             dtype, fmt::join(shape, ","), begin, end));
  }
  SafetensorsWriter& Entry(const std::string& json) {
    json_ += (json_.empty() ? "" : ",") + json;
    return *this;
  }

  std::string Finish() const { return FileOf("{" + json_ + "}", data_); }

  // The header padded to 8 bytes, as the format's library writes it.
  static std::string FileOf(std::string header, const std::string& data) {
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t length = header.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
  }

 private:
  std::string json_, data_;
};

// The tensors of a Llama model with hidden size 64, 4 query heads on 2 KV heads, 96 MLP columns, 40
// tokens, in layers [first, last), of all dtypes; those outside layers with `outside`.
inline SafetensorsWriter TinyLlamaSafetensors(int first, int last, bool outside) {
  SafetensorsWriter writer;
  if (outside) {
    writer.Tensor("model.embed_tokens.weight", "BF16", {40, 64}, 40 * 64 * 2)
        .Tensor("model.norm.weight", "F32", {64}, 256);
  }
  for (int layer = first; layer < last; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    writer.Tensor(prefix + "input_layernorm.weight", "F32", {64}, 256)
        .Tensor(prefix + "self_attn.q_proj.weight", "BF16", {64, 64}, 64 * 64 * 2)
        .Tensor(prefix + "self_attn.k_proj.weight", "F16", {32, 64}, 32 * 64 * 2)
        .Tensor(prefix + "self_attn.v_proj.weight", "F16", {32, 64}, 32 * 64 * 2)
        .Tensor(prefix + "self_attn.o_proj.weight", "F32", {64, 64}, 64 * 64 * 4)
        .Tensor(prefix + "post_attention_layernorm.weight", "F32", {64}, 256)
        .Tensor(prefix + "mlp.gate_proj.weight", "BF16", {96, 64}, 96 * 64 * 2)
        .Tensor(prefix + "mlp.up_proj.weight", "BF16", {96, 64}, 96 * 64 * 2)
        .Tensor(prefix + "mlp.down_proj.weight", "BF16", {64, 96}, 96 * 64 * 2);
  }
  return writer;
}

}  // namespace llmir::checkpoint
