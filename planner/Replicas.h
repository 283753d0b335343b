//===- Replicas.h - The same ranks several times ----------------*- C++ -*-===//

#ifndef LLMIR_REPLICAS_H
#define LLMIR_REPLICAS_H

#include <cstdint>

#include "plan_schema/plan_generated.h"

namespace llmir {

/// Makes `count` replicas of a plan's only one: equal stages on further ranks,
/// numbered on from its last, with groups of their own.
void addReplicas(plan::PlanT &plan, int64_t count);

} // namespace llmir

#endif // LLMIR_REPLICAS_H
