// A Channel is one rank's end of a group of ranks: collectives and messages among them, blocking or
// split into a start and a wait. It is the only way in which ranks exchange data during a step.
//
// Every rank of the group issues the same collectives in the same order (the plan's verifier proves
// it). Sends and receives between one pair match in FIFO order per tag. At most kMaxRequests
// started operations are open at a time. A Channel is used by one thread at a time
// (MPI_THREAD_FUNNELED: the main thread). No call allocates after creation, save for an error's
// message and the first encoded messages (Wire::kInt8) of their size. Data passed to a Start
// function must stay in place, and results untouched, until the operation has been waited for;
// `counts` may go at once. No operation may be open when a Channel is destroyed.
//
// Sums are made in the order of the group's ranks, ((r0 + r1) + r2) + ..., or in that of a tree
// (comm/sum_tree.h), on every backend: the result is the same, bit for bit, on all ranks and for
// all backends. With Wire::kInt8 it is the same on all ranks, but what it is depends on which of
// them share a host: values are encoded on their way between hosts only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "comm/sum_tree.h"
#include "comm/wire.h"
#include "plan_schema/base/status.h"

namespace llmir::comm {

// Names a started operation of one channel; valid until it has been waited for.
struct Request {
  int32_t slot = -1;
  bool valid() const { return slot >= 0; }
};

inline constexpr int kMaxRequests = 64;
inline constexpr int kMaxTag = 32767;  // what MPI promises at least; tags begin at 0

class Channel {
 public:
  virtual ~Channel() = default;

  virtual int rank() const = 0;  // in the group
  virtual int size() const = 0;
  virtual std::string_view backend() const = 0;  // "loopback", "shared-memory", "mpi", ...

  // data[i] = sum over ranks of data[i], in place. Between hosts in the form `wire`, the same on
  // all ranks; so with the functions below. With kInt8 each rank's data, or each host's sum, is
  // encoded on its way, and the total once more.
  virtual StatusOr<Request> StartAllReduce(float* data, size_t count, Wire wire) = 0;
  // Rank r contributes counts[r] floats from `in`; everyone gets all, in rank order, in `out` (sum
  // of counts floats). `in` may be where the part belongs in `out`. With kFloat32 nothing is
  // computed with the floats: they may stand for any other four bytes. With kInt8 a rank's own part
  // too ends as the others have it.
  virtual StatusOr<Request> StartAllGather(const float* in, std::span<const size_t> counts,
                                           float* out, Wire wire) = 0;
  // The same as floats, but only `root` gets `out`; it may be null elsewhere.
  virtual StatusOr<Request> StartGather(const float* in, std::span<const size_t> counts, float* out,
                                        int root) = 0;
  // data of all ranks (sum of counts floats each) summed; rank r gets its counts[r] floats in
  // `out`, with kFloat32 the same bits as StartAllReduce gives. `out` may be where the part lies in
  // `data`.
  virtual StatusOr<Request> StartReduceScatter(const float* data, std::span<const size_t> counts,
                                               float* out, Wire wire) = 0;
  // The same two for ranks that contribute nodes of a sum: this rank's node i is where
  // StartAllReduce and StartReduceScatter have its data, i * node_stride floats further on. The
  // result is the root of `tree`, which stays in place until the operation has been waited for.
  // With more than one node, `out` overlaps none but the first.
  virtual StatusOr<Request> StartTreeAllReduce(float* data, size_t count, size_t node_stride,
                                               const SumTree& tree) = 0;
  virtual StatusOr<Request> StartTreeReduceScatter(const float* data,
                                                   std::span<const size_t> counts,
                                                   size_t node_stride, const SumTree& tree,
                                                   float* out) = 0;
  // `root`'s bytes to everyone.
  virtual StatusOr<Request> StartBroadcast(void* data, size_t bytes, int root) = 0;
  // Point to point; `peer` is a rank of the group. Sizes must agree on both sides; a mismatch is an
  // error on both. A send therefore finishes only after the peer has started the receive that it
  // matches. With kInt8 the bytes are floats.
  virtual StatusOr<Request> StartSend(const void* data, size_t bytes, int peer, int tag,
                                      Wire wire) = 0;
  virtual StatusOr<Request> StartRecv(void* data, size_t bytes, int peer, int tag, Wire wire) = 0;

  // The same as they are.
  StatusOr<Request> StartAllReduce(float* data, size_t count) {
    return StartAllReduce(data, count, Wire::kFloat32);
  }
  StatusOr<Request> StartAllGather(const float* in, std::span<const size_t> counts, float* out) {
    return StartAllGather(in, counts, out, Wire::kFloat32);
  }
  StatusOr<Request> StartReduceScatter(const float* data, std::span<const size_t> counts,
                                       float* out) {
    return StartReduceScatter(data, counts, out, Wire::kFloat32);
  }
  StatusOr<Request> StartSend(const void* data, size_t bytes, int peer, int tag) {
    return StartSend(data, bytes, peer, tag, Wire::kFloat32);
  }
  StatusOr<Request> StartRecv(void* data, size_t bytes, int peer, int tag) {
    return StartRecv(data, bytes, peer, tag, Wire::kFloat32);
  }

  // Takes all open operations of this rank as far as they go without waiting; true if anything
  // moved. Called between pieces of other work while operations are under way.
  virtual bool Progress() = 0;
  // Whether the operation has finished, as far as Progress has come; it is still to be waited for.
  virtual bool IsFinished(Request request) const = 0;
  // True when the operation has finished (its slot is free then); makes progress on all open
  // operations of this rank.
  virtual StatusOr<bool> Test(Request request) = 0;
  // Until it has finished. Spins, then yields, so that ranks may outnumber cores.
  virtual Status Wait(Request request) = 0;

  // Blocking forms: start and wait.
  Status AllReduce(float* data, size_t count);
  Status AllGather(const float* in, std::span<const size_t> counts, float* out);
  Status Gather(const float* in, std::span<const size_t> counts, float* out, int root);
  Status ReduceScatter(const float* data, std::span<const size_t> counts, float* out);
  Status Broadcast(void* data, size_t bytes, int root);
  Status Send(const void* data, size_t bytes, int peer, int tag);
  Status Recv(void* data, size_t bytes, int peer, int tag);
  // Returns when all ranks have entered.
  Status Barrier();

  // Waits for a receive or broadcast that may be long in coming without keeping a core busy: after
  // 1 ms of polling it sleeps between polls (at most 2 ms each). Used while the engine is idle.
  Status WaitIdle(Request request);
};

}  // namespace llmir::comm
