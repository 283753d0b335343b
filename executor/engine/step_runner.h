// What the engine needs of the ranks: a descriptor goes in, drawn ids come out. Rank is one; tests
// and benchmarks of the scheduler have others.
#pragma once

#include <functional>
#include <span>
#include <utility>

#include "executor/step_descriptor.h"
#include "kvpool/block_transfers.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

// Of one draw, where the step asked for them.
struct DrawDetails {
  float logprob;  // of the id that was drawn: natural logarithm, temperature 1, no filters
  float margin;   // between the two best logits
};

// What a step gave. Valid until its replica's next Start or Finish.
struct StepResult {
  std::span<const int32_t> ids;          // one per sampled row
  std::span<const float> logits;         // [sampled][vocabulary], where asked for
  std::span<const DrawDetails> details;  // one per sampled row, where asked for
  std::span<const float> logprobs;       // [tokens] of a score step
  double copy_seconds = 0;               // that its block copies took here
};

// One thread. An error of any call ends the job.
class StepRunner {
 public:
  virtual ~StepRunner() = default;

  // Starts a step on all ranks of the replica; its rank of this process, if there is one, has done
  // its part when this returns. Every rank runs its steps in the order of their start. At most
  // Plan.limits.steps_in_flight are unfinished. `descriptor` stays as it is until Finish.
  virtual Status Start(int replica, StepDescriptor& descriptor) = 0;
  // Whether the result of the replica's oldest unfinished step is there.
  virtual StatusOr<bool> IsFinished(int replica) = 0;
  // That result, waited for.
  virtual StatusOr<StepResult> Finish(int replica) = 0;

  // Moves blocks between the replicas, as long as this lives; null where they can't be moved.
  virtual kvpool::BlockTransfers* transfers() { return nullptr; }

  // The replica is lost: its steps in flight come to nothing, and it isn't named again.
  virtual void Forget(int /*replica*/) {}

  // Called again and again while Start computes, between two operations.
  void set_meanwhile(std::function<Status()> meanwhile) { meanwhile_ = std::move(meanwhile); }

  // Both at once, with no other step in flight.
  StatusOr<StepResult> RunStep(int replica, StepDescriptor& descriptor) {
    LLMIR_RETURN_IF_ERROR(Start(replica, descriptor));
    return Finish(replica);
  }

 protected:
  std::function<Status()> meanwhile_;  // may be empty
};

}  // namespace llmir::executor
