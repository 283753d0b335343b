// Takes a step's result: what was computed is in the cache, each sequence that sampled gets its
// ids, guesses that were drawn count, and candidates part from the one that computed their prompt.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {

Status Engine::Advance(const StepResult& result) {
  size_t draw = 0;
  const size_t sequences = step_.size();
  for (size_t s = 0; s < sequences; ++s) {
    Sequence& sequence = *step_[s];
    sequence.taken.clear();
    sequence.taken_details.clear();
    sequence.job->tenant->service += sequence.rows;
    const auto drafted = static_cast<int32_t>(sequence.draft.size());
    const bool drew = sequence.rows - drafted == sequence.pending();
    const auto draws = static_cast<size_t>(drew ? 1 + sequence.followers + drafted : 0);
    if (!drew) {
      sequence.computed += sequence.rows;
    } else {
      LLMIR_RETURN_IF_ERROR(Take(sequence, result, draw));
    }
    if (options_.reuse_prefixes) {
      pool_.Cache(sequence.id,
                  std::span(sequence.ids).first(static_cast<size_t>(sequence.computed)),
                  sequence.job->tenant->salt);
    }
    if (drew && sequence.followers > 0) ForkFollowers(sequence, result, draw);
    sequence.rows = 0;
    draw += draws;
  }
  return Status();
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
  pool_.Shrink(sequence.id, sequence.computed);
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
  const auto at = std::ranges::find_if(
      running_, [&](const SequencePointer& other) { return other.get() == &leader; });
  std::vector<SequencePointer> forked;
  for (int32_t i = 1; i <= followers; ++i) {
    SequencePointer sequence = NewSequence(*leader.job, leader.candidate + i, 0);
    // Slots of the batch were kept for them.
    sequence->id = pool_.Create().value();
    pool_.Fork(sequence->id, leader.id);
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
    step_.push_back(sequence.get());
    forked.push_back(std::move(sequence));
  }
  running_.insert(at + 1, std::make_move_iterator(forked.begin()),
                  std::make_move_iterator(forked.end()));
}

}  // namespace llmir::executor
