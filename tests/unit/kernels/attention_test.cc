#include "kernels/attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "kernels/worker_pool.h"
#include "tests/unit/kernels/families.h"

namespace llmir::kernels {
namespace {

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
std::vector<float> TokenRow(const Shape& shape, int sequence, int64_t position) {
  const int64_t floats = (shape.model_heads + 2 * shape.model_kv_heads()) * shape.head_dim;
  return RandomFloats(floats, static_cast<uint32_t>(1 + sequence * 100003 + position));
}

// From the definition of OCP FP8 E4M3.
float DecodeF8(uint8_t bits) {
  const int exponent = bits >> 3 & 15;
  const int mantissa = bits & 7;
  double value =
      exponent == 0 ? std::ldexp(mantissa / 8.0, -6) : std::ldexp(1 + mantissa / 8.0, exponent - 7);
  if (exponent == 15 && mantissa == 7) value = std::nan("");
  return static_cast<float>(bits & 0x80 ? -value : value);
}

constexpr KvType kKvTypes[] = {KvType::kF32, KvType::kBF16, KvType::kI8, KvType::kF8E4M3};

// The largest difference that storing x, in a row whose largest magnitude is `largest`, may make.
float StoreError(KvType type, float x, float largest) {
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
  Rank(const Shape& shape, Isa isa, int threads, uint8_t poison = 0xff)
      : shape_(shape), kernels_(FindAttention(isa)), pool_(threads) {
    for (int64_t i = 0; i < shape.rope_dim / 2; ++i) {
      frequencies_.push_back(static_cast<float>(
          std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(shape.rope_dim))));
    }
    head_bytes_ = shape.head_bytes();
    // Two layers of which the second is used: strides are the caller's.
    layer_bytes_ = head_bytes_ * shape.kv_heads();
    block_bytes_ = 2 * layer_bytes_;
    free_blocks_.resize(static_cast<size_t>(kTokens / shape.block_size));
    std::iota(free_blocks_.begin(), free_blocks_.end(), 0);
    std::shuffle(free_blocks_.begin(), free_blocks_.end(), std::mt19937(99));
    // 0xff everywhere: NaN in all types (int8: the scales).
    cache_.assign(static_cast<size_t>(block_bytes_) * free_blocks_.size(), std::byte{poison});
  }

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
      const std::vector<float> row = TokenRow(shape_, rows[t].first, rows[t].second);
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
    return Element(sequence, position, head, (slot / 16 * shape_.head_dim + d) * 16 + slot % 16,
                   slot);
  }
  float CachedValue(int sequence, int64_t position, int64_t head, int64_t d) const {
    const int64_t slot = position % shape_.block_size;
    return Element(sequence, position, head, (shape_.block_size + slot) * shape_.head_dim + d,
                   shape_.block_size + slot);
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

  KvLayer layer() {
    return {cache_.data() + layer_bytes_,
            block_bytes_,
            head_bytes_,
            shape_.block_size,
            shape_.head_dim,
            shape_.type};
  }
  // `scale`: index among the scales of int8.
  float Element(int sequence, int64_t position, int64_t head, int64_t index, int64_t scale) const {
    const auto block_index = static_cast<size_t>(position / shape_.block_size);
    int32_t block = blocks_.at(sequence)[block_index];
    if (block < 0) block = held_.at(sequence)[block_index];
    const std::byte* data =
        cache_.data() + layer_bytes_ + block * block_bytes_ + head * head_bytes_;
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
        std::memcpy(&factor, data + 2 * shape_.block_size * shape_.head_dim + scale * 4, 4);
        return static_cast<float>(static_cast<int8_t>(*p)) * factor;
      }
      case KvType::kF8E4M3:
        return DecodeF8(static_cast<uint8_t>(*p));
    }
    return 0;
  }

  Shape shape_;
  const AttentionKernels& kernels_;
  WorkerPool pool_;
  std::vector<float> frequencies_;
  int64_t head_bytes_ = 0, layer_bytes_ = 0, block_bytes_ = 0;
  std::vector<std::byte> cache_;
  std::vector<int32_t> free_blocks_;
  std::map<int, std::vector<int32_t>> blocks_;
  std::map<int, std::vector<int32_t>> held_;  // blocks that the table no longer names
  std::map<int, int64_t> length_;
  std::map<std::pair<int, int64_t>, std::vector<float>> output_, rotated_;
};

