//===- Layout.h - Stages and ranks for a number of ranks --------*- C++ -*-===//

#ifndef LLMIR_LAYOUT_H
#define LLMIR_LAYOUT_H

#include <cstdint>
#include <string>
#include <vector>

#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint.h"
#include "plan_schema/cost/calibration.h"

namespace llmir {

/// The most ranks that can divide a stage of the model: no unit of division may
/// have fewer leaves.
int64_t getLargestTp(const checkpoint::ModelConfig &config);

/// Stages of a job, and what they cost.
struct Layout {
  std::vector<int64_t> tp;    // ranks per stage
  double usPerToken = 0;      // of one sequence's decode step
  double bytesPerToken = 0;   // weights that the slowest ranks read, all stages
  double efficiency = 0;      // bytes of one rank / (bytesPerToken * ranks)
  double largestRank = 0;     // bytes of weights on the rank that has most
  bool isBestOfCount = false; // of those with as many ranks, by usPerToken
};

struct LayoutRequest {
  int64_t ranks = 1;
  std::string weights = "keep"; // as --weights
  uint64_t rankMemory = 0;      // bytes of weights per rank; 0: any
  const plan::Calibration *calibration = nullptr; // may be null
};

/// The layout of exactly `request.ranks` ranks whose decode step takes least
/// time: each stage's slowest rank reads its part of the weights at the
/// measured memory bandwidth, and ranks meet twice per layer. Every number of
/// stages is weighed; where it doesn't divide the ranks, the last stages, which
/// have the head, get one more. RESOURCE_EXHAUSTED with a one-line reason where
/// that many ranks can't be used.
StatusOr<Layout> chooseLayout(const checkpoint::Checkpoint &checkpoint,
                              const LayoutRequest &request);

/// All numbers of stages for exactly `request.ranks` ranks within
/// `request.rankMemory`, the best first; the first error as chooseLayout gives
/// it.
StatusOr<std::vector<Layout>>
listLayouts(const checkpoint::Checkpoint &checkpoint,
            const LayoutRequest &request);

} // namespace llmir

#endif // LLMIR_LAYOUT_H
