// Pinned prefixes: tokens that many requests start with are computed once, before the first
// request, by the plan's own mixed program. They are in the prefix tree, for all tenants, and
// sequences of the engine hold their blocks, so that they stay.

#include <algorithm>
#include <numeric>

#include "executor/engine/engine.h"
#include "executor/engine/prompt_step.h"
#include "plan_schema/plan_facts.h"

namespace llmir::executor {

Status Engine::Pin(const std::atomic<bool>& cancelled) {
  if (pinned_) return Status();
  pinned_ = true;
  const plan::Plan& plan = plan_;
  const uint32_t count = plan.prefixes() == nullptr ? 0 : plan.prefixes()->size();
  const auto before = Clock::now();
  // Short ones first: a longer one may start with them.
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return plan.prefixes()->Get(a)->ids()->size() < plan.prefixes()->Get(b)->ids()->size();
  });
  for (const uint32_t index : order) {
    const auto& prefix = *plan.prefixes()->Get(index)->ids();
    const std::span<const int32_t> ids(prefix.data(), prefix.size());
    std::vector<kvpool::SequenceId> sequences;  // by replica; all have computed the same
    int32_t first = 0;
    for (const auto& replica : replicas_) {
      LLMIR_ASSIGN_OR_RETURN(const kvpool::SequenceId sequence, replica->pool.Create());
      sequences.push_back(sequence);
      path_.clear();
      replica->pool.Match(ids, kvpool::kSharedSalt, &path_);
      replica->pool.Begin(sequence, path_);
      first = replica->pool.tokens(sequence);
    }
    while (first < static_cast<int32_t>(ids.size())) {
      if (cancelled.load(std::memory_order_relaxed)) return Cancelled("stopped by a signal");
      const int32_t tokens = std::min<int32_t>(static_cast<int32_t>(limits_.prefill_chunk()),
                                               static_cast<int32_t>(ids.size()) - first);
      // Backwards, as in Step.
      for (size_t r = replicas_.size(); r-- > 0;) {
        Replica& replica = *replicas_[r];
        StepDescriptor& descriptor = replica.composed().descriptor;
        LLMIR_RETURN_IF_ERROR(ComposePromptStep(plan::ProgramKind::mixed, ids, first, tokens,
                                                sequences[r], 0, &replica.pool, &page_table_,
                                                &descriptor));
        descriptor.header().number = replica.step_number++;
        LLMIR_RETURN_IF_ERROR(runner_.Start(replica.number, descriptor));
      }
      for (const auto& replica : replicas_) {
        LLMIR_RETURN_IF_ERROR(runner_.Finish(replica->number).status());
      }
      statistics_.pinned_tokens += static_cast<uint64_t>(tokens);
      first += tokens;
    }
    for (const auto& replica : replicas_) {
      replica->pool.Cache(sequences[static_cast<size_t>(replica->number)], ids,
                          kvpool::kSharedSalt);
    }
  }
  statistics_.pin_seconds = std::chrono::duration<double>(Clock::now() - before).count();
  return Status();
}

}  // namespace llmir::executor
