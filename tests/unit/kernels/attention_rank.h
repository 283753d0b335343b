// A rank's KV cache with the sequences in it, run step by step, for the tests of attention kernels,
// and a reference in double precision that shares no code with the kernels.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/attention.h"
#include "kernels/worker_pool.h"
#include "tests/unit/kernels/families.h"

namespace llmir::kernels {

struct Shape {
  KvType type = KvType::kF32;
  int64_t head_dim = 64;
  int64_t block_size = 32;
  int64_t model_heads = 9;
  int64_t heads_per_kv = 3;
  int64_t first_head = 0;  // this rank's query heads [first_head, end_head)
  int64_t end_head = 9;
  int64_t rope_dim = 64;
  bool interleaved = false;
  int64_t window = 0;
  AttentionForm form = AttentionForm::kFlash;
  bool share_kv = true;
  float softcap = 0;
  bool fused = false;  // steps of one token per sequence go through append_attend

  int64_t element_bytes() const { return type == KvType::kF32 ? 4 : type == KvType::kBF16 ? 2 : 1; }
  int64_t head_bytes() const {
    return 2 * block_size * (head_dim * element_bytes() + (type == KvType::kI8 ? 4 : 0));
  }
  int64_t heads() const { return end_head - first_head; }
  int64_t first_kv_head() const { return first_head / heads_per_kv; }
  int64_t kv_heads() const { return (end_head - 1) / heads_per_kv + 1 - first_kv_head(); }
  int64_t row_floats() const { return (heads() + 2 * kv_heads()) * head_dim; }
  int64_t model_kv_heads() const { return model_heads / heads_per_kv; }
};

// Before rope, for one token: q, k and v of all heads of the model.
inline std::vector<float> TokenRow(const Shape& shape, int sequence, int64_t position) {
  const int64_t floats = (shape.model_heads + 2 * shape.model_kv_heads()) * shape.head_dim;
  return RandomFloats(floats, static_cast<uint32_t>(1 + sequence * 100003 + position));
}

// From the definition of OCP FP8 E4M3.
inline float DecodeF8(uint8_t bits) {
  const int exponent = bits >> 3 & 15;
  const int mantissa = bits & 7;
  double value =
      exponent == 0 ? std::ldexp(mantissa / 8.0, -6) : std::ldexp(1 + mantissa / 8.0, exponent - 7);
  if (exponent == 15 && mantissa == 7) value = std::nan("");
  return static_cast<float>(bits & 0x80 ? -value : value);
}

inline constexpr KvType kKvTypes[] = {KvType::kF32, KvType::kBF16, KvType::kI8, KvType::kF8E4M3};

// The largest difference that storing x, in a row whose largest magnitude is `largest`, may make.
inline float StoreError(KvType type, float x, float largest) {
  switch (type) {
    case KvType::kF32:
      return 0;
    case KvType::kBF16:
      return std::abs(x) / 256;
    case KvType::kI8:
      return largest / 254 * 1.0001f;
    case KvType::kF8E4M3:
      return std::max(std::abs(x) / 16, 0x1p-10f);
  }
  return 0;
}

// New tokens of a sequence in a step.
struct Part {
  int sequence;
  int64_t tokens;
};

// A rank's cache and the sequences in it, run step by step like an executor does it.
class Rank {
 public:
  // `tokens`: what the cache has room for; sequences begin with blocks of their own.
  Rank(const Shape& shape, Isa isa, int threads, uint8_t poison = 0xff, int64_t tokens = kTokens)
      : shape_(shape),
        kernels_(FindAttention(isa)),
        pool_(threads, static_cast<unsigned>(threads) > std::thread::hardware_concurrency()) {
    for (int64_t i = 0; i < shape.rope_dim / 2; ++i) {
      frequencies_.push_back(static_cast<float>(
          std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(shape.rope_dim))));
    }
    head_bytes_ = shape.head_bytes();
    layer_bytes_ = head_bytes_ * shape.kv_heads();
    free_blocks_.resize(static_cast<size_t>(tokens / shape.block_size));
    const size_t extents = (free_blocks_.size() + kExtentBlocks - 1) / kExtentBlocks;
    std::iota(free_blocks_.begin(), free_blocks_.end(), 0);
    std::shuffle(free_blocks_.begin(), free_blocks_.end(), std::mt19937(99));
    // 0xff everywhere: NaN in all types (int8: the scales).
    cache_.assign(static_cast<size_t>(kLayers * kExtentBlocks * layer_bytes_) * extents,
                  std::byte{poison});
  }

