//===- SplitStages.cpp - Cut the model between layers ---------------------===//

#include "plan_schema/cost/calibration.h"
#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"
#include "planner/Target/Plan/PlanTypes.h"

#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/StringSet.h"

namespace llmir::llm {
#define GEN_PASS_DEF_SPLITSTAGES
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;
using llmir::getLinearKernel;
using llmir::plan::Calibration;

namespace {

/// What one token costs, in microseconds where they were measured, else in
/// bytes: those that it reads, and operations in those of their time.
struct Costs {
  SmallVector<double> layers;
  double before = 0; // the embedding: one row
  double after = 0;  // the output norm and the head
};

/// Of one row through `weight`.
double getCost(Type weight, double flopsPerByte,
               const std::optional<Calibration> &measured) {
  double bytes = getWeightBytes(weight);
  double rows = getRows(weight), columns = getColumns(weight);
  bool isMatrix = getShape(weight).size() == 2;
  if (measured) {
    std::optional<double> us;
    if (isMatrix)
      us = measured->all().LinearUs(
          getLinearKernel(weight, /*bf16Activations=*/false), rows, columns, 1);
    return us.value_or(measured->all().MemoryUs(bytes));
  }
  return bytes + (isMatrix ? 2 * rows * columns / flopsPerByte : 0);
}

Costs getCosts(func::FuncOp model, int64_t layers, double flopsPerByte,
               const std::optional<Calibration> &measured) {
  Costs costs;
  costs.layers.assign(layers, 0);
  llvm::StringSet<> seen;
  model.walk([&](Operation *op) {
    for (Value operand : op->getOperands()) {
      auto weight = operand.getDefiningOp<WeightOp>();
      if (!weight)
        continue;
      Type type = weight.getType();
      if (isa<EmbeddingOp>(op)) {
        double bytes = getWeightBytes(type) / getRows(type);
        costs.before += measured ? measured->all().MemoryUs(bytes) : bytes;
        continue;
      }
      if (!seen.insert(weight.getSymName()).second)
        continue;
      double cost = getCost(type, flopsPerByte, measured);
      if (std::optional<int64_t> layer = weight.getLayer())
        costs.layers[*layer] += cost;
      else
        costs.after += cost;
    }
  });
  return costs;
}

/// Boundaries [0, ..., layers] of stages of which the costliest per rank costs
/// least (`speeds`: of each stage; empty: alike);
/// among those the ones with the least sum of squares, the most even.
SmallVector<int64_t> balance(const Costs &costs, int64_t stages,
                             ArrayRef<double> speeds) {
  int64_t layers = costs.layers.size();
  SmallVector<double> sums = {0};
  for (double cost : costs.layers)
    sums.push_back(sums.back() + cost);
  // Costs and best predecessors for the first `end` layers in `stage` stages.
  using Cost = std::pair<double, double>;
  constexpr double kNever = std::numeric_limits<double>::infinity();
  SmallVector<Cost> best(layers + 1, {kNever, kNever});
  best[0] = {0, 0};
  SmallVector<SmallVector<int64_t>> cuts;
  for (int64_t stage = 0; stage < stages; ++stage) {
    SmallVector<Cost> next(layers + 1, {kNever, kNever});
    SmallVector<int64_t> cut(layers + 1, 0);
    for (int64_t end = stage + 1; end <= layers; ++end)
      for (int64_t begin = stage; begin < end; ++begin) {
        double cost = sums[end] - sums[begin];
        cost += begin == 0 ? costs.before : 0;
        cost += end == layers ? costs.after : 0;
        if (!speeds.empty())
          cost /= speeds[stage];
        Cost candidate = {std::max(best[begin].first, cost),
                          best[begin].second + cost * cost};
        if (candidate < next[end]) {
          next[end] = candidate;
          cut[end] = begin;
        }
      }
    best = std::move(next);
    cuts.push_back(std::move(cut));
  }
  SmallVector<int64_t> boundaries(stages + 1, layers);
  for (int64_t stage = stages; stage-- > 0;)
    boundaries[stage] = cuts[stage][boundaries[stage + 1]];
  return boundaries;
}

/// One stage being built from the operations of the model.
struct Stage {
  func::FuncOp function;
  IRMapping mapping;
  Value cache;
  Value received; // the model's value that comes from the stage before
};

struct SplitStagesPass
    : public llmir::llm::impl::SplitStagesBase<SplitStagesPass> {
  using SplitStagesBase::SplitStagesBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto shape = module->getAttrOfType<ModelAttr>("llm.model");
    auto model = module.lookupSymbol<func::FuncOp>("model");
    if (!shape || !model || !model.getBody().hasOneBlock()) {
      module.emitError() << "needs an 'llm.model' and a function @model of one "
                         << "block";
      return signalPassFailure();
    }
    if (stages < 1 || stages > shape.getLayers()) {
      module.emitError() << int64_t(stages) << " stages of a model with "
                         << shape.getLayers() << " layers: expected 1 to "
                         << shape.getLayers();
      return signalPassFailure();
    }
    if (ranks.size() > 1 && static_cast<int64_t>(ranks.size()) != stages) {
      module.emitError() << ranks.size() << " numbers of ranks for "
                         << int64_t(stages) << " stages";
      return signalPassFailure();
    }
    std::optional<Calibration> measured;
    if (!calibration.empty()) {
      llmir::StatusOr<Calibration> read = Calibration::Read(calibration);
      if (!read.ok()) {
        module.emitError() << read.status().message();
        return signalPassFailure();
      }
      measured = std::move(read).value();
    }
    Costs costs = getCosts(model, shape.getLayers(), flopsPerByte, measured);
    SmallVector<double> stageSpeeds = getStageSpeeds();
    SmallVector<int64_t> cuts = balance(costs, stages, stageSpeeds);
    if (stages > 1)
      explainCuts(costs, cuts, stageSpeeds, measured.has_value());

    OpBuilder builder(&getContext());
    builder.setInsertionPoint(model);
    SmallVector<Stage> built(stages);
    for (int64_t i = 0; i < stages; ++i)
      built[i] = createStage(builder, model, shape, cuts, i);
    if (failed(distribute(model, cuts, built)))
      return signalPassFailure();
    model.erase();
  }

