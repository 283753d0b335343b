// Scores given texts: the log-probability of each id after the first, by the plan's score program.
// For perplexity.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "executor/engine/step_runner.h"
#include "plan_schema/base/status.h"
#include "plan_schema/plan_generated.h"

namespace llmir::executor {

// Runs `texts` (ids) in order and calls `on_scored` with the text's number and its size - 1
// log-probabilities (natural logarithm). On rank 0. Texts must have 2 to context ids, all in the
// vocabulary.
Status Score(
    const plan::Plan& plan, StepRunner& runner, const std::vector<std::vector<int32_t>>& texts,
    const std::atomic<bool>& cancelled,
    const std::function<Status(size_t text, const std::vector<float>& logprobs)>& on_scored);

// What is wrong with a text, if anything.
Status CheckScoreText(const plan::Plan& plan, const std::vector<int32_t>& ids);

}  // namespace llmir::executor
