#include "comm/mpi_collectives.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "comm/rank_order_sum.h"

namespace llmir::comm {
namespace {

// Below this an all-reduce is one exchange, and every rank sums everything.
constexpr size_t kDirectBytes = size_t{16} << 10;
constexpr size_t kLine = 64;

constexpr size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

MpiCollectives::MpiCollectives(MPI_Comm communicator, int rank, int size, size_t max_bytes,
                               OperationTable* table)
    : communicator_(communicator),
      table_(table),
      rank_(rank),
      size_(size),
      round_bytes_(std::max(RoundUp(std::min(max_bytes, kMpiRoundBytes), kLine), kLine)),
      sources_(static_cast<size_t>(size) * SumTree::kMaxNodes) {
  const size_t peers = static_cast<size_t>(size - 1);
  const size_t part =
      std::max(SliceStride(round_bytes_), RoundUp(std::min(round_bytes_, kDirectBytes), kLine));
  // A node's slice is rounded up to a line.
  const size_t rounding = SumTree::kMaxNodes * kLine;
  for (Round& round : rounds_) {
    round.requests.assign(2 * peers, MPI_REQUEST_NULL);
    round.scratch.resize(peers * (part + rounding));
    round.packed = std::make_unique_for_overwrite<std::byte[]>((peers + 1) * (part + rounding));
  }
}

MpiCollectives::~MpiCollectives() {
  for (Round& round : rounds_) {
    for (int i = 0; i < round.request_count; ++i) {
      MPI_Request& request = round.requests[static_cast<size_t>(i)];
      if (request == MPI_REQUEST_NULL) continue;
      MPI_Cancel(&request);
      MPI_Request_free(&request);
    }
  }
}

size_t MpiCollectives::SliceStride(size_t bytes) const {
  const size_t ranks = static_cast<size_t>(size_);
  return RoundUp((bytes + ranks - 1) / ranks, kLine);
}

std::pair<size_t, size_t> MpiCollectives::Slice(int rank, size_t bytes) const {
  const size_t stride = SliceStride(bytes);
  const size_t begin = std::min(bytes, static_cast<size_t>(rank) * stride);
  return {begin, std::min(bytes, begin + stride)};
}

bool MpiCollectives::IsSliced(const Operation& operation, size_t bytes) const {
  const size_t nodes = operation.tree != nullptr ? operation.tree->MostNodes() : 1;
  return operation.kind == OperationKind::kAllReduce && bytes * nodes > kDirectBytes;
}

size_t MpiCollectives::PieceBytes(const Operation& operation) const {
  return operation.NodePiece(
      operation.kind == OperationKind::kReduceScatter ? SliceStride(round_bytes_) : round_bytes_);
}

size_t MpiCollectives::RoundCount(const Operation& operation) const {
  size_t bytes = operation.bytes;
  if (operation.kind != OperationKind::kAllReduce && operation.kind != OperationKind::kBroadcast) {
    bytes = 0;
    for (int rank = 0; rank < size_; ++rank) bytes = std::max(bytes, operation.PartBytes(rank));
  }
  const size_t piece = PieceBytes(operation);
  return (bytes + piece - 1) / piece;
}

void MpiCollectives::Begin(int slot) {
  const size_t rounds = RoundCount(table_->operations[static_cast<size_t>(slot)]);
  round_counts_[static_cast<size_t>(slot)] = rounds;
  rounds_left_[static_cast<size_t>(slot)] = rounds;
  queue_[begun_++ % kMaxRequests] = slot;
}

int MpiCollectives::Tag(const Round& round) const {
  // Tags come round again after thousands of rounds; by then order alone tells equal tags apart,
  // since MPI keeps it.
  return static_cast<int>(round.number % (kMpiCollectiveTags / 2)) * 2 + round.phase;
}

void MpiCollectives::PostSend(Round* round, const std::byte* data, size_t bytes, int peer) {
  if (bytes == 0 || !table_->failure.ok()) return;
  const Status status =
      MpiStatus(MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, peer, Tag(*round), communicator_,
                          &round->requests[static_cast<size_t>(round->request_count++)]),
                "MPI_Isend");
  if (!status.ok()) table_->Fail(status);
}

void MpiCollectives::PostReceive(Round* round, std::byte* data, size_t bytes, int peer) {
  if (bytes == 0 || !table_->failure.ok()) return;
  const Status status =
      MpiStatus(MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, peer, Tag(*round), communicator_,
                          &round->requests[static_cast<size_t>(round->request_count++)]),
                "MPI_Irecv");
  if (!status.ok()) table_->Fail(status);
}

