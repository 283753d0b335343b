//===- SplitCollectives.cpp - Split collectives into start and wait -------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_SPLITCOLLECTIVES
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

struct SplitCollectivesPass
    : public llmir::llm::impl::SplitCollectivesBase<SplitCollectivesPass> {
  void runOnOperation() override {
    int64_t count = 0;
    getOperation().walk([&](Operation *op) {
      count += isa<AllReduceOp, ReduceScatterOp, AllGatherOp>(op);
      if (auto reduce = dyn_cast<AllReduceOp>(op))
        split<AllReduceStartOp>(reduce);
      else if (auto scatter = dyn_cast<ReduceScatterOp>(op))
        split<ReduceScatterStartOp>(scatter);
      else if (auto gather = dyn_cast<AllGatherOp>(op))
        split<AllGatherStartOp>(gather);
    });
    if (count > 0)
      explain(
          getOperation(), "llm-split-collectives",
          fmt::format("{} messages among ranks are a start and a wait", count),
          "what is scheduled between them overlaps");
  }

  template <typename Start, typename Collective>
  static void split(Collective collective) {
    OpBuilder builder(collective);
    // A sum's tree is its start's.
    auto start = Start::create(
        builder, collective.getLoc(), TokenType::get(builder.getContext()),
        collective->getOperands(), collective->getAttrs());
    auto wait =
        WaitOp::create(builder, collective.getLoc(),
                       collective->getResultTypes(), start->getResult(0));
    collective.replaceAllUsesWith(wait.getResult());
    collective.erase();
  }
};

} // namespace
