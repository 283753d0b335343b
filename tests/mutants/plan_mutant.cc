// plan-mutant: changes what the ranks of a good plan exchange, at a place drawn by a seed, and
// writes the plan with a right checksum. What it did is printed as JSON. Exit status 3: the plan
// has no place for a change of this kind.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "plan_schema/base/memory_map.h"
#include "plan_schema/base/status.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_file.h"

namespace llmir::plan {
namespace {

constexpr int kNoPlace = 3;

class Mutator {
 public:
  Mutator(PlanT& plan, uint64_t seed) : plan_(plan), random_(seed) {}

  // False: no place. `what` says what was done.
  bool Apply(const std::string& kind, nlohmann::json* what) {
    what_ = what;
    const auto change = Changes().find(kind);
    if (change == Changes().end()) throw CLI::ValidationError("--kind", "unknown: " + kind);
    return change->second(*this);
  }

  static const std::map<std::string, std::function<bool(Mutator&)>>& Changes() {
    static const std::map<std::string, std::function<bool(Mutator&)>> changes = {
        {"drop-step", [](Mutator& m) { return m.DropStep(); }},
        {"drop-exchange", [](Mutator& m) { return m.DropExchange(); }},
        {"drop-on-rank", [](Mutator& m) { return m.DropOnRank(); }},
        {"drop-peer", [](Mutator& m) { return m.DropPeer(); }},
        {"swap-steps", [](Mutator& m) { return m.SwapSteps(); }},
        {"swap-operands", [](Mutator& m) { return m.SwapOperands(); }},
        {"swap-peers", [](Mutator& m) { return m.SwapPeers(); }},
        {"swap-routes", [](Mutator& m) { return m.SwapRoutes(); }},
        {"resize-columns", [](Mutator& m) { return m.ResizeColumns(); }},
        {"resize-rows", [](Mutator& m) { return m.ResizeRows(); }},
        {"regroup-step", [](Mutator& m) { return m.RegroupStep(); }},
        {"regroup-ranks", [](Mutator& m) { return m.RegroupRanks(); }},
        {"redirect", [](Mutator& m) { return m.Redirect(); }},
        {"wait-removed", [](Mutator& m) { return m.RemoveWait(); }},
        {"wait-moved", [](Mutator& m) { return m.MoveWait(); }},
        {"wait-exchanged", [](Mutator& m) { return m.ExchangeWaits(); }},
    };
    return changes;
  }

 private:
  struct Site {
    uint32_t stage, program, step;
  };
  StageT& StageOf(const Site& site) { return *plan_.replicas[0]->stages[site.stage]; }
  ProgramT& ProgramOf(const Site& site) { return *StageOf(site).programs[site.program]; }
  StepT& StepOf(const Site& site) { return *ProgramOf(site).steps[site.step]; }

  size_t Draw(size_t count) { return std::uniform_int_distribution<size_t>(0, count - 1)(random_); }
  template <typename T>
  const T& Pick(const std::vector<T>& items) {
    return items[Draw(items.size())];
  }

  std::vector<Site> Sites(const std::function<bool(const Site&)>& fits) {
    std::vector<Site> sites;
    auto& stages = plan_.replicas[0]->stages;
    for (uint32_t s = 0; s < stages.size(); ++s) {
      for (uint32_t p = 0; p < stages[s]->programs.size(); ++p) {
        for (uint32_t i = 0; i < stages[s]->programs[p]->steps.size(); ++i) {
          if (fits({s, p, i})) sites.push_back({s, p, i});
        }
      }
    }
    return sites;
  }
  static bool Exchanges(StepKind kind) {
    return IsCollective(kind) || IsSend(kind) || IsRecv(kind);
  }
  // Steps that exchange among more than one rank.
  std::vector<Site> Exchanges() {
    return Sites([&](const Site& site) {
      const StepKind kind = StepOf(site).kind;
      return IsCollective(kind) ? StageOf(site).ranks.size() > 1 : Exchanges(kind);
    });
  }
  std::vector<Site> Messages(bool sends, bool receives) {
    return Sites([&](const Site& site) {
      const StepKind kind = StepOf(site).kind;
      return (sends && IsSend(kind)) || (receives && IsRecv(kind));
    });
  }
  std::vector<Site> Waits() {
    return Sites([&](const Site& site) { return StepOf(site).kind == StepKind::wait; });
  }

