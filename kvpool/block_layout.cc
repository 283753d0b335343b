#include "kvpool/block_layout.h"

namespace llmir::kvpool {
namespace {

bool Has(const BlockLayout& layout, int32_t layer, int32_t head) {
  return layer >= layout.first_layer && layer < layout.first_layer + layout.layers &&
         head >= layout.first_kv_head && head < layout.first_kv_head + layout.kv_heads;
}

int64_t FirstSlice(const BlockLayout& layout, int32_t layer, int32_t head) {
  return 2 *
         (int64_t{layer - layout.first_layer} * layout.kv_heads + (head - layout.first_kv_head));
}

}  // namespace

StatusOr<std::vector<std::vector<BlockPiece>>> DivideBlock(std::span<const BlockLayout> owners,
                                                           const BlockLayout& taker) {
  std::vector<std::vector<BlockPiece>> pieces(owners.size());
  for (const BlockLayout& owner : owners) {
    if (owner.head_bytes != taker.head_bytes) {
      return Incompatible("a KV head of a block has {} bytes on one rank, {} on another",
                          owner.head_bytes, taker.head_bytes);
    }
  }
  for (int32_t layer = taker.first_layer; layer < taker.first_layer + taker.layers; ++layer) {
    for (int32_t head = taker.first_kv_head; head < taker.first_kv_head + taker.kv_heads; ++head) {
      size_t owner = 0;
      while (owner < owners.size() && !Has(owners[owner], layer, head)) ++owner;
      if (owner == owners.size()) {
        return NotFound("no rank has KV head {} of layer {}", head, layer);
      }
      const int64_t from = FirstSlice(owners[owner], layer, head);
      const int64_t to = FirstSlice(taker, layer, head);
      std::vector<BlockPiece>& own = pieces[owner];
      if (!own.empty() && own.back().from + own.back().slices == from &&
          own.back().to + own.back().slices == to) {
        own.back().slices += 2;
      } else {
        own.push_back({from, to, 2});
      }
    }
  }
  return pieces;
}

}  // namespace llmir::kvpool
