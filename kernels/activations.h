// Activations in int8: what linear kernels over q-type weights read.
//
// A row of K values (K a multiple of 32) is stored as [K x int8][K/32 x f32 scale][K/32 x int32
// sum]: value = scale * q, scale = max|x| / 127 over each 32, q rounded to nearest even, sum = the
// sum of the group's q. A group of zeros has scale 0. Groups start at multiples of 32 of the rank's
// own columns; leaves are multiples of 32, so a row cut at a leaf has the same groups.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmir::kernels {

inline constexpr int64_t kActivationGroup = 32;

constexpr int64_t Q8RowBytes(int64_t columns) { return columns + columns / kActivationGroup * 8; }

}  // namespace llmir::kernels
