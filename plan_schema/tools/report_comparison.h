// What a plan predicts beside what a run of it took.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan_schema/base/status.h"
#include "plan_schema/plan_file.h"

namespace llmir::plan {

// Microseconds of one run of a program, or of some of its steps.
struct TimePair {
  double predicted_us = 0;
  double measured_us = 0;  // medians, summed over the steps
};

struct ReportComparison {
  struct Kind {
    std::string name;    // a step kind; "communication": all exchanges and what waits for them
    uint32_t steps = 0;  // on the rank with most
    TimePair time;       // mean over the ranks that have such steps
  };
  struct OnRank {
    uint32_t world_rank = 0;
    TimePair time;
  };
  struct OfProgram {
    std::string name;  // its kind
    uint64_t runs = 0;
    double tokens = 0;  // mean of a run
    uint32_t predicted_tokens = 0;
    std::vector<Kind> kinds;    // in the order of their first steps
    std::vector<OnRank> ranks;  // whole programs
  };
  std::vector<OfProgram> programs;  // those that ran
};

// `report_path`: what `llmir-exec --report` wrote; `plan` has been verified. Errors: a report that
// isn't one, or of another plan (by checksum), or a plan without predicted times.
StatusOr<ReportComparison> CompareWithReport(const PlanFile& plan, const std::string& report_path);

std::string ComparisonToText(const ReportComparison& comparison);
std::string ComparisonToJson(const ReportComparison& comparison);

}  // namespace llmir::plan
