//===- ShardStages.cpp - Divide the weights of stages among ranks ---------===//

#include <algorithm>
#include <cmath>

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"
#include "planner/Target/Plan/PlanTypes.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/TypeSwitch.h"

namespace llmir::llm {
#define GEN_PASS_DEF_SHARDSTAGES
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

/// Boundaries of `ranks` contiguous ranges of `leaves` leaves; the first ones
/// are larger where they can't be equal.
SmallVector<int64_t> divide(int64_t leaves, int64_t ranks) {
  SmallVector<int64_t> boundaries = {0};
  for (int64_t rank = 0; rank < ranks; ++rank)
    boundaries.push_back(boundaries.back() + leaves / ranks +
                         (rank < leaves % ranks ? 1 : 0));
  return boundaries;
}

/// The same in proportion to `speeds`, at least one leaf each.
SmallVector<int64_t> divide(int64_t leaves, ArrayRef<double> speeds) {
  double all = 0;
  for (double speed : speeds)
    all += speed;
  int64_t ranks = speeds.size();
  SmallVector<int64_t> boundaries = {0};
  double sum = 0;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    sum += speeds[rank];
    int64_t end = std::llround(leaves * sum / all);
    // Room for one leaf on each rank after this one, and one here.
    end = std::min(end, leaves - (ranks - 1 - rank));
    boundaries.push_back(std::max(end, boundaries.back() + 1));
  }
  return boundaries;
}

/// KV heads [begin, end) per rank: those whose query heads it has any of.
SmallVector<int64_t> followHeads(ArrayRef<int64_t> queryHeads, int64_t group) {
  SmallVector<int64_t> ranges;
  for (auto [begin, end] :
       llvm::zip(queryHeads.drop_back(), queryHeads.drop_front())) {
    ranges.push_back(begin / group);
    ranges.push_back(llvm::divideCeil(end, group));
  }
  return ranges;
}

/// Rows or columns of a piece that `rank` takes; the last leaf may be short.
int64_t getPieceSize(PieceAttr piece, StageAttr stage, int64_t rank) {
  int64_t total = piece.getAxis() == Axis::Columns ? getColumns(piece.getType())
                                                   : getRows(piece.getType());
  auto [begin, end] = stage.getLeaves(piece.getUnit(), rank);
  return std::min(end * piece.getLeaf(), total) -
         std::min(begin * piece.getLeaf(), total);
}

/// Gives the values of one stage the types that they have on its ranks.
class StageSharder {
public:
  StageSharder(ModelAttr model, StageAttr stage, bool reproducible)
      : model(model), stage(stage), ranks(stage.getRanks()),
        reproducible(reproducible) {}

  LogicalResult shard(func::FuncOp function) {
    for (Operation &op : llvm::make_early_inc_range(function.front()))
      if (failed(shard(&op)))
        return failure();
    Operation *terminator = function.front().getTerminator();
    function.setFunctionType(FunctionType::get(function.getContext(),
                                               function.getArgumentTypes(),
                                               terminator->getOperandTypes()));
    return success();
  }

private:
  Type perRank(Type whole, llvm::function_ref<int64_t(int64_t)> columns) {
    SmallVector<int64_t> list;
    for (int64_t rank = 0; rank < ranks; ++rank)
      list.push_back(columns(rank));
    return shardColumns(whole, list);
  }

  /// The type of a result that only the stage's first rank has.
  Type onFirstRank(Type whole) {
    int64_t columns = getShape(whole)[1];
    return perRank(whole,
                   [&](int64_t rank) { return rank == 0 ? columns : 0; });
  }

  void reduce(OpBuilder &builder, Operation *partial) {
    builder.setInsertionPointAfter(partial);
    Value result = partial->getResult(0);
    LeafUnitAttr tree;
    if (auto linear = dyn_cast<LinearOp>(partial); linear && reproducible)
      tree = LeafUnitAttr::get(
          linear.getContext(),
          linear.getWeight().getDefiningOp<WeightOp>().getUnit());
    auto sum = AllReduceOp::create(builder, partial->getLoc(), result.getType(),
                                   result, tree);
    result.replaceAllUsesExcept(sum.getResult(), sum);
  }

