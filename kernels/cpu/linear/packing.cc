#include "kernels/cpu/linear/packing.h"

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

// A group of 32 values: its grid and their places on it.
struct Group {
  Grid grid;
  int8_t quants[kGroup] = {};
};

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

// -------------------------------------------------------------------------------------------
// placing quants

void PutQ8(std::byte* quants, int64_t r, const Group& group, int offset) {
  for (int64_t k = 0; k < kGroup; ++k) {
    quants[k / 4 * kLine + r * 4 + k % 4] =
        static_cast<std::byte>(static_cast<uint8_t>(group.quants[k] + offset));
  }
}

void GetQ8(const std::byte* quants, int64_t r, int offset, Group* group) {
  for (int64_t k = 0; k < kGroup; ++k) {
    const auto value = std::to_integer<uint8_t>(quants[k / 4 * kLine + r * 4 + k % 4]);
    group->quants[k] = static_cast<int8_t>(static_cast<uint8_t>(value - offset));
  }
}

void PutQ4(std::byte* quants, int64_t r, const Group& group) {
  for (int64_t o = 0; o < kGroup / 8; ++o) {
    for (int64_t j = 0; j < 4; ++j) {
      const int low = group.quants[8 * o + j];
      const int high = group.quants[8 * o + 4 + j];
      quants[o * kLine + r * 4 + j] = static_cast<std::byte>(low | high << 4);
    }
  }
}

void GetQ4(const std::byte* quants, int64_t r, Group* group) {
  for (int64_t o = 0; o < kGroup / 8; ++o) {
    for (int64_t j = 0; j < 4; ++j) {
      const auto pair = std::to_integer<uint8_t>(quants[o * kLine + r * 4 + j]);
      group->quants[8 * o + j] = static_cast<int8_t>(pair & 15);
      group->quants[8 * o + 4 + j] = static_cast<int8_t>(pair >> 4);
    }
  }
}

// What differs among the q layouts.
template <PanelLayout kLayout>
struct QuantLayout;

template <>
struct QuantLayout<PanelLayout::kQ8Signed> {
  using Groups = Q8Groups;
  static constexpr Encoding kEncoding = Encoding::kQ8_0;
  static void Put(std::byte* quants, int64_t r, const Group& group) { PutQ8(quants, r, group, 0); }
  static void Get(const std::byte* quants, int64_t r, Group* group) { GetQ8(quants, r, 0, group); }
};

template <>
struct QuantLayout<PanelLayout::kQ8Offset> {
  using Groups = Q8Groups;
  static constexpr Encoding kEncoding = Encoding::kQ8_0;
  static void Put(std::byte* quants, int64_t r, const Group& group) {
    PutQ8(quants, r, group, 128);
  }
  static void Get(const std::byte* quants, int64_t r, Group* group) {
    GetQ8(quants, r, 128, group);
  }
};

template <>
struct QuantLayout<PanelLayout::kQ4_0> {
  using Groups = Q4_0Groups;
  static constexpr Encoding kEncoding = Encoding::kQ4_0;
  static void Put(std::byte* quants, int64_t r, const Group& group) { PutQ4(quants, r, group); }
  static void Get(const std::byte* quants, int64_t r, Group* group) { GetQ4(quants, r, group); }
};

template <>
struct QuantLayout<PanelLayout::kQ4_1> {
  using Groups = Q4_1Groups;
  static constexpr Encoding kEncoding = Encoding::kQ4_1;
  static void Put(std::byte* quants, int64_t r, const Group& group) { PutQ4(quants, r, group); }
  static void Get(const std::byte* quants, int64_t r, Group* group) { GetQ4(quants, r, group); }
};

