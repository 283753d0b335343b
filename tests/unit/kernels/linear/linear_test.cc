#include "kernels/linear.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/unit/kernels/linear/linear_problem.h"

namespace llmir::kernels {
namespace {

// One instance per kernel that this machine can run.
class LinearTest : public testing::TestWithParam<const LinearKernel*> {
 protected:
  const LinearKernel& kernel() const { return *GetParam(); }
  const LinearKernel& portable() const { return *FindLinear(kernel().name, Isa::kPortable); }
  bool float_weights() const { return !IsBlockFormat(kernel().weight); }
  bool any_leaves() const { return float_weights() && !kernel().bf16_activations; }
  // `columns`, a multiple of 32, or twice as many where 64 values share a scale.
  int64_t Wide(int64_t columns) const {
    return ShapeOf(kernel().weight).group == 64 ? 2 * columns : columns;
  }
  std::mt19937 random_{20240229};
};

INSTANTIATE_TEST_SUITE_P(Kernels, LinearTest, testing::ValuesIn(AvailableKernels()),
                         [](const testing::TestParamInfo<const LinearKernel*>& info) {
                           return std::string(info.param->name) + "__" + IsaName(info.param->isa);
                         });

struct Size {
  int64_t rows;
  int64_t columns;
  int64_t tokens;
};

// Panels of 1 to 9, K/32 odd and even, tokens up to several tiles.
constexpr Size kSizes[] = {{16, 32, 1},  {1, 32, 1},     {15, 96, 2},  {33, 64, 3},
                           {64, 160, 1}, {100, 96, 4},   {80, 192, 5}, {144, 64, 1},
                           {48, 224, 7}, {130, 128, 13}, {37, 96, 40}, {72, 352, 26}};
constexpr Size kFloatSizes[] = {{16, 1, 1}, {17, 31, 2}, {50, 33, 3}, {65, 77, 12}, {20, 131, 25}};

// The order that kernels/linear.h writes down, element by element.
float SumAsDocumented(const LinearKernel& kernel, const Matrix& w, int64_t n, const Activations& x,
                      int64_t t, int64_t begin, int64_t end) {
  float sum = 0.0f;
  if (!IsBlockFormat(w.encoding)) {
    for (int64_t k = begin; k < end; ++k) {
      sum = std::fma(static_cast<float>(w.values[n * w.columns + k]),
                     x.Value(t, k, kernel.bf16_activations), sum);
    }
    return sum;
  }
  for (int64_t g = begin / 32; g < end / 32; ++g) {
    const BlockShape shape = ShapeOf(w.encoding);
    const int64_t first = g * 32 % shape.group;  // within its block
    const std::byte* block = w.Row(n).data + RowBytes(w.encoding, g * 32 - first);
    uint16_t half[2];
    std::memcpy(half, block, 4);
    const auto scale = static_cast<float>(HalfValue(half[0]));
    int32_t dot = 0;
    for (int i = 0; i < 32; ++i) {
      dot += QuantOf(w.encoding, block, static_cast<int>(first) + i) * x.Quants(t)[g * 32 + i];
    }
    sum = std::fma(static_cast<float>(dot), scale * x.Scale(t, g), sum);
    if (shape.minimum) {
      const auto minimum = static_cast<float>(HalfValue(half[1]));
      sum = std::fma(minimum, x.Scale(t, g) * static_cast<float>(x.Sum(t, g)), sum);
    }
  }
  return sum;
}

float TreeAsDocumented(const std::vector<float>& leaves, size_t begin, size_t end) {
  if (end - begin == 1) return leaves[begin];
  const size_t left = std::bit_floor(end - begin - 1);
  return TreeAsDocumented(leaves, begin, begin + left) +
         TreeAsDocumented(leaves, begin + left, end);
}

std::vector<float> OutputAsDocumented(const LinearKernel& kernel, const Matrix& w,
                                      const Activations& x, int64_t leaf_columns) {
  std::vector<float> output;
  const int64_t leaf = leaf_columns > 0 ? leaf_columns : w.columns;
  for (int64_t t = 0; t < x.tokens; ++t) {
    for (int64_t n = 0; n < w.rows; ++n) {
      std::vector<float> leaves;
      for (int64_t begin = 0; begin < w.columns; begin += leaf) {
        leaves.push_back(
            SumAsDocumented(kernel, w, n, x, t, begin, std::min(begin + leaf, w.columns)));
      }
      output.push_back(TreeAsDocumented(leaves, 0, leaves.size()));
    }
  }
  return output;
}

TEST_P(LinearTest, SumsInTheDocumentedOrder) {
  std::vector<Size> sizes(std::begin(kSizes), std::end(kSizes));
  if (float_weights()) sizes.insert(sizes.end(), std::begin(kFloatSizes), std::end(kFloatSizes));
  for (const Size& size : sizes) {
    const Matrix w(kernel().weight, size.rows, Wide(size.columns), random_);
    const Activations x(size.tokens, w.columns, random_);
    const AlignedBytes packed = Pack(kernel(), w);
    for (const int64_t leaf : {int64_t{0}, Wide(32), Wide(64)}) {
      EXPECT_EQ(Bits(Multiply(kernel(), packed, w.rows, x, {.leaf_columns = leaf})),
                Bits(OutputAsDocumented(kernel(), w, x, leaf)))
          << size.rows << "x" << size.columns << ", " << size.tokens << " tokens, leaf " << leaf;
    }
  }
}

// Steps of many tokens unpack a panel segment by segment for blocks of tokens: more of both than
// one.
TEST_P(LinearTest, ManyTokensOverManyColumnsGiveThePortableBits) {
  const int64_t columns = float_weights() ? 1277 : 1280;
  const Matrix w(kernel().weight, 17, columns, random_);
  const Activations x(270, columns, random_);
  const AlignedBytes packed = Pack(kernel(), w);
  const AlignedBytes reference = Pack(portable(), w);
  std::vector<int64_t> leaves = {0, 64, 704, 1280};
  if (float_weights()) leaves.insert(leaves.end(), {8, 254, 258});
  if (any_leaves()) leaves.insert(leaves.end(), {7, 255, 257});
  for (const int64_t leaf : leaves) {
    EXPECT_EQ(Bits(Multiply(kernel(), packed, w.rows, x, {.leaf_columns = leaf})),
              Bits(Multiply(portable(), reference, w.rows, x, {.leaf_columns = leaf})))
        << "leaf " << leaf;
  }
}

// Each part is the tree of its own leaves, whatever the tile that makes it.
TEST_P(LinearTest, SumsInPartsInTheDocumentedOrder) {
  const int64_t leaf = Wide(32);
  for (const int64_t leaves : {1, 5, 24}) {
    const Matrix w(kernel().weight, 70, leaves * leaf, random_);
    const AlignedBytes packed = Pack(kernel(), w);
    for (const int64_t tokens : {1, 4, 40}) {
      const Activations x(tokens, w.columns, random_);
      std::vector<std::vector<int64_t>> divisions = {{leaves}};
      if (leaves > 1) divisions.push_back({1, leaves});
      if (leaves == 24) divisions.push_back({1, 2, 4, 7, 8, 16, 23, 24});
      for (const std::vector<int64_t>& ends : divisions) {
        std::vector<int64_t> part_ends;
        std::vector<float> expected;
        for (size_t part = 0; part < ends.size(); ++part) {
          const int64_t begin = part == 0 ? 0 : ends[part - 1];
          part_ends.push_back(ends[part] * leaf);
          for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t n = 0; n < w.rows; ++n) {
              std::vector<float> sums;
              for (int64_t i = begin; i < ends[part]; ++i) {
                sums.push_back(SumAsDocumented(kernel(), w, n, x, t, i * leaf, (i + 1) * leaf));
              }
              expected.push_back(TreeAsDocumented(sums, 0, sums.size()));
            }
          }
        }
        EXPECT_EQ(Bits(Multiply(kernel(), packed, w.rows, x,
                                {.leaf_columns = leaf, .cuts = {2}, .part_ends = part_ends})),
                  Bits(expected))
            << leaves << " leaves in " << ends.size() << " parts, " << tokens << " tokens";
      }
    }
  }
}

