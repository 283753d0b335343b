#include "kernels/attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/attention/attention_kernels.h"

namespace llmir::kernels {

int64_t AttentionPartialBytes(int64_t tokens, int64_t query_heads, int64_t head_dim,
                              int64_t max_kv_tokens, int64_t window) {
  int64_t splits = (max_kv_tokens + kKvSplit - 1) / kKvSplit;
  if (splits <= 1) return 0;
  // The tokens that a step's rows of one sequence attend to begin and end anywhere in a split.
  if (window > 0) splits = std::min(splits, (window + tokens - 1 + kKvSplit - 2) / kKvSplit + 1);
  return tokens * query_heads * splits * (head_dim + kPartialExtra) *
         static_cast<int64_t>(sizeof(float));
}

void RopeTables(const int32_t* positions, const RopeArgs& rope, int64_t begin, int64_t end,
                float* cosines, float* sines) {
  const int64_t half = rope.rope_dim / 2;
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle =
          static_cast<double>(positions[row]) * static_cast<double>(rope.frequencies[i]);
      cosines[row * half + i] = static_cast<float>(std::cos(angle));
      sines[row * half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

const AttentionKernels& FindAttention(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kAttentionAvx512;
    case Isa::kAvx2:
      return kAttentionAvx2;
    case Isa::kPortable:
      break;
  }
  return kAttentionPortable;
}

}  // namespace llmir::kernels