template <PanelLayout kLayout>
void PackQuants(std::span<const SourceRow> rows, int64_t columns, std::byte* panel,
                std::byte* scratch) {
  using Layout = QuantLayout<kLayout>;
  constexpr Encoding kEncoding = Layout::kEncoding;
  const int64_t block_bytes = BlockRowBytes(kEncoding, kGroup);
  const int64_t groups = columns / kGroup;
  auto* values = reinterpret_cast<float*>(scratch);
  std::memset(panel, 0, static_cast<size_t>(Layout::Groups::PanelBytes(groups)));
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const SourceRow row = RowOrZeros(rows, r);
    const bool as_stored = row.data != nullptr && row.encoding == kEncoding;
    if (!as_stored) DecodeOrZeros(row, columns, values);
    for (int64_t g = 0; g < groups; ++g) {
      std::byte block[kGroup + 4];
      if (!as_stored) EncodeRow(kEncoding, values + g * kGroup, kGroup, block);
      Group group;
      group.grid =
          ReadBlock(kEncoding, as_stored ? row.data + g * block_bytes : block, group.quants);
      const GroupPlace place = Layout::Groups::At(g);
      StoreU16(panel + place.scale + 2 * r, FloatToHalf(group.grid.scale));
      if (kEncoding == Encoding::kQ4_1) {
        StoreU16(panel + place.scale + kLine / 2 + 2 * r, FloatToHalf(group.grid.minimum));
      }
      Layout::Put(panel + place.quants, r, group);
    }
  }
}

template <PanelLayout kLayout>
void UnpackQuants(const std::byte* weights, int64_t row, int64_t columns, float* out) {
  using Layout = QuantLayout<kLayout>;
  constexpr Encoding kEncoding = Layout::kEncoding;
  const int64_t groups = columns / kGroup;
  const int64_t r = row % kPanelRows;
  const std::byte* panel = weights + row / kPanelRows * Layout::Groups::PanelBytes(groups);
  for (int64_t g = 0; g < groups; ++g) {
    const GroupPlace place = Layout::Groups::At(g);
    Group group;
    group.grid.scale = HalfToFloat(LoadU16(panel + place.scale + 2 * r));
    if (kEncoding == Encoding::kQ4_1)
      group.grid.minimum = HalfToFloat(LoadU16(panel + place.scale + kLine / 2 + 2 * r));
    Layout::Get(panel + place.quants, r, &group);
    for (int64_t i = 0; i < kGroup; ++i) {
      out[g * kGroup + i] = Dequantize(kEncoding, group.grid, group.quants[i]);
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
  auto* to = reinterpret_cast<float*>(panel);
  ForEachDecodedRow(rows, columns, scratch, [&](int64_t r, const float* values) {
    for (int64_t k = 0; k < columns; ++k) to[k * kPanelRows + r] = values[k];
  });
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
  auto* to = reinterpret_cast<uint16_t*>(panel);
  std::memset(panel, 0, static_cast<size_t>(PanelBytes(columns)));
  ForEachDecodedRow(rows, columns, scratch, [&](int64_t r, const float* values) {
    for (int64_t k = 0; k < columns; ++k) to[k * kPanelRows + r] = FloatToHalf(values[k]);
  });
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
void Packing<PanelLayout::kBF16>::UnpackRow(const std::byte* weights, int64_t row, int64_t columns,
                                            float* out) {
  const auto* from =
      reinterpret_cast<const uint16_t*>(weights + row / kPanelRows * PanelBytes(columns));
  for (int64_t k = 0; k < columns; ++k) {
    out[k] = BFloat16ToFloat(from[k / 2 * 2 * kPanelRows + 2 * (row % kPanelRows) + k % 2]);
  }
}

// ------------------------------------------------------------------------------------------- q8_0,
// q4_0, q4_1

template <PanelLayout kLayout>
int64_t Packing<kLayout>::PanelBytes(int64_t columns) {
  return QuantLayout<kLayout>::Groups::PanelBytes(columns / kGroup);
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

template struct Packing<PanelLayout::kQ8Signed>;
template struct Packing<PanelLayout::kQ8Offset>;
template struct Packing<PanelLayout::kQ4_0>;
template struct Packing<PanelLayout::kQ4_1>;

}  // namespace llmir::kernels
