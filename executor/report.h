// report.json: what a run did, per rank, program and step. Versioned: "report_version" grows when a
// field changes meaning.
#pragma once

#include <string>
#include <vector>

#include "executor/engine/engine.h"
#include "executor/rank.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

// This rank's part as JSON text: host, threads, ISA, bytes consumed and read, memory, and for each
// program and step count, median, p95 and total microseconds and, where ranks communicate, bytes,
// waiting for others and transfer. `arrivals`: as CompareArrivals gives them. `bandwidth`: bytes
// per second, 0 = not measured.
std::string RankReport(const Rank& rank, int world_rank, const std::string& host,
                       const std::vector<std::vector<Arrival>>& arrivals, uint64_t peak_bytes,
                       double bandwidth);

// How the ranks spent the time in their programs, and which one is slow: takes most time to compute
// by what the plan gives it to do.
struct RankTimes {
  double least_compute = 0, most_compute = 0;  // 0 ... 1 of a rank's time in programs
  double least_wait = 0, most_wait = 0;        // for other ranks
  double least_transfer = 0, most_transfer = 0;
  int slowest = 0;      // rank
  double slowness = 1;  // of its computation and transfers, by what the median rank would need
  double awaited_seconds = 0;  // others' time that was spent waiting for it
};
RankTimes CompareRanks(const std::vector<std::string>& rank_reports);
// One line for people.
std::string RankLine(const RankTimes& times);

// What the engine did, as a JSON object: "engine" of the report.
std::string EngineReport(const EngineStatistics& statistics);

// The most memory that this process has had resident so far.
uint64_t PeakResidentBytes();

// What of program and library files this process has in memory now; 0 where the kernel doesn't say.
uint64_t ResidentFileBytes();

// Bytes per second that the ranks of these reports read together.
double TotalBandwidth(const std::vector<std::string>& rank_reports);

struct RunFacts {
  std::string plan_path;
  uint64_t plan_checksum = 0;
  double load_seconds = 0;
  double run_seconds = 0;
  // From main() to the first token of the first prompt, without MPI's start, which is apart; and of
  // it: reading and checking the plan, tokenizer and prompts, and the prefill. The rest is
  // load_seconds. 0: no token was generated.
  double first_token_seconds = 0;
  double mpi_init_seconds = 0;
  double plan_seconds = 0;
  double prompt_seconds = 0;
  double prefill_seconds = 0;
  bool without_exchange = false;  // ranks computed, and exchanged nothing in a step
};

// Writes the whole report: the run's facts, the engine's statistics and all ranks' parts.
Status WriteReport(const std::string& path, const RunFacts& facts,
                   const EngineStatistics& statistics,
                   const std::vector<std::string>& rank_reports);

}  // namespace llmir::executor
