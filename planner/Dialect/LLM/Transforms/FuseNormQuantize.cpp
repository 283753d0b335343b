//===- FuseNormQuantize.cpp - Let a norm write int8 -----------------------===//

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
    getOperation().walk([](QuantizeOp quantize) {
      auto norm = quantize.getInput().getDefiningOp<RMSNormOp>();
      if (!norm || !norm->hasOneUse())
        return;
      OpBuilder builder(quantize);
      auto fused = RMSNormOp::create(builder, norm.getLoc(), quantize.getType(),
                                     norm.getInput(), norm.getWeight(),
                                     norm.getEpsilonAttr());
      quantize.replaceAllUsesWith(fused.getResult());
      quantize.erase();
      norm.erase();
    });
  }
};

} // namespace
