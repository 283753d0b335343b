// Facts that follow from a plan's tables: leaf ranges, sizes, shapes. Planner, executor, verifier
// and printer all take them from here, so that they cannot disagree. Pure functions on a verified
// plan; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "plan_schema/plan_generated.h"

namespace llmir::plan {

struct Leaves {
  uint32_t begin = 0;
  uint32_t end = 0;
  uint32_t count() const { return end - begin; }
};

// Bytes of `columns` elements of one row. For q8_rows: columns + 8 bytes per 32 columns
// (kernels/cpu/activations.h).
uint64_t RowBytes(DType dtype, uint64_t columns);
const char* DTypeName(DType dtype);
// The block formats, whose linear kernels read activations in int8.
bool IsQuantized(DType dtype);
// Those that need Feature::few_bit_weights: all but q8_0, q4_0 and q4_1.
bool IsFewBits(DType dtype);
// Columns that share a scale in a block format, 32 or 64; 0: not a block format.
uint32_t QuantGroup(DType dtype);

// The kernel that multiplies with a weight of this type, "linear_q8_q4_1"; with
// Plan.bf16_activations that of bf16 is "linear_bf16_bf16".
std::string LinearKernelName(DType weight, bool bf16_activations);
// Whether a file holds the tensor row by row; else it is only in panels (Weight.packed).
bool HasRows(const Tensor& tensor);

// How many leaves the model has of `unit` (1 for whole).
uint32_t LeafCount(const Model& model, Unit unit);
// The rank's range of `unit`; {0, 1} for whole.
Leaves RankLeaves(const Rank& rank, Unit unit);
// Elements [begin, end) of an axis of `total` elements that leaves [leaves.begin, leaves.end) of
// `leaf_size` cover; the last leaf may be short.
struct Extent {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t size() const { return end - begin; }
};
Extent LeafExtent(Leaves leaves, uint32_t leaf_size, uint64_t total);

// Rows that hold a part of a step's tokens.
constexpr bool IsPart(Rows rows) {
  return rows == Rows::first_half || rows == Rows::second_half || rows == Rows::share;
}
// The kinds that Feature::other_layers stands for.
constexpr bool IsOtherLayer(StepKind kind) {
  return kind == StepKind::layer_norm || kind == StepKind::activation ||
         kind == StepKind::softcap || kind == StepKind::dequantize;
}
// The kinds that Feature::split_collectives stands for.
constexpr bool IsSplitCollective(StepKind kind) {
  return kind >= StepKind::reduce_scatter && kind <= StepKind::gather_start;
}
// Steps that all ranks of a stage run together.
constexpr bool IsCollective(StepKind kind) {
  switch (kind) {
    case StepKind::all_reduce:
    case StepKind::all_reduce_start:
    case StepKind::reduce_scatter:
    case StepKind::reduce_scatter_start:
    case StepKind::all_gather:
    case StepKind::all_gather_start:
    case StepKind::broadcast:
    case StepKind::broadcast_start:
    case StepKind::gather:
    case StepKind::gather_start:
      return true;
    default:
      return false;
  }
}
constexpr bool IsSend(StepKind kind) {
  return kind == StepKind::send || kind == StepKind::send_start;
}
constexpr bool IsRecv(StepKind kind) {
  return kind == StepKind::recv || kind == StepKind::recv_start;
}
constexpr bool IsGather(StepKind kind) {
  return kind == StepKind::gather || kind == StepKind::gather_start;
}
constexpr bool IsBroadcast(StepKind kind) {
  return kind == StepKind::broadcast || kind == StepKind::broadcast_start;
}
// Collectives whose result is a sum over the ranks.
constexpr bool IsSum(StepKind kind) {
  return kind == StepKind::all_reduce || kind == StepKind::all_reduce_start ||
         kind == StepKind::reduce_scatter || kind == StepKind::reduce_scatter_start;
}
// Steps whose rows can travel in int8 (Step.wire).
constexpr bool TakesWire(StepKind kind) {
  return IsSum(kind) || kind == StepKind::all_gather || kind == StepKind::all_gather_start ||
         IsSend(kind) || IsRecv(kind);
}
// The part of their bytes that rows of f32 have between hosts.
constexpr double WireShare(Wire wire) { return wire == Wire::int8 ? 34.0 / 128 : 1; }
// Plan.wire_error of int8: half a step of a scale that is the largest magnitude over 127, itself
// rounded.
inline constexpr double kInt8WireError = 0.004;
// Starts signal an event, which is waited for.
constexpr bool IsStart(StepKind kind) {
  return kind == StepKind::all_reduce_start || kind == StepKind::reduce_scatter_start ||
         kind == StepKind::all_gather_start || kind == StepKind::broadcast_start ||
         kind == StepKind::gather_start || kind == StepKind::send_start ||
         kind == StepKind::recv_start;
}

// Which of a step's `tokens` rows `rows` are on rank `rank` of a stage of `ranks`: all for
// Rows::tokens, a part, possibly empty, for the others. Not for sampled and one, whose rows aren't
// tokens.
Extent TokenRows(Rows rows, uint64_t tokens, uint32_t rank, uint32_t ranks);
// Whether some token's row belongs to both, whatever the step. Sampled and one have none in common
// with any.
bool ShareRows(Rows a, Rows b);

// The part of a tensor that a rank takes.
struct TensorPart {
  Extent rows;
  Extent columns;
};
TensorPart RankTensorPart(const Tensor& tensor, const Rank& rank);

// Rows (sum over pieces) and columns of a weight on a rank.
struct WeightShape {
  uint64_t rows = 0;
  uint64_t columns = 0;
};
WeightShape RankWeightShape(const Plan& plan, const Weight& weight, const Rank& rank);

// Peak bytes of a rank with `blocks` KV blocks in use.
uint64_t PeakBytes(const Memory& memory, uint64_t blocks);

// Index of the longest of Plan.prefixes that `ids` starts with and goes on after; -1: none.
int32_t LongestPrefix(const Plan& plan, std::span<const int32_t> ids);
// KV blocks that the prefixes hold; one that starts with another shares that one's.
uint64_t PinnedBlocks(const Plan& plan);
// Bytes of K and V of one head of one layer in a block, scales included.
uint64_t KvHeadBytes(DType dtype, uint64_t block_size, uint64_t head_dim);
// Blocks of an extent, of a pool of `blocks`, in which a head's slices make runs of about
// `run_bytes`. Measured over 4,096 tokens of SmolLM2, two threads of a Zen 5, per step: 2,550 us
// for blocks by themselves, 2,190 us for runs of 32 KiB, 2,280 us for 64; and longer runs make more
// memory present, all at once when a sequence comes to its next extent.
inline constexpr uint64_t kKvRunBytes = uint64_t{32} << 10;
uint32_t KvExtentBlocks(uint64_t head_bytes, uint64_t blocks, uint64_t run_bytes = kKvRunBytes);
// Bytes of a rank's blocks, whole extents; from kHugeKvArena on they lie in huge pages, whose gain
// is more than the memory of what nobody has touched: attention of 4 sequences of 120 tokens over
// 15 MB takes 21 us a layer instead of 29 (SmolLM2, one thread of a Zen 5).
inline constexpr uint64_t kHugeKvArena = uint64_t{8} << 20;
uint64_t KvArenaBytes(const Plan& plan, const Rank& rank);
// Its blocks, those of the last extent that nobody gets included.
uint64_t KvArenaBlocks(const Plan& plan);
// Tokens that a token of `layer` attends to, itself included; 0: all.
uint32_t AttentionWindow(const Model& model, uint32_t layer);
// The same over all layers: what a sequence's cache must keep. 0: everything.
uint32_t KvWindow(const Model& model);
// The most blocks that a sequence of `tokens` tokens in the end holds at a time, where blocks that
// are out of `window` (0: none are) are given back before each step of at most `chunk` tokens.
uint64_t SequenceBlocks(uint64_t tokens, uint64_t block_size, uint64_t window, uint64_t chunk);

// The most steps that the replicas of a plan have in flight together: rank 0 has a receive open for
// the result of each.
inline constexpr uint32_t kMostStepsInFlight = 16;
// Sequences that may run at a time on each replica: a batch for each step in flight.
uint32_t RunningSequences(const Plan& plan);

// World ranks named by all replicas (those that run); the job needs exactly this many.
uint32_t WorldSize(const Plan& plan);

}  // namespace llmir::plan
