#include "plan_schema/plan_facts.h"

#include <algorithm>
#include <bit>

namespace llmir::plan {

uint64_t RowBytes(DType dtype, uint64_t columns) {
  constexpr uint64_t kBlock = 32;  // values that share a scale in the q types
  const uint64_t blocks = columns / kBlock + (columns % kBlock != 0);
  const uint64_t pairs = columns / (2 * kBlock) + (columns % (2 * kBlock) != 0);
  switch (dtype) {
    case DType::none:
      return 0;
    case DType::f32:
    case DType::i32:
      return columns * 4;
    case DType::f16:
    case DType::bf16:
      return columns * 2;
    case DType::i8:
    case DType::f8_e4m3:
      return columns;
    case DType::q8_0:
      return blocks * 34;
    case DType::q4_0:
      return blocks * 18;
    case DType::q4_1:
      return blocks * 20;
    case DType::q5_0:
      return blocks * 22;
    case DType::q5_1:
      return blocks * 24;
    case DType::q6_0:
      return blocks * 26;
    case DType::q6_1:
      return blocks * 28;
    case DType::q3_0:
      return blocks * 14;
    case DType::q3_1:
      return blocks * 16;
    case DType::q3_1_64:
      return pairs * 28;
    case DType::q4_1_64:
      return pairs * 36;
    case DType::q5_1_64:
      return pairs * 44;
    case DType::q6_1_64:
      return pairs * 52;
    case DType::q8_rows:
      return columns + blocks * 8;
  }
  return 0;
}

bool IsQuantized(DType dtype) { return QuantGroup(dtype) != 0; }

bool IsFewBits(DType dtype) {
  return IsQuantized(dtype) && dtype != DType::q8_0 && dtype != DType::q4_0 && dtype != DType::q4_1;
}

uint32_t QuantGroup(DType dtype) {
  switch (dtype) {
    case DType::q8_0:
    case DType::q4_0:
    case DType::q4_1:
    case DType::q5_0:
    case DType::q5_1:
    case DType::q6_0:
    case DType::q6_1:
    case DType::q3_0:
    case DType::q3_1:
      return 32;
    case DType::q3_1_64:
    case DType::q4_1_64:
    case DType::q5_1_64:
    case DType::q6_1_64:
      return 64;
    default:
      return 0;
  }
}

std::string LinearKernelName(DType weight, bool bf16_activations) {
  const char* activations = IsQuantized(weight)                         ? "q8_"
                            : bf16_activations && weight == DType::bf16 ? "bf16_"
                                                                        : "f32_";
  return std::string("linear_") + activations + DTypeName(weight);
}

bool HasRows(const Tensor& tensor) { return tensor.bytes() != 0; }

const char* DTypeName(DType dtype) { return EnumNameDType(dtype); }

uint32_t LeafCount(const Model& model, Unit unit) {
  const auto leaves = [](uint32_t total, uint32_t leaf_size) {
    return leaf_size == 0 ? 0 : total / leaf_size + (total % leaf_size != 0);
  };
  switch (unit) {
    case Unit::whole:
      return 1;
    case Unit::query_head:
      return model.query_heads();
    case Unit::kv_head:
      return model.kv_heads();
    case Unit::mlp_column:
      return leaves(model.mlp_columns(), model.mlp_leaf());
    case Unit::vocabulary:
      return leaves(model.vocabulary(), model.vocabulary_leaf());
  }
  return 0;
}

Leaves RankLeaves(const Rank& rank, Unit unit) {
  if (unit == Unit::whole) return {0, 1};
  if (rank.ranges() != nullptr) {
    for (const LeafRange* range : *rank.ranges()) {
      if (range->unit() == unit) return {range->begin(), range->end()};
    }
  }
  return {0, 0};
}

Extent LeafExtent(Leaves leaves, uint32_t leaf_size, uint64_t total) {
  return {std::min<uint64_t>(uint64_t{leaves.begin} * leaf_size, total),
          std::min<uint64_t>(uint64_t{leaves.end} * leaf_size, total)};
}

Extent TokenRows(Rows rows, uint64_t tokens, uint32_t rank, uint32_t ranks) {
  switch (rows) {
    case Rows::first_half:
      return {0, (tokens + 1) / 2};
    case Rows::second_half:
      return {(tokens + 1) / 2, tokens};
    case Rows::share:
      return {tokens * rank / ranks, tokens * (rank + 1) / ranks};
    default:
      return {0, tokens};
  }
}

bool ShareRows(Rows a, Rows b) {
  const auto halves = [](Rows one, Rows other) {
    return one == Rows::first_half && other == Rows::second_half;
  };
  const auto are_tokens = [](Rows rows) { return rows == Rows::tokens || IsPart(rows); };
  return are_tokens(a) && are_tokens(b) && !halves(a, b) && !halves(b, a);
}

TensorPart RankTensorPart(const Tensor& tensor, const Rank& rank) {
  TensorPart part{{0, tensor.rows()}, {0, tensor.columns()}};
  if (tensor.unit() == Unit::whole) return part;
  const Leaves leaves = RankLeaves(rank, tensor.unit());
  if (tensor.axis() == Axis::rows) {
    part.rows = LeafExtent(leaves, tensor.leaf_size(), tensor.rows());
  } else if (tensor.axis() == Axis::columns) {
    part.columns = LeafExtent(leaves, tensor.leaf_size(), tensor.columns());
  }
  return part;
}

WeightShape RankWeightShape(const Plan& plan, const Weight& weight, const Rank& rank) {
  WeightShape shape;
  for (const uint32_t piece : *weight.pieces()) {
    const TensorPart part = RankTensorPart(*plan.tensors()->Get(piece), rank);
    shape.rows += part.rows.size();
    shape.columns = part.columns.size();
  }
  return shape;
}

uint64_t PeakBytes(const Memory& memory, uint64_t blocks) {
  return memory.weights() + memory.activations() + memory.fixed() + memory.kv_block() * blocks;
}

int32_t LongestPrefix(const Plan& plan, std::span<const int32_t> ids) {
  int32_t longest = -1;
  size_t length = 0;
  for (uint32_t i = 0; plan.prefixes() != nullptr && i < plan.prefixes()->size(); ++i) {
    const auto& prefix = *plan.prefixes()->Get(i)->ids();
    if (prefix.size() <= length || prefix.size() >= ids.size()) continue;
    if (!std::equal(prefix.begin(), prefix.end(), ids.begin())) continue;
    longest = static_cast<int32_t>(i);
    length = prefix.size();
  }
  return longest;
}

uint64_t PinnedBlocks(const Plan& plan) {
  uint64_t tokens = 0;
  for (uint32_t i = 0; plan.prefixes() != nullptr && i < plan.prefixes()->size(); ++i) {
    const auto& ids = *plan.prefixes()->Get(i)->ids();
    const int32_t shared = LongestPrefix(plan, {ids.data(), ids.size()});
    tokens += ids.size() - (shared < 0 ? 0 : plan.prefixes()->Get(shared)->ids()->size());
  }
  return tokens / plan.kv()->block_size();
}

uint64_t KvHeadBytes(DType dtype, uint64_t block_size, uint64_t head_dim) {
  const uint64_t scale = dtype == DType::i8 ? sizeof(float) : 0;
  return 2 * block_size * (RowBytes(dtype, head_dim) + scale);
}

uint32_t KvExtentBlocks(uint64_t head_bytes, uint64_t blocks, uint64_t run_bytes) {
  const uint64_t run = std::max<uint64_t>(run_bytes / std::max<uint64_t>(head_bytes / 2, 1), 1);
  return static_cast<uint32_t>(
      std::min(std::bit_floor(run), std::bit_ceil(std::max<uint64_t>(blocks, 1))));
}

uint64_t KvArenaBytes(const Plan& plan, const Rank& rank) {
  return KvArenaBlocks(plan) * rank.memory()->kv_block();
}

uint64_t KvArenaBlocks(const Plan& plan) {
  const uint64_t extent = plan.kv()->extent_blocks();
  return (plan.kv()->blocks() + extent - 1) / extent * extent;
}

uint32_t AttentionWindow(const Model& model, uint32_t layer) {
  const auto* windows = model.attention_windows();
  return windows == nullptr || layer >= windows->size() ? 0 : windows->Get(layer);
}

uint32_t KvWindow(const Model& model) {
  uint32_t widest = 0;
  for (uint32_t layer = 0; layer < model.layers(); ++layer) {
    const uint32_t window = AttentionWindow(model, layer);
    if (window == 0) return 0;
    widest = std::max(widest, window);
  }
  return widest;
}

uint64_t SequenceBlocks(uint64_t tokens, uint64_t block_size, uint64_t window, uint64_t chunk) {
  const uint64_t all = (tokens + block_size - 1) / block_size;
  if (window == 0) return all;
  // A step's rows reach from window - 1 tokens before its first to its last, anywhere in a block.
  return std::min(all, (window + chunk - 1 + block_size - 2) / block_size + 1);
}

uint32_t RunningSequences(const Plan& plan) {
  return plan.limits()->max_batch() * plan.limits()->steps_in_flight();
}

uint32_t WorldSize(const Plan& plan) {
  uint32_t ranks = 0;
  for (const Replica* replica : *plan.replicas()) {
    for (const Stage* stage : *replica->stages()) ranks += stage->ranks()->size();
  }
  return ranks;
}

}  // namespace llmir::plan
