#include "comm/mpi_collectives.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "comm/rank_order_sum.h"
#include "comm/wire.h"

namespace llmir::comm {
namespace {

// Below this an all-reduce is one exchange, and every rank sums everything.
constexpr size_t kDirectBytes = size_t{16} << 10;
constexpr size_t kLine = 64;
// Floats that are decoded before they are added: whole groups, near when they are read.
constexpr size_t kBlock = 32 * kWireGroup;

constexpr size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

MpiCollectives::MpiCollectives(MPI_Comm communicator, int rank, int size, size_t max_bytes,
                               OperationTable* table)
    : communicator_(communicator),
      table_(table),
      rank_(rank),
      size_(size),
      round_bytes_(std::max(RoundUp(std::min(max_bytes, kMpiRoundBytes), kLine), kLine)),
      decoded_(static_cast<size_t>(size) * kBlock),
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
  return operation.kind == OperationKind::kAllReduce &&
         operation.WireBytes(bytes) * nodes > kDirectBytes;
}

size_t MpiCollectives::PieceBytes(const Operation& operation) const {
  // What all peers send lies in the scratch memory at once.
  const bool is_sliced =
      operation.kind == OperationKind::kReduceScatter ||
      (operation.kind == OperationKind::kAllGather && operation.wire != Wire::kFloat32);
  return operation.NodePiece(is_sliced ? SliceStride(round_bytes_) : round_bytes_);
}

size_t MpiCollectives::Carried(const Round& round, size_t bytes) const {
  const size_t piece = PieceBytes(table_->operations[static_cast<size_t>(round.slot)]);
  const size_t begin = round.index * piece;
  return bytes > begin ? std::min(piece, bytes - begin) : 0;
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

std::byte* MpiCollectives::Pack(Round* round, size_t bytes) {
  std::byte* const place = round->packed.get() + round->packed_bytes;
  round->packed_bytes += bytes;
  return place;
}

const std::byte* MpiCollectives::AsSent(Round* round, const Operation& operation,
                                        const std::byte* data, size_t bytes) {
  if (operation.wire == Wire::kFloat32) return data;
  std::byte* const message = Pack(round, operation.WireBytes(bytes));
  EncodeInt8(reinterpret_cast<const float*>(data), bytes / sizeof(float), message);
  return message;
}

void MpiCollectives::PostSendNodes(Round* round, const std::byte* data, size_t bytes, int peer) {
  const Operation& operation = table_->operations[static_cast<size_t>(round->slot)];
  const size_t nodes = operation.Nodes(rank_);
  if (nodes > 1) {
    std::byte* const message = Pack(round, nodes * bytes);
    for (size_t node = 0; node < nodes; ++node) {
      std::memcpy(message + node * bytes, data + node * operation.node_stride, bytes);
    }
    data = message;
  }
  PostSend(round, data, nodes * bytes, peer);
}

size_t MpiCollectives::ScratchBytes(const Operation& operation, size_t bytes, int peer) {
  return RoundUp(operation.Nodes(peer) * operation.WireBytes(bytes), kLine);
}

void MpiCollectives::PostEncoded(Round* round) {
  const Operation& operation = table_->operations[static_cast<size_t>(round->slot)];
  const size_t begin = round->index * PieceBytes(operation);
  const auto piece_of = [&](int rank) { return Carried(*round, operation.PartBytes(rank)); };
  const std::byte* const own = operation.in + begin;
  std::byte* scratch = round->scratch.data();
  round->packed_bytes = 0;
  // Of this rank's data, what a peer gets, and how much comes back.
  const auto exchange = [&](const std::byte* data, size_t sent, size_t received, int peer) {
    PostReceive(round, scratch, operation.WireBytes(received), peer);
    PostSend(round, data, operation.WireBytes(sent), peer);
    scratch += ScratchBytes(operation, received, peer);
  };
  if (operation.kind == OperationKind::kReduceScatter) {
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      const std::byte* const part = operation.in + operation.offsets[static_cast<size_t>(peer)];
      exchange(AsSent(round, operation, part + begin, piece_of(peer)), piece_of(peer),
               piece_of(rank_), peer);
    }
  } else if (operation.kind == OperationKind::kAllGather) {
    const std::byte* const sent = AsSent(round, operation, own, piece_of(rank_));
    for (int peer = 0; peer < size_; ++peer) {
      if (peer != rank_) exchange(sent, piece_of(rank_), piece_of(peer), peer);
    }
  } else {
    const size_t bytes = Carried(*round, operation.bytes);
    const bool is_sliced = IsSliced(operation, bytes);
    const std::byte* const sent = is_sliced ? nullptr : AsSent(round, operation, own, bytes);
    const auto [own_begin, own_end] = Slice(rank_, bytes);
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      const auto [peer_begin, peer_end] = Slice(peer, bytes);
      if (is_sliced) {
        exchange(AsSent(round, operation, own + peer_begin, peer_end - peer_begin),
                 peer_end - peer_begin, own_end - own_begin, peer);
      } else {
        exchange(sent, bytes, bytes, peer);
      }
    }
  }
}

