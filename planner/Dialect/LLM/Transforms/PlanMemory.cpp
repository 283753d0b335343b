//===- PlanMemory.cpp - Place every activation in an arena ----------------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"
#include "planner/Target/Plan/PlanTypes.h"

#include "llvm/Support/MathExtras.h"

namespace llmir::llm {
#define GEN_PASS_DEF_PLANMEMORY
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;
using llmir::getActivationRowBytes;
using llmir::getSummedNodes;

namespace {

constexpr int64_t kAlignment = 64;

/// Rows in use from one step to another, both included.
struct Buffer {
  Type type; // of every value that lies here
  Rows rows;
  int64_t first;
  int64_t last;
  int64_t place; // into the places; views of one place have it in common
};

/// Memory for all rows of a type, per rank.
struct Place {
  Operation *maker; // of what lay here first
  SmallVector<int64_t> offsets;
  SmallVector<int64_t> bytes;
};

int64_t getStep(Operation *op) {
  auto step = op->getAttrOfType<IntegerAttr>("llm.step");
  return step ? step.getInt() : -1;
}

/// The last step that reads `value`; its own where none does. Rows that are
/// read through a view of a part are that part's.
int64_t getLastUse(Value value) {
  int64_t last = getStep(value.getDefiningOp());
  for (Operation *user : value.getUsers()) {
    if (auto join = dyn_cast<JoinRowsOp>(user))
      last = std::max(last, getLastUse(join.getResult()));
    else if (isa<AllReduceStartOp, BroadcastStartOp, SendStartOp,
                 GatherStartOp>(user) &&
             !user->use_empty()) // left alone until the wait
      last = std::max(last, getStep(*user->user_begin()));
    else if (!isa<RowsOp>(user))
      last = std::max(last, getStep(user));
  }
  return last;
}

/// Collectives that give another part of the rows than they take, where these
/// lie.
bool cutsRows(Operation *op) {
  return isa<ReduceScatterOp, ReduceScatterStartOp, AllGatherOp,
             AllGatherStartOp>(op);
}

bool isHalf(Rows rows) {
  return rows == Rows::FirstHalf || rows == Rows::SecondHalf;
}
Rows getOtherHalf(Rows half) {
  return half == Rows::FirstHalf ? Rows::SecondHalf : Rows::FirstHalf;
}
/// The same operation, with the same weight.
bool areTwins(Operation *a, Operation *b) {
  auto getWeight = [](Operation *op) {
    for (Value operand : op->getOperands())
      if (!isActivationType(operand.getType()))
        return operand;
    return Value();
  };
  return a->getName() == b->getName() && getWeight(a) == getWeight(b);
}

bool haveRowsInCommon(Rows a, Rows b) {
  return !isHalf(a) || !isHalf(b) || a == b;
}

/// Places the buffers of one program.
class MemoryPlan {
public:
  MemoryPlan(StageAttr stage, ProgramAttr program, int64_t scoreRows)
      : stage(stage), ranks(stage.getRanks()), program(program),
        scoreRows(scoreRows) {}

  LogicalResult plan(func::FuncOp function) {
    for (Operation &op : function.front()) {
      if (auto join = dyn_cast<JoinRowsOp>(op)) {
        if (failed(assignJoined(join)))
          return failure();
      } else if (isStep(&op) && failed(assign(&op))) {
        return failure();
      }
    }
    SmallVector<Range> ranges = getRanges();
    for (int64_t rank = 0; rank < ranks; ++rank)
      place(rank, ranges);
    for (Operation &op : function.front())
      annotate(&op);
    return success();
  }

