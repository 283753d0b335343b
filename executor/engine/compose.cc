// Composes the next step: a row for each decoding sequence, then prompt chunks of the others in
// order of admission, up to the plan's prefill_chunk tokens.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {

Status Engine::Compose() {
  step_.clear();
  int32_t tokens = 0;
  int32_t sampled = 0;
  for (auto& sequence : running_) {
    sequence->step_tokens = 0;
    if (sequence->prefilling()) continue;
    sequence->step_tokens = 1;
    step_.push_back(sequence.get());
    ++tokens;
    ++sampled;
  }
  const bool decode_only_rows = tokens > 0;
  auto budget = static_cast<int32_t>(limits_.prefill_chunk());
  bool prefills = false;
  for (auto& sequence : running_) {
    if (!sequence->prefilling() || budget == 0) continue;
    const auto prompt = static_cast<int32_t>(sequence->request.prompt_ids.size());
    sequence->step_tokens = std::min(budget, prompt - sequence->prefilled);
    budget -= sequence->step_tokens;
    tokens += sequence->step_tokens;
    if (sequence->prefilled + sequence->step_tokens == prompt) ++sampled;
    step_.push_back(sequence.get());
    prefills = true;
  }
  const auto program =
      decode_only_rows && !prefills ? plan::ProgramKind::decode : plan::ProgramKind::mixed;

  step_ids_.clear();
  for (Sequence* sequence : step_) {
    LLMIR_RETURN_IF_ERROR(pool_.Grow(
        sequence->id, pool_.tokens(sequence->id) + sequence->step_tokens, window_, &copies_));
    step_ids_.push_back(sequence->id);
  }
  statistics_.peak_blocks =
      std::max(statistics_.peak_blocks, pool_.total_blocks() - pool_.free_blocks());
  pool_.FillPageTable(step_ids_, &page_table_);

  const auto sequences = static_cast<int32_t>(step_.size());
  descriptor_.Resize(program, tokens, sequences, sampled,
                     static_cast<int32_t>(page_table_.indices.size()));
  descriptor_.header().number = step_number_++;
  descriptor_.header().return_logits = events_.on_logits ? 1 : 0;
  std::copy(page_table_.indptr.begin(), page_table_.indptr.end(), descriptor_.kv_indptr().begin());
  std::copy(page_table_.indices.begin(), page_table_.indices.end(),
            descriptor_.kv_indices().begin());

  int32_t row = 0;
  int32_t draw = 0;
  descriptor_.query_indptr()[0] = 0;
  for (int32_t s = 0; s < sequences; ++s) {
    Sequence& sequence = *step_[s];
    const int32_t kv_tokens = pool_.tokens(sequence.id);
    const int32_t first = kv_tokens - sequence.step_tokens;
    const bool prefill = sequence.prefilling();
    for (int32_t i = 0; i < sequence.step_tokens; ++i) {
      descriptor_.token_ids()[row + i] =
          prefill ? sequence.request.prompt_ids[first + i] : sequence.next_id;
      descriptor_.positions()[row + i] = first + i;
    }
    row += sequence.step_tokens;
    descriptor_.query_indptr()[s + 1] = row;
    descriptor_.kv_tokens()[s] = kv_tokens;
    if (prefill) sequence.prefilled += sequence.step_tokens;
    if (!sequence.prefilling()) {
      descriptor_.sampled_rows()[draw] = row - 1;
      descriptor_.sampled_positions()[draw] = kv_tokens;
      descriptor_.sampling()[draw] = sequence.request.sampling;
      ++draw;
    }
  }
  return Status();
}

}  // namespace llmir::executor
