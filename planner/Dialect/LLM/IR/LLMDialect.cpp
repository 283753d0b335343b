//===- LLMDialect.cpp - Registration and discardable attributes -----------===//

#include "planner/Dialect/LLM/IR/LLMDialect.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectImplementation.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace llmir::llm;

#include "planner/Dialect/LLM/IR/LLMDialect.cpp.inc"

void LLMDialect::initialize() {
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
  return op->emitOpError() << "'" << name
                           << "' isn't an attribute of the llm dialect";
}
