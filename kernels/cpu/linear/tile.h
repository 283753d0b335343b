// A tile: kPanels panels times kTokens tokens over all of K, the sums held in registers. Templates
// over the lanes of a family; the orders of sums of kernels/linear.h are here and nowhere else.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear/panel_layouts.h"

namespace llmir::kernels {

inline constexpr int kMaxTilePanels = 4;
inline constexpr int kMaxTile = 24;  // panels x tokens: 24 of AVX-512's 32 registers hold sums

struct TileArgs {
  const std::byte* panels[kMaxTilePanels];
  const std::byte* x;  // the first token's row
  int64_t x_stride;    // bytes
  // Bytes from a line of weights to the one that is fetched beside it: of even and of odd groups
  // (q weights) or pairs of columns. The same of both unless kFetchesInHalves.
  int64_t prefetch[2];
  int64_t columns;
  int64_t leaf_columns;      // > 0
  const int64_t* part_ends;  // columns at which the parts of the sum end, the last one `columns`
  float* tree;  // [levels][kPanels * kTokens][16]: subtrees that wait for their right neighbour
  float* sums;  // [parts][kPanels][kTokens][16]: the results
};

using TileFunction = void (*)(const TileArgs&);

// Brings the lines [offset, offset + kLines * 64) of the panels into the first-level cache, while
// this tile computes. A tile of one or two tokens does nothing but wait for memory: there the
// hardware's own prefetch is best and any instruction beside it slows the reading (25 to 17 GB/s on
// Ice Lake, 43 to 35 on Zen 5). From 4 tokens on it hides the memory: 8 tokens of f16 on Zen 5
// with two threads, whose memory gives 57, 33 GB/s without, 46 a panel ahead, 52 kNearBytes ahead,
// 46 at half of that and 50 at twice. A panel ahead the second-level cache is as good.
inline constexpr int kPrefetchTokens = 4;
inline constexpr int64_t kNearBytes = 4096;

// Whether two tiles fetch half of the next panels each, where tokens need many bytes: one alone
// can't hide all of it (16 tokens on Zen 5: q8_0 gains 8 %, f32 17 %; bf16 would lose 5 %).
template <typename Weight>
inline constexpr bool kFetchesInHalves = [] {
  if constexpr (Weight::kInt8) {
    return true;
  } else {
    return Weight::kInPlace;
  }
}();

template <int kLines, int kPanels>
LLMIR_INLINE void PrefetchLines(const std::byte* const (&panels)[kPanels], int64_t offset) {
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
    for (int line = 0; line < kLines; ++line) {
      __builtin_prefetch(panels[p] + offset + line * kLine, 0, 3);
    }
  }
}

// Adds leaf number `leaf` to the tree: level l holds a subtree of 2^l leaves wherever bit l of the
// number of leaves so far is set, so a leaf is carried upward like a one in a binary counter.
template <typename Lanes, int kPanels, int kTokens>
LLMIR_INLINE void PushLeaf(typename Lanes::F (&sums)[kPanels][kTokens], int64_t leaf, float* tree) {
  constexpr int kLevel = kPanels * kTokens * 16;
  for (; (leaf & 1) != 0; leaf >>= 1, tree += kLevel) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        sums[p][t] = Lanes::Add(Lanes::Load(tree + (p * kTokens + t) * 16), sums[p][t]);
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) Lanes::Store(tree + (p * kTokens + t) * 16, sums[p][t]);
  }
}

// The total of `leaves` leaves: the subtrees that are left, from the smallest to the largest.
template <typename Lanes, int kPanels, int kTokens>
LLMIR_INLINE void FoldTree(int64_t leaves, const float* tree, float* sums) {
  constexpr int kSums = kPanels * kTokens;
  bool first = true;
  for (; leaves != 0; leaves >>= 1, tree += kSums * 16) {
    if ((leaves & 1) == 0) continue;
    for (int i = 0; i < kSums; ++i) {
      const typename Lanes::F subtree = Lanes::Load(tree + i * 16);
      Lanes::Store(sums + i * 16,
                   first ? subtree : Lanes::Add(subtree, Lanes::Load(sums + i * 16)));
    }
    first = false;
  }
}

// The part of a tile's sum that its next leaf belongs to.
struct PartOfSum {
  int64_t leaves;      // that it has so far
  const int64_t* end;  // columns at which it ends, and then those after it
  float* sums;         // where it goes, and then those after it
};

// Adds the sums of a leaf that ends at column `end` to its part, and ends the part where it does.
template <typename Lanes, int kPanels, int kTokens>
LLMIR_INLINE void EndLeaf(typename Lanes::F (&sums)[kPanels][kTokens], int64_t end, float* tree,
                          PartOfSum& part) {
  PushLeaf<Lanes>(sums, part.leaves++, tree);
  if (end < *part.end) return;
  FoldTree<Lanes, kPanels, kTokens>(part.leaves, tree, part.sums);
  part.sums += kPanels * kTokens * 16;
  ++part.end;
  part.leaves = 0;
}

