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
  const plan::Plan& plan = plan_;
  const uint32_t count = plan.prefixes() == nullptr ? 0 : plan.prefixes()->size();
  if (pinned_.size() == count) return Status();
  const auto before = Clock::now();
  // Short ones first: a longer one may start with them.
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return plan.prefixes()->Get(a)->ids()->size() < plan.prefixes()->Get(b)->ids()->size();
  });
  pinned_.assign(count, -1);
  for (const uint32_t index : order) {
    const auto& prefix = *plan.prefixes()->Get(index)->ids();
    const std::span<const int32_t> ids(prefix.data(), prefix.size());
    LLMIR_ASSIGN_OR_RETURN(const kvpool::SequenceId sequence, pool_.Create());
    pinned_[index] = sequence;
    path_.clear();
    pool_.Match(ids, kvpool::kSharedSalt, &path_);
    pool_.Begin(sequence, path_);
    int32_t first = pool_.tokens(sequence);
    while (first < static_cast<int32_t>(ids.size())) {
      if (cancelled.load(std::memory_order_relaxed)) return Cancelled("stopped by a signal");
      const int32_t tokens = std::min<int32_t>(static_cast<int32_t>(limits_.prefill_chunk()),
                                               static_cast<int32_t>(ids.size()) - first);
      LLMIR_RETURN_IF_ERROR(ComposePromptStep(plan::ProgramKind::mixed, ids, first, tokens,
                                              sequence, 0, &pool_, &page_table_, &descriptor_));
      descriptor_.header().number = step_number_++;
      LLMIR_RETURN_IF_ERROR(runner_.RunStep(descriptor_).status());
      statistics_.pinned_tokens += static_cast<uint64_t>(tokens);
      first += tokens;
    }
    pool_.Cache(sequence, ids, kvpool::kSharedSalt);
  }
  statistics_.pin_seconds = std::chrono::duration<double>(Clock::now() - before).count();
  return Status();
}

}  // namespace llmir::executor
