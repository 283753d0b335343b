//===- StepTimes.h - How long a step is expected to take --------*- C++ -*-===//

#ifndef LLMIR_TARGET_PLAN_STEPTIMES_H
#define LLMIR_TARGET_PLAN_STEPTIMES_H

#include "plan_schema/plan_generated.h"
#include "planner/Calibration.h"

namespace llmir {

/// What the predicted steps work on.
struct ExpectedLoad {
  double batch;   // sequences in a decode step
  double context; // tokens that each of them has
};

/// Fills predicted_us of every step and rank, and predicted_tokens of every
/// program: decode with `load.batch` sequences, the other kinds with one
/// sequence's largest step. A step takes the measured time of its kernel; one
/// whose kernel wasn't measured, the time of its bytes at the measured memory
/// bandwidth and a barrier; a message goes through memory once on each side and
/// meets two barriers. Costs must be filled.
void predictTimes(plan::PlanT &plan, const Calibration &calibration,
                  const ExpectedLoad &load);

} // namespace llmir

#endif // LLMIR_TARGET_PLAN_STEPTIMES_H
