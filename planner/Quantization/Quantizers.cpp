//===- Quantizers.cpp - Round a matrix to a block format ------------------===//

#include "planner/Quantization/Quantizers.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>

#include "planner/Quantization/DenseKernels.h"

using namespace llmir;
using namespace llmir::quantization;
using kernels::Encoding;
using kernels::Grid;

namespace {

/// Rows that go through GPTQ together: enough that a row of the factor, once
/// loaded, is used often, few enough to stay in the cache.
constexpr int64_t kRowsAtOnce = 64;
/// Columns whose corrections of later ones are gathered (the paper's lazy
/// batches); a multiple of every group.
constexpr int64_t kColumnsAtOnce = 64;

/// Shrunken ranges that are tried for the grid of a group.
constexpr float kShrinks[] = {1.0f, 0.975f, 0.95f, 0.925f,
                              0.9f, 0.87f,  0.84f, 0.8f};

/// The sum of weights[i] * error[i]^2 of `values` on `grid`, with the quants.
float getGridError(Encoding encoding, const Grid &grid, const float *values,
                   const float *weights, int group, int8_t *quants) {
  float sum = 0;
  for (int i = 0; i < group; ++i) {
    quants[i] = kernels::Quantize(encoding, grid, values[i]);
    float error = values[i] - kernels::Dequantize(encoding, grid, quants[i]);
    sum += weights[i] * error * error;
  }
  return sum;
}

/// The grid of least weighted squared error for given quants, rounded to what
/// can be stored.
Grid fitGrid(Encoding encoding, const float *values, const float *weights,
             int group, const int8_t *quants, const Grid &from) {
  const kernels::Format &format = kernels::FormatOf(encoding);
  double sw = 0, sq = 0, sqq = 0, sx = 0, sqx = 0;
  float middle = format.minimum || encoding == Encoding::kQ8_0
                     ? 0.0f
                     : static_cast<float>(1 << (format.bits - 1));
  for (int i = 0; i < group; ++i) {
    double q = quants[i] - middle, w = weights[i], x = values[i];
    sw += w;
    sq += w * q;
    sqq += w * q * q;
    sx += w * x;
    sqx += w * q * x;
  }
  if (!format.minimum)
    return sqq > 0 ? kernels::RoundGrid(encoding, sqx / sqq, 0.0f) : from;
  double determinant = sw * sqq - sq * sq;
  if (!(determinant > 1e-12 * sw * sqq))
    return from;
  double scale = (sw * sqx - sq * sx) / determinant;
  return kernels::RoundGrid(encoding, scale, (sx - scale * sq) / sw);
}

Grid chooseBestGrid(Encoding encoding, const float *values,
                    const float *weights, int group) {
  int8_t quants[kernels::kMaxGroup];
  Grid best;
  float least = std::numeric_limits<float>::infinity();
  for (float shrink : kShrinks) {
    Grid grid = kernels::ChooseGrid(encoding, values, shrink);
    float error = getGridError(encoding, grid, values, weights, group, quants);
    if (error < least) {
      least = error;
      best = grid;
    }
    if (least == 0) // the values lie on this grid
      return best;
    Grid fitted = fitGrid(encoding, values, weights, group, quants, grid);
    error = getGridError(encoding, fitted, values, weights, group, quants);
    if (error < least) {
      least = error;
      best = fitted;
    }
  }
  return best;
}

} // namespace

Curvature quantization::makeCurvature(std::span<const float> gram,
                                      int64_t columns, double ridge) {
  constexpr double kShrink = 0.2, kRelativeRidge = 0.01;
  double mean = 0;
  for (int64_t i = 0; i < columns; ++i)
    mean += gram[i * columns + i];
  mean /= static_cast<double>(columns);
  Curvature curvature{columns, gram, {}};
  for (double part = kRelativeRidge; part < 100 && curvature.factor.empty();
       part *= 10)
    curvature.factor =
        invertAndFactor(gram, columns, {kShrink, ridge + part * mean});
  return curvature;
}

void quantization::roundToNearest(Encoding encoding, const Matrix &weights,
                                  int64_t begin, int64_t end,
                                  std::byte *blocks) {
  int64_t bytes = kernels::BlockRowBytes(encoding, weights.columns);
  for (int64_t r = begin; r < end; ++r)
    kernels::EncodeRow(encoding, weights.row(r), weights.columns,
                       blocks + (r - begin) * bytes);
}