  /// The columns of `value` from all ranks, on the first.
  Value gather(OpBuilder &builder, Operation *user, Value value) {
    builder.setInsertionPoint(user);
    int64_t all = 0;
    for (int64_t rank = 0; rank < ranks; ++rank)
      all += getColumns(value.getType(), rank);
    Type whole = getActivationType(builder.getF32Type(), all);
    return GatherOp::create(builder, user->getLoc(), onFirstRank(whole), value);
  }

  LogicalResult shard(Operation *op) {
    if (auto weight = dyn_cast<WeightOp>(op))
      return shardWeight(weight);
    if (op->hasTrait<OpTrait::IsTerminator>())
      return success();
    OpBuilder builder(op);
    switch (getDivision(op)) {
    case Division::Whole:
      return success();
    case Division::Rows:
    case Division::Impossible:
      return op->emitError() << "can't be divided among ranks";
    case Division::Columns:
      cast<ShardableOpInterface>(op).divideResults(model, stage);
      return success();
    case Division::Partial:
      reduce(builder, op);
      return success();
    case Division::Gathered:
      for (OpOperand &operand : op->getOpOperands())
        if (getNumShards(operand.get().getType()) > 1)
          operand.set(gather(builder, op, operand.get()));
      for (OpResult result : op->getResults())
        result.setType(onFirstRank(getWholeType(result.getType())));
      return success();
    }
    llvm_unreachable("unknown division");
  }

  LogicalResult shardWeight(WeightOp weight) {
    if (weight.getAxis() == Axis::None)
      return success();
    SmallVector<int64_t> offsets = {0};
    for (int64_t rank = 0; rank < ranks; ++rank) {
      int64_t size = 0;
      for (PieceAttr piece : weight.getPieceList())
        size += getPieceSize(piece, stage, rank);
      offsets.push_back(offsets.back() + size);
    }
    weight.getResult().setType(
        ShardedTensorType::get(weight.getContext(), weight.getType(),
                               weight.getAxis() == Axis::Rows ? 0 : 1, ranks,
                               ShapedType::kDynamic, offsets));
    return success();
  }

  ModelAttr model;
  StageAttr stage;
  int64_t ranks;
  bool reproducible; // sums over ranks are those of one rank, bit for bit
};

/// Scores in parts that are the same however many ranks there are.
void scoreByLeaf(func::FuncOp function, ModelAttr model) {
  function.walk([&](ScoreOp score) {
    score.setByLeaf(true);
    score.getParts().setType(getDividedFloats(
        score.getContext(), {3 * model.getLeafCount(Unit::Vocabulary)}));
  });
}

