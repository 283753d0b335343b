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

// A block: layer by layer, in each its KV heads, `head_bytes` each.
struct BlockLayout {
  int32_t first_layer = 0;  // of the model, as with heads
  int32_t layers = 0;
  int32_t first_kv_head = 0;
  int32_t kv_heads = 0;
  int64_t head_bytes = 0;

  int64_t block_bytes() const { return int64_t{layers} * kv_heads * head_bytes; }
  bool operator==(const BlockLayout&) const = default;
};

// Bytes that lie together in a block of the owner and in one of the taker.
struct BlockPiece {
  int64_t from;  // offsets in a block
  int64_t to;
  int64_t bytes;
  bool operator==(const BlockPiece&) const = default;
};

// What `taker` takes from a block of each of `owners` to fill a block of its own: for each owner
// its pieces, in the order of the taker's block. A head that several have is taken from the first
// of them. INCOMPATIBLE where heads differ in bytes, NOT_FOUND where nobody has a head of a layer.
StatusOr<std::vector<std::vector<BlockPiece>>> DivideBlock(std::span<const BlockLayout> owners,
                                                           const BlockLayout& taker);

}  // namespace llmir::kvpool
