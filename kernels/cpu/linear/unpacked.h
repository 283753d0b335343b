// Many tokens: the weights of a panel are unpacked once, a segment of columns at a time, and met by
// all tokens of a block before the next segment. A tile that reads packed weights (tile.h) unpacks
// them again for every few tokens and reads the whole panel through the first-level cache, which
// holds less than one panel of many columns.
//
// The sums are those of tile.h, to the bit: what a segment leaves unfinished waits in memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear/panel_layouts.h"
#include "kernels/cpu/linear/tile.h"
#include "kernels/cpu/linear/token_blocks.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/linear.h"

namespace llmir::kernels {

// 32 columns of a panel of a q type: line i holds quad i, row r in bytes 4 * r ... 4 * r + 3, in a
// byte each; scales and minimums (_1 only) as floats.
struct alignas(kLine) UnpackedGroup {
  std::byte quants[8][kLine];
  float scale[16];
  float minimum[16];
};

// Bytes of a segment: half of a first-level cache of 32 KiB, the other half is for the tokens.
inline constexpr int64_t kSegmentBytes = 16 << 10;
// Tokens whose sums wait at once.
inline constexpr int64_t kMaxBlockTokens = 256;

struct SegmentArgs {
  const std::byte* weights;  // the unpacked segment
  const std::byte* x;        // the tile's first token
  int64_t x_stride;          // bytes
  int64_t columns;           // of the whole panel
  int64_t leaf_columns;
  int64_t begin;  // the segment's columns
  int64_t end;
  // The part of the sum that `begin` is in: its first column, and the columns at which it and those
  // after it end.
  int64_t part_begin;
  const int64_t* part_ends;
  float* tree;          // [levels][tokens][16] of this tile
  float* sums;          // [tokens][16]: of an unfinished leaf, and of a part that has ended
  float* out;           // of several parts: where this one's sums go, token by token; null: nowhere
  int64_t out_stride;   // from token to token, floats
  int64_t part_stride;  // from part to part
  int64_t width;        // rows of the panel
};

using SegmentFunction = void (*)(const SegmentArgs&);

// Calls add(begin, end, sums) for each part of a leaf in the segment; the rest of the order of sums
// is here.
template <typename Lanes, int kTokens>
LLMIR_INLINE void SumSegment(const SegmentArgs& args, const auto& add) {
  using F = typename Lanes::F;
  int64_t first_leaf = args.part_begin / args.leaf_columns;
  const int64_t* part_end = args.part_ends;
  float* out = args.out;
  for (int64_t begin = args.begin; begin < args.end;) {
    const int64_t leaf = begin / args.leaf_columns;
    const int64_t leaf_begin = leaf * args.leaf_columns;
    const int64_t leaf_end = args.columns - leaf_begin < args.leaf_columns
                                 ? args.columns
                                 : leaf_begin + args.leaf_columns;
    const int64_t end = leaf_end < args.end ? leaf_end : args.end;
    F sums[1][kTokens];
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      sums[0][t] = begin == leaf_begin ? Lanes::Zero() : Lanes::Load(args.sums + t * 16);
    }
    add(begin, end, sums[0]);
    if (end == leaf_end) {
      PushLeaf<Lanes>(sums, leaf - first_leaf, args.tree);
      if (end == *part_end) {
        FoldTree<Lanes, 1, kTokens>(leaf + 1 - first_leaf, args.tree, args.sums);
        if (out != nullptr) {
          for (int t = 0; t < kTokens; ++t) {
            Lanes::StorePartial(out + t * args.out_stride, args.width,
                                Lanes::Load(args.sums + t * 16));
          }
          out += args.part_stride;
        }
        first_leaf = leaf + 1;
        ++part_end;
      }
    } else {
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) Lanes::Store(args.sums + t * 16, sums[0][t]);
    }
    begin = end;
  }
}

template <typename Lanes, int kTokens>
__attribute__((noinline)) void FloatSegment(const SegmentArgs& args) {
  using F = typename Lanes::F;
  const std::byte* x[kTokens];
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) x[t] = args.x + t * args.x_stride;
  SumSegment<Lanes, kTokens>(
      args, [&](int64_t begin, int64_t end, F(&sums)[kTokens]) __attribute__((always_inline)) {
        const std::byte* weights = args.weights - args.begin * kLine;
#pragma GCC unroll 4
        for (int64_t k = begin; k < end; ++k) {
          const F w = Lanes::Load(reinterpret_cast<const float*>(weights + k * kLine));
#pragma GCC unroll 16
          for (int t = 0; t < kTokens; ++t) {
            sums[t] = Lanes::Fma(w, Lanes::Set(reinterpret_cast<const float*>(x[t])[k]), sums[t]);
          }
        }
      });
}

