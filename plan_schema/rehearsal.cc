#include "plan_schema/rehearsal.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "plan_schema/plan_checks.h"
#include "plan_schema/plan_facts.h"

namespace llmir::plan {
namespace {

class Rehearsal {
 public:
  // Of `programs` one after the other, `depth` in flight.
  Rehearsal(const Plan& plan, const Replica& replica, const std::vector<uint32_t>& programs,
            uint32_t depth, std::string where)
      : plan_(plan), depth_(depth), where_(std::move(where)) {
    for (uint32_t s = 0; s < replica.stages()->size(); ++s) {
      const Stage& stage = *replica.stages()->Get(s);
      StageState state;
      state.stage = &stage;
      state.ranks = stage.ranks()->size();
      for (const uint32_t program : programs) {
        state.turns.push_back(MakeTurn(*stage.programs()->Get(program)));
      }
      for (uint32_t r = 0; r < state.ranks; ++r) {
        const uint32_t world_rank = stage.ranks()->Get(r)->world_rank();
        by_world_rank_[world_rank] = static_cast<uint32_t>(actors_.size());
        state.actors.push_back(static_cast<uint32_t>(actors_.size()));
        actors_.push_back({s, r, world_rank, 0, false, 0, 0, false});
      }
      stages_.push_back(std::move(state));
    }
  }

  // What needs no play, of the first program.
  Status VerifyForms() {
    for (uint32_t s = 0; s < stages_.size(); ++s) LLMIR_RETURN_IF_ERROR(VerifyCollectives(s));
    for (uint32_t a = 0; a < actors_.size(); ++a) LLMIR_RETURN_IF_ERROR(VerifyPeers(a));
    return Status();
  }

  Status Play() {
    for (uint32_t a = 0; a < actors_.size(); ++a) ready_.push_back(a);
    while (!ready_.empty()) {
      const uint32_t a = ready_.back();
      ready_.pop_back();
      bool moved = true;
      while (moved && !Done(actors_[a])) LLMIR_RETURN_IF_ERROR(Advance(a, &moved));
    }
    return CounterExample();
  }

 private:
  struct Actor {
    uint32_t stage;
    uint32_t rank;  // of the stage
    uint32_t world_rank;
    uint32_t turn;  // the program, by its place in the sequence
    bool begun;     // with it: its descriptor has come
    uint32_t step;
    uint32_t peer;  // of a send's, the next
    bool arrived;   // at a collective, counted
  };
  // A program in its place in the sequence.
  struct Turn {
    const Program* program = nullptr;
    // Per step: a send's or receive's number among its kind, skipped ones included; a wait's start.
    std::vector<uint32_t> tags;
    std::vector<uint32_t> started;  // per step, ranks that have started its sum
  };
  struct StageState {
    const Stage* stage = nullptr;
    uint32_t ranks = 0;
    std::vector<Turn> turns;
    uint32_t arrived = 0;  // at the blocking collective
    std::vector<uint32_t> actors;
  };

  static Turn MakeTurn(const Program& program) {
    Turn turn;
    turn.program = &program;
    uint32_t sends = 0;
    uint32_t receives = 0;
    std::unordered_map<uint32_t, uint32_t> signalled;  // event -> the step that signals it
    for (uint32_t i = 0; i < program.steps()->size(); ++i) {
      const Step& step = *program.steps()->Get(i);
      uint32_t tag = 0;
      if (IsSend(step.kind())) tag = sends++;
      if (IsRecv(step.kind())) tag = receives++;
      if (step.signals() >= 0) signalled[static_cast<uint32_t>(step.signals())] = i;
      if (step.kind() == StepKind::wait) tag = signalled[step.waits()->Get(0)];
      turn.tags.push_back(tag);
    }
    turn.started.resize(turn.tags.size(), 0);
    return turn;
  }

