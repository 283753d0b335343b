#include "comm/operation_channel.h"

#include <cstring>
#include <utility>

#include "comm/backoff.h"

namespace llmir::comm {

std::string_view OperationName(OperationKind kind) {
  switch (kind) {
    case OperationKind::kAllReduce:
      return "all-reduce";
    case OperationKind::kAllGather:
      return "all-gather";
    case OperationKind::kGather:
      return "gather";
    case OperationKind::kReduceScatter:
      return "reduce-scatter";
    case OperationKind::kBroadcast:
      return "broadcast";
    case OperationKind::kSend:
      return "send";
    case OperationKind::kReceive:
      return "receive";
  }
  return "unknown operation";
}

void OperationTable::Fail(Status why) {
  failure = std::move(why);
  for (Operation& operation : operations) {
    if (operation.state == Operation::State::kOpen) operation.Finish(failure);
  }
}

Status SizeMismatch(const Operation& operation, size_t peer_bytes) {
  const bool sending = operation.kind == OperationKind::kSend;
  return InvalidArgument(
      "{} of {} bytes {} rank {}, tag {}: the {} has {} bytes; both sides must name the same size",
      OperationName(operation.kind), operation.WireBytes(operation.bytes), sending ? "to" : "from",
      operation.peer, operation.tag, sending ? "receiver" : "sender", peer_bytes);
}

size_t Operation::NodePiece(size_t bytes) const {
  if (tree == nullptr) return bytes;
  constexpr size_t kLine = 64;
  const size_t piece = bytes / tree->MostNodes();
  return piece >= kLine ? piece / kLine * kLine : piece / sizeof(float) * sizeof(float);
}

OperationChannel::OperationChannel(int rank, int size, size_t max_bytes, std::string_view backend)
    : rank_(rank), size_(size), max_bytes_(max_bytes), backend_(backend) {
  for (Operation& operation : table_.operations) {
    operation.offsets.resize(static_cast<size_t>(size) + 1);
  }
}

Status OperationChannel::CheckBytes(OperationKind kind, size_t bytes) const {
  if (bytes <= max_bytes_) return Status();
  return InvalidArgument(
      "{} of {} bytes: the channel was created for at most {}; create it with a larger max_bytes",
      OperationName(kind), bytes, max_bytes_);
}

Status OperationChannel::CheckPeer(OperationKind kind, int peer) const {
  if (peer >= 0 && peer < size_) return Status();
  return InvalidArgument("{}: rank {} is not in the channel's group of {}", OperationName(kind),
                         peer, size_);
}

StatusOr<size_t> OperationChannel::TotalBytes(OperationKind kind,
                                              std::span<const size_t> counts) const {
  if (counts.size() != static_cast<size_t>(size_)) {
    return InvalidArgument("{}: {} counts, but the channel has {} ranks", OperationName(kind),
                           counts.size(), size_);
  }
  size_t total = 0;
  for (const size_t count : counts) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, sizeof(float), &bytes) ||
        __builtin_add_overflow(total, bytes, &total)) {
      return InvalidArgument("{}: the sum of the counts overflows", OperationName(kind));
    }
  }
  LLMIR_RETURN_IF_ERROR(CheckBytes(kind, total));
  return total;
}

StatusOr<int> OperationChannel::TakeSlot(OperationKind kind, Wire wire) {
  LLMIR_RETURN_IF_ERROR(table_.failure);
  for (int slot = 0; slot < kMaxRequests; ++slot) {
    Operation& operation = table_.operations[static_cast<size_t>(slot)];
    if (operation.state != Operation::State::kFree) continue;
    operation.kind = kind;
    operation.state = Operation::State::kOpen;
    operation.peer = 0;
    operation.tag = 0;
    operation.wire = wire;
    operation.tree = nullptr;
    return slot;
  }
  return ResourceExhausted("{}: {} operations are open already; wait for one of them first",
                           OperationName(kind), kMaxRequests);
}

Request OperationChannel::Launch(int slot) {
  Operation& operation = table_.operations[static_cast<size_t>(slot)];
  if (!operation.IsMessage() && (size_ == 1 || operation.bytes == 0)) {
    operation.Finish();
  } else {
    Begin(slot);
  }
  return Request{slot};
}

