//===- InsertQuantize.cpp - Quantize what quantized weights read ----------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

#include "llvm/ADT/MapVector.h"

namespace llmir::llm {
#define GEN_PASS_DEF_INSERTQUANTIZE
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

struct InsertQuantizePass
    : public llmir::llm::impl::InsertQuantizeBase<InsertQuantizePass> {
  void runOnOperation() override {
    // The operands to replace, by activation.
    llvm::MapVector<Value, SmallVector<OpOperand *>> readers;
    auto addReader = [&](OpOperand &input, Value weight) {
      if (isQuantized(weight.getType()) && !isQuantized(input.get().getType()))
        readers[input.get()].push_back(&input);
    };
    getOperation().walk(
        [&](LinearOp op) { addReader(op.getInputMutable(), op.getWeight()); });
    getOperation().walk(
        [&](ScoreOp op) { addReader(op.getInputMutable(), op.getWeight()); });

    int64_t matrices = 0;
    OpBuilder builder(&getContext());
    for (auto &[input, operands] : readers) {
      builder.setInsertionPointAfterValue(input);
      Type type = withColumnsOf(
          getInt8ActivationType(&getContext(), getShape(input.getType())[1]),
          input.getType());
      auto quantize = QuantizeOp::create(builder, input.getLoc(), type, input);
      for (OpOperand *operand : operands)
        operand->set(quantize);
      matrices += operands.size();
    }
    if (matrices > 0)
      explain(getOperation(), "llm-insert-quantize",
              fmt::format("{} activations become int8 for {} reads by matrices "
                          "of few bits",
                          readers.size(), matrices),
              fmt::format("int8 dot products; {} quantizations shared",
                          matrices - static_cast<int64_t>(readers.size())));
  }
};

} // namespace