template <typename Lanes, typename Dot, int kTokens>
__attribute__((noinline)) void QuantSegment(const SegmentArgs& args) {
  using F = typename Lanes::F;
  using I = typename Lanes::I;
  const std::byte* x[kTokens];
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) x[t] = args.x + t * args.x_stride;
  // Scales and sums follow the quants of a token (kernels/activations.h).
  const int64_t scales_at = args.columns;
  const int64_t sums_at = args.columns + args.columns / kGroup * 4;
  SumSegment<Lanes, kTokens>(
      args, [&](int64_t begin, int64_t end, F(&sums)[kTokens]) __attribute__((always_inline)) {
        const auto* weights =
            reinterpret_cast<const UnpackedGroup*>(args.weights) - args.begin / kGroup;
        for (int64_t group = begin / kGroup; group < end / kGroup; ++group) {
          const UnpackedGroup& w = weights[group];
          const std::byte* xq[kTokens];
#pragma GCC unroll 16
          for (int t = 0; t < kTokens; ++t) xq[t] = x[t] + group * kGroup;
          I dots[kTokens];
          Dot::template UnpackedDots<kTokens>(w, xq, dots);
          const F w_scale = Lanes::Load(w.scale);
#pragma GCC unroll 16
          for (int t = 0; t < kTokens; ++t) {
            const float x_scale = reinterpret_cast<const float*>(x[t] + scales_at)[group];
            const int32_t x_sum = reinterpret_cast<const int32_t*>(x[t] + sums_at)[group];
            if constexpr (Dot::kZero != 0) {
              dots[t] = Lanes::SubInt(dots[t], Lanes::SetInt(Dot::kZero * x_sum));
            }
            sums[t] = Lanes::Fma(Lanes::ToFloat(dots[t]), Lanes::Mul(w_scale, Lanes::Set(x_scale)),
                                 sums[t]);
            if constexpr (Dot::Groups::kMinimum) {
              sums[t] = Lanes::Fma(Lanes::Load(w.minimum),
                                   Lanes::Set(x_scale * static_cast<float>(x_sum)), sums[t]);
            }
          }
        }
      });
}

// Columns [begin, end) of a panel, unpacked to `to` where the kernel can't read them in place.
template <typename Lanes, typename Weight>
LLMIR_INLINE const std::byte* UnpackSegment(const std::byte* panel, int64_t begin, int64_t end,
                                            std::byte* to) {
  if constexpr (Weight::kInt8) {
    auto* groups = reinterpret_cast<UnpackedGroup*>(to);
    for (int64_t group = begin / kGroup; group < end / kGroup; ++group) {
      Weight::UnpackGroup(panel, group, groups++);
    }
    return to;
  } else if constexpr (Weight::kInPlace) {
    return panel + Weight::PanelBytes(begin);
  } else {
    auto* floats = reinterpret_cast<float*>(to);
    for (int64_t k = begin; k < end; ++k, floats += 16) {
      Lanes::Store(floats, (k & 1) == 0 ? Weight::Even(panel, k) : Weight::Odd(panel, k));
    }
    return to;
  }
}

