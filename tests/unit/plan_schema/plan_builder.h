// Small but complete plans for tests, made with FlatBuffers' object API.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "plan_schema/plan_generated.h"

namespace llmir::plan {

struct PlanShape {
  std::vector<uint32_t> ranks = {1};  // per stage; the layers are divided among the stages
  uint32_t replicas = 1;
  uint32_t layers = 2;
  bool overlap = false;       // sums are split into start and wait
  bool quantized = true;      // matrices in q8_0, else in f16
  bool halves = false;        // of more than one rank: work and sums by halves of the tokens
  bool scatter = false;       // of more than one rank: norms on each rank's share of the tokens
  bool reproducible = false;  // sums over ranks are over the tree of all leaves
};

// A plan that VerifyPlan accepts: hidden 128, 4 query and 2 KV heads of 32, MLP 192 and vocabulary
// 160 in leaves of 64 (the last of the vocabulary is short), tied head; programs mixed, decode and
// score. Leaves are given out as evenly as whole leaves allow, the first ranks taking more.
std::unique_ptr<PlanT> BuildPlan(const PlanShape& shape);

// Pins a prefix of `tokens` ids to the plan: first, first + 1, …
PinnedPrefixT& AddPrefix(PlanT& plan, int32_t tokens, int32_t first = 3);

// The `n`-th step of this kind; the test fails and ends if there is none.
StepT& FindStep(ProgramT& program, StepKind kind, size_t n = 0);
// The program of this kind in the stage.
ProgramT& FindProgram(PlanT& plan, ProgramKind kind, size_t stage = 0);

}  // namespace llmir::plan