struct ShardStagesPass
    : public llmir::llm::impl::ShardStagesBase<ShardStagesPass> {
  using ShardStagesBase::ShardStagesBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto model = module->getAttrOfType<ModelAttr>("llm.model");
    SmallVector<func::FuncOp> stages;
    for (auto function : module.getOps<func::FuncOp>())
      if (function->hasAttr("llm.stage"))
        stages.push_back(function);
    if (!model || stages.empty() ||
        (ranks.size() != 1 && ranks.size() != stages.size())) {
      module.emitError() << "needs an 'llm.model', and one number of ranks for "
                         << "all stages or one per stage; got " << ranks.size()
                         << " for " << stages.size() << " stages";
      return signalPassFailure();
    }
    int64_t firstRank = 0, allRanks = 0;
    for (size_t index = 0; index < stages.size(); ++index)
      allRanks += ranks.size() == 1 ? ranks[0] : ranks[index];
    bool positive = llvm::all_of(speeds, [](double s) { return s > 0; });
    if (!speeds.empty() &&
        (static_cast<int64_t>(speeds.size()) != allRanks || !positive)) {
      module.emitError() << speeds.size() << " speeds for " << allRanks
                         << " ranks: expected one above 0 for each";
      return signalPassFailure();
    }
    SmallVector<double> rankSpeeds(speeds.begin(), speeds.end());
    SmallVector<std::string> cuts;
    for (auto [index, function] : llvm::enumerate(stages)) {
      int64_t count = ranks.size() == 1 ? ranks[0] : ranks[index];
      for (Unit unit : {Unit::QueryHead, Unit::MlpColumn, Unit::Vocabulary})
        if (count < 1 || count > model.getLeafCount(unit)) {
          function.emitError()
              << count << " ranks for " << model.getLeafCount(unit)
              << " leaves of " << stringifyUnit(unit);
          return signalPassFailure();
        }
      auto whole = function->getAttrOfType<StageAttr>("llm.stage");
      auto divideUnit = [&](Unit unit) {
        int64_t leaves = model.getLeafCount(unit);
        if (speeds.empty())
          return divide(leaves, count);
        return divide(leaves, ArrayRef(rankSpeeds).slice(firstRank, count));
      };
      SmallVector<int64_t> heads = divideUnit(Unit::QueryHead);
      auto stage = StageAttr::get(
          &getContext(), whole.getIndex(), firstRank, whole.getLayers(), heads,
          followHeads(heads, model.getHeadsPerKv()),
          divideUnit(Unit::MlpColumn), divideUnit(Unit::Vocabulary));
      function->setAttr("llm.stage", stage);
      firstRank += count;
      if (reproducible)
        scoreByLeaf(function, model);
      // The rank with most leaves holds up the others that are as fast.
      auto getMost = [&](Unit unit) {
        int64_t most = 0;
        for (int64_t rank = 0; rank < count; ++rank) {
          auto [begin, end] = stage.getLeaves(unit, rank);
          most = std::max(most, end - begin);
        }
        return most;
      };
      if (count > 1)
        cuts.push_back(fmt::format(
            "stage {} over {} ranks, at most {} of {} query heads, {} of {} "
            "MLP leaves on one{}",
            whole.getIndex(), count, getMost(Unit::QueryHead),
            model.getLeafCount(Unit::QueryHead), getMost(Unit::MlpColumn),
            model.getLeafCount(Unit::MlpColumn),
            speeds.empty() ? "" : ", in proportion to the ranks' speeds"));
      if (count > 1 &&
          failed(StageSharder(model, stage, reproducible).shard(function)))
        return signalPassFailure();
    }
    if (!cuts.empty())
      explain(module, "llm-shard-stages", llvm::join(cuts, "; "),
              "each rank reads its part of the weights; see the stages' "
              "efficiency");
    if (reproducible)
      explainSums(module, stages, model);
  }

  /// What the one order of sums costs: of each row that is summed, ranks
  /// exchange as many as they have nodes.
  static void explainSums(ModuleOp module, ArrayRef<func::FuncOp> stages,
                          ModelAttr model) {
    int64_t sums = 0;
    double rows = 0;
    for (func::FuncOp function : stages)
      function.walk([&](AllReduceOp reduce) {
        auto stage = function->getAttrOfType<StageAttr>("llm.stage");
        SmallVector<int64_t> nodes =
            llmir::getSummedNodes(reduce.getInput(), stage);
        if (nodes.empty())
          return;
        ++sums;
        rows += *llvm::max_element(nodes) - 1;
      });
    explain(module, "--reproducible",
            fmt::format("{} sums over ranks are made in the order of one tree "
                        "over all leaves; {:.1f} kB more per token from the "
                        "rank with most nodes",
                        sums, rows * model.getHidden() * sizeof(float) / 1e3),
            "no bit of a result depends on batch, chunks, cached prefixes, tp "
            "or pp");
  }
};

} // namespace
