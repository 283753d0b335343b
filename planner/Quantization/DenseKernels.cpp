//===- DenseKernels.cpp - Loops over dense matrices -----------------------===//

#include "planner/Quantization/DenseKernels.h"

#include <algorithm>
#include <cmath>

using namespace llmir;

// Lanes are columns, so that a wider instruction set changes no order of sums;
// products and sums stay apart (-ffp-contract=off).
#if defined(__x86_64__)
#define LLMIR_EVERY_ISA                                                        \
  __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define LLMIR_EVERY_ISA
#endif

namespace {

/// Four rows at once: each value of `matrix` that is loaded serves four.
LLMIR_EVERY_ISA void
subtractProduct4(float *__restrict t0, float *__restrict t1,
                 float *__restrict t2, float *__restrict t3,
                 const float *factors, int64_t stride, const float *matrix,
                 int64_t matrixStride, int64_t inner, int64_t columns) {
  constexpr int64_t kStrip = 64; // four strips of targets stay in registers
  for (int64_t begin = 0; begin < columns; begin += kStrip) {
    int64_t width = std::min(kStrip, columns - begin);
    for (int64_t i = 0; i < inner; ++i) {
      float f0 = factors[i], f1 = factors[stride + i],
            f2 = factors[2 * stride + i], f3 = factors[3 * stride + i];
      const float *__restrict row = matrix + i * matrixStride + begin;
      for (int64_t j = 0; j < width; ++j) {
        float value = row[j];
        t0[begin + j] -= f0 * value;
        t1[begin + j] -= f1 * value;
        t2[begin + j] -= f2 * value;
        t3[begin + j] -= f3 * value;
      }
    }
  }
}

LLMIR_EVERY_ISA void subtractScaled(float *__restrict target, float factor,
                                    const float *__restrict row,
                                    int64_t columns) {
  for (int64_t j = 0; j < columns; ++j)
    target[j] -= factor * row[j];
}

LLMIR_EVERY_ISA void subtractScaled(double *__restrict target, double factor,
                                    const double *__restrict row,
                                    int64_t columns) {
  for (int64_t j = 0; j < columns; ++j)
    target[j] -= factor * row[j];
}

} // namespace

void quantization::subtractProduct(float *target, int64_t targetStride,
                                   const float *factors, int64_t factorStride,
                                   int64_t rows, const float *matrix,
                                   int64_t matrixStride, int64_t inner,
                                   int64_t columns) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    float *t = target + r * targetStride;
    subtractProduct4(t, t + targetStride, t + 2 * targetStride,
                     t + 3 * targetStride, factors + r * factorStride,
                     factorStride, matrix, matrixStride, inner, columns);
  }
  for (; r < rows; ++r)
    for (int64_t i = 0; i < inner; ++i)
      subtractScaled(target + r * targetStride, factors[r * factorStride + i],
                     matrix + i * matrixStride, columns);
}

void quantization::subtractRow(float *target, float factor, const float *row,
                               int64_t columns) {
  subtractScaled(target, factor, row, columns);
}
void quantization::subtractRow(double *target, double factor, const double *row,
                               int64_t columns) {
  subtractScaled(target, factor, row, columns);
}

std::vector<float> quantization::invertAndFactor(std::span<const float> gram,
                                                 int64_t n,
                                                 const Damping &damping) {
  // With the order of rows reversed, an ordinary factorization R^T R of the
  // matrix gives H = M M^T with M upper triangular, and U is M's inverse: one
  // factorization and no inverse of H.
  std::vector<double> a(n * n); // upper triangle of the reversed matrix, then R
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i; j < n; ++j)
      a[i * n + j] = gram[(n - 1 - i) * n + (n - 1 - j)] *
                     (i == j ? 1 : 1 - damping.shrink);
  for (int64_t i = 0; i < n; ++i)
    a[i * n + i] += damping.ridge;
  for (int64_t k = 0; k < n; ++k) {
    double pivot = a[k * n + k];
    if (!(pivot > 0))
      return {};
    double root = std::sqrt(pivot);
    for (int64_t j = k; j < n; ++j)
      a[k * n + j] /= root;
    for (int64_t i = k + 1; i < n; ++i)
      subtractRow(&a[i * n + i], a[k * n + i], &a[k * n + i], n - i);
  }
  // M[i][j] = R[n-1-j][n-1-i] is upper triangular; its inverse by rows from the
  // last: U[i][j] = (e_i - sum over k > i of M[i][k] U[k][j]) / M[i][i].
  std::vector<double> u(n * n, 0.0);
  for (int64_t i = n - 1; i >= 0; --i) {
    double *row = &u[i * n];
    row[i] = 1;
    auto m = [&](int64_t k) { return a[(n - 1 - k) * n + (n - 1 - i)]; };
    for (int64_t k = i + 1; k < n; ++k)
      subtractRow(row + k, m(k), &u[k * n + k], n - k);
    double inverse = 1 / m(i);
    for (int64_t j = i; j < n; ++j)
      row[j] *= inverse;
  }
  return {u.begin(), u.end()};
}

double quantization::quadraticForm(const float *values, const float *weights,
                                   int64_t rows, std::span<const float> gram,
                                   int64_t n) {
  constexpr int64_t kRows = 32;
  std::vector<float> product(kRows * n);
  double sum = 0;
  for (int64_t begin = 0; begin < rows; begin += kRows) {
    int64_t count = std::min(kRows, rows - begin);
    std::fill(product.begin(), product.end(), 0.0f);
    subtractProduct(product.data(), n, values + begin * n, n, count,
                    gram.data(), n, n, n);
    for (int64_t r = 0; r < count; ++r) {
      double row = 0;
      for (int64_t j = 0; j < n; ++j)
        row -= static_cast<double>(product[r * n + j]) *
               values[(begin + r) * n + j];
      sum += row * (weights ? weights[begin + r] : 1.0f);
    }
  }
  return sum;
}
