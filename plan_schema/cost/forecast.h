// What requests of a plan will take: a simulated prompt, and simulated decode steps.
#pragma once

#include <cstdint>

#include "plan_schema/base/status.h"
#include "plan_schema/cost/cost_model.h"
#include "plan_schema/plan_generated.h"
#include "plan_schema/simulator.h"

namespace llmir::plan {

struct ForecastLoad {
  uint32_t batch = 1;   // sequences that run at once, in all replicas
  uint32_t prompt = 1;  // tokens
  uint32_t answer = 1;  // tokens
  double context = 1;   // tokens that a decoding sequence has
};

// Of several replicas, which divide the load, the rates are those of all; all else is of the one
// whose requests take longest.
struct Forecast {
  ForecastLoad load;
  uint32_t replica = 0;
  uint32_t sequences = 1;  // that run in it
  int in_flight = 1;
  double first_token_us = 0;  // of one prompt that finds nothing else running
  double token_us = 0;        // from one token of a sequence to its next, `sequences` decoding
  double decode_per_s = 0;    // tokens of all sequences, decoding alone
  double request_us = 0;      // first_token_us and answer - 1 times token_us
  double tokens_per_s = 0;    // generated, prompts computed in between
  uint64_t blocks = 0;        // KV blocks that `sequences` of prompt and answer hold
  Simulation prompt;          // its chunks
  Simulation decode;          // a few rounds of steps
  // Engine steps of `decode` that are counted, and how long they took: the last round.
  uint32_t counted = 1;
  double counted_us = 0;
};

// Simulates on `costs`. Of more than one step in flight a replica's sequences are divided among
// them; 0: as many as the plan allows.
// INVALID_ARGUMENT where the plan's limits don't allow the load.
StatusOr<Forecast> MakeForecast(const Plan& plan, const CostModel& costs, const ForecastLoad& load,
                                int in_flight = 0);

}  // namespace llmir::plan
