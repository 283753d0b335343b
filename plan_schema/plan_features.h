// Which features of the schema a plan uses: what the planner states as Plan.required_features, and
// what the verifier holds that statement against.
#pragma once

#include <cstdint>

#include "plan_schema/plan_generated.h"

namespace llmir::plan {

// Feature bits of everything in `plan` that a runtime must not ignore. Pure; any thread. The
// tables that every plan has must be there.
uint64_t UsedFeatures(const Plan& plan);

}  // namespace llmir::plan
