//===- FuseGateUp.cpp - Join gate and up, multiply in the epilogue --------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/JoinWeights.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_FUSEGATEUP
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

/// Bytes per token that no longer go to memory and back; 0: not fused.
int64_t fuse(SiluMulOp mul) {
  auto gate = mul.getGate().getDefiningOp<LinearOp>();
  auto up = mul.getUp().getDefiningOp<LinearOp>();
  if (!gate || !up || gate == up || !gate->hasOneUse() || !up->hasOneUse())
    return 0;
  OpBuilder builder(mul);
  WeightOp weight =
      joinWeights(builder, {gate, up}, "gate_up", /*interleaved=*/true);
  if (!weight)
    return 0;
  auto fused = LinearOp::create(builder, mul.getLoc(), mul.getType(),
                                gate.getInput(), weight,
                                /*residual=*/Value(), /*silu_mul=*/true);
  mul.replaceAllUsesWith(fused.getResult());
  mul.erase();
  gate.erase();
  up.erase();
  // Gate and up are neither written nor read.
  return 4 * sizeof(float) * getColumns(fused.getType());
}

struct FuseGateUpPass
    : public llmir::llm::impl::FuseGateUpBase<FuseGateUpPass> {
  void runOnOperation() override {
    int64_t fused = 0, saved = 0;
    getOperation().walk([&](SiluMulOp mul) {
      int64_t bytes = fuse(mul);
      fused += bytes > 0;
      saved += bytes;
    });
    if (fused > 0)
      explain(getOperation(), "llm-fuse-gate-up",
              fmt::format("{} pairs of gate and up are one matrix each, "
                          "multiplied in its epilogue",
                          fused),
              fmt::format("{} fewer steps, {} less memory traffic per token",
                          2 * fused, formatBytes(saved)));
    eraseUnusedWeights(getOperation());
  }
};

} // namespace
