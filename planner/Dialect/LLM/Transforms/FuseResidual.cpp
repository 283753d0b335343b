//===- FuseResidual.cpp - Add the residual in a linear's epilogue ---------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_FUSERESIDUAL
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

/// The linear that gives `value` to nobody else and can take a residual.
LinearOp getFusableLinear(Value value) {
  auto linear = value.getDefiningOp<LinearOp>();
  if (!linear || !value.hasOneUse() || linear.isPartial() ||
      linear.getResidual() || linear.getSiluMul())
    return {};
  return linear;
}

struct FuseResidualPass
    : public llmir::llm::impl::FuseResidualBase<FuseResidualPass> {
  void runOnOperation() override {
    int64_t count = 0, saved = 0;
    getOperation().walk([&](AddOp add) {
      Value residual = add.getLhs();
      LinearOp linear = getFusableLinear(add.getRhs());
      if (!linear) {
        residual = add.getRhs();
        linear = getFusableLinear(add.getLhs());
      }
      if (!linear)
        return;
      OpBuilder builder(add);
      auto fused = LinearOp::create(builder, linear.getLoc(), add.getType(),
                                    linear.getInput(), linear.getWeight(),
                                    residual, /*silu_mul=*/false);
      add.replaceAllUsesWith(fused.getResult());
      // The linear's result is neither written nor read by itself.
      saved += 2 * sizeof(float) * getColumns(fused.getType());
      ++count;
      add.erase();
      linear.erase();
    });
    if (count > 0)
      explain(getOperation(), "llm-fuse-residual",
              fmt::format("{} residuals are added in the epilogue of a linear",
                          count),
              fmt::format("{} fewer steps, {} less memory traffic per token",
                          count, formatBytes(saved)));
  }
};

} // namespace
