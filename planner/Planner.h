//===- Planner.h - From a checkpoint to a plan ------------------*- C++ -*-===//
//
// What llmir-plan does, as one call.
//
//===----------------------------------------------------------------------===//

#ifndef LLMIR_PLANNER_H
#define LLMIR_PLANNER_H

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint.h"
#include "plan_schema/checkpoint/tokenizer.h"
#include "plan_schema/plan_generated.h"

namespace mlir {
class PassManager;
} // namespace mlir

namespace llmir {

/// The options of llmir-plan.
struct PlannerOptions {
  std::vector<int64_t> tp = {1};    // ranks per stage, or one number for all
  int64_t pp = 1;                   // stages
  std::string weights = "keep";     // as of llm-choose-precision
  std::string kvType;               // f32, bf16; empty: by weights
  int64_t blockSize = 16;           // tokens of a KV block
  std::optional<int64_t> kvBlocks;  // per rank; else by kvMemory
  std::optional<uint64_t> kvMemory; // bytes per rank; else by context and batch
  std::optional<int64_t> context;   // tokens of a sequence; else by the model
  int64_t maxBatch = 8;             // sequences in a step
  int64_t prefillChunk = 512;       // prompt tokens in a step
  int threads = 2;                  // that hash the checkpoint
  std::string command;              // for the plan's provenance
  std::string planFolder;           // paths in the plan are relative to it
  /// Called with each remark of the planner, for people.
  std::function<void(const std::string &)> note;
  /// Called with the pass manager before it runs, to print IR or time passes;
  /// false: its options are wrong.
  std::function<bool(mlir::PassManager &)> configure;
};

/// The plan for `checkpoint` by `options`. A wrong option is INVALID_ARGUMENT
/// and names it. One call at a time per process.
StatusOr<std::unique_ptr<plan::PlanT>>
planCheckpoint(const checkpoint::Checkpoint &checkpoint,
               const checkpoint::Tokenizer &tokenizer,
               const PlannerOptions &options);

} // namespace llmir

#endif // LLMIR_PLANNER_H