float Largest(const float* x, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(x[i]));
  return largest;
}

// Bitwise: even the sign of a zero.
void ExpectSameBits(const Rank& a, const Rank& b) {
  ASSERT_EQ(a.outputs().size(), b.outputs().size());
  for (const auto& [key, row] : a.outputs()) {
    const std::vector<float>& other = b.outputs().at(key);
    ASSERT_EQ(row.size(), other.size());
    ASSERT_EQ(std::memcmp(row.data(), other.data(), row.size() * 4), 0)
        << "sequence " << key.first << " position " << key.second;
  }
}

void ExpectNearReference(const Rank& rank, int64_t every = 1) {
  int64_t i = 0;
  for (const auto& [key, row] : rank.outputs()) {
    if (i++ % every != 0 && key.second + 1 != rank.length(key.first)) continue;
    const std::vector<double> expected = rank.Reference(key.first, key.second);
    for (size_t c = 0; c < row.size(); ++c) {
      ASSERT_NEAR(row[c], expected[c], 4e-6)
          << "sequence " << key.first << " position " << key.second << " column " << c;
    }
  }
}

class AttentionTest : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(Families, AttentionTest, testing::ValuesIn(AvailableFamilies()),
                         FamilyName);

TEST_P(AttentionTest, TableNamesItsFamily) { EXPECT_EQ(FindAttention(GetParam()).isa, GetParam()); }

// Contexts on both sides of every border: lane group, tile, block, split.
TEST_P(AttentionTest, ContextsAroundBordersAgreeWithDouble) {
  for (const KvType type : kKvTypes) {
    for (const int64_t block_size : {16, 32, 64}) {
      Shape shape;
      shape.type = type;
      shape.block_size = block_size;
      shape.model_heads = shape.end_head = 3;
      Rank rank(shape, GetParam(), 2);
      std::vector<Part> prefill, decode;
      const int64_t contexts[] = {1, 15, 16, 17, 63, 64, 65, 255, 256, 257};
      for (size_t s = 0; s < std::size(contexts); ++s) {
        prefill.push_back({static_cast<int>(s), contexts[s]});
        decode.push_back({static_cast<int>(s), 1});
      }
      rank.Step(prefill);
      rank.Step(decode);
      ExpectNearReference(rank, 37);
    }
  }
}

TEST_P(AttentionTest, HeadSizesAgreeWithDoubleAndWithPortable) {
  for (const KvType type : kKvTypes) {
    for (const int64_t head_dim : {8, 16, 24, 40, 72, 80, 128, 200, 256}) {
      Shape shape;
      shape.type = type;
      shape.head_dim = head_dim;
      shape.rope_dim = head_dim / 8 * 4;
      shape.interleaved = head_dim % 16 != 0;
      shape.model_heads = shape.end_head = 4;
      shape.heads_per_kv = 2;
      Rank rank(shape, GetParam(), 1), portable(shape, Isa::kPortable, 1);
      for (Rank* r : {&rank, &portable}) {
        r->Step({{0, 70}});
        r->Step({{1, 9}, {0, 1}});
      }
      ExpectSameBits(rank, portable);
      ExpectNearReference(rank, 7);
    }
  }
}

TEST_P(AttentionTest, HeadGroupsAgreeWithDoubleAndWithPortable) {
  for (const auto& [heads, per_kv] : {std::pair{4, 1}, {9, 3}, {8, 4}, {7, 7}, {10, 5}}) {
    Shape shape;
    shape.model_heads = shape.end_head = heads;
    shape.heads_per_kv = per_kv;
    shape.head_dim = shape.rope_dim = 32;
    Rank rank(shape, GetParam(), 2), portable(shape, Isa::kPortable, 1);
    for (Rank* r : {&rank, &portable}) {
      r->Step({{0, 33}, {1, 100}});
      r->Step({{1, 1}, {0, 1}});
    }
    ExpectSameBits(rank, portable);
    ExpectNearReference(rank, 5);
  }
}

