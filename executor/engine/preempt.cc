// Making room: the running sequence that comes last gives its blocks back, into swap memory or to
// be computed again, whichever is predicted to take less time.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {

double Engine::PrefillSeconds(const Replica& replica) const {
  return replica.prefill_seconds.empty() ? predicted_prefill_ : replica.prefill_seconds.value();
}

StatusOr<int32_t> Engine::MakeRoom(Replica& replica, size_t index, int32_t rows) {
  Sequence& sequence = *replica.running[index];
  kvpool::BlockPool& pool = replica.pool;
  const int32_t before = pool.tokens(sequence.id);
  for (;;) {
    const Status grown = pool.Grow(sequence.id, before + rows, window_, &replica.copies);
    if (grown.ok()) return rows;
    if (grown.code() != StatusCode::kResourceExhausted) return grown;
    size_t last = replica.running.size() - 1;
    while (last > index && replica.running[last]->flights > 0) --last;
    if (last > index) {
      Preempt(replica, last);
      continue;
    }
    // Nobody after it can give way: it takes what there is.
    while (rows > 0 && pool.Missing(sequence.id, before + rows) > pool.available_blocks()) {
      --rows;
    }
    if (rows > 0) continue;
    // What is in flight will be able to, or what holds blocks for a transfer give them back.
    if (replica.in_flight > 0 || replica.fetching > 0 || replica.leases > 0 ||
        replica.spill.under_way) {
      return 0;
    }
    if (index == 0) {
      return Internal("request {} has all KV blocks and {} of its {} tokens find no room",
                      sequence.job->number, sequence.pending(), sequence.ids.size());
    }
    Preempt(replica, index);
    return 0;
  }
}

void Engine::Preempt(Replica& replica, size_t index) {
  Sequence& sequence = *replica.running[index];
  if (SwapOut(sequence)) {
    ++statistics_.swapped;
  } else {
    sequence.recompute = sequence.computed;
    ++statistics_.recomputed;
  }
  // Guessed ids that it got room for in this step go with the rest.
  replica.pool.Release(sequence.id);
  sequence.id = -1;
  sequence.computed = 0;
  sequence.draft.clear();
  if (replica.in_flight < replica.flights.size()) {
    std::erase_if(replica.composed().entries,
                  [&](const Flight::Entry& entry) { return entry.sequence == &sequence; });
  }
  replica.slots -= 1 + sequence.followers;
  Wait(std::move(replica.running[index]));
  replica.running.erase(replica.running.begin() + static_cast<std::ptrdiff_t>(index));
  blocked_ = true;  // until something ends: what was taken is needed
}

bool Engine::SwapOut(Sequence& sequence) {
  std::vector<int32_t>& free_swap = sequence.replica->free_swap;
  std::vector<kvpool::BlockCopy>& copies = sequence.replica->copies;
  const kvpool::BlockPool& pool = sequence.replica->pool;
  // With a window a cache isn't one piece from the first token on.
  if (free_swap.empty() || window_ > 0 || sequence.computed == 0) return false;
  const auto blocks = pool.blocks(sequence.id);
  const int32_t end = kvpool::BlockPool::BlocksFor(sequence.computed, pool.block_size());
  // What others hold too is likely to be found again.
  int32_t from = 0;
  while (from < end && pool.holders(blocks[static_cast<size_t>(from)]) > 1) ++from;
  const int32_t moved = end - from;
  const double swap_seconds = 2 * moved * sequence.replica->copy_seconds.value();
  const double compute_seconds =
      (sequence.computed - from * pool.block_size()) * PrefillSeconds(*sequence.replica);
  if (moved == 0 || moved > static_cast<int32_t>(free_swap.size()) ||
      static_cast<int32_t>(copies.size()) + moved >
          capacity_.copies - static_cast<int32_t>(limits_.max_batch()) ||
      swap_seconds >= compute_seconds) {
    return false;
  }
  for (int32_t i = from; i < end; ++i) {
    copies.push_back({blocks[static_cast<size_t>(i)], pool.total_blocks() + free_swap.back()});
    sequence.swapped.push_back(free_swap.back());
    free_swap.pop_back();
  }
  sequence.swapped_from = from;
  sequence.swapped_tokens = sequence.computed;
  return true;
}

Status Engine::SwapIn(Sequence& sequence) {
  if (sequence.swapped.empty()) return Status();
  std::vector<kvpool::BlockCopy>& copies = sequence.replica->copies;
  kvpool::BlockPool& pool = sequence.replica->pool;
  const int32_t found = pool.tokens(sequence.id) / pool.block_size();
  const int32_t first = std::max(found, sequence.swapped_from);
  const auto moved = sequence.swapped_from + static_cast<int32_t>(sequence.swapped.size()) - first;
  if (found >= sequence.swapped_from && moved > 0 &&
      static_cast<int32_t>(copies.size()) + moved <=
          capacity_.copies - static_cast<int32_t>(limits_.max_batch())) {
    std::vector<kvpool::BlockCopy> none;  // it holds whole blocks only so far
    const Status grown = pool.Grow(sequence.id, sequence.swapped_tokens, window_, &none);
    if (grown.ok()) {
      const auto blocks = pool.blocks(sequence.id);
      for (int32_t i = 0; i < moved; ++i) {
        const auto at = static_cast<size_t>(first + i);
        copies.push_back({pool.total_blocks() +
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
  if (sequence.swapped.empty()) return;
  std::vector<int32_t>& free_swap = sequence.replica->free_swap;
  free_swap.insert(free_swap.end(), sequence.swapped.begin(), sequence.swapped.end());
  sequence.swapped.clear();
  sequence.swapped_tokens = 0;
  sequence.swapped_from = 0;
}

}  // namespace llmir::executor