void MpiCollectives::PostSendNodes(Round* round, const std::byte* data, size_t bytes, int peer) {
  const Operation& operation = table_->operations[static_cast<size_t>(round->slot)];
  const size_t nodes = operation.Nodes(rank_);
  if (nodes > 1) {
    std::byte* const message = round->packed.get() + round->packed_bytes;
    for (size_t node = 0; node < nodes; ++node) {
      std::memcpy(message + node * bytes, data + node * operation.node_stride, bytes);
    }
    round->packed_bytes += nodes * bytes;
    data = message;
  }
  PostSend(round, data, nodes * bytes, peer);
}

size_t MpiCollectives::ScratchBytes(const Operation& operation, size_t bytes, int peer) {
  return RoundUp(operation.Nodes(peer) * bytes, kLine);
}

void MpiCollectives::PostFirstPhase(Round* round) {
  const Operation& operation = table_->operations[static_cast<size_t>(round->slot)];
  const size_t piece = PieceBytes(operation);
  const size_t begin = round->index * piece;
  // What a round carries of a part of `bytes` bytes.
  const auto piece_of = [&](size_t bytes) {
    return bytes > begin ? std::min(piece, bytes - begin) : 0;
  };
  const bool is_root = rank_ == operation.peer;
  // Where the next peer's data goes to in the scratch memory.
  std::byte* scratch = round->scratch.data();
  round->packed_bytes = 0;
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    const size_t other = static_cast<size_t>(peer);
    switch (operation.kind) {
      case OperationKind::kAllReduce: {
        const size_t bytes = piece_of(operation.bytes);
        if (IsSliced(operation, bytes)) {
          const auto [own_begin, own_end] = Slice(rank_, bytes);
          const auto [peer_begin, peer_end] = Slice(peer, bytes);
          PostReceive(round, scratch, operation.Nodes(peer) * (own_end - own_begin), peer);
          PostSendNodes(round, operation.in + begin + peer_begin, peer_end - peer_begin, peer);
          scratch += ScratchBytes(operation, own_end - own_begin, peer);
        } else {
          PostReceive(round, scratch, operation.Nodes(peer) * bytes, peer);
          PostSendNodes(round, operation.in + begin, bytes, peer);
          scratch += ScratchBytes(operation, bytes, peer);
        }
        break;
      }
      case OperationKind::kReduceScatter: {
        const size_t bytes = piece_of(operation.PartBytes(rank_));
        PostReceive(round, scratch, operation.Nodes(peer) * bytes, peer);
        PostSendNodes(round, operation.in + operation.offsets[other] + begin,
                      piece_of(operation.PartBytes(peer)), peer);
        scratch += ScratchBytes(operation, bytes, peer);
        break;
      }
      case OperationKind::kGather:
      case OperationKind::kAllGather: {
        const bool all = operation.kind == OperationKind::kAllGather;
        if (all || is_root) {
          PostReceive(round, operation.out + operation.offsets[other] + begin,
                      piece_of(operation.PartBytes(peer)), peer);
        }
        if (all || peer == operation.peer) {
          PostSend(round, operation.in + begin, piece_of(operation.PartBytes(rank_)), peer);
        }
        break;
      }
      case OperationKind::kBroadcast:
        // Straight from the root, not along a tree: ranks that sleep in WaitIdle would each delay
        // those below them.
        if (is_root) {
          PostSend(round, operation.in + begin, piece_of(operation.bytes), peer);
        } else if (peer == operation.peer) {
          PostReceive(round, operation.out + begin, piece_of(operation.bytes), peer);
        }
        break;
      case OperationKind::kSend:
      case OperationKind::kReceive:
        break;
    }
  }
}