// Prefilled in one go, in ragged chunks beside other sequences, and token by token: the same bits
// in every row.
TEST_P(AttentionTest, ChunkingChangesNoBit) {
  const int64_t length = GetParam() == Isa::kPortable ? 300 : 1000;
  for (const KvType type : kKvTypes) {
    Shape shape;
    shape.type = type;
    shape.model_heads = shape.end_head = 3;
    Rank whole(shape, GetParam(), 1), chunked(shape, GetParam(), 2), decoded(shape, GetParam(), 2);
    whole.Step({{0, length}});
    whole.Step({{1, 90}});
    whole.Step({{2, 40}});
    std::mt19937 random(5);
    int64_t done = 0, others = 0;
    chunked.Step({{2, 40}});
    while (done < length) {
      const int64_t chunk = std::min<int64_t>(length - done, 1 + random() % 130);
      if (others < 90) {
        const int64_t other = std::min<int64_t>(90 - others, 1 + random() % 20);
        chunked.Step({{1, other}, {0, chunk}});
        others += other;
      } else {
        chunked.Step({{0, chunk}});
      }
      done += chunk;
    }
    if (others < 90) chunked.Step({{1, 90 - others}});
    for (int64_t i = 0; i < length; ++i) {
      std::vector<Part> parts{{0, 1}};
      if (i < 90) parts.push_back({1, 1});
      if (i < 40) parts.insert(parts.begin(), {2, 1});
      decoded.Step(parts);
    }
    ExpectSameBits(chunked, whole);
    ExpectSameBits(decoded, whole);
    ExpectNearReference(whole, 111);
  }
}

TEST_P(AttentionTest, ThreadCountChangesNoBit) {
  Shape shape;
  shape.block_size = 16;
  Rank one(shape, GetParam(), 1);
  const auto run = [](Rank& rank) {
    rank.Step({{0, 130}, {1, 20}});
    rank.Step({{2, 290}, {0, 1}, {1, 5}});
    rank.Step({{1, 1}, {2, 1}, {0, 150}});
    rank.Step({{2, 1}});
  };
  run(one);
  for (const int threads : {2, 3, 4, 7}) {
    Rank many(shape, GetParam(), threads);
    run(many);
    ExpectSameBits(many, one);
  }
}

TEST_P(AttentionTest, AgreesWithPortableOnMixedSteps) {
  for (const KvType type : kKvTypes) {
    Shape shape;
    shape.type = type;
    Rank rank(shape, GetParam(), 2), portable(shape, Isa::kPortable, 1);
    for (Rank* r : {&rank, &portable}) {
      r->Step({{0, 270}});
      r->Step({{1, 33}, {0, 1}, {2, 1}});
      r->Step({{2, 17}, {0, 12}, {1, 1}});
    }
    ExpectSameBits(rank, portable);
  }
}

TEST_P(AttentionTest, UnusedSlotsDoNotLeak) {
  for (const KvType type : kKvTypes) {
    Shape shape;
    shape.type = type;
    Rank nan(shape, GetParam(), 2, 0xff), zero(shape, GetParam(), 2, 0x00);
    for (Rank* r : {&nan, &zero}) {
      r->Step({{0, 5}, {1, 67}, {2, 258}});
      r->Step({{0, 1}, {1, 1}, {2, 1}});
    }
    ExpectSameBits(nan, zero);
    for (const auto& [key, row] : nan.outputs()) {
      for (const float value : row) ASSERT_TRUE(std::isfinite(value));
    }
  }
}

