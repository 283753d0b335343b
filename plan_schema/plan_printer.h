// A plan as text for a person and as JSON for programs. Pure functions; any thread.
#pragma once

#include <optional>
#include <string>

#include "plan_schema/plan_generated.h"

namespace llmir::plan {

struct PrintOptions {
  std::optional<ProgramKind> program;  // only programs of this kind; none: all
  bool all_steps =
      false;  // every layer's steps; else equal layers are shown once, with their number
};

// What a person asks of a plan: the model, where its weights come from, the layout with each rank's
// leaves and memory, the KV cache, limits, the programs' steps with their costs, options. Fits 100
// columns where names are short. `plan` has passed VerifyPlan.
std::string PlanToText(const Plan& plan, const PrintOptions& options = {});

// What each pass of the planner did and expects to gain, in order; one line each, a gain on its own
// line below. `plan` has passed VerifyPlan.
std::string ExplanationsToText(const Plan& plan);

// The whole plan as JSON: fields named as in plan.fbs, enums by name, defaults and empty vectors
// written out, absent strings and tables left out, numbers so that they read back to the same value
// (a float that is not finite: null). `plan` has passed FlatBuffers' verifier.
std::string PlanToJson(const Plan& plan);

}  // namespace llmir::plan
