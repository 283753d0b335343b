//===- FuseNormQuantize.cpp - Let a norm write int8 -----------------------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_FUSENORMQUANTIZE
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

struct FuseNormQuantizePass
    : public llmir::llm::impl::FuseNormQuantizeBase<FuseNormQuantizePass> {
  void runOnOperation() override {
    int64_t fused = 0, saved = 0;
    getOperation().walk([&](QuantizeOp quantize) {
      auto norm = quantize.getInput().getDefiningOp<RMSNormOp>();
      if (!norm || !norm->hasOneUse())
        return;
      OpBuilder builder(quantize);
      auto fusedNorm = RMSNormOp::create(
          builder, norm.getLoc(), quantize.getType(), norm.getInput(),
          norm.getWeight(), norm.getEpsilonAttr());
      quantize.replaceAllUsesWith(fusedNorm.getResult());
      // The norm's floats are neither written nor read.
      saved += 2 * sizeof(float) * getColumns(fusedNorm.getType());
      ++fused;
      quantize.erase();
      norm.erase();
    });
    if (fused > 0)
      explain(getOperation(), "llm-fuse-norm-quantize",
              fmt::format("{} norms write int8 themselves", fused),
              fmt::format("{} fewer steps, {} less memory traffic per token",
                          fused, formatBytes(saved)));
  }
};

} // namespace
