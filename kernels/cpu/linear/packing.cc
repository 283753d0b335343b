#include "kernels/cpu/linear/packing.h"

#include <bit>
#include <cstring>

#include "kernels/cpu/linear/half.h"

namespace llmir::kernels {
namespace {

uint16_t LoadU16(const std::byte* from) {
  uint16_t value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

void StoreU16(std::byte* to, uint16_t value) { std::memcpy(to, &value, sizeof value); }

// -------------------------------------------------------------------------------------------
// source rows

void DecodeOrZeros(const SourceRow& row, int64_t columns, float* out) {
  if (row.data != nullptr) return DecodeRow(row.encoding, row.data, columns, out);
  std::memset(out, 0, static_cast<size_t>(columns) * sizeof(float));
}

SourceRow RowOrZeros(std::span<const SourceRow> rows, int64_t r) {
  return r < static_cast<int64_t>(rows.size()) ? rows[static_cast<size_t>(r)] : SourceRow{};
}

// Calls store(row, floats) for the 16 rows of a panel.
template <typename Store>
void ForEachDecodedRow(std::span<const SourceRow> rows, int64_t columns, std::byte* scratch,
                       Store store) {
  auto* values = reinterpret_cast<float*>(scratch);
  for (int64_t r = 0; r < kPanelRows; ++r) {
    DecodeOrZeros(RowOrZeros(rows, r), columns, values);
    store(r, values);
  }
}

// Rows that are already of the panel's type, value k of row r at k * kPanelRows + r: false where
// one isn't. By squares, so that both sides stay in the nearest cache.
template <typename Value>
bool PackAsStored(Encoding encoding, std::span<const SourceRow> rows, int64_t columns,
                  std::byte* panel) {
  for (const SourceRow& row : rows) {
    if (row.data == nullptr || row.encoding != encoding) return false;
  }
  auto* to = reinterpret_cast<Value*>(panel);
  constexpr int64_t kSquare = 32;
  for (int64_t begin = 0; begin < columns; begin += kSquare) {
    const int64_t end = begin + kSquare < columns ? begin + kSquare : columns;
    for (int64_t r = 0; r < kPanelRows; ++r) {
      if (r < static_cast<int64_t>(rows.size())) {
        const std::byte* from = rows[static_cast<size_t>(r)].data;
        for (int64_t k = begin; k < end; ++k) {
          Value value;
          std::memcpy(&value, from + k * static_cast<int64_t>(sizeof value), sizeof value);
          to[k * kPanelRows + r] = value;
        }
      } else {
        for (int64_t k = begin; k < end; ++k) to[k * kPanelRows + r] = 0;
      }
    }
  }
  return true;
}

// -------------------------------------------------------------------------------------------
// q layouts

// Where a plane of `width` bits has column k of row r of a group.
struct Field {
  Field(int width, int64_t r, int64_t k) {
    const int64_t bit = k / 4 * width;
    byte = bit / 8 * kLine + r * 4 + k % 4;
    shift = static_cast<int>(bit % 8);
    mask = (1 << width) - 1;
  }
  int Get(const std::byte* plane) const {
    return std::to_integer<int>(plane[byte]) >> shift & mask;
  }
  int64_t byte;
  int shift;
  int mask;
};

uint32_t LoadQuad(const std::byte* from) {
  uint32_t quad;
  std::memcpy(&quad, from, sizeof quad);
  return quad;
}

// A plane of kWidth bits of row r: bits kShift and up of each value, quads as words of four bytes.
template <int kWidth, int kShift>
void PutPlane(const uint32_t (&quads)[kGroup / 4], int64_t r, std::byte* plane) {
  constexpr uint32_t kMask = 0x01010101u * ((1u << kWidth) - 1);
  constexpr int kQuads = 8 / kWidth;  // of a line
#pragma GCC unroll 8
  for (int line = 0; line < kWidth; ++line) {
    uint32_t word = 0;
#pragma GCC unroll 8
    for (int i = 0; i < kQuads; ++i)
      word |= ((quads[line * kQuads + i] >> kShift) & kMask) << (i * kWidth);
    std::memcpy(plane + line * kLine + 4 * r, &word, sizeof word);
  }
}

// The quants of a group of row r, `kOffset` added to each.
template <int kBits, int kOffset>
void PutQuants(const int8_t* values, int64_t r, std::byte* quants) {
  static_assert(kOffset == 0 || kOffset == 128);  // the second flips the top bit of each byte
  constexpr int kLowBits = LowBits(kBits);
  uint32_t quads[kGroup / 4];
#pragma GCC unroll 8
  for (int i = 0; i < kGroup / 4; ++i) {
    quads[i] = LoadQuad(reinterpret_cast<const std::byte*>(values) + 4 * i) ^
               (kOffset == 0 ? 0u : 0x80808080u);
  }
  PutPlane<kLowBits, 0>(quads, r, quants);
  if constexpr (kBits > kLowBits) {
    PutPlane<kBits - kLowBits, kLowBits>(quads, r, quants + kLowBits * kLine);
  }
}

void GetQuants(int bits, int offset, const std::byte* quants, int64_t r, int8_t* values) {
  const int low_bits = LowBits(bits);
  for (int64_t k = 0; k < kGroup; ++k) {
    int value = Field(low_bits, r, k).Get(quants);
    if (bits > low_bits) {
      value |= Field(bits - low_bits, r, k).Get(quants + low_bits * kLine) << low_bits;
    }
    values[k] = static_cast<int8_t>(value - offset);
  }
}

// What differs among the q layouts. kOffset is added to a quant before it is stored.
template <Encoding kEncodingValue, typename GroupsType, int kOffsetValue = 0>
struct QuantLayout {
  static constexpr Encoding kEncoding = kEncodingValue;
  using Groups = GroupsType;
  static constexpr int kOffset = kOffsetValue;
};

template <PanelLayout kLayout>
struct QuantLayoutOf;
template <>
struct QuantLayoutOf<PanelLayout::kQ8Signed> : QuantLayout<Encoding::kQ8_0, PairedGroups<8>> {};
template <>
struct QuantLayoutOf<PanelLayout::kQ8Offset> : QuantLayout<Encoding::kQ8_0, PairedGroups<8>, 128> {
};
template <>
struct QuantLayoutOf<PanelLayout::kQ3_0> : QuantLayout<Encoding::kQ3_0, PairedGroups<3>> {};
template <>
struct QuantLayoutOf<PanelLayout::kQ4_0> : QuantLayout<Encoding::kQ4_0, PairedGroups<4>> {};
template <>
struct QuantLayoutOf<PanelLayout::kQ5_0> : QuantLayout<Encoding::kQ5_0, PairedGroups<5>> {};
template <>
struct QuantLayoutOf<PanelLayout::kQ6_0> : QuantLayout<Encoding::kQ6_0, PairedGroups<6>> {};
template <>
struct QuantLayoutOf<PanelLayout::kQ3_1> : QuantLayout<Encoding::kQ3_1, SingleGroups<3>> {};
template <>
struct QuantLayoutOf<PanelLayout::kQ4_1> : QuantLayout<Encoding::kQ4_1, SingleGroups<4>> {};
template <>
struct QuantLayoutOf<PanelLayout::kQ5_1> : QuantLayout<Encoding::kQ5_1, SingleGroups<5>> {};
template <>
struct QuantLayoutOf<PanelLayout::kQ6_1> : QuantLayout<Encoding::kQ6_1, SingleGroups<6>> {};
template <>
struct QuantLayoutOf<PanelLayout::kQ3_1_64> : QuantLayout<Encoding::kQ3_1_64, JointGroups<3>> {};
template <>
struct QuantLayoutOf<PanelLayout::kQ4_1_64> : QuantLayout<Encoding::kQ4_1_64, JointGroups<4>> {};
template <>
struct QuantLayoutOf<PanelLayout::kQ5_1_64> : QuantLayout<Encoding::kQ5_1_64, JointGroups<5>> {};
template <>
struct QuantLayoutOf<PanelLayout::kQ6_1_64> : QuantLayout<Encoding::kQ6_1_64, JointGroups<6>> {};

template <PanelLayout kLayout>
void PackQuants(std::span<const SourceRow> rows, int64_t columns, std::byte* panel,
                std::byte* scratch) {
  using Layout = QuantLayoutOf<kLayout>;
  using Groups = typename Layout::Groups;
  constexpr Encoding kEncoding = Layout::kEncoding;
  constexpr int kLines = Groups::kMinimum ? 2 : 1;  // halves of a line: scales, minimums
  const int64_t groups = columns / kGroup;
  const int64_t block_values = FormatOf(kEncoding).group;
  const int64_t block_bytes = BlockRowBytes(kEncoding, block_values);
  auto* values = reinterpret_cast<float*>(scratch);
  // All other bytes are written below.
  if (!Groups::kMinimum && groups % 2 != 0) {
    std::memset(panel + Groups::At(groups - 1).scale, 0, kLine);
  }
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const SourceRow row = RowOrZeros(rows, r);
    const bool as_stored = row.data != nullptr && row.encoding == kEncoding;
    if (!as_stored) DecodeOrZeros(row, columns, values);
    for (int64_t k = 0; k < columns; k += block_values) {
      std::byte encoded[kMaxGroup + 4];
      if (!as_stored) EncodeRow(kEncoding, values + k, block_values, encoded);
      const std::byte* block = as_stored ? row.data + k / block_values * block_bytes : encoded;
      int8_t quants[kMaxGroup];
      ReadQuants(kEncoding, block, quants);
      for (int64_t i = 0; i < block_values; i += kGroup) {
        const GroupPlace place = Groups::At((k + i) / kGroup);
        for (int line = 0; line < kLines; ++line) {
          StoreU16(panel + place.scale + line * (kLine / 2) + 2 * r, LoadU16(block + 2 * line));
        }
        PutQuants<Groups::kBits, Layout::kOffset>(quants + i, r, panel + place.quants);
      }
    }
  }
}

template <PanelLayout kLayout>
void RestoreQuants(const std::byte* panel, int64_t r, int64_t columns, std::byte* out) {
  using Layout = QuantLayoutOf<kLayout>;
  using Groups = typename Layout::Groups;
  constexpr Encoding kEncoding = Layout::kEncoding;
  const int64_t block_values = FormatOf(kEncoding).group;
  for (int64_t k = 0; k < columns; k += block_values) {
    int8_t quants[kMaxGroup];
    const GroupPlace first = Groups::At(k / kGroup);
    Grid grid;
    grid.scale = HalfToFloat(LoadU16(panel + first.scale + 2 * r));
    if (Groups::kMinimum) {
      grid.minimum = HalfToFloat(LoadU16(panel + first.scale + kLine / 2 + 2 * r));
    }
    for (int64_t i = 0; i < block_values; i += kGroup) {
      GetQuants(Groups::kBits, Layout::kOffset, panel + Groups::At((k + i) / kGroup).quants, r,
                quants + i);
    }
    WriteBlock(kEncoding, grid, quants, out);
    out += BlockRowBytes(kEncoding, block_values);
  }
}

template <PanelLayout kLayout>
void UnpackQuants(const std::byte* weights, int64_t row, int64_t columns, float* out) {
  using Layout = QuantLayoutOf<kLayout>;
  using Groups = typename Layout::Groups;
  const int64_t groups = columns / kGroup;
  const int64_t r = row % kPanelRows;
  const std::byte* panel = weights + row / kPanelRows * Groups::PanelBytes(groups);
  for (int64_t g = 0; g < groups; ++g) {
    const GroupPlace place = Groups::At(g);
    Grid grid;
    grid.scale = HalfToFloat(LoadU16(panel + place.scale + 2 * r));
    if (Groups::kMinimum) {
      grid.minimum = HalfToFloat(LoadU16(panel + place.scale + kLine / 2 + 2 * r));
    }
    int8_t quants[kGroup];
    GetQuants(Groups::kBits, Layout::kOffset, panel + place.quants, r, quants);
    for (int64_t i = 0; i < kGroup; ++i) {
      out[g * kGroup + i] = Dequantize(Layout::kEncoding, grid, quants[i]);
    }
  }
}

}  // namespace

int64_t PackScratchBytes(int64_t columns) { return columns * static_cast<int64_t>(sizeof(float)); }

// ------------------------------------------------------------------------------------------- f32,
// f16, bf16

template <>
int64_t Packing<PanelLayout::kF32>::PanelBytes(int64_t columns) {
  return columns * kLine;
}
template <>
void Packing<PanelLayout::kF32>::PackPanel(std::span<const SourceRow> rows, int64_t columns,
                                           std::byte* panel, std::byte* scratch) {
  if (PackAsStored<uint32_t>(Encoding::kF32, rows, columns, panel)) return;
  auto* to = reinterpret_cast<float*>(panel);
  ForEachDecodedRow(rows, columns, scratch, [&](int64_t r, const float* values) {
    for (int64_t k = 0; k < columns; ++k) to[k * kPanelRows + r] = values[k];
  });
}
template <>
void Packing<PanelLayout::kF32>::RestoreRow(const std::byte* panel, int64_t row, int64_t columns,
                                            std::byte* out) {
  for (int64_t k = 0; k < columns; ++k) std::memcpy(out + 4 * k, panel + k * kLine + 4 * row, 4);
}
template <>
void Packing<PanelLayout::kF32>::UnpackRow(const std::byte* weights, int64_t row, int64_t columns,
                                           float* out) {
  const auto* from =
      reinterpret_cast<const float*>(weights + row / kPanelRows * PanelBytes(columns));
  for (int64_t k = 0; k < columns; ++k) out[k] = from[k * kPanelRows + row % kPanelRows];
}

template <>
int64_t Packing<PanelLayout::kF16>::PanelBytes(int64_t columns) {
  return (columns + 1) / 2 * kLine;
}
template <>
void Packing<PanelLayout::kF16>::PackPanel(std::span<const SourceRow> rows, int64_t columns,
                                           std::byte* panel, std::byte* scratch) {
  if (columns % 2 != 0) std::memset(panel + PanelBytes(columns) - kLine, 0, kLine);
  if (PackAsStored<uint16_t>(Encoding::kF16, rows, columns, panel)) return;
  auto* to = reinterpret_cast<uint16_t*>(panel);
  ForEachDecodedRow(rows, columns, scratch, [&](int64_t r, const float* values) {
    for (int64_t k = 0; k < columns; ++k) to[k * kPanelRows + r] = FloatToHalf(values[k]);
  });
}
template <>
void Packing<PanelLayout::kF16>::RestoreRow(const std::byte* panel, int64_t row, int64_t columns,
                                            std::byte* out) {
  for (int64_t k = 0; k < columns; ++k)
    StoreU16(out + 2 * k, LoadU16(panel + k * (kLine / 2) + 2 * row));
}
template <>
void Packing<PanelLayout::kF16>::UnpackRow(const std::byte* weights, int64_t row, int64_t columns,
                                           float* out) {
  const auto* from =
      reinterpret_cast<const uint16_t*>(weights + row / kPanelRows * PanelBytes(columns));
  for (int64_t k = 0; k < columns; ++k)
    out[k] = HalfToFloat(from[k * kPanelRows + row % kPanelRows]);
}

template <>
int64_t Packing<PanelLayout::kBF16>::PanelBytes(int64_t columns) {
  return (columns + 1) / 2 * kLine;
}
template <>
void Packing<PanelLayout::kBF16>::PackPanel(std::span<const SourceRow> rows, int64_t columns,
                                            std::byte* panel, std::byte* scratch) {
  auto* to = reinterpret_cast<uint16_t*>(panel);
  std::memset(panel, 0, static_cast<size_t>(PanelBytes(columns)));
  ForEachDecodedRow(rows, columns, scratch, [&](int64_t r, const float* values) {
    for (int64_t k = 0; k < columns; ++k) {
      to[k / 2 * 2 * kPanelRows + 2 * r + k % 2] = FloatToBFloat16(values[k]);
    }
  });
}
template <>
void Packing<PanelLayout::kBF16>::RestoreRow(const std::byte* panel, int64_t row, int64_t columns,
                                             std::byte* out) {
  for (int64_t k = 0; k < columns; ++k)
    StoreU16(out + 2 * k, LoadU16(panel + k / 2 * kLine + 4 * row + 2 * (k % 2)));
}
template <>
void Packing<PanelLayout::kBF16>::UnpackRow(const std::byte* weights, int64_t row, int64_t columns,
                                            float* out) {
  const auto* from =
      reinterpret_cast<const uint16_t*>(weights + row / kPanelRows * PanelBytes(columns));
  for (int64_t k = 0; k < columns; ++k) {
    out[k] = BFloat16ToFloat(from[k / 2 * 2 * kPanelRows + 2 * (row % kPanelRows) + k % 2]);
  }
}

template <>
int64_t Packing<PanelLayout::kBF16Pairs>::PanelBytes(int64_t columns) {
  return Packing<PanelLayout::kBF16>::PanelBytes(columns);
}
template <>
void Packing<PanelLayout::kBF16Pairs>::PackPanel(std::span<const SourceRow> rows, int64_t columns,
                                                 std::byte* panel, std::byte* scratch) {
  Packing<PanelLayout::kBF16>::PackPanel(rows, columns, panel, scratch);
  auto* words = reinterpret_cast<uint32_t*>(panel);
  const int64_t count = PanelBytes(columns) / static_cast<int64_t>(sizeof(uint32_t));
  for (int64_t i = 0; i < count; ++i) words[i] = std::rotl(words[i], 16);
}
template <>
void Packing<PanelLayout::kBF16Pairs>::RestoreRow(const std::byte* panel, int64_t row,
                                                  int64_t columns, std::byte* out) {
  for (int64_t k = 0; k < columns; ++k)
    StoreU16(out + 2 * k, LoadU16(panel + k / 2 * kLine + 4 * row + 2 * (1 - k % 2)));
}
template <>
void Packing<PanelLayout::kBF16Pairs>::UnpackRow(const std::byte* weights, int64_t row,
                                                 int64_t columns, float* out) {
  const std::byte* panel = weights + row / kPanelRows * PanelBytes(columns);
  for (int64_t k = 0; k < columns; ++k) {
    out[k] =
        BFloat16ToFloat(LoadU16(panel + k / 2 * kLine + 4 * (row % kPanelRows) + 2 * (1 - k % 2)));
  }
}

// ------------------------------------------------------------------------------------------- q

template <PanelLayout kLayout>
int64_t Packing<kLayout>::PanelBytes(int64_t columns) {
  return QuantLayoutOf<kLayout>::Groups::PanelBytes(columns / kGroup);
}
template <PanelLayout kLayout>
void Packing<kLayout>::PackPanel(std::span<const SourceRow> rows, int64_t columns, std::byte* panel,
                                 std::byte* scratch) {
  PackQuants<kLayout>(rows, columns, panel, scratch);
}
template <PanelLayout kLayout>
void Packing<kLayout>::UnpackRow(const std::byte* weights, int64_t row, int64_t columns,
                                 float* out) {
  UnpackQuants<kLayout>(weights, row, columns, out);
}

template <PanelLayout kLayout>
void Packing<kLayout>::RestoreRow(const std::byte* panel, int64_t row, int64_t columns,
                                  std::byte* out) {
  RestoreQuants<kLayout>(panel, row, columns, out);
}

template struct Packing<PanelLayout::kQ8Signed>;
template struct Packing<PanelLayout::kQ8Offset>;
template struct Packing<PanelLayout::kQ4_0>;
template struct Packing<PanelLayout::kQ4_1>;
template struct Packing<PanelLayout::kQ3_0>;
template struct Packing<PanelLayout::kQ3_1>;
template struct Packing<PanelLayout::kQ5_0>;
template struct Packing<PanelLayout::kQ5_1>;
template struct Packing<PanelLayout::kQ6_0>;
template struct Packing<PanelLayout::kQ6_1>;
template struct Packing<PanelLayout::kQ3_1_64>;
template struct Packing<PanelLayout::kQ4_1_64>;
template struct Packing<PanelLayout::kQ5_1_64>;
template struct Packing<PanelLayout::kQ6_1_64>;

}  // namespace llmir::kernels
