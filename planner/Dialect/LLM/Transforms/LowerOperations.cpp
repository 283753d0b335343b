//===- LowerOperations.cpp - Say what a step executes ---------------------===//

#include "planner/Dialect/LLM/Transforms/Passes.h"

#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace llmir::llm {
#define GEN_PASS_DEF_LOWEROPERATIONS
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

/// Logits: a linear, and a cap behind it.
LogicalResult lowerLogits(LogitsOp op, PatternRewriter &rewriter) {
  Value logits = LinearOp::create(rewriter, op.getLoc(), op.getType(),
                                  op.getInput(), op.getWeight(),
                                  /*residual=*/Value(), /*silu_mul=*/false);
  if (FloatAttr cap = op.getSoftcapAttr())
    logits = SoftcapOp::create(rewriter, op.getLoc(), logits, cap);
  rewriter.replaceOp(op, logits);
  return success();
}

/// A linear, where a kernel has the format of the matrix.
LogicalResult lowerQuantizedMatmul(QuantizedMatmulOp op,
                                   PatternRewriter &rewriter) {
  if (!isWeightType(op.getWeight().getType()))
    return rewriter.notifyMatchFailure(op, "no kernel has the matrix's format");
  rewriter.replaceOpWithNewOp<LinearOp>(op, op.getType(), op.getInput(),
                                        op.getWeight(), /*residual=*/Value(),
                                        /*silu_mul=*/false);
  return success();
}

/// Whether something between `first` and `last`, both in one block, may write
/// to layer `layer` of the cache.
bool isLayerWrittenBetween(Operation *first, Operation *last, uint64_t layer) {
  for (Operation *op = first->getNextNode(); op != last;
       op = op->getNextNode()) {
    if (auto cacheOp = dyn_cast<KVCacheOpInterface>(op)) {
      if (cacheOp.appends() && cacheOp.getLayer() == layer)
        return true;
    } else if (!isa<CommunicationOpInterface, CreatePagedCacheOp>(op) &&
               !isMemoryEffectFree(op)) {
      return true;
    }
  }
  return false;
}

/// Where the keys and values of `attention` lie in a cache, before it in its
/// block: what it can read them by.
struct CachedKeys {
  Value cache;
  Value indices;
  uint64_t layer = 0;
};

FailureOr<CachedKeys> findCachedKeys(AttentionOp attention) {
  auto accept = [&](Operation *op, Value cache, Value indices,
                    uint64_t layer) -> FailureOr<CachedKeys> {
    if (op->getBlock() != attention->getBlock() ||
        !op->isBeforeInBlock(attention) ||
        isLayerWrittenBetween(op, attention, layer) ||
        cast<PagedKVCacheType>(cache.getType()).getHeadDim() !=
            attention.getHeadSize())
      return failure();
    return CachedKeys{cache, indices, layer};
  };
  if (auto lookup = attention.getKeys().getDefiningOp<LookupKVOp>()) {
    if (attention.getKeys() == lookup.getKeys() &&
        attention.getValues() == lookup.getValues())
      return accept(lookup, lookup.getCache(), lookup.getIndices(),
                    lookup.getLayer());
    return failure();
  }
  for (Operation *user : attention.getKeys().getUsers())
    if (auto append = dyn_cast<AppendKVOp>(user);
        append && append.getKeys() == attention.getKeys() &&
        append.getValues() == attention.getValues())
      if (auto found = accept(append, append.getNewCache(), append.getIndices(),
                              append.getLayer());
          succeeded(found))
        return found;
  return failure();
}

/// Attention over what a cache has: reads it there.
LogicalResult lowerAttention(AttentionOp op, PatternRewriter &rewriter) {
  FailureOr<CachedKeys> cached = findCachedKeys(op);
  if (failed(cached))
    return rewriter.notifyMatchFailure(
        op, "its keys and values aren't those of a cache");
  rewriter.replaceOpWithNewOp<PagedAttentionOp>(op, op.getType(), op.getQuery(),
                                                cached->cache, cached->indices,
                                                cached->layer, AttentionAttr());
  return success();
}

struct LowerOperationsPass
    : public llmir::llm::impl::LowerOperationsBase<LowerOperationsPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add(lowerLogits);
    patterns.add(lowerQuantizedMatmul);
    patterns.add(lowerAttention);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};

} // namespace