  const Turn& TurnOf(const Actor& actor) const { return stages_[actor.stage].turns[actor.turn]; }
  const Step& StepAt(const Actor& actor, uint32_t step) const {
    return *TurnOf(actor).program->steps()->Get(step);
  }
  const Step& StepOf(const Actor& actor) const { return StepAt(actor, actor.step); }
  uint32_t TagOf(const Actor& actor) const { return TurnOf(actor).tags[actor.step]; }
  bool Done(const Actor& actor) const { return actor.turn == stages_[actor.stage].turns.size(); }
  bool AtEnd(const Actor& actor) const {
    return actor.step >= TurnOf(actor).program->steps()->size();
  }
  void SkipOver(Actor& actor) const {
    while (!AtEnd(actor) && StepOf(actor).ranks()->Get(actor.rank)->skip()) ++actor.step;
  }

  // Whether `other` is so far in the sequence.
  bool HasBegun(uint32_t other, uint32_t turn) const {
    const Actor& actor = actors_[other];
    return actor.turn > turn || (actor.turn == turn && actor.begun);
  }
  uint32_t FirstOf(uint32_t stage) const { return stages_[stage].actors.front(); }

  // Whom a rank waits for before it begins its program or leaves it, if anybody.
  std::optional<uint32_t> BetweenPrograms(const Actor& actor) const {
    const uint32_t self = stages_[actor.stage].actors[actor.rank];
    if (actor.begun) {
      // What it passes on is in its only descriptor.
      if (actor.rank > 0 || actor.stage + 1 == stages_.size()) return std::nullopt;
      const uint32_t next = FirstOf(actor.stage + 1);
      if (HasBegun(next, actor.turn)) return std::nullopt;
      return next;
    }
    uint32_t before = self;
    if (actor.rank > 0) {
      before = FirstOf(actor.stage);
    } else if (actor.stage > 0) {
      before = FirstOf(actor.stage - 1);
    }
    if (before != self) {
      if (HasBegun(before, actor.turn)) return std::nullopt;
      return before;
    }
    // Rank 0: the ids of the oldest step in flight.
    const uint32_t sampling = FirstOf(static_cast<uint32_t>(stages_.size()) - 1);
    if (actor.turn < depth_ || actors_[sampling].turn > actor.turn - depth_) return std::nullopt;
    return sampling;
  }
  void Next(Actor& actor) const {
    ++actor.step;
    actor.peer = 0;
    SkipOver(actor);
  }
  uint32_t PeerOf(const Actor& actor) const {
    return StepOf(actor).ranks()->Get(actor.rank)->peers()->Get(actor.peer);
  }

  // ---------------------------------------------------------- names in errors

  std::string StepPlace(const Program& program, uint32_t stage, uint32_t step) const {
    return fmt::format("stages[{}].steps[{}] ({} \"{}\")", stage, step,
                       EnumNameStepKind(program.steps()->Get(step)->kind()),
                       program.steps()->Get(step)->name()->string_view());
  }
  std::string StepPlace(const Actor& actor, uint32_t step) const {
    return StepPlace(*TurnOf(actor).program, actor.stage, step);
  }
  std::string Place(const Actor& actor, uint32_t step) const {
    return fmt::format("rank {} at {}", actor.world_rank, StepPlace(actor, step));
  }
  std::string LastPlace(const Actor& actor) const {
    const Program& program = *stages_[actor.stage].turns.back().program;
    return StepPlace(program, actor.stage, program.steps()->size() - 1);
  }
  // Where a rank stands, between programs too.
  std::string Standing(const Actor& actor) const {
    if (actor.begun && !AtEnd(actor)) return Place(actor, actor.step);
    return fmt::format("rank {} {} program {} of the sequence", actor.world_rank,
                       actor.begun ? "after" : "before", actor.turn);
  }

