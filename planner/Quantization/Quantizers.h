//===- Quantizers.h - Round a matrix to a block format ----------*- C++ -*-===//
//
// Three ways to choose the quants of a matrix y = W x:
//  - to the nearest;
//  - GPTQ (Frantar et al. 2022): column by column, the error of each is made
//    up for in those that follow, by the inverse of the Gram matrix of x;
//  - AWQ (Lin et al. 2023): columns that meet large activations are enlarged
//    before rounding, and what they read is made smaller by as much.
//
// All depend on one row at a time (AWQ's factors excepted), never on another
// thread's share.
//
//===----------------------------------------------------------------------===//

#ifndef LLMIR_QUANTIZATION_QUANTIZERS_H
#define LLMIR_QUANTIZATION_QUANTIZERS_H

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/block_formats.h"

namespace llmir::quantization {

/// A matrix of floats, row-major.
struct Matrix {
  int64_t rows = 0, columns = 0;
  std::vector<float> values;

  float *row(int64_t r) { return values.data() + r * columns; }
  const float *row(int64_t r) const { return values.data() + r * columns; }
};

/// What is known of the vectors x that a matrix reads.
struct Curvature {
  int64_t columns = 0;
  std::span<const float> gram; // mean of x x^T, columns x columns
  std::vector<float> factor;   // of its damped inverse, DenseKernels.h; empty:
                               // only rounding to the nearest is possible
};

/// Factors `gram`, damped: 1 % of the mean diagonal as in the paper and `ridge`
/// are added to the diagonal, ten times as much of the former as often as that
/// isn't enough; and a fifth of what lies off the diagonal is taken away, since
/// a text of some thousand tokens shows correlations that others don't have
/// (measured on text of another kind: docs/quantization.md).
Curvature makeCurvature(std::span<const float> gram, int64_t columns,
                        double ridge = 0);

/// Which rows a quantizer works on: all, or every `step`-th to estimate.
struct RowChoice {
  int64_t step = 1;
  int64_t count(int64_t rows) const { return (rows + step - 1) / step; }
};

/// Quantizes rows [begin, end) of `weights` to the nearest into `blocks`
/// (BlockRowBytes a row) as EncodeRow does.
void roundToNearest(kernels::Encoding encoding, const Matrix &weights,
                    int64_t begin, int64_t end, std::byte *blocks);

/// The same by GPTQ. The grid of a group is chosen when its first column is
/// reached: of some shrunken ranges the one with the least squared error, each
/// column weighted by how much of it can't be made up for later.
void compensate(kernels::Encoding encoding, const Matrix &weights,
                int64_t begin, int64_t end, const Curvature &curvature,
                std::byte *blocks);

/// Factors for the columns by AWQ: mean|x|^alpha, around 1, with the alpha of
/// 20 that gives the least output error under rounding to the nearest, on a
/// sample of the rows of `weights` (which read the same x). Columns of one
/// `tie` share the mean of theirs; empty: each has its own. All 1 where nothing
/// is gained.
std::vector<float> findScales(kernels::Encoding encoding,
                              std::span<const Matrix *const> weights,
                              std::span<const float> meanAbs,
                              std::span<const int32_t> tie,
                              const Curvature &curvature, int threads);

/// The mean of |y - y'|^2 over x for each row given, summed, times
/// rowWeights[row] (empty: 1): y = W x, y' = W' x.
double outputError(const Matrix &weights, const Matrix &quantized,
                   const Curvature &curvature,
                   std::span<const float> rowWeights = {}, int threads = 1);

/// Blocks as floats.
Matrix decode(kernels::Encoding encoding, int64_t rows, int64_t columns,
              const std::byte *blocks);

} // namespace llmir::quantization

#endif // LLMIR_QUANTIZATION_QUANTIZERS_H