void MpiCollectives::PostSecondPhase(Round* round) {
  const Operation& operation = table_->operations[static_cast<size_t>(round->slot)];
  const size_t piece = PieceBytes(operation);
  const size_t begin = round->index * piece;
  const size_t bytes = std::min(piece, operation.bytes - begin);
  const auto [own_begin, own_end] = Slice(rank_, bytes);
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    const auto [peer_begin, peer_end] = Slice(peer, bytes);
    PostReceive(round, operation.out + begin + peer_begin, peer_end - peer_begin, peer);
    PostSend(round, operation.out + begin + own_begin, own_end - own_begin, peer);
  }
}

void MpiCollectives::Sum(const Round& round, const std::byte* own, size_t bytes, std::byte* out) {
  const Operation& operation = table_->operations[static_cast<size_t>(round.slot)];
  const std::byte* other = round.scratch.data();
  size_t count = 0;
  for (int rank = 0; rank < size_; ++rank) {
    const std::byte* source = rank == rank_ ? own : other;
    const size_t stride = rank == rank_ ? operation.node_stride : bytes;
    for (size_t node = 0; node < operation.Nodes(rank); ++node, source += stride) {
      sources_[count++] = reinterpret_cast<const float*>(source);
    }
    if (rank != rank_) other += ScratchBytes(operation, bytes, rank);
  }
  const std::span<const float* const> sources(sources_.data(), count);
  auto* const result = reinterpret_cast<float*>(out);
  if (operation.tree != nullptr) {
    SumInTreeOrder(sources, *operation.tree, bytes / sizeof(float), result);
  } else {
    SumInRankOrder(sources, bytes / sizeof(float), result);
  }
}

void MpiCollectives::EndPhase(Round* round) {
  Operation& operation = table_->operations[static_cast<size_t>(round->slot)];
  round->request_count = 0;
  const size_t piece = PieceBytes(operation);
  const size_t begin = round->index * piece;
  if (operation.kind == OperationKind::kAllReduce && round->phase == 0) {
    const size_t bytes = std::min(piece, operation.bytes - begin);
    std::byte* const data = operation.out + begin;
    if (IsSliced(operation, bytes)) {
      const auto [own_begin, own_end] = Slice(rank_, bytes);
      Sum(*round, data + own_begin, own_end - own_begin, data + own_begin);
      round->phase = 1;
      PostSecondPhase(round);
      return;
    }
    Sum(*round, data, bytes, data);
  } else if (operation.kind == OperationKind::kReduceScatter &&
             operation.PartBytes(rank_) > begin) {
    Sum(*round, operation.in + operation.offsets[static_cast<size_t>(rank_)] + begin,
        std::min(piece, operation.PartBytes(rank_) - begin), operation.out + begin);
  }
  EndRound(round);
}

void MpiCollectives::EndRound(Round* round) {
  const size_t slot = static_cast<size_t>(round->slot);
  round->slot = -1;
  if (--rounds_left_[slot] == 0) table_->operations[slot].Finish();
}

bool MpiCollectives::StartNextRound() {
  if (starting_ == begun_) return false;
  Round& round = rounds_[next_round_ % kRoundsInFlight];
  if (round.slot >= 0) return false;
  round.slot = queue_[starting_ % kMaxRequests];
  round.number = next_round_++;
  round.index = starting_index_;
  round.phase = 0;
  round.request_count = 0;
  if (++starting_index_ == round_counts_[static_cast<size_t>(round.slot)]) {
    starting_index_ = 0;
    ++starting_;
  }
  PostFirstPhase(&round);
  return true;
}

bool MpiCollectives::Progress() {
  bool moved = false;
  while (table_->failure.ok() && StartNextRound()) moved = true;
  for (Round& round : rounds_) {
    if (round.slot < 0 || !table_->failure.ok()) continue;
    int finished = 0;
    const Status status = MpiStatus(
        MPI_Testall(round.request_count, round.requests.data(), &finished, MPI_STATUSES_IGNORE),
        "MPI_Testall of a collective's messages");
    if (!status.ok()) {
      table_->Fail(status);
    } else if (finished != 0) {
      EndPhase(&round);
      moved = true;
    }
  }
  return moved;
}

}  // namespace llmir::comm
