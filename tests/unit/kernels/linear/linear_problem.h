// Matrices, activations and runs for the tests of linear kernels, and references that share no code
// with the kernels.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/activations.h"
#include "kernels/linear.h"
#include "kernels/linear_share.h"

namespace llmir::kernels {

// The kernels that this machine can run.
inline std::vector<const LinearKernel*> AvailableKernels() {
  std::vector<const LinearKernel*> kernels;
  for (const LinearKernel& kernel : LinearKernels()) {
    if (IsaAvailable(kernel.isa)) kernels.push_back(&kernel);
  }
  return kernels;
}

inline double HalfValue(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return fraction != 0 ? std::nan("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

struct BlockShape {
  const char* name;
  int bits;
  int group;  // 0: not a block format
  bool minimum;
};

inline BlockShape ShapeOf(Encoding encoding) {
  switch (encoding) {
    case Encoding::kF32:
      return {"f32", 32, 0, false};
    case Encoding::kF16:
      return {"f16", 16, 0, false};
    case Encoding::kBF16:
      return {"bf16", 16, 0, false};
    case Encoding::kQ8_0:
      return {"q8_0", 8, 32, false};
    case Encoding::kQ4_0:
      return {"q4_0", 4, 32, false};
    case Encoding::kQ4_1:
      return {"q4_1", 4, 32, true};
    case Encoding::kQ3_0:
      return {"q3_0", 3, 32, false};
    case Encoding::kQ3_1:
      return {"q3_1", 3, 32, true};
    case Encoding::kQ5_0:
      return {"q5_0", 5, 32, false};
    case Encoding::kQ5_1:
      return {"q5_1", 5, 32, true};
    case Encoding::kQ6_0:
      return {"q6_0", 6, 32, false};
    case Encoding::kQ6_1:
      return {"q6_1", 6, 32, true};
    case Encoding::kQ3_1_64:
      return {"q3_1_64", 3, 64, true};
    case Encoding::kQ4_1_64:
      return {"q4_1_64", 4, 64, true};
    case Encoding::kQ5_1_64:
      return {"q5_1_64", 5, 64, true};
    case Encoding::kQ6_1_64:
      return {"q6_1_64", 6, 64, true};
  }
  return {};
}

inline int64_t RowBytes(Encoding encoding, int64_t columns) {
  const BlockShape shape = ShapeOf(encoding);
  if (shape.group == 0) return columns * shape.bits / 8;
  return columns / shape.group * (shape.group * shape.bits / 8 + (shape.minimum ? 4 : 2));
}

inline bool IsBlockFormat(Encoding encoding) { return ShapeOf(encoding).group != 0; }

inline std::string EncodingName(Encoding encoding) { return ShapeOf(encoding).name; }

// Value i of a block without scale and minimum (kernels/block_formats.h), a middle subtracted.
inline int QuantOf(Encoding encoding, const std::byte* block, int i) {
  const BlockShape shape = ShapeOf(encoding);
  const int n = shape.group;
  const auto byte = [&](int at) {
    return std::to_integer<int>(block[(shape.minimum ? 4 : 2) + at]);
  };
  const auto two_bits = [&](int start) { return byte(start + i % (n / 4)) >> i / (n / 4) * 2 & 3; };
  const auto four_bits = [&](int start) {
    return byte(start + i % (n / 2)) >> i / (n / 2) * 4 & 15;
  };
  int q = 0;
  if (shape.bits == 8) return static_cast<int8_t>(byte(i));
  if (shape.bits == 3) q = two_bits(n / 8) | (byte(i / 8) >> i % 8 & 1) << 2;
  if (shape.bits == 4) q = four_bits(0);
  if (shape.bits == 5) q = four_bits(n / 8) | (byte(i / 8) >> i % 8 & 1) << 4;
  if (shape.bits == 6) q = four_bits(n / 4) | two_bits(0) << 4;
  return shape.minimum ? q : q - (1 << (shape.bits - 1));
}

inline std::vector<Encoding> AllEncodings() {
  std::vector<Encoding> encodings;
  for (int i = 0; i < kEncodingCount; ++i) encodings.push_back(static_cast<Encoding>(i));
  return encodings;
}

// 64-byte aligned bytes.
class AlignedBytes {
 public:
  explicit AlignedBytes(int64_t bytes)
      : storage_(static_cast<size_t>(bytes) + 64), size_(static_cast<size_t>(bytes)) {
    void* start = storage_.data();
    size_t space = storage_.size();
    data_ = static_cast<std::byte*>(std::align(64, size_, start, space));
  }
  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::vector<std::byte> storage_;
  size_t size_;
  std::byte* data_;
};

// A matrix as a checkpoint would hold it, with the exact value of each element.
struct Matrix {
  Matrix(Encoding encoding, int64_t rows, int64_t columns, std::mt19937& random)
      : encoding(encoding), rows(rows), columns(columns), row_bytes(RowBytes(encoding, columns)) {
    bytes.resize(static_cast<size_t>(rows * row_bytes));
    values.resize(static_cast<size_t>(rows * columns));
    std::normal_distribution<float> normal(0.0f, 0.5f);
    std::uniform_int_distribution<int> byte(0, 255);
    for (int64_t r = 0; r < rows; ++r) {
      std::byte* row = bytes.data() + r * row_bytes;
      double* value = values.data() + r * columns;
      if (encoding == Encoding::kF32) {
        for (int64_t k = 0; k < columns; ++k) {
          const float x = normal(random);
          std::memcpy(row + 4 * k, &x, 4);
          value[k] = x;
        }
      } else if (!IsBlockFormat(encoding)) {
        for (int64_t k = 0; k < columns; ++k) {
          const float x = normal(random);
          auto bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16);
          value[k] = std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
          if (encoding == Encoding::kF16) {
            bits = RandomHalf(random);
            value[k] = HalfValue(bits);
          }
          std::memcpy(row + 2 * k, &bits, 2);
        }
      } else {
        const BlockShape shape = ShapeOf(encoding);
        const int64_t block_bytes = RowBytes(encoding, shape.group);
        for (int64_t k = 0; k < columns; k += shape.group) {
          std::byte* block = row + k / shape.group * block_bytes;
          for (int64_t i = 0; i < block_bytes; ++i) block[i] = static_cast<std::byte>(byte(random));
          const uint16_t scale = RandomHalf(random);
          std::memcpy(block, &scale, 2);
          double minimum = 0;
          if (shape.minimum) {
            const uint16_t bits = RandomHalf(random);
            std::memcpy(block + 2, &bits, 2);
            minimum = HalfValue(bits);
          }
          for (int i = 0; i < shape.group; ++i) {
            value[k + i] = HalfValue(scale) * QuantOf(encoding, block, i) + minimum;
          }
        }
      }
    }
  }

  SourceRow Row(int64_t r) const { return {encoding, bytes.data() + r * row_bytes}; }

  // Halves of either sign from 2^-15 (subnormal) to 2.
  static uint16_t RandomHalf(std::mt19937& random) {
    std::uniform_int_distribution<int> magnitude(0x0200, 0x3fff);
    return static_cast<uint16_t>(magnitude(random) | (random() & 1) << 15);
  }

  Encoding encoding;
  int64_t rows;
  int64_t columns;
  int64_t row_bytes;
  std::vector<std::byte> bytes;
  std::vector<double> values;
};

// Rows of floats, and the same as int8 rows (kernels/activations.h).
struct Activations {
  Activations(int64_t tokens, int64_t columns, std::mt19937& random)
      : tokens(tokens),
        columns(columns),
        float_stride((columns * 4 + 63) / 64 * 64),
        q8_stride((Q8RowBytes(columns) + 63) / 64 * 64),
        floats(tokens * float_stride),
        q8(tokens * q8_stride) {
    std::normal_distribution<float> normal;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t k = 0; k < columns; ++k) Float(t)[k] = normal(random);
    }
    if (columns % 32 == 0) Quantize();
  }

