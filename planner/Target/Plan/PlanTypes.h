//===- PlanTypes.h - Types of the llm dialect in a plan's terms -*- C++ -*-===//

#ifndef LLMIR_TARGET_PLAN_PLANTYPES_H
#define LLMIR_TARGET_PLAN_PLANTYPES_H

#include <optional>
#include <string>

#include "plan_schema/plan_generated.h"
#include "planner/Dialect/LLM/IR/LLMDialect.h"

namespace llmir {

/// How a plan names the elements of a weight or of activations.
plan::DType getPlanDType(mlir::Type type);

/// The linear kernel for a weight type: int8 activations for q types
/// (kernels/NAMING.md, without tile and ISA).
std::string getLinearKernel(mlir::Type weight, bool bf16Activations);
/// The step that executes `op`; none for operations that name what steps work
/// on, or that passes must rewrite before a plan can be made.
std::optional<plan::StepKind> getStepKind(mlir::Operation *op);

/// Bytes of one row of activations on `rank`.
int64_t getActivationRowBytes(mlir::Type type, int64_t rank);

/// Where `value` is summed over ranks along a tree: how many nodes of it each
/// rank of `stage` contributes. Else empty.
mlir::SmallVector<int64_t> getSummedNodes(mlir::Value value,
                                          llm::StageAttr stage);

/// How K and V are stored.
plan::DType getKvDType(llm::PagedKVCacheType cache);

/// Bytes of one KV head of one layer in one block: K, V and their scales.
int64_t getKvHeadBytes(llm::PagedKVCacheType cache);

} // namespace llmir

#endif // LLMIR_TARGET_PLAN_PLANTYPES_H
