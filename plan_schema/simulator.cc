#include "plan_schema/simulator.h"

#include <algorithm>
#include <array>
#include <limits>

#include "plan_schema/plan_facts.h"

namespace llmir::plan {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// All ranks' clocks. The rank that is furthest behind moves first, so that links are given out in
// the order of time.
class Simulator {
 public:
  Simulator(const Plan& plan, const std::vector<EngineStep>& runs, int in_flight,
            const CostSource& costs, uint32_t replica)
      : plan_(plan),
        runs_(runs),
        in_flight_(std::max(1, in_flight)),
        costs_(costs),
        replica_number_(replica) {}

  StatusOr<Simulation> Run() {
    LLMIR_RETURN_IF_ERROR(Prepare());
    result_.step_us.resize(runs_.size(), 0);
    result_.end_us.resize(runs_.size(), kNever);
    begin_us_.resize(runs_.size(), 0);
    for (;;) {
      Actor* next = nullptr;
      for (Actor& actor : actors_) {
        if (actor.blocked || actor.run == runs_.size()) continue;
        if (next == nullptr || actor.clock < next->clock) next = &actor;
      }
      if (next == nullptr) break;
      Move(*next);
    }
    for (const Actor& actor : actors_) {
      if (actor.run < runs_.size()) {
        return Internal("simulation: rank {} waits for ever in step {} of engine step {}",
                        actor.result.world_rank, actor.step, actor.run);
      }
      result_.ranks.push_back(actor.result);
    }
    return std::move(result_);
  }

 private:
  struct Actor {
    uint32_t stage = 0;
    uint32_t rank = 0;  // of the stage
    double clock = 0;
    size_t run = 0;
    uint32_t step = 0;
    bool begun = false;    // the engine step
    bool arrived = false;  // at what it waits for
    bool blocked = false;
    uint32_t peer = 0;  // of a send's, the next
    SimulatedRank result;
  };
  // What ranks meet in: a collective, by stage and step, or a message, by source, destination and
  // number; of one engine step.
  using Meeting = std::array<uint64_t, 5>;
  struct Meet {
    uint32_t arrived = 0;
    double last = 0;           // when the last one came
    double complete = kNever;  // when its background part is done
    TransferCost cost;
    std::vector<Actor*> waiting;
  };

  Status Prepare() {
    if (plan_.replicas()->size() <= replica_number_) {
      return InvalidArgument("simulation: the plan has no replica {}", replica_number_);
    }
    replica_ = plan_.replicas()->Get(replica_number_);
    for (uint32_t s = 0; s < replica_->stages()->size(); ++s) {
      const Stage& stage = *replica_->stages()->Get(s);
      stages_.push_back(&stage);
      std::vector<uint32_t> ranks;
      for (uint32_t r = 0; r < stage.ranks()->size(); ++r) {
        ranks.push_back(stage.ranks()->Get(r)->world_rank());
        Actor actor;
        actor.stage = s;
        actor.rank = r;
        actor.result.world_rank = ranks.back();
        actor.result.stage = s;
        actors_.push_back(actor);
      }
      world_ranks_.push_back(std::move(ranks));
      for (const EngineStep& run : runs_) {
        const Program* program = Find(stage, run.program);
        if (program == nullptr || run.tokens < 1 || run.tokens > program->max_tokens()) {
          return InvalidArgument(
              "simulation: a step of {} tokens of program {}: {}", run.tokens,
              EnumNameProgramKind(run.program),
              program == nullptr
                  ? std::string("the plan has none")
                  : fmt::format("expected 1 to {}, the plan's limit", program->max_tokens()));
        }
        if (numbers_.contains(program)) continue;
        auto& numbers = numbers_[program];
        std::map<uint32_t, uint32_t> signalled;  // event -> the step that signals it
        uint32_t sends = 0, receives = 0;
        for (uint32_t i = 0; i < program->steps()->size(); ++i) {
          const Step& step = *program->steps()->Get(i);
          uint32_t number = 0;
          if (IsSend(step.kind())) number = sends++;
          if (IsRecv(step.kind())) number = receives++;
          if (step.signals() >= 0) signalled[static_cast<uint32_t>(step.signals())] = i;
          if (step.kind() == StepKind::wait) number = signalled[step.waits()->Get(0)];
          numbers.push_back(number);
        }
      }
    }
    return Status();
  }

