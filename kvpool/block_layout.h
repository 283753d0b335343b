// Which keys and values a rank's blocks hold, and where in a block each of them lies: so that ranks
// of replicas that are cut in different ways can take just what is theirs from each other's blocks.
//
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan_schema/base/status.h"

namespace llmir::kvpool {

// A block's slices: layer by layer, in each its KV heads, of each K and then V.
struct BlockLayout {
  int32_t first_layer = 0;  // of the model, as with heads
  int32_t layers = 0;
  int32_t first_kv_head = 0;
  int32_t kv_heads = 0;
  int64_t head_bytes = 0;  // of both slices

  int64_t slices() const { return int64_t{2} * layers * kv_heads; }
  int64_t slice_bytes() const { return head_bytes / 2; }
  bool operator==(const BlockLayout&) const = default;
};

// Slices that follow each other in a block of the owner and in one of the taker.
struct BlockPiece {
  int64_t from;  // the first of them
  int64_t to;
  int64_t slices;
  bool operator==(const BlockPiece&) const = default;
};

// What `taker` takes from a block of each of `owners` to fill a block of its own: for each owner
// its pieces, in the order of the taker's block. A head that several have is taken from the first
// of them. INCOMPATIBLE where heads differ in bytes, NOT_FOUND where nobody has a head of a layer.
StatusOr<std::vector<std::vector<BlockPiece>>> DivideBlock(std::span<const BlockLayout> owners,
                                                           const BlockLayout& taker);

}  // namespace llmir::kvpool
