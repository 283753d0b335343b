#include "executor/engine/ngram_index.h"

#include <algorithm>
#include <bit>

#include "plan_schema/base/hash.h"

namespace llmir::executor {

void NgramIndex::Reserve(int32_t tokens) {
  after_.assign(std::bit_ceil(static_cast<size_t>(2 * tokens + 1)), 0);
  indexed_ = 0;
}

size_t NgramIndex::SlotOf(const int32_t* ngram) const {
  return Hash64(std::as_bytes(std::span(ngram, kLength))) & (after_.size() - 1);
}

void NgramIndex::Guess(std::span<const int32_t> ids, int32_t most, std::vector<int32_t>* guess) {
  const auto count = static_cast<int32_t>(ids.size());
  if (after_.empty() || count < kLength) return;
  // All but the last three, which would find themselves.
  for (int32_t end = std::max(indexed_, kLength); end < count; ++end) {
    after_[SlotOf(ids.data() + end - kLength)] = end;
  }
  indexed_ = count;
  const int32_t* last = ids.data() + count - kLength;
  const int32_t end = after_[SlotOf(last)];
  if (end == 0 || !std::equal(last, last + kLength, ids.data() + end - kLength)) return;
  const int32_t length = std::min(most, count - end);
  guess->insert(guess->end(), ids.begin() + end, ids.begin() + end + length);
}

}  // namespace llmir::executor
