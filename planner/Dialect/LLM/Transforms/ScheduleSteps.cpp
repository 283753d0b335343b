//===- ScheduleSteps.cpp - A flat, numbered list of steps -----------------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_SCHEDULESTEPS
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

Operation *llmir::llm::getFirstUser(Operation *op) {
  Operation *first = op->getBlock()->getTerminator();
  for (Operation *user : op->getUsers())
    if (user->isBeforeInBlock(first))
      first = user;
  return first;
}

namespace {

struct ScheduleStepsPass
    : public llmir::llm::impl::ScheduleStepsBase<ScheduleStepsPass> {
  void runOnOperation() override {
    int64_t programs = 0, overlapping = 0;
    for (auto function : getOperation().getOps<func::FuncOp>())
      if (function->hasAttr("llm.program")) {
        schedule(function.front());
        ++programs;
        function.walk([&](WaitOp wait) {
          overlapping += wait->getPrevNode() != wait.getToken().getDefiningOp();
        });
      }
    explain(getOperation(), "llm-schedule-steps",
            fmt::format("{} programs in order; {} messages have steps beside "
                        "them",
                        programs, overlapping));
  }

  void schedule(Block &block) {
    // What steps refer to comes first.
    Operation *firstStep =
        &*llvm::find_if(block, [](Operation &op) { return isStep(&op); });
    SmallVector<Operation *> starts;
    SmallVector<WaitOp> waits;
    // Views stand where they are used, so that they hold no wait up.
    for (Operation &op : llvm::make_early_inc_range(llvm::reverse(block)))
      if (isView(&op))
        op.moveBefore(getFirstUser(&op));
    for (Operation &op : llvm::make_early_inc_range(block)) {
      if (isa<WeightOp, CreatePagedCacheOp>(op))
        op.moveBefore(firstStep);
      else if (isStart(&op))
        starts.push_back(&op);
      else if (auto wait = dyn_cast<WaitOp>(op))
        waits.push_back(wait);
    }
    for (Operation *start : starts)
      if (start->getNumOperands() == 1)
        if (Operation *producer = start->getOperand(0).getDefiningOp())
          start->moveAfter(producer);
    for (WaitOp wait : waits)
      wait->moveBefore(getFirstUser(wait));

    Builder builder(&getContext());
    int64_t step = 0, event = 0;
    for (Operation &op : block) {
      if (!isStep(&op))
        continue;
      op.setAttr("llm.step", builder.getI64IntegerAttr(step++));
      if (isStart(&op)) {
        Attribute number = builder.getI64IntegerAttr(event++);
        op.setAttr("llm.event", number);
        for (Operation *wait : op.getUsers())
          wait->setAttr("llm.event", number);
      }
    }
  }
};

} // namespace