  // What a rank is waiting for: another rank, and why that one is needed.
  struct Wait {
    uint32_t actor;
    std::string what;
  };
  Wait WaitOf(const Actor& actor) const {
    if (!actor.begun || AtEnd(actor)) {
      return {BetweenPrograms(actor).value_or(0),
              actor.begun || actor.rank > 0 || actor.stage > 0
                  ? "to pass the descriptor on"
                  : fmt::format("to send the ids of program {}", actor.turn - depth_)};
    }
    const StageState& stage = stages_[actor.stage];
    const uint32_t step = StepOf(actor).kind() == StepKind::wait ? TagOf(actor) : actor.step;
    const Step& posted = StepAt(actor, step);
    if (IsCollective(posted.kind())) {
      // Some rank of the stage hasn't come there: this one would have gone on.
      const auto late = std::find_if(stage.actors.begin(), stage.actors.end(), [&](uint32_t other) {
        const Actor& member = actors_[other];
        if (member.turn != actor.turn) return member.turn < actor.turn;
        return member.step < step || (member.step == step && !member.arrived);
      });
      return {late == stage.actors.end() ? stage.actors.front() : *late, "to come there"};
    }
    const bool sends = IsSend(posted.kind());
    const auto* peers = posted.ranks()->Get(actor.rank)->peers();
    uint32_t peer = actor.step == step ? actor.peer : 0;
    while (peer + 1 < peers->size() && Matched(actor, step, peers->Get(peer))) ++peer;
    return {
        by_world_rank_.at(peers->Get(peer)),
        fmt::format("to {} its message {}", sends ? "receive" : "send", TurnOf(actor).tags[step])};
  }
  bool Matched(const Actor& actor, uint32_t step, uint32_t other) const {
    const auto message = messages_.find(Name(actor, step, other));
    return message != messages_.end() && message->second.send >= 0 && message->second.recv >= 0;
  }

  // Of a rank that waits: the ranks that it leads to, until one is found that has come to its end
  // (it never will do what is waited for) or that is waited for already (a circle).
  Status CounterExample() const {
    const auto blocked = [&](const Actor& actor) { return !Done(actor); };
    const auto count = std::count_if(actors_.begin(), actors_.end(), blocked);
    if (count == 0) return Status();
    constexpr size_t kNone = SIZE_MAX;
    std::vector<size_t> seen(actors_.size(), kNone);  // place in `chain`
    std::vector<std::pair<uint32_t, std::string>> chain;
    auto a = static_cast<uint32_t>(std::find_if(actors_.begin(), actors_.end(), blocked) -
                                   actors_.begin());
    while (!Done(actors_[a]) && seen[a] == kNone) {
      seen[a] = chain.size();
      Wait wait = WaitOf(actors_[a]);
      chain.emplace_back(a, std::move(wait.what));
      a = wait.actor;
    }
    // What leads into a circle isn't the cause; of a chain to a finished rank only the end is.
    const bool circle = !Done(actors_[a]);
    const size_t begin = circle ? seen[a] : chain.size() - 1;
    constexpr size_t kNamed = 8;
    std::string text;
    for (size_t i = begin; i < chain.size(); ++i) {
      const Actor& waiting = actors_[chain[i].first];
      const Actor& awaited = actors_[i + 1 < chain.size() ? chain[i + 1].first : a];
      if (i - begin == kNamed) {
        text += fmt::format("; and so on, {} ranks in a circle", chain.size() - begin);
        break;
      }
      text += fmt::format("{}{} waits for rank {} {}", i == begin ? "" : "; ", Standing(waiting),
                          awaited.world_rank, chain[i].second);
    }
    if (!circle) text += FinishedPlace(actors_[chain.back().first], actors_[a]);
    return InvalidArgument("{}: deadlock, {} of {} ranks cannot finish: {}", where_, count,
                           actors_.size(), text);
  }

