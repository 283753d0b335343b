#include "kernels/attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

#include "tests/unit/kernels/attention_rank.h"

namespace llmir::kernels {
namespace {

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
                    {reinterpret_cast<std::byte*>(cache.data()), 0, kBlock * kDim * 2, 1, kBlock,
                     kDim, KvType::kBF16},
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
                      kBlock * kDim * 4,
                      1,
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
#ifdef __SANITIZE_ADDRESS__
  const bool slow = true;
#else
  const bool slow = GetParam() == Isa::kPortable;
#endif
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
        .rope_append({row.data(),
                      3 * kDim,
                      1,
                      1,
                      {nullptr, 0, false},
                      nullptr,
                      nullptr,
                      {reinterpret_cast<std::byte*>(cache.data()), 0, kBlock * kDim, 1, kBlock,
                       kDim, KvType::kF8E4M3},
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
                      {cache.data(), 0, kBlock * (kDim + 4), 1, kBlock, kDim, KvType::kI8},
                      {1, query_indptr, kv_indptr, block, kv_tokens},
                      0,
                      1});
  }
  // Behind the keys, and behind the values.
  const auto scale = [&](int64_t i) {
    float value;
    std::memcpy(&value, cache.data() + (i / kBlock + 1) * kBlock * kDim + i * 4, 4);
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
