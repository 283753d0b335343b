// Kernels over rows of floats: norms, quantization of activations, sums, activation functions, the
// reductions of sampling and scoring. Every function works on one contiguous share of the rows; its
// result doesn't depend on how rows are shared out.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"

namespace llmir::kernels {

// What a row of logits (or of one rank's shard of it) contributes to log-probabilities.
struct ScorePart {
  float maximum;  // over the shard
  float sum;      // of exp(logit - maximum)
  float target;   // the target's logit, where the shard holds it; else 0
};

enum class Activation : uint8_t { kSilu, kGelu, kGeluTanh, kRelu };

struct VectorKernels {
  Isa isa;
  // out = x / sqrt(mean(x^2) + epsilon) * weight. The mean: 16 lanes of fma (column mod 16), folded
  // 8, 4, 2, 1.
  void (*rms_norm)(const float* x, int64_t x_stride, const float* weight, float epsilon,
                   int64_t rows, int64_t columns, float* out, int64_t out_stride);
  // The same, straight to int8 rows (activations.h); equal to rms_norm followed by quantize.
  // out_stride in bytes.
  void (*rms_norm_q8)(const float* x, int64_t x_stride, const float* weight, float epsilon,
                      int64_t rows, int64_t columns, std::byte* out, int64_t out_stride);
  // Float rows to int8 rows. columns: a multiple of 32. out_stride in bytes.
  void (*quantize)(const float* x, int64_t x_stride, int64_t rows, int64_t columns, std::byte* out,
                   int64_t out_stride);
  void (*add)(const float* a, const float* b, int64_t count, float* out);
  // Index of the largest value, the lowest of equals; NaN never wins. -1 for count 0 or all NaN.
  int64_t (*argmax)(const float* x, int64_t count);
  // `target`: index within this shard, or -1.
  ScorePart (*score_part)(const float* logits, int64_t count, int64_t target);
  // out = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * weight. Both means as rms_norm's.
  void (*layer_norm)(const float* x, int64_t x_stride, const float* weight, float epsilon,
                     int64_t rows, int64_t columns, float* out, int64_t out_stride);
  // out = activation(gate), times up where that isn't null. GELU exactly, or by tanh.
  void (*activate)(Activation activation, const float* gate, const float* up, int64_t count,
                   float* out);
  // out = cap * tanh(x / cap), with x / cap as x times the rounded 1 / cap.
  void (*softcap)(const float* x, float cap, int64_t count, float* out);
  // int8 rows (activations.h) to float rows. columns: a multiple of 32. x_stride in bytes.
  void (*dequantize)(const std::byte* x, int64_t x_stride, int64_t rows, int64_t columns,
                     float* out, int64_t out_stride);
};

const VectorKernels& FindVector(Isa isa);

}  // namespace llmir::kernels
