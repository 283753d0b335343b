// Semantic checks on a plan that FlatBuffers' verifier has passed: what must hold so that running
// it cannot read or write out of bounds, mix shapes, or deadlock. Every message names the place,
// for example "replicas[0].stages[1].programs[0].steps[12].inputs[0]: 57, but there are 31
// buffers".
#pragma once

#include "plan_schema/base/status.h"
#include "plan_schema/plan_generated.h"

namespace llmir::plan {

// Checks the whole plan: indices in bounds; leaf ranges inside the model's leaves, covering them
// without gap or overlap (KV heads: covering the query heads' groups); shapes and dtypes of each
// step's operands; buffers inside their arenas and, while live, apart; events signalled once before
// they are waited for; every send with its receive; groups that contain their ranks; KV geometry
// the same everywhere; stages covering the layers; memory sums. Overflow-safe: a hostile plan gives
// an error, never undefined behaviour.
Status VerifyPlan(const Plan& plan);

}  // namespace llmir::plan
