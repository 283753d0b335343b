//===- ImportCheckpoint.h - A checkpoint as a module ------------*- C++ -*-===//

#ifndef LLMIR_FRONTEND_IMPORTCHECKPOINT_H
#define LLMIR_FRONTEND_IMPORTCHECKPOINT_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"

#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint.h"

namespace llmir {

/// Columns of an MLP leaf and rows of a vocabulary leaf.
inline constexpr int64_t kMlpLeaf = 64;
inline constexpr int64_t kVocabularyLeaf = 64;

/// What the imported model keeps keys and values in.
struct CacheOptions {
  mlir::Type elementType; // f32, bf16, i8 or f8E4M3FN
  int64_t blockSize;      // tokens
  int64_t context;        // tokens of the longest sequence
};

/// The Llama-family model of `checkpoint`, in either format, as one function
/// @model in the llm dialect, with weights as they are stored. The llm and func
/// dialects must be loaded in `context`.
StatusOr<mlir::OwningOpRef<mlir::ModuleOp>>
importCheckpoint(mlir::MLIRContext *context,
                 const checkpoint::Checkpoint &checkpoint,
                 const CacheOptions &cache);

} // namespace llmir

#endif // LLMIR_FRONTEND_IMPORTCHECKPOINT_H
