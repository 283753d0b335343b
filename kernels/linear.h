// output[t][n] = sum over k of activation[t][k] * weight[n][k], for weights packed once at load.
//
// Packing. Rows are grouped in panels of kPanelRows; the SIMD lanes are the rows of a panel, so a
// sum along K stays in one lane and needs no horizontal add. What a panel holds is the kernel's own
// affair, named by its layout id.
//
// Order of sums, the same in every kernel of a weight type (one row, few, many) and for every
// number of threads:
//   f32, f16, bf16 weights: acc = fma(w[k], x[k], acc) for k ascending, within a K leaf, from 0;
//     linear_bf16_bf16 takes x[k] rounded to the nearest bf16, and what is below every normal
//     float, of values and sums, as 0 or as it is, by the processor;
//   q weights: per group of 32 columns, an exact int32 dot; then
//     acc = fma(float(dot), w_scale * x_scale, acc), and for types with a minimum
//     acc = fma(w_minimum, x_scale * float(x_sum), acc), groups ascending, within a K leaf, from 0;
//     where 64 columns share scale and minimum, both groups of 32 take these steps, each with its
//     own x_scale and x_sum;
//   leaves: the pairwise tree of TreeOrder below; residual added after it.
// "One rounding per line as written" holds on all ISA families.
//
// Laws: no allocation, no globals, no libc state. Tails of N and K are handled. Reads beyond a
// row's end are only into its padding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/block_formats.h"
#include "kernels/isa.h"

namespace llmir::kernels {

inline constexpr int64_t kPanelRows = 16;

// One row of a source matrix. `data` points at its first column; null: a row of zeros (padding).
struct SourceRow {
  Encoding encoding = Encoding::kF32;
  const std::byte* data = nullptr;
};

// The fixed tree over the L leaf results of a row cut along K: a balanced binary tree in which the
// leaves are added as a binary counter adds carries: combine(i) merges equal-sized neighbours as
// soon as both exist, and at the end the remaining subtrees are added from the last (smallest) to
// the first: ((s_small + ...) is added to the one before it: total = s_big + (s_mid + (s_small))).
// In other words: the sum of L leaves is that of the first m plus that of the others, m being the
// largest power of two below L. Leaves count from the first column given: a rank that holds leaves
// [b, e) of a matrix cut along K makes the tree of its own leaves, or, with `parts`, one tree for
// each part of them. Where the parts are subtrees of the tree over all leaves of the matrix, they
// can be added up to that tree's very bits (plan_schema/sum_tree.h).
struct LinearArgs {
  const std::byte* weights;  // packed panels, 64-byte aligned
  int64_t panel_stride;      // bytes from a panel to the next; 0: panel_bytes(columns). More where
                             // `columns` are a part of those that were packed
  int64_t rows;              // N, all rows of the weight on this rank (both pieces when silu_mul)
  int64_t columns;           // K
  int64_t leaf_columns;  // columns per K leaf; 0: all of K is one leaf. A multiple of the group's
                         // values for q weights, of 2 for bf16_activations
  const std::byte* activations;  // token rows: float[K], or int8 rows (activations.h) for q
                                 // weights; 64-byte aligned
  int64_t activation_stride;     // bytes from token to token
  int64_t tokens;
  float* output;            // [tokens][N], or [tokens][N/2] when silu_mul
  int64_t output_stride;    // floats
  const float* residual;    // [tokens][N] added at the end; null: none. May be `output` itself
  int64_t residual_stride;  // floats
  bool silu_mul;        // panels alternate gate, up: output = silu(gate) * up; `rows` counts padded
                        // panels: N = 16 * panels
  int64_t panel_begin;  // this call's share of the panels, [begin, end); even when silu_mul
  int64_t panel_end;
  std::byte* scratch;  // scratch_bytes(), 64-byte aligned, this thread's own
  // A sum in parts: part i has the leaves between part_ends[i - 1] and part_ends[i], columns that
  // are multiples of leaf_columns or `columns`, ascending. Its sums go to output + i * part_stride;
  // neither residual nor silu_mul. 0: one part, all of K. At most MaxParts(columns).
  int64_t parts;
  const int64_t* part_ends;
  int64_t part_stride;  // floats
};

// The most parts of a sum of `columns` columns: a range of a tree's leaves is made of no more
// subtrees than two for each level.
int64_t MaxParts(int64_t columns);

struct LinearKernel {
  const char* name;  // as in plans: "linear_<activation>_<weight>", e.g. "linear_q8_q4_1"
  Isa isa;
  Encoding weight;
  bool int8_activations;  // activations are int8 rows, else float rows
  bool bf16_activations;  // float rows that are rounded to bf16
  uint32_t layout;        // id of the packed layout; equal ids, equal bytes
  // Bytes of one packed panel of K columns; a multiple of 64.
  int64_t (*panel_bytes)(int64_t columns);
  // A part of a panel's columns is a panel of these columns, if it starts at a multiple of this:
  // column c is then at byte panel_bytes(c).
  int64_t column_step;
  // Packs up to kPanelRows rows of `columns` values; rows.size() < kPanelRows is padded with zero
  // rows. Source rows of the weight's own q type keep their exact scales and quants; others are
  // converted (round to nearest) through float. `scratch`: pack_scratch_bytes(columns).
  void (*pack_panel)(std::span<const SourceRow> rows, int64_t columns, std::byte* panel,
                     std::byte* scratch);
  int64_t (*pack_scratch_bytes)(int64_t columns);
  // Row `row` of a packed weight as floats (embedding look-up from a tied head).
  void (*unpack_row)(const std::byte* weights, int64_t row, int64_t columns, float* out);
  // Row `row`, 0 to 15, of one panel as it was packed: BlockRowBytes(weight, columns) bytes. Packed
  // again it gives the same values.
  void (*restore_row)(const std::byte* panel, int64_t row, int64_t columns, std::byte* out);
  void (*run)(const LinearArgs& args);
  int64_t (*scratch_bytes)(int64_t columns, int64_t max_tokens);
};

// The kernel of this name for `isa`, or for the best family below it that has one; null: unknown
// name.
const LinearKernel* FindLinear(std::string_view name, Isa isa);
// A kernel that reads this packed layout, whatever its family; null: an unknown id.
const LinearKernel* FindLinearByLayout(uint32_t layout);

// Which bytes of a packed matrix hold a range of its rows and columns, whole lines and panels, so
// it may hold more.
struct PanelPart {
  int64_t panel_begin;
  int64_t panel_end;
  int64_t byte_begin;  // within each of these panels
  int64_t byte_end;
};
// Rows [row_begin, row_end) and columns [column_begin, column_end) of a matrix of `columns`
// columns.
PanelPart PanelPartOf(const LinearKernel& kernel, int64_t columns, int64_t row_begin,
                      int64_t row_end, int64_t column_begin, int64_t column_end);

// All kernels, for tests and benchmarks.
std::span<const LinearKernel> LinearKernels();

}  // namespace llmir::kernels
