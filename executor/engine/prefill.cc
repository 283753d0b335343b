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

int32_t Engine::PromptBudget(Replica& replica) const {
  const auto chunk = static_cast<int32_t>(limits_.prefill_chunk());
  if (replica.composed().entries.empty()) return chunk;
  if (options_.step_tokens > 0) return std::min(options_.step_tokens, chunk);
  const double per_token = PrefillSeconds(replica);
  if (per_token <= 0 || replica.decode_seconds.empty()) return chunk;
  const double tokens = (kSlowdown - 1) * replica.decode_seconds.value() / per_token;
  return std::clamp(static_cast<int32_t>(std::min(tokens, 1e6)), std::min(kLeastBudget, chunk),
                    chunk);
}

Status Engine::GivePromptsTheirRows(Replica& replica) {
  int32_t budget = PromptBudget(replica);
  for (size_t i = 0; i < replica.running.size() && budget > 0; ++i) {
    Sequence& sequence = *replica.running[i];
    if (sequence.pending() <= 1 || !HasPlace(replica, sequence)) continue;
    LLMIR_ASSIGN_OR_RETURN(const int32_t rows,
                           MakeRoom(replica, i, std::min(budget, sequence.pending())));
    if (rows == 0) break;
    budget -= rows;
    replica.composed().entries.push_back({&sequence, rows, 0, 0});
  }
  return Status();
}

}  // namespace llmir::executor
