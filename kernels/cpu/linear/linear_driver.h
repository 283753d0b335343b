// LinearArgs -> tiles: which panels and tokens go into a tile, and what happens to its sums. One
// template for all weight types and families; each linear_<family>.cc instantiates it.
//
// Files with different ISA flags share these headers, so nothing here may have a symbol that two of
// them emit: templates take the family's lanes, everything else is inlined, and no function of the
// standard library is called.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/cpu/linear/tile.h"
#include "kernels/cpu/linear/token_blocks.h"
#include "kernels/cpu/linear/unpacked.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/linear.h"

namespace llmir::kernels {

// How many panels and tokens a tile holds: kFew* for up to kFewTokens tokens, where reading the
// weights is what takes the time; kMiddle* for up to kMiddleTokens, where one pass over the weights
// beats two of the best tiles (0: never); kMany* above; from kUnpackFrom on kUnpackedTokens of
// unpacked weights (0: never).
template <int kFewPanelsValue, int kFewTokensValue, int kManyPanelsValue, int kManyTokensValue,
          int kUnpackedTokensValue = 0, int kMiddlePanelsValue = 1, int kMiddleTokensValue = 0>
struct TileShape {
  static constexpr int kFewPanels = kFewPanelsValue;
  static constexpr int kFewTokens = kFewTokensValue;
  static constexpr int kMiddlePanels = kMiddlePanelsValue;
  static constexpr int kMiddleTokens = kMiddleTokensValue;
  static constexpr int kManyPanels = kManyPanelsValue;
  static constexpr int kManyTokens = kManyTokensValue;
  static constexpr int kUnpackedTokens = kUnpackedTokensValue;
  static_assert(kFewPanels * kFewTokens <= kMaxTile && kManyPanels * kManyTokens <= kMaxTile &&
                kMiddlePanels * kMiddleTokens <= kMaxTile);
  static_assert(kFewPanels <= kMaxTilePanels && kManyPanels <= kMaxTilePanels &&
                kMiddlePanels <= kMaxTilePanels);
};

template <typename Lanes, typename Weight, typename Shape>
class LinearDriver {
 public:
  static void Run(const LinearArgs& args) {
    if constexpr (Shape::kUnpackedTokens > 0) {
      if (args.tokens >= kUnpackFrom) return RunUnpacked(args);
    }
    if (args.tokens <= Shape::kFewTokens) {
      return RunTiles<Shape::kFewPanels, Shape::kFewTokens>(args);
    }
    if constexpr (Shape::kMiddleTokens > 0) {
      if (args.tokens <= Shape::kMiddleTokens) {
        return RunTiles<Shape::kMiddlePanels, Shape::kMiddleTokens>(args);
      }
    }
    RunTiles<Shape::kManyPanels, Shape::kManyTokens>(args);
  }

 private:
  using F = typename Lanes::F;

  // Of 8 and 16 tokens q types gain 10 and 30 %, f32 in place 15 %, but what must be converted to
  // floats loses 20 % (AVX2).
  static constexpr int64_t kUnpackFrom = [] {
    if constexpr (Weight::kInt8) {
      return 6;
    } else {
      return Weight::kInPlace ? 6 : 24;
    }
  }();

  static LLMIR_INLINE int64_t PanelStride(const LinearArgs& args) {
    return args.panel_stride > 0 ? args.panel_stride : Weight::PanelBytes(args.columns);
  }

  template <int kPanels, int kTokens>
  static constexpr LLMIR_INLINE TileFunction Tile() {
    if constexpr (Weight::kInt8) {
      return &QuantTile<Lanes, Weight, kPanels, kTokens>;
    } else if constexpr (requires { Weight::kPairs; }) {
      return &PairTile<Lanes, Weight, kPanels, kTokens>;
    } else {
      return &FloatTile<Lanes, Weight, kPanels, kTokens>;
    }
  }

  template <int kPanels, int... kTokens>
  static LLMIR_INLINE TileFunction TileFor(int64_t tokens, std::integer_sequence<int, kTokens...>) {
    static constexpr TileFunction kTiles[] = {Tile<kPanels, kTokens + 1>()...};
    return kTiles[tokens - 1];
  }

