//===- LLMDialect.h - The llm dialect ---------------------------*- C++ -*-===//
//
// The dialect's classes, and the few questions about types that verifiers,
// passes and the export all ask. Pure functions; thread-safe as MLIR is.
//
//===----------------------------------------------------------------------===//

#ifndef LLMIR_DIALECT_LLM_IR_LLMDIALECT_H
#define LLMIR_DIALECT_LLM_IR_LLMDIALECT_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "planner/Dialect/LLM/IR/LLMDialect.h.inc"
#include "planner/Dialect/LLM/IR/LLMEnums.h.inc"

#define GET_ATTRDEF_CLASSES
#include "planner/Dialect/LLM/IR/LLMAttrs.h.inc"

#define GET_TYPEDEF_CLASSES
#include "planner/Dialect/LLM/IR/LLMTypes.h.inc"

namespace llmir::llm {

/// Values per scale of int8 activations.
inline constexpr int64_t kQuantGroup = 32;

struct KVCacheResource
    : public mlir::SideEffects::Resource::Base<KVCacheResource> {
  mlir::StringRef getName() final { return "KVCache"; }
};
struct NetworkResource
    : public mlir::SideEffects::Resource::Base<NetworkResource> {
  mlir::StringRef getName() final { return "Network"; }
};

//===----------------------------------------------------------------------===//
// Questions about types. A "tensor" is a builtin ranked tensor, a quantized
// tensor, or a shard of either; a vector has one row.
//===----------------------------------------------------------------------===//

/// The type without its sharding.
mlir::Type getWholeType(mlir::Type type);
/// The shape of the whole tensor; empty for other types.
mlir::ArrayRef<int64_t> getShape(mlir::Type type);
bool isQuantized(mlir::Type type);
/// Shards of a tensor; 1 where it isn't sharded.
int64_t getNumShards(mlir::Type type);
/// The divided dimension, or -1.
int64_t getShardDim(mlir::Type type);
/// Rows and columns that shard `rank` of the tensor has.
int64_t getRows(mlir::Type type, int64_t rank = 0);
int64_t getColumns(mlir::Type type, int64_t rank = 0);
/// [tokens, columns] of f32, i32 or int8 with scales.
bool isActivationType(mlir::Type type);
bool isIdMatrix(mlir::Type type);
/// Static shape, f32, f16, bf16 or a block format.
bool isWeightType(mlir::Type type);
/// Bytes of a weight as packed, without padding; all shards together.
int64_t getWeightBytes(mlir::Type type);
/// As in kernels::FormatOf: "bf16", "q4_1", "q5_1_64"; empty for other types.
mlir::StringRef getEncoding(mlir::Type weight);
/// A weight of `shape` in one of these encodings; a q encoding needs a multiple
/// of its group's columns.
mlir::Type getWeightType(mlir::MLIRContext *context, mlir::StringRef encoding,
                         mlir::ArrayRef<int64_t> shape);

/// A matrix [?, columns] of `element`.
mlir::Type getActivationType(mlir::Type element, int64_t columns);
/// The same in int8 with an f32 scale per group: what q weights read.
mlir::Type getInt8ActivationType(mlir::MLIRContext *context, int64_t columns);
/// `whole` with columns[r] columns on rank r; itself for one rank.
mlir::Type shardColumns(mlir::Type whole, mlir::ArrayRef<int64_t> columns);
/// Floats with columns[r] columns on rank r.
mlir::Type getDividedFloats(mlir::MLIRContext *context,
                            mlir::ArrayRef<int64_t> columns);
/// `type` with its columns, and their sharding, as in `model`.
mlir::Type withColumnsOf(mlir::Type type, mlir::Type model);

//===----------------------------------------------------------------------===//
// What interfaces speak of.
//===----------------------------------------------------------------------===//

/// What each rank's results are of the whole ones.
enum class Division {
  Impossible, // nothing useful: the operand can't be divided so
  Whole,      // all of them, on every rank
  Rows,       // its rows of them
  Columns,    // its columns of them
  Partial,    // a summand: their sum over the ranks is needed
  Gathered    // all of them, on the first rank, given the operand's columns of
              // all ranks
};

/// What `op`'s results are with its operands divided as their types say.
Division getDivision(mlir::Operation *op);

/// What every operation on a cache obeys: its layer is one of the cache's, and
/// it returns the cache that it took.
mlir::LogicalResult verifyCacheOperation(mlir::Operation *op);

//===----------------------------------------------------------------------===//
// Parsing and printing of parameters, for the generated code.
//===----------------------------------------------------------------------===//

mlir::FailureOr<mlir::SmallVector<int64_t>>
parseIntegerList(mlir::AsmParser &parser);
void printIntegerList(mlir::AsmPrinter &printer, mlir::ArrayRef<int64_t> list);
mlir::FailureOr<bool> parseBool(mlir::AsmParser &parser);

template <typename Enum>
mlir::FailureOr<Enum> parseEnum(mlir::AsmParser &parser) {
  llvm::StringRef keyword;
  llvm::SMLoc loc = parser.getCurrentLocation();
  if (parser.parseKeyword(&keyword))
    return mlir::failure();
  if (std::optional<Enum> value = symbolizeEnum<Enum>(keyword))
    return *value;
  parser.emitError(loc) << "unknown enumerator '" << keyword << "'";
  return mlir::failure();
}

} // namespace llmir::llm

#include "planner/Dialect/LLM/IR/LLMInterfaces.h.inc"

#define GET_OP_CLASSES
#include "planner/Dialect/LLM/IR/LLMOps.h.inc"

namespace llmir::llm {

/// Whether `op` starts a communication that a `llm.wait` ends.
inline bool isStart(mlir::Operation *op) {
  return op->getNumResults() == 1 &&
         mlir::isa<TokenType>(op->getResult(0).getType());
}

/// Over whose leaves' tree `op` sums what ranks have; none where it sums in
/// rank order, or not at all.
std::optional<Unit> getSumTree(mlir::Operation *op);

/// Whether `op` passes on rows of f32 that may lose bits on their way
/// (`llm.wire`): partial sums, shares of rows, what goes from stage to stage.
/// Not sums over a tree, whose results don't depend on the layout, nor what is
/// gathered or broadcast, which a request sees.
bool canLoseBits(mlir::Operation *op);

} // namespace llmir::llm

#endif // LLMIR_DIALECT_LLM_IR_LLMDIALECT_H
