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

// Of one KV block on all ranks of a replica.
double BlockBytes(const plan::Plan& plan) {
  double bytes = 0;
  for (const plan::Stage* stage : *plan.replicas()->Get(0)->stages()) {
    for (const plan::Rank* rank : *stage->ranks()) {
      bytes += static_cast<double>(rank->memory()->kv_block());
    }
  }
  return bytes;
}

constexpr size_t kKeptSteps = 4096;  // whose scheduler times are kept

}  // namespace

Engine::Replica::Replica(const plan::Plan& plan, int number, const EngineOptions& options)
    : number(number),
      pool(static_cast<int32_t>(plan.kv()->blocks()), static_cast<int32_t>(plan.kv()->block_size()),
           static_cast<int32_t>(plan::RunningSequences(plan) + PrefixCount(plan)) +
               (plan.replicas()->size() > 1 || options.spill_slots > 0 ? kMostLeases + 1 : 0),
           static_cast<int32_t>(plan.kv()->max_blocks_per_sequence()),
           // As llm-allocate-blocks divides them (planner/Dialect/LLM/Transforms).
           static_cast<int32_t>((plan.kv()->blocks() - plan::PinnedBlocks(plan)) /
                                plan::RunningSequences(plan)),
           options.tree) {
  if (options.spill_slots > 0) {
    spilled = std::make_unique<kvpool::BlockPool>(
        options.spill_slots, pool.block_size(), kMostLeases + 1,
        static_cast<int32_t>(plan.kv()->max_blocks_per_sequence()), 0, options.tree);
  }
  const StepCapacity capacity = CapacityOf(plan);
  running.reserve(plan::RunningSequences(plan));
  copies.reserve(static_cast<size_t>(capacity.copies));
  for (int32_t place = options.swap_blocks - 1; place >= 0; --place) free_swap.push_back(place);
  for (uint32_t i = 0; i < plan.limits()->steps_in_flight(); ++i) {
    flights.emplace_back(capacity);
    flights.back().entries.reserve(plan.limits()->max_batch());
  }
}

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
      capacity_(CapacityOf(plan)),
      most_running_(static_cast<int32_t>(plan::RunningSequences(plan))),
      window_(static_cast<int32_t>(plan::KvWindow(*plan.model()))),
      predicted_prefill_(PredictedPrefillSeconds(plan)),
      block_bytes_(BlockBytes(plan)),
      growth_(ContextGrowth(plan)) {
  if (runner_.transfers() == nullptr || !options_.reuse_prefixes) options_.spill_slots = 0;
  for (uint32_t r = 0; r < plan.replicas()->size(); ++r) {
    replicas_.push_back(std::make_unique<Replica>(plan, static_cast<int>(r), options_));
  }
  candidates_.reserve(replicas_.size());
  step_ids_.reserve(limits_.max_batch());
  drawn_.reserve(2 * limits_.max_batch());
  statistics_.scheduler_us.reserve(kKeptSteps);
  if (replicas_.size() > 1) runner_.set_meanwhile([this] { return Meanwhile(); });
}

Engine::~Engine() { runner_.set_meanwhile({}); }

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
  if (idle()) return Status();
  const auto begin = Clock::now();
  bool moved = TakeFetches();
  LLMIR_RETURN_IF_ERROR(Admit());
  admission_ = Clock::now() - begin;
  // Backwards: the first replica's step computes in this process, while the others compute theirs.
  // By number: one after it may be lost meanwhile.
  for (size_t i = replicas_.size(); i-- > 0;) {
    Replica& replica = *replicas_[i];
    LLMIR_ASSIGN_OR_RETURN(const bool started, StartStep(replica));
    LLMIR_RETURN_IF_ERROR(SpillCold(replica));
    moved = moved || started;
    if (replica.in_flight == 0 || (started && replica.in_flight < replica.flights.size())) continue;
    if (replicas_.size() + lost_.size() == 1) return TakeStep(replica);
    LLMIR_ASSIGN_OR_RETURN(const bool finished, runner_.IsFinished(replica.number));
    if (finished) LLMIR_RETURN_IF_ERROR(TakeStep(replica));
    moved = moved || finished;
  }
  if (moved) return Status();
  if (in_flight_ > 0) return TakeAnyStep();
  if (!fetches_.empty() || spills_ > 0) {
    // Nothing else is to be done; the caller may have something.
    runner_.transfers()->WaitOutcome(std::chrono::milliseconds(1));
    return Status();
  }
  return Internal("{} requests are there, but none got a row", jobs_.size());
}