  // What a rank that is waited for in vain does instead: the step that stands where the missing one
  // would, or its end.
  std::string FinishedPlace(const Actor& waiting, const Actor& done) const {
    if (!waiting.begun || AtEnd(waiting)) return "";
    Actor finished = done;
    finished.turn = waiting.turn;
    const uint32_t start = StepOf(waiting).kind() == StepKind::wait ? TagOf(waiting) : waiting.step;
    const bool sends =
        IsSend(StepOf(waiting).kind()) ||
        (StepOf(waiting).kind() == StepKind::wait && IsSend(StepAt(waiting, start).kind()));
    const uint32_t number = TurnOf(waiting).tags[start];
    const std::vector<uint32_t>& tags = TurnOf(finished).tags;
    for (uint32_t i = 0; i < tags.size(); ++i) {
      const Step& step = StepAt(finished, i);
      if (tags[i] != number || !(sends ? IsRecv(step.kind()) : IsSend(step.kind()))) continue;
      const StepRank& own = *step.ranks()->Get(finished.rank);
      if (own.skip()) {
        return fmt::format(", which skips {}", StepPlace(finished, i));
      }
      std::string peers;
      for (const uint32_t peer : *own.peers()) {
        peers += fmt::format("{}{}", peers.empty() ? "" : ", ", peer);
      }
      return fmt::format(", which at {} {} rank {}", StepPlace(finished, i),
                         sends ? "receives from" : "sends to", peers);
    }
    return fmt::format(", which has {} no message {} by its end, {}", sends ? "received" : "sent",
                       number, LastPlace(finished));
  }

  // ---------------------------------------------------------- what needs no play

  // The group of a collective is the stage's ranks in their order, none of them skips it, and all
  // bring rows of one size (a gather: as many columns as its result has).
  Status VerifyCollectives(uint32_t s) const {
    const StageState& state = stages_[s];
    for (uint32_t i = 0; i < state.turns[0].tags.size(); ++i) {
      const Step& step = StepAt(actors_[FirstOf(s)], i);
      if (!IsCollective(step.kind())) continue;
      LLMIR_RETURN_IF_ERROR(VerifyGroup(s, i));
      for (const uint32_t a : state.actors) {
        if (!step.ranks()->Get(actors_[a].rank)->skip()) continue;
        const uint32_t other = a == state.actors[0] ? state.actors.back() : state.actors[0];
        return InvalidArgument(
            "{}: rank {} leaves out {}, at which {} would wait for it; all ranks of "
            "a stage take part in collectives",
            where_, actors_[a].world_rank, StepPlace(actors_[FirstOf(s)], i),
            state.ranks == 1 ? "nobody" : Place(actors_[other], i));
      }
      const Buffer& input = *state.turns[0].program->buffers()->Get(step.inputs()->Get(0));
      if (IsGather(step.kind())) {
        const Buffer& output = *state.turns[0].program->buffers()->Get(step.outputs()->Get(0));
        uint64_t columns = 0;
        std::string parts;
        for (uint32_t r = 0; r < state.ranks; ++r) {
          columns += input.columns()->Get(r);
          parts += fmt::format("{}{} of rank {}", r == 0 ? "" : ", ", input.columns()->Get(r),
                               actors_[state.actors[r]].world_rank);
        }
        if (output.columns()->Get(0) == columns) continue;
        return InvalidArgument("{}: {} gathers rows of {} columns ({}) in a buffer of {}", where_,
                               Place(actors_[state.actors[0]], i), columns, parts,
                               output.columns()->Get(0));
      }
      for (uint32_t r = 1; r < state.ranks; ++r) {
        if (input.columns()->Get(r) == input.columns()->Get(0)) continue;
        return InvalidArgument(
            "{}: {} brings rows of {} columns, but {} rows of {}; a collective is of equal rows",
            where_, Place(actors_[state.actors[r]], i), input.columns()->Get(r),
            Place(actors_[state.actors[0]], i), input.columns()->Get(0));
      }
    }
    return Status();
  }

  static std::string Names(const flatbuffers::Vector<uint32_t>* ranks) {
    std::string text;
    for (uint32_t i = 0; i < Count(ranks); ++i) {
      text += fmt::format("{}{}", i == 0 ? "" : ", ", ranks->Get(i));
    }
    return text;
  }

