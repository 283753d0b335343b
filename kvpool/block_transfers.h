// What the engine needs of block transfers. TransferService is one; tests have others.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>

#include "plan_schema/base/status.h"

namespace llmir::kvpool {

enum class TransferKind : uint32_t {
  kFetch,    // blocks of `destination` get what blocks of another replica, `source`, hold
  kSpill,    // slots of the spill files get what blocks of the same replica hold
  kRestore,  // blocks of `destination` get what slots of `source` hold, of the same replica or
             // another
};

// What all ranks of replica `destination` are to do, each with its part of every block. `from` and
// `to` are blocks or slots, as many of one as of the other.
struct TransferOrder {
  uint64_t ticket = 0;
  TransferKind kind = TransferKind::kFetch;
  int source = 0;  // of a spill, `destination`
  int destination = 0;
  std::span<const int32_t> from;
  std::span<const int32_t> to;
};

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

  // Starts it. The outcome comes when none of the ranks touches any of the blocks any more; until
  // then nobody else may write to those in `from`, nor use those in `to`.
  virtual Status Order(const TransferOrder& order) = 0;
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