  // Value `index` of the TokenRow of (sequence, position) is `value` instead.
  void Replace(int sequence, int64_t position, int64_t index, float value) {
    replaced_[{sequence, position}] = {index, value};
  }
  // All values of token rows are multiplied by it.
  void set_amplitude(float amplitude) { amplitude_ = amplitude; }

  // Appends and attends; the outputs of the step's rows go to output(sequence, position).
  void Step(const std::vector<Part>& parts) {
    int64_t tokens = 0;
    std::vector<int32_t> query_indptr{0}, kv_indptr{0}, kv_indices, kv_tokens, positions;
    std::vector<std::pair<int, int64_t>> rows;
    for (const Part& part : parts) {
      int64_t& length = length_[part.sequence];
      std::vector<int32_t>& blocks = blocks_[part.sequence];
      const int64_t first = length;
      for (int64_t i = 0; i < part.tokens; ++i) {
        rows.emplace_back(part.sequence, length);
        positions.push_back(static_cast<int32_t>(length++));
      }
      while (static_cast<int64_t>(blocks.size()) * shape_.block_size < length) {
        blocks.push_back(free_blocks_.back());
        free_blocks_.pop_back();
      }
      // What no row's window reaches is given back.
      for (size_t b = 0; shape_.window > 0 && b < blocks.size(); ++b) {
        if (static_cast<int64_t>(b + 1) * shape_.block_size > first + 1 - shape_.window) break;
        held_[part.sequence].resize(std::max(held_[part.sequence].size(), b + 1), -1);
        if (blocks[b] >= 0) held_[part.sequence][b] = std::exchange(blocks[b], -1);
      }
      tokens += part.tokens;
      query_indptr.push_back(static_cast<int32_t>(tokens));
      kv_indices.insert(kv_indices.end(), blocks.begin(), blocks.end());
      kv_indptr.push_back(static_cast<int32_t>(kv_indices.size()));
      kv_tokens.push_back(static_cast<int32_t>(length));
    }
    const SequenceTable table{static_cast<int64_t>(parts.size()), query_indptr.data(),
                              kv_indptr.data(), kv_indices.data(), kv_tokens.data()};

    const int64_t q_floats = shape_.heads() * shape_.head_dim;
    const int64_t stride = shape_.row_floats() + 16;
    std::vector<float> qkv(static_cast<size_t>(tokens * stride));
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<float> row = TokenRow(shape_, rows[t].first, rows[t].second);
      for (float& value : row) value *= amplitude_;
      if (const auto it = replaced_.find(rows[t]); it != replaced_.end())
        row[static_cast<size_t>(it->second.first)] = it->second.second;
      const int64_t d = shape_.head_dim;
      const float* k = row.data() + (shape_.model_heads + shape_.first_kv_head()) * d;
      const float* v = k + shape_.model_kv_heads() * d;
      float* out = qkv.data() + t * stride;
      std::copy_n(row.data() + shape_.first_head * d, q_floats, out);
      std::copy_n(k, shape_.kv_heads() * d, out + q_floats);
      std::copy_n(v, shape_.kv_heads() * d, out + q_floats + shape_.kv_heads() * d);
    }

