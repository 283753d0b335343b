//===- JoinWeights.cpp - Join the weights of linears of one input ---------===//

#include "planner/Dialect/LLM/Transforms/JoinWeights.h"

using namespace mlir;
using namespace llmir::llm;

WeightOp llmir::llm::joinWeights(OpBuilder &builder, ArrayRef<LinearOp> linears,
                                 StringRef name, bool interleaved) {
  LinearOp firstLinear = linears.front();
  auto first = firstLinear.getWeight().getDefiningOp<WeightOp>();
  SmallVector<Attribute> pieces;
  int64_t rows = 0;
  for (LinearOp linear : linears) {
    auto weight = linear.getWeight().getDefiningOp<WeightOp>();
    if (!first || !weight || linear.getInput() != firstLinear.getInput() ||
        linear.getResidual() || linear.getSiluMul() ||
        weight.getInterleaved() ||
        weight.getLayerAttr() != first.getLayerAttr() ||
        weight.getAxis() != first.getAxis() ||
        weight.getAxis() == Axis::Columns ||
        getNumShards(weight.getType()) != 1 ||
        getEncoding(weight.getType()) != getEncoding(first.getType()))
      return {};
    llvm::append_range(pieces, weight.getPieces());
    rows += getRows(weight.getType());
  }
  if (interleaved && (pieces.size() != 2 ||
                      getShape(cast<PieceAttr>(pieces[0]).getType()) !=
                          getShape(cast<PieceAttr>(pieces[1]).getType())))
    return {};
  StringRef prefix = first.getSymName();
  prefix = prefix.take_front(prefix.rfind('.') + 1);
  Type type = getWeightType(builder.getContext(), getEncoding(first.getType()),
                            {rows, getColumns(first.getType())});
  return WeightOp::create(builder, first.getLoc(), type,
                          builder.getStringAttr(prefix + name),
                          first.getLayerAttr(), builder.getArrayAttr(pieces),
                          interleaved ? builder.getUnitAttr() : UnitAttr());
}

void llmir::llm::eraseUnusedWeights(ModuleOp module) {
  module.walk([](WeightOp weight) {
    if (weight.use_empty())
      weight.erase();
  });
}
