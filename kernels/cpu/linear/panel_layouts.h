// Where the values of a packed panel lie: 16 rows, all K columns, one sequential stream of 64-byte
// lines. Shared by the packers (packing.cc) and the kernels; a change of bytes needs a new layout
// id.
//
//   f32    line k: column k of rows 0..15
//   f16    half a line per column: column k of rows 0..15 at 32 * k
//   bf16   line k / 2: 16 words of 32 bits, word r holds columns k (low half) and k + 1 (high half)
//   of row r, so that a
//          shift and a mask make two float vectors of one load
//   q8_0   per pair of groups: a line of f16 scales (16 rows of the even group, 16 of the odd),
//   then 2 x 8 lines of
//          quants, line o: 4 bytes a row, columns 4 * o ... 4 * o + 3 of the group. Signed or, for
//          VNNI whose first operand is unsigned, plus 128
//   q4_0   per pair of groups: a line of scales as q8_0, then 2 x 4 lines of quants, line o: 4
//   bytes a row, byte j holds
//          column 8 * o + j (low nibble) and 8 * o + 4 + j (high nibble), so that a mask gives 4
//          consecutive columns
//   q4_1   per group: a line of 16 scales and 16 minimums, then 4 lines of quants as q4_0
//
// A last group without a partner has a scale line of its own, half empty.
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
};

// Byte offsets of a group within its panel. Minimums follow at scale + 32.
struct GroupPlace {
  int64_t scale;
  int64_t quants;
};

// Two groups share a line of scales.
template <int kLines>
struct PairedGroups {
  static constexpr int kQuantLines = kLines;
  static constexpr int64_t kQuantBytes = kLines * kLine;
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

// Each group has a line of scales and minimums.
template <int kLines>
struct SingleGroups {
  static constexpr int kQuantLines = kLines;
  static constexpr int64_t kBytes = kLine + kLines * kLine;
  static constexpr LLMIR_INLINE GroupPlace At(int64_t group) {
    return {group * kBytes, group * kBytes + kLine};
  }
  static constexpr LLMIR_INLINE int64_t PanelBytes(int64_t groups) { return groups * kBytes; }
};

using Q8Groups = PairedGroups<8>;
using Q4_0Groups = PairedGroups<4>;
using Q4_1Groups = SingleGroups<4>;

}  // namespace llmir::kernels
