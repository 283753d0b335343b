//===- PrefetchWeights.cpp - The next weight while a collective travels ---===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

#include <fmt/format.h>

namespace llmir::llm {
#define GEN_PASS_DEF_PREFETCHWEIGHTS
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

/// The matrix that `op` multiplies with, or null.
WeightOp getMatrix(Operation *op) {
  if (auto linear = dyn_cast<LinearOp>(op))
    return linear.getWeight().getDefiningOp<WeightOp>();
  if (auto score = dyn_cast<ScoreOp>(op))
    return score.getWeight().getDefiningOp<WeightOp>();
  return {};
}

struct PrefetchWeightsPass
    : public llmir::llm::impl::PrefetchWeightsBase<PrefetchWeightsPass> {
  void runOnOperation() override {
    int64_t count = 0;
    for (auto function : getOperation().getOps<func::FuncOp>())
      if (function->hasAttr("llm.program"))
        for (auto wait : llvm::make_early_inc_range(function.getOps<WaitOp>()))
          count += prefetch(wait);
    if (count > 0)
      explain(getOperation(), "llm-prefetch-weights",
              fmt::format("before {} waits the beginning of the next matrix is "
                          "brought near",
                          count),
              "as much of each as half of a core's second-level cache holds");
  }

  /// Before the place that `wait` will have in the schedule, for the first
  /// matrix after it, unless it has just been read.
  static bool prefetch(WaitOp wait) {
    if (!wait.getResult())
      return false;
    Operation *user = getFirstUser(wait);
    WeightOp next, last;
    for (Operation *op = user; op && !next; op = op->getNextNode())
      next = getMatrix(op);
    for (Operation *op = user->getPrevNode(); op && !last;
         op = op->getPrevNode()) {
      if (isa<PrefetchOp>(op))
        return false; // one wait after another: the first one's time is used
      last = getMatrix(op);
    }
    if (!next || next == last)
      return false;
    OpBuilder builder(user);
    // The weight may stand before its first reader only.
    if (user->isBeforeInBlock(next))
      next->moveBefore(user);
    PrefetchOp::create(builder, wait.getLoc(), next.getResult());
    return true;
  }
};

} // namespace
