// What all backends share: the table of started operations, the checks of what callers pass, and
// waiting. A backend adds how operations begin and make progress.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/channel.h"
#include "plan_schema/base/status.h"

namespace llmir::comm {

enum class OperationKind : uint8_t {
  kAllReduce,
  kAllGather,
  kGather,
  kReduceScatter,
  kBroadcast,
  kSend,
  kReceive,
};

std::string_view OperationName(OperationKind kind);

// A started operation. Sizes and offsets are in bytes.
struct Operation {
  enum class State : uint8_t { kFree, kOpen, kFinished };

  OperationKind kind = OperationKind::kAllReduce;
  State state = State::kFree;
  int peer = 0;  // the root of a gather or broadcast, the other side of a message, else 0
  int tag = 0;
  Wire wire = Wire::kFloat32;  // other than that: of the kinds that take one
  const std::byte* in = nullptr;
  std::byte* out = nullptr;
  size_t bytes = 0;  // of all data: of the message, or of all ranks' parts together
  std::vector<size_t>
      offsets;  // [size + 1] where each rank's part begins; for the kinds that take counts
  const SumTree* tree = nullptr;  // of a sum of nodes; null: one summand per rank, in rank order
  size_t node_stride = 0;         // from one node of this rank to its next
  Status status;                  // of a finished operation

  bool IsMessage() const { return kind == OperationKind::kSend || kind == OperationKind::kReceive; }
  size_t PartBytes(int rank) const {
    const size_t part = static_cast<size_t>(rank);
    return offsets[part + 1] - offsets[part];
  }
  // What `part` bytes of the data are between hosts.
  size_t WireBytes(size_t part) const { return comm::WireBytes(wire, part); }
  size_t Nodes(int rank) const { return tree ? tree->nodes[static_cast<size_t>(rank)] : 1; }
  // What a round that has room for `bytes` of a rank carries of each of its nodes: whole lines
  // where they fit.
  size_t NodePiece(size_t bytes) const;
  void Finish() { state = State::kFinished; }
  void Finish(Status why) {
    state = State::kFinished;
    status = std::move(why);
  }
};

// The operations of one channel, by slot, and the error after which none can go on.
struct OperationTable {
  std::array<Operation, kMaxRequests> operations;
  Status failure;

  // Ends every open operation, now and later, with `why`: after it the ranks no longer agree on
  // what comes next.
  void Fail(Status why);
};

// "send of 12 bytes to rank 3, tag 4: the receiver expects 16 bytes; ..."
Status SizeMismatch(const Operation& operation, size_t peer_bytes);

class OperationChannel : public Channel {
 public:
  int rank() const final { return rank_; }
  int size() const final { return size_; }
  std::string_view backend() const final { return backend_; }

  StatusOr<Request> StartAllReduce(float* data, size_t count, Wire wire) final;
  StatusOr<Request> StartAllGather(const float* in, std::span<const size_t> counts, float* out,
                                   Wire wire) final;
  StatusOr<Request> StartGather(const float* in, std::span<const size_t> counts, float* out,
                                int root) final;
  StatusOr<Request> StartReduceScatter(const float* data, std::span<const size_t> counts,
                                       float* out, Wire wire) final;
  StatusOr<Request> StartTreeAllReduce(float* data, size_t count, size_t node_stride,
                                       const SumTree& tree) final;
  StatusOr<Request> StartTreeReduceScatter(const float* data, std::span<const size_t> counts,
                                           size_t node_stride, const SumTree& tree,
                                           float* out) final;
  StatusOr<Request> StartBroadcast(void* data, size_t bytes, int root) final;
  StatusOr<Request> StartSend(const void* data, size_t bytes, int peer, int tag, Wire wire) final;
  StatusOr<Request> StartRecv(void* data, size_t bytes, int peer, int tag, Wire wire) final;
  bool IsFinished(Request request) const final;
  StatusOr<bool> Test(Request request) final;
  Status Wait(Request request) final;

 protected:
  OperationChannel(int rank, int size, size_t max_bytes, std::string_view backend);

  OperationTable& table() { return table_; }

  // Starts the operation in `slot`, whose fields are set. Collectives come here only with more than
  // one rank and with data; what of the result is this rank's own and needs no peer is in place
  // already.
  virtual void Begin(int slot) = 0;

 private:
  // The Start functions in three steps: check the arguments, take a slot, hand over to the backend.
  Status CheckBytes(OperationKind kind, size_t bytes) const;
  Status CheckPeer(OperationKind kind, int peer) const;
  StatusOr<size_t> TotalBytes(OperationKind kind, std::span<const size_t> counts) const;
  StatusOr<int> TakeSlot(OperationKind kind, Wire wire = Wire::kFloat32);
  Status CheckTree(OperationKind kind, const SumTree& tree, size_t bytes) const;
  StatusOr<Request> StartSum(float* data, size_t count, size_t node_stride, const SumTree* tree,
                             Wire wire);
  StatusOr<Request> StartWithCounts(OperationKind kind, const float* in,
                                    std::span<const size_t> counts, float* out, int root, Wire wire,
                                    size_t node_stride = 0, const SumTree* tree = nullptr);
  StatusOr<Request> StartMessage(OperationKind kind, const void* in, void* out, size_t bytes,
                                 int peer, int tag, Wire wire);
  Request Launch(int slot);

  Status CheckRequest(Request request) const;
  Status Collect(Request request);

  const int rank_;
  const int size_;
  const size_t max_bytes_;
  const std::string_view backend_;
  OperationTable table_;
};

}  // namespace llmir::comm
