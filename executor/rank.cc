#include "executor/rank.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>

#include "comm/silent_channel.h"
#include "executor/cores.h"
#include "plan_schema/plan_facts.h"

namespace llmir::executor {
namespace {

// Tags on the replica's control channel.
constexpr int kIdsTag = 1;
constexpr int kLogitsTag = 2;
constexpr int kLogprobsTag = 3;
constexpr int kTextSizeTag = 4;
constexpr int kTextTag = 5;
constexpr int kDetailsTag = 6;

}  // namespace

struct Rank::State {
  const plan::PlanFile* file;
  const plan::Stage* stage = nullptr;
  int world_rank = 0;
  int sampling_rank = 0;  // world rank of the last stage's first rank
  int cores = 1;
  bool pinned = false;
  std::unique_ptr<kernels::WorkerPool> pool;
  std::unique_ptr<Weights> weights;
  std::unique_ptr<kvpool::KvArena> kv;
  std::unique_ptr<kvpool::KvArena> swap;
  std::unique_ptr<Sampler> sampler;
  std::unique_ptr<comm::Channel> control;   // all ranks of the replica: descriptors, ids, reports
  std::unique_ptr<comm::Channel> pipeline;  // all ranks of the replica: rows between stages
  std::vector<std::unique_ptr<comm::Channel>> groups;
  RankResources resources{};
  std::optional<ActivationCollector> collector;
  std::vector<std::unique_ptr<Program>> programs;
  std::unique_ptr<StepDescriptor> descriptor;  // received ones
  // What comes from the sampling rank, where that isn't rank 0.
  std::vector<int32_t> ids;
  std::vector<float> logits;
  std::vector<float> logprobs;
  std::vector<DrawDetails> details;

  Program* Find(plan::ProgramKind kind) {
    for (const auto& program : programs) {
      if (program->kind() == kind) return program.get();
    }
    return nullptr;
  }

