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
  const auto window = static_cast<int32_t>(plan::KvWindow(*plan.model()));
  const auto chunk = static_cast<int32_t>(limits.prefill_chunk());
  // Each replica has a text of its own.
  struct Place {
    kvpool::BlockPool pool;
    StepDescriptor descriptor;
    std::vector<float> logprobs;
    kvpool::SequenceId sequence = -1;
    uint64_t number = 0;
  };
  std::vector<Place> places;
  for (uint32_t r = 0; r < plan.replicas()->size(); ++r) {
    places.push_back({kvpool::BlockPool(static_cast<int32_t>(plan.kv()->blocks()),
                                        static_cast<int32_t>(plan.kv()->block_size()), 1,
                                        static_cast<int32_t>(plan.kv()->max_blocks_per_sequence())),
                      StepDescriptor(CapacityOf(plan)),
                      {}});
  }
  kvpool::PageTable table;
  for (size_t text = 0; text < texts.size(); text += places.size()) {
    const size_t count = std::min(places.size(), texts.size() - text);
    int32_t longest = 0;
    for (size_t r = 0; r < count; ++r) {
      LLMIR_ASSIGN_OR_RETURN(places[r].sequence, places[r].pool.Create());
      places[r].logprobs.clear();
      longest = std::max(longest, static_cast<int32_t>(texts[text + r].size()) - 1);
    }
    for (int32_t first = 0; first < longest; first += chunk) {
      if (cancelled.load(std::memory_order_relaxed)) return Cancelled("stopped by a signal");
      // The last id is only a target. Backwards: the first replica's step computes in this process.
      const auto tokens_of = [&](size_t r) {
        return std::min(chunk, static_cast<int32_t>(texts[text + r].size()) - 1 - first);
      };
      for (size_t r = count; r-- > 0;) {
        Place& place = places[r];
        const std::vector<int32_t>& ids = texts[text + r];
        const int32_t tokens = tokens_of(r);
        if (tokens <= 0) continue;
        LLMIR_RETURN_IF_ERROR(ComposePromptStep(plan::ProgramKind::score, ids, first, tokens,
                                                place.sequence, window, &place.pool, &table,
                                                &place.descriptor));
        place.descriptor.header().number = place.number++;
        std::copy_n(ids.begin() + first + 1, tokens, place.descriptor.targets().begin());
        LLMIR_RETURN_IF_ERROR(runner.Start(static_cast<int>(r), place.descriptor));
      }
      for (size_t r = 0; r < count; ++r) {
        if (tokens_of(r) <= 0) continue;
        LLMIR_ASSIGN_OR_RETURN(const StepResult result, runner.Finish(static_cast<int>(r)));
        places[r].logprobs.insert(places[r].logprobs.end(), result.logprobs.begin(),
                                  result.logprobs.end());
      }
    }
    for (size_t r = 0; r < count; ++r) {
      places[r].pool.Release(places[r].sequence);
      LLMIR_RETURN_IF_ERROR(on_scored(text + r, places[r].logprobs));
    }
  }
  return Status();
}

}  // namespace llmir::executor
