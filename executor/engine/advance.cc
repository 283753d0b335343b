// Takes a step's result: what was computed is in the cache, each sequence that sampled gets its
// ids, guesses that were drawn count, and candidates part from the one that computed their prompt.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {

Status Engine::Advance(Replica& replica, const StepResult& result) {
  size_t draw = 0;
  for (const Flight::Entry& entry : replica.front().entries) {
    Sequence& sequence = *entry.sequence;
    const size_t first = draw;
    draw += static_cast<size_t>(entry.draws);
    --sequence.flights;
    if (ForgetLeft(sequence)) continue;
    sequence.taken.clear();
    sequence.taken_details.clear();
    if (entry.draws > 0) {
      sequence.draws = false;
      LLMIR_RETURN_IF_ERROR(Take(sequence, result, first));
      drawn_.push_back(&sequence);
    }
    // The sequence may go on with equal blocks instead, so none of its own may be in use.
    if (options_.reuse_prefixes && sequence.flights == 0) {
      replica.pool.Cache(sequence.id,
                         std::span(sequence.ids).first(static_cast<size_t>(sequence.computed)),
                         sequence.job->tenant->salt);
    }
    if (entry.draws > 0 && sequence.followers > 0) ForkFollowers(sequence, result, first);
  }
  return Status();
}

bool Engine::ForgetLeft(Sequence& sequence) {
  if (sequence.job != nullptr) return false;
  if (sequence.flights > 0) return true;
  GiveBack(sequence);
  std::erase_if(sequence.replica->left,
                [&](const SequencePointer& other) { return other.get() == &sequence; });
  return true;
}

Status Engine::Take(Sequence& sequence, const StepResult& result, size_t draw) {
  const size_t vocabulary = plan_.model()->vocabulary();
  const Request& request = sequence.job->request;
  const size_t drafted = sequence.draft.size();
  const size_t before = sequence.ids.size();
  const auto now = Clock::now();
  for (size_t i = 0; i <= drafted; ++i) {
    if (events_.on_logits && sequence.candidate == 0) {
      LLMIR_RETURN_IF_ERROR(
          events_.on_logits(sequence.job->number, sequence.answer_tokens(),
                            result.logits.subspan((draw + i) * vocabulary, vocabulary)));
    }
    int32_t id = result.ids[draw + i];
    if (!request.force_ids.empty()) {
      id = request.force_ids[static_cast<size_t>(sequence.answer_tokens())];
    }
    sequence.ids.push_back(id);
    sequence.taken.push_back(id);
    if (!result.details.empty()) {
      sequence.taken_details.push_back(result.details[draw + i]);
      sequence.completion().logprob += result.details[draw + i].logprob;
    }
    if (sequence.first_token == Clock::time_point()) sequence.first_token = now;
    sequence.last_token = now;
    ++statistics_.generated_tokens;
    if (i == drafted || id != sequence.draft[i] || IsComplete(sequence, id)) break;
    ++statistics_.accepted_tokens;
  }
  statistics_.drafted_tokens += drafted;
  const size_t accepted = sequence.ids.size() - before - 1;
  if (drafted > 0) {
    sequence.draft_limit = accepted == drafted
                               ? std::min(2 * sequence.draft_limit, options_.draft_tokens)
                           : accepted == 0 ? std::max(1, sequence.draft_limit / 2)
                                           : sequence.draft_limit;
  }
  sequence.draft.clear();
  // The last id isn't computed yet; keys and values of guesses that weren't drawn are forgotten.
  sequence.computed = static_cast<int32_t>(sequence.ids.size()) - 1;
  sequence.replica->pool.Shrink(sequence.id, sequence.computed);
  return Status();
}

// Whether the answer ends with its last id, `id`, but for stop strings.
bool Engine::IsComplete(const Sequence& sequence, int32_t id) const {
  const Request& request = sequence.job->request;
  return sequence.answer_tokens() >= request.max_tokens ||
         (!request.ignore_eos && request.force_ids.empty() &&
          std::ranges::find(end_ids_, id) != end_ids_.end());
}

void Engine::ForkFollowers(Sequence& leader, const StepResult& result, size_t draw) {
  const int32_t followers = std::exchange(leader.followers, 0);
  Replica& replica = *leader.replica;
  const auto at = std::ranges::find_if(
      replica.running, [&](const SequencePointer& other) { return other.get() == &leader; });
  std::vector<SequencePointer> forked;
  for (int32_t i = 1; i <= followers; ++i) {
    SequencePointer sequence = NewSequence(*leader.job, leader.candidate + i, 0);
    // Slots of the batch were kept for them.
    sequence->replica = &replica;
    sequence->id = replica.pool.Create().value();
    replica.pool.Fork(sequence->id, leader.id);
    sequence->computed = leader.computed;
    const size_t own = draw + static_cast<size_t>(i);
    const int32_t id =
        leader.job->request.force_ids.empty() ? result.ids[own] : leader.job->request.force_ids[0];
    sequence->ids.push_back(id);
    sequence->taken.push_back(id);
    if (!result.details.empty()) {
      sequence->taken_details.push_back(result.details[own]);
      sequence->completion().logprob += result.details[own].logprob;
    }
    sequence->first_token = sequence->last_token = leader.last_token;
    ++statistics_.generated_tokens;
    drawn_.push_back(sequence.get());
    forked.push_back(std::move(sequence));
  }
  replica.running.insert(at + 1, std::make_move_iterator(forked.begin()),
                         std::make_move_iterator(forked.end()));
}

}  // namespace llmir::executor
