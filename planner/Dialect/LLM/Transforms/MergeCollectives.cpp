//===- MergeCollectives.cpp - One sum over the ranks in place of two ------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"
#include "planner/Target/Plan/PlanTypes.h"

#include <fmt/format.h>

namespace llmir::llm {
#define GEN_PASS_DEF_MERGECOLLECTIVES
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

/// The sum over the ranks that is `value` and that nobody else reads. Trees of
/// two sums aren't merged: what came of it would be the tree of neither.
AllReduceOp getOnlySum(Value value) {
  auto reduce = value.getDefiningOp<AllReduceOp>();
  return reduce && value.hasOneUse() && !reduce.getTree() ? reduce
                                                          : AllReduceOp();
}

struct MergeCollectivesPass
    : public llmir::llm::impl::MergeCollectivesBase<MergeCollectivesPass> {
  void runOnOperation() override {
    int64_t merged = 0;
    double bytes = 0;
    // In order, so that a merged sum can be merged with the next.
    getOperation().walk([&](AddOp add) {
      if (double saved = mergeBoth(add);
          saved > 0 || (saved = mergeChain(add)) > 0) {
        ++merged;
        bytes += saved;
      }
    });
    if (merged > 0)
      explain(getOperation(), "llm-merge-collectives",
              fmt::format("{} pairs of sums over the ranks became one sum each",
                          merged),
              fmt::format("{:.1f} kB less per token", bytes / 1e3));
  }

  /// add(all_reduce a, all_reduce b) -> all_reduce(add a, b).
  double mergeBoth(AddOp add) {
    AllReduceOp lhs = getOnlySum(add.getLhs());
    AllReduceOp rhs = getOnlySum(add.getRhs());
    if (!lhs || !rhs)
      return 0;
    OpBuilder builder(add);
    Value sum = sumOf(builder, add, lhs, rhs);
    add.replaceAllUsesWith(sum);
    add.erase();
    return erase(lhs, rhs);
  }

  /// add(add(x, all_reduce a), all_reduce b) -> add(x, all_reduce(add a, b)).
  double mergeChain(AddOp add) {
    for (bool isSwapped : {false, true}) {
      AllReduceOp second = getOnlySum(isSwapped ? add.getLhs() : add.getRhs());
      auto inner =
          (isSwapped ? add.getRhs() : add.getLhs()).getDefiningOp<AddOp>();
      if (!second || !inner || !inner->hasOneUse())
        continue;
      bool isFirst = !getOnlySum(inner.getRhs());
      AllReduceOp first = getOnlySum(isFirst ? inner.getLhs() : inner.getRhs());
      if (!first)
        continue;
      Value rest = isFirst ? inner.getRhs() : inner.getLhs();
      OpBuilder builder(add);
      Value sum = sumOf(builder, add, first, second);
      auto result =
          AddOp::create(builder, add.getLoc(), add.getType(), rest, sum);
      add.replaceAllUsesWith(result.getResult());
      add.erase();
      inner.erase();
      return erase(first, second);
    }
    return 0;
  }

  static Value sumOf(OpBuilder &builder, AddOp add, AllReduceOp a,
                     AllReduceOp b) {
    auto partial = AddOp::create(builder, add.getLoc(), add.getType(),
                                 a.getInput(), b.getInput());
    return AllReduceOp::create(builder, b.getLoc(), b.getType(), partial,
                               /*tree=*/LeafUnitAttr());
  }

  /// Bytes per token that no longer travel.
  static double erase(AllReduceOp a, AllReduceOp b) {
    double bytes = llmir::getActivationRowBytes(a.getType(), 0);
    a.erase();
    b.erase();
    return bytes;
  }
};

} // namespace
