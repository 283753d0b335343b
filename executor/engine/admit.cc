// Admission: a waiting request starts when a batch slot is free and its worst case of KV blocks
// isn't promised to others. In order of arrival, so that a large request isn't overtaken for ever.

#include "executor/engine/engine.h"

namespace llmir::executor {

void Engine::Admit() {
  while (!waiting_.empty() && running_.size() < limits_.max_batch()) {
    Sequence& next = *waiting_.front();
    if (reserved_blocks_ + next.worst_blocks > pool_.total_blocks()) return;
    auto id = pool_.Create();
    if (!id.ok()) return;
    next.id = *id;
    reserved_blocks_ += next.worst_blocks;
    statistics_.prompt_tokens += next.request.prompt_ids.size();
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

}  // namespace llmir::executor
