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
  std::vector<int64_t> tp = {1}; // ranks per stage, or one number for all
  int64_t ranks = 0;             // of the job: tp and pp are chosen; 0: given
  std::optional<uint64_t> rankMemory; // bytes of weights per rank, for `ranks`
  std::string cluster; // file as in configs/clusters; empty: none. With it and
                       // a goal the layout is searched for, with up to `ranks`
  std::string goal;    // latency or throughput; empty: tp and pp are given
  int64_t pp = 1;      // stages
  int64_t dp = 1;      // replicas of all of it; with a goal 0: chosen
  std::optional<int64_t> stepsInFlight; // of a replica; else as many as stages
  std::string weights = "keep";         // --weights; "auto:4.5bpw": a budget
  std::string method;                   // rtn, awq, gptq, awq+gptq; empty: rtn,
                                        // for auto: gptq
  std::vector<std::string> types;       // that auto may take; empty: all
  std::string activations;              // file of --collect-activations
  std::string pack;                     // where packed weights are written
  std::string packIsa;            // whose layouts; empty: this processor's best
  bool bf16Activations = false;   // what bf16 weights are multiplied with
  std::string kvType;             // f32, bf16, int8, fp8; empty: by weights
  std::string attention = "auto"; // FORM[,no-share-kv][,window=N]
  std::optional<int64_t> blockSize; // tokens of a KV block; else by workload
  std::optional<int64_t> kvBlocks;  // per rank; else by kvMemory
  std::optional<uint64_t> kvMemory; // bytes per rank; else by context and batch
  std::optional<uint64_t> kvExtent; // bytes of a run; else plan::kKvRunBytes
  std::string kvArena = "auto";     // unified, separate, auto
  std::optional<int64_t> context;   // tokens of a sequence; else by the model
  int64_t maxBatch = 8;             // sequences in a step
  int64_t prefillChunk = 512;       // prompt tokens in a step
  std::string overlap = "auto";     // none, halves, scatter, auto
  /// Results don't depend on batch, chunks, cached prefixes, tp or pp, with the
  /// kernels of `isa`.
  std::string wire = "f32"; // of rows between hosts: f32 or int8
  bool reproducible = false;
  std::string isa; // of a reproducible plan; empty: this processor's best
  std::vector<std::string> disabled;     // families and passes that don't run
  std::vector<std::string> printIrAfter; // passes after which IR goes to stderr
  int threads = 2;                       // that hash the checkpoint
  std::string calibration; // file of llmir-exec --calibrate; empty: none
  std::string workload;    // file as in configs/workloads; empty: none
  std::string command;     // for the plan's provenance
  bool isTrial = false;    // only to be simulated: weights aren't hashed
  std::string planFolder;  // paths in the plan are relative to it
  /// Called with how far quantization is, for people.
  std::function<void(const std::string &)> progress;
  /// Called with each remark of the planner, for people.
  std::function<void(const std::string &)> note;
  /// Called with a table of what a search weighed and why it chose, for people.
  std::function<void(const std::string &table, const std::string &reason)>
      found;
  /// Called with the pass manager before it runs, to print IR or time passes;
  /// false: its options are wrong.
  std::function<bool(mlir::PassManager &)> configure;
};

/// The plan for `checkpoint` by `options`. A wrong option is INVALID_ARGUMENT
/// and names it. One call at a time per process. Of a shape (readShape) there
/// is no tokenizer: null; its plan has no hashes of weights.
StatusOr<std::unique_ptr<plan::PlanT>>
planCheckpoint(const checkpoint::Checkpoint &checkpoint,
               const checkpoint::Tokenizer *tokenizer,
               const PlannerOptions &options);
inline StatusOr<std::unique_ptr<plan::PlanT>>
planCheckpoint(const checkpoint::Checkpoint &checkpoint,
               const checkpoint::Tokenizer &tokenizer,
               const PlannerOptions &options) {
  return planCheckpoint(checkpoint, &tokenizer, options);
}

} // namespace llmir

#endif // LLMIR_PLANNER_H
