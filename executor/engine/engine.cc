#include "executor/engine/engine.h"

#include <algorithm>

#include "plan_schema/plan_facts.h"

namespace llmir::executor {

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

namespace {

uint32_t PrefixCount(const plan::Plan& plan) {
  return plan.prefixes() == nullptr ? 0 : plan.prefixes()->size();
}

// Blocks of the prefix (-1: none).
int32_t PrefixBlocks(const plan::Plan& plan, int32_t prefix) {
  return prefix < 0 ? 0
                    : static_cast<int32_t>(plan.prefixes()->Get(prefix)->ids()->size() /
                                           plan.kv()->block_size());
}

}  // namespace

Engine::Engine(Rank& rank, const checkpoint::Tokenizer* tokenizer, std::vector<int32_t> end_ids,
               EngineEvents events)
    : rank_(rank),
      tokenizer_(tokenizer),
      end_ids_(std::move(end_ids)),
      events_(std::move(events)),
      limits_(*rank.plan().limits()),
      pool_(static_cast<int32_t>(rank.plan().kv()->blocks()),
            static_cast<int32_t>(rank.plan().kv()->block_size()),
            static_cast<int32_t>(limits_.max_batch() + PrefixCount(rank.plan())),
            static_cast<int32_t>(rank.plan().kv()->max_blocks_per_sequence()),
            // As llm-allocate-blocks divides them (planner/Dialect/LLM/Transforms).
            static_cast<int32_t>((rank.plan().kv()->blocks() - plan::PinnedBlocks(rank.plan())) /
                                 limits_.max_batch())),
      descriptor_(rank.capacity()),
      window_(static_cast<int32_t>(plan::KvWindow(*rank.plan().model()))) {
  step_.reserve(limits_.max_batch());
  step_ids_.reserve(limits_.max_batch());
}

int32_t WorstBlocks(const plan::Plan& plan, int64_t tokens, int32_t prefix) {
  const auto held = static_cast<int32_t>(
      plan::SequenceBlocks(static_cast<uint64_t>(tokens), plan.kv()->block_size(),
                           plan::KvWindow(*plan.model()), plan.limits()->prefill_chunk()));
  const int32_t all = kvpool::BlockPool::BlocksFor(static_cast<int32_t>(tokens),
                                                   static_cast<int32_t>(plan.kv()->block_size()));
  return std::min(held, all - PrefixBlocks(plan, prefix));
}

Status CheckRequest(const plan::Plan& plan, const Request& request) {
  const auto context = static_cast<int32_t>(plan.limits()->context());
  const auto kv_blocks = static_cast<int32_t>(plan.kv()->blocks() - plan::PinnedBlocks(plan));
  const auto tokens = static_cast<int64_t>(request.prompt_ids.size());
  if (tokens == 0) return InvalidArgument("the prompt has no tokens");
  if (tokens > context) {
    return InvalidArgument(
        "the prompt has {} tokens, the plan's context is {}; shorten it, or plan with --context {}",
        tokens, context, tokens);
  }
  const auto vocabulary = static_cast<int32_t>(plan.model()->vocabulary());
  for (const auto* ids : {&request.prompt_ids, &request.force_ids}) {
    for (size_t i = 0; i < ids->size(); ++i) {
      if ((*ids)[i] < 0 || (*ids)[i] >= vocabulary) {
        return InvalidArgument("{}[{}] is {}, the vocabulary has {} ids",
                               ids == &request.prompt_ids ? "prompt_ids" : "force_ids", i,
                               (*ids)[i], vocabulary);
      }
    }
  }
  if (request.max_tokens < 1)
    return InvalidArgument("max_tokens is {}, expected at least 1", request.max_tokens);
  if (tokens + static_cast<int64_t>(request.force_ids.size()) - 1 > context) {
    return InvalidArgument("prompt and force_ids have {} tokens, the plan's context is {}",
                           tokens + request.force_ids.size(), context);
  }
  const int64_t worst = std::min<int64_t>(tokens + request.max_tokens - 1, context);
  const int32_t blocks = WorstBlocks(plan, worst, plan::LongestPrefix(plan, request.prompt_ids));
  if (blocks > kv_blocks) {
    return ResourceExhausted(
        "prompt and answer need {} KV blocks, the plan has {}; ask for fewer tokens, or plan with "
        "--kv-blocks {}",
        blocks, kv_blocks, plan::PinnedBlocks(plan) + blocks);
  }
  return Status();
}

StatusOr<size_t> Engine::Submit(Request request) {
  if (!request.force_ids.empty())
    request.max_tokens = static_cast<int32_t>(request.force_ids.size());
  LLMIR_RETURN_IF_ERROR(CheckRequest(rank_.plan(), request));
  const int64_t room =
      static_cast<int64_t>(limits_.context()) - static_cast<int64_t>(request.prompt_ids.size()) + 1;
  request.max_tokens = static_cast<int32_t>(std::min<int64_t>(request.max_tokens, room));
  TextStream text(tokenizer_, request.stop);
  const int32_t prefix = plan::LongestPrefix(rank_.plan(), request.prompt_ids);
  auto sequence = std::make_unique<Sequence>(Sequence{submitted_++,
                                                      std::move(request),
                                                      -1,
                                                      prefix,
                                                      0,
                                                      0,
                                                      0,
                                                      0,
                                                      {},
                                                      std::move(text),
                                                      Clock::now(),
                                                      {},
                                                      {}});
  sequence->worst_blocks = WorstBlocks(rank_.plan(), sequence->worst_tokens(), prefix);
  sequence->completion.ids.reserve(sequence->request.max_tokens);
  waiting_.push_back(std::move(sequence));
  return submitted_ - 1;
}

Status Engine::Run(const std::atomic<bool>& cancelled) {
  Status pinned = Pin(cancelled);
  if (!pinned.ok() && pinned.code() != StatusCode::kCancelled) return pinned;
  while (!waiting_.empty() || !running_.empty()) {
    if (cancelled.load(std::memory_order_relaxed)) {
      for (auto& sequence : running_) Finish(*sequence, FinishReason::kCancelled);
      running_.clear();
      for (auto& sequence : waiting_) {
        if (events_.on_finish) events_.on_finish(sequence->number, sequence->completion);
      }
      waiting_.clear();
      return Cancelled("stopped by a signal");
    }
    LLMIR_RETURN_IF_ERROR(Admit());
    LLMIR_RETURN_IF_ERROR(Compose());
    const auto before = Clock::now();
    auto result = rank_.RunStep(descriptor_);
    if (!result.ok()) return result.status();
    const double seconds = std::chrono::duration<double>(Clock::now() - before).count();
    ++statistics_.steps;
    if (descriptor_.program() == plan::ProgramKind::decode) {
      statistics_.decode_seconds += seconds;
      statistics_.decode_rows += descriptor_.header().tokens;
      ++statistics_.decode_steps;
      for (const int32_t tokens : descriptor_.kv_tokens()) statistics_.decode_context += tokens;
    } else {
      statistics_.prefill_seconds += seconds;
    }
    LLMIR_RETURN_IF_ERROR(Advance(*result));
  }
  return Status();
}

}  // namespace llmir::executor
