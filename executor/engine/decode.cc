// The rows of sequences that lack only their last id: one each, and one for each guessed id that
// the step checks. They come before prompts.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {

int32_t Engine::SequencesOfAStep(const Replica& replica) const {
  const auto depth = static_cast<int32_t>(replica.flights.size());
  return std::min((replica.slots + depth - 1) / depth, static_cast<int32_t>(limits_.max_batch()));
}

bool Engine::HasPlace(Replica& replica, const Sequence& sequence) const {
  // Its next step waits for an id or a fetch, or gives back blocks that a window has passed.
  if (sequence.draws || sequence.fetching || (window_ > 0 && sequence.flights > 0)) return false;
  const auto sequences = static_cast<int32_t>(replica.composed().entries.size());
  return sequences < SequencesOfAStep(replica) && 1 + sequence.followers <= FreeDraws(replica);
}

int32_t Engine::FreeDraws(Replica& replica) const {
  auto draws = static_cast<int32_t>(limits_.max_batch());
  for (const Flight::Entry& entry : replica.composed().entries) {
    draws -= 1 + entry.sequence->followers + entry.drafted;
  }
  return draws;
}

int32_t Engine::SpareDraws(const Replica& replica) const {
  int32_t own = 0;
  for (const SequencePointer& sequence : replica.running) {
    if (!sequence->draws) own += 1 + sequence->followers;
  }
  return static_cast<int32_t>(limits_.max_batch()) -
         (replica.flights.size() == 1 ? own : std::min(own, SequencesOfAStep(replica)));
}

Status Engine::GiveDecodesTheirRows(Replica& replica) {
  // Each row of a decode samples, so what the batch leaves is for guesses.
  int32_t spare = SpareDraws(replica);
  for (size_t i = 0; i < replica.running.size(); ++i) {
    Sequence& sequence = *replica.running[i];
    if (sequence.pending() != 1 || !HasPlace(replica, sequence)) continue;
    sequence.draft.clear();
    if (options_.draft_tokens > 0 && sequence.followers == 0) {
      Draft(sequence, std::min(spare, FreeDraws(replica) - 1));
    }
    LLMIR_ASSIGN_OR_RETURN(const int32_t rows,
                           MakeRoom(replica, i, 1 + static_cast<int32_t>(sequence.draft.size())));
    if (rows == 0) break;  // it had to give way itself, as the last one
    sequence.draft.resize(static_cast<size_t>(rows) - 1);
    spare -= rows - 1;
    replica.composed().entries.push_back({&sequence, rows, rows - 1, 0});
  }
  return Status();
}

void Engine::Draft(Sequence& sequence, int32_t most) {
  const Request& request = sequence.job->request;
  if (!request.force_ids.empty()) return;
  // The last id of an answer is drawn from the row before it.
  most = std::min({most, sequence.draft_limit, request.max_tokens - sequence.answer_tokens() - 1});
  if (most > 0) sequence.ngrams.Guess(sequence.ids, most, &sequence.draft);
}

}  // namespace llmir::executor