    const RopeArgs rope{frequencies_.data(), shape_.rope_dim, shape_.interleaved};
    const int64_t half = shape_.rope_dim / 2;
    std::vector<float> cosines(static_cast<size_t>(tokens * half)), sines = cosines;
    const int64_t output_stride = q_floats + 8;
    constexpr float kUntouched = 12345.0f;
    std::vector<float> output(static_cast<size_t>(tokens * output_stride), kUntouched);
    const int64_t longest = *std::max_element(kv_tokens.begin(), kv_tokens.end());
    const int64_t partial_bytes =
        AttentionPartialBytes(tokens, shape_.heads(), shape_.head_dim, longest, shape_.window);
    std::vector<float> partials(static_cast<size_t>(partial_bytes / 4) + 1, kUntouched);
    const int64_t scratch_bytes = kernels_.scratch_bytes(shape_.head_dim, shape_.form, longest);
    std::vector<std::vector<float>> scratch(
        static_cast<size_t>(pool_.threads()),
        std::vector<float>(static_cast<size_t>(scratch_bytes / 4) + 1, kUntouched));

    pool_.Run([&](int thread) {
      const Share share = ShareOf(tokens, 1, thread, pool_.threads());
      kernels_.rope_tables(positions.data(), rope, share.begin, share.end, cosines.data(),
                           sines.data());
      const RopeAppendArgs append{qkv.data(), stride,         shape_.heads(), shape_.kv_heads(),
                                  rope,       cosines.data(), sines.data(),   layer(),
                                  table,      share.begin,    share.end};
      const bool fused = shape_.fused && tokens == table.sequences;
      if (!fused) kernels_.rope_append(append);
      pool_.Barrier();
      const AttentionArgs args{qkv.data(),
                               stride,
                               output.data(),
                               output_stride,
                               shape_.heads(),
                               shape_.first_head,
                               shape_.first_kv_head(),
                               shape_.heads_per_kv,
                               scale(),
                               layer(),
                               table,
                               reinterpret_cast<std::byte*>(partials.data()),
                               reinterpret_cast<std::byte*>(scratch[thread].data()),
                               thread,
                               pool_.threads(),
                               shape_.window,
                               shape_.form,
                               shape_.share_kv,
                               shape_.softcap};
      if (fused) {
        kernels_.append_attend(append, args);
      } else {
        kernels_.attend(args);
      }
      pool_.Barrier();
      kernels_.merge(args);
    });