  static const Program* Find(const Stage& stage, ProgramKind kind) {
    for (const Program* program : *stage.programs()) {
      if (program->kind() == kind) return program;
    }
    return nullptr;
  }
  const Program& ProgramOf(const Actor& actor) const {
    return *Find(*stages_[actor.stage], runs_[actor.run].program);
  }

  void Move(Actor& actor) {
    if (!actor.begun && !Begin(actor)) return;
    const Program& program = ProgramOf(actor);
    while (actor.step < program.steps()->size() &&
           program.steps()->Get(actor.step)->ranks()->Get(actor.rank)->skip()) {
      ++actor.step;
    }
    if (actor.step == program.steps()->size()) return End(actor);
    const Step& step = *program.steps()->Get(actor.step);
    const StepKind kind = step.kind();
    if (kind == StepKind::wait) return Wait(actor, program);
    if (IsCollective(kind) || IsSend(kind) || IsRecv(kind))
      return Communicate(actor, program, step);
    const double us =
        costs_.ComputeUs({*stages_[actor.stage], program, step, actor.rank}, runs_[actor.run]);
    Note(actor, step, us, 0, 0);
    Next(actor, actor.clock + us);
  }

  // False: the descriptor isn't there yet.
  bool Begin(Actor& actor) {
    const size_t run = actor.run;
    const bool driver = actor.stage == 0 && actor.rank == 0;
    const auto window = static_cast<size_t>(in_flight_);
    double ready = 0;
    if (run >= window) ready = result_.end_us[run - window];
    // The other ranks get the descriptor from the first, which has sent it by the time it begins.
    if (!driver) {
      const Actor& first = actors_[0];
      const bool sent = first.run > run || (first.run == run && first.begun);
      ready = std::max(ready, sent ? begin_us_[run] : kNever);
    }
    if (ready == kNever) {
      actor.blocked = true;
      idle_.push_back(&actor);
      return false;
    }
    const double begin = std::max(actor.clock, ready);
    actor.result.bubble_us += begin - actor.clock;
    actor.clock = begin;
    actor.begun = true;
    if (driver) begin_us_[run] = begin;
    const double us = costs_.BeforeUs(actor.result.world_rank, *stages_[actor.stage], runs_[run]);
    actor.result.compute_us += us;
    actor.clock += us;
    if (driver) WakeIdle();
    return true;
  }

  void End(Actor& actor) {
    const size_t run = actor.run;
    // The ids go from the last stage's first rank to the engine.
    if (actor.stage + 1 == stages_.size() && actor.rank == 0) {
      double at = actor.clock + costs_.AfterUs(runs_[run]);
      const uint32_t from = actor.result.world_rank;
      const uint32_t to = world_ranks_[0][0];
      if (from != to && runs_[run].sampled > 0) {
        const double bytes = 4.0 * runs_[run].sampled;
        at += costs_.Message(from, to, bytes, bytes).us;
        result_.link_bytes[{costs_.NodeOf(from), costs_.NodeOf(to)}] += bytes;
      }
      result_.end_us[run] = at;
      result_.step_us[run] = at - begin_us_[run];
    }
    actor.begun = false;
    actor.step = 0;
    ++actor.run;
    WakeIdle();
  }

  void WakeIdle() {
    for (Actor* actor : idle_) actor->blocked = false;
    idle_.clear();
  }

  double Bytes(const Actor& actor, const Program& program, const Step& step) const {
    const bool receives = IsRecv(step.kind());
    const auto& list = receives ? *step.outputs() : *step.inputs();
    const Buffer& buffer = *program.buffers()->Get(list.Get(0));
    const EngineStep& run = runs_[actor.run];
    const auto ranks = static_cast<uint32_t>(world_ranks_[actor.stage].size());
    // A share is a part of what the collective is about: all rows.
    const Rows kind = buffer.rows() == Rows::share ? Rows::tokens : buffer.rows();
    const double rows = kind == Rows::sampled ? run.sampled
                        : kind == Rows::one
                            ? 1
                            : static_cast<double>(TokenRows(kind, run.tokens, 0, ranks).size());
    double columns =
        static_cast<double>(RowBytes(buffer.dtype(), buffer.columns()->Get(actor.rank)));
    if (IsGather(step.kind())) {
      columns = 0;
      for (const uint32_t c : *buffer.columns()) columns += RowBytes(buffer.dtype(), c);
    }
    // Of a sum over a tree: the rank with most of its nodes holds up the others.
    uint32_t nodes = 1;
    if (buffer.nodes() != nullptr) {
      for (const uint32_t count : *buffer.nodes()) nodes = std::max(nodes, count);
    }
    return rows * columns * nodes;
  }