  Status VerifyGroup(uint32_t s, uint32_t i) const {
    const StageState& state = stages_[s];
    const int64_t index = StepAt(actors_[FirstOf(s)], i).group();
    const Actor& first = actors_[state.actors[0]];
    std::string own;
    for (const uint32_t a : state.actors) {
      own += fmt::format("{}{}", own.empty() ? "" : ", ", actors_[a].world_rank);
    }
    if (index < 0 || index >= plan_.groups()->size()) {
      return InvalidArgument("{}: ranks {} at {}.group: {}, expected the stage's, groups[{}]",
                             where_, own, StepPlace(actors_[FirstOf(s)], i), index,
                             state.stage->group());
    }
    const auto* members = plan_.groups()->Get(static_cast<uint32_t>(index))->ranks();
    const bool same =
        Count(members) == state.ranks &&
        std::equal(members->begin(), members->end(), state.actors.begin(),
                   [&](uint32_t member, uint32_t a) { return member == actors_[a].world_rank; });
    if (same && index == static_cast<int64_t>(state.stage->group())) return Status();
    // One rank that waits in vain: for a member of another stage, or for one that waits elsewhere.
    std::string counter_example;
    for (uint32_t k = 0; k < Count(members) && counter_example.empty(); ++k) {
      const auto other = by_world_rank_.find(members->Get(k));
      if (other == by_world_rank_.end()) {
        counter_example = fmt::format("{} would wait for rank {}, which is not of this replica",
                                      Place(first, i), members->Get(k));
      } else if (actors_[other->second].stage != s) {
        counter_example = fmt::format("{} would wait for rank {}, which {}", Place(first, i),
                                      members->Get(k), FirstCollective(actors_[other->second]));
      }
    }
    for (const uint32_t a : state.actors) {
      if (!counter_example.empty()) break;
      if (std::find(members->begin(), members->end(), actors_[a].world_rank) != members->end()) {
        continue;
      }
      const Actor& present = actors_[by_world_rank_.at(members->Get(0))];
      counter_example = fmt::format("{} would not wait for {}, which waits for it",
                                    Place(present, i), Place(actors_[a], i));
    }
    for (uint32_t k = 0; k < state.ranks && counter_example.empty(); ++k) {
      if (members->Get(k) == actors_[state.actors[k]].world_rank) continue;
      counter_example =
          fmt::format("{} would take the part of rank {} for that of rank {}", Place(first, i),
                      members->Get(k), actors_[state.actors[k]].world_rank);
    }
    return InvalidArgument(
        "{}: {}.group: groups[{}] holds ranks {}, but the stage's, groups[{}], are {}, in this "
        "order: {}",
        where_, StepPlace(actors_[FirstOf(s)], i), index, Names(members), state.stage->group(), own,
        counter_example);
  }
  std::string FirstCollective(const Actor& actor) const {
    for (uint32_t i = 0; i < TurnOf(actor).tags.size(); ++i) {
      if (!IsCollective(StepAt(actor, i).kind())) continue;
      return fmt::format("comes to its first collective, {}, in groups[{}]", StepPlace(actor, i),
                         StepAt(actor, i).group());
    }
    return fmt::format("comes to no collective by its end, {}", LastPlace(actor));
  }

  // Sends go to ranks of the next stage, receives come from ranks of the previous one.
  Status VerifyPeers(uint32_t a) const {
    Actor actor = actors_[a];
    for (SkipOver(actor); !AtEnd(actor); Next(actor)) {
      const Step& step = StepOf(actor);
      const bool sends = IsSend(step.kind());
      if (!sends && !IsRecv(step.kind())) continue;
      const uint32_t expected = sends ? actor.stage + 1 : actor.stage - 1;
      const auto* peers = step.ranks()->Get(actor.rank)->peers();
      if (Count(peers) == 0 || (!sends && peers->size() != 1)) {
        return InvalidArgument(
            "{}: {}.ranks[{}].peers: {}, expected {}", where_, Place(actor, actor.step), actor.rank,
            Count(peers) == 0 ? "none" : fmt::format("ranks {}", Names(peers)),
            sends ? "ranks of the next stage; a rank without one skips the step" : "one source");
      }
      for (uint32_t k = 0; k < peers->size(); ++k) {
        const auto peer = by_world_rank_.find(peers->Get(k));
        if (peer != by_world_rank_.end() && actors_[peer->second].stage == expected) continue;
        return InvalidArgument(
            "{}: {}.ranks[{}].peers[{}]: rank {}, expected one of the {} stage; {}", where_,
            Place(actor, actor.step), actor.rank, k, peers->Get(k), sends ? "next" : "previous",
            peer == by_world_rank_.end()
                ? "this replica has no such rank"
                : fmt::format("rank {} comes to its end, {}, without {} it", peers->Get(k),
                              LastPlace(actors_[peer->second]), sends ? "receiving" : "sending"));
      }
    }
    return Status();
  }

