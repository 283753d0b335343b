//===- FuseGateUp.cpp - Join gate and up, multiply in the epilogue --------===//

#include "planner/Dialect/LLM/Transforms/JoinWeights.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_FUSEGATEUP
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

void fuse(SiluMulOp mul) {
  auto gate = mul.getGate().getDefiningOp<LinearOp>();
  auto up = mul.getUp().getDefiningOp<LinearOp>();
  if (!gate || !up || gate == up || !gate->hasOneUse() || !up->hasOneUse())
    return;
  OpBuilder builder(mul);
  WeightOp weight =
      joinWeights(builder, {gate, up}, "gate_up", /*interleaved=*/true);
  if (!weight)
    return;
  auto fused = LinearOp::create(builder, mul.getLoc(), mul.getType(),
                                gate.getInput(), weight,
                                /*residual=*/Value(), /*silu_mul=*/true);
  mul.replaceAllUsesWith(fused.getResult());
  mul.erase();
  gate.erase();
  up.erase();
}

struct FuseGateUpPass
    : public llmir::llm::impl::FuseGateUpBase<FuseGateUpPass> {
  void runOnOperation() override {
    getOperation().walk(fuse);
    eraseUnusedWeights(getOperation());
  }
};

} // namespace