  void Say(const Site& site, const std::string& text) {
    *what_ = {{"program", EnumNameProgramKind(ProgramOf(site).kind)},
              {"stage", site.stage},
              {"step", site.step},
              {"operation", EnumNameStepKind(StepOf(site).kind)},
              {"change", text}};
  }

  static void Erase(ProgramT& program, uint32_t step) {
    program.steps.erase(program.steps.begin() + step);
    const auto last = static_cast<uint32_t>(program.steps.size() - 1);
    for (auto& buffer : program.buffers) {
      if (buffer->first_step > step) --buffer->first_step;
      if (buffer->last_step >= step && buffer->last_step > buffer->first_step) --buffer->last_step;
      buffer->first_step = std::min(buffer->first_step, last);
      buffer->last_step = std::min(buffer->last_step, last);
    }
  }
  // Buffers stay where they are; they live where they are used.
  static void Extend(ProgramT& program, uint32_t buffer, uint32_t step) {
    program.buffers[buffer]->first_step = std::min(program.buffers[buffer]->first_step, step);
    program.buffers[buffer]->last_step = std::max(program.buffers[buffer]->last_step, step);
  }
  static void ExtendOperands(ProgramT& program, uint32_t step) {
    for (const auto* operands : {&program.steps[step]->inputs, &program.steps[step]->outputs}) {
      for (const uint32_t b : *operands) Extend(program, b, step);
    }
  }
  // What the waited-for operation works on.
  static std::vector<uint32_t> WaitedFor(const ProgramT& program, uint32_t wait) {
    std::vector<uint32_t> buffers;
    for (uint32_t i = 0; i < wait; ++i) {
      const StepT& step = *program.steps[i];
      if (step.signals < 0 ||
          static_cast<uint32_t>(step.signals) != program.steps[wait]->waits[0]) {
        continue;
      }
      buffers = step.inputs;
      buffers.insert(buffers.end(), step.outputs.begin(), step.outputs.end());
    }
    return buffers;
  }

  // Gives what shares memory at different times memory of its own: a change is then refused for
  // what ranks exchange, if at all, and not because a buffer that it makes live longer meets
  // another.
  void Spread(const Site& site) {
    ProgramT& program = ProgramOf(site);
    const auto rows = [&](size_t b) { return program.buffers[b]->rows; };
    std::vector<size_t> places(program.buffers.size());
    for (size_t b = 0; b < places.size(); ++b) {
      places[b] = b;
      const BufferT& buffer = *program.buffers[b];
      for (size_t a = 0; a < b; ++a) {  // views of one place that are live together
        const BufferT& other = *program.buffers[a];
        const bool meet =
            buffer.first_step <= other.last_step && other.first_step <= buffer.last_step;
        if (!meet || buffer.arena != other.arena || buffer.offsets != other.offsets ||
            !(IsPart(rows(a)) || IsPart(rows(b)))) {
          continue;
        }
        const size_t from = places[b];
        for (size_t c = 0; c <= b; ++c) {
          if (places[c] == from) places[c] = places[a];
        }
      }
    }
    constexpr uint64_t kAlignment = 64;
    for (size_t r = 0; r < StageOf(site).ranks.size(); ++r) {
      RankT& rank = *StageOf(site).ranks[r];
      std::map<size_t, uint64_t> offsets;
      std::vector<uint64_t> ends(rank.arena_bytes.size(), 0);
      for (size_t b = 0; b < places.size(); ++b) {
        BufferT& buffer = *program.buffers[b];
        if (buffer.columns[r] == 0) continue;
        const auto [at, fresh] = offsets.try_emplace(places[b], ends[buffer.arena]);
        buffer.offsets[r] = at->second;
        const uint64_t end = at->second + buffer.bytes[r];
        ends[buffer.arena] =
            std::max(ends[buffer.arena], (end + kAlignment - 1) / kAlignment * kAlignment);
      }
      for (size_t arena = 0; arena < ends.size(); ++arena) {
        if (ends[arena] <= rank.arena_bytes[arena]) continue;
        rank.memory->activations += ends[arena] - rank.arena_bytes[arena];
        rank.arena_bytes[arena] = ends[arena];
      }
      if (rank.kv_arena >= 0) {  // the blocks stay behind the buffers
        const uint64_t end = rank.arena_bytes[static_cast<size_t>(rank.kv_arena)];
        rank.kv_offset = std::max(rank.kv_offset, MemoryMap::WholeHugePages(end));
      }
    }
  }

