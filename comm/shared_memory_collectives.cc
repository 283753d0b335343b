#include "comm/shared_memory_collectives.h"

#include <algorithm>
#include <cstring>

#include "comm/rank_order_sum.h"

namespace llmir::comm {
namespace {

// Below this an all-reduce is one exchange, and every rank sums everything.
constexpr size_t kSlicedBytes = size_t{16} << 10;
// What is larger, up to kSlicedBytes, goes in two rounds: a rank sums the first half while the
// second one is on its way.
constexpr size_t kWholeBytes = size_t{1} << 10;
constexpr size_t kLine = 64;

// What an operation must have in common on all ranks, in one word: kind, root, bytes.
uint64_t Identity(const Operation& operation) {
  return static_cast<uint64_t>(operation.kind) << 60 | static_cast<uint64_t>(operation.peer) << 44 |
         (operation.bytes & ((uint64_t{1} << 44) - 1));
}

std::string Describe(uint64_t identity) {
  return fmt::format("{} of {} bytes, root {}",
                     OperationName(static_cast<OperationKind>(identity >> 60)),
                     identity & ((uint64_t{1} << 44) - 1), identity >> 44 & 0xffff);
}

}  // namespace

SharedMemoryCollectives::SharedMemoryCollectives(SharedSegment* segment, int rank,
                                                 OperationTable* table)
    : segment_(segment),
      table_(table),
      rank_(rank),
      size_(segment->ranks()),
      round_bytes_(segment->round_bytes()),
      contributed_(static_cast<size_t>(size_)),
      reduced_(static_cast<size_t>(size_)),
      consumed_(static_cast<size_t>(size_)),
      sources_(static_cast<size_t>(size_) * SumTree::kMaxNodes) {}

void SharedMemoryCollectives::Begin(int slot) {
  const size_t place = begun_ % kMaxRequests;
  queue_[place] = slot;
  round_counts_[place] = RoundCount(table_->operations[static_cast<size_t>(slot)]);
  ++begun_;
}

size_t SharedMemoryCollectives::PieceBytes(const Operation& operation) const {
  const size_t most = operation.NodePiece(round_bytes_);
  if (operation.bytes <= kWholeBytes || operation.bytes > kSlicedBytes) return most;
  const size_t half = (operation.bytes + 1) / 2;
  return std::min((half + kLine - 1) / kLine * kLine, most);
}

size_t SharedMemoryCollectives::RoundCount(const Operation& operation) const {
  size_t bytes = operation.bytes;
  if (operation.kind == OperationKind::kAllGather || operation.kind == OperationKind::kGather) {
    bytes = 0;
    for (int rank = 0; rank < size_; ++rank) bytes = std::max(bytes, operation.PartBytes(rank));
  }
  const size_t piece = PieceBytes(operation);
  return (bytes + piece - 1) / piece;
}

Operation& SharedMemoryCollectives::At(const Cursor& cursor) {
  return table_->operations[static_cast<size_t>(queue_[cursor.operations % kMaxRequests])];
}

void SharedMemoryCollectives::Advance(Cursor* cursor) {
  ++cursor->rounds;
  if (++cursor->index == round_counts_[cursor->operations % kMaxRequests]) {
    cursor->index = 0;
    ++cursor->operations;
  }
}

bool SharedMemoryCollectives::RankHas(int rank, std::atomic<uint64_t> RankFlags::* flag, Seen* seen,
                                      uint64_t rounds) {
  uint64_t& last = (*seen)[static_cast<size_t>(rank)];
  if (last >= rounds) return true;
  last = (segment_->flags(rank).*flag).load(std::memory_order_acquire);
  return last >= rounds;
}

bool SharedMemoryCollectives::RankHasContributed(int rank, uint64_t rounds) {
  const size_t peer = static_cast<size_t>(rank);
  if (contributed_[peer] >= rounds) return true;
  const RankFlags& flags = segment_->flags(rank);
  contributed_[peer] = flags.contributed.load(std::memory_order_acquire);
  consumed_[peer] =
      std::max(consumed_[peer], flags.consumed_by_then.load(std::memory_order_acquire));
  return contributed_[peer] >= rounds;
}

bool SharedMemoryCollectives::AllHave(std::atomic<uint64_t> RankFlags::* flag, Seen* seen,
                                      uint64_t rounds) {
  for (int rank = 0; rank < size_; ++rank) {
    if (rank != rank_ && !RankHas(rank, flag, seen, rounds)) return false;
  }
  return true;
}

bool SharedMemoryCollectives::SameOperation(int peer, uint64_t round, const Operation& operation) {
  const uint64_t own = Identity(operation);
  const uint64_t other =
      segment_->flags(peer).identities[round % kRoundsInFlight].load(std::memory_order_relaxed);
  if (own == other) return true;
  table_->Fail(
      Internal("ranks of a channel are in different collectives: rank {} in {}, rank {} in {}",
               rank_, Describe(own), peer, Describe(other)));
  return false;
}

bool SharedMemoryCollectives::IsSliced(const Operation& operation, size_t bytes) const {
  const size_t nodes = operation.tree != nullptr ? operation.tree->MostNodes() : 1;
  return operation.kind == OperationKind::kAllReduce && size_ > 2 && bytes * nodes > kSlicedBytes;
}

std::pair<size_t, size_t> SharedMemoryCollectives::Slice(int rank, size_t bytes) const {
  const size_t ranks = static_cast<size_t>(size_);
  const size_t slice = ((bytes + ranks - 1) / ranks + kLine - 1) / kLine * kLine;
  const size_t begin = std::min(bytes, static_cast<size_t>(rank) * slice);
  return {begin, std::min(bytes, begin + slice)};
}

void SharedMemoryCollectives::CopyAround(std::byte* to, const std::byte* data, size_t bytes,
                                         size_t skip_begin, size_t skip_end) {
  std::memcpy(to, data, skip_begin);
  std::memcpy(to + skip_end, data + skip_end, bytes - skip_end);
}

void SharedMemoryCollectives::CopyNodes(const Operation& operation, uint64_t round, size_t begin,
                                        size_t bytes, size_t skip_begin, size_t skip_end) {
  std::byte* place = segment_->round_data(rank_, round);
  const std::byte* data = operation.in + begin;
  for (size_t node = 0; node < operation.Nodes(rank_); ++node) {
    CopyAround(place, data, bytes, skip_begin, skip_end);
    place += PieceBytes(operation);
    data += operation.node_stride;
  }
}

void SharedMemoryCollectives::Sum(const Operation& operation, uint64_t round, const std::byte* own,
                                  size_t begin, size_t end, std::byte* out) {
  const size_t piece = PieceBytes(operation);
  size_t count = 0;
  for (int rank = 0; rank < size_; ++rank) {
    const std::byte* data = rank == rank_ ? own : segment_->round_data(rank, round);
    const size_t stride = rank == rank_ ? operation.node_stride : piece;
    for (size_t node = 0; node < operation.Nodes(rank); ++node, data += stride) {
      sources_[count++] = reinterpret_cast<const float*>(data + begin);
    }
  }
  const std::span<const float* const> sources(sources_.data(), count);
  const size_t floats = (end - begin) / sizeof(float);
  auto* const result = reinterpret_cast<float*>(out);
  if (operation.tree != nullptr) {
    SumInTreeOrder(sources, *operation.tree, floats, result);
  } else {
    SumInRankOrder(sources, floats, result);
  }
}

bool SharedMemoryCollectives::Contribute() {
  if (contribute_.operations == begun_) return false;
  const uint64_t round = contribute_.rounds;
  // The place is free when all have read what was in it. Also for a rank that adds nothing, whose
  // identity of the earlier round may still be looked at.
  if (round >= kRoundsInFlight &&
      !AllHave(&RankFlags::consumed, &consumed_, round - kRoundsInFlight + 1)) {
    return false;
  }
  const Operation& operation = At(contribute_);
  const size_t piece = PieceBytes(operation);
  const size_t begin = contribute_.index * piece;
  std::byte* const place = segment_->round_data(rank_, round);
  switch (operation.kind) {
    case OperationKind::kAllReduce: {
      const size_t bytes = std::min(piece, operation.bytes - begin);
      const auto [skip_begin, skip_end] =
          IsSliced(operation, bytes) ? Slice(rank_, bytes) : std::pair<size_t, size_t>(0, 0);
      CopyNodes(operation, round, begin, bytes, skip_begin, skip_end);
      break;
    }
    case OperationKind::kReduceScatter: {
      const size_t bytes = std::min(piece, operation.bytes - begin);
      const size_t own = static_cast<size_t>(rank_);
      const size_t skip_begin = std::clamp(operation.offsets[own], begin, begin + bytes) - begin;
      const size_t skip_end = std::clamp(operation.offsets[own + 1], begin, begin + bytes) - begin;
      CopyNodes(operation, round, begin, bytes, skip_begin, skip_end);
      break;
    }
    case OperationKind::kGather:
      if (rank_ == operation.peer) break;
      [[fallthrough]];
    case OperationKind::kAllGather:
      if (const size_t part = operation.PartBytes(rank_); begin < part) {
        std::memcpy(place, operation.in + begin, std::min(piece, part - begin));
      }
      break;
    case OperationKind::kBroadcast:
      if (rank_ == operation.peer) {
        std::memcpy(place, operation.in + begin, std::min(piece, operation.bytes - begin));
      }
      break;
    case OperationKind::kSend:
    case OperationKind::kReceive:
      break;
  }
  RankFlags& flags = segment_->flags(rank_);
  flags.identities[round % kRoundsInFlight].store(Identity(operation), std::memory_order_relaxed);
  flags.consumed_by_then.store(complete_.rounds, std::memory_order_release);
  Advance(&contribute_);
  flags.contributed.store(contribute_.rounds, std::memory_order_release);
  return true;
}

bool SharedMemoryCollectives::Reduce() {
  if (reduce_.rounds == contribute_.rounds) return false;
  const Operation& operation = At(reduce_);
  const uint64_t round = reduce_.rounds;
  const size_t piece = PieceBytes(operation);
  const size_t begin = reduce_.index * piece;
  const size_t bytes = std::min(piece, operation.bytes - std::min(operation.bytes, begin));
  if (!IsSliced(operation, bytes)) {
    Advance(&reduce_);
    return true;
  }
  for (int peer = 0; peer < size_; ++peer) {
    if (peer != rank_ && !RankHasContributed(peer, round + 1)) return false;
  }
  for (int peer = 0; peer < size_; ++peer) {
    if (peer != rank_ && !SameOperation(peer, round, operation)) return false;
  }
  const auto [slice_begin, slice_end] = Slice(rank_, bytes);
  std::byte* const data = operation.out + begin;
  Sum(operation, round, data, slice_begin, slice_end, data + slice_begin);
  std::memcpy(segment_->round_data(rank_, round) + slice_begin, data + slice_begin,
              slice_end - slice_begin);
  Advance(&reduce_);
  segment_->flags(rank_).reduced.store(reduce_.rounds, std::memory_order_release);
  return true;
}

bool SharedMemoryCollectives::Complete() {
  if (complete_.rounds == reduce_.rounds) return false;
  Operation& operation = At(complete_);
  const uint64_t round = complete_.rounds;
  const size_t piece = PieceBytes(operation);
  const size_t begin = complete_.index * piece;
  const size_t bytes = std::min(piece, operation.bytes - std::min(operation.bytes, begin));
  const bool sliced = IsSliced(operation, bytes);

  // From whom this rank reads.
  const bool reads = operation.kind == OperationKind::kGather      ? rank_ == operation.peer
                     : operation.kind == OperationKind::kBroadcast ? rank_ != operation.peer
                                                                   : true;
  if (reads) {
    const bool from_root = operation.kind == OperationKind::kBroadcast;
    const int first = from_root ? operation.peer : 0;
    const int last = from_root ? operation.peer + 1 : size_;
    for (int peer = first; peer < last; ++peer) {
      if (peer == rank_) continue;
      if (sliced) {
        if (!RankHas(peer, &RankFlags::reduced, &reduced_, round + 1)) return false;
      } else if (!RankHasContributed(peer, round + 1)) {
        return false;
      }
    }
    for (int peer = first; peer < last; ++peer) {
      if (peer != rank_ && !SameOperation(peer, round, operation)) return false;
    }
  }
  switch (operation.kind) {
    case OperationKind::kAllReduce:
      if (!sliced) {
        Sum(operation, round, operation.out + begin, 0, bytes, operation.out + begin);
        break;
      }
      for (int peer = 0; peer < size_; ++peer) {
        if (peer == rank_) continue;
        const auto [slice_begin, slice_end] = Slice(peer, bytes);
        std::memcpy(operation.out + begin + slice_begin,
                    segment_->round_data(peer, round) + slice_begin, slice_end - slice_begin);
      }
      break;
    case OperationKind::kReduceScatter: {
      const size_t own = operation.offsets[static_cast<size_t>(rank_)];
      const size_t own_begin = std::clamp(own, begin, begin + bytes);
      const size_t own_end =
          std::clamp(operation.offsets[static_cast<size_t>(rank_) + 1], begin, begin + bytes);
      if (own_begin < own_end) {
        Sum(operation, round, operation.in + begin, own_begin - begin, own_end - begin,
            operation.out + (own_begin - own));
      }
      break;
    }
    case OperationKind::kGather:
    case OperationKind::kAllGather:
      if (!reads) break;
      for (int peer = 0; peer < size_; ++peer) {
        const size_t part = operation.PartBytes(peer);
        if (peer == rank_ || begin >= part) continue;
        std::memcpy(operation.out + operation.offsets[static_cast<size_t>(peer)] + begin,
                    segment_->round_data(peer, round), std::min(piece, part - begin));
      }
      break;
    case OperationKind::kBroadcast:
      if (reads) {
        std::memcpy(operation.out + begin, segment_->round_data(operation.peer, round), bytes);
      }
      break;
    case OperationKind::kSend:
    case OperationKind::kReceive:
      break;
  }
  const uint64_t finished_before = complete_.operations;
  Advance(&complete_);
  segment_->flags(rank_).consumed.store(complete_.rounds, std::memory_order_release);
  if (complete_.operations != finished_before) operation.Finish();
  return true;
}

bool SharedMemoryCollectives::Progress() {
  bool moved = false;
  while (complete_.operations != begun_ && table_->failure.ok()) {
    bool step = Contribute();
    step |= Reduce();
    step |= Complete();
    if (!step) break;
    moved = true;
  }
  return moved;
}

}  // namespace llmir::comm