Status OperationChannel::CheckTree(OperationKind kind, const SumTree& tree, size_t bytes) const {
  if (!tree.IsValid(static_cast<size_t>(size_))) {
    return InvalidArgument("{}: the tree of sums isn't one for {} ranks", OperationName(kind),
                           size_);
  }
  size_t all = 0;
  if (__builtin_mul_overflow(bytes, tree.MostNodes(), &all)) all = SIZE_MAX;
  return CheckBytes(kind, all);
}

StatusOr<Request> OperationChannel::StartAllReduce(float* data, size_t count, Wire wire) {
  return StartSum(data, count, 0, nullptr, wire);
}

StatusOr<Request> OperationChannel::StartTreeAllReduce(float* data, size_t count,
                                                       size_t node_stride, const SumTree& tree) {
  return StartSum(data, count, node_stride, &tree, Wire::kFloat32);
}

StatusOr<Request> OperationChannel::StartSum(float* data, size_t count, size_t node_stride,
                                             const SumTree* tree, Wire wire) {
  const size_t bytes =
      count > SIZE_MAX / sizeof(float) ? SIZE_MAX : count * sizeof(float);  // refused below
  LLMIR_RETURN_IF_ERROR(CheckBytes(OperationKind::kAllReduce, bytes));
  if (tree != nullptr) LLMIR_RETURN_IF_ERROR(CheckTree(OperationKind::kAllReduce, *tree, bytes));
  LLMIR_ASSIGN_OR_RETURN(const int slot, TakeSlot(OperationKind::kAllReduce, wire));
  Operation& operation = table_.operations[static_cast<size_t>(slot)];
  operation.out = reinterpret_cast<std::byte*>(data);
  operation.in = operation.out;
  operation.bytes = bytes;
  operation.tree = tree;
  operation.node_stride = node_stride * sizeof(float);
  return Launch(slot);
}

StatusOr<Request> OperationChannel::StartWithCounts(OperationKind kind, const float* in,
                                                    std::span<const size_t> counts, float* out,
                                                    int root, Wire wire, size_t node_stride,
                                                    const SumTree* tree) {
  LLMIR_RETURN_IF_ERROR(CheckPeer(kind, root));
  LLMIR_ASSIGN_OR_RETURN(const size_t bytes, TotalBytes(kind, counts));
  if (tree != nullptr) LLMIR_RETURN_IF_ERROR(CheckTree(kind, *tree, bytes));
  const bool gathers =
      kind == OperationKind::kAllGather || (kind == OperationKind::kGather && root == rank_);
  if (gathers && out == nullptr && bytes > 0) {
    return InvalidArgument("{}: no place for the {} bytes that this rank gets", OperationName(kind),
                           bytes);
  }
  LLMIR_ASSIGN_OR_RETURN(const int slot, TakeSlot(kind, wire));
  Operation& operation = table_.operations[static_cast<size_t>(slot)];
  operation.peer = root;
  operation.in = reinterpret_cast<const std::byte*>(in);
  operation.out = reinterpret_cast<std::byte*>(out);
  operation.bytes = bytes;
  operation.tree = tree;
  operation.node_stride = node_stride * sizeof(float);
  operation.offsets[0] = 0;
  for (size_t rank = 0; rank < counts.size(); ++rank) {
    operation.offsets[rank + 1] = operation.offsets[rank] + counts[rank] * sizeof(float);
  }
  // A gathering rank's own part, and all of a lone rank's reduce-scatter.
  const size_t own = operation.offsets[static_cast<size_t>(rank_)];
  if ((gathers || size_ == 1) && operation.PartBytes(rank_) > 0 &&
      operation.out + own != operation.in) {
    std::memmove(operation.out + own, operation.in, operation.PartBytes(rank_));
  }
  return Launch(slot);
}

StatusOr<Request> OperationChannel::StartAllGather(const float* in, std::span<const size_t> counts,
                                                   float* out, Wire wire) {
  return StartWithCounts(OperationKind::kAllGather, in, counts, out, 0, wire);
}

StatusOr<Request> OperationChannel::StartGather(const float* in, std::span<const size_t> counts,
                                                float* out, int root) {
  return StartWithCounts(OperationKind::kGather, in, counts, out, root, Wire::kFloat32);
}

StatusOr<Request> OperationChannel::StartReduceScatter(const float* data,
                                                       std::span<const size_t> counts, float* out,
                                                       Wire wire) {
  return StartWithCounts(OperationKind::kReduceScatter, data, counts, out, 0, wire);
}

