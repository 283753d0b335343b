// Admission: a waiting sequence starts when a batch has a slot and its ids fit into the blocks that
// running ones won't need for theirs. Tenants take turns by what they have got; among the next few
// of a tenant the one with the longest cached prefix comes first, before the cache forgets it.
//
// Of several replicas it goes to the one where the least has to be computed before and for it:
// tokens of it that aren't cached there, tokens that those running there lack, and for each of
// these some more, as they will go on. So a cached prefix draws a request as far as it outweighs
// the load, less so where it can be fetched.

#include <algorithm>

#include "executor/engine/engine.h"
#include "plan_schema/plan_facts.h"

namespace llmir::executor {
namespace {

constexpr int kLookAhead = 8;      // waiting sequences whose cached prefixes are compared
constexpr int kMostOvertaken = 8;  // times that one may be overtaken
// What a running sequence counts for besides the tokens that it lacks now.
constexpr int32_t kTokensOfASequence = 16;

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

void Engine::Match(const Sequence& sequence, Replica& replica) {
  path_.clear();
  replica.pool.Match(std::span(sequence.ids).first(sequence.ids.size() - 1),
                     sequence.job->tenant->salt, &path_);
}

Engine::Waiting::iterator Engine::ChooseSequence(Waiting& waiting) {
  const auto first = waiting.begin();
  auto best = first;
  if (options_.reuse_prefixes && first->second->overtaken < kMostOvertaken) {
    size_t longest = 0;
    auto entry = first;
    for (int i = 0; i < kLookAhead && entry != waiting.end(); ++i, ++entry) {
      if (entry->first.priority != first->first.priority) break;
      for (const auto& replica : replicas_) {
        Match(*entry->second, *replica);
        if (path_.size() <= longest) continue;
        longest = path_.size();
        best = entry;
      }
    }
  }
  return best;
}

int32_t Engine::Replica::rows_waiting() const {
  int32_t rows = 0;
  for (const SequencePointer& sequence : running) rows += sequence->pending();
  return rows;
}

std::span<Engine::Replica* const> Engine::ChooseReplicas(const Sequence& sequence) {
  candidates_.clear();
  // What is in a replica's swap memory can only go on there.
  if (!sequence.swapped.empty()) {
    candidates_.push_back(sequence.replica);
    return candidates_;
  }
  for (const auto& replica : replicas_) {
    candidates_.push_back(replica.get());
    if (replica->spilled != nullptr) {
      path_.clear();
      replica->spilled->Match(std::span(sequence.ids).first(sequence.ids.size() - 1),
                              sequence.job->tenant->salt, &path_);
      replica->in_file = static_cast<int32_t>(path_.size());
    }
    if (replicas_.size() == 1) return candidates_;
    Match(sequence, *replica);
    replica->cached = static_cast<int32_t>(path_.size());
  }
  for (Replica* const replica : candidates_) {
    const int32_t block = replica->pool.block_size();
    int32_t got = replica->cached * block;
    if (const Source source = ChooseSource(*replica, replica->cached); source.replica != nullptr) {
      // What is fetched counts for the tokens that could be computed meanwhile.
      const double per_token = PrefillSeconds(*replica);
      const double meanwhile =
          per_token > 0 ? source.blocks * FetchSeconds(source, *replica) / per_token : 0;
      got += std::max(0, source.blocks * block - static_cast<int32_t>(meanwhile));
    }
    replica->cost = static_cast<int32_t>(sequence.ids.size()) - got + replica->rows_waiting() +
                    kTokensOfASequence * replica->slots;
  }
  std::ranges::stable_sort(candidates_, {}, &Replica::cost);
  return candidates_;
}

bool Engine::IsFull(const Replica& replica) const { return replica.slots >= most_running_; }

bool Engine::Fits(const Sequence& sequence, const Replica& replica) const {
  if (replica.slots + 1 + sequence.followers > most_running_) return false;
  // CheckRequest has seen to it that each fits alone.
  if (replica.running.empty() && replica.left.empty()) return true;
  const kvpool::BlockPool& pool = replica.pool;
  // At most, of a sequence of so many tokens.
  const auto blocks_of = [&](size_t tokens) {
    return static_cast<int32_t>(
        plan::SequenceBlocks(tokens, static_cast<uint64_t>(pool.block_size()),
                             static_cast<uint64_t>(window_), limits_.prefill_chunk()));
  };
  // What it finds idle isn't available to others any more.
  int32_t needed = std::max(0, blocks_of(sequence.ids.size()) - static_cast<int32_t>(path_.size()));
  for (const int32_t block : path_) needed += pool.holders(block) == 0;
  for (const SequencePointer& other : replica.running) {
    // Its ids, and a block to go on with; what a window has passed it has given back.
    const std::span<const int32_t> blocks = pool.blocks(other->id);
    const auto held = blocks.size() - static_cast<size_t>(std::ranges::count(blocks, -1));
    const size_t tokens = other->ids.size() + static_cast<size_t>(pool.block_size());
    needed += std::max(0, blocks_of(tokens) - static_cast<int32_t>(held));
  }
  return needed <= pool.available_blocks();
}

size_t Engine::Displaced(const Replica& replica, int32_t priority) const {
  for (size_t i = replica.running.size(); i-- > 0;) {
    if (replica.running[i]->job->request.priority >= priority) break;
    if (replica.running[i]->flights == 0) return i;
  }
  return replica.running.size();
}

Status Engine::Admit() {
  if (blocked_) return Status();
  while (Waiting* waiting = ChooseTenant()) {
    const int32_t priority = waiting->begin()->first.priority;
    const auto displaces = [&](const Replica& replica) {
      return Displaced(replica, priority) < replica.running.size();
    };
    if (std::ranges::all_of(replicas_, [&](const auto& replica) {
          return IsFull(*replica) && !displaces(*replica);
        })) {
      break;
    }
    const auto chosen = ChooseSequence(*waiting);
    const Sequence& sequence = *chosen->second;
    Replica* place = nullptr;
    for (Replica* replica : ChooseReplicas(sequence)) {
      Match(sequence, *replica);
      if (!Fits(sequence, *replica)) continue;
      place = replica;
      break;
    }
    for (size_t i = 0; place == nullptr && i < candidates_.size(); ++i) {
      Replica& replica = *candidates_[i];
      Match(sequence, replica);
      bool fits = false;
      while (!fits && displaces(replica)) {
        Preempt(replica, Displaced(replica, priority));
        fits = Fits(sequence, replica);
      }
      if (fits) place = &replica;
    }
    if (place == nullptr) {
      blocked_ = true;
      retry_ = std::ranges::any_of(replicas_, [&](const auto& replica) {
        return !replica->running.empty() &&
               replica->running.back()->job->request.priority < priority;
      });
      return Status();
    }
    blocked_ = false;
    for (auto entry = waiting->begin(); entry != chosen; ++entry) ++entry->second->overtaken;
    SequencePointer started = std::move(chosen->second);
    waiting->erase(chosen);
    if (waiting->empty()) waiting_.erase(started->job->tenant);
    --waiting_count_;
    LLMIR_RETURN_IF_ERROR(Start(std::move(started), *place));
  }
  return Status();
}

Status Engine::Start(SequencePointer sequence, Replica& replica) {
  sequence->replica = &replica;
  LLMIR_ASSIGN_OR_RETURN(sequence->id, replica.pool.Create());
  replica.pool.Begin(sequence->id, path_);
  sequence->computed = replica.pool.tokens(sequence->id);
  statistics_.prefix_hits += sequence->computed > 0;
  statistics_.reused_tokens += static_cast<uint64_t>(sequence->computed);
  const bool resumed = !sequence->swapped.empty();
  LLMIR_RETURN_IF_ERROR(SwapIn(*sequence));
  // What is in swap memory is all that it has had.
  if (!resumed) LLMIR_RETURN_IF_ERROR(StartFetch(*sequence));
  statistics_.recomputed_tokens +=
      static_cast<uint64_t>(std::max(0, sequence->recompute - sequence->computed));
  sequence->recompute = 0;
  replica.slots += 1 + sequence->followers;
  const Turn turn = TurnOf(*sequence);
  const auto at = std::ranges::upper_bound(
      replica.running, turn, {}, [](const SequencePointer& other) { return TurnOf(*other); });
  replica.running.insert(at, std::move(sequence));
  return Status();
}

}  // namespace llmir::executor
