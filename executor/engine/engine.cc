#include "executor/engine/engine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

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

// What a token of the mixed program takes as the plan predicts it, in seconds; 0: it doesn't.
double PredictedPrefillSeconds(const plan::Plan& plan) {
  double seconds = 0;
  for (const plan::Stage* stage : *plan.replicas()->Get(0)->stages()) {
    for (const plan::Program* program : *stage->programs()) {
      if (program->kind() != plan::ProgramKind::mixed || program->predicted_tokens() == 0) continue;
      for (const plan::Step* step : *program->steps()) {
        float slowest = 0;
        for (const plan::StepRank* rank : *step->ranks()) {
          slowest = std::max(slowest, rank->predicted_us());
        }
        seconds += slowest * 1e-6 / program->predicted_tokens();
      }
    }
  }
  return seconds;
}

// By how much of itself a block's computation grows with each block before it: what attention adds.
double ContextGrowth(const plan::Plan& plan) {
  double per_token = 0;
  double per_context = 0;
  for (const plan::Stage* stage : *plan.replicas()->Get(0)->stages()) {
    for (const plan::Program* program : *stage->programs()) {
      if (program->kind() != plan::ProgramKind::mixed) continue;
      for (const plan::Step* step : *program->steps()) {
        for (const plan::StepRank* rank : *step->ranks()) {
          if (rank->cost() == nullptr) continue;
          per_token += rank->cost()->flops_per_token();
          per_context += rank->cost()->flops_per_context();
        }
      }
    }
  }
  return per_token > 0 ? per_context * plan.kv()->block_size() / per_token : 0;
}

constexpr size_t kKeptSteps = 4096;  // whose scheduler times are kept

}  // namespace

Engine::Engine(const plan::Plan& plan, StepRunner& runner, EngineOptions options,
               const checkpoint::Tokenizer* tokenizer, std::vector<int32_t> end_ids,
               EngineEvents events)
    : plan_(plan),
      runner_(runner),
      options_(std::move(options)),
      tokenizer_(tokenizer),
      end_ids_(std::move(end_ids)),
      events_(std::move(events)),
      limits_(*plan.limits()),
      pool_(static_cast<int32_t>(plan.kv()->blocks()),
            static_cast<int32_t>(plan.kv()->block_size()),
            static_cast<int32_t>(limits_.max_batch() + PrefixCount(plan)),
            static_cast<int32_t>(plan.kv()->max_blocks_per_sequence()),
            // As llm-allocate-blocks divides them (planner/Dialect/LLM/Transforms).
            static_cast<int32_t>((plan.kv()->blocks() - plan::PinnedBlocks(plan)) /
                                 limits_.max_batch()),
            options_.tree),
      capacity_(CapacityOf(plan)),
      descriptor_(capacity_),
      window_(static_cast<int32_t>(plan::KvWindow(*plan.model()))),
      predicted_prefill_(PredictedPrefillSeconds(plan)),
      growth_(ContextGrowth(plan)) {
  step_.reserve(2 * limits_.max_batch());
  step_ids_.reserve(limits_.max_batch());
  running_.reserve(limits_.max_batch());
  copies_.reserve(static_cast<size_t>(capacity_.copies));
  statistics_.scheduler_us.reserve(kKeptSteps);
  for (int32_t place = options_.swap_blocks - 1; place >= 0; --place) free_swap_.push_back(place);
}