TEST_P(LinearTest, ManyTokensInPartsGiveThePortableBits) {
  const Matrix w(kernel().weight, 17, 1280, random_);
  const Activations x(270, w.columns, random_);
  const AlignedBytes packed = Pack(kernel(), w);
  const AlignedBytes reference = Pack(portable(), w);
  const auto check = [&](int64_t leaf, std::vector<int64_t> part_ends) {
    EXPECT_EQ(
        Bits(Multiply(kernel(), packed, w.rows, x, {.leaf_columns = leaf, .part_ends = part_ends})),
        Bits(Multiply(portable(), reference, w.rows, x,
                      {.leaf_columns = leaf, .part_ends = part_ends})))
        << "leaf " << leaf << " in " << part_ends.size() << " parts";
  };
  check(64, {64, 128, 640, 1216, 1280});
  check(640, {640, 1280});
  check(704, {704, 1280});
}

// A half of one token, or a rank's share of few.
TEST_P(LinearTest, NoTokensAreNoWork) {
  const Matrix w(kernel().weight, 40, Wide(64), random_);
  const Activations x(1, w.columns, random_);
  EXPECT_TRUE(Multiply(kernel(), Pack(kernel(), w), w.rows, x, {.tokens = 0}).empty());
}

TEST_P(LinearTest, FloatLeavesMayHaveAnyWidth) {
  if (!float_weights()) {
    EXPECT_TRUE(kernel().int8_activations);
    return;
  }
  const Matrix w(kernel().weight, 40, 95, random_);
  const Activations x(5, 95, random_);
  const AlignedBytes packed = Pack(kernel(), w);
  for (const int64_t leaf : {1, 7, 95, 2, 48, 94, 200}) {
    if (leaf % 2 != 0 && !any_leaves()) continue;
    EXPECT_EQ(Bits(Multiply(kernel(), packed, w.rows, x, {.leaf_columns = leaf})),
              Bits(OutputAsDocumented(kernel(), w, x, leaf)))
        << "leaf " << leaf;
  }
}

