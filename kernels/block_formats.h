// How a checkpoint stores a row of a matrix, and the block formats: groups of 32 or 64 values along
// the row that share a scale, and in the _1 formats a minimum.
//
//   _0: value = scale * (q - 2^(bits - 1)), q8_0: value = scale * q with q signed
//   _1: value = scale * q + minimum
//
// Bytes of a block: [f16 scale][f16 minimum, _1 only][high bits][low bits], little endian, as GGUF
// has q4_0, q4_1, q5_0, q5_1 and q8_0; q3 and q6 follow the same rule. The low bits of a value are
// 4 (q4, q5, q6), 2 (q3) or 8 (q8); its high bits what is left: 1 (q3, q5), 2 (q6) or none.
//   one bit a value:  byte i / 8, bit i % 8 holds value i
//   w = 2, 4, 8 bits: of n values, byte i holds values i, i + m, i + 2m, ... from its lowest bits
//   upwards, m = n * w / 8 being the bytes of all
//
// Pure functions, any thread. Rows in a block format have a multiple of the group's values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace llmir::kernels {

enum class Encoding : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ3_0,
  kQ3_1,
  kQ5_0,
  kQ5_1,
  kQ6_0,
  kQ6_1,
  // A scale and a minimum per 64 values.
  kQ3_1_64,
  kQ4_1_64,
  kQ5_1_64,
  kQ6_1_64,
};
inline constexpr int kEncodingCount = 16;

struct Format {
  const char* name;  // as in plans: "q5_1"
  int bits;          // of a value
  int group;         // values that share a scale; 0: not a block format
  bool minimum;      // has a minimum, else a middle: 2^(bits - 1), 0 for q8_0
};
const Format& FormatOf(Encoding encoding);
// By name, "q5_1"; none: unknown.
std::optional<Encoding> FindEncoding(std::string_view name);
inline constexpr int kMaxGroup = 64;

// Bytes of a row of `columns` values.
int64_t BlockRowBytes(Encoding encoding, int64_t columns);
// To the nearest, and back to float. All encodings; `row` need not be aligned.
void EncodeRow(Encoding encoding, const float* values, int64_t columns, std::byte* row);
void DecodeRow(Encoding encoding, const std::byte* row, int64_t columns, float* values);

// ------------------------------------------------------------------------------------------- the
// pieces of it, block formats only: for quantizers that choose grids or quants by other means

// What the values of a group can be. Both are values of f16, as they will be stored; `minimum` is 0
// in formats without one.
struct Grid {
  float scale = 0.0f;
  float minimum = 0.0f;
};
// The nearest grid that can be stored.
Grid RoundGrid(Encoding encoding, float scale, float minimum);
// The grid that spans the group's values: from the least to the greatest (_1), or with the value of
// the largest magnitude on the end (_0; on the one with one more step, -2^(bits - 1)). Of the
// range, the parts above and below zero are `shrink` of what they would be; values beyond are
// clipped.
Grid ChooseGrid(Encoding encoding, const float* values, float shrink = 1.0f);
// The number of the grid's point that is nearest to `value`: 0 ... 2^bits - 1; q8_0: -127 ... 127.
int8_t Quantize(Encoding encoding, const Grid& grid, float value);
float Dequantize(Encoding encoding, const Grid& grid, int8_t quant);
// A block of `group` quants.
void WriteBlock(Encoding encoding, const Grid& grid, const int8_t* quants, std::byte* block);
Grid ReadBlock(Encoding encoding, const std::byte* block, int8_t* quants);
// Its quants alone.
void ReadQuants(Encoding encoding, const std::byte* block, int8_t* quants);

}  // namespace llmir::kernels
