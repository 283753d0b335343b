//===- DenseKernels.h - Loops over dense matrices ---------------*- C++ -*-===//
//
// The loops in which calibration spends its time. Row-major; sums are made in
// the same order on every instruction set and for every number of threads.
//
//===----------------------------------------------------------------------===//

#ifndef LLMIR_QUANTIZATION_DENSEKERNELS_H
#define LLMIR_QUANTIZATION_DENSEKERNELS_H

#include <atomic>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

namespace llmir::quantization {

/// For each of `rows` rows: target[j] -= sum over i of factors[i] *
/// matrix[i][j] for j < columns, i ascending. Strides are in floats.
void subtractProduct(float *target, int64_t targetStride, const float *factors,
                     int64_t factorStride, int64_t rows, const float *matrix,
                     int64_t matrixStride, int64_t inner, int64_t columns);

/// target[j] -= factor * row[j].
void subtractRow(float *target, float factor, const float *row,
                 int64_t columns);
void subtractRow(double *target, double factor, const double *row,
                 int64_t columns);

/// What is added to a Gram matrix before it is inverted.
struct Damping {
  double shrink = 0; // of what lies off the diagonal, this part is taken away
  double ridge = 0;  // added to the diagonal
};

/// The upper triangular U with U^T U = (damped gram)^-1, in doubles and
/// rounded; empty if that isn't positive definite. `gram` is symmetric, n x n.
std::vector<float> invertAndFactor(std::span<const float> gram, int64_t n,
                                   const Damping &damping);

/// The sum over rows r of d_r^T gram d_r for `rows` rows of n values, each
/// times weights[r] (null: 1).
double quadraticForm(const float *values, const float *weights, int64_t rows,
                     std::span<const float> gram, int64_t n);

/// body(i) for i in [0, count), on `threads` threads, in any order.
template <typename Body>
void parallelFor(int threads, int64_t count, const Body &body) {
  std::atomic<int64_t> next{0};
  auto work = [&] {
    for (int64_t i; (i = next.fetch_add(1)) < count;)
      body(i);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads && i < count; ++i)
    others.emplace_back(work);
  work();
  for (std::thread &other : others)
    other.join();
}

} // namespace llmir::quantization

#endif // LLMIR_QUANTIZATION_DENSEKERNELS_H