  // ---------------------------------------------------------- the play

  Status Advance(uint32_t a, bool* moved) {
    Actor& actor = actors_[a];
    StageState& stage = stages_[actor.stage];
    *moved = false;
    if (!actor.begun || AtEnd(actor)) {
      if (BetweenPrograms(actor)) return Status();
      if (actor.begun) {
        ++actor.turn;
        actor.step = 0;
      }
      actor.begun = !actor.begun;
      if (!Done(actor)) SkipOver(actor);
      // Who may have waited for that: the rest of the stage, its neighbours, rank 0.
      ready_.insert(ready_.end(), stage.actors.begin(), stage.actors.end());
      if (actor.stage > 0) ready_.push_back(FirstOf(actor.stage - 1));
      if (actor.stage + 1 < stages_.size()) ready_.push_back(FirstOf(actor.stage + 1));
      ready_.push_back(FirstOf(0));
      *moved = true;
      return Status();
    }
    Turn& turn = stage.turns[actor.turn];
    const StepKind kind = StepOf(actor).kind();
    if (IsCollective(kind) && !IsStart(kind)) {
      // Of a stage's ranks each comes here once per step: the one that completes the number moves
      // all.
      if (actor.arrived) return Status();
      actor.arrived = true;
      if (++stage.arrived < stage.ranks) return Status();
      stage.arrived = 0;
      for (const uint32_t other : stage.actors) {
        actors_[other].arrived = false;
        Next(actors_[other]);
        ready_.push_back(other);
      }
      return Status();
    }
    if (IsCollective(kind)) {
      if (++turn.started[actor.step] == stage.ranks) {
        ready_.insert(ready_.end(), stage.actors.begin(), stage.actors.end());
      }
    } else if (kind == StepKind::send || kind == StepKind::recv) {
      return Meet(a, moved);
    } else if (IsStart(kind)) {
      LLMIR_RETURN_IF_ERROR(PostAll(actor, actor.step).status());
    } else if (kind == StepKind::wait) {
      const uint32_t start = TagOf(actor);
      if (IsCollective(StepAt(actor, start).kind())) {
        if (turn.started[start] < stage.ranks) return Status();
      } else {
        LLMIR_ASSIGN_OR_RETURN(const bool matched, PostAll(actor, start));
        if (!matched) return Status();
      }
    }
    Next(actor);
    *moved = true;
    return Status();
  }

  // A blocking send or receive goes on when the other side has come as well.
  Status Meet(uint32_t a, bool* moved) {
    Actor& actor = actors_[a];
    LLMIR_ASSIGN_OR_RETURN(*moved, Post(actor, actor.step, actor.peer));
    if (!*moved) return Status();
    if (++actor.peer == StepOf(actor).ranks()->Get(actor.rank)->peers()->size()) Next(actor);
    return Status();
  }

  // Posts the messages of a step to all its peers; whether the others have posted theirs.
  StatusOr<bool> PostAll(const Actor& actor, uint32_t step) {
    bool all = true;
    const Step& posted = StepAt(actor, step);
    for (uint32_t k = 0; k < posted.ranks()->Get(actor.rank)->peers()->size(); ++k) {
      LLMIR_ASSIGN_OR_RETURN(const bool matched, Post(actor, step, k));
      all = all && matched;
    }
    return all;
  }

  // Source, destination, number, and of which program of the sequence.
  using MessageName = std::array<uint32_t, 4>;
  MessageName Name(const Actor& actor, uint32_t step, uint32_t other) const {
    const uint32_t number = TurnOf(actor).tags[step];
    return IsSend(StepAt(actor, step).kind())
               ? MessageName{actor.world_rank, other, number, actor.turn}
               : MessageName{other, actor.world_rank, number, actor.turn};
  }