  /// Of each stage the sum of its ranks'; empty: all stages are alike. In units
  /// of a rank on average.
  SmallVector<double> getStageSpeeds() {
    SmallVector<double> result;
    if (ranks.size() <= 1 && speeds.empty())
      return result;
    double all = 0;
    for (double speed : speeds)
      all += speed;
    size_t rank = 0;
    for (int64_t stage = 0; stage < stages; ++stage) {
      int64_t count = ranks.empty()       ? 1
                      : ranks.size() == 1 ? ranks[0]
                                          : ranks[stage];
      double sum = 0;
      for (int64_t i = 0; i < count; ++i, ++rank)
        sum += rank < speeds.size() ? speeds[rank] * speeds.size() / all : 1;
      result.push_back(sum);
    }
    return result;
  }

  void explainCuts(const Costs &costs, ArrayRef<int64_t> cuts,
                   ArrayRef<double> stageSpeeds, bool areTimes) {
    std::string layers;
    double slowest = 0, all = costs.before + costs.after;
    for (int64_t i = 0; i < stages; ++i) {
      double cost = i == 0 ? costs.before : 0;
      cost += i + 1 == stages ? costs.after : 0;
      for (int64_t layer = cuts[i]; layer < cuts[i + 1]; ++layer) {
        cost += costs.layers[layer];
        all += costs.layers[layer];
      }
      if (!stageSpeeds.empty())
        cost /= stageSpeeds[i];
      slowest = std::max(slowest, cost);
      layers += fmt::format("{}{}", i > 0 ? ", " : "", cuts[i + 1] - cuts[i]);
    }
    auto format = [&](double cost) {
      return areTimes ? fmt::format("{:.0f} us", cost) : formatBytes(cost);
    };
    explain(getOperation(), "llm-split-stages",
            fmt::format("{} stages of {} layers; the slowest costs {} of {} "
                        "per token",
                        int64_t(stages), layers, format(slowest), format(all)),
            fmt::format("up to {:.2f} times the tokens of one stage, with all "
                        "stages at work",
                        all / slowest));
  }

  Stage createStage(OpBuilder &builder, func::FuncOp model, ModelAttr shape,
                    ArrayRef<int64_t> cuts, int64_t index) {
    bool isLast = index + 1 == static_cast<int64_t>(cuts.size()) - 1;
    FunctionType type = model.getFunctionType();
    Stage stage;
    stage.function = func::FuncOp::create(
        builder, model.getLoc(), ("stage" + Twine(index)).str(),
        builder.getFunctionType(type.getInputs(),
                                isLast ? type.getResults() : TypeRange()));
    // One rank has all leaves until llm-shard-stages divides them.
    auto all = [&](Unit unit) -> SmallVector<int64_t> {
      return {0, shape.getLeafCount(unit)};
    };
    stage.function->setAttr(
        "llm.stage",
        StageAttr::get(&getContext(), index, /*first_rank=*/index,
                       {cuts[index], cuts[index + 1]}, all(Unit::QueryHead),
                       all(Unit::KvHead), all(Unit::MlpColumn),
                       all(Unit::Vocabulary)));
    stage.function.addEntryBlock();
    stage.mapping.map(model.getArguments(), stage.function.getArguments());
    return stage;
  }

