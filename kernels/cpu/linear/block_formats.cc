#include "kernels/block_formats.h"

#include <cmath>
#include <cstring>

#include "kernels/cpu/linear/half.h"
#include "kernels/cpu/linear/panel_layouts.h"

namespace llmir::kernels {
namespace {

constexpr Format kFormats[kEncodingCount] = {
    {"f32", 32, 0, false},    {"f16", 16, 0, false},    {"bf16", 16, 0, false},
    {"q8_0", 8, 32, false},   {"q4_0", 4, 32, false},   {"q4_1", 4, 32, true},
    {"q3_0", 3, 32, false},   {"q3_1", 3, 32, true},    {"q5_0", 5, 32, false},
    {"q5_1", 5, 32, true},    {"q6_0", 6, 32, false},   {"q6_1", 6, 32, true},
    {"q3_1_64", 3, 64, true}, {"q4_1_64", 4, 64, true}, {"q5_1_64", 5, 64, true},
    {"q6_1_64", 6, 64, true},
};

uint16_t LoadU16(const std::byte* from) {
  uint16_t value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

void StoreU16(std::byte* to, uint16_t value) { std::memcpy(to, &value, sizeof value); }

// Calls visit(byte, shift, i) for the field of each value i of a plane.
template <typename Visit>
void ForEachField(int count, int width, Visit visit) {
  const int bytes = count * width / 8;
  if (width == 1) {
    for (int i = 0; i < count; ++i) visit(i / 8, i % 8, i);
    return;
  }
  for (int shift = 0, i = 0; shift < 8; shift += width) {
    for (int byte = 0; byte < bytes; ++byte, ++i) visit(byte, shift, i);
  }
}

// What is subtracted from a quant.
int Middle(const Format& format) {
  return format.minimum || format.bits == 8 ? 0 : 1 << (format.bits - 1);
}

float LeastQuant(const Format& format) { return format.bits == 8 ? -127.0f : 0.0f; }
float GreatestQuant(const Format& format) {
  return format.bits == 8 ? 127.0f : static_cast<float>((1 << format.bits) - 1);
}

int64_t BlockBytes(const Format& format) {
  return (format.minimum ? 4 : 2) + format.group * format.bits / 8;
}

// Maps values to quants of a grid; NaN gives the least.
class Rounding {
 public:
  Rounding(const Format& format, const Grid& grid)
      : inverse_(grid.scale != 0.0f ? 1.0f / grid.scale : 0.0f),
        minimum_(grid.minimum),
        middle_(static_cast<float>(Middle(format))),
        least_(LeastQuant(format)),
        greatest_(GreatestQuant(format)) {}
  int8_t operator()(float value) const {
    const float quant = (value - minimum_) * inverse_ + middle_;
    if (!(quant > least_)) return static_cast<int8_t>(least_);
    return static_cast<int8_t>(std::nearbyint(quant < greatest_ ? quant : greatest_));
  }

 private:
  float inverse_;
  float minimum_;
  float middle_;
  float least_;
  float greatest_;
};

}  // namespace

const Format& FormatOf(Encoding encoding) { return kFormats[static_cast<int>(encoding)]; }

std::optional<Encoding> FindEncoding(std::string_view name) {
  for (int i = 0; i < kEncodingCount; ++i) {
    if (kFormats[i].name == name) return static_cast<Encoding>(i);
  }
  return std::nullopt;
}

int64_t BlockRowBytes(Encoding encoding, int64_t columns) {
  const Format& format = FormatOf(encoding);
  if (format.group == 0) return columns * format.bits / 8;
  return columns / format.group * BlockBytes(format);
}

void EncodeRow(Encoding encoding, const float* values, int64_t columns, std::byte* row) {
  if (encoding == Encoding::kF32) {
    std::memcpy(row, values, static_cast<size_t>(columns) * sizeof(float));
  } else if (encoding == Encoding::kF16) {
    for (int64_t k = 0; k < columns; ++k) StoreU16(row + 2 * k, FloatToHalf(values[k]));
  } else if (encoding == Encoding::kBF16) {
    for (int64_t k = 0; k < columns; ++k) StoreU16(row + 2 * k, FloatToBFloat16(values[k]));
  } else {
    const Format& format = FormatOf(encoding);
    for (int64_t k = 0; k < columns; k += format.group, row += BlockBytes(format)) {
      // Quants are chosen for the grid as stored, so that the error is that of one rounding.
      const Grid grid = ChooseGrid(encoding, values + k);
      const Rounding round(format, grid);
      int8_t quants[kMaxGroup];
      for (int i = 0; i < format.group; ++i) quants[i] = round(values[k + i]);
      WriteBlock(encoding, grid, quants, row);
    }
  }
}

void DecodeRow(Encoding encoding, const std::byte* row, int64_t columns, float* values) {
  if (encoding == Encoding::kF32) {
    std::memcpy(values, row, static_cast<size_t>(columns) * sizeof(float));
  } else if (encoding == Encoding::kF16) {
    for (int64_t k = 0; k < columns; ++k) values[k] = HalfToFloat(LoadU16(row + 2 * k));
  } else if (encoding == Encoding::kBF16) {
    for (int64_t k = 0; k < columns; ++k) values[k] = BFloat16ToFloat(LoadU16(row + 2 * k));
  } else {
    const Format& format = FormatOf(encoding);
    for (int64_t k = 0; k < columns; k += format.group, row += BlockBytes(format)) {
      int8_t quants[kMaxGroup];
      const Grid grid = ReadBlock(encoding, row, quants);
      for (int i = 0; i < format.group; ++i) {
        values[k + i] = Dequantize(encoding, grid, quants[i]);
      }
    }
  }
}

Grid RoundGrid(Encoding encoding, float scale, float minimum) {
  Grid grid;
  grid.scale = HalfToFloat(FloatToHalf(scale));
  if (FormatOf(encoding).minimum) grid.minimum = HalfToFloat(FloatToHalf(minimum));
  return grid;
}

Grid ChooseGrid(Encoding encoding, const float* values, float shrink) {
  const Format& format = FormatOf(encoding);
  float low = values[0];
  float high = values[0];
  for (int i = 1; i < format.group; ++i) {
    if (values[i] < low) low = values[i];
    if (values[i] > high) high = values[i];
  }
  if (low < 0.0f) low = low * shrink < high ? low * shrink : high;
  if (high > 0.0f) high = high * shrink > low ? high * shrink : low;
  if (format.minimum) return RoundGrid(encoding, (high - low) / GreatestQuant(format), low);
  if (format.bits == 8) return RoundGrid(encoding, (high > -low ? high : -low) / 127.0f, 0.0f);
  const auto middle = static_cast<float>(Middle(format));
  return RoundGrid(encoding, (high > -low ? high : low) / -middle, 0.0f);
}

int8_t Quantize(Encoding encoding, const Grid& grid, float value) {
  return Rounding(FormatOf(encoding), grid)(value);
}

float Dequantize(Encoding encoding, const Grid& grid, int8_t quant) {
  const Format& format = FormatOf(encoding);
  const float product = grid.scale * static_cast<float>(quant - Middle(format));
  return format.minimum ? product + grid.minimum : product;
}

void WriteBlock(Encoding encoding, const Grid& grid, const int8_t* quants, std::byte* block) {
  const Format& format = FormatOf(encoding);
  std::memset(block, 0, static_cast<size_t>(BlockBytes(format)));
  StoreU16(block, FloatToHalf(grid.scale));
  block += 2;
  if (format.minimum) {
    StoreU16(block, FloatToHalf(grid.minimum));
    block += 2;
  }
  const int low_bits = LowBits(format.bits);
  const int high_bits = format.bits - low_bits;
  if (high_bits != 0) {
    ForEachField(format.group, high_bits, [&](int byte, int shift, int i) {
      block[byte] |= static_cast<std::byte>(quants[i] >> low_bits << shift);
    });
    block += format.group * high_bits / 8;
  }
  ForEachField(format.group, low_bits, [&](int byte, int shift, int i) {
    block[byte] |= static_cast<std::byte>((quants[i] & ((1 << low_bits) - 1)) << shift);
  });
}

Grid ReadBlock(Encoding encoding, const std::byte* block, int8_t* quants) {
  Grid grid;
  grid.scale = HalfToFloat(LoadU16(block));
  if (FormatOf(encoding).minimum) grid.minimum = HalfToFloat(LoadU16(block + 2));
  ReadQuants(encoding, block, quants);
  return grid;
}

void ReadQuants(Encoding encoding, const std::byte* block, int8_t* quants) {
  const Format& format = FormatOf(encoding);
  block += format.minimum ? 4 : 2;
  const int low_bits = LowBits(format.bits);
  const int high_bits = format.bits - low_bits;
  const std::byte* low = block + format.group * high_bits / 8;
  // With the width known, a plane is a few vector operations: this is most of packing's time.
  const auto read_low = [&]<int kWidth>() {
    ForEachField(format.group == 32 ? 32 : 64, kWidth, [&](int byte, int shift, int i) {
      quants[i] =
          static_cast<int8_t>(std::to_integer<int>(low[byte]) >> shift & ((1 << kWidth) - 1));
    });
  };
  if (low_bits == 8) {
    std::memcpy(quants, low, static_cast<size_t>(format.group));
  } else if (low_bits == 4) {
    read_low.template operator()<4>();
  } else {
    read_low.template operator()<2>();
  }
  if (high_bits != 0) {
    ForEachField(format.group, high_bits, [&](int byte, int shift, int i) {
      const int high = std::to_integer<int>(block[byte]) >> shift & ((1 << high_bits) - 1);
      quants[i] = static_cast<int8_t>(quants[i] | high << low_bits);
    });
  }
}

}  // namespace llmir::kernels