  bool DropStep() {
    const auto sites = Exchanges();
    if (sites.empty()) return false;
    const Site site = Pick(sites);
    Say(site, "removed");
    Erase(ProgramOf(site), site.step);
    return true;
  }

  // A start and its wait.
  bool DropExchange() {
    const auto waits = Waits();
    if (waits.empty()) return false;
    Site site = Pick(waits);
    const uint32_t event = StepOf(site).waits[0];
    Site start = site;
    while (StepOf(start).signals != static_cast<int>(event)) --start.step;
    Say(start, fmt::format("removed with its wait, steps[{}]", site.step));
    Erase(ProgramOf(site), site.step);
    Erase(ProgramOf(site), start.step);
    return true;
  }

  bool DropOnRank() {
    auto sites = Exchanges();
    std::erase_if(sites, [&](const Site& site) {
      const auto& ranks = StepOf(site).ranks;
      return std::all_of(ranks.begin(), ranks.end(), [](const auto& rank) { return rank->skip; });
    });
    if (sites.empty()) return false;
    const Site site = Pick(sites);
    size_t r = Draw(StepOf(site).ranks.size());
    while (StepOf(site).ranks[r]->skip) r = (r + 1) % StepOf(site).ranks.size();
    Say(site, fmt::format("left out by rank {}", StageOf(site).ranks[r]->world_rank));
    StepOf(site).ranks[r]->skip = true;
    if (StepOf(site).signals < 0) return true;
    for (auto& step : ProgramOf(site).steps) {  // the wait too: nothing is under way there
      if (step->kind == StepKind::wait &&
          step->waits[0] == static_cast<uint32_t>(StepOf(site).signals)) {
        step->ranks[r]->skip = true;
      }
    }
    return true;
  }

  bool DropPeer() {
    const auto sites = Messages(true, false);
    std::vector<std::pair<Site, uint32_t>> places;
    for (const Site& site : sites) {
      for (uint32_t r = 0; r < StepOf(site).ranks.size(); ++r) {
        if (StepOf(site).ranks[r]->peers.size() > 1) places.emplace_back(site, r);
      }
    }
    if (places.empty()) return false;
    const auto [site, r] = Pick(places);
    auto& peers = StepOf(site).ranks[r]->peers;
    const size_t k = Draw(peers.size());
    Say(site, fmt::format("rank {} no longer sends to rank {}", StageOf(site).ranks[r]->world_rank,
                          peers[k]));
    peers.erase(peers.begin() + static_cast<std::ptrdiff_t>(k));
    return true;
  }

  bool SwapSteps() {
    const auto sites = Exchanges();
    std::vector<std::pair<Site, Site>> pairs;
    for (const Site& a : sites) {
      for (const Site& b : sites) {
        if (a.stage != b.stage || a.program != b.program || a.step >= b.step) continue;
        if (b.step - a.step > 24) continue;
        pairs.emplace_back(a, b);
      }
    }
    if (pairs.empty()) return false;
    const auto [a, b] = Pick(pairs);
    Spread(a);
    Say(a, fmt::format("exchanged with steps[{}] ({})", b.step, EnumNameStepKind(StepOf(b).kind)));
    ProgramT& program = ProgramOf(a);
    std::swap(program.steps[a.step], program.steps[b.step]);
    ExtendOperands(program, a.step);
    ExtendOperands(program, b.step);
    return true;
  }

