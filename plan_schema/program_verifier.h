// The half of the verifier that looks at programs: steps, buffers and messages (plan_verifier.h is
// the way in).
#pragma once

#include <string>

#include "plan_schema/base/status.h"
#include "plan_schema/plan_generated.h"

namespace llmir::plan {

// Checks all programs of `replica`: the forms of their steps, then what the stages' ranks exchange
// (rehearsal.h), then what each step does with its operands. Everything else of
// the plan has been checked before. `where` names the replica in errors.
Status VerifyPrograms(const Plan& plan, const Replica& replica, const std::string& where);

}  // namespace llmir::plan