  Status Load(comm::World& world, const RankOptions& options, const LoadProgress& progress);
  Status CreateChannels(comm::World& world, bool exchange);
  Status RunProgram(StepDescriptor& step);
  void CopyBlocks(StepDescriptor& step);
  void DescribeDraws(const Program& program, int32_t sampled);
  double copy_seconds = 0;  // of the last step
  Status SendResult(StepDescriptor& step);
};

Rank::Rank(std::unique_ptr<State> state) : state_(std::move(state)) {}
Rank::~Rank() = default;

Status Rank::State::Load(comm::World& world, const RankOptions& options,
                         const LoadProgress& progress) {
  const plan::Plan& plan = file->plan();
  const plan::Replica& replica = *plan.replicas()->Get(0);
  world_rank = world.rank();
  for (const plan::Stage* candidate : *replica.stages()) {
    for (uint32_t r = 0; r < candidate->ranks()->size(); ++r) {
      if (static_cast<int>(candidate->ranks()->Get(r)->world_rank()) == world_rank) {
        stage = candidate;
        resources.stage_rank = static_cast<int>(r);
        resources.rank = candidate->ranks()->Get(r);
      }
    }
  }
  if (stage == nullptr) return Internal("the plan has no place for rank {}", world_rank);
  sampling_rank = static_cast<int>(
      replica.stages()->Get(replica.stages()->size() - 1)->ranks()->Get(0)->world_rank());

  const int threads = options.threads > 0 ? options.threads : DefaultThreads(world.local_size());
  cores = AllowedCores();
  const bool oversubscribed = threads * world.local_size() > cores;
  pool = std::make_unique<kernels::WorkerPool>(threads, oversubscribed);
  pinned = PinThreads(*pool, world.local_rank(), world.local_size(), cores);
  LLMIR_ASSIGN_OR_RETURN(Weights loaded,
                         Weights::Load(plan, *resources.rank, options.plan_folder, options.model,
                                       options.random_seed, options.isa, *pool, progress));
  weights = std::make_unique<Weights>(std::move(loaded));
  const size_t block_bytes = resources.rank->memory()->kv_block();
  LLMIR_ASSIGN_OR_RETURN(kvpool::KvArena arena,
                         kvpool::KvArena::Create(plan.kv()->blocks(), block_bytes));
  kv = std::make_unique<kvpool::KvArena>(std::move(arena));
  if (options.swap_blocks > 0) {
    LLMIR_ASSIGN_OR_RETURN(
        kvpool::KvArena places,
        kvpool::KvArena::Create(static_cast<size_t>(options.swap_blocks), block_bytes));
    swap = std::make_unique<kvpool::KvArena>(std::move(places));
  }
  for (const uint64_t bytes : *resources.rank->arena_bytes()) {
    LLMIR_ASSIGN_OR_RETURN(MemoryMap map, MemoryMap::Create(bytes, "activations"));
    resources.arenas.push_back(std::move(map));
  }
  resources.plan = &plan;
  resources.stage = stage;
  resources.isa = options.isa;
  resources.pool = pool.get();
  resources.weights = weights.get();
  resources.kv_data = kv->data();
  if (world_rank == sampling_rank) {
    sampler =
        std::make_unique<Sampler>(plan.model()->vocabulary(), kernels::FindVector(options.isa));
    resources.sampler = sampler.get();
  }
  if (options.collect_activations) {
    LLMIR_ASSIGN_OR_RETURN(collector,
                           ActivationCollector::Create(plan, options.isa, pool->threads()));
    resources.collector = &*collector;
  }
  descriptor = std::make_unique<StepDescriptor>(CapacityOf(plan));
  details.resize(plan.limits()->max_batch());
  if (world_rank == 0 && sampling_rank != 0) {
    ids.resize(plan.limits()->max_batch());
    logprobs.resize(plan.limits()->max_tokens());
    logits.resize(static_cast<size_t>(plan.limits()->max_batch()) * plan.model()->vocabulary());
  }
  return Status();
}

// Every rank walks the same list, so that those of a channel meet in one order.
Status Rank::State::CreateChannels(comm::World& world, bool exchange) {
  const plan::Plan& plan = file->plan();
  const plan::Model& model = *plan.model();
  std::vector<int> all(world.size());
  std::iota(all.begin(), all.end(), 0);
  const size_t row_bytes = static_cast<size_t>(model.hidden()) * sizeof(float);
  const size_t hidden_bytes = plan.limits()->max_tokens() * row_bytes;
  const size_t logits_bytes =
      static_cast<size_t>(plan.limits()->max_batch()) * model.vocabulary() * sizeof(float);
  LLMIR_ASSIGN_OR_RETURN(
      control, world.CreateChannel(all, std::max(descriptor->capacity_bytes(), logits_bytes)));
  if (exchange) {
    LLMIR_ASSIGN_OR_RETURN(pipeline, world.CreateChannel(all, hidden_bytes));
  } else {
    pipeline = comm::CreateSilentChannel(world_rank, world.size());
  }
  groups.resize(plan.groups()->size());
  resources.groups.assign(plan.groups()->size(), nullptr);
  for (uint32_t g = 0; g < plan.groups()->size(); ++g) {
    std::vector<int> ranks(plan.groups()->Get(g)->ranks()->begin(),
                           plan.groups()->Get(g)->ranks()->end());
    const auto own = std::find(ranks.begin(), ranks.end(), world_rank);
    if (own == ranks.end()) continue;
    if (exchange) {
      LLMIR_ASSIGN_OR_RETURN(groups[g],
                             world.CreateChannel(ranks, std::max(hidden_bytes, logits_bytes)));
    } else {
      groups[g] = comm::CreateSilentChannel(static_cast<int>(own - ranks.begin()),
                                            static_cast<int>(ranks.size()));
    }
    resources.groups[g] = groups[g].get();
  }
  resources.pipeline = pipeline.get();
  return Status();
}

StatusOr<std::unique_ptr<Rank>> Rank::Create(comm::World& world, const plan::PlanFile& plan,
                                             const RankOptions& options,
                                             const LoadProgress& progress) {
  auto state = std::make_unique<State>();
  state->file = &plan;
  LLMIR_RETURN_IF_ERROR(world.Agree(state->Load(world, options, progress)));
  LLMIR_RETURN_IF_ERROR(world.Agree(state->CreateChannels(world, options.exchange)));
  Status status;
  for (const plan::Program* program : *state->stage->programs()) {
    auto bound = Program::Create(*program, &state->resources);
    if (!bound.ok()) {
      status = bound.status();
      break;
    }
    (*bound)->set_timing(options.timing);
    state->programs.push_back(std::move(bound).value());
  }
  LLMIR_RETURN_IF_ERROR(world.Agree(status));
  return std::unique_ptr<Rank>(new Rank(std::move(state)));
}

Status Rank::State::RunProgram(StepDescriptor& step) {
  Program* program = Find(step.program());
  if (program == nullptr)
    return Internal("the plan has no {} program", plan::EnumNameProgramKind(step.program()));
  CopyBlocks(step);
  return program->Run(step);
}

// Each thread copies the same bytes of every block, so that copies which follow from each other
// need no barrier between them.
void Rank::State::CopyBlocks(StepDescriptor& step) {
  copy_seconds = 0;
  if (step.copies().empty()) return;
  const auto before = std::chrono::steady_clock::now();
  const auto blocks = static_cast<int32_t>(file->plan().kv()->blocks());
  const size_t bytes = kv->block_bytes();
  const auto place = [&](int32_t block) {
    return block < blocks ? kv->data() + static_cast<size_t>(block) * bytes
                          : swap->data() + static_cast<size_t>(block - blocks) * bytes;
  };
  pool->Run([&](int thread) {
    const auto share = kernels::ShareOf(static_cast<int64_t>(bytes), 64, thread, pool->threads());
    for (const kvpool::BlockCopy& copy : step.copies()) {
      std::memcpy(place(copy.to) + share.begin, place(copy.from) + share.begin,
                  static_cast<size_t>(share.end - share.begin));
    }
  });
  copy_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
}

void Rank::State::DescribeDraws(const Program& program, int32_t sampled) {
  for (int32_t i = 0; i < sampled; ++i) {
    const std::span<const float> row = program.logits(i);
    float best = -INFINITY;
    float second = -INFINITY;
    for (const float logit : row) {
      second = std::max(second, std::min(best, logit));
      best = std::max(best, logit);
    }
    double sum = 0;
    for (const float logit : row) sum += std::exp(static_cast<double>(logit) - best);
    const double drawn = row[static_cast<size_t>(program.sampled_ids()[static_cast<size_t>(i)])];
    details[static_cast<size_t>(i)] = {static_cast<float>(drawn - best - std::log(sum)),
                                       best - second};
  }
}

// The ids' message: the one edge between ranks outside programs.
Status Rank::State::SendResult(StepDescriptor& step) {
  if (sampling_rank == 0 || world_rank != sampling_rank) return Status();
  const Program& program = *Find(step.program());
  if (step.program() == plan::ProgramKind::score) {
    return control->Send(program.logprobs().data(), step.header().tokens * sizeof(float), 0,
                         kLogprobsTag);
  }
  const int32_t sampled = step.header().sampled;
  if (sampled == 0) return Status();
  LLMIR_RETURN_IF_ERROR(
      control->Send(program.sampled_ids().data(), sampled * sizeof(int32_t), 0, kIdsTag));
  if (step.header().return_details != 0) {
    DescribeDraws(program, sampled);
    LLMIR_RETURN_IF_ERROR(
        control->Send(details.data(), sampled * sizeof(DrawDetails), 0, kDetailsTag));
  }
  if (step.header().return_logits == 0) return Status();
  return control->Send(program.logits(0).data(), sampled * program.logits(0).size_bytes(), 0,
                       kLogitsTag);
}

StatusOr<StepResult> Rank::RunStep(StepDescriptor& step) {
  State& s = *state_;
  LLMIR_RETURN_IF_ERROR(step.Broadcast(*s.control));
  LLMIR_RETURN_IF_ERROR(s.RunProgram(step));
  const int32_t sampled = step.header().sampled;
  const bool score = step.program() == plan::ProgramKind::score;
  const bool with_details = step.header().return_details != 0 && sampled > 0;
  const bool with_logits = step.header().return_logits != 0 && sampled > 0;
  const size_t vocabulary = plan().model()->vocabulary();
  StepResult result;
  result.copy_seconds = s.copy_seconds;
  if (with_details) result.details = std::span(s.details).first(sampled);
  if (s.sampling_rank == 0) {
    const Program& program = *s.Find(step.program());
    if (score) {
      result.logprobs = program.logprobs().first(step.header().tokens);
    } else if (sampled > 0) {
      result.ids = program.sampled_ids();
      if (with_details) s.DescribeDraws(program, sampled);
      if (with_logits) result.logits = {program.logits(0).data(), sampled * vocabulary};
    }
    return result;
  }
  if (score) {
    result.logprobs = std::span(s.logprobs).first(step.header().tokens);
    LLMIR_RETURN_IF_ERROR(s.control->Recv(s.logprobs.data(), result.logprobs.size_bytes(),
                                          s.sampling_rank, kLogprobsTag));
  } else if (sampled > 0) {
    result.ids = std::span(s.ids).first(sampled);
    LLMIR_RETURN_IF_ERROR(
        s.control->Recv(s.ids.data(), result.ids.size_bytes(), s.sampling_rank, kIdsTag));
    if (with_details) {
      LLMIR_RETURN_IF_ERROR(s.control->Recv(s.details.data(), result.details.size_bytes(),
                                            s.sampling_rank, kDetailsTag));
    }
    if (with_logits) {
      result.logits = std::span(s.logits).first(sampled * vocabulary);
      LLMIR_RETURN_IF_ERROR(s.control->Recv(s.logits.data(), result.logits.size_bytes(),
                                            s.sampling_rank, kLogitsTag));
    }
  }
  return result;
}

Status Rank::Serve() {
  State& s = *state_;
  for (;;) {
    LLMIR_RETURN_IF_ERROR(s.descriptor->Broadcast(*s.control));
    if (s.descriptor->header().stop != 0) return Status();
    LLMIR_RETURN_IF_ERROR(s.RunProgram(*s.descriptor));
    LLMIR_RETURN_IF_ERROR(s.SendResult(*s.descriptor));
  }
}

Status Rank::Stop() {
  State& s = *state_;
  s.descriptor->Resize(plan::ProgramKind::decode, 0, 0, 0, 0);
  s.descriptor->header().stop = 1;
  return s.descriptor->Broadcast(*s.control);
}

StatusOr<std::vector<std::string>> Rank::Collect(const std::string& text) {
  State& s = *state_;
  const size_t piece = s.descriptor->capacity_bytes();
  std::vector<std::string> all;
  if (s.world_rank != 0) {
    const uint64_t size = text.size();
    LLMIR_RETURN_IF_ERROR(s.control->Send(&size, sizeof size, 0, kTextSizeTag));
    for (size_t at = 0; at < size; at += piece) {
      LLMIR_RETURN_IF_ERROR(
          s.control->Send(text.data() + at, std::min<size_t>(piece, size - at), 0, kTextTag));
    }
    return all;
  }
  all.push_back(text);
  for (int rank = 1; rank < s.control->size(); ++rank) {
    uint64_t size = 0;
    LLMIR_RETURN_IF_ERROR(s.control->Recv(&size, sizeof size, rank, kTextSizeTag));
    std::string received(size, '\0');
    for (size_t at = 0; at < size; at += piece) {
      LLMIR_RETURN_IF_ERROR(s.control->Recv(received.data() + at,
                                            std::min<size_t>(piece, size - at), rank, kTextTag));
    }
    all.push_back(std::move(received));
  }
  return all;
}

const plan::Plan& Rank::plan() const { return state_->file->plan(); }
const Weights& Rank::weights() const { return *state_->weights; }
const plan::Rank& Rank::plan_rank() const { return *state_->resources.rank; }
int Rank::cores() const { return state_->cores; }
bool Rank::pinned() const { return state_->pinned; }
int Rank::threads() const { return state_->pool->threads(); }
kernels::Isa Rank::isa() const { return state_->resources.isa; }
kernels::WorkerPool& Rank::pool() { return *state_->pool; }
const std::vector<std::unique_ptr<Program>>& Rank::programs() const { return state_->programs; }
StepCapacity Rank::capacity() const { return CapacityOf(plan()); }
std::string_view Rank::channel_backend() const {
  const comm::Channel* channel = state_->resources.groups[state_->stage->group()];
  return channel != nullptr ? channel->backend() : "none";
}
const ActivationCollector* Rank::collector() const { return state_->resources.collector; }

}  // namespace llmir::executor