// Calls add(begin, end, sums) for each leaf's columns, sums from 0; the rest of the order of sums
// is here.
template <typename Lanes, int kPanels, int kTokens>
LLMIR_INLINE void SumLeaves(const TileArgs& args, const auto& add) {
  PartOfSum part{0, args.part_ends, args.sums};
  for (int64_t begin = 0; begin < args.columns; begin += args.leaf_columns) {
    const int64_t rest = args.columns - begin;
    const int64_t end = begin + (rest < args.leaf_columns ? rest : args.leaf_columns);
    typename Lanes::F sums[kPanels][kTokens];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) sums[p][t] = Lanes::Zero();
    }
    add(begin, end, sums);
    EndLeaf<Lanes>(sums, end, args.tree, part);
  }
}

// ------------------------------------------------------------------------------------------- float
// weights

// Weight::Even and Weight::Odd give column k of a panel's 16 rows as floats, k being even or odd.
template <typename Lanes, typename Weight, int kPanels, int kTokens>
__attribute__((noinline)) void FloatTile(const TileArgs& args) {
  using F = typename Lanes::F;
  const std::byte* panels[kPanels];
  const std::byte* x[kTokens];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) panels[p] = args.panels[p];
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) x[t] = args.x + t * args.x_stride;

  SumLeaves<Lanes, kPanels, kTokens>(
      args,
      [&](int64_t begin, int64_t end, F(&sums)[kPanels][kTokens]) __attribute__((always_inline)) {
        const auto add_column = [&](const F(&w)[kPanels],
                                    int64_t k) __attribute__((always_inline)) {
#pragma GCC unroll 16
          for (int t = 0; t < kTokens; ++t) {
            const F value = Lanes::Set(reinterpret_cast<const float*>(x[t])[k]);
#pragma GCC unroll 4
            for (int p = 0; p < kPanels; ++p) sums[p][t] = Lanes::Fma(w[p], value, sums[p][t]);
          }
        };
        const auto add_even = [&](int64_t k) __attribute__((always_inline)) {
          F w[kPanels];
#pragma GCC unroll 4
          for (int p = 0; p < kPanels; ++p) w[p] = Weight::Even(panels[p], k);
          add_column(w, k);
        };
        const auto add_odd = [&](int64_t k) __attribute__((always_inline)) {
          F w[kPanels];
#pragma GCC unroll 4
          for (int p = 0; p < kPanels; ++p) w[p] = Weight::Odd(panels[p], k);
          add_column(w, k);
        };
        int64_t k = begin;
        if ((k & 1) != 0) add_odd(k++);
        for (; k + 2 <= end; k += 2) {
          if constexpr (kTokens >= kPrefetchTokens) {
            // Choosing takes a seventh of the instructions of 4 tokens of bf16.
            const int64_t half = kFetchesInHalves<Weight> ? k / 2 & 1 : 0;
            PrefetchLines<Weight::PanelBytes(2) / kLine>(
                panels, Weight::PanelBytes(k) + args.prefetch[half]);
          }
          add_even(k);
          add_odd(k + 1);
        }
        if (k < end) add_even(k);
      });
}

// The same for weights and rows in words of two bf16, the first column in the high half. Leaves
// have an even number of columns.
template <typename Lanes, typename Weight, int kPanels, int kTokens>
__attribute__((noinline)) void PairTile(const TileArgs& args) {
  using F = typename Lanes::F;
  using I = typename Lanes::I;
  const std::byte* panels[kPanels];
  const std::byte* x[kTokens];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) panels[p] = args.panels[p];
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) x[t] = args.x + t * args.x_stride;

  SumLeaves<Lanes, kPanels, kTokens>(
      args,
      [&](int64_t begin, int64_t end, F(&sums)[kPanels][kTokens]) __attribute__((always_inline)) {
        for (int64_t k = begin; k < end; k += 2) {
          if constexpr (kTokens >= kPrefetchTokens) {
            PrefetchLines<1>(panels, Weight::PanelBytes(k) + args.prefetch[0]);
          }
          I w[kPanels];
#pragma GCC unroll 4
          for (int p = 0; p < kPanels; ++p)
            w[p] = Lanes::LoadLine(panels[p] + Weight::PanelBytes(k));
#pragma GCC unroll 16
          for (int t = 0; t < kTokens; ++t) {
            const I value = Lanes::SetInt(reinterpret_cast<const int32_t*>(x[t])[k / 2]);
#pragma GCC unroll 4
            for (int p = 0; p < kPanels; ++p) sums[p][t] = Lanes::DotPairs(sums[p][t], w[p], value);
          }
        }
      });
}