  // Two exchanges of one kind work on each other's rows; what waits for them is unchanged.
  bool SwapOperands() {
    const auto sites = Exchanges();
    std::vector<std::pair<Site, Site>> pairs;
    for (const Site& a : sites) {
      for (const Site& b : sites) {
        if (a.stage == b.stage && a.program == b.program && a.step < b.step &&
            StepOf(a).kind == StepOf(b).kind && OperandOf(StepOf(a)) != OperandOf(StepOf(b))) {
          pairs.emplace_back(a, b);
        }
      }
    }
    if (pairs.empty()) return false;
    const auto [a, b] = Pick(pairs);
    Spread(a);
    Say(a, fmt::format("exchanges its rows with steps[{}]", b.step));
    ProgramT& program = ProgramOf(a);
    std::swap(StepOf(a).inputs, StepOf(b).inputs);
    std::swap(StepOf(a).outputs, StepOf(b).outputs);
    for (uint32_t i = a.step; i < program.steps.size(); ++i) {
      StepT& step = *program.steps[i];
      if (i == a.step || i == b.step) ExtendOperands(program, i);
      if (step.kind != StepKind::wait) continue;
      for (const Site& start : {a, b}) {
        if (StepOf(start).signals != static_cast<int>(step.waits[0]) || i < start.step) continue;
        for (const uint32_t buffer : WaitedFor(program, i)) Extend(program, buffer, i);
        if (!step.outputs.empty()) {
          step.outputs[0] =
              StepOf(start).outputs.empty() ? StepOf(start).inputs[0] : StepOf(start).outputs[0];
        }
      }
    }
    return true;
  }

  // Two ranks of a send or a receive exchange their peers.
  bool SwapPeers() {
    std::vector<std::tuple<Site, uint32_t, uint32_t>> places;
    for (const Site& site : Messages(true, true)) {
      const auto& ranks = StepOf(site).ranks;
      for (uint32_t r = 0; r < ranks.size(); ++r) {
        for (uint32_t q = r + 1; q < ranks.size(); ++q) {
          if (ranks[r]->peers != ranks[q]->peers && !ranks[r]->skip && !ranks[q]->skip) {
            places.emplace_back(site, r, q);
          }
        }
      }
    }
    if (places.empty()) return false;
    const auto [site, r, q] = Pick(places);
    Say(site, fmt::format("ranks {} and {} exchange their peers",
                          StageOf(site).ranks[r]->world_rank, StageOf(site).ranks[q]->world_rank));
    std::swap(StepOf(site).ranks[r]->peers, StepOf(site).ranks[q]->peers);
    return true;
  }

  // The same on both sides of every message of a program: another way for the same rows.
  bool SwapRoutes() {
    std::vector<std::tuple<Site, uint32_t, uint32_t>> places;
    for (const Site& site : Messages(true, false)) {
      const auto& ranks = StepOf(site).ranks;
      for (uint32_t r = 0; r < ranks.size(); ++r) {
        for (uint32_t q = r + 1; q < ranks.size(); ++q) {
          if (!ranks[r]->skip && !ranks[q]->skip) places.emplace_back(site, r, q);
        }
      }
    }
    if (places.empty()) return false;
    const auto [site, r, q] = Pick(places);
    const uint32_t one = StageOf(site).ranks[r]->world_rank;
    const uint32_t other = StageOf(site).ranks[q]->world_rank;
    Say(site,
        fmt::format("ranks {} and {} exchange their destinations, which know of it", one, other));
    for (auto& step : ProgramOf(site).steps) {
      if (IsSend(step->kind)) std::swap(step->ranks[r]->peers, step->ranks[q]->peers);
    }
    const Site next{site.stage + 1, site.program, 0};
    for (auto& step : ProgramOf(next).steps) {
      if (!IsRecv(step->kind)) continue;
      for (auto& rank : step->ranks) {
        for (uint32_t& peer : rank->peers) peer = peer == one ? other : peer == other ? one : peer;
      }
    }
    return true;
  }

  static uint32_t OperandOf(const StepT& step) {
    return IsRecv(step.kind) ? step.outputs[0] : step.inputs[0];
  }

  bool ResizeColumns() {
    const auto sites = Exchanges();
    if (sites.empty()) return false;
    const Site site = Pick(sites);
    BufferT& buffer = *ProgramOf(site).buffers[OperandOf(StepOf(site))];
    const size_t r = Draw(buffer.columns.size());
    if (buffer.columns[r] < 2) return false;
    const uint32_t columns = buffer.dtype == DType::q8_rows
                                 ? (buffer.columns[r] > 32 ? buffer.columns[r] - 32 : 64)
                                 : buffer.columns[r] - 1;
    if (columns > buffer.columns[r]) return false;
    Say(site, fmt::format("rows of {} columns on rank {}, not {}", columns,
                          StageOf(site).ranks[r]->world_rank, buffer.columns[r]));
    buffer.columns[r] = columns;
    return true;
  }