// Nine query heads cut 5/4: both ranks hold KV head 1.
TEST_P(AttentionTest, RanksThatCutAKvGroupComputeTheirHeadsOfTheWhole) {
  Shape whole_shape;
  Rank whole(whole_shape, GetParam(), 1);
  Shape low = whole_shape, high = whole_shape;
  low.end_head = high.first_head = 5;
  ASSERT_EQ(low.kv_heads(), 2);
  ASSERT_EQ(high.first_kv_head(), 1);
  Rank rank_low(low, GetParam(), 2), rank_high(high, GetParam(), 2);
  for (Rank* r : {&whole, &rank_low, &rank_high}) {
    r->Step({{0, 80}, {1, 3}});
    r->Step({{1, 1}, {0, 1}});
  }
  for (const auto& [key, row] : whole.outputs()) {
    std::vector<float> joined = rank_low.outputs().at(key);
    const std::vector<float>& rest = rank_high.outputs().at(key);
    joined.insert(joined.end(), rest.begin(), rest.end());
    ASSERT_EQ(std::memcmp(joined.data(), row.data(), row.size() * 4), 0);
  }
}

TEST_P(AttentionTest, SequencesWithoutRowsArePassedOver) {
  Shape shape;
  Rank plain(shape, GetParam(), 2), gaps(shape, GetParam(), 2);
  for (Rank* r : {&plain, &gaps}) r->Step({{0, 300}, {1, 40}, {2, 3}});
  plain.Step({{0, 1}, {2, 2}});
  gaps.Step({{1, 0}, {0, 1}, {1, 0}, {2, 2}, {0, 0}});
  ExpectSameBits(gaps, plain);
}

TEST_P(AttentionTest, RopeRotatesEveryPairAndAppendsTheResult) {
  for (const KvType type : kKvTypes) {
    for (const bool interleaved : {false, true}) {
      for (const auto& [head_dim, rope_dim] : {std::pair{64, 64}, {64, 16}, {80, 20}, {8, 2}}) {
        Shape shape;
        shape.type = type;
        shape.head_dim = head_dim;
        shape.rope_dim = rope_dim;
        shape.interleaved = interleaved;
        Rank rank(shape, GetParam(), 2);
        rank.Step({{0, 60}, {1, 3}});
        rank.Step({{1, 2}, {0, 10}});
        for (const auto& [sequence, position] :
             {std::pair<int, int64_t>{0, 0}, {0, 59}, {0, 60}, {0, 69}, {1, 2}, {1, 4}}) {
          const std::vector<float> before = TokenRow(shape, sequence, position);
          const std::vector<float>& after = rank.rotated(sequence, position);
          const int64_t rotated_heads = shape.heads() + shape.kv_heads();
          for (int64_t h = 0; h < rotated_heads; ++h) {
            for (int64_t i = 0; i < head_dim; ++i) {
              const float* x = before.data() + h * head_dim;
              double want = x[i];
              if (i < rope_dim) {
                const int64_t pair = interleaved ? i / 2 : i % (rope_dim / 2);
                const bool second = interleaved ? i % 2 : i >= rope_dim / 2;
                const int64_t other = interleaved ? i ^ 1 : (i + rope_dim / 2) % rope_dim;
                const auto frequency = static_cast<float>(
                    std::pow(10000.0, -2.0 * static_cast<double>(pair) / rope_dim));
                const double angle = static_cast<double>(position) * frequency;
                want = x[i] * std::cos(angle) + (second ? 1 : -1) * x[other] * std::sin(angle);
              }
              ASSERT_NEAR(after[h * head_dim + i], want, 2e-6);
              if (h >= shape.heads()) {
                const float cached = rank.CachedKey(sequence, position, h - shape.heads(), i);
                const float exact = after[h * head_dim + i];
                const float largest = Largest(after.data() + h * head_dim, head_dim);
                ASSERT_LE(std::abs(cached - exact), StoreError(type, exact, largest));
              }
            }
          }
          for (int64_t h = 0; h < shape.kv_heads(); ++h) {
            for (int64_t i = 0; i < head_dim; ++i) {
              const float* row = before.data() + (rotated_heads + h) * head_dim;
              ASSERT_LE(std::abs(rank.CachedValue(sequence, position, h, i) - row[i]),
                        StoreError(type, row[i], Largest(row, head_dim)));
            }
          }
        }
      }
    }
  }
}

