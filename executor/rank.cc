#include "executor/rank.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>

#include "comm/silent_channel.h"
#include "executor/cores.h"
#include "kvpool/transfer_service.h"
#include "plan_schema/base/memory_map.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/sum_tree.h"

namespace llmir::executor {
namespace {

// Tags of what isn't rows between stages; those count from 0.
constexpr int kDescriptorTag = comm::kMaxTag;
constexpr int kResultTag = comm::kMaxTag - 1;
constexpr int kTextSizeTag = comm::kMaxTag - 2;
constexpr int kTextTag = comm::kMaxTag - 3;

// What the sampling rank sends to rank 0 after each step, in one message with what follows: the
// draws' details, their ids, their logits, as the descriptor asks; or a score step's
// log-probabilities.
struct ResultHeader {
  uint64_t number;  // of the step
  double copy_seconds;
};

struct ResultLayout {
  size_t details, ids, logits, logprobs, end;
};

ResultLayout LayoutOf(const StepHeader& step, size_t vocabulary) {
  const bool score = static_cast<plan::ProgramKind>(step.program) == plan::ProgramKind::score;
  const auto sampled = static_cast<size_t>(score ? 0 : step.sampled);
  ResultLayout layout{};
  layout.details = sizeof(ResultHeader);
  layout.ids = layout.details + (step.return_details != 0 ? sampled * sizeof(DrawDetails) : 0);
  layout.logits = layout.ids + sampled * sizeof(int32_t);
  layout.logprobs =
      layout.logits + (step.return_logits != 0 ? sampled * vocabulary * sizeof(float) : 0);
  layout.end = layout.logprobs + (score ? static_cast<size_t>(step.tokens) * sizeof(float) : 0);
  return layout;
}

size_t LargestResult(const plan::Plan& plan) {
  const size_t batch = plan.limits()->max_batch();
  const size_t draws =
      batch * (sizeof(DrawDetails) + sizeof(int32_t) + plan.model()->vocabulary() * sizeof(float));
  return sizeof(ResultHeader) + std::max(draws, plan.limits()->max_tokens() * sizeof(float));
}

// Uninitialized, so that only what is used takes memory.
struct ResultBuffer {
  std::unique_ptr<std::byte[]> data;
  comm::Request request;
  static ResultBuffer Create(const plan::Plan& plan) {
    return {std::make_unique_for_overwrite<std::byte[]>(LargestResult(plan)), {}};
  }
};

// A replica as rank 0 sees it, and its steps in flight.
struct Link {
  struct Step {
    StepDescriptor* descriptor = nullptr;
    ResultBuffer result;  // without data where this process samples
    bool arrived = false;
    std::vector<comm::Request> sends;  // of the descriptor
    double copy_seconds = 0;
  };
  int first = 0;     // world rank of its first stage's first rank: gets descriptors
  int sampling = 0;  // of its last stage's first rank: sends results
  bool lost = false;
  std::vector<Step> steps;  // a ring
  size_t oldest = 0;
  size_t count = 0;
  Step& front() { return steps[oldest]; }
};

int FirstRank(const plan::Stage& stage) {
  return static_cast<int>(stage.ranks()->Get(0)->world_rank());
}

}  // namespace

struct Rank::State {
  const plan::PlanFile* file;
  const plan::Stage* stage = nullptr;
  int world_rank = 0;
  uint32_t replica = 0;
  uint32_t stage_index = 0;
  bool samples = false;  // the last stage's first rank
  int upstream = 0;      // who sends descriptors, where this is its stage's first rank
  int downstream = -1;   // to whom they go on; -1: nobody
  int cores = 1;
  bool pinned = false;
  std::unique_ptr<kernels::WorkerPool> pool;
  std::unique_ptr<Weights> weights;
  std::unique_ptr<kvpool::KvArena> kv;
  std::vector<MemoryMap> activations;  // the arenas without KV blocks
  std::unique_ptr<kvpool::KvArena> swap;
  // Where there are several replicas, or spill files, and the ranks reach each other.
  std::unique_ptr<kvpool::TransferService> transfers;
  Status transfer_status;
  std::unique_ptr<Sampler> sampler;
  // All ranks of the job: rows between stages, descriptors, results, reports. One channel, so that
  // waiting for one kind moves the others on.
  std::unique_ptr<comm::Channel> messages;
  std::vector<std::unique_ptr<comm::Channel>> groups;
  std::vector<std::unique_ptr<comm::Channel>> silent;  // what programs use without exchange
  RankResources resources{};
  std::optional<ActivationCollector> collector;
  std::vector<std::unique_ptr<Program>> programs;
  std::unique_ptr<StepDescriptor> descriptor;  // received ones
  std::vector<comm::Request> relays;           // of it to the next stage
  std::vector<Link> links;                     // by replica, on rank 0
  std::vector<ResultBuffer> results;           // on other sampling ranks: a ring
  size_t next_result = 0;
  std::vector<DrawDetails> details;  // where rank 0 samples
  bool crippled = false;

