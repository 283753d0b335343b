//===- PlanMemory.cpp - Place every activation in an arena ----------------===//

#include "planner/Dialect/LLM/Transforms/Passes.h"
#include "planner/Target/Plan/PlanTypes.h"

#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"

namespace llmir::llm {
#define GEN_PASS_DEF_PLANMEMORY
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;
using llmir::getActivationRowBytes;

namespace {

constexpr int64_t kAlignment = 64;

struct Buffer {
  Type type; // of every value that lies here
  Rows rows;
  int64_t first;
  int64_t last;
  SmallVector<int64_t> offsets; // per rank
  SmallVector<int64_t> bytes;
};

/// The operand whose place the first result takes, and whether it must.
struct InPlace {
  Value operand;
  bool isRequired;
};

SmallVector<InPlace, 2> getInPlaceOperands(Operation *op) {
  return llvm::TypeSwitch<Operation *, SmallVector<InPlace, 2>>(op)
      .Case([](RopeAppendOp append) -> SmallVector<InPlace, 2> {
        return {{append.getQkv(), true}};
      })
      .Case<AllReduceOp, ReduceScatterOp, AllGatherOp, BroadcastOp>(
          [](auto collective) -> SmallVector<InPlace, 2> {
            return {{collective.getInput(), true}};
          })
      .Case([](WaitOp wait) -> SmallVector<InPlace, 2> {
        Operation *start = wait.getToken().getDefiningOp();
        if (isa<GatherStartOp, SendStartOp, RecvStartOp>(start))
          return {};
        return {{start->getOperand(0), true}};
      })
      .Case([](LinearOp linear) -> SmallVector<InPlace, 2> {
        if (!linear.getResidual())
          return {};
        return {{linear.getResidual(), false}};
      })
      .Case([](AddOp add) -> SmallVector<InPlace, 2> {
        return {{add.getLhs(), false}, {add.getRhs(), false}};
      })
      .Default([](Operation *) { return SmallVector<InPlace, 2>(); });
}

int64_t getStep(Operation *op) {
  auto step = op->getAttrOfType<IntegerAttr>("llm.step");
  return step ? step.getInt() : -1;
}

/// The last step that reads `value`; its own where none does.
int64_t getLastUse(Value value) {
  int64_t last = getStep(value.getDefiningOp());
  for (Operation *user : value.getUsers())
    last = std::max(last, getStep(user));
  return last;
}

/// Places the buffers of one program.
class MemoryPlan {
public:
  MemoryPlan(StageAttr stage, ProgramAttr program, int64_t scoreRows)
      : ranks(stage.getRanks()), program(program), scoreRows(scoreRows) {}

  LogicalResult plan(func::FuncOp function) {
    for (Operation &op : function.front())
      if (isStep(&op) && failed(assign(&op)))
        return failure();
    for (int64_t rank = 0; rank < ranks; ++rank)
      place(rank);
    for (Operation &op : function.front())
      annotate(&op);
    return success();
  }

private:
  Rows getRowsOf(Operation *op, unsigned result) {
    if (isa<GatherRowsOp, SampleOp>(op))
      return Rows::Sampled;
    if (isa<EmbeddingOp, RecvOp>(op))
      return Rows::Tokens;
    if (isa<ScoreOp>(op) && result == 1)
      return Rows::One;
    if (auto wait = dyn_cast<WaitOp>(op))
      op = wait.getToken().getDefiningOp();
    return buffers[bufferOf.lookup(op->getOperand(0))].rows;
  }

  int64_t getMaxRows(Rows rows) {
    switch (rows) {
    case Rows::Tokens:
    case Rows::FirstHalf: // as for all tokens: parts lie where they lay
    case Rows::SecondHalf:
    case Rows::Share:
      return program.getMaxTokens();
    case Rows::Sampled:
      return program.getMaxSampled();
    case Rows::One:
      return scoreRows;
    }
    llvm_unreachable("unknown rows");
  }

  /// Whether `op` may write its result over `operand`.
  bool isFree(Operation *op, Value operand) {
    auto entry = bufferOf.find(operand);
    return entry != bufferOf.end() &&
           buffers[entry->second].last <= getStep(op) &&
           llvm::count(op->getOperands(), operand) <= 1;
  }

  LogicalResult assign(Operation *op) {
    for (auto [index, result] : llvm::enumerate(op->getResults())) {
      if (!isActivationType(result.getType()))
        continue;
      Rows rows = getRowsOf(op, index);
      std::optional<int64_t> shared;
      if (index == 0)
        for (auto [operand, isRequired] : getInPlaceOperands(op)) {
          if (shared)
            break;
          if (isFree(op, operand))
            shared = bufferOf[operand];
          else if (isRequired)
            return op->emitError()
                   << "rewrites its operand, which is read later";
        }
      if (!shared) {
        shared = buffers.size();
        buffers.push_back({result.getType(), rows, getStep(op), getStep(op),
                           SmallVector<int64_t>(ranks, 0),
                           SmallVector<int64_t>(ranks, 0)});
      }
      Buffer &buffer = buffers[*shared];
      buffer.last = std::max(buffer.last, getLastUse(result));
      bufferOf[result] = *shared;
    }
    return success();
  }

  /// First fit, in the order of the buffers' first steps.
  void place(int64_t rank) {
    for (auto [index, buffer] : llvm::enumerate(buffers)) {
      buffer.bytes[rank] =
          getMaxRows(buffer.rows) * getActivationRowBytes(buffer.type, rank);
      if (buffer.bytes[rank] == 0)
        continue;
      SmallVector<std::pair<int64_t, int64_t>> taken; // [begin, end)
      for (const Buffer &other : ArrayRef(buffers).take_front(index))
        if (other.bytes[rank] > 0 && other.first <= buffer.last &&
            buffer.first <= other.last)
          taken.push_back(
              {other.offsets[rank], other.offsets[rank] + other.bytes[rank]});
      llvm::sort(taken);
      int64_t offset = 0;
      for (auto [begin, end] : taken) {
        if (offset + buffer.bytes[rank] <= begin)
          break;
        offset = std::max<int64_t>(offset, llvm::alignTo(end, kAlignment));
      }
      buffer.offsets[rank] = offset;
    }
  }

  void annotate(Operation *op) {
    SmallVector<Attribute> list;
    for (Value result : op->getResults()) {
      auto entry = bufferOf.find(result);
      if (entry == bufferOf.end())
        continue;
      const Buffer &buffer = buffers[entry->second];
      list.push_back(BufferAttr::get(op->getContext(), entry->second,
                                     buffer.rows, getMaxRows(buffer.rows),
                                     /*arena=*/0, buffer.offsets, buffer.bytes,
                                     buffer.first, buffer.last));
    }
    if (!list.empty())
      op->setAttr("llm.buffers", ArrayAttr::get(op->getContext(), list));
  }

  int64_t ranks;
  ProgramAttr program;
  int64_t scoreRows;
  SmallVector<Buffer> buffers;
  llvm::DenseMap<Value, int64_t> bufferOf;
};

struct PlanMemoryPass
    : public llmir::llm::impl::PlanMemoryBase<PlanMemoryPass> {
  using PlanMemoryBase::PlanMemoryBase;

  void runOnOperation() override {
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      auto stage = function->getAttrOfType<StageAttr>("llm.stage");
      auto program = function->getAttrOfType<ProgramAttr>("llm.program");
      if (!stage || !program)
        continue;
      if (failed(MemoryPlan(stage, program, scoreRows).plan(function)))
        return signalPassFailure();
    }
  }
};

} // namespace
