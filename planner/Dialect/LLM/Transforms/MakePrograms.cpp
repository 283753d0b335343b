//===- MakePrograms.cpp - Specialize stages for kinds of steps ------------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_MAKEPROGRAMS
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

/// Results of a last stage, in order.
enum Result : unsigned { kIds = 0, kLogProbabilities = 1 };

/// Whether what `op` does matters though nobody reads its results.
bool isRoot(Operation &op) {
  auto cacheOp = dyn_cast<KVCacheOpInterface>(op);
  return op.getNumResults() == 0 || (cacheOp && cacheOp.appends());
}

/// Keeps one result of a last stage, and what it needs.
void keepResult(func::FuncOp program, Result kept) {
  Operation *terminator = program.front().getTerminator();
  if (terminator->getNumOperands() == 0)
    return; // not a last stage: it sends rows in every kind of program
  Value value = terminator->getOperand(kept);
  terminator->setOperands(value);
  program.setFunctionType(FunctionType::get(
      program.getContext(), program.getArgumentTypes(), value.getType()));
  // In every program alike on all ranks, so collectives may go as well.
  for (Operation &op :
       llvm::make_early_inc_range(llvm::reverse(program.front())))
    if (!isRoot(op) && op.use_empty())
      op.erase();
}

struct MakeProgramsPass
    : public llmir::llm::impl::MakeProgramsBase<MakeProgramsPass> {
  using MakeProgramsBase::MakeProgramsBase;

  void runOnOperation() override {
    SmallVector<func::FuncOp> stages;
    for (auto function : getOperation().getOps<func::FuncOp>())
      if (function->hasAttr("llm.stage"))
        stages.push_back(function);
    for (func::FuncOp stage : stages) {
      unsigned results = stage.getNumResults();
      if (results != 0 && results != 2) {
        stage.emitError() << "a last stage returns ids and log-probabilities, "
                          << "got " << results << " results";
        return signalPassFailure();
      }
      makeProgram(stage, ProgramKind::Mixed, kIds, prefillChunk + maxBatch,
                  maxBatch);
      func::FuncOp decode =
          makeProgram(stage, ProgramKind::Decode, kIds, maxBatch, maxBatch);
      // Every row samples.
      decode.walk([](GatherRowsOp gather) {
        gather.replaceAllUsesWith(gather.getInput());
        gather.erase();
      });
      makeProgram(stage, ProgramKind::Score, kLogProbabilities, prefillChunk,
                  /*maxSampled=*/0);
      stage.erase();
    }
    explain(getOperation(), "llm-make-programs",
            fmt::format("mixed, decode and score for each of {} stages; up to "
                        "{} tokens in a step",
                        stages.size(), prefillChunk + maxBatch),
            "no step runs for results that its program doesn't give");
  }

  func::FuncOp makeProgram(func::FuncOp stage, ProgramKind kind, Result kept,
                           int64_t maxTokens, int64_t maxSampled) {
    OpBuilder builder(stage);
    auto program = cast<func::FuncOp>(builder.clone(*stage));
    program.setSymName(
        (stage.getSymName() + "_" + stringifyProgramKind(kind)).str());
    program->setAttr("llm.program",
                     ProgramAttr::get(&getContext(), kind, /*min_tokens=*/1,
                                      maxTokens, maxSampled));
    keepResult(program, kept);
    return program;
  }
};

} // namespace