  // Only a half of the rows, or both halves where one was meant.
  bool ResizeRows() {
    auto sites = Exchanges();
    std::erase_if(sites, [&](const Site& site) {
      const Rows rows = ProgramOf(site).buffers[OperandOf(StepOf(site))]->rows;
      return rows != Rows::tokens && rows != Rows::first_half && rows != Rows::second_half;
    });
    if (sites.empty()) return false;
    const Site site = Pick(sites);
    Spread(site);
    ProgramT& program = ProgramOf(site);
    StepT& step = StepOf(site);
    const uint32_t operand = OperandOf(step);
    auto view = std::make_unique<BufferT>(*program.buffers[operand]);
    view->rows = view->rows == Rows::tokens ? (Draw(2) == 0 ? Rows::first_half : Rows::second_half)
                 : Draw(2) == 0             ? Rows::tokens
                 : view->rows == Rows::first_half ? Rows::second_half
                                                  : Rows::first_half;
    Say(site, fmt::format("for {}, not {}", EnumNameRows(view->rows),
                          EnumNameRows(program.buffers[operand]->rows)));
    view->name += ".resized";
    const auto index = static_cast<uint32_t>(program.buffers.size());
    program.buffers.push_back(std::move(view));
    for (auto* operands : {&step.inputs, &step.outputs}) {
      std::replace(operands->begin(), operands->end(), operand, index);
    }
    plan_.required_features |= static_cast<uint64_t>(Feature::row_views);
    return true;
  }

  bool RegroupStep() {
    auto sites = Exchanges();
    std::erase_if(sites, [&](const Site& site) { return !IsCollective(StepOf(site).kind); });
    if (sites.empty()) return false;
    const Site site = Pick(sites);
    StepT& step = StepOf(site);
    int group = static_cast<int>(Draw(plan_.groups.size() + 1)) - 1;
    if (group == step.group)
      group = group + 1 < static_cast<int>(plan_.groups.size()) ? group + 1 : -1;
    Say(site, fmt::format("in group {}, not {}", group, step.group));
    step.group = group;
    return true;
  }

  bool RegroupRanks() {
    const auto sites = Exchanges();
    std::vector<Site> collective;
    for (const Site& site : sites) {
      if (IsCollective(StepOf(site).kind)) collective.push_back(site);
    }
    if (collective.empty()) return false;
    const Site site = Pick(collective);
    auto& ranks = plan_.groups[StageOf(site).group]->ranks;
    const uint32_t world = [&] {
      uint32_t count = 0;
      for (const auto& stage : plan_.replicas[0]->stages)
        count += static_cast<uint32_t>(stage->ranks.size());
      return count;
    }();
    const size_t k = Draw(ranks.size());
    std::string change;
    switch (Draw(3)) {
      case 0:
        change = fmt::format("rank {} leaves the group", ranks[k]);
        ranks.erase(ranks.begin() + static_cast<std::ptrdiff_t>(k));
        break;
      case 1:
        change = fmt::format("ranks {} and {} change places in the group", ranks[k],
                             ranks[(k + 1) % ranks.size()]);
        std::swap(ranks[k], ranks[(k + 1) % ranks.size()]);
        break;
      default: {
        std::vector<uint32_t> others;
        for (uint32_t rank = 0; rank < world; ++rank) {
          if (std::find(ranks.begin(), ranks.end(), rank) == ranks.end()) others.push_back(rank);
        }
        if (others.empty()) return false;
        const uint32_t other = Pick(others);
        change = fmt::format("rank {} for rank {} in the group", other, ranks[k]);
        ranks[k] = other;
      }
    }
    Say(site, change);
    return true;
  }

  // A message to or from another rank.
  bool Redirect() {
    const auto sites = Messages(true, true);
    if (sites.empty()) return false;
    const Site site = Pick(sites);
    std::vector<uint32_t> ranks;
    for (uint32_t r = 0; r < StepOf(site).ranks.size(); ++r) {
      if (!StepOf(site).ranks[r]->peers.empty()) ranks.push_back(r);
    }
    std::vector<uint32_t> world;
    for (const auto& stage : plan_.replicas[0]->stages) {
      for (const auto& rank : stage->ranks) world.push_back(rank->world_rank);
    }
    const uint32_t r = Pick(ranks);
    auto& peers = StepOf(site).ranks[r]->peers;
    const size_t k = Draw(peers.size());
    std::erase(world, peers[k]);
    if (world.empty()) return false;
    const uint32_t other = Pick(world);
    Say(site, fmt::format("rank {}'s peer is rank {}, not {}", StageOf(site).ranks[r]->world_rank,
                          other, peers[k]));
    peers[k] = other;
    return true;
  }

