// The job as this process sees it: MPI's start and end, who shares a host, and the channels made
// from it.
//
// One World per process, created and used by the main thread (MPI_THREAD_FUNNELED). Works without
// mpirun (one rank).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/channel.h"
#include "plan_schema/base/status.h"

namespace llmir::comm {

enum class Backend : uint8_t {
  kAuto,  // shared memory within a host, MPI between hosts
  kSharedMemory,
  kMpi,
};

class World {
 public:
  // MPI_Init_thread(FUNNELED). `argc` and `argv` as main got them.
  static StatusOr<std::unique_ptr<World>> Create(int* argc, char*** argv);
  virtual ~World() = default;  // finalizes MPI

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int local_rank() const = 0;  // among the ranks of this host
  virtual int local_size() const = 0;
  virtual const std::string& host() const = 0;
  // The lowest rank of the host that `rank` is on: ranks that share a host have it in common.
  virtual int host_leader(int rank) const = 0;

  // Collective over `ranks` (world ranks, in group order); those not named must not call.
  // `max_bytes` bounds one message or collective's data; buffers are made now. A group of one rank
  // gets a loopback channel.
  virtual StatusOr<std::unique_ptr<Channel>> CreateChannel(std::span<const int> ranks,
                                                           size_t max_bytes,
                                                           Backend backend = Backend::kAuto) = 0;

  // The bytes of rank 0 on every rank (for the plan). Collective over the world; used at load only.
  virtual StatusOr<std::vector<std::byte>> BroadcastBytes(std::vector<std::byte> bytes) = 0;

  // Collective over the world: the error of the lowest rank that has one, the same on all ranks,
  // its message prefixed by "rank N (host): " when the world has more than one rank; OK if all are.
  // So that a rank's failure ends the job in order and one line tells why.
  virtual Status Agree(const Status& status) = 0;
};

// Channels of `ranks` threads in one process, for tests and single-process runs.
std::vector<std::unique_ptr<Channel>> CreateLoopbackChannels(int ranks, size_t max_bytes);

}  // namespace llmir::comm