  // A unit is what one output panel needs: one panel of weights, or gate and up for silu_mul. The
  // units of this call are cut into kPanels runs and a tile takes one of each: every run is a
  // sequential stream, and a thread that reads kPanels streams at once gets more from memory than
  // one that reads a single stream.
  template <int kPanels, int kMaxTokens>
  static void RunTiles(const LinearArgs& args) {
    const int64_t pieces = args.silu_mul ? 2 : 1;
    const int64_t unit_begin = args.panel_begin / pieces;
    const int64_t units = (args.panel_end - args.panel_begin) / pieces;
    const int64_t run = (units + kPanels - 1) / kPanels;
    const int64_t panel_stride = PanelStride(args);

    TileArgs tile;
    tile.x_stride = args.activation_stride;
    tile.columns = args.columns;
    tile.leaf_columns = args.leaf_columns > 0 ? args.leaf_columns : args.columns;
    tile.tree = reinterpret_cast<float*>(args.scratch);
    tile.part_ends = args.parts > 0 ? args.part_ends : &args.columns;
    const int64_t parts = args.parts > 0 ? args.parts : 1;
    alignas(kLine) float one_part[2][kPanels * kMaxTokens * 16];
    float* sums = one_part[0];
    if (parts > 1) {
      sums = tile.tree;
      tile.tree += parts * (kPanels * kMaxTokens * 16);
    }

    const TokenBlocks blocks(args.tokens, args.activation_stride, kMaxTokens);
    for (int64_t b = 0; b < blocks.parts; ++b) {
      const Split tiles(blocks.Begin(b + 1) - blocks.Begin(b), kMaxTokens);
      for (int64_t u = 0; u < run; ++u) {
        // Runs may be one short: such a tile computes its first panel again and drops it.
        int64_t unit[kPanels];
        int count = 0;
        for (int p = 0; p < kPanels; ++p) {
          const bool present = p * run + u < units;
          unit[p] = unit_begin + (present ? p * run + u : u);
          count += present ? 1 : 0;
        }
        for (int64_t i = 0; i < tiles.parts; ++i) {
          const int64_t token = blocks.Begin(b) + tiles.Begin(i);
          const int64_t tokens = tiles.Begin(i + 1) - tiles.Begin(i);
          const TileFunction function =
              TileFor<kPanels>(tokens, std::make_integer_sequence<int, kMaxTokens>());
          // The only pass over these panels fetches what it reads soon. The last of several, which
          // find their own in a cache, fetch the same panels of each run's next unit.
          const int64_t next = pieces * panel_stride;
          if (tiles.parts == 1) {
            tile.prefetch[0] = tile.prefetch[1] = kNearBytes;
          } else {
            tile.prefetch[0] = i + (kFetchesInHalves<Weight> ? 2 : 1) == tiles.parts ? next : 0;
            tile.prefetch[1] = i + 1 == tiles.parts ? next : 0;
          }
          tile.x = args.activations + token * args.activation_stride;
          for (int64_t piece = 0; piece < pieces; ++piece) {
            for (int p = 0; p < kPanels; ++p) {
              tile.panels[p] = args.weights + (unit[p] * pieces + piece) * panel_stride;
            }
            tile.sums = sums + piece * (kPanels * kMaxTokens * 16);
            function(tile);
          }
          for (int64_t part = 0; part < parts; ++part) {
            for (int p = 0; p < count; ++p) {
              for (int64_t t = 0; t < tokens; ++t) {
                const float* at = sums + ((part * kPanels + p) * tokens + t) * 16;
                Finish(args, part, token + t, unit[p], Lanes::Load(at),
                       at + kPanels * kMaxTokens * 16);
              }
            }
          }
        }
      }
    }
  }

  static void RunUnpacked(const LinearArgs& args) {
    UnpackedDriver<Lanes, Weight, Shape::kUnpackedTokens>::Run(
        args, PanelStride(args),
        [&](int64_t token, int64_t unit, F value, const float* up)
            __attribute__((always_inline)) { Finish(args, 0, token, unit, value, up); });
  }

  // Stores a part's sums of a unit's 16 rows; `up`: those of the second panel, for silu_mul.
  static LLMIR_INLINE void Finish(const LinearArgs& args, int64_t part, int64_t token, int64_t unit,
                                  F value, const float* up) {
    const int64_t column = unit * kPanelRows;
    const int64_t left = args.rows / (args.silu_mul ? 2 : 1) - column;
    const int64_t width = left < kPanelRows ? left : kPanelRows;
    float* out = args.output + part * args.part_stride + token * args.output_stride + column;
    if (args.silu_mul) value = Lanes::Mul(Silu<Lanes>(value), Lanes::Load(up));
    if (args.residual != nullptr) {
      const float* residual = args.residual + token * args.residual_stride + column;
      value = Lanes::Add(value, Lanes::LoadPartial(residual, width));
    }
    Lanes::StorePartial(out, width, value);
  }
};

}  // namespace llmir::kernels
