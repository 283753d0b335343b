//===- JoinWeights.h - Join the weights of linears of one input -*- C++ -*-===//

#ifndef LLMIR_DIALECT_LLM_TRANSFORMS_JOINWEIGHTS_H
#define LLMIR_DIALECT_LLM_TRANSFORMS_JOINWEIGHTS_H

#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"

#include "planner/Dialect/LLM/IR/LLMDialect.h"

namespace llmir::llm {

/// A new weight, created at `builder`, of the rows of all linears' weights, in
/// order; its name is the first one's with `name` after the last dot. Null
/// (and nothing created) unless the linears read one input, have no epilogue,
/// and their weights have one encoding, one layer, and are divided by rows.
WeightOp joinWeights(mlir::OpBuilder &builder, mlir::ArrayRef<LinearOp> linears,
                     mlir::StringRef name, bool interleaved);

/// Erases the weights that nothing refers to.
void eraseUnusedWeights(mlir::ModuleOp module);

} // namespace llmir::llm

#endif // LLMIR_DIALECT_LLM_TRANSFORMS_JOINWEIGHTS_H