  // Posts the actor's side of the message to or from the `peer`-th peer of its step, if it hasn't
  // yet; whether the other side has been posted.
  StatusOr<bool> Post(const Actor& actor, uint32_t step, uint32_t peer) {
    const Step& posted = StepAt(actor, step);
    const uint32_t other = posted.ranks()->Get(actor.rank)->peers()->Get(peer);
    const bool sends = IsSend(posted.kind());
    Message& message = messages_[Name(actor, step, other)];
    int64_t& own = sends ? message.send : message.recv;
    const bool fresh = own < 0;
    own = step;
    if (message.send < 0 || message.recv < 0) return false;
    if (!fresh) return true;
    const uint32_t b = by_world_rank_.at(other);
    Actor peer_then = actors_[b];  // it may have gone on to another program
    peer_then.turn = actor.turn;
    const Actor& source = sends ? actor : peer_then;
    const Actor& target = sends ? peer_then : actor;
    LLMIR_RETURN_IF_ERROR(VerifyMessage(source, target, message));
    ready_.push_back(b);
    return true;
  }

  struct Message {
    int64_t send = -1;  // the steps that posted it
    int64_t recv = -1;
  };

  Status VerifyMessage(const Actor& source, const Actor& target, const Message& message) const {
    const auto send = static_cast<uint32_t>(message.send);
    const auto recv = static_cast<uint32_t>(message.recv);
    const Buffer& from =
        *TurnOf(source).program->buffers()->Get(StepAt(source, send).inputs()->Get(0));
    const Buffer& to =
        *TurnOf(target).program->buffers()->Get(StepAt(target, recv).outputs()->Get(0));
    const uint32_t from_columns = from.columns()->Get(source.rank);
    const uint32_t to_columns = to.columns()->Get(target.rank);
    const Wire sent = StepAt(source, send).wire();
    const Wire expected = StepAt(target, recv).wire();
    if (sent != expected) {
      return InvalidArgument("{}: {} gets rows in {}, but {} sends them in {}", where_,
                             Place(target, recv), EnumNameWire(expected), Place(source, send),
                             EnumNameWire(sent));
    }
    if (from.dtype() == to.dtype() && from.rows() == to.rows() && from_columns == to_columns) {
      return Status();
    }
    return InvalidArgument("{}: {} gets rows of {} {} for {}, but {} sends {} {} for {}", where_,
                           Place(target, recv), to_columns, DTypeName(to.dtype()),
                           EnumNameRows(to.rows()), Place(source, send), from_columns,
                           DTypeName(from.dtype()), EnumNameRows(from.rows()));
  }

  const Plan& plan_;
  const uint32_t depth_;
  const std::string where_;
  std::vector<StageState> stages_;
  std::vector<Actor> actors_;
  std::unordered_map<uint32_t, uint32_t> by_world_rank_;
  std::vector<uint32_t> ready_;
  std::map<MessageName, Message> messages_;
};

}  // namespace

Status Rehearse(const Plan& plan, const Replica& replica, uint32_t program,
                const std::string& where) {
  Rehearsal rehearsal(
      plan, replica, {program}, 1,
      fmt::format("{}, programs[{}] ({})", where, program,
                  EnumNameProgramKind(replica.stages()->Get(0)->programs()->Get(program)->kind())));
  LLMIR_RETURN_IF_ERROR(rehearsal.VerifyForms());
  return rehearsal.Play();
}

Status RehearseInFlight(const Plan& plan, const Replica& replica, const std::string& where) {
  const uint32_t depth = plan.limits()->steps_in_flight();
  const uint32_t programs = replica.stages()->Get(0)->programs()->size();
  std::vector<uint32_t> sequence;
  for (uint32_t i = 0; i < depth + std::max(2u, programs); ++i) sequence.push_back(i % programs);
  return Rehearsal(plan, replica, sequence, depth,
                   fmt::format("{}, {} programs, {} in flight", where, sequence.size(), depth))
      .Play();
}

}  // namespace llmir::plan