    EXPECT_EQ(partials.back(), kUntouched) << "partials overrun";
    for (const std::vector<float>& s : scratch)
      EXPECT_EQ(s.back(), kUntouched) << "scratch overrun";
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = output.data() + t * output_stride;
      EXPECT_EQ(row[q_floats], kUntouched) << "written beyond the row";
      output_[rows[t]].assign(row, row + q_floats);
      rotated_[rows[t]].assign(qkv.data() + t * stride, qkv.data() + t * stride + stride);
    }
  }

  const std::map<std::pair<int, int64_t>, std::vector<float>>& outputs() const { return output_; }
  // The qkv row after rope.
  const std::vector<float>& rotated(int sequence, int64_t position) const {
    return rotated_.at({sequence, position});
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  int64_t length(int sequence) const { return length_.at(sequence); }

  float CachedKey(int sequence, int64_t position, int64_t head, int64_t d) const {
    const int64_t slot = position % shape_.block_size;
    return Element(sequence, position, head, false,
                   (slot / 16 * shape_.head_dim + d) * 16 + slot % 16);
  }
  float CachedValue(int sequence, int64_t position, int64_t head, int64_t d) const {
    const int64_t slot = position % shape_.block_size;
    return Element(sequence, position, head, true, slot * shape_.head_dim + d);
  }

  // Softmax over the cache's own contents in double precision: what attention has to compute.
  std::vector<double> Reference(int sequence, int64_t position) const {
    std::vector<double> out;
    const int64_t d = shape_.head_dim;
    for (int64_t h = 0; h < shape_.heads(); ++h) {
      const int64_t kv_head =
          (shape_.first_head + h) / shape_.heads_per_kv - shape_.first_kv_head();
      const float* q = rotated(sequence, position).data() + h * d;
      std::vector<double> scores;
      const int64_t begin =
          shape_.window > 0 ? std::max<int64_t>(0, position + 1 - shape_.window) : 0;
      for (int64_t t = begin; t <= position; ++t) {
        double score = 0;
        for (int64_t i = 0; i < d; ++i) {
          score += static_cast<double>(q[i]) * CachedKey(sequence, t, kv_head, i);
        }
        score /= std::sqrt(static_cast<double>(d));
        if (shape_.softcap > 0) score = shape_.softcap * std::tanh(score / shape_.softcap);
        scores.push_back(score);
      }
      const double maximum = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      std::vector<double> o(static_cast<size_t>(d));
      for (int64_t t = begin; t <= position; ++t) {
        const double p = std::exp(scores[t - begin] - maximum);
        sum += p;
        for (int64_t i = 0; i < d; ++i) o[i] += p * CachedValue(sequence, t, kv_head, i);
      }
      for (const double value : o) out.push_back(value / sum);
    }
    return out;
  }

 private:
  static constexpr int64_t kTokens = 4096;
  static constexpr int64_t kLayers = 2;  // of which the second is used
  static constexpr int64_t kExtentBlocks = 4;

  KvLayer layer() {
    return {cache_.data() + kExtentBlocks * layer_bytes_,
            kLayers * kExtentBlocks * layer_bytes_,
            head_bytes_ / 2,
            kExtentBlocks,
            shape_.block_size,
            shape_.head_dim,
            shape_.type};
  }
  // Of K, or of V, of a head: element `index` of a block, for int8 with the scale of its slot.
  float Element(int sequence, int64_t position, int64_t head, bool value, int64_t index) const {
    const auto block_index = static_cast<size_t>(position / shape_.block_size);
    int32_t block = blocks_.at(sequence)[block_index];
    if (block < 0) block = held_.at(sequence)[block_index];
    const int64_t run = (block / kExtentBlocks * kLayers + 1) * shape_.kv_heads() + head;
    const int64_t slice = (2 * run + (value ? 1 : 0)) * kExtentBlocks + block % kExtentBlocks;
    const std::byte* data = cache_.data() + slice * head_bytes_ / 2;
    const std::byte* p = data + index * shape_.element_bytes();
    switch (shape_.type) {
      case KvType::kF32: {
        float value;
        std::memcpy(&value, p, 4);
        return value;
      }
      case KvType::kBF16: {
        uint16_t half;
        std::memcpy(&half, p, 2);
        return std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
      }
      case KvType::kI8: {
        float factor;
        std::memcpy(&factor,
                    data + shape_.block_size * shape_.head_dim + position % shape_.block_size * 4,
                    4);
        return static_cast<float>(static_cast<int8_t>(*p)) * factor;
      }
      case KvType::kF8E4M3:
        return DecodeF8(static_cast<uint8_t>(*p));
    }
    return 0;
  }

  Shape shape_;
  float amplitude_ = 1;
  std::map<std::pair<int, int64_t>, std::pair<int64_t, float>> replaced_;
  const AttentionKernels& kernels_;
  WorkerPool pool_;
  std::vector<float> frequencies_;
  int64_t head_bytes_ = 0, layer_bytes_ = 0;
  std::vector<std::byte> cache_;
  std::vector<int32_t> free_blocks_;
  std::map<int, std::vector<int32_t>> blocks_;
  std::map<int, std::vector<int32_t>> held_;  // blocks that the table no longer names
  std::map<int, int64_t> length_;
  std::map<std::pair<int, int64_t>, std::vector<float>> output_, rotated_;
};

}  // namespace llmir::kernels
