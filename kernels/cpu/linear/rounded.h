// Linear kernels whose activations are rounded to bf16: each block of tokens is rounded into the
// thread's scratch, then a driver for such rows does the rest. Every thread rounds all rows itself:
// of 512 tokens that is 1 % of what it then multiplies, and nobody waits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear/panel_layouts.h"
#include "kernels/cpu/linear/tile.h"
#include "kernels/cpu/linear/token_blocks.h"
#include "kernels/linear.h"

namespace llmir::kernels {

// Bytes of the rounded rows of a block: a driver that unpacks weights wants kLeastTokens at least.
inline constexpr int64_t kLeastRoundedTokens = 64;
constexpr LLMIR_INLINE int64_t RoundedRowBytes(int64_t columns) {
  return (columns * 4 + kLine - 1) / kLine * kLine;
}
constexpr LLMIR_INLINE int64_t RoundedBytes(int64_t columns, int64_t max_tokens) {
  const int64_t row = RoundedRowBytes(columns);
  const int64_t block =
      kActivationBytes > kLeastRoundedTokens * row ? kActivationBytes : kLeastRoundedTokens * row;
  return max_tokens * row < block ? max_tokens * row : block;
}

// Rounding::Row(from, columns, to) writes a row of Rounding::RowBytes(columns), at most
// RoundedRowBytes; Driver::Run takes args whose activations are such rows.
template <typename Driver, typename Rounding>
LLMIR_INLINE void RunRounded(const LinearArgs& args) {
  const int64_t stride = Rounding::RowBytes(args.columns);
  LinearArgs block = args;
  block.activations = args.scratch;
  block.activation_stride = stride;
  block.scratch = args.scratch + RoundedBytes(args.columns, args.tokens);
  const TokenBlocks blocks(args.tokens, stride, kLeastRoundedTokens);
  for (int64_t b = 0; b < blocks.parts; ++b) {
    const int64_t first = blocks.Begin(b);
    block.tokens = blocks.Begin(b + 1) - first;
    for (int64_t t = 0; t < block.tokens; ++t) {
      Rounding::Row(
          reinterpret_cast<const float*>(args.activations + (first + t) * args.activation_stride),
          args.columns, args.scratch + t * stride);
    }
    block.output = args.output + first * args.output_stride;
    if (args.residual != nullptr) block.residual = args.residual + first * args.residual_stride;
    Driver::Run(block);
  }
}

// To floats that bf16 has, for families without its products.
template <typename Lanes>
struct RoundToFloats {
  static constexpr LLMIR_INLINE int64_t RowBytes(int64_t columns) {
    return RoundedRowBytes(columns);
  }
  static LLMIR_INLINE void Row(const float* from, int64_t columns, std::byte* to) {
    auto* floats = reinterpret_cast<float*>(to);
    for (int64_t k = 0; k < columns; ++k) {
      uint32_t bits;
      __builtin_memcpy(&bits, from + k, sizeof bits);
      const uint32_t magnitude = bits & 0x7fffffffu;
      if (magnitude > 0x7f800000u) {
        bits |= 0x00400000u;  // stays NaN
      } else if (magnitude < 0x00800000u) {
        bits &= 0x80000000u;  // below every normal float: 0, as the processor's instruction gives
      } else {
        bits += 0x7fffu + (bits >> 16 & 1u);
      }
      bits &= 0xffff0000u;
      __builtin_memcpy(floats + k, &bits, sizeof bits);
    }
  }
};

// A panel of kBF16Pairs as columns of floats.
template <typename Lanes>
struct BF16PairsWeight : BF16Weight<Lanes> {
  static LLMIR_INLINE typename Lanes::F Even(const std::byte* panel, int64_t k) {
    return Lanes::OddBF16(Lanes::LoadLine(panel + k * (kLine / 2)));
  }
  static LLMIR_INLINE typename Lanes::F Odd(const std::byte* panel, int64_t k) {
    return Lanes::EvenBF16(Lanes::LoadLine(panel + (k - 1) * (kLine / 2)));
  }
};

}  // namespace llmir::kernels