StatusOr<bool> Engine::StartStep(Replica& replica) {
  if (replica.in_flight == replica.flights.size() || replica.running.empty()) return false;
  const auto begin = Clock::now();
  Flight& flight = replica.composed();
  flight.entries.clear();
  LLMIR_RETURN_IF_ERROR(GiveDecodesTheirRows(replica));
  LLMIR_RETURN_IF_ERROR(GivePromptsTheirRows(replica));
  if (flight.entries.empty()) return false;
  Compose(replica);
  flight.started = Clock::now();
  flight.scheduled = flight.started - begin + std::exchange(admission_, {});
  ++replica.in_flight;
  ++in_flight_;
  computing_ = &replica;
  LLMIR_RETURN_IF_ERROR(runner_.Start(replica.number, flight.descriptor));
  computing_ = nullptr;
  return true;
}

Status Engine::TakeStep(Replica& replica) {
  LLMIR_ASSIGN_OR_RETURN(const StepResult result, runner_.Finish(replica.number));
  const auto done = Clock::now();
  Flight& flight = replica.front();
  Measure(replica, result);
  drawn_.clear();
  LLMIR_RETURN_IF_ERROR(Advance(replica, result));
  replica.oldest = (replica.oldest + 1) % replica.flights.size();
  --replica.in_flight;
  --in_flight_;
  if (std::exchange(retry_, false)) blocked_ = false;
  const float scheduled =
      std::chrono::duration<float, std::micro>(flight.scheduled + (Clock::now() - done)).count();
  if (statistics_.scheduler_us.size() < kKeptSteps) {
    statistics_.scheduler_us.push_back(scheduled);
  } else {
    statistics_.scheduler_us[scheduled_++ % kKeptSteps] = scheduled;
  }
  for (Sequence* sequence : drawn_) Tell(*sequence);
  RemoveFinished();
  return Status();
}

Status Engine::Meanwhile() {
  bool any = false;
  for (const auto& replica : replicas_) {
    if (replica.get() == computing_ || replica->in_flight == 0) continue;
    LLMIR_ASSIGN_OR_RETURN(const bool finished, runner_.IsFinished(replica->number));
    if (finished) LLMIR_RETURN_IF_ERROR(TakeStep(*replica));
    any = any || finished;
  }
  any = TakeFetches() || any;
  if (!any) return Status();
  LLMIR_RETURN_IF_ERROR(Admit());
  Replica* const computing = computing_;
  for (const auto& replica : replicas_) {
    if (replica.get() == computing) continue;
    LLMIR_RETURN_IF_ERROR(StartStep(*replica).status());
    computing_ = computing;
  }
  return Status();
}

void Engine::Measure(Replica& replica, const StepResult& result) {
  Flight& flight = replica.front();
  StepDescriptor& descriptor = flight.descriptor;
  const auto now = Clock::now();
  const auto since = [&](Clock::time_point taken) {
    return std::chrono::duration<double>(now - std::max(flight.started, taken)).count() -
           result.copy_seconds;
  };
  const double passed = since(taken_);          // that nobody else's step is charged with
  const double seconds = since(replica.taken);  // between two results of this replica
  taken_ = replica.taken = now;
  ++statistics_.steps;
  if (!descriptor.copies().empty()) {
    replica.copy_seconds.Add(result.copy_seconds / static_cast<double>(descriptor.copies().size()));
  }
  const StepHeader& header = descriptor.header();
  if (descriptor.program() == plan::ProgramKind::decode) {
    statistics_.decode_seconds += passed;
    statistics_.decode_rows += static_cast<uint64_t>(header.tokens);
    ++statistics_.decode_steps;
    for (const int32_t tokens : descriptor.kv_tokens()) statistics_.decode_context += tokens;
    replica.decode_seconds.Add(seconds);
  } else {
    statistics_.prefill_seconds += passed;
    int32_t prompt_rows = 0;
    bool decodes = false;
    for (const Flight::Entry& entry : flight.entries) {
      const int32_t known = entry.rows - entry.drafted;
      prompt_rows += known > 1 ? known : 0;
      decodes = decodes || known == 1;
    }
    // Of a few tokens the step's fixed time is most.
    if (prompt_rows >= 4) {
      const double own = seconds - (decodes ? replica.decode_seconds.value() : 0);
      replica.prefill_seconds.Add(std::max(own, 0.2 * seconds) / prompt_rows);
      replica.pool.tree().SetRecomputeCost(
          replica.prefill_seconds.value() * replica.pool.block_size(), growth_);
    }
  }
  const auto held = [](const Replica& r) {
    return r.pool.total_blocks() - r.pool.available_blocks();
  };
  int32_t all = 0;
  for (const auto& other : replicas_) all += held(*other);
  statistics_.peak_blocks = std::max(statistics_.peak_blocks, all);
  statistics_.allocated_tokens += static_cast<double>(held(replica)) * replica.pool.block_size();
  for (const SequencePointer& sequence : replica.running) {
    const auto blocks = static_cast<int32_t>(replica.pool.blocks(sequence->id).size());
    statistics_.unused_tokens +=
        blocks * replica.pool.block_size() - replica.pool.tokens(sequence->id);
  }
}

