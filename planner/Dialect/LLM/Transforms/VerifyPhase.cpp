//===- VerifyPhase.cpp - Check what must hold after a phase ---------------===//

#include "planner/Dialect/LLM/Transforms/Passes.h"
#include "planner/Target/Plan/PlanTypes.h"

#include "llvm/ADT/StringSwitch.h"
#include "llvm/ADT/TypeSwitch.h"

namespace llmir::llm {
#define GEN_PASS_DEF_VERIFYPHASE
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

LogicalResult verifyPrecision(Operation *op) {
  Value input, weight;
  if (auto linear = dyn_cast<LinearOp>(op)) {
    input = linear.getInput();
    weight = linear.getWeight();
  } else if (auto score = dyn_cast<ScoreOp>(op)) {
    input = score.getInput();
    weight = score.getWeight();
  } else {
    return success();
  }
  if (isQuantized(weight.getType()) != isQuantized(input.getType()))
    return op->emitError() << "weight " << weight.getType()
                           << " can't read activations " << input.getType();
  return success();
}

LogicalResult verifyOperations(Operation *op) {
  if (isa<AttentionOp, LookupKVOp, QuantizedMatmulOp, LogitsOp>(op))
    return op->emitError()
           << "isn't lowered, and no step of a plan executes it";
  return success();
}

LogicalResult verifyFusion(Operation *op) {
  if (isa_and_nonnull<LLMDialect>(op->getDialect()) && isStep(op) &&
      !llmir::getStepKind(op))
    return op->emitError()
           << "is left after fusion, and no step of a plan executes it";
  auto create = dyn_cast<CreatePagedCacheOp>(op);
  if (!create)
    return success();
  PagedKVCacheType cache = create.getType();
  Type keys = cache.getStoredKeyType(), values = cache.getStoredValueType();
  if (keys != values)
    return op->emitError() << "stores keys as " << keys << " and values as "
                           << values << ": a plan has one type for both";
  if (keys.isF16())
    return op->emitError() << "stores keys and values as f16, which no kernel "
                           << "reads: expected f32, bf16, i8 or f8E4M3FN";
  return success();
}

/// Partial sums are summed once; nothing else is.
LogicalResult verifyReductions(Operation *op) {
  auto isPartial = [](Operation *producer) {
    return isa_and_nonnull<ShardableOpInterface>(producer) &&
           getDivision(producer) == Division::Partial;
  };
  if (isa<AllReduceOp>(op) && !isPartial(op->getOperand(0).getDefiningOp()))
    return op->emitError() << "sums what is already whole";
  if (std::optional<Unit> tree = getSumTree(op)) {
    auto linear = dyn_cast_or_null<LinearOp>(op->getOperand(0).getDefiningOp());
    auto weight =
        linear ? linear.getWeight().getDefiningOp<WeightOp>() : WeightOp();
    if (!weight || weight.getUnit() != *tree)
      return op->emitError() << "sums over the tree of " << stringifyUnit(*tree)
                             << " what isn't divided by it";
  }
  if (!isPartial(op))
    return success();
  for (Operation *user : op->getUsers())
    if (!isa<AllReduceOp>(user))
      return op->emitError() << "is a partial sum that is used without an "
                             << "all_reduce";
  if (!op->hasOneUse())
    return op->emitError() << "is a partial sum that needs one all_reduce";
  return success();
}

/// Each operation of a program reads the rows that it needs.
LogicalResult verifyRows(func::FuncOp program) {
  llvm::DenseMap<Value, Rows> rowsOf;
  for (Operation &op : program.front()) {
    SmallVector<Rows> read;
    for (Value operand : op.getOperands()) {
      if (isActivationType(operand.getType()))
        read.push_back(rowsOf.lookup(operand));
      else if (auto wait = dyn_cast<WaitOp>(op))
        if (Operation *start = wait.getToken().getDefiningOp();
            start && start->getNumOperands() == 1)
          read.push_back(rowsOf.lookup(start->getOperand(0)));
    }
    auto needs = [&](ArrayRef<Rows> expected) -> LogicalResult {
      for (auto [got, wanted] : llvm::zip(read, expected))
        if (got != wanted)
          return op.emitError()
                 << "reads rows '" << stringifyRows(got) << "', expected '"
                 << stringifyRows(wanted) << "'";
      return success();
    };
    Rows result = read.empty() ? Rows::Tokens : read.front();
    Operation *collective = &op;
    if (auto wait = dyn_cast<WaitOp>(op))
      if (Operation *start = wait.getToken().getDefiningOp())
        collective = start;
    LogicalResult checked =
        llvm::TypeSwitch<Operation *, LogicalResult>(collective)
            .Case([&](RowsOp view) {
              result = view.getPart();
              return needs({Rows::Tokens});
            })
            .Case([&](JoinRowsOp) {
              result = Rows::Tokens;
              return needs({Rows::FirstHalf, Rows::SecondHalf});
            })
            .Case<ReduceScatterOp, ReduceScatterStartOp>([&](Operation *) {
              result = Rows::Share;
              return needs({Rows::Tokens});
            })
            .Case<AllGatherOp, AllGatherStartOp>([&](Operation *) {
              result = Rows::Tokens;
              return needs({Rows::Share});
            })
            .Case<RopeAppendOp, PagedAttentionOp, ScoreOp, ScoreMergeOp, SendOp,
                  SendStartOp>(
                [&](Operation *) { return needs({Rows::Tokens}); })
            .Case([&](GatherRowsOp) {
              result = Rows::Sampled;
              return needs({Rows::Tokens});
            })
            .Case<AllReduceOp, AllReduceStartOp>(
                [&](Operation *) -> LogicalResult {
                  if (result == Rows::Share)
                    return needs({Rows::Tokens});
                  return success();
                })
            .Default([&](Operation *) {
              return needs(SmallVector<Rows>(read.size(), result));
            });
    if (failed(checked))
      return failure();
    for (Value value : op.getResults())
      rowsOf[value] = result;
  }
  return success();
}

LogicalResult verifyOrder(func::FuncOp program) {
  int64_t step = 0, event = 0;
  for (Operation &op : program.front()) {
    auto number = op.getAttrOfType<IntegerAttr>("llm.step");
    if (!isStep(&op)) {
      if (number)
        return op.emitError() << "isn't a step but has a number";
      continue;
    }
    if (!number || number.getInt() != step)
      return op.emitError() << "must be step " << step;
    ++step;
    if (isStart(&op)) {
      auto signal = op.getAttrOfType<IntegerAttr>("llm.event");
      if (!signal || signal.getInt() != event)
        return op.emitError() << "must signal event " << event;
      ++event;
    } else if (auto wait = dyn_cast<WaitOp>(op)) {
      if (!op.hasAttr("llm.event") ||
          op.getAttr("llm.event") !=
              wait.getToken().getDefiningOp()->getAttr("llm.event"))
        return op.emitError() << "must wait for its start's event";
    }
  }
  return success();
}

/// Two halves of the rows at one place, or all rows and a part of them.
bool areViews(BufferAttr a, BufferAttr b) {
  auto isPart = [](BufferAttr buffer) {
    return buffer.getRows() == Rows::FirstHalf ||
           buffer.getRows() == Rows::SecondHalf ||
           buffer.getRows() == Rows::Share;
  };
  bool isNested = (a.getRows() == Rows::Tokens && isPart(b)) ||
                  (b.getRows() == Rows::Tokens && isPart(a));
  bool areHalves =
      (a.getRows() == Rows::FirstHalf && b.getRows() == Rows::SecondHalf) ||
      (b.getRows() == Rows::FirstHalf && a.getRows() == Rows::SecondHalf);
  return (isNested || areHalves) && a.getOffsets() == b.getOffsets() &&
         a.getBytes() == b.getBytes();
}

/// Every activation has a place; buffers in use at one time lie apart, but for
/// views of one place.
LogicalResult verifyPlaces(func::FuncOp program) {
  SmallVector<std::pair<Operation *, BufferAttr>> places;
  int64_t ranks = program->getAttrOfType<StageAttr>("llm.stage").getRanks();
  for (Operation &op : program.front()) {
    if ((!isStep(&op) && !isView(&op)) ||
        llvm::none_of(op.getResultTypes(), isActivationType))
      continue;
    auto buffers = op.getAttrOfType<ArrayAttr>("llm.buffers");
    if (!buffers)
      return op.emitError() << "has no place for its results";
    for (Attribute attribute : buffers) {
      auto buffer = cast<BufferAttr>(attribute);
      auto step = op.getAttrOfType<IntegerAttr>("llm.step"); // no view has one
      if (static_cast<int64_t>(buffer.getOffsets().size()) != ranks ||
          (step && (step.getInt() < buffer.getFirst() ||
                    step.getInt() > buffer.getLast())))
        return op.emitError() << "has a place that isn't for " << ranks
                              << " ranks, or not for its step";
      places.push_back({&op, buffer});
    }
  }
  for (auto [index, place] : llvm::enumerate(places)) {
    BufferAttr a = place.second;
    for (auto &[other, b] : ArrayRef(places).take_front(index)) {
      if (a.getId() == b.getId()) {
        if (a != b)
          return place.first->emitError()
                 << "disagrees about buffer " << a.getId();
        continue;
      }
      if (a.getArena() != b.getArena() || a.getFirst() > b.getLast() ||
          b.getFirst() > a.getLast() || areViews(a, b))
        continue;
      for (int64_t rank = 0; rank < ranks; ++rank)
        if (a.getOffsets()[rank] < b.getOffsets()[rank] + b.getBytes()[rank] &&
            b.getOffsets()[rank] < a.getOffsets()[rank] + a.getBytes()[rank])
          return place.first->emitError()
                 << "overlaps buffer " << b.getId() << " on rank " << rank;
    }
  }
  return success();
}

struct VerifyPhasePass
    : public llmir::llm::impl::VerifyPhaseBase<VerifyPhasePass> {
  using VerifyPhaseBase::VerifyPhaseBase;

  void runOnOperation() override {
    LogicalResult result =
        llvm::StringSwitch<llvm::function_ref<LogicalResult()>>(phase)
            .Case("operations", [&] { return forEachOp(verifyOperations); })
            .Case("precision", [&] { return forEachOp(verifyPrecision); })
            .Case("fusion", [&] { return forEachOp(verifyFusion); })
            .Case("parallel", [&] { return verifyParallel(); })
            .Case("programs", [&] { return verifyPrograms(); })
            .Case("communication", [&] { return forEachProgram(verifyRows); })
            .Case("schedule", [&] { return forEachProgram(verifyOrder); })
            .Case("memory", [&] { return forEachProgram(verifyPlaces); })
            .Default([&]() -> LogicalResult {
              return getOperation().emitError()
                     << "unknown phase '" << phase << "'";
            })();
    if (failed(result))
      signalPassFailure();
  }

  LogicalResult
  forEachOp(llvm::function_ref<LogicalResult(Operation *)> check) {
    WalkResult result = getOperation().walk([&](Operation *op) {
      return failed(check(op)) ? WalkResult::interrupt()
                               : WalkResult::advance();
    });
    return failure(result.wasInterrupted());
  }

  LogicalResult
  forEachProgram(llvm::function_ref<LogicalResult(func::FuncOp)> check) {
    for (auto program : getOperation().getOps<func::FuncOp>())
      if (program->hasAttr("llm.program") && failed(check(program)))
        return failure();
    return success();
  }

  LogicalResult verifyParallel() {
    for (auto stage : getOperation().getOps<func::FuncOp>())
      if (!stage->hasAttr("llm.stage"))
        return stage.emitError() << "isn't a stage";
    return forEachOp(verifyReductions);
  }

  LogicalResult verifyPrograms() {
    llvm::DenseMap<int64_t, SmallVector<ProgramAttr>> programsOf;
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      auto stage = function->getAttrOfType<StageAttr>("llm.stage");
      auto program = function->getAttrOfType<ProgramAttr>("llm.program");
      if (!stage || !program)
        return function.emitError() << "isn't a program of a stage";
      programsOf[stage.getIndex()].push_back(program);
    }
    for (auto &[stage, programs] : programsOf)
      if (programs != programsOf.lookup(0))
        return getOperation().emitError()
               << "stages 0 and " << stage << " have different programs";
    return success();
  }
};

} // namespace
