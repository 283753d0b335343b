#include "plan_schema/cost/forecast.h"

#include <algorithm>

#include "plan_schema/plan_facts.h"

namespace llmir::plan {
namespace {

// The chunks of a prompt, as the engine cuts it when nothing else runs.
std::vector<EngineStep> PromptSteps(const Plan& plan, uint32_t prompt) {
  std::vector<EngineStep> steps;
  for (uint32_t done = 0; done < prompt;) {
    const uint32_t tokens = std::min(prompt - done, plan.limits()->prefill_chunk());
    done += tokens;
    steps.push_back(
        {ProgramKind::mixed, tokens, done == prompt ? 1u : 0u, 1, static_cast<double>(done)});
  }
  return steps;
}

}  // namespace

StatusOr<Forecast> MakeForecast(const Plan& plan, const CostModel& costs, const ForecastLoad& load,
                                int in_flight) {
  const Limits& limits = *plan.limits();
  if (load.batch < 1 || load.batch > limits.max_batch()) {
    return InvalidArgument("a batch of {}: expected 1 to {}, the plan's --max-batch", load.batch,
                           limits.max_batch());
  }
  if (load.prompt < 1 || load.prompt > limits.context()) {
    return InvalidArgument("a prompt of {} tokens: expected 1 to {}, the plan's --context",
                           load.prompt, limits.context());
  }
  if (!(load.context >= 1 && load.context <= limits.context())) {
    return InvalidArgument("{:g} tokens of context: expected 1 to {}, the plan's --context",
                           load.context, limits.context());
  }
  Forecast forecast;
  forecast.load = load;
  if (in_flight == 0) in_flight = static_cast<int>(limits.steps_in_flight());
  forecast.in_flight = std::clamp(in_flight, 1, static_cast<int>(load.batch));
  // A prompt's chunks follow each other: each reads what the one before it appended.
  LLMIR_ASSIGN_OR_RETURN(forecast.prompt, Simulate(plan, PromptSteps(plan, load.prompt), 1, costs));
  for (const double us : forecast.prompt.step_us) forecast.first_token_us += us;

  // Enough rounds that the stages are full in the last one.
  const auto groups = static_cast<uint32_t>(forecast.in_flight);
  const uint32_t rounds = 2 + (groups > 1 ? plan.replicas()->Get(0)->stages()->size() : 0);
  std::vector<EngineStep> steps;
  for (uint32_t round = 0; round < rounds; ++round) {
    for (uint32_t group = 0; group < groups; ++group) {
      const uint32_t sequences = load.batch / groups + (group < load.batch % groups ? 1 : 0);
      steps.push_back({ProgramKind::decode, sequences, sequences, sequences, load.context});
    }
  }
  LLMIR_ASSIGN_OR_RETURN(forecast.decode, Simulate(plan, steps, forecast.in_flight, costs));
  forecast.counted = groups;
  const std::vector<double>& ends = forecast.decode.end_us;
  forecast.counted_us = ends.back() - ends[ends.size() - 1 - groups];
  forecast.token_us = forecast.counted_us;
  forecast.decode_per_s = load.batch / forecast.counted_us * 1e6;
  forecast.request_us = forecast.first_token_us + (load.answer - 1) * forecast.token_us;
  forecast.tokens_per_s =
      load.answer * 1e6 /
      (forecast.first_token_us + (load.answer - 1) * 1e6 / forecast.decode_per_s);
  forecast.blocks = std::min<uint64_t>(
      plan.kv()->blocks(),
      load.batch * SequenceBlocks(std::min<uint64_t>(load.prompt + load.answer, limits.context()),
                                  plan.kv()->block_size(), KvWindow(*plan.model()),
                                  limits.prefill_chunk()));
  return forecast;
}

}  // namespace llmir::plan
