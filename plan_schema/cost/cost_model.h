// What the steps of a plan take on given hardware: measured times where there is a calibration,
// else bytes over bandwidth or operations over the peak, whichever is longer.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "plan_schema/base/status.h"
#include "plan_schema/cost/calibration.h"
#include "plan_schema/cost/cluster.h"
#include "plan_schema/plan_generated.h"
#include "plan_schema/simulator.h"

namespace llmir::plan {

struct CostOptions {
  // Steps of the engine that are under way at a time: how many ranks compute at once follows from
  // it. 0: the plan's.
  int in_flight = 0;
  int threads = 0;  // of a rank; 0: the node's cores divided by its ranks
  // One step is under way in one replica, and all other stages and replicas rest.
  bool undisturbed = false;
};

class CostModel final : public CostSource {
 public:
  // `plan` has been verified and outlives the object, as do `cluster` and `calibration`. One of the
  // two may be null: without a cluster all ranks are on the calibrated host. A calibration is of
  // the cluster's first node; others are faster or slower as their figures say. Of accelerators it
  // is not asked.
  CostModel(const Plan& plan, const Cluster* cluster, const Calibration* calibration,
            const CostOptions& options);
  // The same with the option `undisturbed`.
  CostModel Undisturbed() const;
  // Whether other stages or replicas may work beside a step.
  bool Disturbed() const { return disturbed_; }

  double ComputeUs(const StepPlace& place, const EngineStep& run) const override;
  TransferCost Collective(StepKind kind, const std::vector<uint32_t>& ranks, double bytes,
                          double wire_bytes) const override;
  TransferCost Message(uint32_t from, uint32_t to, double bytes, double wire_bytes) const override;
  double BeforeUs(uint32_t world_rank, const Stage& stage, const EngineStep& run) const override;
  double AfterUs(const EngineStep& run) const override;
  int NodeOf(uint32_t world_rank) const override;
  double SharedLinkBytesPerS() const override;

  const Cluster& cluster() const { return cluster_; }
  int ThreadsOf(uint32_t world_rank) const;
  bool Oversubscribed() const;  // on some node threads outnumber cores
  // Peak bytes of a rank with `blocks` KV blocks in use and all of its buffers, the process itself
  // included where it was measured: what the plan may need at most.
  double PeakRankBytes(const Rank& rank, uint64_t blocks) const;
  // Resident bytes after steps of at most `prompt_tokens` tokens of the mixed program and
  // `sequences` of decode: of buffers only the rows that were written.
  double ResidentBytes(const Stage& stage, uint32_t rank, uint64_t blocks, uint32_t prompt_tokens,
                       uint32_t sequences) const;
  // INVALID_ARGUMENT where the ranks of a node need more than its memory, with node and bytes.
  Status CheckMemory() const;

 private:
  // A rank's part of its node.
  struct Place {
    int node = 0;
    int threads = 1;
    int active = 1;        // cores of the node that compute at once
    double share = 1;      // of the node's bandwidth, while it computes
    double shared_by = 1;  // times that a core is shared by
  };
  // `scale` times the step, of one profile, without what a launch takes. Empty: not measured.
  std::optional<double> MeasuredUs(const Profile& profile, const StepPlace& place,
                                   const EngineStep& run, double scale) const;
  double RooflineUs(const StepPlace& place, const EngineStep& run, const Place& on) const;
  AttentionShape ShapeOf(const StepPlace& place, const EngineStep& run) const;
  TransferCost CollectiveIn(StepKind kind, bool between_nodes, const LinkSpeed& link, bool rings,
                            int64_t ranks, double bytes) const;

  const Plan& plan_;
  const Calibration* calibration_;
  CostOptions options_;
  bool disturbed_ = false;
  Cluster cluster_;
  std::vector<Place> places_;  // by world rank
};

}  // namespace llmir::plan