TEST_P(LinearTest, APartOfThePanelsColumnsIsAMatrixOfThem) {
  const int64_t step = kernel().column_step;
  const int64_t columns = Wide(256) + 3 * Wide(32);
  const Matrix w(kernel().weight, 70, columns, random_);
  const AlignedBytes packed = Pack(kernel(), w);
  for (const auto& [begin, end] : {std::pair{int64_t{0}, Wide(96)}, std::pair{Wide(64), Wide(160)},
                                   std::pair{Wide(128), columns}}) {
    ASSERT_EQ(begin % step, 0);
    Matrix part(kernel().weight, w.rows, end - begin, random_);
    const int64_t skipped = RowBytes(w.encoding, begin);
    for (int64_t r = 0; r < w.rows; ++r) {
      std::copy_n(w.bytes.begin() + r * w.row_bytes + skipped, part.row_bytes,
                  part.bytes.begin() + r * part.row_bytes);
    }
    for (const int64_t tokens : {1, 5, 40}) {
      const Activations x(tokens, end - begin, random_);
      for (const int64_t leaf : {int64_t{0}, Wide(32)}) {
        EXPECT_EQ(Bits(Multiply(kernel(), packed, w.rows, x,
                                {.leaf_columns = leaf,
                                 .panel_offset = kernel().panel_bytes(begin),
                                 .panel_stride = kernel().panel_bytes(columns)})),
                  Bits(Multiply(kernel(), Pack(kernel(), part), w.rows, x, {.leaf_columns = leaf})))
            << begin << " to " << end << ", " << tokens << " tokens, leaf " << leaf;
      }
    }
  }
}

