//===- StepTimes.cpp - How long a step is expected to take ----------------===//

#include "planner/Target/Plan/StepTimes.h"

#include <algorithm>
#include <cmath>

#include "llvm/ADT/DenseMap.h"

#include "plan_schema/cost/cost_model.h"
#include "plan_schema/simulator.h"

using namespace llmir;

namespace {

plan::EngineStep getRun(const plan::ProgramT &program,
                        const ExpectedLoad &load) {
  plan::EngineStep run;
  run.program = program.kind;
  if (program.kind == plan::ProgramKind::decode) {
    run.tokens = static_cast<uint32_t>(std::clamp<double>(
        std::round(load.batch), program.min_tokens, program.max_tokens));
    run.sampled = run.sequences = run.tokens;
    run.context = load.context;
  } else {
    run.tokens = program.max_tokens;
    run.sampled = std::min(program.max_sampled, run.tokens);
    run.context = std::max<double>(load.context, run.tokens);
  }
  return run;
}

} // namespace

Status llmir::predictTimes(plan::PlanT &plan, const plan::Cluster *cluster,
                           const plan::Calibration &calibration,
                           const ExpectedLoad &load) {
  flatbuffers::FlatBufferBuilder builder;
  builder.Finish(plan::Plan::Pack(builder, &plan));
  const auto &packed =
      *flatbuffers::GetRoot<plan::Plan>(builder.GetBufferPointer());
  const plan::CostModel costs(packed, cluster, &calibration, {});
  const plan::Replica &replica = *packed.replicas()->Get(0);
  for (size_t p = 0; p < plan.replicas[0]->stages[0]->programs.size(); ++p) {
    plan::EngineStep run =
        getRun(*plan.replicas[0]->stages[0]->programs[p], load);
    LLMIR_ASSIGN_OR_RETURN(plan::Simulation simulation,
                           plan::Simulate(packed, {run}, 1, costs));
    llvm::DenseMap<std::pair<const plan::Step *, uint32_t>, double> times;
    for (const plan::SimulatedStep &step : simulation.steps)
      times[{step.step, step.world_rank}] = step.compute_us + step.transfer_us;
    // Replicas are alike.
    for (auto &own : plan.replicas)
      for (size_t s = 0; s < own->stages.size(); ++s) {
        const plan::Stage &stage = *replica.stages()->Get(s);
        plan::ProgramT &program = *own->stages[s]->programs[p];
        const plan::Program &from = *stage.programs()->Get(p);
        program.predicted_tokens = run.tokens;
        for (size_t i = 0; i < program.steps.size(); ++i)
          for (uint32_t rank = 0; rank < stage.ranks()->size(); ++rank)
            program.steps[i]->ranks[rank]->predicted_us = static_cast<float>(
                times.lookup({from.steps()->Get(i),
                              stage.ranks()->Get(rank)->world_rank()}));
      }
  }
  return Status();
}
