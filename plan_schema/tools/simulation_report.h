// What `llmir-inspect simulate` prints.
#pragma once

#include <string>

#include "plan_schema/base/status.h"
#include "plan_schema/cost/forecast.h"
#include "plan_schema/plan_file.h"

namespace llmir::plan {

struct SimulateOptions {
  std::string cluster;      // file; empty: the calibrated host
  std::string calibration;  // file; empty: the cluster's figures alone
  uint32_t batch = 0;       // 0: the plan's max_batch
  uint32_t prompt = 0;      // tokens; 0: one chunk, or as much as the context allows
  uint32_t answer = 128;    // tokens
  double context = 0;  // tokens that decoding sequences have; 0: the prompt and half the answer
  int in_flight = 0;   // 0: the plan's
  int threads = 0;     // of a rank; 0: the node's cores divided by its ranks
  bool steps = false;
  bool json = false;
};

// The whole report. `plan` has been verified. Errors of the files and of the load.
StatusOr<std::string> SimulateToReport(const PlanFile& plan, const SimulateOptions& options);

}  // namespace llmir::plan
