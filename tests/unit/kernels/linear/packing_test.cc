#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "kernels/linear.h"
#include "tests/unit/kernels/linear/linear_problem.h"

namespace llmir::kernels {
namespace {

std::vector<float> UnpackAll(const LinearKernel& kernel, const AlignedBytes& packed, int64_t rows,
                             int64_t columns) {
  std::vector<float> values(static_cast<size_t>(rows * columns));
  for (int64_t r = 0; r < rows; ++r) {
    kernel.unpack_row(packed.data(), r, columns, values.data() + r * columns);
  }
  return values;
}

// The largest error that storing `value`, one of `group` values that share a scale, may bring.
double Tolerance(Encoding weight, double value, const double* group, int64_t count) {
  const double low = *std::min_element(group, group + count);
  const double high = *std::max_element(group, group + count);
  const double largest = std::max(-low, high);
  if (weight == Encoding::kF32) return std::fabs(value) * 0x1p-24;
  if (weight == Encoding::kF16) return std::max(std::fabs(value) * 0x1p-11, 0x1p-25);
  if (weight == Encoding::kBF16) return std::fabs(value) * 0x1p-8;
  // Half a step, and what the rounding of the f16 scale (relative 2^-11, subnormal 2^-25) and
  // minimum adds at the ends of the range.
  const BlockShape shape = ShapeOf(weight);
  const double steps = (1 << shape.bits) - 1;
  if (shape.minimum) {
    return (high - low) / steps * 0.5 + (largest + high - low) * 0x1p-10 + (steps + 1) * 0x1p-24;
  }
  if (weight == Encoding::kQ8_0) return largest / 127 * 0.5 + largest * 0x1p-10 + 127 * 0x1p-24;
  // The end opposite to the largest value lies one step outside the range.
  return largest / (1 << (shape.bits - 1)) + largest * 0x1p-10 + steps * 0x1p-24;
}

class PackingTest : public testing::TestWithParam<const LinearKernel*> {
 protected:
  const LinearKernel& kernel() const { return *GetParam(); }
  std::mt19937 random_{7};
};

std::vector<const LinearKernel*> AllKernels() {
  std::vector<const LinearKernel*> kernels;
  for (const LinearKernel& kernel : LinearKernels()) kernels.push_back(&kernel);
  return kernels;
}

INSTANTIATE_TEST_SUITE_P(Kernels, PackingTest, testing::ValuesIn(AllKernels()),
                         [](const testing::TestParamInfo<const LinearKernel*>& info) {
                           return std::string(info.param->name) + "__" + IsaName(info.param->isa);
                         });

TEST_P(PackingTest, EverySourceEncodingSurvivesWithinItsRounding) {
  for (const Encoding source : AllEncodings()) {
    const int64_t group = std::max(ShapeOf(kernel().weight).group, 32);
    for (const int64_t groups : {1, 3, 8}) {
      const int64_t columns = groups * std::max<int64_t>(group, ShapeOf(source).group);
      const Matrix matrix(source, 37, columns, random_);
      const std::vector<float> unpacked =
          UnpackAll(kernel(), Pack(kernel(), matrix), matrix.rows, columns);
      const bool same = source == kernel().weight;
      for (size_t i = 0; i < unpacked.size(); ++i) {
        const double exact = matrix.values[i];
        // The source's own decoding rounds its product and its sum to float.
        const double decoding = IsBlockFormat(source) ? (std::fabs(exact) + 2.0) * 0x1p-23 : 0.0;
        const double bound = same ? decoding
                                  : decoding + Tolerance(kernel().weight, exact,
                                                         &matrix.values[i / group * group], group);
        ASSERT_NEAR(unpacked[i], exact, bound)
            << EncodingName(source) << " to " << EncodingName(kernel().weight) << ", element " << i;
      }
    }
  }
}

TEST_P(PackingTest, OwnEncodingIsKeptBitForBit) {
  const int64_t columns = 3 * std::max(ShapeOf(kernel().weight).group, 32);
  const Matrix matrix(kernel().weight, 16, columns, random_);
  const AlignedBytes packed = Pack(kernel(), matrix);
  const std::vector<float> unpacked = UnpackAll(kernel(), packed, 16, columns);
  for (size_t i = 0; i < unpacked.size(); ++i) {
    ASSERT_EQ(unpacked[i], static_cast<float>(matrix.values[i])) << i;
  }
}

TEST_P(PackingTest, MissingAndNullRowsAreZeros) {
  const int64_t columns = 192;
  const Matrix matrix(Encoding::kF32, 3, columns, random_);
  AlignedBytes packed(kernel().panel_bytes(columns));
  std::memset(packed.data(), 0xff, packed.size());
  AlignedBytes scratch(kernel().pack_scratch_bytes(columns));
  const std::vector<SourceRow> rows = {matrix.Row(0), SourceRow{}, matrix.Row(2)};
  kernel().pack_panel(rows, columns, packed.data(), scratch.data());
  const std::vector<float> unpacked = UnpackAll(kernel(), packed, kPanelRows, columns);
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const std::vector<float> row(unpacked.begin() + r * columns,
                                 unpacked.begin() + (r + 1) * columns);
    if (r == 0 || r == 2) {
      EXPECT_THAT(row, testing::Contains(testing::Ne(0.0f))) << r;
    } else {
      EXPECT_THAT(row, testing::Each(0.0f)) << r;
    }
  }
}

TEST_P(PackingTest, PackedWeightsTakeTheBytesOfTheirFormat) {
  for (const int64_t columns : {64, 576, 1536}) {
    EXPECT_EQ(kernel().panel_bytes(columns), kPanelRows * RowBytes(kernel().weight, columns))
        << columns;
  }
}

TEST_P(PackingTest, RestoredRowsAreTheSourcesRows) {
  for (const int64_t rows : {16, 5}) {
    for (const int64_t columns : {64, 192, 320}) {
      const Matrix matrix(kernel().weight, rows, columns, random_);
      const AlignedBytes packed = Pack(kernel(), matrix);
      std::vector<std::byte> row(static_cast<size_t>(matrix.row_bytes));
      for (int64_t r = 0; r < rows; ++r) {
        kernel().restore_row(packed.data(), r, columns, row.data());
        ASSERT_TRUE(std::equal(row.begin(), row.end(), matrix.bytes.begin() + r * matrix.row_bytes))
            << "row " << r << " of " << rows << ", " << columns << " columns";
      }
    }
  }
}

TEST_P(PackingTest, PartsOfRowsAndColumnsLieWherePanelPartOfSays) {
  const int64_t step = kernel().column_step;
  const int64_t columns = 6 * step;
  const PanelPart part = PanelPartOf(kernel(), columns, 16, 40, 2 * step, 4 * step);
  EXPECT_EQ(part.panel_begin, 1);
  EXPECT_EQ(part.panel_end, 3);
  EXPECT_EQ(part.byte_begin, kernel().panel_bytes(2 * step));
  EXPECT_EQ(part.byte_end, kernel().panel_bytes(4 * step));
  // Outwards, to whole panels and lines.
  const PanelPart wider = PanelPartOf(kernel(), columns, 17, 33, 3 * step - 1, 4 * step + 1);
  EXPECT_EQ(wider.panel_begin, 1);
  EXPECT_EQ(wider.panel_end, 3);
  EXPECT_EQ(wider.byte_begin, kernel().panel_bytes((3 * step - 1) / step * step));
  EXPECT_EQ(wider.byte_end, kernel().panel_bytes(5 * step));
  EXPECT_EQ(PanelPartOf(kernel(), columns, 0, 1, 0, columns).byte_end,
            kernel().panel_bytes(columns));
  EXPECT_EQ(FindLinearByLayout(kernel().layout)->layout, kernel().layout);
  EXPECT_EQ(FindLinearByLayout(12345), nullptr);
}

TEST_P(PackingTest, PanelsAreWholeLines) {
  for (const int64_t columns : {32, 64, 96, 576, 1536}) {
    EXPECT_EQ(kernel().panel_bytes(columns) % 64, 0) << columns;
  }
  if (IsBlockFormat(kernel().weight)) return;
  for (const int64_t columns : {1, 31, 33, 77}) {
    const Matrix matrix(kernel().weight, 16, columns, random_);
    const std::vector<float> unpacked = UnpackAll(kernel(), Pack(kernel(), matrix), 16, columns);
    for (size_t i = 0; i < unpacked.size(); ++i) {
      ASSERT_EQ(unpacked[i], static_cast<float>(matrix.values[i])) << columns << ", " << i;
    }
  }
}

TEST_P(PackingTest, ConstantAndHugeGroupsStayInRange) {
  if (!IsBlockFormat(kernel().weight)) {
    EXPECT_FALSE(kernel().int8_activations);
    return;
  }
  for (const float value : {0.0f, -0.0f, 3.0f, -3.0f, 1e-8f, 60000.0f, -60000.0f}) {
    Matrix matrix(Encoding::kF32, 1, 64, random_);
    for (int64_t k = 0; k < 64; ++k) {
      std::memcpy(matrix.bytes.data() + 4 * k, &value, 4);
      matrix.values[k] = value;
    }
    const std::vector<float> unpacked = UnpackAll(kernel(), Pack(kernel(), matrix), 1, 64);
    // 1e-8 lies below the smallest f16 scale: it may become zero.
    for (const float got : unpacked) {
      EXPECT_NEAR(got, value, std::fabs(value) * 0x1p-10 + 1e-8) << value;
    }
  }
}

TEST(PackingLayouts, EqualIdsMeanEqualBytes) {
  std::mt19937 random(11);
  std::map<uint32_t, std::vector<std::byte>> by_layout;
  std::map<Encoding, Matrix> matrices;
  for (const Encoding encoding : AllEncodings()) {
    matrices.emplace(encoding, Matrix(encoding, 20, 192, random));
  }
  for (const LinearKernel& kernel : LinearKernels()) {
    const AlignedBytes packed = Pack(kernel, matrices.at(kernel.weight));
    const std::vector<std::byte> bytes(packed.data(), packed.data() + packed.size());
    const auto [at, inserted] = by_layout.emplace(kernel.layout, bytes);
    EXPECT_TRUE(inserted || at->second == bytes) << kernel.name << " " << IsaName(kernel.isa);
  }
  EXPECT_EQ(by_layout.size(), 18u);
}

}  // namespace
}  // namespace llmir::kernels
