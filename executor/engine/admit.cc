// Admission: a waiting request starts when a batch slot is free and its worst case of KV blocks
// isn't promised to others. In order of arrival, so that a large request isn't overtaken for ever.

#include "executor/engine/engine.h"

namespace llmir::executor {

Status Engine::Admit() {
  while (!waiting_.empty() && running_.size() < limits_.max_batch()) {
    Sequence& next = *waiting_.front();
    if (reserved_blocks_ + next.worst_blocks > pool_.total_blocks()) break;
    LLMIR_ASSIGN_OR_RETURN(next.id, pool_.Create());
    LLMIR_ASSIGN_OR_RETURN(next.prefilled, SharePinned(next.id, next.prefix));
    statistics_.prefix_hits += next.prefix >= 0;
    statistics_.reused_tokens += static_cast<uint64_t>(next.prefilled);
    reserved_blocks_ += next.worst_blocks;
    statistics_.prompt_tokens += next.request.prompt_ids.size();
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  return Status();
}

}  // namespace llmir::executor
