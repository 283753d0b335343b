//===- ExportPlan.h - Programs of the llm dialect as a plan -----*- C++ -*-===//

#ifndef LLMIR_TARGET_PLAN_EXPORTPLAN_H
#define LLMIR_TARGET_PLAN_EXPORTPLAN_H

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "mlir/IR/BuiltinOps.h"

#include "kernels/isa.h"
#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint.h"
#include "plan_schema/checkpoint/tokenizer.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_generated.h"

namespace llmir {

/// What a plan says that doesn't follow from the programs.
struct ExportOptions {
  std::string planFolder; // paths in the plan are relative to it
  plan::LimitsT limits;
  plan::ProvenanceT provenance; // all but the IR
  /// How the values of a tensor were chosen and what that costs
  /// (plan.fbs, Weight.method and error); tensors as they are stored are
  /// missing.
  struct Quantized {
    std::string method;
    double error;
  };
  std::map<std::string, Quantized> quantized;
  int threads = 2;      // that hash and pack the checkpoint
  bool isHashed = true; // else the plan can't run, and is made sooner
  /// Where the weights are written as kernels of `packIsa` read them; empty:
  /// they are packed at load.
  std::string pack;
  kernels::Isa packIsa = kernels::Isa::kPortable;
  /// The plan is reproducible, with the kernels of this family; empty: it
  /// isn't.
  std::string isa;
  bool bf16Activations = false;            // plan.fbs, Plan.bf16_activations
  uint64_t kvRunBytes = plan::kKvRunBytes; // of a head's slices in an extent
  bool kvInArena = true;                   // plan.fbs, Rank.kv_arena
  std::function<void(const std::string &)> progress;
};

/// The plan for `module`, which must have passed the whole pipeline, with the
/// weights of `checkpoint`, from which it was imported; without hashes of them,
/// and with `tokenizer` null, for a shape.
StatusOr<std::unique_ptr<plan::PlanT>>
exportPlan(mlir::ModuleOp module, const checkpoint::Checkpoint &checkpoint,
           const checkpoint::Tokenizer *tokenizer,
           const ExportOptions &options);

} // namespace llmir

#endif // LLMIR_TARGET_PLAN_EXPORTPLAN_H
