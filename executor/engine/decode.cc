// The rows of sequences that lack only their last id: one each, and one for each guessed id that
// the step checks. They come before prompts.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {

Status Engine::GiveDecodesTheirRows() {
  // Each row of a decode samples, so what the batch leaves is for guesses.
  int32_t spare = static_cast<int32_t>(limits_.max_batch()) - slots_;
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.pending() != 1) continue;
    sequence.draft.clear();
    if (options_.draft_tokens > 0 && sequence.followers == 0) Draft(sequence, spare);
    LLMIR_ASSIGN_OR_RETURN(sequence.rows,
                           MakeRoom(i, 1 + static_cast<int32_t>(sequence.draft.size())));
    if (sequence.rows == 0) break;  // it had to give way itself, as the last one
    sequence.draft.resize(static_cast<size_t>(sequence.rows) - 1);
    spare -= sequence.rows - 1;
    step_.push_back(&sequence);
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
