// What the engine needs of block transfers. TransferService is one; tests have others.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>

#include "plan_schema/base/status.h"

namespace llmir::kvpool {

struct TransferOutcome {
  uint64_t ticket = 0;
  Status status;       // the first error of a rank
  double seconds = 0;  // of the rank that took longest
  uint64_t bytes = 0;  // of all ranks
};

// Called by one thread.
class BlockTransfers {
 public:
  virtual ~BlockTransfers() = default;

  // The ranks of replica `destination` are to fill its blocks `to` with what the blocks `from` of
  // replica `source` hold, as many of one as of the other. The outcome comes when none of the ranks
  // touches any of them any more; until then nobody else may write to either.
  virtual Status Order(uint64_t ticket, int source, int destination, std::span<const int32_t> from,
                       std::span<const int32_t> to) = 0;
  // The next outcome, if there is one.
  virtual bool TakeOutcome(TransferOutcome* outcome) = 0;
  // Sleeps until there is one, at most so long.
  virtual void WaitOutcome(std::chrono::microseconds most) = 0;
  // A replica that has lost a rank, each once: it computes nothing any more. What it was ordered to
  // fill has an error as its outcome.
  virtual bool TakeLost(int* replica) = 0;
  // Whether the ranks of two replicas share one host, so that blocks need no socket.
  virtual bool ShareHost(int source, int destination) const = 0;
};

}  // namespace llmir::kvpool
