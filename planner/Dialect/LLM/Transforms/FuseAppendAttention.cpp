//===- FuseAppendAttention.cpp - Append and attend in one pass ------------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_FUSEAPPENDATTENTION
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

/// Whether nothing between the two can see, or change, what is appended.
bool areAdjacent(RopeAppendOp append, PagedAttentionOp attention) {
  if (append->getBlock() != attention->getBlock() ||
      !append->isBeforeInBlock(attention))
    return false;
  for (Operation *op = append->getNextNode(); op != attention;
       op = op->getNextNode())
    if (!isMemoryEffectFree(op))
      return false;
  return true;
}

bool fuse(RopeAppendOp append) {
  if (!append.getResult().hasOneUse() || !append.getIndices().hasOneUse())
    return false;
  auto attention = dyn_cast<PagedAttentionOp>(*append.getResult().user_begin());
  if (!attention || attention.getQuery() != append.getResult() ||
      attention.getCache() != append.getNewCache() ||
      attention.getIndices() != append.getIndices() ||
      attention.getLayer() != append.getLayer() ||
      !areAdjacent(append, attention))
    return false;
  AttentionAttr choice = attention.getAttentionAttr();
  if (choice && choice.getForm() != AttentionForm::Flash)
    return false;

  OpBuilder builder(attention);
  auto fused = AppendAttentionOp::create(
      builder, attention.getLoc(),
      TypeRange{attention.getType(), append.getNewCache().getType()},
      append.getQkv(), append.getCache(), append.getPositions(),
      append.getSequences(), append.getLayer(), choice);
  attention.replaceAllUsesWith(fused.getResult());
  attention.erase();
  append.getNewCache().replaceAllUsesWith(fused.getNewCache());
  append.erase();
  return true;
}

struct FuseAppendAttentionPass
    : public llmir::llm::impl::FuseAppendAttentionBase<
          FuseAppendAttentionPass> {
  void runOnOperation() override {
    int64_t fused = 0, values = 0;
    for (auto program : getOperation().getOps<func::FuncOp>()) {
      auto kind = program->getAttrOfType<ProgramAttr>("llm.program");
      if (!kind || kind.getKind() != ProgramKind::Decode)
        continue;
      SmallVector<RopeAppendOp> appends(program.getOps<RopeAppendOp>());
      for (RopeAppendOp append : appends) {
        PagedKVCacheType cache = append.getCache().getType();
        if (!fuse(append))
          continue;
        ++fused;
        values += 2 * cache.getNumHeads() * cache.getHeadDim();
      }
    }
    if (fused > 0)
      explain(getOperation(), getArgument(),
              "Decode appends and attends in one pass in " + Twine(fused) +
                  " layers",
              "one barrier less per layer; " + Twine(values) +
                  " values per token not read back from the cache");
  }
};

} // namespace