TEST_P(LinearTest, StaysWithinTheErrorOfItsRoundings) {
  const Matrix w(kernel().weight, 70, Wide(352), random_);
  const Activations x(9, w.columns, random_);
  for (const int64_t leaf : {int64_t{0}, Wide(64)}) {
    const std::vector<float> output =
        Multiply(kernel(), Pack(kernel(), w), w.rows, x, {.leaf_columns = leaf});
    for (int64_t t = 0; t < x.tokens; ++t) {
      for (int64_t n = 0; n < w.rows; ++n) {
        double exact = 0;
        double magnitude = 0;
        for (int64_t k = 0; k < w.columns; ++k) {
          const double activation = kernel().int8_activations
                                        ? double{x.Scale(t, k / 32)} * x.Quants(t)[k]
                                        : double{x.Value(t, k, kernel().bf16_activations)};
          exact += w.values[n * w.columns + k] * activation;
          magnitude += std::fabs(w.values[n * w.columns + k] * activation);
        }
        // One rounding per column, or a few per group; those of a group's minimum and dot may each
        // exceed their sum.
        const double roundings = kernel().int8_activations ? 8.0 * w.columns / 32 : w.columns;
        EXPECT_NEAR(output[t * w.rows + n], exact, roundings * 0x1p-24 * magnitude)
            << "token " << t << ", row " << n;
      }
    }
  }
}

TEST_P(LinearTest, TheGreatestProductsDoNotSaturate) {
  Matrix w(kernel().weight, 33, Wide(96), random_);
  for (const int fill : {0xff, 0x80, 0x7f, 0x00}) {
    if (!float_weights()) {
      const BlockShape shape = ShapeOf(w.encoding);
      const int64_t block_bytes = RowBytes(w.encoding, shape.group);
      const int64_t head = shape.minimum ? 4 : 2;
      for (int64_t at = 0; at < w.rows * w.row_bytes; at += block_bytes) {
        std::memset(w.bytes.data() + at + head, fill, static_cast<size_t>(block_bytes - head));
      }
    }
    const AlignedBytes packed = Pack(kernel(), w);
    for (const int64_t tokens : {1, 4, 9}) {
      Activations x(tokens, w.columns, random_);
      for (int64_t t = 0; t < tokens; ++t) {
        // All of them 127, -127, or both.
        for (int64_t k = 0; k < w.columns; ++k) x.Float(t)[k] = t % 3 == k % 2 ? -2.0f : 2.0f;
        if (t % 3 == 2) std::fill_n(x.Float(t), w.columns, -2.0f);
      }
      x.Quantize();
      EXPECT_EQ(Bits(Multiply(kernel(), packed, w.rows, x)),
                Bits(OutputAsDocumented(kernel(), w, x, 0)))
          << fill << ", " << tokens << " tokens";
    }
  }
}

TEST_P(LinearTest, GivesTheBitsOfPortableForEveryEpilogue) {
  const Matrix w(kernel().weight, 160, Wide(192), random_);
  const AlignedBytes packed = Pack(kernel(), w);
  const AlignedBytes reference = Pack(portable(), w);
  for (const int64_t tokens : {1, 2, 3, 4, 6, 7, 12, 13, 40}) {
    const Activations x(tokens, w.columns, random_);
    std::vector<float> residual(static_cast<size_t>(tokens * w.rows));
    for (float& value : residual) value = std::normal_distribution<float>()(random_);
    for (const MultiplyOptions& options :
         {MultiplyOptions{.residual = residual.data()}, MultiplyOptions{.silu_mul = true},
          MultiplyOptions{.leaf_columns = Wide(64), .residual = residual.data()},
          MultiplyOptions{.leaf_columns = Wide(32), .silu_mul = true},
          MultiplyOptions{.silu_mul = true, .residual = residual.data()}}) {
      EXPECT_EQ(Bits(Multiply(kernel(), packed, w.rows, x, options)),
                Bits(Multiply(portable(), reference, w.rows, x, options)))
          << tokens << " tokens, silu_mul " << options.silu_mul;
    }
  }
}

TEST_P(LinearTest, ARowDoesNotDependOnItsBatch) {
  const Matrix w(kernel().weight, 100, Wide(160), random_);
  const Activations x(40, w.columns, random_);
  const AlignedBytes packed = Pack(kernel(), w);
  std::vector<float> alone;
  for (int64_t t = 0; t < x.tokens; ++t) {
    const std::vector<float> row = Multiply(
        kernel(), packed, w.rows, x, {.leaf_columns = Wide(64), .first_token = t, .tokens = 1});
    alone.insert(alone.end(), row.begin(), row.end());
  }
  for (int64_t tokens = 1; tokens <= x.tokens; ++tokens) {
    const std::vector<float> batch =
        Multiply(kernel(), packed, w.rows, x, {.leaf_columns = Wide(64), .tokens = tokens});
    EXPECT_EQ(Bits(batch), Bits({alone.begin(), alone.begin() + tokens * w.rows})) << tokens;
  }
}

