// Sums of several ranks' parts in the order of a tree that doesn't depend on who has which part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace llmir::comm {

// A binary tree whose leaves are what the ranks of a group contribute: one or more nodes each, in
// rank order.
struct SumTree {
  static constexpr size_t kMaxNodes = 64;  // per rank
  static constexpr size_t kMaxDepth = 64;  // nodes that wait for their sum at a time

  std::vector<uint8_t> nodes;  // of each rank, 1 to kMaxNodes
  // Node by node: after it has been put on a stack, the uppermost two are replaced by their sum
  // (lower + upper) this many times. At the end the root alone is left.
  std::vector<uint8_t> sums_after;

  size_t MostNodes() const;
  // Whether it is one for `ranks` ranks; a lone rank has the root itself.
  bool IsValid(size_t ranks) const;
};

// out[i] = the root for sources[0][i], sources[1][i], ... for i < count; one source per entry of
// tree.sums_after. `out` may be one of the sources; other overlaps are not allowed.
void SumInTreeOrder(std::span<const float* const> sources, const SumTree& tree, size_t count,
                    float* out);

}  // namespace llmir::comm