  float* Float(int64_t t) { return reinterpret_cast<float*>(floats.data() + t * float_stride); }
  const float* Float(int64_t t) const {
    return reinterpret_cast<const float*>(floats.data() + t * float_stride);
  }
  // What a kernel multiplies with.
  float Value(int64_t t, int64_t k, bool rounded) const {
    if (!rounded) return Float(t)[k];
    // Halfway between two values of bf16 lies the even one's neighbourhood.
    const auto bits = std::bit_cast<uint32_t>(Float(t)[k]);
    const float below = std::bit_cast<float>(bits & 0xffff0000u);
    if (!std::isfinite(below)) return Float(t)[k];
    const float above = std::bit_cast<float>((bits & 0xffff0000u) + 0x10000u);
    const double middle = (double{below} + double{above}) / 2;
    const double size = std::fabs(double{Float(t)[k]});
    if (size == std::fabs(middle)) return (bits & 0x10000u) != 0 ? above : below;
    return size > std::fabs(middle) ? above : below;
  }
  const int8_t* Quants(int64_t t) const {
    return reinterpret_cast<const int8_t*>(q8.data() + t * q8_stride);
  }
  float Scale(int64_t t, int64_t g) const { return ReadAt<float>(t, columns + g * 4); }
  int32_t Sum(int64_t t, int64_t g) const {
    return ReadAt<int32_t>(t, columns + columns / 32 * 4 + g * 4);
  }

