// Making room: the running sequence that comes last gives its blocks back, into swap memory or to
// be computed again, whichever is predicted to take less time.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {

double Engine::PrefillSeconds() const {
  return prefill_seconds_.empty() ? predicted_prefill_ : prefill_seconds_.value();
}

StatusOr<int32_t> Engine::MakeRoom(size_t index, int32_t rows) {
  Sequence& sequence = *running_[index];
  const int32_t before = pool_.tokens(sequence.id);
  for (;;) {
    const Status grown = pool_.Grow(sequence.id, before + rows, window_, &copies_);
    if (grown.ok()) return rows;
    if (grown.code() != StatusCode::kResourceExhausted) return grown;
    if (running_.size() > index + 1) {
      Preempt(running_.size() - 1);
      continue;
    }
    // Nobody comes after it: it takes what there is.
    while (rows > 0 && pool_.Missing(sequence.id, before + rows) > pool_.available_blocks()) {
      --rows;
    }
    if (rows > 0) continue;
    if (index == 0) {
      return Internal("request {} has all KV blocks and {} of its {} tokens find no room",
                      sequence.job->number, sequence.pending(), sequence.ids.size());
    }
    Preempt(index);
    return 0;
  }
}

void Engine::Preempt(size_t index) {
  Sequence& sequence = *running_[index];
  if (SwapOut(sequence)) {
    ++statistics_.swapped;
  } else {
    sequence.recompute = sequence.computed;
    ++statistics_.recomputed;
  }
  // Guessed ids that it got room for in this step go with the rest.
  pool_.Release(sequence.id);
  sequence.id = -1;
  sequence.computed = 0;
  sequence.rows = 0;
  sequence.draft.clear();
  std::erase(step_, &sequence);
  slots_ -= 1 + sequence.followers;
  Wait(std::move(running_[index]));
  running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(index));
  blocked_ = true;  // until something ends: what was taken is needed
}

bool Engine::SwapOut(Sequence& sequence) {
  // With a window a cache isn't one piece from the first token on.
  if (free_swap_.empty() || window_ > 0 || sequence.computed == 0) return false;
  const auto blocks = pool_.blocks(sequence.id);
  const int32_t end = kvpool::BlockPool::BlocksFor(sequence.computed, pool_.block_size());
  // What others hold too is likely to be found again.
  int32_t from = 0;
  while (from < end && pool_.holders(blocks[static_cast<size_t>(from)]) > 1) ++from;
  const int32_t moved = end - from;
  const double swap_seconds = 2 * moved * copy_seconds_.value();
  const double compute_seconds = (sequence.computed - from * pool_.block_size()) * PrefillSeconds();
  if (moved == 0 || moved > static_cast<int32_t>(free_swap_.size()) ||
      static_cast<int32_t>(copies_.size()) + moved >
          capacity_.copies - static_cast<int32_t>(limits_.max_batch()) ||
      swap_seconds >= compute_seconds) {
    return false;
  }
  for (int32_t i = from; i < end; ++i) {
    copies_.push_back({blocks[static_cast<size_t>(i)], pool_.total_blocks() + free_swap_.back()});
    sequence.swapped.push_back(free_swap_.back());
    free_swap_.pop_back();
  }
  sequence.swapped_from = from;
  sequence.swapped_tokens = sequence.computed;
  return true;
}

Status Engine::SwapIn(Sequence& sequence) {
  if (sequence.swapped.empty()) return Status();
  const int32_t found = pool_.tokens(sequence.id) / pool_.block_size();
  const int32_t first = std::max(found, sequence.swapped_from);
  const auto moved = sequence.swapped_from + static_cast<int32_t>(sequence.swapped.size()) - first;
  if (found >= sequence.swapped_from && moved > 0 &&
      static_cast<int32_t>(copies_.size()) + moved <=
          capacity_.copies - static_cast<int32_t>(limits_.max_batch())) {
    std::vector<kvpool::BlockCopy> none;  // it holds whole blocks only so far
    const Status grown = pool_.Grow(sequence.id, sequence.swapped_tokens, window_, &none);
    if (grown.ok()) {
      const auto blocks = pool_.blocks(sequence.id);
      for (int32_t i = 0; i < moved; ++i) {
        const auto at = static_cast<size_t>(first + i);
        copies_.push_back({pool_.total_blocks() +
                               sequence.swapped[at - static_cast<size_t>(sequence.swapped_from)],
                           blocks[at]});
      }
      sequence.computed = sequence.swapped_tokens;
    } else if (grown.code() != StatusCode::kResourceExhausted) {
      return grown;
    }
  }
  sequence.recompute = std::max(sequence.recompute, sequence.swapped_tokens);
  DropSwapped(sequence);
  return Status();
}

void Engine::DropSwapped(Sequence& sequence) {
  free_swap_.insert(free_swap_.end(), sequence.swapped.begin(), sequence.swapped.end());
  sequence.swapped.clear();
  sequence.swapped_tokens = 0;
  sequence.swapped_from = 0;
}

}  // namespace llmir::executor
