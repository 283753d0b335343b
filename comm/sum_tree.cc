#include "comm/sum_tree.h"

#include <algorithm>
#include <cstring>

namespace llmir::comm {

size_t SumTree::MostNodes() const {
  return nodes.empty() ? 0 : *std::max_element(nodes.begin(), nodes.end());
}

bool SumTree::IsValid(size_t ranks) const {
  size_t total = 0;
  for (const uint8_t count : nodes) {
    if (count < 1 || count > kMaxNodes) return false;
    total += count;
  }
  if (nodes.size() != ranks || sums_after.size() != total) return false;
  if (ranks == 1 && total != 1) return false;
  size_t depth = 0;
  for (const uint8_t sums : sums_after) {
    if (++depth > kMaxDepth || sums >= depth) return false;
    depth -= sums;
  }
  return depth == 1;
}

void SumInTreeOrder(std::span<const float* const> sources, const SumTree& tree, size_t count,
                    float* out) {
  if (sources.size() == 1) {
    if (sources[0] != out) std::memcpy(out, sources[0], count * sizeof(float));
    return;
  }
  // Sums that wait for others, by their depth on the stack. In blocks, so that they stay in the
  // first-level cache.
  constexpr size_t kBlock = 256;
  float sums[SumTree::kMaxDepth][kBlock];
  const float* stack[SumTree::kMaxDepth];
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t block = std::min(kBlock, count - begin);
    size_t depth = 0;
    for (size_t node = 0; node < sources.size(); ++node) {
      stack[depth++] = sources[node] + begin;
      for (int i = 0; i < tree.sums_after[node]; ++i) {
        --depth;
        const float* lower = stack[depth - 1];
        const float* upper = stack[depth];
        // `out` may be a source: nothing goes there before the last one has been read.
        const bool last = depth == 1 && node + 1 == sources.size();
        float* sum = last ? out + begin : sums[depth - 1];
#pragma GCC ivdep
        for (size_t k = 0; k < block; ++k) sum[k] = lower[k] + upper[k];
        stack[depth - 1] = sum;
      }
    }
  }
}

}  // namespace llmir::comm