TEST_P(AttentionTest, BFloat16IsRoundedToNearestEvenAndNanStaysNan) {
  const std::pair<uint32_t, uint16_t> cases[] = {
      {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f808001, 0x3f81}, {0x3f818000, 0x3f82},
      {0xbf807fff, 0xbf80}, {0x7f7fffff, 0x7f80}, {0xff800000, 0xff80}, {0x80000000, 0x8000},
  };
  constexpr int64_t kDim = 16, kBlock = 16;
  std::vector<float> row(3 * kDim, 0.0f);
  for (size_t i = 0; i < std::size(cases); ++i) {
    row[kDim + i] = row[2 * kDim + i] = std::bit_cast<float>(cases[i].first);
  }
  row[2 * kDim + 8] =
      std::bit_cast<float>(0x7f800001u);  // a NaN whose upper half alone is infinity
  row[2 * kDim + 9] = std::bit_cast<float>(0xffffffffu);
  std::vector<uint16_t> cache(2 * kBlock * kDim);
  const int32_t query_indptr[] = {0, 1}, kv_indptr[] = {0, 1}, block[] = {0}, kv_tokens[] = {1};
  FindAttention(GetParam())
      .rope_append({row.data(),
                    3 * kDim,
                    1,
                    1,
                    {nullptr, 0, false},
                    nullptr,
                    nullptr,
                    {reinterpret_cast<std::byte*>(cache.data()), 0, 0, kBlock, kDim, KvType::kBF16},
                    {1, query_indptr, kv_indptr, block, kv_tokens},
                    0,
                    1});
  for (size_t i = 0; i < std::size(cases); ++i) {
    EXPECT_EQ(cache[i * 16], cases[i].second) << "key " << i;
    EXPECT_EQ(cache[kBlock * kDim + i], cases[i].second) << "value " << i;
  }
  for (const size_t i : {8u, 9u}) {
    const uint32_t bits = static_cast<uint32_t>(cache[kBlock * kDim + i]) << 16;
    EXPECT_TRUE(std::isnan(std::bit_cast<float>(bits)));
  }
}

TEST(AttentionPartialBytesTest, OneSplitNeedsNone) {
  EXPECT_EQ(AttentionPartialBytes(512, 9, 64, kKvSplit), 0);
  EXPECT_GT(AttentionPartialBytes(1, 9, 64, kKvSplit + 1), 0);
}

// Scores far apart: the maximum moves from tile to tile, and early tiles vanish beside later ones.
TEST_P(AttentionTest, LargeScoresStayFinite) {
  constexpr int64_t kDim = 64, kTokens = 320, kBlock = 64;
  const AttentionKernels& kernels = FindAttention(GetParam());
  std::vector<float> cache(kTokens / kBlock * 2 * kBlock * kDim);
  std::vector<float> rows(kTokens * 3 * kDim);
  for (int64_t t = 0; t < kTokens; ++t) {
    float* row = rows.data() + t * 3 * kDim;
    std::fill_n(row, kDim, 10.0f);
    std::fill_n(row + kDim, kDim, static_cast<float>(t % 2 == 0 ? t + 1 : -t));
    std::fill_n(row + 2 * kDim, kDim, static_cast<float>(t));
  }
  const int32_t query_indptr[] = {0, kTokens}, kv_indptr[] = {0, 5}, blocks[] = {0, 1, 2, 3, 4};
  const int32_t kv_tokens[] = {kTokens};
  const SequenceTable table{1, query_indptr, kv_indptr, blocks, kv_tokens};
  const KvLayer layer{reinterpret_cast<std::byte*>(cache.data()),
                      2 * kBlock * kDim * 4,
                      2 * kBlock * kDim * 4,
                      kBlock,
                      kDim,
                      KvType::kF32};
  kernels.rope_append({rows.data(),
                       3 * kDim,
                       1,
                       1,
                       {nullptr, 0, false},
                       nullptr,
                       nullptr,
                       layer,
                       table,
                       0,
                       kTokens});
  std::vector<float> output(kTokens * kDim);
  std::vector<std::byte> partials(
      static_cast<size_t>(AttentionPartialBytes(kTokens, 1, kDim, kTokens)));
  std::vector<std::byte> scratch(
      static_cast<size_t>(kernels.scratch_bytes(kDim, AttentionForm::kFlash, kTokens)));
  const AttentionArgs args{
      rows.data(), 3 * kDim, output.data(),   kDim,           1, 0, 0, 1, 0.125f,
      layer,       table,    partials.data(), scratch.data(), 0, 1};
  kernels.attend(args);
  kernels.merge(args);
  for (int64_t t = 0; t < kTokens; ++t) {
    // The last even token wins by 160 or more.
    EXPECT_EQ(output[t * kDim], static_cast<float>(t / 2 * 2)) << t;
  }
}

