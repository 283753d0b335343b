//===- StepTimes.h - How long a step is expected to take --------*- C++ -*-===//

#ifndef LLMIR_TARGET_PLAN_STEPTIMES_H
#define LLMIR_TARGET_PLAN_STEPTIMES_H

#include "plan_schema/base/status.h"
#include "plan_schema/cost/calibration.h"
#include "plan_schema/cost/cluster.h"
#include "plan_schema/plan_generated.h"

namespace llmir {

/// What the predicted steps work on.
struct ExpectedLoad {
  double batch;   // sequences in a decode step
  double context; // tokens that each of them has
};

/// Fills predicted_us of every step and rank, and predicted_tokens of every
/// program: decode with `load.batch` sequences, the other kinds with one
/// sequence's largest step; times as plan::CostModel gives them, of exchanges
/// with their transfer, without what ranks wait for each other. `cluster` may
/// be null: all ranks are on the calibrated host. Costs must be filled.
Status predictTimes(plan::PlanT &plan, const plan::Cluster *cluster,
                    const plan::Calibration &calibration,
                    const ExpectedLoad &load);

} // namespace llmir

#endif // LLMIR_TARGET_PLAN_STEPTIMES_H