  void Quantize() {
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t g = 0; g < columns / 32; ++g) {
        float largest = 0;
        for (int64_t i = 0; i < 32; ++i)
          largest = std::max(largest, std::fabs(Float(t)[g * 32 + i]));
        const float scale = largest / 127.0f;
        int32_t sum = 0;
        for (int64_t i = 0; i < 32; ++i) {
          const auto q = static_cast<int8_t>(
              scale == 0
                  ? 0
                  : std::clamp(std::nearbyint(Float(t)[g * 32 + i] / scale), -127.0f, 127.0f));
          q8.data()[t * q8_stride + g * 32 + i] = static_cast<std::byte>(q);
          sum += q;
        }
        std::memcpy(q8.data() + t * q8_stride + columns + g * 4, &scale, 4);
        std::memcpy(q8.data() + t * q8_stride + columns + columns / 32 * 4 + g * 4, &sum, 4);
      }
    }
  }

  int64_t tokens;
  int64_t columns;
  int64_t float_stride;
  int64_t q8_stride;
  AlignedBytes floats;
  AlignedBytes q8;

 private:
  template <typename T>
  T ReadAt(int64_t t, int64_t at) const {
    T value;
    std::memcpy(&value, q8.data() + t * q8_stride + at, sizeof value);
    return value;
  }
};

inline AlignedBytes Pack(const LinearKernel& kernel, const Matrix& matrix) {
  const int64_t panels = (matrix.rows + kPanelRows - 1) / kPanelRows;
  const int64_t panel_bytes = kernel.panel_bytes(matrix.columns);
  AlignedBytes packed(panels * panel_bytes);
  AlignedBytes scratch(kernel.pack_scratch_bytes(matrix.columns));
  for (int64_t p = 0; p < panels; ++p) {
    std::vector<SourceRow> rows;
    for (int64_t r = p * kPanelRows; r < std::min(matrix.rows, (p + 1) * kPanelRows); ++r) {
      rows.push_back(matrix.Row(r));
    }
    kernel.pack_panel(rows, matrix.columns, packed.data() + p * panel_bytes, scratch.data());
  }
  return packed;
}

struct MultiplyOptions {
  int64_t leaf_columns = 0;
  bool silu_mul = false;
  const float* residual = nullptr;  // [tokens][output columns]
  std::vector<int64_t> cuts = {};   // panels at which the work is cut into calls
  int64_t first_token = 0;
  int64_t tokens = -1;  // all
  // Of panels of more columns, where the first of x's is in each panel and the panels' distance.
  int64_t panel_offset = 0;
  int64_t panel_stride = 0;
  std::vector<int64_t> part_ends = {};  // of a sum in parts; the output is [part][tokens][columns]
  int threads = 0;  // else the shares of so many, one after the other, instead of cuts
};

// The kernel's output, [tokens][output columns] without gaps; `output` may be preset (residual in
// place).
inline void Multiply(const LinearKernel& kernel, const AlignedBytes& weights, int64_t rows,
                     const Activations& x, const MultiplyOptions& options, float* output) {
  LinearArgs args{};
  args.weights = weights.data() + options.panel_offset;
  args.panel_stride = options.panel_stride;
  args.rows = rows;
  args.columns = x.columns;
  args.leaf_columns = options.leaf_columns;
  args.activation_stride = kernel.int8_activations ? x.q8_stride : x.float_stride;
  args.activations = (kernel.int8_activations ? x.q8.data() : x.floats.data()) +
                     options.first_token * args.activation_stride;
  args.tokens = options.tokens < 0 ? x.tokens : options.tokens;
  args.output = output;
  args.output_stride = options.silu_mul ? rows / 2 : rows;
  args.residual = options.residual;
  args.residual_stride = args.output_stride;
  args.silu_mul = options.silu_mul;
  args.parts = static_cast<int64_t>(options.part_ends.size());
  args.part_ends = options.part_ends.data();
  args.part_stride = args.tokens * args.output_stride;
  AlignedBytes scratch(kernel.scratch_bytes(x.columns, args.tokens));
  args.scratch = scratch.data();
  const int64_t panels = (rows + kPanelRows - 1) / kPanelRows;
  for (int thread = 0; thread < options.threads; ++thread) {
    LinearArgs own = args;
    TakeShare(ShareOfLinear(panels, options.silu_mul ? 2 : 1, args.tokens, thread, options.threads),
              &own);
    if (own.panel_begin < own.panel_end) kernel.run(own);
  }
  if (options.threads > 0) return;
  std::vector<int64_t> cuts = options.cuts;
  cuts.push_back(panels);
  int64_t begin = 0;
  for (const int64_t end : cuts) {
    args.panel_begin = begin;
    args.panel_end = end;
    kernel.run(args);
    begin = end;
  }
}

inline std::vector<float> Multiply(const LinearKernel& kernel, const AlignedBytes& weights,
                                   int64_t rows, const Activations& x,
                                   const MultiplyOptions& options = {}) {
  const int64_t tokens = options.tokens < 0 ? x.tokens : options.tokens;
  const int64_t parts = std::max<int64_t>(1, static_cast<int64_t>(options.part_ends.size()));
  std::vector<float> output(
      static_cast<size_t>(parts * tokens * (options.silu_mul ? rows / 2 : rows)), -7.0f);
  Multiply(kernel, weights, rows, x, options, output.data());
  return output;
}

// Bits, with all NaNs taken as one.
inline std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  bits.reserve(values.size());
  for (const float value : values) {
    bits.push_back(std::isnan(value) ? 0x7fc00000u : std::bit_cast<uint32_t>(value));
  }
  return bits;
}

}  // namespace llmir::kernels
