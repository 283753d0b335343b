//===- Search.h - The layout for a cluster and a load -----------*- C++ -*-===//
//
// Plans and simulates candidates: numbers of ranks, replicas, stages and their
// ranks, how exchanges are overlapped, sizes of KV blocks.
//
//===----------------------------------------------------------------------===//

#ifndef LLMIR_SEARCH_H
#define LLMIR_SEARCH_H

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint.h"
#include "plan_schema/checkpoint/tokenizer.h"
#include "plan_schema/cost/forecast.h"
#include "planner/Planner.h"

namespace llmir {

/// One of the plans that were weighed.
struct Candidate {
  int64_t replicas = 1;    // of stages as in `tp`
  std::vector<int64_t> tp; // ranks per stage
  std::string overlap;
  int64_t blockSize = 0; // of its plan
  Status problem;        // why it can't be taken; then nothing below is filled
  double firstTokenUs = 0, tokenUs = 0; // microseconds
  double requestUs = 0;                 // of a whole request
  double tokensPerSecond = 0;           // prompts counted
  // Of a token on its busiest rank, microseconds.
  double computeUs = 0, transferUs = 0, waitUs = 0;
  double largestRank = 0; // bytes at most
  bool isOversubscribed = false;

  int64_t getRanks() const;
};

struct SearchResult {
  std::vector<Candidate> candidates; // the chosen one first, the best next
  std::string reason;                // why, in a few sentences
};

/// Plans candidates for `options.ranks` ranks and fewer (0: as many as the
/// cluster has places), simulates each on `cluster` and takes the one with the
/// shortest request or, with options.goal "throughput", most tokens per second.
/// Replicas divide the load: there are no more of them than sequences.
/// Layouts are compared with default blocks and overlap first, then the best
/// few with the others; what the options fix stays as it is. `calibration` may
/// be null. RESOURCE_EXHAUSTED where none fits.
StatusOr<SearchResult> searchLayout(const checkpoint::Checkpoint &checkpoint,
                                    const checkpoint::Tokenizer *tokenizer,
                                    const PlannerOptions &options,
                                    const plan::Cluster &cluster,
                                    const plan::Calibration *calibration,
                                    const plan::ForecastLoad &load);

/// The candidates as a table for people.
std::string formatCandidates(const SearchResult &result, bool isThroughput);

} // namespace llmir

#endif // LLMIR_SEARCH_H