template <typename Lanes, typename Weight, int kMaxTokens>
class UnpackedDriver {
 public:
  // `finish(token, unit, gate, up)` is called with the sums of 16 rows; up: of silu_mul alone. Sums
  // in several parts are stored without it.
  static LLMIR_INLINE void Run(const LinearArgs& args, int64_t panel_stride, const auto& finish) {
    const int64_t pieces = args.silu_mul ? 2 : 1;
    const int64_t leaf = args.leaf_columns > 0 && args.leaf_columns < args.columns
                             ? args.leaf_columns
                             : args.columns;
    // Whole leaves where they are small, else parts of one.
    const int64_t segment = leaf < kColumns ? kColumns / leaf * leaf : kColumns;
    int64_t levels = 0;
    for (int64_t leaves = (args.columns + leaf - 1) / leaf; leaves != 0; leaves >>= 1) ++levels;

    std::byte* unpacked = args.scratch;
    auto* sums = reinterpret_cast<float*>(unpacked + kSegmentBytes);
    float* tree = sums + 2 * kMaxBlockTokens * 16;

    const bool in_parts = args.parts > 1;
    const TokenBlocks blocks(args.tokens, args.activation_stride, kMinBlockTokens, kMaxBlockTokens);
    for (int64_t b = 0; b < blocks.parts; ++b) {
      const int64_t first = blocks.Begin(b);
      const int64_t count = blocks.Begin(b + 1) - first;
      const Split tiles(count, kMaxTokens);
      for (int64_t unit = args.panel_begin / pieces; unit < args.panel_end / pieces; ++unit) {
        for (int64_t piece = 0; piece < pieces; ++piece) {
          const std::byte* panel = args.weights + (unit * pieces + piece) * panel_stride;
          SegmentArgs tile;
          tile.x_stride = args.activation_stride;
          tile.columns = args.columns;
          tile.leaf_columns = leaf;
          tile.part_begin = 0;
          tile.part_ends = in_parts ? args.part_ends : &args.columns;
          tile.out_stride = args.output_stride;
          tile.part_stride = args.part_stride;
          tile.width = args.rows - unit * kPanelRows;
          if (tile.width > kPanelRows) tile.width = kPanelRows;
          float* out = args.output + first * args.output_stride + unit * kPanelRows;
          for (tile.begin = 0; tile.begin < args.columns; tile.begin = tile.end) {
            tile.end = NextSegment(tile.begin, leaf, segment, args.columns);
            tile.weights = UnpackSegment<Lanes, Weight>(panel, tile.begin, tile.end, unpacked);
            for (int64_t i = 0; i < tiles.parts; ++i) {
              const int64_t token = tiles.Begin(i);
              tile.x = args.activations + (first + token) * args.activation_stride;
              tile.sums = sums + (piece * kMaxBlockTokens + token) * 16;
              tile.tree = tree + token * levels * 16;
              tile.out = in_parts ? out + token * args.output_stride : nullptr;
              TileFor(tiles.Begin(i + 1) - token)(tile);
            }
            for (; tile.end < args.columns && *tile.part_ends <= tile.end; ++tile.part_ends) {
              tile.part_begin = *tile.part_ends;
              out += args.part_stride;
            }
          }
        }
        if (in_parts) continue;
        for (int64_t t = 0; t < count; ++t) {
          finish(first + t, unit, Lanes::Load(sums + t * 16), sums + (kMaxBlockTokens + t) * 16);
        }
      }
    }
  }

 private:
  static constexpr int64_t kColumns =
      Weight::kInt8 ? kSegmentBytes / static_cast<int64_t>(sizeof(UnpackedGroup)) * kGroup
                    : kSegmentBytes / kLine;
  // Fewer, and unpacking would take more than a tenth of the time.
  static constexpr int64_t kMinBlockTokens = 64;

  static LLMIR_INLINE int64_t NextSegment(int64_t begin, int64_t leaf, int64_t segment,
                                          int64_t columns) {
    int64_t end = begin + segment;
    // Parts of a leaf end with it.
    if (segment < leaf) {
      const int64_t leaf_end = (begin / leaf + 1) * leaf;
      end = leaf_end < end ? leaf_end : end;
    }
    return end < columns ? end : columns;
  }

  template <int kTokens>
  static constexpr LLMIR_INLINE SegmentFunction Tile() {
    if constexpr (Weight::kInt8) {
      return &QuantSegment<Lanes, Weight, kTokens>;
    } else {
      return &FloatSegment<Lanes, kTokens>;
    }
  }
  template <int... kTokens>
  static LLMIR_INLINE SegmentFunction TileOf(int64_t tokens,
                                             std::integer_sequence<int, kTokens...>) {
    static constexpr SegmentFunction kTiles[] = {Tile<kTokens + 1>()...};
    return kTiles[tokens - 1];
  }
  static LLMIR_INLINE SegmentFunction TileFor(int64_t tokens) {
    return TileOf(tokens, std::make_integer_sequence<int, kMaxTokens>());
  }
};

}  // namespace llmir::kernels
