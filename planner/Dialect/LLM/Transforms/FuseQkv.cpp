//===- FuseQkv.cpp - Join q, k, v, and rope with append -------------------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/JoinWeights.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"
#include "planner/Target/Plan/PlanTypes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_FUSEQKV
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;
using llmir::getActivationRowBytes;

namespace {

/// The operation of type `Op` that gives `value` to nobody else.
template <typename Op> Op getOnlyProducer(Value value) {
  auto op = value.getDefiningOp<Op>();
  return op && value.hasOneUse() ? op : Op();
}

/// Joins the projections of one attention where all of them match.
/// Bytes per token that are no longer read; 0: not joined.
int64_t fuse(PagedAttentionOp attention) {
  auto append = attention.getCache().getDefiningOp<AppendKVOp>();
  if (!append || attention.getIndices() != append.getIndices() ||
      attention.getLayer() != append.getLayer())
    return 0;
  auto queryRope = getOnlyProducer<RopeOp>(attention.getQuery());
  auto keyRope = getOnlyProducer<RopeOp>(append.getKeys());
  if (!queryRope || !keyRope ||
      queryRope.getPositions() != keyRope.getPositions())
    return 0;
  auto query = getOnlyProducer<LinearOp>(queryRope.getInput());
  auto key = getOnlyProducer<LinearOp>(keyRope.getInput());
  auto value = getOnlyProducer<LinearOp>(append.getValues());
  if (!query || !key || !value)
    return 0;

  OpBuilder builder(append);
  WeightOp weight = joinWeights(builder, {query, key, value}, "qkv",
                                /*interleaved=*/false);
  if (!weight)
    return 0;
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
  // The input is read once, not three times.
  Type input = qkv.getInput().getType();
  return 2 * getActivationRowBytes(input, /*rank=*/0);
}

struct FuseQkvPass : public llmir::llm::impl::FuseQkvBase<FuseQkvPass> {
  void runOnOperation() override {
    int64_t joined = 0, saved = 0;
    getOperation().walk([&](PagedAttentionOp attention) {
      int64_t bytes = fuse(attention);
      joined += bytes > 0;
      saved += bytes;
    });
    if (joined > 0)
      explain(getOperation(), "llm-fuse-qkv",
              fmt::format("{} layers: queries, keys and values come from one "
                          "matrix; rotation and append are one step",
                          joined),
              fmt::format("{} fewer steps, {} less memory traffic per token",
                          4 * joined, formatBytes(saved)));
    eraseUnusedWeights(getOperation());
  }
};

} // namespace