// ---- windows, forms, the fused step
// --------------------------------------------------------------

// Prefill in chunks, decode, and prefill again, across tiles, splits and what the window leaves.
void RunChunks(Rank& rank) {
  rank.Step({{0, 70}, {1, 5}});
  rank.Step({{0, 130}, {2, 1}});
  rank.Step({{1, 1}, {0, 1}, {2, 1}});
  rank.Step({{0, 90}, {1, 60}});
  rank.Step({{0, 1}, {1, 1}, {2, 1}});
}

TEST_P(AttentionTest, WindowsAgreeWithDoubleAndChunkingChangesNoBit) {
  for (const KvType type : kKvTypes) {
    for (const int64_t window : {1, 37, 64, 260}) {
      Shape shape;
      shape.type = type;
      shape.window = window;
      shape.model_heads = shape.end_head = 3;
      shape.block_size = 16;
      Rank rank(shape, GetParam(), 2), portable(shape, Isa::kPortable, 1),
          whole(shape, GetParam(), 3);
      RunChunks(rank);
      RunChunks(portable);
      whole.Step({{0, 292}, {1, 67}, {2, 3}});
      ExpectSameBits(rank, portable);
      ExpectSameBits(rank, whole);
      ExpectNearReference(rank, 13);
    }
  }
}

// A window as long as the sequence masks nothing: the same tiles and splits, the same bits.
TEST_P(AttentionTest, AWindowMovesNoTile) {
  for (const AttentionForm form : {AttentionForm::kFlash, AttentionForm::kFusedSoftmax,
                                   AttentionForm::kMasked, AttentionForm::kStandard}) {
    Shape shape;
    shape.form = form;
    Shape windowed = shape;
    windowed.window = 4000;
    Rank all(shape, GetParam(), 2), window(windowed, GetParam(), 2);
    RunChunks(all);
    RunChunks(window);
    ExpectSameBits(window, all);
  }
}

TEST_P(AttentionTest, EveryFormAgreesWithDoubleAndWithPortable) {
  for (const AttentionForm form : {AttentionForm::kFlash, AttentionForm::kFusedSoftmax,
                                   AttentionForm::kMasked, AttentionForm::kStandard}) {
    for (const KvType type : kKvTypes) {
      for (const auto& [window, softcap] : {std::pair{0, 0.0f}, {45, 0.7f}}) {
        Shape shape;
        shape.form = form;
        shape.type = type;
        shape.window = window;
        shape.softcap = softcap;
        shape.head_dim = shape.rope_dim = 40;
        shape.model_heads = shape.end_head = 3;
        Rank rank(shape, GetParam(), 3), portable(shape, Isa::kPortable, 1);
        RunChunks(rank);
        RunChunks(portable);
        ExpectSameBits(rank, portable);
        ExpectNearReference(rank, 23);
      }
    }
  }
}

