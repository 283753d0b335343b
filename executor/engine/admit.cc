// Admission: a waiting sequence starts when the batch has a slot and its ids fit into the blocks
// that running ones won't need for theirs. Tenants take turns by what they have got; among the next
// few of a tenant the one with the longest cached prefix comes first, before the cache forgets it.

#include <algorithm>

#include "executor/engine/engine.h"
#include "plan_schema/plan_facts.h"

namespace llmir::executor {
namespace {

constexpr int kLookAhead = 8;      // waiting sequences whose cached prefixes are compared
constexpr int kMostOvertaken = 8;  // times that one may be overtaken

}  // namespace

Engine::Waiting* Engine::ChooseTenant() {
  Waiting* chosen = nullptr;
  const Tenant* owner = nullptr;
  for (auto& [tenant, waiting] : waiting_) {
    if (waiting.empty()) continue;
    if (chosen != nullptr) {
      const Turn& mine = waiting.begin()->first;
      const Turn& best = chosen->begin()->first;
      if (mine.priority != best.priority) {
        if (mine.priority < best.priority) continue;
      } else if (tenant->service != owner->service) {
        if (tenant->service > owner->service) continue;
      } else if (mine > best) {
        continue;
      }
    }
    chosen = &waiting;
    owner = tenant;
  }
  return chosen;
}

Engine::Waiting::iterator Engine::ChooseSequence(Waiting& waiting) {
  const auto match = [this](const Sequence& sequence) {
    path_.clear();
    pool_.Match(std::span(sequence.ids).first(sequence.ids.size() - 1), sequence.job->tenant->salt,
                &path_);
  };
  const auto first = waiting.begin();
  auto best = first;
  if (options_.reuse_prefixes && first->second->overtaken < kMostOvertaken) {
    size_t longest = 0;
    auto entry = first;
    for (int i = 0; i < kLookAhead && entry != waiting.end(); ++i, ++entry) {
      if (entry->first.priority != first->first.priority) break;
      match(*entry->second);
      if (path_.size() > longest) {
        longest = path_.size();
        best = entry;
      }
    }
  }
  match(*best->second);
  return best;
}

bool Engine::Fits(const Sequence& sequence, std::span<const int32_t> path) const {
  if (slots_ + 1 + sequence.followers > static_cast<int32_t>(limits_.max_batch())) return false;
  if (running_.empty()) return true;  // CheckRequest has seen to it
  // At most, of a sequence of so many tokens.
  const auto blocks_of = [&](size_t tokens) {
    return static_cast<int32_t>(
        plan::SequenceBlocks(tokens, static_cast<uint64_t>(pool_.block_size()),
                             static_cast<uint64_t>(window_), limits_.prefill_chunk()));
  };
  // What it finds idle isn't available to others any more.
  int32_t needed = std::max(0, blocks_of(sequence.ids.size()) - static_cast<int32_t>(path.size()));
  for (const int32_t block : path) needed += pool_.holders(block) == 0;
  for (const SequencePointer& other : running_) {
    // Its ids, and a block to go on with; what a window has passed it has given back.
    const std::span<const int32_t> blocks = pool_.blocks(other->id);
    const auto held = blocks.size() - static_cast<size_t>(std::ranges::count(blocks, -1));
    const size_t tokens = other->ids.size() + static_cast<size_t>(pool_.block_size());
    needed += std::max(0, blocks_of(tokens) - static_cast<int32_t>(held));
  }
  return needed <= pool_.available_blocks();
}

Status Engine::Admit() {
  if (blocked_) return Status();
  while (Waiting* waiting = ChooseTenant()) {
    const int32_t priority = waiting->begin()->first.priority;
    const auto may_displace = [&] {
      return !running_.empty() && running_.back()->job->request.priority < priority;
    };
    if (slots_ >= static_cast<int32_t>(limits_.max_batch()) && !may_displace()) break;
    const auto chosen = ChooseSequence(*waiting);
    while (!Fits(*chosen->second, path_)) {
      if (!may_displace()) {
        blocked_ = true;
        return Status();
      }
      Preempt(running_.size() - 1);
    }
    blocked_ = false;
    for (auto entry = waiting->begin(); entry != chosen; ++entry) ++entry->second->overtaken;
    SequencePointer sequence = std::move(chosen->second);
    waiting->erase(chosen);
    if (waiting->empty()) waiting_.erase(sequence->job->tenant);
    --waiting_count_;
    LLMIR_RETURN_IF_ERROR(Start(std::move(sequence), path_));
  }
  return Status();
}

Status Engine::Start(SequencePointer sequence, std::span<const int32_t> path) {
  LLMIR_ASSIGN_OR_RETURN(sequence->id, pool_.Create());
  pool_.Begin(sequence->id, path);
  sequence->computed = pool_.tokens(sequence->id);
  statistics_.prefix_hits += sequence->computed > 0;
  statistics_.reused_tokens += static_cast<uint64_t>(sequence->computed);
  LLMIR_RETURN_IF_ERROR(SwapIn(*sequence));
  statistics_.recomputed_tokens +=
      static_cast<uint64_t>(std::max(0, sequence->recompute - sequence->computed));
  sequence->recompute = 0;
  slots_ += 1 + sequence->followers;
  const Turn turn = TurnOf(*sequence);
  const auto at = std::ranges::upper_bound(
      running_, turn, {}, [](const SequencePointer& other) { return TurnOf(*other); });
  running_.insert(at, std::move(sequence));
  return Status();
}

}  // namespace llmir::executor