  static StepKind Blocking(StepKind kind) {
    switch (kind) {
      case StepKind::all_reduce_start:
        return StepKind::all_reduce;
      case StepKind::reduce_scatter_start:
        return StepKind::reduce_scatter;
      case StepKind::all_gather_start:
        return StepKind::all_gather;
      case StepKind::broadcast_start:
        return StepKind::broadcast;
      case StepKind::gather_start:
        return StepKind::gather;
      default:
        return kind;
    }
  }

  Meet& MeetOf(const Actor& actor, const Program& program, uint32_t step, uint32_t peer) {
    const Step& of = *program.steps()->Get(step);
    if (IsCollective(of.kind())) return meets_[{actor.run, 0, actor.stage, step, 0}];
    const uint32_t number = numbers_.at(&program)[step];
    const uint32_t own = actor.result.world_rank;
    const uint32_t other = of.ranks()->Get(actor.rank)->peers()->Get(peer);
    return IsSend(of.kind()) ? meets_[{actor.run, 1, own, other, number}]
                             : meets_[{actor.run, 1, other, own, number}];
  }

  // This rank comes to a meeting of `needed` ranks.
  void Arrive(Actor& actor, const Program& program, const Step& step, Meet& meet, uint32_t needed,
              uint32_t peer) {
    meet.last = std::max(meet.last, actor.clock);
    if (++meet.arrived < needed) return;
    const double bytes = Bytes(actor, program, step);
    const double wire_bytes = bytes * WireShare(step.wire());
    double begin = meet.last;
    if (IsCollective(step.kind())) {
      const auto& ranks = world_ranks_[actor.stage];
      meet.cost = costs_.Collective(Blocking(step.kind()), ranks, bytes, wire_bytes);
      CountCollective(Blocking(step.kind()), ranks, bytes, wire_bytes);
    } else {
      const uint32_t own = actor.result.world_rank;
      const uint32_t other = step.ranks()->Get(actor.rank)->peers()->Get(peer);
      const uint32_t from = IsSend(step.kind()) ? own : other;
      const uint32_t to = IsSend(step.kind()) ? other : own;
      meet.cost = costs_.Message(from, to, bytes, wire_bytes);
      const std::pair link(costs_.NodeOf(from), costs_.NodeOf(to));
      result_.link_bytes[link] += link.first == link.second ? bytes : wire_bytes;
      if (link.first != link.second && costs_.SharedLinkBytesPerS() > 0) {
        double& free = link_free_[link];
        begin = std::max(begin, free);
        free = begin + wire_bytes / costs_.SharedLinkBytesPerS() * 1e6;
      }
    }
    meet.complete = begin + meet.cost.us - meet.cost.processor_us;
    for (Actor* waiting : meet.waiting) waiting->blocked = false;
    meet.waiting.clear();
  }

  // Bytes between nodes, or within one: a ring's, whose every rank passes each part on.
  void CountCollective(StepKind kind, const std::vector<uint32_t>& ranks, double bytes,
                       double wire_bytes) {
    const double n = static_cast<double>(ranks.size());
    if (ranks.size() < 2) return;
    const double share = kind == StepKind::all_reduce ? 2 * (n - 1) / n : (n - 1) / n;
    for (size_t i = 0; i < ranks.size(); ++i) {
      const uint32_t to = kind == StepKind::gather ? ranks[0] : ranks[(i + 1) % ranks.size()];
      if (kind == StepKind::gather && i == 0) continue;
      const std::pair link(costs_.NodeOf(ranks[i]), costs_.NodeOf(to));
      const double whole = link.first == link.second ? bytes : wire_bytes;
      result_.link_bytes[link] += kind == StepKind::gather ? whole / n : whole * share;
    }
  }

