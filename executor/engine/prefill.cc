// The rows of sequences that lack more than their last id: chunks in order of their turns, up to
// the step's budget. A long prompt lengthens the steps of those that decode, so with them the
// budget is what takes about as long as their own rows.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {
namespace {

// A step with a prompt takes so many times as long as one with decodes alone.
constexpr double kSlowdown = 2.5;
constexpr int32_t kLeastBudget = 4;

}  // namespace

int32_t Engine::PromptBudget() const {
  const auto chunk = static_cast<int32_t>(limits_.prefill_chunk());
  if (step_.empty()) return chunk;
  if (options_.step_tokens > 0) return std::min(options_.step_tokens, chunk);
  const double per_token = PrefillSeconds();
  if (per_token <= 0 || decode_seconds_.empty()) return chunk;
  const double tokens = (kSlowdown - 1) * decode_seconds_.value() / per_token;
  return std::clamp(static_cast<int32_t>(std::min(tokens, 1e6)), std::min(kLeastBudget, chunk),
                    chunk);
}

Status Engine::GivePromptsTheirRows() {
  int32_t budget = PromptBudget();
  for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.rows > 0 || sequence.pending() <= 1) continue;
    LLMIR_ASSIGN_OR_RETURN(sequence.rows, MakeRoom(i, std::min(budget, sequence.pending())));
    if (sequence.rows == 0) break;
    budget -= sequence.rows;
    step_.push_back(&sequence);
  }
  return Status();
}

}  // namespace llmir::executor
