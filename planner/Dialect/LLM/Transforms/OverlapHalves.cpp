//===- OverlapHalves.cpp - One half's work beside the other's sums --------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"
#include "planner/Target/Plan/PlanTypes.h"

#include "mlir/IR/IRMapping.h"

#include <fmt/format.h>

namespace llmir::llm {
#define GEN_PASS_DEF_OVERLAPHALVES
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

constexpr std::array<Rows, 2> kHalves = {Rows::FirstHalf, Rows::SecondHalf};

/// Whether each row of the result depends on that row of the operands alone.
bool isRowWise(Operation *op) {
  return isa<AllReduceOp, LinearOp, AddOp, RMSNormOp, QuantizeOp>(op);
}

/// Rewrites a block so that what lies around its sums is done by halves.
class Splitter {
public:
  void run(Block &block) {
    for (Operation &op : llvm::make_early_inc_range(block)) {
      if (isSplit(&op)) {
        pending.push_back(&op);
        for (Value result : op.getResults())
          split.insert(result);
        continue;
      }
      if (isa<WeightOp>(op))
        continue;
      flush(&op);
      for (OpOperand &operand : op.getOpOperands())
        if (split.contains(operand.get()))
          operand.set(getWhole(&op, operand.get()));
    }
    for (Operation *op : llvm::reverse(replaced))
      op->erase();
  }

  int64_t getSums() const { return sums; }
  double getSummedBytes() const { return summedBytes; }
  double getWeightBytes() const { return weightBytes; }

private:
  /// Halves begin at a sum or after attention, and last until something needs
  /// all rows at once.
  bool isSplit(Operation *op) {
    if (!isRowWise(op))
      return false;
    return isa<AllReduceOp>(op) ||
           llvm::any_of(op->getOperands(), [&](Value operand) {
             return split.contains(operand) ||
                    operand.getDefiningOp<PagedAttentionOp>();
           });
  }

  /// Emits the pending operations before `next`: up to and with a sum for the
  /// first half, the same for the second, and so on, so that between the start
  /// of a sum and its first use lies the other half's work.
  void flush(Operation *next) {
    OpBuilder builder(next);
    ArrayRef<Operation *> rest = pending;
    while (!rest.empty()) {
      size_t end = 0;
      while (end < rest.size() && !isa<AllReduceOp>(rest[end]))
        ++end;
      ArrayRef<Operation *> segment =
          rest.take_front(std::min(end + 1, rest.size()));
      for (size_t half : {0, 1})
        for (Operation *op : segment)
          emit(builder, op, half);
      rest = rest.drop_front(segment.size());
    }
    replaced.append(pending.begin(), pending.end());
    pending.clear();
  }

  void emit(OpBuilder &builder, Operation *op, size_t half) {
    IRMapping mapping;
    for (Value operand : op->getOperands())
      if (isActivationType(operand.getType()))
        mapping.map(operand, getHalf(builder, operand, half));
    halves[op->getResult(0)][half] = builder.clone(*op, mapping)->getResult(0);
    if (half == 0)
      return;
    if (isa<AllReduceOp>(op)) {
      ++sums;
      summedBytes +=
          llmir::getActivationRowBytes(op->getResult(0).getType(), 0);
    } else if (auto linear = dyn_cast<LinearOp>(op)) {
      weightBytes += llmir::llm::getWeightBytes(linear.getWeight().getType());
    }
  }

  Value getHalf(OpBuilder &builder, Value value, size_t half) {
    Value &result = halves[value][half];
    if (!result)
      result = RowsOp::create(builder, value.getLoc(), value.getType(), value,
                              kHalves[half]);
    return result;
  }

  Value getWhole(Operation *user, Value value) {
    Value &whole = wholes[value];
    if (!whole) {
      OpBuilder builder(user);
      auto [first, second] = halves.lookup(value);
      whole = JoinRowsOp::create(builder, value.getLoc(), value.getType(),
                                 first, second);
    }
    return whole;
  }

  llvm::DenseSet<Value> split; // results that are there by halves
  SmallVector<Operation *> pending, replaced;
  llvm::DenseMap<Value, std::array<Value, 2>> halves;
  llvm::DenseMap<Value, Value> wholes;
  int64_t sums = 0;
  double summedBytes = 0, weightBytes = 0; // per token; once
};

struct OverlapHalvesPass
    : public llmir::llm::impl::OverlapHalvesBase<OverlapHalvesPass> {
  using OverlapHalvesBase::OverlapHalvesBase;

  void runOnOperation() override {
    int64_t programs = 0, sums = 0;
    double summedBytes = 0, weightBytes = 0;
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      auto program = function->getAttrOfType<ProgramAttr>("llm.program");
      if (!program || program.getKind() == ProgramKind::Decode ||
          program.getMaxTokens() < minTokens ||
          function.getOps<AllReduceOp>().empty())
        continue;
      Splitter splitter;
      splitter.run(function.front());
      ++programs;
      sums += splitter.getSums();
      summedBytes = std::max(summedBytes, splitter.getSummedBytes());
      weightBytes = std::max(weightBytes, splitter.getWeightBytes());
    }
    if (programs > 0)
      explain(getOperation(), "llm-overlap-halves",
              fmt::format("{} sums of {} programs of many tokens go by halves "
                          "of the tokens; a step reads {:.2f} MB of weights "
                          "once more",
                          sums, programs, weightBytes / 1e6),
              fmt::format("{:.1f} kB per token are summed beside the other "
                          "half's work",
                          summedBytes / 1e3));
  }
};

} // namespace
