// Who waited for whom. Every rank notes when it comes to each step that communicates; after the run
// the ranks that meet there compare these times. What a rank spent there before the last one had
// come, it waited for others; the rest is transfer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/channel.h"
#include "comm/world.h"
#include "executor/program.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

struct Arrival {
  double waited = 0;      // 0 ... 1 of the time spent in the step; the rest is transfer
  double awaited_us = 0;  // that others spent waiting for this rank, over the run
};

// Per program and step of its report. Collective over the job, after the run, with every rank's
// programs in the plan's order; they were run with timing. `messages`: all ranks of the job.
// Times of ranks on one host are of one clock; between hosts the difference of their clocks is
// measured.
StatusOr<std::vector<std::vector<Arrival>>> CompareArrivals(
    comm::World& world, const std::vector<std::unique_ptr<Program>>& programs,
    comm::Channel& messages);

}  // namespace llmir::executor
