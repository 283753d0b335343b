// Plays the programs of a plan over time: what each rank computes and when it waits for others, as
// the executor runs them, from what a step and a message cost.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "plan_schema/base/status.h"
#include "plan_schema/plan_generated.h"

namespace llmir::plan {

// One step of the engine: a program, run on all ranks of a replica.
struct EngineStep {
  ProgramKind program = ProgramKind::decode;
  uint32_t tokens = 1;
  uint32_t sampled = 1;
  uint32_t sequences = 1;
  double context = 1;  // tokens of each sequence after it
};

// What a rank is asked to do: the `step`-th step of a stage's program, on rank `rank` of the stage.
struct StepPlace {
  const Stage& stage;
  const Program& program;
  const Step& step;
  uint32_t rank;
};

// A message or collective. It takes `us` from when its last rank has come; `processor_us` of them
// keep the ranks' processors busy, the rest passes beside their other work where the plan lets it.
struct TransferCost {
  double us = 0;
  double processor_us = 0;
};

// What things cost. Pure functions.
class CostSource {
 public:
  virtual ~CostSource() = default;
  // Of a step that doesn't communicate.
  virtual double ComputeUs(const StepPlace& place, const EngineStep& run) const = 0;
  // Of a collective among `ranks` (world ranks). `bytes`: what one rank brings, of all_gather,
  // reduce_scatter and gather the whole rows; `wire_bytes`: the same as they travel between nodes.
  virtual TransferCost Collective(StepKind kind, const std::vector<uint32_t>& ranks, double bytes,
                                  double wire_bytes) const = 0;
  virtual TransferCost Message(uint32_t from, uint32_t to, double bytes,
                               double wire_bytes) const = 0;
  // On rank `world_rank`, before the first step and after the last one: what the step of the engine
  // takes beside the program's steps.
  virtual double BeforeUs(uint32_t world_rank, const Stage& stage, const EngineStep& run) const = 0;
  // From when the ids are drawn to when the engine goes on.
  virtual double AfterUs(const EngineStep& run) const = 0;
  // Where a rank runs, for bytes by link.
  virtual int NodeOf(uint32_t world_rank) const = 0;
  // Bytes per second of the link between nodes, which messages share; 0: they don't share it.
  virtual double SharedLinkBytesPerS() const = 0;
};

struct SimulatedRank {
  uint32_t world_rank = 0;
  uint32_t stage = 0;
  double compute_us = 0;
  double transfer_us = 0;  // moving bytes
  double wait_us = 0;      // for ranks that come later, within programs
  double bubble_us = 0;    // between programs: until the next step is there
};

struct SimulatedStep {
  uint32_t world_rank = 0;
  const Step* step = nullptr;
  double begin_us = 0;  // from the start of the engine's step
  double compute_us = 0;
  double transfer_us = 0;
  double wait_us = 0;
};

struct Simulation {
  std::vector<double> step_us;  // of each engine step: from its descriptor to its ids
  std::vector<double> end_us;   // when it ended, from the start of the first
  std::vector<SimulatedRank> ranks;
  std::vector<SimulatedStep> steps;  // of the last engine step, by rank and order
  // Bytes over all engine steps, by (from, to) nodes; of one node: between its ranks.
  std::map<std::pair<int, int>, double> link_bytes;
};

// The engine steps `runs` on one replica, one after the other: the next begins when the ids
// of the one `in_flight` before it are there (1: one at a time), and on each rank after the one
// before it. `plan` has been verified. INVALID_ARGUMENT where a program or size is missing.
StatusOr<Simulation> Simulate(const Plan& plan, const std::vector<EngineStep>& runs, int in_flight,
                              const CostSource& costs, uint32_t replica = 0);

}  // namespace llmir::plan