void quantization::compensate(Encoding encoding, const Matrix &weights,
                              int64_t begin, int64_t end,
                              const Curvature &curvature, std::byte *blocks) {
  const int64_t columns = weights.columns;
  const int group = kernels::FormatOf(encoding).group;
  const int64_t rowBytes = kernels::BlockRowBytes(encoding, columns);
  const int64_t blockBytes = kernels::BlockRowBytes(encoding, group);
  const std::vector<float> &factor = curvature.factor;
  // An error of column i that later columns can't make up for costs its square
  // over U[i][i]^2.
  std::vector<float> importance(columns);
  for (int64_t i = 0; i < columns; ++i)
    importance[i] = 1 / (factor[i * columns + i] * factor[i * columns + i]);

  std::vector<float> work(kRowsAtOnce * columns);
  std::vector<float> errors(kRowsAtOnce * kColumnsAtOnce);
  for (int64_t first = begin; first < end; first += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, end - first);
    std::copy_n(weights.row(first), rows * columns, work.data());
    for (int64_t left = 0; left < columns; left += kColumnsAtOnce) {
      const int64_t right = std::min(columns, left + kColumnsAtOnce);
      for (int64_t r = 0; r < rows; ++r) {
        float *row = work.data() + r * columns;
        float *error = errors.data() + r * kColumnsAtOnce;
        for (int64_t start = left; start < right; start += group) {
          Grid grid = chooseBestGrid(encoding, row + start,
                                     importance.data() + start, group);
          int8_t quants[kernels::kMaxGroup];
          for (int64_t i = start; i < start + group; ++i) {
            int8_t quant = kernels::Quantize(encoding, grid, row[i]);
            quants[i - start] = quant;
            float e = (row[i] - kernels::Dequantize(encoding, grid, quant)) /
                      factor[i * columns + i];
            error[i - left] = e;
            if (e != 0)
              subtractRow(row + i + 1, e, &factor[i * columns + i + 1],
                          right - i - 1);
          }
          kernels::WriteBlock(encoding, grid, quants,
                              blocks + (first - begin + r) * rowBytes +
                                  start / group * blockBytes);
        }
      }
      if (right < columns)
        subtractProduct(work.data() + right, columns, errors.data(),
                        kColumnsAtOnce, rows, &factor[left * columns + right],
                        columns, right - left, columns - right);
    }
  }
}

Matrix quantization::decode(Encoding encoding, int64_t rows, int64_t columns,
                            const std::byte *blocks) {
  Matrix result{rows, columns, std::vector<float>(rows * columns)};
  int64_t bytes = kernels::BlockRowBytes(encoding, columns);
  for (int64_t r = 0; r < rows; ++r)
    kernels::DecodeRow(encoding, blocks + r * bytes, columns, result.row(r));
  return result;
}

double quantization::outputError(const Matrix &weights, const Matrix &quantized,
                                 const Curvature &curvature,
                                 std::span<const float> rowWeights,
                                 int threads) {
  constexpr int64_t kRows = 128;
  int64_t chunks = (weights.rows + kRows - 1) / kRows;
  std::vector<double> sums(chunks);
  parallelFor(threads, chunks, [&](int64_t chunk) {
    int64_t begin = chunk * kRows;
    int64_t count = std::min(kRows, weights.rows - begin);
    std::vector<float> difference(count * weights.columns);
    for (size_t i = 0; i < difference.size(); ++i)
      difference[i] = weights.row(begin)[i] - quantized.row(begin)[i];
    sums[chunk] = quadraticForm(
        difference.data(), rowWeights.empty() ? nullptr : &rowWeights[begin],
        count, curvature.gram, weights.columns);
  });
  double sum = 0;
  for (double part : sums)
    sum += part;
  return sum;
}

std::vector<float> quantization::findScales(
    Encoding encoding, std::span<const Matrix *const> weights,
    std::span<const float> meanAbs, std::span<const int32_t> tie,
    const Curvature &curvature, int threads) {
  const int64_t columns = curvature.columns;
  // A sample of the rows shows which alpha is best.
  constexpr int64_t kSample = 256;
  Matrix sample{0, columns, {}};
  int64_t all = 0;
  for (const Matrix *matrix : weights)
    all += matrix->rows;
  const int64_t step = std::max<int64_t>(1, all / kSample);
  for (const Matrix *matrix : weights)
    for (int64_t r = 0; r < matrix->rows; r += step) {
      sample.values.insert(sample.values.end(), matrix->row(r),
                           matrix->row(r) + columns);
      ++sample.rows;
    }
  // Columns that are scaled together count with their mean.
  std::vector<double> magnitude(meanAbs.begin(), meanAbs.end());
  if (!tie.empty()) {
    std::vector<double> sum(columns, 0), count(columns, 0);
    for (int64_t i = 0; i < columns; ++i) {
      sum[tie[i]] += meanAbs[i];
      count[tie[i]] += 1;
    }
    for (int64_t i = 0; i < columns; ++i)
      magnitude[i] = sum[tie[i]] / count[tie[i]];
  }

  constexpr int kAlphas = 20;
  std::vector<std::vector<float>> scales(kAlphas);
  std::vector<double> errors(kAlphas);
  parallelFor(threads, kAlphas, [&](int64_t a) {
    double alpha = static_cast<double>(a) / kAlphas;
    std::vector<float> &scale = scales[a];
    scale.resize(columns);
    // Around 1, as the paper's: divided by the root of largest times smallest.
    double low = std::numeric_limits<double>::infinity(), high = 0;
    for (int64_t i = 0; i < columns; ++i) {
      double value = std::pow(std::max(magnitude[i], 1e-8), alpha);
      scale[i] = value;
      low = std::min(low, value);
      high = std::max(high, value);
    }
    for (float &value : scale)
      value /= std::sqrt(low * high);
    Matrix scaled = sample;
    for (int64_t r = 0; r < sample.rows; ++r)
      for (int64_t i = 0; i < columns; ++i)
        scaled.row(r)[i] *= scale[i];
    std::vector<std::byte> blocks(sample.rows *
                                  kernels::BlockRowBytes(encoding, columns));
    roundToNearest(encoding, scaled, 0, sample.rows, blocks.data());
    Matrix rounded = decode(encoding, sample.rows, columns, blocks.data());
    for (int64_t r = 0; r < sample.rows; ++r)
      for (int64_t i = 0; i < columns; ++i)
        rounded.row(r)[i] /= scale[i];
    errors[a] = outputError(sample, rounded, curvature);
  });
  return scales[std::min_element(errors.begin(), errors.end()) -
                errors.begin()];
}
