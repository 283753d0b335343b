//===- PackWeights.h - Write weights as kernels read them -------*- C++ -*-===//

#ifndef LLMIR_TARGET_PLAN_PACKWEIGHTS_H
#define LLMIR_TARGET_PLAN_PACKWEIGHTS_H

#include <functional>
#include <string>

#include "kernels/isa.h"
#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint.h"
#include "plan_schema/plan_generated.h"

namespace llmir {

struct PackOptions {
  std::string file;                           // where to write
  std::string recorded;                       // the same, relative to the plan
  kernels::Isa isa = kernels::Isa::kPortable; // whose layouts
  int threads = 2;
  /// Called now and then with a sentence on how far it is.
  std::function<void(const std::string &)> progress;
};

/// Writes all weights of `plan`, whose tensors are those of `checkpoint`, as a
/// packed file, and says in the plan where they are. The file is the same for
/// every layout of ranks. RESOURCE_EXHAUSTED: it can't be written.
Status packWeights(const checkpoint::Checkpoint &checkpoint,
                   const PackOptions &options, plan::PlanT &plan);

} // namespace llmir

#endif // LLMIR_TARGET_PLAN_PACKWEIGHTS_H
