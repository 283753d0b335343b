//===- ExportPlan.h - Programs of the llm dialect as a plan -----*- C++ -*-===//

#ifndef LLMIR_TARGET_PLAN_EXPORTPLAN_H
#define LLMIR_TARGET_PLAN_EXPORTPLAN_H

#include <memory>
#include <string>

#include "mlir/IR/BuiltinOps.h"

#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint.h"
#include "plan_schema/checkpoint/tokenizer.h"
#include "plan_schema/plan_generated.h"

namespace llmir {

/// What a plan says that doesn't follow from the programs.
struct ExportOptions {
  std::string planFolder; // paths in the plan are relative to it
  plan::LimitsT limits;
  plan::ProvenanceT provenance; // all but the IR
  int64_t kvBlocks = 0;         // per rank; 0: by memory
  uint64_t kvMemory =
      0;           // bytes per rank; 0: max_batch sequences of full length
  int threads = 2; // that hash the checkpoint
};

/// The plan for `module`, which must have passed the whole pipeline, with the
/// weights of `checkpoint`, from which it was imported.
StatusOr<std::unique_ptr<plan::PlanT>>
exportPlan(mlir::ModuleOp module, const checkpoint::Checkpoint &checkpoint,
           const checkpoint::Tokenizer &tokenizer,
           const ExportOptions &options);

} // namespace llmir

#endif // LLMIR_TARGET_PLAN_EXPORTPLAN_H
