#include "kernels/cpu/linear/packing.h"

#include <cmath>
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
// groups of 32 quants

// A group of 32 values in any of the block formats: value = scale * (quant - zero) + minimum.
struct Group {
  uint16_t scale = 0;  // f16 bits
  uint16_t minimum = 0;
  int8_t quants[kGroup] = {};
};

// Bytes of a block in a checkpoint; 0: not a block format.
int64_t BlockBytes(Encoding encoding) {
  switch (encoding) {
    case Encoding::kQ8_0:
      return 2 + 32;
    case Encoding::kQ4_0:
      return 2 + 16;
    case Encoding::kQ4_1:
      return 4 + 16;
    case Encoding::kF32:
    case Encoding::kF16:
    case Encoding::kBF16:
      return 0;
  }
  return 0;
}

Group ReadBlock(Encoding encoding, const std::byte* block) {
  Group group;
  group.scale = LoadU16(block);
  if (encoding == Encoding::kQ8_0) {
    std::memcpy(group.quants, block + 2, kGroup);
    return group;
  }
  const std::byte* quants = block + 2;
  if (encoding == Encoding::kQ4_1) {
    group.minimum = LoadU16(quants);
    quants += 2;
  }
  for (int64_t i = 0; i < kGroup / 2; ++i) {
    const auto pair = std::to_integer<uint8_t>(quants[i]);
    group.quants[i] = static_cast<int8_t>(pair & 15);
    group.quants[i + kGroup / 2] = static_cast<int8_t>(pair >> 4);
  }
  return group;
}

void DecodeGroup(Encoding encoding, const Group& group, float* out) {
  const float scale = HalfToFloat(group.scale);
  const float minimum = HalfToFloat(group.minimum);
  const int zero = encoding == Encoding::kQ4_0 ? 8 : 0;
  for (int64_t i = 0; i < kGroup; ++i) {
    const float product = scale * static_cast<float>(group.quants[i] - zero);
    out[i] = encoding == Encoding::kQ4_1 ? product + minimum : product;
  }
}

// Nearest integer within [low, high]; NaN gives low.
int8_t RoundTo(float value, float low, float high) {
  if (!(value > low)) return static_cast<int8_t>(low);
  return static_cast<int8_t>(std::nearbyint(value < high ? value : high));
}

// Quants are chosen for the scale as stored (rounded to f16), so that the error is that of one
// rounding.
Group EncodeGroup(Encoding encoding, const float* values) {
  float low = values[0];
  float high = values[0];
  for (int64_t i = 1; i < kGroup; ++i) {
    if (values[i] < low) low = values[i];
    if (values[i] > high) high = values[i];
  }
  Group group;
  float offset = 0.0f;
  float first = 0.0f;
  float last = 15.0f;
  if (encoding == Encoding::kQ8_0) {
    group.scale = FloatToHalf((high > -low ? high : -low) / 127.0f);
    first = -127.0f;
    last = 127.0f;
  } else if (encoding == Encoding::kQ4_0) {
    // The value of the largest magnitude falls on -8, the end of the range that has one more step.
    group.scale = FloatToHalf((high > -low ? high : low) / -8.0f);
    offset = 8.0f;
  } else {
    group.scale = FloatToHalf((high - low) / 15.0f);
    group.minimum = FloatToHalf(low);
  }
  const float scale = HalfToFloat(group.scale);
  const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
  const float minimum = HalfToFloat(group.minimum);
  for (int64_t i = 0; i < kGroup; ++i) {
    group.quants[i] = RoundTo((values[i] - minimum) * inverse + offset, first, last);
  }
  return group;
}

// -------------------------------------------------------------------------------------------
// source rows

// `columns` values of a row as floats.
void DecodeRow(const SourceRow& row, int64_t columns, float* out) {
  if (row.data == nullptr) {
    std::memset(out, 0, static_cast<size_t>(columns) * sizeof(float));
    return;
  }
  switch (row.encoding) {
    case Encoding::kF32:
      std::memcpy(out, row.data, static_cast<size_t>(columns) * sizeof(float));
      return;
    case Encoding::kF16:
      for (int64_t k = 0; k < columns; ++k) out[k] = HalfToFloat(LoadU16(row.data + 2 * k));
      return;
    case Encoding::kBF16:
      for (int64_t k = 0; k < columns; ++k) out[k] = BFloat16ToFloat(LoadU16(row.data + 2 * k));
      return;
    case Encoding::kQ8_0:
    case Encoding::kQ4_0:
    case Encoding::kQ4_1:
      for (int64_t g = 0; g < columns / kGroup; ++g) {
        const std::byte* block = row.data + g * BlockBytes(row.encoding);
        DecodeGroup(row.encoding, ReadBlock(row.encoding, block), out + g * kGroup);
      }
      return;
  }
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
    DecodeRow(RowOrZeros(rows, r), columns, values);
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
  const int64_t groups = columns / kGroup;
  auto* values = reinterpret_cast<float*>(scratch);
  std::memset(panel, 0, static_cast<size_t>(Layout::Groups::PanelBytes(groups)));
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const SourceRow row = RowOrZeros(rows, r);
    const bool as_stored = row.data != nullptr && row.encoding == kEncoding;
    if (!as_stored) DecodeRow(row, columns, values);
    for (int64_t g = 0; g < groups; ++g) {
      const Group group = as_stored ? ReadBlock(kEncoding, row.data + g * BlockBytes(kEncoding))
                                    : EncodeGroup(kEncoding, values + g * kGroup);
      const GroupPlace place = Layout::Groups::At(g);
      StoreU16(panel + place.scale + 2 * r, group.scale);
      if (kEncoding == Encoding::kQ4_1) {
        StoreU16(panel + place.scale + kLine / 2 + 2 * r, group.minimum);
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
    group.scale = LoadU16(panel + place.scale + 2 * r);
    if (kEncoding == Encoding::kQ4_1)
      group.minimum = LoadU16(panel + place.scale + kLine / 2 + 2 * r);
    Layout::Get(panel + place.quants, r, &group);
    DecodeGroup(kEncoding, group, out + g * kGroup);
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
