// Moves KV blocks between the replicas of a job, on a thread of its own: what it serves doesn't
// disturb its rank's computation, and no step waits for it. Every rank of a job with several
// replicas, or with spill files, has one.
//
// Rank 0 orders: the ranks of a replica are to fill blocks of theirs with what blocks of another
// replica hold, or to write blocks into files of theirs (kvpool/spill_file.h) and to read them
// back. Each of them takes the heads and layers that it owns, whichever ranks of the other replica
// have them: within a host out of the owner's memory, between hosts from the owner's service by a
// socket. It tells rank 0 how that went, and rank 0 has the outcome when all ranks have told. So a
// transfer counts on all ranks of a replica or on none, and blocks enter a program only by a
// descriptor that rank 0 sends afterwards. Until the outcome is there nobody else may use the
// blocks, neither the source's nor the destination's.
//
// A rank that is lost takes its blocks and its replica with it: orders that need them end with an
// error, others go on, and the replica's other ranks are told to end. Without rank 0, and where a
// rank of its own replica is lost, nothing can go on.
//
// Public functions may be called by any one thread; Order, TakeOutcome and WaitOutcome on rank 0
// alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvpool/block_transfers.h"
#include "kvpool/kv_arena.h"
#include "kvpool/transfer_endpoint.h"
#include "plan_schema/base/status.h"

namespace llmir::kvpool {

struct TransferOptions {
  // On the service's thread: this rank can't go on, as its replica or rank 0 is lost.
  std::function<void(const Status& why)> on_fatal = [](const Status&) {};
  // After so long without a byte a get is given up.
  std::chrono::milliseconds patience{10000};
  // Also within a host through sockets: for tests and measurements.
  bool sockets_only = false;
  // Where this rank keeps the blocks of kSpill orders, and how many; empty: nowhere.
  std::string spill_folder;
  size_t spill_slots = 0;
  // Ranks of other hosts take part: listen at all of this host's addresses, not at loopback alone.
  bool between_hosts = false;
};

class TransferService final : public BlockTransfers {
 public:
  // Listens, with a thread that may run where the calling one may. Blocks are those of `arena`,
  // which outlives the service.
  static StatusOr<std::unique_ptr<TransferService>> Create(int rank, int replica, int host,
                                                           const BlockLayout& layout,
                                                           const KvArena& arena,
                                                           const TransferOptions& options);
  // Ends what is under way; rank 0's orders that are open get no outcome.
  ~TransferService() override;

  const TransferEndpoint& endpoint() const;
  // Once, with the endpoints of all ranks by rank: connects to rank 0. UNAVAILABLE where it can't
  // be reached at any of its addresses.
  Status Join(std::vector<TransferEndpoint> endpoints);

  // The ranks of a replica carry out orders one after the other.
  Status Order(const TransferOrder& order) override;
  bool TakeOutcome(TransferOutcome* outcome) override;
  void WaitOutcome(std::chrono::microseconds most) override;
  bool TakeLost(int* replica) override;
  bool ShareHost(int source, int destination) const override;

  // The job ends: ranks that go are no loss from now on. Any rank.
  void Close();

 private:
  class Impl;
  explicit TransferService(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace llmir::kvpool
