//===- Replicas.cpp - The same ranks several times ------------------------===//

#include "planner/Replicas.h"

#include <memory>

#include "plan_schema/base/status.h"

using namespace llmir;

namespace {

std::unique_ptr<plan::ReplicaT> copyReplica(const plan::ReplicaT &replica) {
  flatbuffers::FlatBufferBuilder builder;
  builder.Finish(plan::Replica::Pack(builder, &replica));
  return std::unique_ptr<plan::ReplicaT>(
      flatbuffers::GetRoot<plan::Replica>(builder.GetBufferPointer())
          ->UnPack());
}

} // namespace

void llmir::addReplicas(plan::PlanT &plan, int64_t count) {
  if (count == 1)
    return;
  plan.required_features |= static_cast<uint64_t>(plan::Feature::replicas);
  const size_t groups = plan.groups.size();
  uint32_t ranks = 0;
  for (auto &stage : plan.replicas[0]->stages)
    ranks += stage->ranks.size();
  for (int64_t index = 1; index < count; ++index) {
    uint32_t firstRank = index * ranks, firstGroup = index * groups;
    for (size_t group = 0; group < groups; ++group) {
      auto copy = std::make_unique<plan::GroupT>(*plan.groups[group]);
      copy->name += fmt::format(" of replica {}", index);
      for (uint32_t &rank : copy->ranks)
        rank += firstRank;
      plan.groups.push_back(std::move(copy));
    }
    auto replica = copyReplica(*plan.replicas[0]);
    for (auto &stage : replica->stages) {
      stage->group += firstGroup;
      for (auto &rank : stage->ranks)
        rank->world_rank += firstRank;
      for (auto &program : stage->programs)
        for (auto &step : program->steps) {
          if (step->group >= 0)
            step->group += firstGroup;
          for (auto &rank : step->ranks)
            for (uint32_t &peer : rank->peers)
              peer += firstRank;
        }
    }
    plan.replicas.push_back(std::move(replica));
  }
}