  bool RemoveWait() {
    const auto waits = Waits();
    if (waits.empty()) return false;
    const Site site = Pick(waits);
    Say(site, "removed");
    Erase(ProgramOf(site), site.step);
    return true;
  }

  bool MoveWait() {
    const auto waits = Waits();
    if (waits.empty()) return false;
    const Site site = Pick(waits);
    Spread(site);
    ProgramT& program = ProgramOf(site);
    constexpr uint32_t kReach = 4;
    const uint32_t first = site.step > kReach ? site.step - kReach : 0;
    const auto last = std::min(site.step + kReach, static_cast<uint32_t>(program.steps.size()) - 1);
    auto to = first + static_cast<uint32_t>(Draw(last - first + 1));
    if (to == site.step) to = to == last ? first : to + 1;
    if (to == site.step) return false;
    Say(site, fmt::format("moved to steps[{}]", to));
    const std::vector<uint32_t> buffers = WaitedFor(program, site.step);
    const auto begin = program.steps.begin();
    if (to > site.step) {
      std::rotate(begin + site.step, begin + site.step + 1, begin + to + 1);
    } else {
      std::rotate(begin + to, begin + site.step, begin + site.step + 1);
    }
    for (uint32_t i = std::min(to, site.step); i <= std::max(to, site.step); ++i) {
      ExtendOperands(program, i);
    }
    for (const uint32_t b : buffers) Extend(program, b, to);
    return true;
  }

  bool ExchangeWaits() {
    std::vector<std::pair<Site, Site>> pairs;
    const auto waits = Waits();
    for (size_t k = 0; k + 1 < waits.size(); ++k) {
      const Site& a = waits[k];
      const Site& b = waits[k + 1];
      if (a.stage == b.stage && a.program == b.program) pairs.emplace_back(a, b);
    }
    if (pairs.empty()) return false;
    const auto [a, b] = Pick(pairs);
    Spread(a);
    ProgramT& program = ProgramOf(a);
    Say(a, fmt::format("waits for event {}, and steps[{}] for {}", StepOf(b).waits[0], b.step,
                       StepOf(a).waits[0]));
    const std::vector<uint32_t> first = WaitedFor(program, a.step);
    const std::vector<uint32_t> second = WaitedFor(program, b.step);
    std::swap(program.steps[a.step], program.steps[b.step]);
    for (const uint32_t buffer : first) Extend(program, buffer, b.step);
    for (const uint32_t buffer : second) Extend(program, buffer, a.step);
    ExtendOperands(program, a.step);
    ExtendOperands(program, b.step);
    return true;
  }

  PlanT& plan_;
  std::mt19937_64 random_;
  nlohmann::json* what_ = nullptr;
};

int Main(int argc, char** argv) {
  CLI::App app("Changes what the ranks of a good plan exchange.", "plan-mutant");
  std::string input, output, kind;
  uint64_t seed = 0;
  app.add_option("PLAN", input)->required();
  app.add_option("OUTPUT", output)->required();
  std::vector<std::string> kinds;
  for (const auto& [name, change] : Mutator::Changes()) kinds.push_back(name);
  app.add_option("--kind", kind, "What is changed")->required()->check(CLI::IsMember(kinds));
  app.add_option("--seed", seed, "Where")->required();
  CLI11_PARSE(app, argc, argv);

  const StatusOr<PlanFile> file = PlanFile::Read(input);
  if (!file.ok()) {
    fmt::print(stderr, "plan-mutant: {}\n", file.status().ToString());
    return 1;
  }
  PlanT plan;
  file->plan().UnPackTo(&plan);
  nlohmann::json what;
  if (!Mutator(plan, seed).Apply(kind, &what)) return kNoPlace;
  const std::vector<std::byte> bytes = PlanFile::Serialize(plan);
  std::ofstream stream(output, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  stream.close();
  if (!stream) {
    fmt::print(stderr, "plan-mutant: {}: cannot be written\n", output);
    return 1;
  }
  fmt::print("{}\n", what.dump());
  return 0;
}

}  // namespace
}  // namespace llmir::plan

int main(int argc, char** argv) { return llmir::plan::Main(argc, argv); }
