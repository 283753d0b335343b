#include "executor/engine/score.h"

#include <algorithm>

#include "executor/engine/prompt_step.h"
#include "kvpool/block_pool.h"
#include "plan_schema/plan_facts.h"

namespace llmir::executor {

Status CheckScoreText(const plan::Plan& plan, const std::vector<int32_t>& ids) {
  if (ids.size() < 2)
    return InvalidArgument("{} ids, expected at least 2: each is scored after those before it",
                           ids.size());
  if (ids.size() > plan.limits()->context()) {
    return InvalidArgument(
        "{} ids, the plan's context is {}; cut it into pieces, or plan with --context {}",
        ids.size(), plan.limits()->context(), ids.size());
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || static_cast<uint32_t>(ids[i]) >= plan.model()->vocabulary()) {
      return InvalidArgument("prompt_ids[{}] is {}, the vocabulary has {} ids", i, ids[i],
                             plan.model()->vocabulary());
    }
  }
  const uint64_t needed =
      plan::SequenceBlocks(ids.size(), plan.kv()->block_size(), plan::KvWindow(*plan.model()),
                           plan.limits()->prefill_chunk());
  if (needed > plan.kv()->blocks()) {
    return ResourceExhausted("{} ids need {} KV blocks, the plan has {}", ids.size(), needed,
                             plan.kv()->blocks());
  }
  return Status();
}

Status Score(
    const plan::Plan& plan, StepRunner& runner, const std::vector<std::vector<int32_t>>& texts,
    const std::atomic<bool>& cancelled,
    const std::function<Status(size_t text, const std::vector<float>& logprobs)>& on_scored) {
  const plan::Limits& limits = *plan.limits();
  kvpool::BlockPool pool(static_cast<int32_t>(plan.kv()->blocks()),
                         static_cast<int32_t>(plan.kv()->block_size()), 1,
                         static_cast<int32_t>(plan.kv()->max_blocks_per_sequence()));
  const auto window = static_cast<int32_t>(plan::KvWindow(*plan.model()));
  kvpool::PageTable table;
  StepDescriptor descriptor(CapacityOf(plan));
  std::vector<float> logprobs;
  uint64_t number = 0;
  for (size_t text = 0; text < texts.size(); ++text) {
    const std::vector<int32_t>& ids = texts[text];
    LLMIR_ASSIGN_OR_RETURN(const kvpool::SequenceId sequence, pool.Create());
    logprobs.clear();
    // The last id is only a target.
    const auto inputs = static_cast<int32_t>(ids.size()) - 1;
    for (int32_t first = 0; first < inputs; first += static_cast<int32_t>(limits.prefill_chunk())) {
      if (cancelled.load(std::memory_order_relaxed)) return Cancelled("stopped by a signal");
      const int32_t tokens = std::min<int32_t>(limits.prefill_chunk(), inputs - first);
      LLMIR_RETURN_IF_ERROR(ComposePromptStep(plan::ProgramKind::score, ids, first, tokens,
                                              sequence, window, &pool, &table, &descriptor));
      descriptor.header().number = number++;
      std::copy_n(ids.begin() + first + 1, tokens, descriptor.targets().begin());
      LLMIR_ASSIGN_OR_RETURN(const StepResult result, runner.RunStep(descriptor));
      logprobs.insert(logprobs.end(), result.logprobs.begin(), result.logprobs.end());
    }
    pool.Release(sequence);
    LLMIR_RETURN_IF_ERROR(on_scored(text, logprobs));
  }
  return Status();
}

}  // namespace llmir::executor