void MpiCollectives::PostFirstPhase(Round* round) {
  const Operation& operation = table_->operations[static_cast<size_t>(round->slot)];
  if (operation.wire != Wire::kFloat32) return PostEncoded(round);
  const size_t begin = round->index * PieceBytes(operation);
  const auto piece_of = [&](size_t bytes) { return Carried(*round, bytes); };
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
  const size_t begin = round->index * PieceBytes(operation);
  const size_t bytes = Carried(*round, operation.bytes);
  const auto [own_begin, own_end] = Slice(rank_, bytes);
  round->packed_bytes = 0;
  const std::byte* const total =
      AsSent(round, operation, operation.out + begin + own_begin, own_end - own_begin);
  std::byte* scratch = round->scratch.data();
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    const auto [peer_begin, peer_end] = Slice(peer, bytes);
    std::byte* place = operation.out + begin + peer_begin;
    if (operation.wire != Wire::kFloat32) {
      place = scratch;
      scratch += ScratchBytes(operation, peer_end - peer_begin, peer);
    }
    PostReceive(round, place, operation.WireBytes(peer_end - peer_begin), peer);
    PostSend(round, total, operation.WireBytes(own_end - own_begin), peer);
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

void MpiCollectives::SumEncoded(const Round& round, const std::byte* own,
                                const std::byte* own_encoded, size_t bytes, std::byte* out) {
  const Operation& operation = table_->operations[static_cast<size_t>(round.slot)];
  const size_t count = bytes / sizeof(float);
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t block = std::min(kBlock, count - begin);
    const size_t skipped = operation.WireBytes(begin * sizeof(float));
    const std::byte* encoded = round.scratch.data() + skipped;
    for (int rank = 0; rank < size_; ++rank) {
      float* const decoded = decoded_.data() + static_cast<size_t>(rank) * kBlock;
      sources_[static_cast<size_t>(rank)] = decoded;
      if (rank != rank_) {
        DecodeInt8(encoded, block, decoded);
        encoded += ScratchBytes(operation, bytes, rank);
      } else if (own_encoded != nullptr) {
        DecodeInt8(own_encoded + skipped, block, decoded);
      } else {
        sources_[static_cast<size_t>(rank)] = reinterpret_cast<const float*>(own) + begin;
      }
    }
    SumInRankOrder(std::span(sources_).first(static_cast<size_t>(size_)), block,
                   reinterpret_cast<float*>(out) + begin);
  }
}

template <typename Bytes, typename Place>
void MpiCollectives::PlaceEncoded(Round* round, const Bytes& bytes, const Place& place) {
  const Operation& operation = table_->operations[static_cast<size_t>(round->slot)];
  const std::byte* scratch = round->scratch.data();
  for (int rank = 0; rank < size_; ++rank) {
    const std::byte* const encoded = rank == rank_ ? round->packed.get() : scratch;
    DecodeInt8(encoded, bytes(rank) / sizeof(float), reinterpret_cast<float*>(place(rank)));
    if (rank != rank_) scratch += ScratchBytes(operation, bytes(rank), rank);
  }
}

void MpiCollectives::EndPhase(Round* round) {
  Operation& operation = table_->operations[static_cast<size_t>(round->slot)];
  round->request_count = 0;
  const size_t begin = round->index * PieceBytes(operation);
  const bool is_encoded = operation.wire != Wire::kFloat32;
  const auto sum = [&](const std::byte* own, const std::byte* own_encoded, size_t bytes,
                       std::byte* out) {
    if (is_encoded) {
      SumEncoded(*round, own, own_encoded, bytes, out);
    } else {
      Sum(*round, own, bytes, out);
    }
  };
  if (operation.kind == OperationKind::kAllReduce) {
    const size_t bytes = Carried(*round, operation.bytes);
    std::byte* const data = operation.out + begin;
    const auto slice = [&](int rank) { return Slice(rank, bytes); };
    if (!IsSliced(operation, bytes)) {
      // Everyone adds what everyone else has: this rank's part too as it was sent.
      sum(data, round->packed.get(), bytes, data);
    } else if (round->phase == 0) {
      const auto [own_begin, own_end] = slice(rank_);
      sum(data + own_begin, nullptr, own_end - own_begin, data + own_begin);
      round->phase = 1;
      PostSecondPhase(round);
      return;
    } else if (is_encoded) {
      PlaceEncoded(
          round, [&](int rank) { return slice(rank).second - slice(rank).first; },
          [&](int rank) { return data + slice(rank).first; });
    }
  } else if (operation.kind == OperationKind::kReduceScatter) {
    if (operation.PartBytes(rank_) > begin) {
      sum(operation.in + operation.offsets[static_cast<size_t>(rank_)] + begin, nullptr,
          Carried(*round, operation.PartBytes(rank_)), operation.out + begin);
    }
  } else if (is_encoded) {
    PlaceEncoded(
        round, [&](int rank) { return Carried(*round, operation.PartBytes(rank)); },
        [&](int rank) {
          return operation.out + operation.offsets[static_cast<size_t>(rank)] + begin;
        });
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