Engine::~Engine() = default;

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
  const std::pair<const char*, const std::vector<int32_t>*> lists[] = {
      {"prompt_ids", &request.prompt_ids},
      {"force_ids", &request.force_ids},
      {"resume_ids", &request.resume_ids}};
  for (const auto& [name, ids] : lists) {
    for (size_t i = 0; i < ids->size(); ++i) {
      if ((*ids)[i] < 0 || (*ids)[i] >= vocabulary) {
        return InvalidArgument("{}[{}] is {}, the vocabulary has {} ids", name, i, (*ids)[i],
                               vocabulary);
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
  if (request.n < 1 || request.candidates() > static_cast<int32_t>(plan.limits()->max_batch())) {
    return InvalidArgument(
        "n is {}, best_of {}: expected 1 to {}, the sequences of a batch; ask for fewer answers, "
        "or "
        "plan with --max-batch {}",
        request.n, request.best_of, plan.limits()->max_batch(), request.candidates());
  }
  if (request.best_of != 0 && request.best_of < request.n) {
    return InvalidArgument("best_of is {}, expected at least n = {}", request.best_of, request.n);
  }
  if (!request.resume_ids.empty() &&
      (request.candidates() > 1 || !request.force_ids.empty() ||
       static_cast<int64_t>(request.resume_ids.size()) >= request.max_tokens ||
       tokens + static_cast<int64_t>(request.resume_ids.size()) > context)) {
    return InvalidArgument(
        "{} resume_ids: expected fewer than max_tokens = {}, that fit into the context of {} with "
        "the prompt's {}, and neither n > 1 nor force_ids",
        request.resume_ids.size(), request.max_tokens, context, tokens);
  }
  return Status();
}

SamplingOptions CandidateSampling(const SamplingOptions& sampling, int32_t candidate) {
  SamplingOptions own = sampling;
  own.seed += static_cast<uint64_t>(candidate) * 0x9e3779b97f4a7c15ULL;
  return own;
}

StatusOr<size_t> Engine::Submit(Request request) {
  if (!request.force_ids.empty())
    request.max_tokens = static_cast<int32_t>(request.force_ids.size());
  LLMIR_RETURN_IF_ERROR(CheckRequest(plan_, request));
  if (options_.max_waiting > 0 && waiting_count_ >= static_cast<size_t>(options_.max_waiting)) {
    return ResourceExhausted(
        "{} requests wait already; try again later, or run with a greater --max-waiting",
        waiting_count_);
  }
  const int64_t room =
      static_cast<int64_t>(limits_.context()) - static_cast<int64_t>(request.prompt_ids.size()) + 1;
  request.max_tokens = static_cast<int32_t>(std::min<int64_t>(request.max_tokens, room));
  const size_t number = submitted_++;
  Tenant* tenant = tenants_.Begin(request.tenant);
  const int32_t candidates = request.candidates();
  Job& job = jobs_[number];
  job = {number,     std::move(request),
         tenant,     std::vector<Completion>(static_cast<size_t>(candidates)),
         candidates, Clock::now()};
  statistics_.prompt_tokens += job.request.prompt_ids.size();
  Wait(NewSequence(job, 0, candidates - 1));
  blocked_ = false;
  return number;
}

Engine::SequencePointer Engine::NewSequence(Job& job, int32_t candidate, int32_t followers) {
  auto sequence = std::make_unique<Sequence>(
      Sequence{.job = &job,
               .candidate = candidate,
               .followers = followers,
               .ids = {},
               .text = TextStream(tokenizer_, job.request.stop),
               .sampling = CandidateSampling(job.request.sampling, candidate)});
  const Request& request = job.request;
  const size_t most = request.prompt_ids.size() + static_cast<size_t>(request.max_tokens);
  sequence->ids.reserve(most);
  sequence->ids = request.prompt_ids;
  sequence->ids.insert(sequence->ids.end(), request.resume_ids.begin(), request.resume_ids.end());
  for (const int32_t id : request.resume_ids) sequence->text.Push(id);
  if (options_.draft_tokens > 0) {
    sequence->ngrams.Reserve(static_cast<int32_t>(most));
    sequence->draft_limit = options_.draft_tokens;
    sequence->draft.reserve(static_cast<size_t>(options_.draft_tokens));
  }
  sequence->taken.reserve(static_cast<size_t>(options_.draft_tokens) + 1);
  return sequence;
}

void Engine::Wait(SequencePointer sequence) {
  Waiting& waiting = waiting_[sequence->job->tenant];
  const Turn turn = TurnOf(*sequence);
  waiting.emplace(turn, std::move(sequence));
  ++waiting_count_;
}

Status Engine::Step() {
  if (jobs_.empty()) return Status();
  const auto begin = Clock::now();
  step_.clear();
  LLMIR_RETURN_IF_ERROR(Admit());
  LLMIR_RETURN_IF_ERROR(GiveDecodesTheirRows());
  LLMIR_RETURN_IF_ERROR(GivePromptsTheirRows());
  if (step_.empty()) {
    return Internal("{} requests are there, {} sequences run, but none got a row", jobs_.size(),
                    running_.size());
  }
  Compose();
  const auto composed = Clock::now();
  auto result = runner_.RunStep(descriptor_);
  if (!result.ok()) return result.status();
  const auto done = Clock::now();
  Measure(std::chrono::duration<double>(done - composed).count(), *result);
  LLMIR_RETURN_IF_ERROR(Advance(*result));
  const auto scheduled =
      std::chrono::duration<float, std::micro>((composed - begin) + (Clock::now() - done));
  if (statistics_.scheduler_us.size() < kKeptSteps) {
    statistics_.scheduler_us.push_back(scheduled.count());
  } else {
    statistics_.scheduler_us[scheduled_++ % kKeptSteps] = scheduled.count();
  }
  for (Sequence* sequence : step_) {
    if (!sequence->taken.empty()) Tell(*sequence);
  }
  RemoveFinished();
  return Status();
}

void Engine::Measure(double seconds, const StepResult& result) {
  ++statistics_.steps;
  if (!descriptor_.copies().empty()) {
    const auto copies = static_cast<double>(descriptor_.copies().size());
    copy_seconds_.Add(result.copy_seconds / copies);
    seconds -= result.copy_seconds;
  }
  const StepHeader& header = descriptor_.header();
  if (descriptor_.program() == plan::ProgramKind::decode) {
    statistics_.decode_seconds += seconds;
    statistics_.decode_rows += static_cast<uint64_t>(header.tokens);
    ++statistics_.decode_steps;
    for (const int32_t tokens : descriptor_.kv_tokens()) statistics_.decode_context += tokens;
    decode_seconds_.Add(seconds);
  } else {
    statistics_.prefill_seconds += seconds;
    int32_t prompt_rows = 0;
    bool decodes = false;
    for (const Sequence* sequence : step_) {
      const auto known = sequence->rows - static_cast<int32_t>(sequence->draft.size());
      prompt_rows += known > 1 ? known : 0;
      decodes = decodes || known == 1;
    }
    // Of a few tokens the step's fixed time is most.
    if (prompt_rows >= 4) {
      const double own = seconds - (decodes ? decode_seconds_.value() : 0);
      prefill_seconds_.Add(std::max(own, 0.2 * seconds) / prompt_rows);
      pool_.tree().SetRecomputeCost(prefill_seconds_.value() * pool_.block_size(), growth_);
    }
  }
  const int32_t held = pool_.total_blocks() - pool_.available_blocks();
  statistics_.peak_blocks = std::max(statistics_.peak_blocks, held);
  statistics_.allocated_tokens += static_cast<double>(held) * pool_.block_size();
  for (const SequencePointer& sequence : running_) {
    const auto blocks = static_cast<int32_t>(pool_.blocks(sequence->id).size());
    statistics_.unused_tokens += blocks * pool_.block_size() - pool_.tokens(sequence->id);
  }
}

Status Engine::Run(const std::atomic<bool>& cancelled) {
  Status pinned = Pin(cancelled);
  if (!pinned.ok() && pinned.code() != StatusCode::kCancelled) return pinned;
  while (!idle()) {
    if (cancelled.load(std::memory_order_relaxed)) {
      while (!jobs_.empty()) Cancel(jobs_.begin()->first);
      return Cancelled("stopped by a signal");
    }
    LLMIR_RETURN_IF_ERROR(Step());
  }
  return Status();
}

const EngineStatistics& Engine::statistics() {
  statistics_.evicted_blocks = pool_.evicted_blocks();
  statistics_.held_blocks = pool_.total_blocks() - pool_.available_blocks();
  return statistics_;
}

void Engine::CheckInvariants() const {
  pool_.CheckInvariants();
  const auto check = [](bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "Engine: %s\n", what);
    std::abort();
  };
  int32_t slots = 0;
  size_t swapped = free_swap_.size();
  for (const SequencePointer& sequence : running_) {
    slots += 1 + sequence->followers;
    check(pool_.tokens(sequence->id) == sequence->computed, "a cache isn't as long as its ids");
    check(sequence->swapped.empty(), "a running sequence is in swap memory");
  }
  check(slots == slots_ && slots <= static_cast<int32_t>(limits_.max_batch()),
        "slots are counted wrongly");
  check(std::ranges::is_sorted(running_, {}, [](const SequencePointer& s) { return TurnOf(*s); }),
        "running sequences are out of order");
  size_t waiting = 0;
  for (const auto& [tenant, entries] : waiting_) {
    waiting += entries.size();
    for (const auto& [turn, sequence] : entries) swapped += sequence->swapped.size();
  }
  check(waiting == waiting_count_, "waiting sequences are counted wrongly");
  check(swapped == static_cast<size_t>(options_.swap_blocks), "places in swap memory are lost");
}

}  // namespace llmir::executor