  /// Copies each operation of the model to its stage.
  LogicalResult distribute(func::FuncOp model, ArrayRef<int64_t> cuts,
                           MutableArrayRef<Stage> built) {
    llvm::DenseMap<Operation *, int64_t> stageOf;
    for (Operation &op : model.front()) {
      if (isa<WeightOp, CreatePagedCacheOp>(op))
        continue; // copied to each stage that refers to them
      int64_t index =
          op.hasTrait<OpTrait::IsTerminator>() ? cuts.size() - 2 : 0;
      for (Value operand : op.getOperands())
        if (Operation *producer = operand.getDefiningOp())
          index = std::max(index, getStage(producer, cuts, stageOf));
      if (auto cacheOp = dyn_cast<KVCacheOpInterface>(op))
        index = std::max(index, getStageOfLayer(cacheOp.getLayer(), cuts));
      stageOf[&op] = index;
      if (failed(copy(&op, cuts, index, built, stageOf)))
        return failure();
    }
    for (auto [index, stage] : llvm::enumerate(built)) {
      if (index + 1 == built.size())
        break;
      OpBuilder builder = OpBuilder::atBlockEnd(&stage.function.front());
      Value sent = built[index + 1].received;
      if (!sent)
        return model.emitError() << "stage " << index + 1
                                 << " reads nothing from stage " << index;
      SendOp::create(builder, model.getLoc(), stage.mapping.lookup(sent));
      func::ReturnOp::create(builder, model.getLoc());
    }
    return success();
  }

  static int64_t getStageOfLayer(int64_t layer, ArrayRef<int64_t> cuts) {
    return llvm::upper_bound(cuts, layer) - cuts.begin() - 1;
  }

  static int64_t getStage(Operation *producer, ArrayRef<int64_t> cuts,
                          const llvm::DenseMap<Operation *, int64_t> &stageOf) {
    if (auto weight = dyn_cast<WeightOp>(producer))
      return weight.getLayer() ? getStageOfLayer(*weight.getLayer(), cuts) : 0;
    return stageOf.lookup(producer);
  }

  LogicalResult copy(Operation *op, ArrayRef<int64_t> cuts, int64_t index,
                     MutableArrayRef<Stage> built,
                     const llvm::DenseMap<Operation *, int64_t> &stageOf) {
    Stage &stage = built[index];
    OpBuilder builder = OpBuilder::atBlockEnd(&stage.function.front());
    for (Value operand : op->getOperands()) {
      if (stage.mapping.contains(operand))
        continue;
      if (auto cache = dyn_cast<PagedKVCacheType>(operand.getType())) {
        if (!stage.cache) {
          auto type = cache.withLayers(cuts[index + 1] - cuts[index]);
          stage.cache = CreatePagedCacheOp::create(builder, op->getLoc(), type);
        }
        stage.mapping.map(operand, stage.cache);
      } else if (auto weight = operand.getDefiningOp<WeightOp>()) {
        builder.clone(*weight, stage.mapping);
      } else {
        if (index == 0 ||
            stageOf.lookup(operand.getDefiningOp()) != index - 1 ||
            stage.received)
          return op->emitError()
                 << "reads a second value from an earlier stage: stages can "
                 << "only be cut where one value crosses";
        stage.received = operand;
        OpBuilder atStart = OpBuilder::atBlockBegin(&stage.function.front());
        stage.mapping.map(
            operand, RecvOp::create(atStart, op->getLoc(), operand.getType())
                         .getResult());
      }
    }
    Operation *copied = builder.clone(*op, stage.mapping);
    // The cache counts the layers of its stage, and so do those who use it.
    if (auto cacheOp = dyn_cast<KVCacheOpInterface>(copied)) {
      cacheOp.setLayer(cacheOp.getLayer() - cuts[index]);
      if (cacheOp.appends())
        cacheOp.getNewCache().setType(cacheOp.getCache().getType());
    }
    return success();
  }
};

} // namespace
