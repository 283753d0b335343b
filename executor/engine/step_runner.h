// What the engine needs of a replica's ranks: a descriptor goes in, drawn ids come out. Rank is
// one; tests and benchmarks of the scheduler have others.
#pragma once

#include <span>

#include "executor/step_descriptor.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

// Of one draw, where the step asked for them.
struct DrawDetails {
  float logprob;  // of the id that was drawn: natural logarithm, temperature 1, no filters
  float margin;   // between the two best logits
};

// What a step gave. Valid until the next one.
struct StepResult {
  std::span<const int32_t> ids;          // one per sampled row
  std::span<const float> logits;         // [sampled][vocabulary], where asked for
  std::span<const DrawDetails> details;  // one per sampled row, where asked for
  std::span<const float> logprobs;       // [tokens] of a score step
  double copy_seconds = 0;               // that its block copies took here
};

class StepRunner {
 public:
  virtual ~StepRunner() = default;
  // Runs the step on all ranks. An error ends the replica.
  virtual StatusOr<StepResult> RunStep(StepDescriptor& descriptor) = 0;
};

}  // namespace llmir::executor