StatusOr<Request> OperationChannel::StartTreeReduceScatter(const float* data,
                                                           std::span<const size_t> counts,
                                                           size_t node_stride, const SumTree& tree,
                                                           float* out) {
  return StartWithCounts(OperationKind::kReduceScatter, data, counts, out, 0, Wire::kFloat32,
                         node_stride, &tree);
}

StatusOr<Request> OperationChannel::StartBroadcast(void* data, size_t bytes, int root) {
  LLMIR_RETURN_IF_ERROR(CheckPeer(OperationKind::kBroadcast, root));
  LLMIR_RETURN_IF_ERROR(CheckBytes(OperationKind::kBroadcast, bytes));
  LLMIR_ASSIGN_OR_RETURN(const int slot, TakeSlot(OperationKind::kBroadcast));
  Operation& operation = table_.operations[static_cast<size_t>(slot)];
  operation.peer = root;
  operation.out = static_cast<std::byte*>(data);
  operation.in = operation.out;
  operation.bytes = bytes;
  return Launch(slot);
}

StatusOr<Request> OperationChannel::StartMessage(OperationKind kind, const void* in, void* out,
                                                 size_t bytes, int peer, int tag, Wire wire) {
  LLMIR_RETURN_IF_ERROR(CheckPeer(kind, peer));
  LLMIR_RETURN_IF_ERROR(CheckBytes(kind, bytes));
  if (tag < 0 || tag > kMaxTag) {
    return InvalidArgument("{}: tag {} is not in 0..{}", OperationName(kind), tag, kMaxTag);
  }
  if (wire != Wire::kFloat32 && bytes % sizeof(float) != 0) {
    return InvalidArgument("{} of {} bytes: floats alone travel in int8; expected a multiple of {}",
                           OperationName(kind), bytes, sizeof(float));
  }
  LLMIR_ASSIGN_OR_RETURN(const int slot, TakeSlot(kind, wire));
  Operation& operation = table_.operations[static_cast<size_t>(slot)];
  operation.peer = peer;
  operation.tag = tag;
  operation.in = static_cast<const std::byte*>(in);
  operation.out = static_cast<std::byte*>(out);
  operation.bytes = bytes;
  return Launch(slot);
}

StatusOr<Request> OperationChannel::StartSend(const void* data, size_t bytes, int peer, int tag,
                                              Wire wire) {
  return StartMessage(OperationKind::kSend, data, nullptr, bytes, peer, tag, wire);
}

StatusOr<Request> OperationChannel::StartRecv(void* data, size_t bytes, int peer, int tag,
                                              Wire wire) {
  return StartMessage(OperationKind::kReceive, nullptr, data, bytes, peer, tag, wire);
}

Status OperationChannel::CheckRequest(Request request) const {
  if (request.valid() && request.slot < kMaxRequests &&
      table_.operations[static_cast<size_t>(request.slot)].state != Operation::State::kFree) {
    return Status();
  }
  return InvalidArgument("request {} is not open; each may be waited for once", request.slot);
}

Status OperationChannel::Collect(Request request) {
  Operation& operation = table_.operations[static_cast<size_t>(request.slot)];
  operation.state = Operation::State::kFree;
  if (operation.status.ok()) return Status();
  return std::exchange(operation.status, Status());
}

bool OperationChannel::IsFinished(Request request) const {
  return !CheckRequest(request).ok() ||
         table_.operations[static_cast<size_t>(request.slot)].state == Operation::State::kFinished;
}

StatusOr<bool> OperationChannel::Test(Request request) {
  LLMIR_RETURN_IF_ERROR(CheckRequest(request));
  Progress();
  const Operation& operation = table_.operations[static_cast<size_t>(request.slot)];
  if (operation.state == Operation::State::kOpen) return false;
  LLMIR_RETURN_IF_ERROR(Collect(request));
  return true;
}

Status OperationChannel::Wait(Request request) {
  LLMIR_RETURN_IF_ERROR(CheckRequest(request));
  const Operation& operation = table_.operations[static_cast<size_t>(request.slot)];
  Backoff backoff;
  while (operation.state == Operation::State::kOpen) {
    if (Progress()) {
      backoff.Reset();
    } else {
      backoff.Pause();
    }
  }
  return Collect(request);
}

}  // namespace llmir::comm
