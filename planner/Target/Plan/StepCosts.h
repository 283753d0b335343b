//===- StepCosts.h - What a step costs a rank -------------------*- C++ -*-===//

#ifndef LLMIR_TARGET_PLAN_STEPCOSTS_H
#define LLMIR_TARGET_PLAN_STEPCOSTS_H

#include "plan_schema/plan_generated.h"
#include "planner/Dialect/LLM/IR/LLMDialect.h"

namespace llmir {

/// Bytes moved, operations and message bytes of `op` on rank `rank` of its
/// stage: fixed, per row, and per row and row of its context. A weight counts
/// as read once per step.
plan::CostT getStepCost(mlir::Operation *op, llm::StageAttr stage,
                        llm::ModelAttr model, int64_t rank);

/// Bytes of the weight that `op` reads once per step: on one rank, and on an
/// only rank (rank -1). 0 for operations that read none, or rows of it.
int64_t getReadWeightBytes(mlir::Operation *op, int64_t rank);

} // namespace llmir

#endif // LLMIR_TARGET_PLAN_STEPCOSTS_H
