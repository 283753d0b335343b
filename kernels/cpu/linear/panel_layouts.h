// Where the values of a packed panel lie: 16 rows, all K columns, one sequential stream of 64-byte
// lines. Shared by the packers (packing.cc) and the kernels; a change of bytes needs a new layout
// id.
//
//   f32    line k: column k of rows 0..15
//   f16    half a line per column: column k of rows 0..15 at 32 * k
//   bf16   line k / 2: 16 words of 32 bits, word r holds columns k (low half) and k + 1 (high half)
//   of row r, so that a
//          shift and a mask make two float vectors of one load
//   bf16 pairs  the same with column k in the high half, which AVX-512's dot of pairs adds first
//   q      per group of 32 columns, a plane of the low bits of the quants and a plane of the high
//   bits (LowBits below). A plane of w bits has w lines; a quad is 4 consecutive columns, and quad
//   i of row r is in bytes 4 * r ... 4 * r + 3 of line i * w / 8, from bit i * w % 8, so that a
//   shift and a mask give it. q8 is signed or, for VNNI whose first operand is unsigned, plus 128
//          scales and minimums are f16, 16 rows in half a line:
//   q_0    per pair of groups: a line with the scales of the even group and those of the odd, then
//   the planes of both. A last group without a partner has a scale line of its own, half empty
//   q_1    per group: a line of scales and minimums, then its planes
//   q_1_64 per pair of groups: a line of scales and minimums for both, then the planes of both
#pragma once

#include <cstdint>

#define LLMIR_INLINE inline __attribute__((always_inline))

namespace llmir::kernels {

inline constexpr int64_t kLine = 64;
inline constexpr int64_t kGroup = 32;

enum class PanelLayout : uint32_t {
  kF32 = 1,
  kF16 = 2,
  kBF16 = 3,
  kQ8Signed = 4,
  kQ8Offset = 5,
  kQ4_0 = 6,
  kQ4_1 = 7,
  kQ3_0 = 8,
  kQ3_1 = 9,
  kQ5_0 = 10,
  kQ5_1 = 11,
  kQ6_0 = 12,
  kQ6_1 = 13,
  kQ3_1_64 = 14,
  kQ4_1_64 = 15,
  kQ5_1_64 = 16,
  kQ6_1_64 = 17,
  kBF16Pairs = 18,
};

// Of `bits` bits, those in the low plane; the others are in the high plane. 1, 2, 4 or 8 divide a
// byte.
constexpr LLMIR_INLINE int LowBits(int bits) { return bits == 8 ? 8 : bits >= 4 ? 4 : 2; }

// Byte offsets of a group within its panel. Minimums follow at scale + 32.
struct GroupPlace {
  int64_t scale;
  int64_t quants;
};

// Two groups share a line of scales: q_0.
template <int kBitsValue>
struct PairedGroups {
  static constexpr int kBits = kBitsValue;
  static constexpr bool kMinimum = false;
  static constexpr int64_t kQuantBytes = kBits * kLine;
  static constexpr int64_t kPairBytes = kLine + 2 * kQuantBytes;
  static constexpr LLMIR_INLINE GroupPlace At(int64_t group) {
    const int64_t pair = (group >> 1) * kPairBytes;
    const int64_t odd = group & 1;
    return {pair + odd * (kLine / 2), pair + kLine + odd * kQuantBytes};
  }
  static constexpr LLMIR_INLINE int64_t PanelBytes(int64_t groups) {
    return (groups >> 1) * kPairBytes + (groups & 1) * (kLine + kQuantBytes);
  }
};

// Each group has a line of scales and minimums: q_1.
template <int kBitsValue>
struct SingleGroups {
  static constexpr int kBits = kBitsValue;
  static constexpr bool kMinimum = true;
  static constexpr int64_t kBytes = kLine + kBits * kLine;
  static constexpr LLMIR_INLINE GroupPlace At(int64_t group) {
    return {group * kBytes, group * kBytes + kLine};
  }
  static constexpr LLMIR_INLINE int64_t PanelBytes(int64_t groups) { return groups * kBytes; }
};

// Two groups have one scale and minimum: q_1_64.
template <int kBitsValue>
struct JointGroups {
  static constexpr int kBits = kBitsValue;
  static constexpr bool kMinimum = true;
  static constexpr int64_t kQuantBytes = kBits * kLine;
  static constexpr int64_t kPairBytes = kLine + 2 * kQuantBytes;
  static constexpr LLMIR_INLINE GroupPlace At(int64_t group) {
    const int64_t pair = (group >> 1) * kPairBytes;
    return {pair, pair + kLine + (group & 1) * kQuantBytes};
  }
  static constexpr LLMIR_INLINE int64_t PanelBytes(int64_t groups) {
    return (groups >> 1) * kPairBytes;
  }
};

// Columns at whose multiples lines begin and no pair of groups is cut.
constexpr int64_t ColumnStep(PanelLayout layout) {
  switch (layout) {
    case PanelLayout::kF32:
      return 1;
    case PanelLayout::kF16:
    case PanelLayout::kBF16:
    case PanelLayout::kBF16Pairs:
      return 2;
    case PanelLayout::kQ4_1:
    case PanelLayout::kQ3_1:
    case PanelLayout::kQ5_1:
    case PanelLayout::kQ6_1:
      return kGroup;
    default:
      return 2 * kGroup;
  }
}

}  // namespace llmir::kernels
