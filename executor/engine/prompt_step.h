// A step of one sequence alone: a part of given ids, appended to its cache. For what isn't a
// request: scored texts, pinned prefixes.
#pragma once

#include <cstdint>
#include <span>

#include "executor/step_descriptor.h"
#include "kvpool/block_pool.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

// Grows `sequence` in `pool` to first + tokens (giving back what is out of `window`; 0: nothing)
// and lays out a step of `program` over ids[first .. first + tokens), nothing sampled. A score
// step's targets are the caller's. `table` is working space. Errors are Grow's.
Status ComposePromptStep(plan::ProgramKind program, std::span<const int32_t> ids, int32_t first,
                         int32_t tokens, kvpool::SequenceId sequence, int32_t window,
                         kvpool::BlockPool* pool, kvpool::PageTable* table,
                         StepDescriptor* descriptor);

}  // namespace llmir::executor
