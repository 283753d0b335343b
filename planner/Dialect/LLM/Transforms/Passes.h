//===- Passes.h - Passes and pipeline of the llm dialect --------*- C++ -*-===//

#ifndef LLMIR_DIALECT_LLM_TRANSFORMS_PASSES_H
#define LLMIR_DIALECT_LLM_TRANSFORMS_PASSES_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"
#include "mlir/Pass/PassManager.h"

#include "plan_schema/base/status.h"
#include "planner/Dialect/LLM/IR/LLMDialect.h"

namespace llmir::llm {

#define GEN_PASS_DECL
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"

/// What `--weights` takes, for messages.
inline constexpr llvm::StringLiteral kWeightChoices =
    "keep, q3, q4, q5, q6, q8, or a type by name, such as bf16 or q4_1_64";
/// The encoding that such a choice means (kernels/block_formats.h), or "keep";
/// empty for an unknown one.
mlir::StringRef getRequestedEncoding(mlir::StringRef choice);

/// What the pipeline decides by; the defaults are those of llmir-plan.
struct PipelineOptions {
  std::string weights = "keep"; // as of llm-choose-precision
  int64_t stages = 1;
  mlir::SmallVector<int64_t> ranks = {1}; // per stage, or one for all
  mlir::SmallVector<double> speeds; // of all ranks, by any unit; empty: alike
  int64_t maxBatch = 8;
  int64_t stepsInFlight = 1;
  int64_t prefillChunk = 512;
  std::string overlap = "auto";      // none, halves, scatter, auto
  int64_t blockSize = 0;             // of a KV block, tokens; 0: chosen
  int64_t kvBlocks = 0;              // per rank; 0: chosen
  int64_t kvMemory = 0;              // bytes of KV blocks per rank; 0: chosen
  std::string calibration;           // file; empty: none
  std::vector<std::string> disabled; // families and passes to leave out
  std::string attention = "auto";    // as llm-choose-attention's form
  bool shareKv = true;
  int64_t attentionWindow = 0; // tokens; 0: as the model
  /// Results don't depend on batch, chunks or the layout.
  bool reproducible = false;
  std::string wire = "f32"; // of rows between hosts: f32 or int8
};

/// Adds the passes from an imported model to placed programs. INVALID_ARGUMENT
/// when options.disabled names what isn't there or can't be left out.
Status buildPlanPipeline(mlir::OpPassManager &manager,
                         const PipelineOptions &options);

/// The names of all passes of the pipeline, in order, as on llmir-opt's command
/// line.
std::vector<std::string> getPipelinePasses();

/// Makes the pipeline known as --llm-plan to llmir-opt.
void registerPlanPipeline();

/// Rows of another value, where they lie.
inline bool isView(mlir::Operation *op) {
  return mlir::isa<RowsOp, JoinRowsOp>(op);
}

/// Other operations don't become steps: they name what steps work on.
inline bool isStep(mlir::Operation *op) {
  return !mlir::isa<WeightOp, CreatePagedCacheOp>(op) && !isView(op) &&
         !op->hasTrait<mlir::OpTrait::IsTerminator>();
}

/// The first operation that uses a result of `op`; the end of its block where
/// none does.
mlir::Operation *getFirstUser(mlir::Operation *op);

} // namespace llmir::llm

#endif // LLMIR_DIALECT_LLM_TRANSFORMS_PASSES_H
