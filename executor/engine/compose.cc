// Lays the step out that its sequences were given rows for.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {

void Engine::Compose() {
  step_ids_.clear();
  int32_t tokens = 0;
  int32_t sampled = 0;
  bool one_each = true;
  bool details = false;
  for (const Sequence* sequence : step_) {
    step_ids_.push_back(sequence->id);
    tokens += sequence->rows;
    one_each =
        one_each && sequence->rows == 1 && sequence->pending() == 1 && sequence->followers == 0;
    const Request& request = sequence->job->request;
    details = details || request.details || request.candidates() > request.n;
    const auto drafted = static_cast<int32_t>(sequence->draft.size());
    if (sequence->rows - drafted == sequence->pending())
      sampled += 1 + sequence->followers + drafted;
  }
  pool_.FillPageTable(step_ids_, &page_table_);
  const auto sequences = static_cast<int32_t>(step_.size());
  descriptor_.Resize(one_each ? plan::ProgramKind::decode : plan::ProgramKind::mixed, tokens,
                     sequences, sampled, static_cast<int32_t>(page_table_.indices.size()),
                     static_cast<int32_t>(copies_.size()));
  descriptor_.header().number = step_number_++;
  descriptor_.header().return_logits = events_.on_logits ? 1 : 0;
  descriptor_.header().return_details = details ? 1 : 0;
  std::ranges::copy(page_table_.indptr, descriptor_.kv_indptr().begin());
  std::ranges::copy(page_table_.indices, descriptor_.kv_indices().begin());
  std::ranges::copy(copies_, descriptor_.copies().begin());
  for (const kvpool::BlockCopy& copy : copies_) {
    statistics_.copied_blocks += std::max(copy.from, copy.to) < pool_.total_blocks();
  }
  copies_.clear();

  int32_t row = 0;
  int32_t draw = 0;
  const auto sample = [&](int32_t from, int32_t position, const SamplingOptions& sampling) {
    descriptor_.sampled_rows()[static_cast<size_t>(draw)] = from;
    descriptor_.sampled_positions()[static_cast<size_t>(draw)] = position;
    descriptor_.sampling()[static_cast<size_t>(draw)] = sampling;
    ++draw;
  };
  descriptor_.query_indptr()[0] = 0;
  for (size_t s = 0; s < step_.size(); ++s) {
    const Sequence& sequence = *step_[s];
    const auto known = sequence.rows - static_cast<int32_t>(sequence.draft.size());
    const auto ids =
        std::span(sequence.ids)
            .subspan(static_cast<size_t>(sequence.computed), static_cast<size_t>(known));
    std::ranges::copy(ids, descriptor_.token_ids().begin() + row);
    std::ranges::copy(sequence.draft, descriptor_.token_ids().begin() + row + known);
    for (int32_t i = 0; i < sequence.rows; ++i) {
      descriptor_.positions()[static_cast<size_t>(row + i)] = sequence.computed + i;
    }
    if (known == sequence.pending()) {
      const int32_t position = sequence.computed + known;
      sample(row + known - 1, position, sequence.sampling);
      for (int32_t i = 1; i <= sequence.followers; ++i) {
        sample(row + known - 1, position,
               CandidateSampling(sequence.job->request.sampling, sequence.candidate + i));
      }
      for (int32_t i = known; i < sequence.rows; ++i) {
        sample(row + i, position + 1 + i - known, sequence.sampling);
      }
    }
    row += sequence.rows;
    descriptor_.query_indptr()[s + 1] = row;
    descriptor_.kv_tokens()[s] = sequence.computed + sequence.rows;
  }
}

}  // namespace llmir::executor
