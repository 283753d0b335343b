// Lays the step out that its sequences were given rows for.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {

void Engine::Compose(Replica& replica) {
  Flight& flight = replica.composed();
  StepDescriptor& descriptor = flight.descriptor;
  step_ids_.clear();
  int32_t tokens = 0;
  int32_t sampled = 0;
  bool one_each = true;
  bool details = false;
  for (Flight::Entry& entry : flight.entries) {
    const Sequence& sequence = *entry.sequence;
    step_ids_.push_back(sequence.id);
    tokens += entry.rows;
    one_each = one_each && entry.rows == 1 && sequence.pending() == 1 && sequence.followers == 0;
    const Request& request = sequence.job->request;
    details = details || request.details || request.candidates() > request.n;
    entry.draws = entry.rows - entry.drafted == sequence.pending()
                      ? 1 + sequence.followers + entry.drafted
                      : 0;
    sampled += entry.draws;
  }
  replica.pool.FillPageTable(step_ids_, &page_table_);
  const auto sequences = static_cast<int32_t>(flight.entries.size());
  descriptor.Resize(one_each ? plan::ProgramKind::decode : plan::ProgramKind::mixed, tokens,
                    sequences, sampled, static_cast<int32_t>(page_table_.indices.size()),
                    static_cast<int32_t>(replica.copies.size()));
  descriptor.header().number = replica.step_number++;
  descriptor.header().return_logits = events_.on_logits ? 1 : 0;
  descriptor.header().return_details = details ? 1 : 0;
  std::ranges::copy(page_table_.indptr, descriptor.kv_indptr().begin());
  std::ranges::copy(page_table_.indices, descriptor.kv_indices().begin());
  std::ranges::copy(replica.copies, descriptor.copies().begin());
  for (const kvpool::BlockCopy& copy : replica.copies) {
    statistics_.copied_blocks += std::max(copy.from, copy.to) < replica.pool.total_blocks();
  }
  replica.copies.clear();

  int32_t row = 0;
  int32_t draw = 0;
  const auto sample = [&](int32_t from, int32_t position, const SamplingOptions& sampling) {
    descriptor.sampled_rows()[static_cast<size_t>(draw)] = from;
    descriptor.sampled_positions()[static_cast<size_t>(draw)] = position;
    descriptor.sampling()[static_cast<size_t>(draw)] = sampling;
    ++draw;
  };
  descriptor.query_indptr()[0] = 0;
  for (size_t s = 0; s < flight.entries.size(); ++s) {
    const Flight::Entry& entry = flight.entries[s];
    Sequence& sequence = *entry.sequence;
    const int32_t known = entry.rows - entry.drafted;
    const auto ids =
        std::span(sequence.ids)
            .subspan(static_cast<size_t>(sequence.computed), static_cast<size_t>(known));
    std::ranges::copy(ids, descriptor.token_ids().begin() + row);
    std::ranges::copy(sequence.draft, descriptor.token_ids().begin() + row + known);
    for (int32_t i = 0; i < entry.rows; ++i) {
      descriptor.positions()[static_cast<size_t>(row + i)] = sequence.computed + i;
    }
    if (entry.draws > 0) {
      const int32_t position = sequence.computed + known;
      sample(row + known - 1, position, sequence.sampling);
      for (int32_t i = 1; i <= sequence.followers; ++i) {
        sample(row + known - 1, position,
               CandidateSampling(sequence.job->request.sampling, sequence.candidate + i));
      }
      for (int32_t i = known; i < entry.rows; ++i) {
        sample(row + i, position + 1 + i - known, sequence.sampling);
      }
    }
    row += entry.rows;
    descriptor.query_indptr()[s + 1] = row;
    descriptor.kv_tokens()[s] = sequence.computed + entry.rows;
    // Every rank runs its steps in order: for the next one this one's keys and values are there.
    if (entry.draws == 0) sequence.computed += entry.rows;
    sequence.draws = entry.draws > 0;
    ++sequence.flights;
    sequence.job->tenant->service += entry.rows;
  }
}

}  // namespace llmir::executor
