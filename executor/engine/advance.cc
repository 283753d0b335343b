// Takes a step's result: each sequence that sampled gets its id, shows its text, and ends where it
// must.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {

Status Engine::Advance(const StepResult& result) {
  const size_t vocabulary = rank_.plan().model()->vocabulary();
  size_t draw = 0;
  for (Sequence* sequence : step_) {
    if (sequence->prefilling()) continue;
    if (events_.on_logits) {
      LLMIR_RETURN_IF_ERROR(
          events_.on_logits(sequence->number, static_cast<int32_t>(sequence->completion.ids.size()),
                            result.logits.subspan(draw * vocabulary, vocabulary)));
    }
    Take(*sequence, result.ids[draw++]);
  }
  std::erase_if(running_, [](const auto& sequence) { return sequence->completion.finished; });
  return Status();
}

void Engine::Take(Sequence& sequence, int32_t id) {
  Completion& completion = sequence.completion;
  const Request& request = sequence.request;
  if (!request.force_ids.empty()) id = request.force_ids[completion.ids.size()];
  completion.ids.push_back(id);
  sequence.next_id = id;
  sequence.last_token = Clock::now();
  if (completion.ids.size() == 1) sequence.first_token = sequence.last_token;
  ++statistics_.generated_tokens;

  // Forced ids are all fed, whatever they are.
  const bool forced = !request.force_ids.empty();
  const bool end = !forced && !request.ignore_eos &&
                   std::find(end_ids_.begin(), end_ids_.end(), id) != end_ids_.end();
  std::string shown = end ? "" : sequence.text.Push(id);
  const bool stop = end || (sequence.text.stopped() && !forced);
  const bool full = static_cast<int32_t>(completion.ids.size()) >= request.max_tokens;
  if (stop || full) shown += sequence.text.Finish();
  if (events_.on_token) events_.on_token(sequence.number, id, shown);
  if (stop) {
    Finish(sequence, FinishReason::kStop);
  } else if (full) {
    Finish(sequence, FinishReason::kLength);
  }
}

void Engine::Finish(Sequence& sequence, FinishReason reason) {
  Completion& completion = sequence.completion;
  completion.finished = true;
  completion.finish_reason = reason;
  completion.text = sequence.text.text();
  if (!completion.ids.empty()) {
    using Milliseconds = std::chrono::duration<double, std::milli>;
    completion.ttft_ms = Milliseconds(sequence.first_token - sequence.submitted).count();
    completion.decode_ms = Milliseconds(sequence.last_token - sequence.first_token).count();
  }
  pool_.Release(sequence.id);
  reserved_blocks_ -= sequence.worst_blocks;
  if (events_.on_finish) events_.on_finish(sequence.number, completion);
}

}  // namespace llmir::executor