  uint32_t Needed(const Actor& actor, const Step& step) const {
    return IsCollective(step.kind()) ? static_cast<uint32_t>(world_ranks_[actor.stage].size()) : 2;
  }
  uint32_t PeerCount(const Actor& actor, const Step& step) const {
    return IsCollective(step.kind()) ? 1 : step.ranks()->Get(actor.rank)->peers()->size();
  }

  void Communicate(Actor& actor, const Program& program, const Step& step) {
    if (IsStart(step.kind())) {
      for (uint32_t k = 0; k < PeerCount(actor, step); ++k) {
        Arrive(actor, program, step, MeetOf(actor, program, actor.step, k), Needed(actor, step), k);
      }
      Note(actor, step, 0, 0, 0);
      return Next(actor, actor.clock);
    }
    Meet& meet = MeetOf(actor, program, actor.step, actor.peer);
    if (!actor.arrived) {
      actor.arrived = true;
      Arrive(actor, program, step, meet, Needed(actor, step), actor.peer);
    }
    if (meet.complete == kNever) return Block(actor, meet);
    actor.arrived = false;
    const double before = actor.clock;
    const double waited = std::max(0.0, meet.last - before);
    const double end = std::max(before, meet.complete) + meet.cost.processor_us;
    Note(actor, step, 0, end - before - waited, waited);
    if (++actor.peer < PeerCount(actor, step)) {
      actor.clock = end;
      return;
    }
    Next(actor, end);
  }

  void Wait(Actor& actor, const Program& program) {
    const uint32_t start = numbers_.at(&program)[actor.step];
    const Step& started = *program.steps()->Get(start);
    const Step& own = *program.steps()->Get(actor.step);
    double end = actor.clock;
    double waited = 0;
    for (uint32_t k = 0; k < PeerCount(actor, started); ++k) {
      Meet& meet = MeetOf(actor, program, start, k);
      if (meet.complete == kNever) return Block(actor, meet);
      waited = std::max(waited, meet.last - actor.clock);
      end = std::max(end, meet.complete) + meet.cost.processor_us;
    }
    waited = std::max(0.0, waited);
    Note(actor, own, 0, end - actor.clock - waited, waited);
    Next(actor, end);
  }

  void Block(Actor& actor, Meet& meet) {
    actor.blocked = true;
    meet.waiting.push_back(&actor);
  }

  void Note(Actor& actor, const Step& step, double compute, double transfer, double wait) {
    actor.result.compute_us += compute;
    actor.result.transfer_us += transfer;
    actor.result.wait_us += wait;
    if (actor.run + 1 != runs_.size()) return;
    if (actor.peer > 0) {
      // The same step, to another peer.
      for (auto at = result_.steps.rbegin(); at != result_.steps.rend(); ++at) {
        if (at->step != &step || at->world_rank != actor.result.world_rank) continue;
        at->transfer_us += transfer;
        at->wait_us += wait;
        return;
      }
    }
    result_.steps.push_back({actor.result.world_rank, &step, actor.clock - begin_us_[actor.run],
                             compute, transfer, wait});
  }

  void Next(Actor& actor, double clock) {
    actor.clock = clock;
    actor.peer = 0;
    ++actor.step;
  }

  const Plan& plan_;
  const std::vector<EngineStep>& runs_;
  const int in_flight_;
  const CostSource& costs_;
  const uint32_t replica_number_;
  const Replica* replica_ = nullptr;
  std::vector<const Stage*> stages_;
  std::vector<std::vector<uint32_t>> world_ranks_;  // by stage
  // Per step: a send's or receive's number among its kind, skipped ones included; a wait's start.
  std::map<const Program*, std::vector<uint32_t>> numbers_;
  std::vector<Actor> actors_;
  std::vector<Actor*> idle_;  // without a descriptor
  std::map<Meeting, Meet> meets_;
  std::map<std::pair<int, int>, double> link_free_;
  std::vector<double> begin_us_;  // by run
  Simulation result_;
};

}  // namespace

StatusOr<Simulation> Simulate(const Plan& plan, const std::vector<EngineStep>& runs, int in_flight,
                              const CostSource& costs, uint32_t replica) {
  return Simulator(plan, runs, in_flight, costs, replica).Run();
}

}  // namespace llmir::plan