TEST_P(LinearTest, TheSharesOfPanelsDoNotMatter) {
  const Matrix w(kernel().weight, 288, Wide(96), random_);
  const AlignedBytes packed = Pack(kernel(), w);
  for (const int64_t tokens : {1, 3, 20}) {
    const Activations x(tokens, w.columns, random_);
    for (const bool silu_mul : {false, true}) {
      const std::vector<float> whole =
          Multiply(kernel(), packed, w.rows, x, {.silu_mul = silu_mul});
      for (const std::vector<int64_t>& cuts :
           {std::vector<int64_t>{2}, {8, 8, 10}, {2, 4, 6, 8, 10, 12, 14, 16}, {16}}) {
        EXPECT_EQ(Bits(Multiply(kernel(), packed, w.rows, x, {.silu_mul = silu_mul, .cuts = cuts})),
                  Bits(whole));
      }
    }
  }
}

TEST_P(LinearTest, TheSharesOfThreadsDoNotMatter) {
  const Matrix w(kernel().weight, 96, Wide(128), random_);
  const AlignedBytes packed = Pack(kernel(), w);
  for (const int64_t tokens : {int64_t{5}, 3 * kTokensToDivide - 1, 3 * kTokensToDivide + 10}) {
    const Activations x(tokens, w.columns, random_);
    std::vector<float> residual(static_cast<size_t>(tokens * w.rows));
    for (float& value : residual) value = std::normal_distribution<float>()(random_);
    for (MultiplyOptions options :
         {MultiplyOptions{.leaf_columns = Wide(64), .residual = residual.data()},
          MultiplyOptions{.silu_mul = true},
          MultiplyOptions{.leaf_columns = Wide(64), .part_ends = {Wide(64), Wide(128)}}}) {
      const std::vector<float> whole = Multiply(kernel(), packed, w.rows, x, options);
      options.threads = 3;
      EXPECT_EQ(Bits(Multiply(kernel(), packed, w.rows, x, options)), Bits(whole)) << tokens;
    }
  }
}

TEST_P(LinearTest, TheResidualMayBeTheOutput) {
  const Matrix w(kernel().weight, 90, 64, random_);
  const AlignedBytes packed = Pack(kernel(), w);
  for (const int64_t tokens : {1, 5, 33}) {
    const Activations x(tokens, w.columns, random_);
    std::vector<float> residual(static_cast<size_t>(tokens * w.rows), 0.75f);
    const std::vector<float> apart =
        Multiply(kernel(), packed, w.rows, x, {.residual = residual.data()});
    Multiply(kernel(), packed, w.rows, x, {.residual = residual.data()}, residual.data());
    EXPECT_EQ(Bits(residual), Bits(apart));
    const std::vector<float> without = Multiply(kernel(), packed, w.rows, x);
    for (size_t i = 0; i < apart.size(); ++i) ASSERT_EQ(apart[i], without[i] + 0.75f);
  }
}

TEST_P(LinearTest, WritesNothingBeyondTheLastRow) {
  const Matrix w(kernel().weight, 21, 64, random_);
  const Activations x(3, w.columns, random_);
  const AlignedBytes packed = Pack(kernel(), w);
  std::vector<float> output(static_cast<size_t>(3 * w.rows + 16), -7.0f);
  Multiply(kernel(), packed, w.rows, x, {}, output.data());
  EXPECT_THAT(std::vector<float>(output.begin() + 3 * w.rows, output.end()), testing::Each(-7.0f));
  EXPECT_EQ(Bits({output.begin(), output.begin() + 3 * w.rows}),
            Bits(Multiply(kernel(), packed, w.rows, x)));
}

