//===- FuseQkv.cpp - Join q, k, v, and rope with append -------------------===//

#include "planner/Dialect/LLM/Transforms/JoinWeights.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_FUSEQKV
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

/// The operation of type `Op` that gives `value` to nobody else.
template <typename Op> Op getOnlyProducer(Value value) {
  auto op = value.getDefiningOp<Op>();
  return op && value.hasOneUse() ? op : Op();
}

/// Joins the projections of one attention where all of them match.
void fuse(PagedAttentionOp attention) {
  auto append = attention.getCache().getDefiningOp<AppendKVOp>();
  if (!append || attention.getIndices() != append.getIndices() ||
      attention.getLayer() != append.getLayer())
    return;
  auto queryRope = getOnlyProducer<RopeOp>(attention.getQuery());
  auto keyRope = getOnlyProducer<RopeOp>(append.getKeys());
  if (!queryRope || !keyRope ||
      queryRope.getPositions() != keyRope.getPositions())
    return;
  auto query = getOnlyProducer<LinearOp>(queryRope.getInput());
  auto key = getOnlyProducer<LinearOp>(keyRope.getInput());
  auto value = getOnlyProducer<LinearOp>(append.getValues());
  if (!query || !key || !value)
    return;

  OpBuilder builder(append);
  WeightOp weight = joinWeights(builder, {query, key, value}, "qkv",
                                /*interleaved=*/false);
  if (!weight)
    return;
  Type type =
      getActivationType(builder.getF32Type(), getRows(weight.getType()));
  auto qkv = LinearOp::create(builder, query.getLoc(), type, query.getInput(),
                              weight, /*residual=*/Value(), /*silu_mul=*/false);
  auto fused =
      RopeAppendOp::create(builder, append.getLoc(),
                           TypeRange{type, append.getNewCache().getType(),
                                     append.getIndices().getType()},
                           qkv, append.getCache(), keyRope.getPositions(),
                           append.getSequences(), append.getLayer());
  attention.getQueryMutable().assign(fused.getResult());
  append.getNewCache().replaceAllUsesWith(fused.getNewCache());
  append.getIndices().replaceAllUsesWith(fused.getIndices());
  for (Operation *op :
       {append.getOperation(), queryRope.getOperation(), keyRope.getOperation(),
        query.getOperation(), key.getOperation(), value.getOperation()})
    op->erase();
}

struct FuseQkvPass : public llmir::llm::impl::FuseQkvBase<FuseQkvPass> {
  void runOnOperation() override {
    getOperation().walk(fuse);
    eraseUnusedWeights(getOperation());
  }
};

} // namespace