  Program* Find(plan::ProgramKind kind) {
    for (const auto& program : programs) {
      if (program->kind() == kind) return program.get();
    }
    return nullptr;
  }

  Status Load(comm::World& world, const RankOptions& options, const LoadProgress& progress);
  // `exchange`: programs have the job's channels, else silent ones.
  Status CreateChannels(comm::World& world, bool exchange);
  Status CreateBlocks(const comm::World& world, const RankOptions& options);
  Status CreateArenas();
  // The services of all ranks learn of each other.
  Status JoinTransfers();
  // The stage's ranks get the descriptor, and the next stage.
  Status PassOn(StepDescriptor& step, std::vector<comm::Request>* sends);
  Status RunProgram(StepDescriptor& step, const std::function<Status()>& meanwhile);
  void CopyBlocks(StepDescriptor& step);
  void DescribeDraws(const Program& program, std::span<DrawDetails> draws) const;
  double copy_seconds = 0;  // of the last step
  Status StartResult(StepDescriptor& step);
  Status WaitAll(std::vector<comm::Request>* requests);
};

Rank::Rank(std::unique_ptr<State> state) : state_(std::move(state)) {}
Rank::~Rank() = default;

Status Rank::State::Load(comm::World& world, const RankOptions& options,
                         const LoadProgress& progress) {
  const plan::Plan& plan = file->plan();
  world_rank = world.rank();
  for (uint32_t p = 0; p < plan.replicas()->size(); ++p) {
    const auto& stages = *plan.replicas()->Get(p)->stages();
    for (uint32_t i = 0; i < stages.size(); ++i) {
      for (uint32_t r = 0; r < stages.Get(i)->ranks()->size(); ++r) {
        if (static_cast<int>(stages.Get(i)->ranks()->Get(r)->world_rank()) != world_rank) continue;
        replica = p;
        stage_index = i;
        stage = stages.Get(i);
        resources.stage_rank = static_cast<int>(r);
        resources.rank = stage->ranks()->Get(r);
        upstream = i > 0 ? FirstRank(*stages.Get(i - 1)) : 0;
        if (i + 1 < stages.size()) downstream = FirstRank(*stages.Get(i + 1));
        samples = r == 0 && i + 1 == stages.size();
      }
    }
  }
  if (stage == nullptr) return Internal("the plan has no place for rank {}", world_rank);

  const int threads = options.threads > 0 ? options.threads : DefaultThreads(world.local_size());
  cores = AllowedCores();
  const bool oversubscribed = threads * world.local_size() > cores;
  // Before this thread is pinned to a core: that of the transfers may run on all.
  LLMIR_RETURN_IF_ERROR(CreateBlocks(world, options));
  pool = std::make_unique<kernels::WorkerPool>(threads, oversubscribed);
  pinned = PinThreads(*pool, world.local_rank(), world.local_size(), cores);
  LLMIR_ASSIGN_OR_RETURN(Weights loaded,
                         Weights::Load(plan, *resources.rank, options.plan_folder, options.model,
                                       options.random_seed, options.isa, *pool, progress));
  weights = std::make_unique<Weights>(std::move(loaded));
  LLMIR_RETURN_IF_ERROR(CreateArenas());
  resources.plan = &plan;
  resources.stage = stage;
  resources.isa = options.isa;
  resources.pool = pool.get();
  resources.weights = weights.get();
  resources.kv_data = kv->data();
  if (samples) {
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
  const uint32_t depth = plan.limits()->steps_in_flight();
  if (samples && world_rank != 0) {
    for (uint32_t i = 0; i < depth; ++i) results.push_back(ResultBuffer::Create(plan));
  }
  if (world_rank != 0) return Status();
  for (const plan::Replica* each : *plan.replicas()) {
    Link& link = links.emplace_back();
    link.first = FirstRank(*each->stages()->Get(0));
    link.sampling = FirstRank(*each->stages()->Get(each->stages()->size() - 1));
    for (uint32_t i = 0; i < depth; ++i) {
      Link::Step& step = link.steps.emplace_back();
      if (link.sampling != 0) step.result = ResultBuffer::Create(plan);
      step.sends.reserve(2);
    }
  }
  return Status();
}

Status Rank::State::CreateBlocks(const comm::World& world, const RankOptions& options) {
  const plan::Plan& plan = file->plan();
  const plan::Leaves heads = plan::RankLeaves(*resources.rank, plan::Unit::kv_head);
  const kvpool::BlockLayout layout{static_cast<int32_t>(stage->layer_begin()),
                                   static_cast<int32_t>(stage->layer_end() - stage->layer_begin()),
                                   static_cast<int32_t>(heads.begin),
                                   static_cast<int32_t>(heads.count()),
                                   static_cast<int64_t>(plan.kv()->head_bytes())};
  const plan::Rank& rank = *resources.rank;
  kvpool::KvShape shape{plan.kv()->blocks(), static_cast<size_t>(layout.slices()),
                        static_cast<size_t>(layout.slice_bytes()), plan.kv()->extent_blocks(),
                        rank.kv_offset()};
  const bool huge_blocks = plan::KvArenaBytes(plan, rank) >= plan::kHugeKvArena;
  if (shape.offset >= MemoryMap::kLeastHugeBytes) {
    shape.huge_from = 0;
  } else if (huge_blocks) {
    // Not the activations. In huge pages nothing got faster (SmolLM2 in q8_0, 16 to 512 tokens:
    // within 2 %), and a prompt of 16 tokens made 5.6 MB more present.
    shape.huge_from = shape.offset;
  }
  const bool spills = options.transfers && options.spill_slots > 0;
  const bool transferring = (options.transfers && plan.replicas()->size() > 1) || spills;
  bool near = false;  // whether ranks of another replica share this host
  bool far = false;
  for (uint32_t p = 0; p < plan.replicas()->size(); ++p) {
    for (const plan::Stage* each : *plan.replicas()->Get(p)->stages()) {
      for (const plan::Rank* rank : *each->ranks()) {
        const bool here = world.host_leader(static_cast<int>(rank->world_rank())) ==
                          world.host_leader(world_rank);
        near = near || (here && p != replica);
        far = far || !here;
      }
    }
  }
  LLMIR_ASSIGN_OR_RETURN(
      kvpool::KvArena arena,
      kvpool::KvArena::Create(shape, transferring && near ? Sharing::kShared : Sharing::kPrivate));
  kv = std::make_unique<kvpool::KvArena>(std::move(arena));
  if (options.swap_blocks > 0) {
    shape.blocks = static_cast<size_t>(options.swap_blocks);
    shape.huge_from = huge_blocks ? 0 : MemoryMap::kSmallPages;
    shape.offset = 0;
    LLMIR_ASSIGN_OR_RETURN(kvpool::KvArena places, kvpool::KvArena::Create(shape));
    swap = std::make_unique<kvpool::KvArena>(std::move(places));
  }
  if (!transferring) return Status();
  kvpool::TransferOptions transfer_options;
  transfer_options.between_hosts = far;
  if (spills) {
    transfer_options.spill_folder = options.spill_folder;
    transfer_options.spill_slots = static_cast<size_t>(options.spill_slots);
  }
  // Whoever waits for a rank that is lost would wait for ever.
  transfer_options.on_fatal = [](const Status& why) {
    std::fprintf(stderr, "llmir-exec: %s\n", why.ToString().c_str());
    std::_Exit(1);
  };
  LLMIR_ASSIGN_OR_RETURN(transfers,
                         kvpool::TransferService::Create(world_rank, static_cast<int>(replica),
                                                         world.host_leader(world_rank), layout, *kv,
                                                         transfer_options));
  return Status();
}

Status Rank::State::CreateArenas() {
  const plan::Rank& rank = *resources.rank;
  for (uint32_t a = 0; a < rank.arena_bytes()->size(); ++a) {
    if (rank.kv_arena() == static_cast<int32_t>(a)) {
      resources.arenas.push_back(kv->front());
      continue;
    }
    LLMIR_ASSIGN_OR_RETURN(MemoryMap map,
                           MemoryMap::Create(rank.arena_bytes()->Get(a), "activations"));
    resources.arenas.push_back(map.data());
    activations.push_back(std::move(map));
  }
  return Status();
}

Status Rank::State::JoinTransfers() {
  using kvpool::TransferEndpoint;
  const auto size = static_cast<size_t>(messages->size());
  std::vector<TransferEndpoint> endpoints(size);
  const std::vector<size_t> counts(size, sizeof(TransferEndpoint) / sizeof(float));
  LLMIR_RETURN_IF_ERROR(messages->AllGather(reinterpret_cast<const float*>(&transfers->endpoint()),
                                            counts, reinterpret_cast<float*>(endpoints.data())));
  return transfers->Join(std::move(endpoints));
}

// Every rank walks the same list, so that those of a channel meet in one order.
Status Rank::State::CreateChannels(comm::World& world, bool exchange) {
  const plan::Plan& plan = file->plan();
  const plan::Model& model = *plan.model();
  std::vector<int> all(world.size());
  std::iota(all.begin(), all.end(), 0);
  const size_t row_bytes = static_cast<size_t>(model.hidden()) * sizeof(float);
  const size_t hidden_bytes = plan.limits()->max_tokens() * row_bytes;
  size_t nodes = 1;  // of the rank of the plan that has most: a channel's ranks name one size
  if (plan.reproducible()) {
    for (const plan::Replica* replica : *plan.replicas()) {
      for (const plan::Stage* each : *replica->stages()) {
        nodes = std::max<size_t>(nodes, plan::MostNodes(model, *each));
      }
    }
  }
  const size_t logits_bytes =
      static_cast<size_t>(plan.limits()->max_batch()) * model.vocabulary() * sizeof(float);
  const size_t descriptor_bytes = descriptor->capacity_bytes();
  LLMIR_ASSIGN_OR_RETURN(
      messages,
      world.CreateChannel(all, std::max({descriptor_bytes, LargestResult(plan), hidden_bytes,
                                         all.size() * sizeof(kvpool::TransferEndpoint)})));
  groups.resize(plan.groups()->size());
  resources.groups.assign(plan.groups()->size(), nullptr);
  for (uint32_t g = 0; g < plan.groups()->size(); ++g) {
    std::vector<int> ranks(plan.groups()->Get(g)->ranks()->begin(),
                           plan.groups()->Get(g)->ranks()->end());
    const auto own = std::find(ranks.begin(), ranks.end(), world_rank);
    if (own == ranks.end()) continue;
    LLMIR_ASSIGN_OR_RETURN(
        groups[g], world.CreateChannel(
                       ranks, std::max({descriptor_bytes, nodes * hidden_bytes, logits_bytes})));
    if (!exchange) {
      silent.push_back(comm::CreateSilentChannel(static_cast<int>(own - ranks.begin()),
                                                 static_cast<int>(ranks.size())));
      resources.groups[g] = silent.back().get();
      continue;
    }
    resources.groups[g] = groups[g].get();
  }
  resources.messages = messages.get();
  if (!exchange) {
    silent.push_back(comm::CreateSilentChannel(world_rank, world.size()));
    resources.messages = silent.back().get();
  }
  return Status();
}

StatusOr<std::unique_ptr<Rank>> Rank::Create(comm::World& world, const plan::PlanFile& plan,
                                             const RankOptions& options,
                                             const LoadProgress& progress) {
  auto state = std::make_unique<State>();
  state->file = &plan;
  LLMIR_RETURN_IF_ERROR(world.Agree(state->Load(world, options, progress)));
  LLMIR_RETURN_IF_ERROR(world.Agree(state->CreateChannels(world, options.exchange)));
  if (state->transfers != nullptr) {
    state->transfer_status = world.Agree(state->JoinTransfers());
    if (!state->transfer_status.ok()) {
      // Before any goes: that is no loss.
      state->transfers->Close();
      LLMIR_RETURN_IF_ERROR(world.Agree(Status()));
      state->transfers.reset();
    }
  }
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

Status Rank::State::PassOn(StepDescriptor& step, std::vector<comm::Request>* sends) {
  if (resources.stage_rank == 0 && downstream >= 0) {
    LLMIR_RETURN_IF_ERROR(step.StartSend(*messages, downstream, kDescriptorTag, sends));
  }
  return step.Broadcast(*groups[stage->group()]);
}

Status Rank::State::WaitAll(std::vector<comm::Request>* requests) {
  for (const comm::Request request : *requests) {
    LLMIR_RETURN_IF_ERROR(messages->Wait(request));
  }
  requests->clear();
  return Status();
}

Status Rank::State::RunProgram(StepDescriptor& step, const std::function<Status()>& meanwhile) {
  Program* program = Find(step.program());
  if (program == nullptr)
    return Internal("the plan has no {} program", plan::EnumNameProgramKind(step.program()));
  CopyBlocks(step);
  return program->Run(step, meanwhile);
}

// Each thread copies the same slices of every block, so that copies which follow from each other
// need no barrier between them.
void Rank::State::CopyBlocks(StepDescriptor& step) {
  copy_seconds = 0;
  if (step.copies().empty()) return;
  const auto before = std::chrono::steady_clock::now();
  const auto blocks = static_cast<int32_t>(file->plan().kv()->blocks());
  const auto place = [&](int64_t slice, int32_t block) {
    return block < blocks
               ? kv->slice(static_cast<size_t>(slice), static_cast<size_t>(block))
               : swap->slice(static_cast<size_t>(slice), static_cast<size_t>(block - blocks));
  };
  pool->Run([&](int thread) {
    const auto share =
        kernels::ShareOf(static_cast<int64_t>(kv->shape().slices), 1, thread, pool->threads());
    for (int64_t slice = share.begin; slice < share.end; ++slice) {
      for (const kvpool::BlockCopy& copy : step.copies()) {
        std::memcpy(place(slice, copy.to), place(slice, copy.from), kv->shape().slice_bytes);
      }
    }
  });
  copy_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
}

void Rank::State::DescribeDraws(const Program& program, std::span<DrawDetails> draws) const {
  for (size_t i = 0; i < draws.size(); ++i) {
    const std::span<const float> row = program.logits(static_cast<int32_t>(i));
    float best = -INFINITY;
    float second = -INFINITY;
    for (const float logit : row) {
      second = std::max(second, std::min(best, logit));
      best = std::max(best, logit);
    }
    double sum = 0;
    for (const float logit : row) sum += std::exp(static_cast<double>(logit) - best);
    const double drawn = row[static_cast<size_t>(program.sampled_ids()[i])];
    draws[i] = {static_cast<float>(drawn - best - std::log(sum)), best - second};
  }
}

// Lays the result out in a buffer of its own and lets it go: rank 0 asks for it when it comes to
// it, and the next step needn't wait. The buffer is free again when rank 0 has started as many
// steps more as may be in flight.
Status Rank::State::StartResult(StepDescriptor& step) {
  if (results.empty()) return Status();
  ResultBuffer& result = results[next_result];
  next_result = (next_result + 1) % results.size();
  if (result.request.valid()) {
    LLMIR_RETURN_IF_ERROR(messages->Wait(std::exchange(result.request, {})));
  }
  const Program& program = *Find(step.program());
  const StepHeader& header = step.header();
  const ResultLayout layout = LayoutOf(header, file->plan().model()->vocabulary());
  const auto sampled = static_cast<size_t>(header.sampled);
  std::byte* data = result.data.get();
  const ResultHeader first{header.number, copy_seconds};
  std::memcpy(data, &first, sizeof first);
  if (layout.ids > layout.details) {
    DescribeDraws(program, {reinterpret_cast<DrawDetails*>(data + layout.details), sampled});
  }
  if (layout.logits > layout.ids) {
    std::memcpy(data + layout.ids, program.sampled_ids().data(), layout.logits - layout.ids);
  }
  if (layout.logprobs > layout.logits) {
    std::memcpy(data + layout.logits, program.logits(0).data(), layout.logprobs - layout.logits);
  }
  if (layout.end > layout.logprobs) {
    std::memcpy(data + layout.logprobs, program.logprobs().data(), layout.end - layout.logprobs);
  }
  LLMIR_ASSIGN_OR_RETURN(result.request,
                         messages->StartSend(data, layout.end, /*peer=*/0, kResultTag));
  return Status();
}

Status Rank::Start(int replica, StepDescriptor& step) {
  State& s = *state_;
  Link& link = s.links[static_cast<size_t>(replica)];
  if (link.count == link.steps.size()) {
    return Internal("replica {} has {} steps in flight, the plan allows no more", replica,
                    link.count);
  }
  Link::Step& own = link.steps[(link.oldest + link.count) % link.steps.size()];
  ++link.count;
  own.descriptor = &step;
  own.arrived = false;
  // The receive comes first: so the result never waits for this rank.
  if (link.sampling != 0) {
    const size_t bytes = LayoutOf(step.header(), plan().model()->vocabulary()).end;
    LLMIR_ASSIGN_OR_RETURN(own.result.request, s.messages->StartRecv(own.result.data.get(), bytes,
                                                                     link.sampling, kResultTag));
  }
  if (link.first != 0) {
    return step.StartSend(*s.messages, link.first, kDescriptorTag, &own.sends);
  }
  LLMIR_RETURN_IF_ERROR(s.PassOn(step, &own.sends));
  std::function<Status()> meanwhile;
  if (meanwhile_ || !own.sends.empty()) {
    meanwhile = [this, &s] {
      s.messages->Progress();
      return meanwhile_ ? meanwhile_() : Status();
    };
  }
  LLMIR_RETURN_IF_ERROR(s.RunProgram(step, meanwhile));
  own.copy_seconds = s.copy_seconds;
  return Status();
}

StatusOr<bool> Rank::IsFinished(int replica) {
  Link& link = state_->links[static_cast<size_t>(replica)];
  Link::Step& step = link.front();
  if (link.sampling == 0 || step.arrived) return true;
  LLMIR_ASSIGN_OR_RETURN(step.arrived, state_->messages->Test(step.result.request));
  return step.arrived;
}

StatusOr<StepResult> Rank::Finish(int replica) {
  State& s = *state_;
  Link& link = s.links[static_cast<size_t>(replica)];
  Link::Step& step = link.front();
  if (link.sampling != 0 && !step.arrived) {
    LLMIR_RETURN_IF_ERROR(s.messages->Wait(step.result.request));
  }
  LLMIR_RETURN_IF_ERROR(s.WaitAll(&step.sends));
  link.oldest = (link.oldest + 1) % link.steps.size();
  --link.count;

  StepDescriptor& descriptor = *step.descriptor;
  const StepHeader& header = descriptor.header();
  const auto sampled = static_cast<size_t>(header.sampled);
  const size_t vocabulary = plan().model()->vocabulary();
  const ResultLayout layout = LayoutOf(header, vocabulary);
  StepResult result;
  if (link.sampling == 0) {
    const Program& program = *s.Find(descriptor.program());
    result.copy_seconds = step.copy_seconds;
    if (descriptor.program() == plan::ProgramKind::score) {
      result.logprobs = program.logprobs().first(static_cast<size_t>(header.tokens));
    } else if (sampled > 0) {
      result.ids = program.sampled_ids();
      if (header.return_details != 0) {
        result.details = std::span(s.details).first(sampled);
        s.DescribeDraws(program, std::span(s.details).first(sampled));
      }
      if (header.return_logits != 0)
        result.logits = {program.logits(0).data(), sampled * vocabulary};
    }
    return result;
  }
  const std::byte* data = step.result.data.get();
  ResultHeader first{};
  std::memcpy(&first, data, sizeof first);
  if (first.number != header.number) {
    return Internal("replica {} sent the result of step {}, expected that of step {}", replica,
                    first.number, header.number);
  }
  result.copy_seconds = first.copy_seconds;
  const auto part = [&]<typename T>(std::span<const T>* out, size_t begin, size_t end) {
    *out = {reinterpret_cast<const T*>(data + begin), (end - begin) / sizeof(T)};
  };
  part(&result.details, layout.details, layout.ids);
  part(&result.ids, layout.ids, layout.logits);
  part(&result.logits, layout.logits, layout.logprobs);
  part(&result.logprobs, layout.logprobs, layout.end);
  return result;
}

Status Rank::Serve() {
  State& s = *state_;
  const std::function<Status()> progress = [&s] {
    s.messages->Progress();
    return Status();
  };
  for (;;) {
    if (s.resources.stage_rank == 0) {
      LLMIR_RETURN_IF_ERROR(s.descriptor->Receive(*s.messages, s.upstream, kDescriptorTag));
    }
    LLMIR_RETURN_IF_ERROR(s.PassOn(*s.descriptor, &s.relays));
    if (s.descriptor->header().stop != Stop::kNo) break;
    const bool sends = !s.relays.empty() || !s.results.empty();
    LLMIR_RETURN_IF_ERROR(s.RunProgram(*s.descriptor, sends ? progress : nullptr));
    LLMIR_RETURN_IF_ERROR(s.WaitAll(&s.relays));
    LLMIR_RETURN_IF_ERROR(s.StartResult(*s.descriptor));
  }
  if (s.transfers != nullptr) s.transfers->Close();
  s.crippled = s.descriptor->header().stop == Stop::kAlone;
  for (ResultBuffer& result : s.results) {
    if (result.request.valid()) LLMIR_RETURN_IF_ERROR(s.messages->Wait(result.request));
  }
  return s.WaitAll(&s.relays);
}

Status Rank::Stop() {
  State& s = *state_;
  for (size_t r = 0; r < s.links.size(); ++r) {
    while (s.links[r].count > 0) LLMIR_RETURN_IF_ERROR(Finish(static_cast<int>(r)).status());
  }
  s.descriptor->Resize(plan::ProgramKind::decode, 0, 0, 0, 0);
  if (s.transfers != nullptr) s.transfers->Close();
  s.descriptor->header().stop = s.crippled ? Stop::kAlone : Stop::kTogether;
  std::vector<comm::Request> sends;
  for (const Link& link : s.links) {
    if (link.lost) continue;
    if (link.first == 0) {
      LLMIR_RETURN_IF_ERROR(s.PassOn(*s.descriptor, &sends));
    } else {
      LLMIR_RETURN_IF_ERROR(
          s.descriptor->StartSend(*s.messages, link.first, kDescriptorTag, &sends));
    }
  }
  return s.WaitAll(&sends);
}

StatusOr<std::vector<std::vector<Arrival>>> Rank::CompareArrivals(comm::World& world) const {
  return executor::CompareArrivals(world, state_->programs, *state_->messages);
}

StatusOr<std::vector<std::string>> Rank::Collect(const std::string& text) {
  State& s = *state_;
  const size_t piece = s.descriptor->capacity_bytes();
  std::vector<std::string> all;
  if (s.world_rank != 0) {
    const uint64_t size = text.size();
    LLMIR_RETURN_IF_ERROR(s.messages->Send(&size, sizeof size, 0, kTextSizeTag));
    for (size_t at = 0; at < size; at += piece) {
      LLMIR_RETURN_IF_ERROR(
          s.messages->Send(text.data() + at, std::min<size_t>(piece, size - at), 0, kTextTag));
    }
    return all;
  }
  all.push_back(text);
  for (int rank = 1; rank < s.messages->size(); ++rank) {
    uint64_t size = 0;
    LLMIR_RETURN_IF_ERROR(s.messages->Recv(&size, sizeof size, rank, kTextSizeTag));
    std::string received(size, '\0');
    for (size_t at = 0; at < size; at += piece) {
      LLMIR_RETURN_IF_ERROR(s.messages->Recv(received.data() + at,
                                             std::min<size_t>(piece, size - at), rank, kTextTag));
    }
    all.push_back(std::move(received));
  }
  return all;
}

void Rank::Forget(int replica) {
  Link& link = state_->links[static_cast<size_t>(replica)];
  link.lost = true;
  link.count = 0;
  state_->crippled = true;
}
const Status& Rank::transfer_status() const { return state_->transfer_status; }
bool Rank::crippled() const { return state_->crippled; }
kvpool::BlockTransfers* Rank::transfers() { return state_->transfers.get(); }

const plan::Plan& Rank::plan() const { return state_->file->plan(); }
const Weights& Rank::weights() const { return *state_->weights; }
const plan::Rank& Rank::plan_rank() const { return *state_->resources.rank; }
uint32_t Rank::replica() const { return state_->replica; }
uint32_t Rank::stage() const { return state_->stage_index; }
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
