// How the tokens of a step are cut for the caches.
#pragma once

#include <cstdint>

#include "kernels/cpu/linear/panel_layouts.h"

namespace llmir::kernels {

// `count` items in the fewest parts of at most `limit`, as equal as possible.
struct Split {
  LLMIR_INLINE Split(int64_t count, int64_t limit)
      : count(count), parts((count + limit - 1) / limit) {}
  LLMIR_INLINE int64_t Begin(int64_t part) const { return count * part / parts; }
  int64_t count;
  int64_t parts;
};

// Bytes of activations that are meant to stay in a core's cache while all panels pass.
inline constexpr int64_t kActivationBytes = 256 << 10;

// Blocks of as many tokens as that is, but at least `least`, which is positive, and at most `most`.
struct TokenBlocks : Split {
  LLMIR_INLINE TokenBlocks(int64_t tokens, int64_t stride, int64_t least, int64_t most = INT64_MAX)
      : Split(tokens, Limit(kActivationBytes / stride, least, most)) {}

 private:
  static LLMIR_INLINE int64_t Limit(int64_t value, int64_t least, int64_t most) {
    return value < least ? least : value > most ? most : value;
  }
};

}  // namespace llmir::kernels
