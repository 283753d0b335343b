#include "kernels/block_formats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/kernels/linear/linear_problem.h"

namespace llmir::kernels {
namespace {

std::vector<Encoding> BlockEncodings() {
  std::vector<Encoding> encodings;
  for (int i = 0; i < kEncodingCount; ++i) {
    const auto encoding = static_cast<Encoding>(i);
    if (FormatOf(encoding).group != 0) encodings.push_back(encoding);
  }
  return encodings;
}

class BlockFormatTest : public testing::TestWithParam<Encoding> {
 protected:
  Encoding encoding() const { return GetParam(); }
  const Format& format() const { return FormatOf(GetParam()); }
  int Least() const { return format().bits == 8 ? -127 : 0; }
  int Greatest() const { return format().bits == 8 ? 127 : (1 << format().bits) - 1; }
  double PointValue(const Grid& grid, int quant) const {
    if (format().minimum) return static_cast<double>(grid.scale) * quant + grid.minimum;
    return static_cast<double>(grid.scale) *
           (quant - (format().bits == 8 ? 0 : 1 << (format().bits - 1)));
  }
  std::vector<float> RandomGroup() {
    std::normal_distribution<float> normal(0.01f, 0.5f);
    std::vector<float> values(static_cast<size_t>(format().group));
    for (float& value : values) value = normal(random_);
    return values;
  }
  std::mt19937 random_{99};
};

INSTANTIATE_TEST_SUITE_P(Formats, BlockFormatTest, testing::ValuesIn(BlockEncodings()),
                         [](const testing::TestParamInfo<Encoding>& info) {
                           return std::string(FormatOf(info.param).name);
                         });

TEST_P(BlockFormatTest, ABlockHoldsItsBitsAndScalesAndNothingElse) {
  EXPECT_EQ(BlockRowBytes(encoding(), format().group * 3),
            3 * (format().group * format().bits / 8 + (format().minimum ? 4 : 2)));
}

TEST_P(BlockFormatTest, EveryQuantComesBackFromABlock) {
  const int64_t bytes = BlockRowBytes(encoding(), format().group);
  for (int start = Least(); start <= Greatest(); ++start) {
    std::vector<int8_t> quants;
    for (int i = 0; i < format().group; ++i) {
      const int range = Greatest() - Least() + 1;
      quants.push_back(static_cast<int8_t>(Least() + (start - Least() + 7 * i) % range));
    }
    const Grid grid = RoundGrid(encoding(), -0.37f, 1.7f);
    std::vector<std::byte> block(static_cast<size_t>(bytes) + 1, std::byte{0xa5});
    WriteBlock(encoding(), grid, quants.data(), block.data());
    EXPECT_EQ(block.back(), std::byte{0xa5});
    std::vector<int8_t> read(quants.size());
    const Grid read_grid = ReadBlock(encoding(), block.data(), read.data());
    EXPECT_EQ(read, quants);
    EXPECT_EQ(read_grid.scale, grid.scale);
    EXPECT_EQ(read_grid.minimum, format().minimum ? grid.minimum : 0.0f);
  }
}

TEST_P(BlockFormatTest, QuantizeTakesTheNearestPoint) {
  for (int repeat = 0; repeat < 50; ++repeat) {
    const std::vector<float> values = RandomGroup();
    const Grid grid = ChooseGrid(encoding(), values.data());
    for (const float value : values) {
      const int8_t quant = Quantize(encoding(), grid, value);
      EXPECT_EQ(Dequantize(encoding(), grid, quant), static_cast<float>(PointValue(grid, quant)));
      double nearest = 1e9;
      for (int q = Least(); q <= Greatest(); ++q) {
        nearest = std::min(nearest, std::fabs(PointValue(grid, q) - value));
      }
      EXPECT_NEAR(std::fabs(PointValue(grid, quant) - value), nearest, std::fabs(value) * 1e-6);
    }
  }
}

TEST_P(BlockFormatTest, ARowIsItsGroupsOnTheirGrids) {
  std::vector<float> row;
  std::vector<std::byte> expected;
  for (int g = 0; g < 5; ++g) {
    const std::vector<float> values = RandomGroup();
    row.insert(row.end(), values.begin(), values.end());
    const Grid grid = ChooseGrid(encoding(), values.data());
    std::vector<int8_t> quants;
    for (const float value : values) quants.push_back(Quantize(encoding(), grid, value));
    std::vector<std::byte> block(static_cast<size_t>(BlockRowBytes(encoding(), format().group)));
    WriteBlock(encoding(), grid, quants.data(), block.data());
    expected.insert(expected.end(), block.begin(), block.end());
  }
  const auto columns = static_cast<int64_t>(row.size());
  std::vector<std::byte> encoded(static_cast<size_t>(BlockRowBytes(encoding(), columns)));
  EncodeRow(encoding(), row.data(), columns, encoded.data());
  EXPECT_EQ(encoded, expected);
  std::vector<float> decoded(row.size());
  DecodeRow(encoding(), encoded.data(), columns, decoded.data());
  // What the grid gives encodes to itself: a second round changes no value.
  for (int64_t k = 0; k < columns; k += format().group) {
    int8_t quants[kMaxGroup];
    const std::byte* block = encoded.data() + BlockRowBytes(encoding(), k);
    const Grid grid = ReadBlock(encoding(), block, quants);
    for (int i = 0; i < format().group; ++i) {
      EXPECT_EQ(Quantize(encoding(), grid, decoded[static_cast<size_t>(k + i)]), quants[i]);
    }
  }
}

TEST_P(BlockFormatTest, TheGridReachesTheGreatestMagnitudeAndShrinks) {
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::vector<float> values = RandomGroup();
    values[3] = 3.0f;
    values[4] = -2.0f;
    const auto span = [&](float shrink) {
      const Grid grid = ChooseGrid(encoding(), values.data(), shrink);
      const double ends[] = {PointValue(grid, Least()), PointValue(grid, Greatest())};
      return std::pair(std::min(ends[0], ends[1]), std::max(ends[0], ends[1]));
    };
    for (const float shrink : {1.0f, 0.75f, 0.5f}) {
      const auto [low, high] = span(shrink);
      EXPECT_NEAR(high, 3.0 * shrink, 3.0 * 0x1p-9);
      if (format().minimum) {
        EXPECT_NEAR(low, -2.0 * shrink, 2.0 * 0x1p-9);
      }
    }
  }
  // Values on one side of zero: the near end stays, and the far one never passes it.
  for (const float sign : {1.0f, -1.0f}) {
    std::vector<float> values(static_cast<size_t>(format().group), sign * 4.0f);
    values[1] = sign * 5.0f;
    const Grid grid = ChooseGrid(encoding(), values.data(), 0.5f);
    const double got = PointValue(grid, Quantize(encoding(), grid, sign * 4.0f));
    EXPECT_NEAR(got, sign * 4.0, 4.0 * 0x1p-9);
  }
}

// The decoding of GGUF's formats, by hand: q5_0 and q5_1 keep bit 4 of value i in bit i of the 32
// bits that follow scale and minimum, and the others in nibbles, i and i + 16 in one byte.
TEST(GgufBlocks, FiveBitsAreWhereGgufHasThem) {
  std::mt19937 random(5);
  for (const Encoding encoding : {Encoding::kQ5_0, Encoding::kQ5_1}) {
    const bool with_minimum = encoding == Encoding::kQ5_1;
    const size_t bytes = with_minimum ? 24 : 22;
    ASSERT_EQ(BlockRowBytes(encoding, 32), static_cast<int64_t>(bytes));
    for (int repeat = 0; repeat < 100; ++repeat) {
      std::vector<std::byte> block(bytes);
      for (std::byte& byte : block) byte = static_cast<std::byte>(random() & 255);
      const uint16_t scale = Matrix::RandomHalf(random);
      const uint16_t minimum = Matrix::RandomHalf(random);
      std::memcpy(block.data(), &scale, 2);
      if (with_minimum) std::memcpy(block.data() + 2, &minimum, 2);
      uint32_t high = 0;
      std::memcpy(&high, block.data() + bytes - 20, 4);
      std::vector<float> values(32);
      DecodeRow(encoding, block.data(), 32, values.data());
      for (size_t i = 0; i < 32; ++i) {
        const int pair = std::to_integer<int>(block[bytes - 16 + i % 16]);
        const int quant = (i < 16 ? pair & 15 : pair >> 4) | (high >> i & 1) << 4;
        const double exact = with_minimum ? HalfValue(scale) * quant + HalfValue(minimum)
                                          : HalfValue(scale) * (quant - 16);
        EXPECT_EQ(values[i], static_cast<float>(exact)) << FormatOf(encoding).name << ", " << i;
      }
    }
  }
}

TEST(GgufBlocks, NibblesAndBytesAreWhereGgufHasThem) {
  std::mt19937 random(6);
  for (const Encoding encoding : {Encoding::kQ8_0, Encoding::kQ4_0, Encoding::kQ4_1}) {
    const Matrix matrix(encoding, 10, 96, random);
    std::vector<float> values(96);
    for (int64_t r = 0; r < matrix.rows; ++r) {
      DecodeRow(encoding, matrix.Row(r).data, 96, values.data());
      for (int64_t k = 0; k < 96; ++k) {
        EXPECT_EQ(values[static_cast<size_t>(k)],
                  static_cast<float>(matrix.values[static_cast<size_t>(r * 96 + k)]));
      }
    }
  }
}

// q3 and q6 by the rule in the header, on a block whose places can be read off.
TEST(Blocks, FieldsAreWhereTheHeaderSays) {
  int8_t quants[kMaxGroup] = {};
  std::byte block[64];
  const auto set = [&](Encoding encoding, int at, int8_t quant) {
    std::memset(quants, 0, sizeof quants);
    quants[at] = quant;
    WriteBlock(encoding, Grid{}, quants, block);
    std::vector<std::pair<int, int>> bits;  // byte, bit
    for (int byte = 0; byte < BlockRowBytes(encoding, FormatOf(encoding).group); ++byte) {
      for (int bit = 0; bit < 8; ++bit) {
        if ((std::to_integer<int>(block[byte]) >> bit & 1) != 0) bits.emplace_back(byte, bit);
      }
    }
    return bits;
  };
  using Bits = std::vector<std::pair<int, int>>;
  // q3_0: scale, 4 bytes of high bits, 8 bytes of 2-bit fields.
  EXPECT_EQ(set(Encoding::kQ3_0, 13, 4), (Bits{{2 + 1, 5}}));
  EXPECT_EQ(set(Encoding::kQ3_0, 13, 3), (Bits{{6 + 5, 2}, {6 + 5, 3}}));
  EXPECT_EQ(set(Encoding::kQ3_1, 31, 6), (Bits{{4 + 3, 7}, {8 + 7, 7}}));
  // q6_1: scale, minimum, 8 bytes of 2-bit fields, 16 bytes of nibbles.
  EXPECT_EQ(set(Encoding::kQ6_1, 17, 48), (Bits{{4 + 1, 4}, {4 + 1, 5}}));
  EXPECT_EQ(set(Encoding::kQ6_1, 17, 9), (Bits{{12 + 1, 4}, {12 + 1, 7}}));
  // Of 64 values: twice the bytes in each part.
  EXPECT_EQ(set(Encoding::kQ3_1_64, 40, 7), (Bits{{4 + 5, 0}, {12 + 8, 4}, {12 + 8, 5}}));
  EXPECT_EQ(set(Encoding::kQ5_1_64, 33, 17), (Bits{{4 + 4, 1}, {12 + 1, 4}}));
  EXPECT_EQ(set(Encoding::kQ4_1_64, 63, 8), (Bits{{4 + 31, 7}}));
  EXPECT_EQ(set(Encoding::kQ6_1_64, 16, 48), (Bits{{4 + 0, 2}, {4 + 0, 3}}));
}

}  // namespace
}  // namespace llmir::kernels