TEST_P(LinearTest, NotANumberAndInfinityReachTheirRowsOnly) {
  const Matrix w(kernel().weight, 40, 64, random_);
  Activations x(5, w.columns, random_);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  const AlignedBytes packed = Pack(kernel(), w);
  const std::vector<float> before = Multiply(kernel(), packed, w.rows, x);
  if (kernel().int8_activations) {
    std::memcpy(x.q8.data() + 1 * x.q8_stride + w.columns, &kNaN, 4);
    std::memcpy(x.q8.data() + 3 * x.q8_stride + w.columns, &kInfinity, 4);
  } else {
    x.Float(1)[17] = kNaN;
    x.Float(3)[5] = kInfinity;
  }
  const std::vector<float> output = Multiply(kernel(), packed, w.rows, x);
  for (int64_t n = 0; n < w.rows; ++n) {
    EXPECT_TRUE(std::isnan(output[1 * w.rows + n]));
    EXPECT_FALSE(std::isfinite(output[3 * w.rows + n]));
    for (const int64_t t : {0, 2, 4}) EXPECT_EQ(output[t * w.rows + n], before[t * w.rows + n]);
  }
}

// gate and up rows alternate by panels: with K = 1, x = 1, gate = g and up = 1 the output is
// silu(g).
TEST_P(LinearTest, SiluIsWithinTwoUlps) {
  if (kernel().weight != Encoding::kF32) {
    EXPECT_NE(FindLinear("linear_f32_f32", kernel().isa), nullptr);
    return;
  }
  Matrix w(Encoding::kF32, 64 * 1024, 1, random_);
  std::vector<float> gates;
  for (int64_t n = 0; n < w.rows; ++n) {
    float value = 1.0f;
    if (n / 16 % 2 == 0) {
      value = -87.0f + 174.0f * static_cast<float>(gates.size()) / (32.0f * 1024.0f);
      if (gates.size() % 3 == 0) value = std::ldexp(value, static_cast<int>(random_() % 60) - 60);
      gates.push_back(value);
    }
    std::memcpy(w.bytes.data() + n * 4, &value, 4);
  }
  Activations x(1, 1, random_);
  x.Float(0)[0] = 1.0f;
  const std::vector<float> output =
      Multiply(kernel(), Pack(kernel(), w), w.rows, x, {.silu_mul = true});
  ASSERT_EQ(output.size(), gates.size());
  double worst = 0;
  for (size_t i = 0; i < gates.size(); ++i) {
    const double gate = gates[i];
    const double exact = gate / (1.0 + std::exp(-gate));
    const double ulp = std::ldexp(1.0, std::max(std::ilogb(exact), -126) - 23);
    worst = std::max(worst, std::fabs(output[i] - exact) / ulp);
  }
  EXPECT_LE(worst, 2.0);
}

TEST(LinearRegistry, FindsTheBestFamilyNotAboveTheOneAskedFor) {
  for (const LinearKernel& kernel : LinearKernels()) {
    const LinearKernel* found = FindLinear(kernel.name, kernel.isa);
    ASSERT_NE(found, nullptr);
    EXPECT_STREQ(found->name, kernel.name);
    EXPECT_EQ(found->isa, kernel.isa);
  }
  EXPECT_EQ(FindLinear("linear_q8_q3_k", Isa::kAvx512), nullptr);
  EXPECT_EQ(FindLinear("", Isa::kPortable), nullptr);
}

TEST(LinearRegistry, HoldsEveryWeightTypeForEveryFamily) {
  std::vector<std::string> names;
  for (const LinearKernel& kernel : LinearKernels()) {
    names.push_back(std::string(kernel.name) + " " + IsaName(kernel.isa));
    EXPECT_EQ(kernel.int8_activations, IsBlockFormat(kernel.weight)) << kernel.name;
  }
  std::vector<std::string> expected = {"linear_bf16_bf16 portable", "linear_bf16_bf16 avx2",
                                       "linear_bf16_bf16 avx512"};
  for (const Encoding encoding : AllEncodings()) {
    for (const char* isa : {"portable", "avx2", "avx512"}) {
      expected.push_back((IsBlockFormat(encoding) ? "linear_q8_" : "linear_f32_") +
                         EncodingName(encoding) + " " + isa);
    }
  }
  EXPECT_THAT(names, testing::UnorderedElementsAreArray(expected));
}

}  // namespace
}  // namespace llmir::kernels