// Masked adds p = 0 where fused softmax adds nothing: the bits are the same. Who shares a read,
// too, changes none.
TEST_P(AttentionTest, MaskedEqualsFusedSoftmaxAndSharingChangesNoBit) {
  for (const KvType type : kKvTypes) {
    for (const int64_t window : {0, 45}) {
      Shape shape;
      shape.type = type;
      shape.window = window;
      shape.form = AttentionForm::kFusedSoftmax;
      Shape masked = shape, alone = shape, flash = shape, flash_alone = shape;
      masked.form = AttentionForm::kMasked;
      alone.share_kv = flash_alone.share_kv = false;
      flash.form = flash_alone.form = AttentionForm::kFlash;
      Rank a(shape, GetParam(), 2), b(masked, GetParam(), 2), c(alone, GetParam(), 2);
      Rank d(flash, GetParam(), 2), e(flash_alone, GetParam(), 2);
      for (Rank* rank : {&a, &b, &c, &d, &e}) RunChunks(*rank);
      ExpectSameBits(b, a);
      ExpectSameBits(c, a);
      ExpectSameBits(e, d);
    }
  }
}

// Every place of the new token in its group, tile, block and split.
TEST_P(AttentionTest, TheFusedStepGivesTheBitsOfTheTwo) {
  const bool slow = GetParam() == Isa::kPortable;
  for (const KvType type : kKvTypes) {
    for (const auto& [head_dim, rope_dim, heads, per_kv] :
         {std::tuple{64, 64, 6, 3}, {40, 24, 3, 1}, {16, 16, 26, 26}, {24, 8, 8, 8}}) {
      for (const int64_t window : {0, 70}) {
        Shape shape;
        shape.type = type;
        shape.head_dim = head_dim;
        shape.rope_dim = rope_dim;
        shape.interleaved = head_dim == 40;
        shape.model_heads = shape.end_head = heads;
        shape.heads_per_kv = per_kv;
        shape.window = window;
        Shape fused = shape;
        fused.fused = true;
        Rank two(shape, GetParam(), 2), one(fused, GetParam(), 3);
        for (Rank* rank : {&two, &one}) {
          rank->Step({{0, 47}, {1, 254}, {2, slow ? 260 : 600}});
          for (int i = 0; i < (slow ? 3 : 20); ++i) rank->Step({{2, 1}, {0, 1}, {3, 1}, {1, 1}});
          rank->Step({{2, 9}, {0, 1}});
        }
        ExpectSameBits(one, two);
      }
    }
  }
}

TEST_P(AttentionTest, Float8IsRoundedToNearestEvenAndSaturates) {
  std::vector<double> values;  // of codes 0 to 0x7e, ascending
  for (int code = 0; code < 0x7f; ++code) values.push_back(DecodeF8(static_cast<uint8_t>(code)));
  ASSERT_EQ(values.back(), 448);
  constexpr int64_t kDim = 16, kBlock = 16;
  std::vector<float> inputs = {0.0f,   448.0f, 449.0f,
                               480.0f, 1e30f,  std::numeric_limits<float>::infinity()};
  for (size_t i = 0; i + 1 < values.size(); ++i) {
    const double middle = (values[i] + values[i + 1]) / 2;
    for (const double x :
         {values[i], middle, std::nextafter(middle, 0.0), std::nextafter(middle, 1e9)}) {
      inputs.push_back(static_cast<float>(x));
    }
    inputs.push_back(std::nextafter(static_cast<float>(middle), 0.0f));
    inputs.push_back(std::nextafter(static_cast<float>(middle), 1e9f));
  }
  const auto nearest = [&](float x) {
    const double magnitude = std::min<double>(std::abs(x), 448);
    const auto above = std::lower_bound(values.begin(), values.end(), magnitude);
    size_t code = static_cast<size_t>(above - values.begin());
    if (code > 0) {
      const double up = *above - magnitude, down = magnitude - values[code - 1];
      if (down < up || (down == up && code % 2 == 1)) --code;
    }
    return static_cast<uint8_t>(code | (std::signbit(x) ? 0x80 : 0));
  };
  const int32_t query_indptr[] = {0, 1}, kv_indptr[] = {0, 1}, block[] = {0}, kv_tokens[] = {1};
  for (size_t first = 0; first < inputs.size(); first += kDim) {
    std::vector<float> row(3 * kDim, 0.0f);
    for (int64_t i = 0; i < kDim; ++i) {
      const float x = inputs[(first + static_cast<size_t>(i)) % inputs.size()];
      row[kDim + i] = x;
      row[2 * kDim + i] = -x;
    }
    std::vector<uint8_t> cache(2 * kBlock * kDim);
    FindAttention(GetParam())
        .rope_append(
            {row.data(),
             3 * kDim,
             1,
             1,
             {nullptr, 0, false},
             nullptr,
             nullptr,
             {reinterpret_cast<std::byte*>(cache.data()), 0, 0, kBlock, kDim, KvType::kF8E4M3},
             {1, query_indptr, kv_indptr, block, kv_tokens},
             0,
             1});
    for (int64_t i = 0; i < kDim; ++i) {
      EXPECT_EQ(cache[i * 16], nearest(row[kDim + i])) << row[kDim + i];
      EXPECT_EQ(cache[kBlock * kDim + i], nearest(row[2 * kDim + i])) << row[2 * kDim + i];
    }
  }
}

