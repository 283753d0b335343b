//===- LeafHashes.h - Identify the bytes that a plan was made for -*- C++ -*-=//

#ifndef LLMIR_TARGET_PLAN_LEAFHASHES_H
#define LLMIR_TARGET_PLAN_LEAFHASHES_H

#include <vector>

#include "plan_schema/checkpoint/checkpoint.h"
#include "plan_schema/plan_generated.h"

namespace llmir {

/// Fills leaf_hashes of `plan`'s tensors that a checkpoint holds; sources[i] is
/// where tensors[i] lies. Reads every byte of them, with `threads` threads;
/// says how far it is on stderr when that takes longer than a second.
void hashLeaves(const checkpoint::Checkpoint &checkpoint,
                const std::vector<checkpoint::TensorInfo> &sources,
                plan::PlanT &plan, int threads);

} // namespace llmir

#endif // LLMIR_TARGET_PLAN_LEAFHASHES_H
