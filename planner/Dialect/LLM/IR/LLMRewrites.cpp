//===- LLMRewrites.cpp - Folding and canonicalization ---------------------===//

#include "planner/Dialect/LLM/IR/LLMDialect.h"

#include "mlir/IR/IRMapping.h"
#include "mlir/IR/PatternMatch.h"

using namespace mlir;
using namespace llmir::llm;

//===----------------------------------------------------------------------===//
// Fewer rows
//===----------------------------------------------------------------------===//

/// The operands of `op` that have a row per row of its result; none where its
/// rows aren't computed each by itself.
static SmallVector<OpOperand *> getRowOperands(Operation *op) {
  auto shardable = dyn_cast<ShardableOpInterface>(op);
  if (!shardable || op->getNumResults() != 1 || !isMemoryEffectFree(op))
    return {};
  SmallVector<OpOperand *> operands;
  for (OpOperand &operand : op->getOpOperands()) {
    if (!isActivationType(operand.get().getType()))
      continue;
    if (isQuantized(operand.get().getType()) ||
        shardable.getDivision(operand, /*dim=*/0) != Division::Rows)
      return {};
    operands.push_back(&operand);
  }
  return operands;
}

/// Rows of what is computed row by row: computes only those.
LogicalResult GatherRowsOp::canonicalize(GatherRowsOp op,
                                         PatternRewriter &rewriter) {
  Operation *producer = op.getInput().getDefiningOp();
  if (!producer || !producer->hasOneUse() ||
      producer->getBlock() != op->getBlock())
    return failure();
  SmallVector<OpOperand *> operands = getRowOperands(producer);
  if (operands.empty())
    return failure();
  IRMapping mapping;
  for (OpOperand *operand : operands)
    if (!mapping.contains(operand->get()))
      mapping.map(operand->get(),
                  GatherRowsOp::create(rewriter, op.getLoc(), operand->get(),
                                       op.getRows())
                      .getResult());
  Operation *gathered = rewriter.clone(*producer, mapping);
  rewriter.replaceOp(op, gathered);
  rewriter.eraseOp(producer);
  return success();
}

//===----------------------------------------------------------------------===//
// Parts of the rows
//===----------------------------------------------------------------------===//

OpFoldResult RowsOp::fold(FoldAdaptor) {
  if (auto inner = getInput().getDefiningOp<RowsOp>();
      inner && inner.getPart() == getPart())
    return inner.getResult();
  auto join = getInput().getDefiningOp<JoinRowsOp>();
  if (join && getPart() == Rows::FirstHalf)
    return join.getFirst();
  if (join && getPart() == Rows::SecondHalf)
    return join.getSecond();
  return {};
}

OpFoldResult JoinRowsOp::fold(FoldAdaptor) {
  auto first = getFirst().getDefiningOp<RowsOp>();
  auto second = getSecond().getDefiningOp<RowsOp>();
  if (first && second && first.getPart() == Rows::FirstHalf &&
      second.getPart() == Rows::SecondHalf &&
      first.getInput() == second.getInput())
    return first.getInput();
  return {};
}

//===----------------------------------------------------------------------===//
// Others
//===----------------------------------------------------------------------===//

/// Shares that are gathered as soon as they are summed: sums on every rank.
LogicalResult AllGatherOp::canonicalize(AllGatherOp op,
                                        PatternRewriter &rewriter) {
  auto reduce = op.getInput().getDefiningOp<ReduceScatterOp>();
  if (!reduce || !reduce->hasOneUse())
    return failure();
  rewriter.replaceOpWithNewOp<AllReduceOp>(
      op, reduce.getType(), reduce.getInput(), reduce.getTreeAttr());
  rewriter.eraseOp(reduce);
  return success();
}

/// One name for silu(gate) * up, which fuses with the linears before it.
LogicalResult ActivationOp::canonicalize(ActivationOp op,
                                         PatternRewriter &rewriter) {
  if (op.getKind() != ActivationKind::Silu || !op.getUp())
    return failure();
  rewriter.replaceOpWithNewOp<SiluMulOp>(op, op.getGate(), op.getUp());
  return success();
}
