//===- ScatterNorms.cpp - Norms on a rank's share of the tokens -----------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"
#include "planner/Target/Plan/PlanTypes.h"

#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/SetVector.h"

#include <fmt/format.h>

namespace llmir::llm {
#define GEN_PASS_DEF_SCATTERNORMS
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

/// What each row's result depends on is that row alone, and it costs little:
/// what a rank can do for its share of the rows.
bool isRowWise(Operation *op) { return isa<AddOp, RMSNormOp, QuantizeOp>(op); }

/// Sums that can be scattered, and what follows on a share of the rows.
struct Scattered {
  llvm::SetVector<Value> sums;     // results of all_reduce
  llvm::SetVector<Value> shares;   // results of row-wise operations on them
  llvm::SetVector<Value> gathered; // of both, those that others read whole

  bool contains(Value value) const {
    return sums.contains(value) || shares.contains(value);
  }
};

Scattered analyze(Block &block) {
  Scattered scattered;
  for (Operation &op : block) {
    if (isa<AllReduceOp>(op)) {
      scattered.sums.insert(op.getResult(0));
      continue;
    }
    bool reads = llvm::any_of(op.getOperands(), [&](Value operand) {
      return scattered.contains(operand);
    });
    if (!reads)
      continue;
    if (isRowWise(&op)) {
      scattered.shares.insert(op.getResult(0));
      continue;
    }
    for (Value operand : op.getOperands())
      if (scattered.contains(operand))
        scattered.gathered.insert(operand);
  }
  return scattered;
}

/// What one token costs a rank before and after, in bytes that it sends and in
/// bytes that sums and norms move, and how many collectives there are.
struct Costs {
  double sent = 0, moved = 0;
  int64_t collectives = 0;
};

double getRowBytes(Value value) {
  return llmir::getActivationRowBytes(value.getType(), 0);
}

std::pair<Costs, Costs> getCosts(const Scattered &scattered, int64_t ranks) {
  Costs before, after;
  // Of a row that is cut among the ranks, what goes to the others.
  double others = 1 - 1.0 / ranks;
  for (Value sum : scattered.sums) {
    // Two ranks exchange whole summands; more exchange parts, then sums.
    before.sent += (ranks == 2 ? 1 : 2 * others) * getRowBytes(sum);
    after.sent += others * getRowBytes(sum);
    ++before.collectives;
    ++after.collectives;
  }
  for (Value gathered : scattered.gathered) {
    after.sent += others * getRowBytes(gathered);
    ++after.collectives;
  }
  for (Value share : scattered.shares) {
    Operation *op = share.getDefiningOp();
    double bytes = getRowBytes(share);
    for (Value operand : op->getOperands())
      if (isActivationType(operand.getType()))
        bytes += getRowBytes(operand);
    before.moved += bytes;
    after.moved += bytes / ranks;
  }
  return {before, after};
}

class Scatterer {
public:
  explicit Scatterer(const Scattered &scattered) : scattered(scattered) {}

  void run(Block &block) {
    SmallVector<Operation *> replaced;
    for (Operation &op : llvm::make_early_inc_range(block)) {
      OpBuilder builder(&op);
      if (auto reduce = dyn_cast<AllReduceOp>(op)) {
        shares[reduce.getResult()] =
            ReduceScatterOp::create(builder, reduce.getLoc(), reduce.getType(),
                                    reduce.getInput(), reduce.getTreeAttr());
        replaced.push_back(&op);
      } else if (op.getNumResults() == 1 &&
                 scattered.shares.contains(op.getResult(0))) {
        IRMapping mapping;
        for (Value operand : op.getOperands())
          if (isActivationType(operand.getType()))
            mapping.map(operand, getShare(builder, operand));
        shares[op.getResult(0)] = builder.clone(op, mapping)->getResult(0);
        replaced.push_back(&op);
      } else {
        for (OpOperand &operand : op.getOpOperands())
          if (scattered.contains(operand.get()))
            operand.set(getWhole(builder, operand.get()));
      }
    }
    for (Operation *op : llvm::reverse(replaced))
      op->erase();
  }

private:
  Value getShare(OpBuilder &builder, Value value) {
    Value &share = shares[value];
    if (!share)
      share = RowsOp::create(builder, value.getLoc(), value.getType(), value,
                             Rows::Share);
    return share;
  }

  Value getWhole(OpBuilder &builder, Value value) {
    Value &whole = wholes[value];
    if (!whole)
      whole = AllGatherOp::create(builder, value.getLoc(), value.getType(),
                                  shares.lookup(value));
    return whole;
  }

  const Scattered &scattered;
  llvm::DenseMap<Value, Value> shares; // of what had all rows
  llvm::DenseMap<Value, Value> wholes;
};

struct ScatterNormsPass
    : public llmir::llm::impl::ScatterNormsBase<ScatterNormsPass> {
  using ScatterNormsBase::ScatterNormsBase;

  void runOnOperation() override {
    int64_t done = 0;
    double sentBefore = 0, sentAfter = 0;
    std::string refused;
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      auto stage = function->getAttrOfType<StageAttr>("llm.stage");
      auto program = function->getAttrOfType<ProgramAttr>("llm.program");
      if (!stage || !program || stage.getRanks() == 1 ||
          program.getKind() == ProgramKind::Decode)
        continue;
      Scattered scattered = analyze(function.front());
      // What is gathered as it is summed is an all_reduce in two parts.
      if (scattered.shares.empty())
        continue;
      auto [before, after] = getCosts(scattered, stage.getRanks());
      double tokens = program.getMaxTokens();
      double saved =
          (before.sent - after.sent + before.moved - after.moved) * tokens;
      double added =
          static_cast<double>(after.collectives - before.collectives) *
          collectiveBytes;
      if (!always && saved <= added) {
        refused = fmt::format(
            "@{}: {} more collectives cost more than the {:.0f} bytes saved in "
            "a step of {:.0f} tokens",
            function.getSymName().str(), after.collectives - before.collectives,
            saved, tokens);
        continue;
      }
      Scatterer(scattered).run(function.front());
      ++done;
      sentBefore = std::max(sentBefore, before.sent);
      sentAfter = std::max(sentAfter, after.sent);
    }
    if (done > 0)
      explain(getOperation(), "llm-scatter-norms",
              fmt::format("in {} programs of many tokens each rank adds and "
                          "normalizes its share of the tokens",
                          done),
              fmt::format("a rank sends {:.1f} kB per token, before {:.1f} kB",
                          sentAfter / 1e3, sentBefore / 1e3));
    else if (!refused.empty())
      explain(getOperation(), "llm-scatter-norms",
              "nothing scattered: " + refused);
  }
};

} // namespace