  /// Of the rank that needs most: its arena, and all its places end to end.
  int64_t getArenaBytes() const {
    int64_t most = 0;
    for (const Place &place : places)
      for (auto [offset, bytes] : llvm::zip(place.offsets, place.bytes))
        most = std::max(most, offset + bytes);
    return most;
  }
  int64_t getBufferBytes() const {
    SmallVector<int64_t> sums(ranks, 0);
    for (const Place &place : places)
      for (auto [rank, bytes] : llvm::enumerate(place.bytes))
        sums[rank] += bytes;
    return *llvm::max_element(sums);
  }

private:
  Rows getRowsOf(Operation *op, unsigned result) {
    if (isa<GatherRowsOp, SampleOp>(op))
      return Rows::Sampled;
    if (isa<EmbeddingOp, RecvOp, RecvStartOp>(op))
      return Rows::Tokens;
    if (isa<ScoreOp>(op) && result == 1)
      return Rows::One;
    if (auto wait = dyn_cast<WaitOp>(op))
      op = wait.getToken().getDefiningOp();
    if (cutsRows(op))
      return isa<AllGatherOp, AllGatherStartOp>(op) ? Rows::Tokens
                                                    : Rows::Share;
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

  /// Whether nothing reads rows `rows` at the place of `buffer` after `step`;
  /// `buffer` itself isn't asked where `isOwn`.
  bool isDead(int64_t buffer, Rows rows, int64_t step, bool isOwn = false) {
    for (auto [index, other] : llvm::enumerate(buffers))
      if (other.place == buffers[buffer].place && other.last > step &&
          haveRowsInCommon(other.rows, rows) &&
          !(isOwn && static_cast<int64_t>(index) == buffer))
        return false;
    return true;
  }

  /// Whether `op` may write its result over `operand`.
  bool isFree(Operation *op, Value operand) {
    auto entry = bufferOf.find(operand);
    return entry != bufferOf.end() &&
           isDead(entry->second, buffers[entry->second].rows, getStep(op)) &&
           llvm::count(op->getOperands(), operand) <= 1;
  }

  /// A new buffer for `value`, at `place` or a new one, and for its parts.
  int64_t addBuffer(Value value, Rows rows, int64_t first, int64_t last,
                    std::optional<int64_t> place) {
    if (!place && isHalf(rows))
      place = findOtherHalf(value, rows, first);
    if (!place) {
      place = places.size();
      Place added = {value.getDefiningOp(), {}, {}};
      SmallVector<int64_t> nodes = getSummedNodes(value, stage);
      for (int64_t rank = 0; rank < ranks; ++rank)
        added.bytes.push_back(getMaxRows(rows) *
                              getActivationRowBytes(value.getType(), rank) *
                              (nodes.empty() ? 1 : nodes[rank]));
      added.offsets.assign(ranks, 0);
      places.push_back(std::move(added));
    }
    int64_t buffer = buffers.size();
    buffers.push_back(
        {value.getType(), rows, first, std::max(first, last), *place});
    setBuffer(value, buffer, first);
    return buffer;
  }

  /// `value` lies in `buffer` from step `first` on, and so do views of it.
  void setBuffer(Value value, int64_t buffer, int64_t first) {
    bufferOf[value] = buffer;
    buffers[buffer].last = std::max(buffers[buffer].last, getLastUse(value));
    for (Operation *user : value.getUsers())
      if (auto view = dyn_cast<RowsOp>(user))
        addBuffer(view.getResult(), view.getPart(), first,
                  getLastUse(view.getResult()), buffers[buffer].place);
  }

  /// A place in use that holds nothing but the other half of the same result,
  /// with which `value` takes no more memory than the whole.
  std::optional<int64_t> findOtherHalf(Value value, Rows half, int64_t step) {
    for (const Buffer &buffer : buffers) {
      if (buffer.type != value.getType() || buffer.rows != getOtherHalf(half) ||
          buffer.last < step ||
          !areTwins(places[buffer.place].maker, value.getDefiningOp()))
        continue;
      if (llvm::all_of(buffers, [&](const Buffer &other) {
            return other.place != buffer.place || other.rows == buffer.rows;
          }))
        return buffer.place;
    }
    return std::nullopt;
  }

  LogicalResult assignJoined(JoinRowsOp join) {
    int64_t first = bufferOf.lookup(join.getFirst());
    int64_t second = bufferOf.lookup(join.getSecond());
    int64_t place = buffers[first].place, moved = buffers[second].place;
    if (place != moved)
      for (const Buffer &a : buffers)
        for (const Buffer &b : buffers)
          if (a.place == place && b.place == moved &&
              (a.type != b.type || (haveRowsInCommon(a.rows, b.rows) &&
                                    a.first <= b.last && b.first <= a.last)))
            return join.emitError()
                   << "joins halves that can't lie in one buffer";
    for (Buffer &buffer : buffers)
      if (buffer.place == moved)
        buffer.place = place;
    // One of them may have been made for the nodes of a sum.
    for (auto [bytes, others] :
         llvm::zip(places[place].bytes, places[moved].bytes))
      bytes = std::max(bytes, others);
    int64_t step = std::max(buffers[first].first, buffers[second].first);
    for (Value half : join->getOperands())
      step = std::max(step, getStep(half.getDefiningOp()));
    addBuffer(join.getResult(), Rows::Tokens, step,
              getLastUse(join.getResult()), place);
    return success();
  }

  /// A start's result is in use from the start on, its input until the wait.
  LogicalResult assignCut(Operation *op) {
    Operation *end = isStart(op) ? *op->user_begin() : op;
    int64_t input = bufferOf.lookup(op->getOperand(0));
    bool gathers = isa<AllGatherOp, AllGatherStartOp>(op);
    if (!isDead(input, Rows::Tokens, getStep(op), /*isOwn=*/gathers))
      return op->emitError() << "rewrites rows that are read later";
    buffers[input].last = std::max(buffers[input].last, getStep(end));
    Value result = end->getResult(0);
    addBuffer(result, getRowsOf(op, 0), getStep(op), getLastUse(result),
              buffers[input].place);
    return success();
  }

  LogicalResult assign(Operation *op) {
    if (cutsRows(op))
      return assignCut(op);
    // What a start writes to a buffer of its own is in use from there on.
    if (isa<GatherStartOp, RecvStartOp>(op) && !op->use_empty()) {
      Value result = (*op->user_begin())->getResult(0);
      addBuffer(result, getRowsOf(op, 0), getStep(op), getLastUse(result),
                std::nullopt);
      return success();
    }
    for (auto [index, result] : llvm::enumerate(op->getResults())) {
      if (!isActivationType(result.getType()) || bufferOf.contains(result))
        continue;
      std::optional<int64_t> shared;
      auto inPlace = dyn_cast<InPlaceOpInterface>(op);
      if (index == 0 && inPlace)
        for (Value operand : inPlace.getInPlaceValues()) {
          if (isFree(op, operand)) {
            shared = bufferOf[operand];
            break;
          }
          if (inPlace.worksInPlace())
            return op->emitError()
                   << "rewrites its operand, which is read later";
        }
      if (shared)
        setBuffer(result, *shared, getStep(op));
      else
        addBuffer(result, getRowsOf(op, index), getStep(op), getLastUse(result),
                  std::nullopt);
    }
    return success();
  }

  /// Steps in which a place is in use.
  struct Range {
    int64_t place;
    int64_t first = std::numeric_limits<int64_t>::max();
    int64_t last = -1;
  };

  /// In the order of their first steps.
  SmallVector<Range> getRanges() {
    SmallVector<Range> ranges;
    for (int64_t index = 0, end = places.size(); index < end; ++index)
      ranges.push_back({index});
    for (const Buffer &buffer : buffers) {
      Range &range = ranges[buffer.place];
      range.first = std::min(range.first, buffer.first);
      range.last = std::max(range.last, buffer.last);
    }
    // What was joined to another place has no buffers of its own left.
    llvm::erase_if(ranges, [](const Range &range) { return range.last < 0; });
    llvm::stable_sort(ranges, [](const Range &a, const Range &b) {
      return a.first < b.first;
    });
    return ranges;
  }

  /// First fit.
  void place(int64_t rank, ArrayRef<Range> ranges) {
    for (auto [index, range] : llvm::enumerate(ranges)) {
      if (places[range.place].bytes[rank] == 0)
        continue;
      SmallVector<std::pair<int64_t, int64_t>> taken; // [begin, end)
      for (const Range &other : ranges.take_front(index)) {
        const Place &place = places[other.place];
        if (place.bytes[rank] > 0 && other.first <= range.last &&
            range.first <= other.last)
          taken.push_back(
              {place.offsets[rank], place.offsets[rank] + place.bytes[rank]});
      }
      llvm::sort(taken);
      int64_t offset = 0;
      for (auto [begin, end] : taken) {
        if (offset + places[range.place].bytes[rank] <= begin)
          break;
        offset = std::max<int64_t>(offset, llvm::alignTo(end, kAlignment));
      }
      places[range.place].offsets[rank] = offset;
    }
  }

  void annotate(Operation *op) {
    SmallVector<Attribute> list;
    for (Value result : op->getResults()) {
      auto entry = bufferOf.find(result);
      if (entry == bufferOf.end())
        continue;
      const Buffer &buffer = buffers[entry->second];
      const Place &place = places[buffer.place];
      list.push_back(BufferAttr::get(
          op->getContext(), entry->second, buffer.rows, getMaxRows(buffer.rows),
          /*arena=*/0, place.offsets, place.bytes, buffer.first, buffer.last));
    }
    if (!list.empty())
      op->setAttr("llm.buffers", ArrayAttr::get(op->getContext(), list));
  }

  StageAttr stage;
  int64_t ranks;
  ProgramAttr program;
  int64_t scoreRows;
  SmallVector<Buffer> buffers;
  SmallVector<Place> places;
  llvm::DenseMap<Value, int64_t> bufferOf;
};

struct PlanMemoryPass
    : public llmir::llm::impl::PlanMemoryBase<PlanMemoryPass> {
  using PlanMemoryBase::PlanMemoryBase;

  void runOnOperation() override {
    int64_t arena = 0, apart = 0;
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      auto stage = function->getAttrOfType<StageAttr>("llm.stage");
      auto program = function->getAttrOfType<ProgramAttr>("llm.program");
      if (!stage || !program)
        continue;
      MemoryPlan memory(stage, program, scoreRows);
      if (failed(memory.plan(function)))
        return signalPassFailure();
      arena = std::max(arena, memory.getArenaBytes());
      apart = std::max(apart, memory.getBufferBytes());
    }
    explain(
        getOperation(), "llm-plan-memory",
        fmt::format("activations of the largest rank and program take {}",
                    formatBytes(arena)),
        fmt::format("{} if no two buffers shared a place", formatBytes(apart)));
  }
};

} // namespace
