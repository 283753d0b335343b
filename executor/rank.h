// One rank of a job: its memory, weights, KV blocks, channels and programs. Rank 0 also drives all
// replicas (engine.h); the others serve steps until they are told to stop.
//
// A descriptor goes from rank 0 to the first rank of each replica's first stage, from there to that
// stage's ranks and to the first rank of the next stage, and so on, each before it runs its own
// program: so ranks get descriptors in one order, and a stage that is behind holds nobody up. The
// result comes from the last stage's first rank.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/world.h"
#include "executor/arrivals.h"
#include "executor/engine/step_runner.h"
#include "executor/program.h"
#include "executor/step_descriptor.h"
#include "executor/weights.h"
#include "kvpool/kv_arena.h"
#include "plan_schema/base/status.h"
#include "plan_schema/plan_file.h"

namespace llmir::executor {

struct RankOptions {
  std::string plan_folder;              // where relative checkpoint paths start
  std::string model;                    // replaces the plan's paths; empty: as the plan says
  std::optional<uint64_t> random_seed;  // random weights instead of the checkpoint's
  int threads = 0;                      // of this rank; 0: the host's cores divided by its ranks
  kernels::Isa isa{};
  bool timing = false;  // measure each step
  bool collect_activations = false;
  bool exchange = true;      // false: rows that ranks exchange in a step stay where they are
  int32_t swap_blocks = 0;   // places for KV blocks outside the arena
  std::string spill_folder;  // for KV blocks that nobody holds; empty: none
  int32_t spill_slots = 0;
  bool transfers = true;  // several replicas get KV blocks of each other
};

class Rank final : public StepRunner {
 public:
  // Collective over the world: every rank loads its part; an error of any is returned on all.
  static StatusOr<std::unique_ptr<Rank>> Create(comm::World& world, const plan::PlanFile& plan,
                                                const RankOptions& options,
                                                const LoadProgress& progress);
  ~Rank() override;

  // Rank 0: sends the descriptor on its way and, in its own replica, runs its own program.
  Status Start(int replica, StepDescriptor& descriptor) override;
  StatusOr<bool> IsFinished(int replica) override;
  StatusOr<StepResult> Finish(int replica) override;
  kvpool::BlockTransfers* transfers() override;
  // Why there are none though the plan or the options ask for them; the same on all ranks.
  const Status& transfer_status() const;
  void Forget(int replica) override;
  // Ranks of the job are lost: what all ranks do together can't be done any more.
  bool crippled() const;
  // The other ranks: run steps as descriptors come, until one says stop.
  Status Serve();
  // Rank 0: ends Serve on all others, after what is in flight.
  Status Stop();

  // Collective over the job, after a run with timing.
  StatusOr<std::vector<std::vector<Arrival>>> CompareArrivals(comm::World& world) const;
  // Collective over the job: every rank's `text`, in rank order, on rank 0.
  StatusOr<std::vector<std::string>> Collect(const std::string& text);

  const plan::Plan& plan() const;
  const Weights& weights() const;
  const plan::Rank& plan_rank() const;
  uint32_t replica() const;
  uint32_t stage() const;  // of the replica
  int threads() const;
  int cores() const;    // that this process may run on
  bool pinned() const;  // each thread has a core of its own
  kernels::Isa isa() const;
  kernels::WorkerPool& pool();
  const std::vector<std::unique_ptr<Program>>& programs() const;
  StepCapacity capacity() const;
  std::string_view channel_backend() const;      // of the stage's group
  const ActivationCollector* collector() const;  // null unless asked for

 private:
  struct State;
  explicit Rank(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace llmir::executor
