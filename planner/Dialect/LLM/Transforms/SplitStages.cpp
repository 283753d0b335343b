//===- SplitStages.cpp - Cut the model between layers ---------------------===//

#include "planner/Dialect/LLM/Transforms/Passes.h"

#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/StringSet.h"

namespace llmir::llm {
#define GEN_PASS_DEF_SPLITSTAGES
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

/// What one token costs: the bytes of weights that it reads.
struct ReadBytes {
  SmallVector<int64_t> layers;
  int64_t before = 0; // the embedding: one row
  int64_t after = 0;  // the output norm and the head
};

ReadBytes getReadBytes(func::FuncOp model, int64_t layers) {
  ReadBytes bytes;
  bytes.layers.assign(layers, 0);
  llvm::StringSet<> seen;
  model.walk([&](Operation *op) {
    for (Value operand : op->getOperands()) {
      auto weight = operand.getDefiningOp<WeightOp>();
      if (!weight)
        continue;
      if (isa<EmbeddingOp>(op)) {
        bytes.before +=
            getWeightBytes(weight.getType()) / getRows(weight.getType());
        continue;
      }
      if (!seen.insert(weight.getSymName()).second)
        continue;
      int64_t size = getWeightBytes(weight.getType());
      if (std::optional<int64_t> layer = weight.getLayer())
        bytes.layers[*layer] += size;
      else
        bytes.after += size;
    }
  });
  return bytes;
}

/// Boundaries [0, ..., layers] of stages of which the costliest costs least;
/// among those the ones with the least sum of squares, the most even.
SmallVector<int64_t> balance(const ReadBytes &bytes, int64_t stages) {
  int64_t layers = bytes.layers.size();
  SmallVector<double> sums = {0};
  for (int64_t size : bytes.layers)
    sums.push_back(sums.back() + size);
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
        cost += begin == 0 ? bytes.before : 0;
        cost += end == layers ? bytes.after : 0;
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
    SmallVector<int64_t> cuts =
        balance(getReadBytes(model, shape.getLayers()), stages);

    OpBuilder builder(&getContext());
    builder.setInsertionPoint(model);
    SmallVector<Stage> built(stages);
    for (int64_t i = 0; i < stages; ++i)
      built[i] = createStage(builder, model, shape, cuts, i);
    if (failed(distribute(model, cuts, built)))
      return signalPassFailure();
    model.erase();
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
