//===- LLMDialect.cpp - Registration and discardable attributes -----------===//

#include "planner/Dialect/LLM/IR/LLMDialect.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectImplementation.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace llmir::llm;

#include "planner/Dialect/LLM/IR/LLMDialect.cpp.inc"

namespace {

/// Types whose lists of ranks would fill lines are written once, with a name.
struct LLMAsmInterface : public OpAsmDialectInterface {
  using OpAsmDialectInterface::OpAsmDialectInterface;

  AliasResult getAlias(Type type, raw_ostream &os) const override {
    constexpr int64_t kManyShards = 8;
    auto sharded = dyn_cast<ShardedTensorType>(type);
    if (!sharded || sharded.getNumShards() <= kManyShards)
      return AliasResult::NoAlias;
    os << "sharded";
    return AliasResult::FinalAlias;
  }
};

} // namespace

void LLMDialect::initialize() {
  addInterfaces<LLMAsmInterface>();
  registerAttributes();
  registerTypes();
  addOperations<
#define GET_OP_LIST
#include "planner/Dialect/LLM/IR/LLMOps.cpp.inc"
      >();
}

/// Activation results of `op`: those that have a buffer.
static int64_t countActivationResults(Operation *op) {
  return llvm::count_if(op->getResultTypes(), isActivationType);
}

/// A list whose elements are dictionaries that pass `check`.
static bool isListOf(Attribute value,
                     llvm::function_ref<bool(DictionaryAttr)> check) {
  auto list = dyn_cast_or_null<ArrayAttr>(value);
  return list && llvm::all_of(list, [&](Attribute element) {
           auto dictionary = dyn_cast<DictionaryAttr>(element);
           return dictionary && check(dictionary);
         });
}

static bool isPrefix(DictionaryAttr prefix) {
  return prefix.getAs<StringAttr>("name") && prefix.getAs<FloatAttr>("share") &&
         prefix.getAs<DenseI32ArrayAttr>("ids");
}

static bool isBlockSize(DictionaryAttr size) {
  return size.getAs<IntegerAttr>("block_size") &&
         llvm::all_of(
             ArrayRef<StringRef>{"wasted_bytes", "attention_us", "cost"},
             [&](StringRef name) { return size.getAs<FloatAttr>(name); });
}

static bool isWorkload(Attribute value) {
  auto workload = dyn_cast<DictionaryAttr>(value);
  if (!workload)
    return false;
  auto batch = workload.getAs<IntegerAttr>("batch");
  auto prompts = workload.getAs<DenseI64ArrayAttr>("prompt");
  auto answers = workload.getAs<DenseI64ArrayAttr>("answer");
  auto texts = workload.getAs<ArrayAttr>("prompts");
  return batch && batch.getInt() > 0 && prompts && answers &&
         !prompts.empty() && prompts.size() == answers.size() &&
         isListOf(workload.get("prefixes"), isPrefix) && texts &&
         llvm::all_of(texts, llvm::IsaPred<DenseI32ArrayAttr>);
}

static bool isExplanation(Attribute value) {
  auto parts = dyn_cast<ArrayAttr>(value);
  return parts && parts.size() == 3 &&
         llvm::all_of(parts, llvm::IsaPred<StringAttr>);
}

LogicalResult LLMDialect::verifyOperationAttribute(Operation *op,
                                                   NamedAttribute attribute) {
  StringRef name = attribute.getName();
  Attribute value = attribute.getValue();
  auto require = [&](bool ok, StringRef expected) -> LogicalResult {
    if (ok)
      return success();
    return op->emitOpError() << "'" << name << "' must be " << expected;
  };
  if (name == "llm.model")
    return require(isa<ModuleOp>(op) && isa<ModelAttr>(value),
                   "a #llm.model on a module");
  if (name == "llm.stage")
    return require(isa<FunctionOpInterface>(op) && isa<StageAttr>(value),
                   "a #llm.stage on a function");
  if (name == "llm.program")
    return require(isa<FunctionOpInterface>(op) && isa<ProgramAttr>(value),
                   "a #llm.program on a function");
  if (name == "llm.step")
    return require(isa<IntegerAttr>(value), "an integer");
  if (name == "llm.event")
    return require((isStart(op) || isa<WaitOp>(op)) && isa<IntegerAttr>(value),
                   "an integer on a start or a wait");
  if (name == "llm.wire") {
    auto wire = dyn_cast<StringAttr>(value);
    return require(canLoseBits(op) && wire && wire.getValue() == "int8",
                   "\"int8\" on what passes on rows of f32, in rank order");
  }
  if (name == "llm.buffers") {
    auto buffers = dyn_cast<ArrayAttr>(value);
    return require(
        buffers && llvm::all_of(buffers, llvm::IsaPred<BufferAttr>) &&
            static_cast<int64_t>(buffers.size()) == countActivationResults(op),
        "a list with a #llm.buffer per activation result");
  }
  if (name == "llm.explanations") {
    auto all = dyn_cast<ArrayAttr>(value);
    return require(isa<ModuleOp>(op) && all && llvm::all_of(all, isExplanation),
                   "a list of [pass, text, gain] on a module");
  }
  if (name == "llm.workload")
    return require(isa<ModuleOp>(op) && isWorkload(value),
                   "a workload on a module: batch, prompt and answer lengths, "
                   "prefixes, prompts");
  if (name == "llm.block_sizes")
    return require(isa<ModuleOp>(op) && isListOf(value, isBlockSize),
                   "a list of block sizes and their costs on a module");
  if (name == "llm.prefixes")
    return require(isa<ModuleOp>(op) && isListOf(value, isPrefix),
                   "a list of name, ids and share on a module");
  if (name == "llm.kv_blocks")
    return require(isa<ModuleOp>(op) && isa<IntegerAttr>(value),
                   "an integer on a module");
  if (name == "llm.weight_types") {
    auto types = dyn_cast<DictionaryAttr>(value);
    return require(isa<ModuleOp>(op) && types &&
                       llvm::all_of(types,
                                    [](NamedAttribute type) {
                                      return isa<StringAttr>(type.getValue());
                                    }),
                   "a dictionary of encodings on a module");
  }
  return op->emitOpError() << "'" << name
                           << "' isn't an attribute of the llm dialect";
}
