#include "plan_schema/cost/forecast.h"

#include <algorithm>
#include <numeric>

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

// Of one replica; prompt_us: of a prompt while the other stages and replicas work as well.
struct ReplicaForecast {
  Forecast forecast;
  double prompt_us = 0;
};

double Sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

// `sequences` of the load on one replica; `undisturbed`: costs.Undisturbed().
StatusOr<ReplicaForecast> ForecastReplica(const Plan& plan, const CostModel& costs,
                                          const CostModel& undisturbed, const ForecastLoad& load,
                                          uint32_t replica, uint32_t sequences, int in_flight) {
  const Limits& limits = *plan.limits();
  Forecast forecast;
  forecast.load = load;
  forecast.replica = replica;
  forecast.sequences = sequences;
  forecast.in_flight = std::clamp(in_flight, 1, static_cast<int>(sequences));
  // A prompt's chunks follow each other: each reads what the one before it appended.
  const std::vector<EngineStep> chunks = PromptSteps(plan, load.prompt);
  LLMIR_ASSIGN_OR_RETURN(forecast.prompt, Simulate(plan, chunks, 1, undisturbed, replica));
  forecast.first_token_us = Sum(forecast.prompt.step_us);
  double prompt_us = forecast.first_token_us;
  if (costs.Disturbed()) {
    LLMIR_ASSIGN_OR_RETURN(const Simulation busy, Simulate(plan, chunks, 1, costs, replica));
    prompt_us = Sum(busy.step_us);
  }
  const bool rest = forecast.in_flight == 1 && std::min(plan.replicas()->size(), load.batch) == 1;

  // Enough rounds that the stages are full in the last one.
  const auto groups = static_cast<uint32_t>(forecast.in_flight);
  const uint32_t rounds = 2 + (groups > 1 ? plan.replicas()->Get(replica)->stages()->size() : 0);
  std::vector<EngineStep> steps;
  for (uint32_t round = 0; round < rounds; ++round) {
    for (uint32_t group = 0; group < groups; ++group) {
      const uint32_t rows = sequences / groups + (group < sequences % groups ? 1 : 0);
      steps.push_back({ProgramKind::decode, rows, rows, rows, load.context});
    }
  }
  LLMIR_ASSIGN_OR_RETURN(forecast.decode, Simulate(plan, steps, forecast.in_flight,
                                                   rest ? undisturbed : costs, replica));
  forecast.counted = groups;
  const std::vector<double>& ends = forecast.decode.end_us;
  forecast.counted_us = ends.back() - ends[ends.size() - 1 - groups];
  forecast.token_us = forecast.counted_us;
  forecast.decode_per_s = sequences / forecast.counted_us * 1e6;
  forecast.request_us = forecast.first_token_us + (load.answer - 1) * forecast.token_us;
  forecast.blocks = std::min<uint64_t>(
      plan.kv()->blocks(),
      sequences * SequenceBlocks(std::min<uint64_t>(load.prompt + load.answer, limits.context()),
                                 plan.kv()->block_size(), KvWindow(*plan.model()),
                                 limits.prefill_chunk()));
  return ReplicaForecast{std::move(forecast), prompt_us};
}

}  // namespace

StatusOr<Forecast> MakeForecast(const Plan& plan, const CostModel& costs, const ForecastLoad& load,
                                int in_flight) {
  const Limits& limits = *plan.limits();
  const uint32_t replicas = plan.replicas()->size();
  if (load.batch < 1 || load.batch > uint64_t{limits.max_batch()} * replicas) {
    return InvalidArgument(
        "a batch of {}: expected 1 to {}, the plan's --max-batch{}", load.batch,
        uint64_t{limits.max_batch()} * replicas,
        replicas > 1 ? fmt::format(" in each of {} replicas", replicas) : std::string());
  }
  if (load.prompt < 1 || load.prompt > limits.context()) {
    return InvalidArgument("a prompt of {} tokens: expected 1 to {}, the plan's --context",
                           load.prompt, limits.context());
  }
  if (!(load.context >= 1 && load.context <= limits.context())) {
    return InvalidArgument("{:g} tokens of context: expected 1 to {}, the plan's --context",
                           load.context, limits.context());
  }
  if (in_flight == 0) in_flight = static_cast<int>(limits.steps_in_flight());
  const CostModel undisturbed = costs.Undisturbed();
  Forecast forecast;
  double decode_per_s = 0, prompts_per_us = 0;
  for (uint32_t r = 0; r < std::min(replicas, load.batch); ++r) {
    const uint32_t sequences = load.batch / replicas + (r < load.batch % replicas ? 1 : 0);
    LLMIR_ASSIGN_OR_RETURN(ReplicaForecast one, ForecastReplica(plan, costs, undisturbed, load, r,
                                                                sequences, in_flight));
    decode_per_s += one.forecast.decode_per_s;
    prompts_per_us += 1 / one.prompt_us;
    if (r == 0 || one.forecast.request_us > forecast.request_us) {
      forecast = std::move(one.forecast);
    }
  }
  forecast.decode_per_s = decode_per_s;
  forecast.tokens_per_s =
      load.answer * 1e6 / (1 / prompts_per_us + (load.answer - 1) * 1e6 / decode_per_s);
  return forecast;
}

}  // namespace llmir::plan