Status Engine::Run(const std::atomic<bool>& cancelled) {
  Status pinned = Pin(cancelled);
  if (!pinned.ok() && pinned.code() != StatusCode::kCancelled) return pinned;
  while (!idle()) {
    if (cancelled.load(std::memory_order_relaxed)) {
      while (!jobs_.empty()) Cancel(jobs_.begin()->first);
      while (!idle()) LLMIR_RETURN_IF_ERROR(Step());  // what is in flight comes to its end
      return Cancelled("stopped by a signal");
    }
    LLMIR_RETURN_IF_ERROR(Step());
  }
  return Status();
}

const EngineStatistics& Engine::statistics() {
  statistics_.evicted_blocks = 0;
  statistics_.held_blocks = 0;
  for (const auto& replica : replicas_) {
    statistics_.evicted_blocks += replica->pool.evicted_blocks();
    statistics_.held_blocks += replica->pool.total_blocks() - replica->pool.available_blocks();
  }
  return statistics_;
}

void Engine::CheckInvariants() const {
  const auto check = [](bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "Engine: %s\n", what);
    std::abort();
  };
  size_t in_flight = 0;
  std::map<const Replica*, size_t> swapped;
  for (const auto& replica : replicas_) {
    replica->pool.CheckInvariants();
    if (replica->spilled != nullptr) replica->spilled->CheckInvariants();
    in_flight += replica->in_flight;
    std::map<const Sequence*, int32_t> flights;
    for (size_t i = 0; i < replica->in_flight; ++i) {
      const Flight& flight = replica->flights[(replica->oldest + i) % replica->flights.size()];
      for (const Flight::Entry& entry : flight.entries) ++flights[entry.sequence];
    }
    for (const Fetch& fetch : fetches_) {
      if (fetch.sequence != nullptr && fetch.sequence->replica == replica.get()) {
        ++flights[fetch.sequence];
      }
    }
    int32_t slots = 0;
    size_t known = 0;
    for (const auto* sequences : {&replica->running, &replica->left}) {
      for (const SequencePointer& sequence : *sequences) {
        slots += 1 + sequence->followers;
        const auto found = flights.find(sequence.get());
        const int32_t expected = found == flights.end() ? 0 : found->second;
        known += expected > 0;
        check(sequence->flights == expected, "steps in flight are counted wrongly");
        check(sequence->swapped.empty(), "a running sequence is in swap memory");
        check(sequence->draws || replica->pool.tokens(sequence->id) == sequence->computed,
              "a cache isn't as long as its ids");
      }
    }
    check(known == flights.size(), "a step in flight has a sequence that is gone");
    check(slots == replica->slots && slots <= most_running_, "slots are counted wrongly");
    check(std::ranges::is_sorted(replica->running, {},
                                 [](const SequencePointer& s) { return TurnOf(*s); }),
          "running sequences are out of order");
    swapped[replica.get()] = replica->free_swap.size();
  }
  check(in_flight == in_flight_, "steps in flight are counted wrongly");
  size_t waiting = 0;
  for (const auto& [tenant, entries] : waiting_) {
    waiting += entries.size();
    for (const auto& [turn, sequence] : entries) {
      if (!sequence->swapped.empty()) swapped[sequence->replica] += sequence->swapped.size();
    }
  }
  check(waiting == waiting_count_, "waiting sequences are counted wrongly");
  for (const auto& [replica, places] : swapped) {
    check(places == static_cast<size_t>(options_.swap_blocks), "places in swap memory are lost");
  }
}

}  // namespace llmir::executor