// Later tokens never change earlier ones, however much larger they are; a row that isn't finite
// stays that.
TEST_P(AttentionTest, Int8ScalesBelongToOneToken) {
  constexpr int64_t kDim = 32, kBlock = 16, kTokens = 3;
  std::vector<float> rows = RandomFloats(kTokens * 3 * kDim, 7);
  for (int64_t i = 0; i < 3 * kDim; ++i) rows[3 * kDim + i] *= 1000;
  rows[2 * 3 * kDim + kDim + 5] = std::numeric_limits<float>::infinity();
  std::fill_n(rows.begin() + 2 * 3 * kDim + 2 * kDim, kDim, 0.0f);
  std::vector<std::byte> cache(2 * kBlock * (kDim + 4), std::byte{0xff});
  const int32_t kv_indptr[] = {0, 1}, block[] = {0};
  for (int32_t t = 0; t < kTokens; ++t) {
    const int32_t query_indptr[] = {0, 1}, kv_tokens[] = {t + 1};
    FindAttention(GetParam())
        .rope_append({rows.data() + t * 3 * kDim,
                      3 * kDim,
                      1,
                      1,
                      {nullptr, 0, false},
                      nullptr,
                      nullptr,
                      {cache.data(), 0, 0, kBlock, kDim, KvType::kI8},
                      {1, query_indptr, kv_indptr, block, kv_tokens},
                      0,
                      1});
  }
  const auto scale = [&](int64_t i) {
    float value;
    std::memcpy(&value, cache.data() + 2 * kBlock * kDim + i * 4, 4);
    return value;
  };
  for (int64_t t = 0; t < 2; ++t) {
    const float* key = rows.data() + t * 3 * kDim + kDim;
    ASSERT_EQ(scale(t), Largest(key, kDim) / 127.0f);
    ASSERT_EQ(scale(kBlock + t), Largest(key + kDim, kDim) / 127.0f);
    for (int64_t d = 0; d < kDim; ++d) {
      const auto stored = static_cast<int8_t>(cache[d * 16 + t]);
      ASSERT_NEAR(static_cast<float>(stored), key[d] / scale(t), 0.5001) << t << " " << d;
    }
  }
  EXPECT_TRUE(std::isnan(scale(2)));
  EXPECT_EQ(scale(kBlock + 2), 0.0f);
}

TEST(AttentionPartialBytesTest, AWindowBoundsTheSplits) {
  const int64_t one = AttentionPartialBytes(1, 9, 64, 100000, 256);
  EXPECT_EQ(one, AttentionPartialBytes(1, 9, 64, 2 * kKvSplit));
  EXPECT_EQ(AttentionPartialBytes(1, 9, 64, 2 * kKvSplit, 100000),
            AttentionPartialBytes(1, 9, 64, 2 * kKvSplit));
}

}  // namespace
}  // namespace llmir::kernels