template <typename Lanes>
struct F32Weight {
  static constexpr bool kInt8 = false;
  static constexpr bool kInPlace = true;  // columns lie as floats
  static constexpr LLMIR_INLINE int64_t PanelBytes(int64_t columns) { return columns * kLine; }
  static LLMIR_INLINE typename Lanes::F Even(const std::byte* panel, int64_t k) {
    return Lanes::Load(reinterpret_cast<const float*>(panel + k * kLine));
  }
  static LLMIR_INLINE typename Lanes::F Odd(const std::byte* panel, int64_t k) {
    return Even(panel, k);
  }
};

template <typename Lanes>
struct F16Weight {
  static constexpr bool kInt8 = false;
  static constexpr bool kInPlace = false;  // columns lie as floats
  static constexpr LLMIR_INLINE int64_t PanelBytes(int64_t columns) {
    return (columns + 1) / 2 * kLine;
  }
  static LLMIR_INLINE typename Lanes::F Even(const std::byte* panel, int64_t k) {
    return Lanes::LoadHalf(panel + k * (kLine / 2));
  }
  static LLMIR_INLINE typename Lanes::F Odd(const std::byte* panel, int64_t k) {
    return Even(panel, k);
  }
};

template <typename Lanes>
struct BF16Weight {
  static constexpr bool kInt8 = false;
  static constexpr bool kInPlace = false;  // columns lie as floats
  static constexpr LLMIR_INLINE int64_t PanelBytes(int64_t columns) {
    return (columns + 1) / 2 * kLine;
  }
  static LLMIR_INLINE typename Lanes::F Even(const std::byte* panel, int64_t k) {
    return Lanes::EvenBF16(Lanes::LoadLine(panel + k * (kLine / 2)));
  }
  static LLMIR_INLINE typename Lanes::F Odd(const std::byte* panel, int64_t k) {
    return Lanes::OddBF16(Lanes::LoadLine(panel + (k - 1) * (kLine / 2)));
  }
};

// ------------------------------------------------------------------------------------------- q
// weights

// Dot::Group gives the exact int32 dots of one group of 32 columns; Dot::Groups says where its
// quants and scales are.
template <typename Lanes, typename Dot, int kPanels, int kTokens>
__attribute__((noinline)) void QuantTile(const TileArgs& args) {
  using F = typename Lanes::F;
  using I = typename Lanes::I;
  const std::byte* panels[kPanels];
  const std::byte* x[kTokens];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) panels[p] = args.panels[p];
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) x[t] = args.x + t * args.x_stride;
  // Scales and sums follow the quants of a token (kernels/activations.h).
  const int64_t scales_at = args.columns;
  const int64_t sums_at = args.columns + args.columns / kGroup * 4;

  SumLeaves<Lanes, kPanels, kTokens>(
      args,
      [&](int64_t begin, int64_t end, F(&sums)[kPanels][kTokens]) __attribute__((always_inline)) {
        for (int64_t group = begin / kGroup; group < end / kGroup; ++group) {
          const GroupPlace place = Dot::Groups::At(group);
          const std::byte* quants[kPanels];
          const std::byte* xq[kTokens];
          int32_t x_sum[kTokens];
#pragma GCC unroll 4
          for (int p = 0; p < kPanels; ++p) quants[p] = panels[p] + place.quants;
#pragma GCC unroll 16
          for (int t = 0; t < kTokens; ++t) {
            xq[t] = x[t] + group * kGroup;
            x_sum[t] = reinterpret_cast<const int32_t*>(x[t] + sums_at)[group];
          }
          if constexpr (Dot::kPrefetch && kTokens >= kPrefetchTokens) {
            // The quants, a line per bit; the line after them has scales.
            PrefetchLines<Dot::Groups::kBits + 1>(panels, place.quants + args.prefetch[group & 1]);
          }
          I dots[kPanels][kTokens];
          Dot::template Group<kPanels, kTokens>(quants, xq, x_sum, dots);
#pragma GCC unroll 16
          for (int t = 0; t < kTokens; ++t) {
            const float x_scale = reinterpret_cast<const float*>(x[t] + scales_at)[group];
            const F scale = Lanes::Set(x_scale);
            const F minimum_factor = Lanes::Set(x_scale * static_cast<float>(x_sum[t]));
#pragma GCC unroll 4
            for (int p = 0; p < kPanels; ++p) {
              const std::byte* w_scale = panels[p] + place.scale;
              sums[p][t] = Lanes::Fma(Lanes::ToFloat(dots[p][t]),
                                      Lanes::Mul(Lanes::LoadHalf(w_scale), scale), sums[p][t]);
              if constexpr (Dot::Groups::kMinimum) {
                sums[p][t] =
                    Lanes::Fma(Lanes::LoadHalf(w_scale + kLine / 2), minimum_factor, sums[p][t]);
              }
            }
          }
        }
      });
}

}  // namespace llmir::kernels
