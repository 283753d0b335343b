#include "comm/hierarchical_channel.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "comm/mpi_messages.h"
#include "comm/rank_order_sum.h"
#include "comm/wire.h"

namespace llmir::comm {
namespace {

// Data of more bytes goes in pieces: one is summed while others are on their way.
constexpr size_t kPiece = size_t{256} << 10;
// Rounds under way have tags of their own, whatever their order.
constexpr uint64_t kTags = 4096;
constexpr uint64_t kContents = 3;
static_assert(kTags * kContents <= kMaxTag);

constexpr size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

int HostRanks::HostOf(int rank) const {
  return static_cast<int>(std::upper_bound(firsts.begin(), firsts.end(), rank) - firsts.begin()) -
         1;
}

size_t HierarchicalChannel::InnerBytes(const HostRanks& hosts, size_t max_bytes) {
  return std::max(max_bytes, static_cast<size_t>(hosts.ranks(hosts.own)) * kPiece);
}

HierarchicalChannel::HierarchicalChannel(Parts parts, HostRanks hosts, int rank, int size,
                                         size_t max_bytes)
    : OperationChannel(rank, size, max_bytes, "hierarchical"),
      parts_(std::move(parts)),
      hosts_(std::move(hosts)),
      counts_(static_cast<size_t>(hosts_.ranks(hosts_.own))),
      all_counts_(static_cast<size_t>(size)),
      sources_(static_cast<size_t>(size)) {
  const size_t piece = RoundUp(std::min(max_bytes, kPiece), sizeof(float));
  for (Round& round : rounds_) {
    round.sum.resize(piece);
    round.transfers.reserve(2 * static_cast<size_t>(size));
    if (!is_leader()) continue;
    round.prefix.resize(piece);
    round.parts.resize(std::max(static_cast<size_t>(hosts_.ranks(hosts_.own)) * piece,
                                static_cast<size_t>(size) * std::min(piece, kMpiEagerBytes)));
  }
}

bool HierarchicalChannel::IsSum(const Operation& operation) {
  return operation.kind == OperationKind::kAllReduce ||
         operation.kind == OperationKind::kReduceScatter;
}

bool HierarchicalChannel::IsDirect(const Operation& operation) const {
  if (operation.kind != OperationKind::kAllReduce) return false;
  int most = 0;
  for (int host = 0; host < hosts_.hosts(); ++host) most = std::max(most, hosts_.ranks(host));
  return operation.bytes * static_cast<size_t>(most) <= kMpiEagerBytes;
}

size_t HierarchicalChannel::PieceBytes(const Operation& operation) const {
  const bool whole =
      operation.kind == OperationKind::kAllGather || operation.kind == OperationKind::kGather;
  return whole ? operation.bytes : kPiece;
}

std::byte* HierarchicalChannel::Target(Round* round) {
  Operation& operation = OperationOf(*round);
  return operation.kind == OperationKind::kReduceScatter ? round->sum.data()
                                                         : operation.out + round->begin;
}

std::pair<size_t, size_t> HierarchicalChannel::PartOf(const Round& round, int first, int last) {
  const Operation& operation = OperationOf(round);
  const size_t end = round.begin + round.bytes;
  return {std::clamp(operation.offsets[static_cast<size_t>(first)], round.begin, end) - round.begin,
          std::clamp(operation.offsets[static_cast<size_t>(last)], round.begin, end) - round.begin};
}

Request HierarchicalChannel::Take(StatusOr<Request> request) {
  if (request.ok()) return *request;
  table().Fail(request.status());
  return Request{};
}

void HierarchicalChannel::Begin(int slot) {
  const Operation& operation = table().operations[static_cast<size_t>(slot)];
  const size_t place = static_cast<size_t>(slot);
  if (operation.IsMessage()) {
    Channel& channel = ChannelOf(operation);
    const int peer = IsNear(operation) ? operation.peer - hosts_.first(hosts_.own) : operation.peer;
    whole_requests_[place] = Take(
        operation.kind == OperationKind::kSend
            ? channel.StartSend(operation.in, operation.bytes, peer, operation.tag, operation.wire)
            : channel.StartRecv(operation.out, operation.bytes, peer, operation.tag,
                                operation.wire));
    is_whole_[place] = true;
  } else if (operation.tree != nullptr) {
    // Its nodes are added across hosts in no order that a prefix could go along.
    whole_requests_[place] = Take(StartTreeSum(operation));
    is_whole_[place] = true;
  } else {
    const size_t piece = PieceBytes(operation);
    const size_t rounds = (operation.bytes + piece - 1) / piece;
    round_counts_[place] = rounds;
    rounds_left_[place] = rounds;
    queue_[begun_++ % kMaxRequests] = slot;
  }
  Progress();
}

bool HierarchicalChannel::IsNear(const Operation& operation) const {
  return operation.IsMessage() && hosts_.HostOf(operation.peer) == hosts_.own;
}

Channel& HierarchicalChannel::ChannelOf(const Operation& operation) const {
  return IsNear(operation) ? *parts_.host_messages : *parts_.messages;
}

StatusOr<Request> HierarchicalChannel::StartTreeSum(const Operation& operation) {
  const size_t stride = operation.node_stride / sizeof(float);
  auto* const out = reinterpret_cast<float*>(operation.out);
  if (operation.kind == OperationKind::kAllReduce) {
    return parts_.messages->StartTreeAllReduce(out, operation.bytes / sizeof(float), stride,
                                               *operation.tree);
  }
  for (int peer = 0; peer < size(); ++peer) {
    all_counts_[static_cast<size_t>(peer)] = operation.PartBytes(peer) / sizeof(float);
  }
  return parts_.messages->StartTreeReduceScatter(reinterpret_cast<const float*>(operation.in),
                                                 all_counts_, stride, *operation.tree, out);
}

bool HierarchicalChannel::StartNextRound() {
  if (starting_ == begun_) return false;
  Round& round = rounds_[next_round_ % kRoundsInFlight];
  if (round.slot >= 0) return false;
  round.slot = queue_[starting_ % kMaxRequests];
  const Operation& operation = OperationOf(round);
  round.number = next_round_++;
  round.begin = starting_index_ * PieceBytes(operation);
  round.bytes = std::min(PieceBytes(operation), operation.bytes - round.begin);
  round.stage = Stage::kUp;
  round.handed_down = false;
  round.up = Request{};
  round.down = {};
  round.transfers.clear();
  round.started = 0;
  round.open = {};
  if (++starting_index_ == round_counts_[static_cast<size_t>(round.slot)]) {
    starting_index_ = 0;
    ++starting_;
  }
  StartUp(&round);
  return true;
}

void HierarchicalChannel::AddSend(Round* round, Content content, const std::byte* data,
                                  size_t bytes, int peer) {
  if (bytes == 0) return;
  round->transfers.push_back({const_cast<std::byte*>(data), bytes, peer, content, true});
}

void HierarchicalChannel::AddReceive(Round* round, Content content, std::byte* data, size_t bytes,
                                     int peer) {
  if (bytes == 0) return;
  round->transfers.push_back({data, bytes, peer, content, false});
}

template <typename Offset>
void HierarchicalChannel::AddExchange(Round* round, std::byte* data, const Offset& offset) {
  if (!is_leader()) return;
  const int hosts = hosts_.hosts();
  const auto bytes_of = [&](int host) {
    return offset(hosts_.first(host + 1)) - offset(hosts_.first(host));
  };
  // To the next but k and from the last but k: what a leader waits for, the other has started too,
  // however few transfers are under way at a time.
  for (int distance = 1; distance < hosts; ++distance) {
    const int to = (hosts_.own + distance) % hosts;
    const int from = (hosts_.own + hosts - distance) % hosts;
    AddSend(round, Content::kParts, data + offset(hosts_.first(hosts_.own)), bytes_of(hosts_.own),
            leader(to));
    AddReceive(round, Content::kParts, data + offset(hosts_.first(from)), bytes_of(from),
               leader(from));
  }
}

void HierarchicalChannel::StartUp(Round* round) {
  Operation& operation = OperationOf(*round);
  const int first = hosts_.first(hosts_.own);
  const size_t local = counts_.size();
  const auto floats = [](const std::byte* data) { return reinterpret_cast<const float*>(data); };
  const auto place = [](std::byte* data) { return reinterpret_cast<float*>(data); };
  const auto count_parts = [&] {
    for (size_t i = 0; i < local; ++i) {
      counts_[i] = operation.PartBytes(first + static_cast<int>(i)) / sizeof(float);
    }
  };
  switch (operation.kind) {
    case OperationKind::kAllReduce:
    case OperationKind::kReduceScatter: {
      // Ranks' data one after the other; where all leaders sum, at the place of this host's ranks.
      std::fill(counts_.begin(), counts_.end(), round->bytes / sizeof(float));
      const size_t begin = IsDirect(operation) ? static_cast<size_t>(first) * round->bytes : 0;
      round->up = Take(parts_.up->StartGather(
          floats(operation.in + round->begin), counts_,
          is_leader() ? place(round->parts.data() + begin) : nullptr, /*root=*/0));
      if (!IsDirect(operation) && is_leader() && hosts_.own > 0) {
        AddReceive(round, Content::kPrefix, round->prefix.data(), round->bytes,
                   leader(hosts_.own - 1));
      }
      break;
    }
    case OperationKind::kAllGather:
      count_parts();
      round->up = Take(parts_.up->StartAllGather(
          floats(operation.out + operation.offsets[static_cast<size_t>(rank())]), counts_,
          place(operation.out + operation.offsets[static_cast<size_t>(first)])));
      break;
    case OperationKind::kGather:
      if (hosts_.HostOf(operation.peer) != hosts_.own) break;
      count_parts();
      round->up = Take(parts_.up->StartGather(
          floats(operation.in), counts_,
          rank() == operation.peer
              ? place(operation.out + operation.offsets[static_cast<size_t>(first)])
              : nullptr,
          operation.peer - first));
      break;
    case OperationKind::kBroadcast:
    case OperationKind::kSend:
    case OperationKind::kReceive:
      break;
  }
}

void HierarchicalChannel::SumHost(Round* round) {
  std::span<const float*> sources(sources_);
  size_t count = 0;
  if (hosts_.own > 0) sources[count++] = reinterpret_cast<const float*>(round->prefix.data());
  for (size_t i = 0; i < counts_.size(); ++i) {
    sources[count++] = reinterpret_cast<const float*>(round->parts.data() + i * round->bytes);
  }
  SumInRankOrder(sources.first(count), round->bytes / sizeof(float),
                 reinterpret_cast<float*>(Target(round)));
}

void HierarchicalChannel::KeepAsSent(const Operation& operation, std::byte* data, size_t bytes) {
  if (operation.wire == Wire::kFloat32) return;
  RoundInt8(reinterpret_cast<float*>(data), bytes / sizeof(float));
}

void HierarchicalChannel::StartOut(Round* round) {
  Operation& operation = OperationOf(*round);
  round->stage = Stage::kOut;
  switch (operation.kind) {
    case OperationKind::kAllReduce:
    case OperationKind::kReduceScatter:
      if (!is_leader()) break;
      if (IsDirect(operation)) {
        const size_t own = static_cast<size_t>(hosts_.first(hosts_.own)) * round->bytes;
        KeepAsSent(operation, round->parts.data() + own, counts_.size() * round->bytes);
        AddExchange(round, round->parts.data(),
                    [&](int rank) { return static_cast<size_t>(rank) * round->bytes; });
        break;
      }
      SumHost(round);
      if (!is_last()) {
        AddSend(round, Content::kPrefix, Target(round), round->bytes, leader(hosts_.own + 1));
      } else if (operation.kind == OperationKind::kAllReduce) {
        KeepAsSent(operation, Target(round), round->bytes);
        AddSend(round, Content::kTotal, Target(round), round->bytes, leader(0));
      } else {
        for (int host = 0; host < hosts_.own; ++host) {
          const auto [begin, end] = PartOf(*round, hosts_.first(host), hosts_.first(host + 1));
          AddSend(round, Content::kTotal, Target(round) + begin, end - begin, leader(host));
        }
      }
      break;
    case OperationKind::kAllGather:
      AddExchange(round, operation.out,
                  [&](int rank) { return operation.offsets[static_cast<size_t>(rank)]; });
      break;
    case OperationKind::kGather:
      // Straight to the root: nothing would be saved on the way.
      if (rank() == operation.peer) {
        for (int peer = 0; peer < size(); ++peer) {
          if (hosts_.HostOf(peer) == hosts_.own) continue;
          AddReceive(round, Content::kParts,
                     operation.out + operation.offsets[static_cast<size_t>(peer)],
                     operation.PartBytes(peer), peer);
        }
      } else if (hosts_.HostOf(operation.peer) != hosts_.own) {
        AddSend(round, Content::kParts, operation.in, operation.PartBytes(rank()), operation.peer);
      }
      break;
    case OperationKind::kBroadcast:
      if (is_leader() && hosts_.HostOf(operation.peer) != hosts_.own) {
        AddReceive(round, Content::kParts, operation.out + round->begin, round->bytes,
                   operation.peer);
      }
      break;
    case OperationKind::kSend:
    case OperationKind::kReceive:
      break;
  }
}

void HierarchicalChannel::StartBack(Round* round) {
  Operation& operation = OperationOf(*round);
  round->stage = Stage::kBack;
  if (!IsSum(operation) || !is_leader()) return;
  if (IsDirect(operation)) {
    for (size_t i = 0; i < sources_.size(); ++i) {
      sources_[i] = reinterpret_cast<const float*>(round->parts.data() + i * round->bytes);
    }
    SumInRankOrder(sources_, round->bytes / sizeof(float),
                   reinterpret_cast<float*>(operation.out + round->begin));
    return;
  }
  if (is_last()) return;
  if (operation.kind == OperationKind::kAllReduce) {
    AddReceive(round, Content::kTotal, Target(round), round->bytes,
               leader(hosts_.own == 0 ? hosts_.hosts() - 1 : hosts_.own - 1));
  } else {
    const auto [begin, end] =
        PartOf(*round, hosts_.first(hosts_.own), hosts_.first(hosts_.own + 1));
    AddReceive(round, Content::kTotal, Target(round) + begin, end - begin,
               leader(hosts_.hosts() - 1));
  }
}

void HierarchicalChannel::StartDown(Round* round) {
  Operation& operation = OperationOf(*round);
  round->stage = Stage::kDown;
  // The total goes on to the next host that lacks it.
  if (operation.kind == OperationKind::kAllReduce && !IsDirect(operation) && is_leader() &&
      hosts_.own + 1 < hosts_.hosts() - 1) {
    AddSend(round, Content::kTotal, Target(round), round->bytes, leader(hosts_.own + 1));
  }
  // Ranks of the root's host need not wait for the others.
  if (operation.kind == OperationKind::kBroadcast && rank() == operation.peer) {
    for (int host = 0; host < hosts_.hosts(); ++host) {
      if (host == hosts_.own) continue;
      AddSend(round, Content::kParts, operation.in + round->begin, round->bytes, leader(host));
    }
  }
}

void HierarchicalChannel::HandDown(Round* round) {
  Operation& operation = OperationOf(*round);
  const int first = hosts_.first(hosts_.own);
  const int end = hosts_.first(hosts_.own + 1);
  const auto broadcast = [&](std::byte* data, size_t bytes, int root) {
    return Take(parts_.down->StartBroadcast(data, bytes, root));
  };
  round->handed_down = true;
  ++next_down_;
  switch (operation.kind) {
    case OperationKind::kAllReduce:
      round->down[0] = broadcast(Target(round), round->bytes, 0);
      break;
    case OperationKind::kReduceScatter: {
      const auto [part_begin, part_end] = PartOf(*round, first, end);
      round->down[0] = broadcast(Target(round) + part_begin, part_end - part_begin, 0);
      break;
    }
    case OperationKind::kAllGather: {
      // What is before and what is behind the host's own.
      const size_t host_end = operation.offsets[static_cast<size_t>(end)];
      round->down[0] = broadcast(operation.out, operation.offsets[static_cast<size_t>(first)], 0);
      round->down[1] = broadcast(operation.out + host_end, operation.bytes - host_end, 0);
      break;
    }
    case OperationKind::kBroadcast: {
      const bool is_root_host = hosts_.HostOf(operation.peer) == hosts_.own;
      round->down[0] = broadcast(operation.out + round->begin, round->bytes,
                                 is_root_host ? operation.peer - first : 0);
      break;
    }
    case OperationKind::kGather:
    case OperationKind::kSend:
    case OperationKind::kReceive:
      break;
  }
}

void HierarchicalChannel::End(Round* round) {
  Operation& operation = OperationOf(*round);
  if (operation.kind == OperationKind::kAllGather) {
    const size_t begin = operation.offsets[static_cast<size_t>(hosts_.first(hosts_.own))];
    const size_t end = operation.offsets[static_cast<size_t>(hosts_.first(hosts_.own + 1))];
    KeepAsSent(operation, operation.out + begin, end - begin);
  }
  if (operation.kind == OperationKind::kReduceScatter) {
    const auto [begin, end] = PartOf(*round, rank(), rank() + 1);
    if (begin < end) {
      const size_t own = operation.offsets[static_cast<size_t>(rank())];
      std::memcpy(operation.out + (round->begin + begin - own), round->sum.data() + begin,
                  end - begin);
    }
  }
  const size_t slot = static_cast<size_t>(round->slot);
  round->slot = -1;
  if (--rounds_left_[slot] == 0) operation.Finish();
}

bool HierarchicalChannel::Finished(Channel* channel, Request* request, bool* moved) {
  if (!request->valid()) return true;
  const StatusOr<bool> finished = channel->Test(*request);
  if (!finished.ok()) {
    table().Fail(finished.status());
    return false;
  }
  if (!*finished) return false;
  *request = Request{};
  *moved = true;
  return true;
}

bool HierarchicalChannel::MoveTransfers(Round* round, bool* moved) {
  const Wire wire = OperationOf(*round).wire;
  bool all = true;
  for (Request& request : round->open) {
    if (!table().failure.ok()) return false;
    if (!Finished(parts_.between.get(), &request, moved)) {
      all = false;
      continue;
    }
    if (round->started == round->transfers.size()) continue;
    const Transfer& transfer = round->transfers[round->started++];
    const int tag = static_cast<int>(round->number % kTags * kContents +
                                     static_cast<uint64_t>(transfer.content));
    Channel& channel = *parts_.between;
    request =
        Take(transfer.sends
                 ? channel.StartSend(transfer.data, transfer.bytes, transfer.peer, tag, wire)
                 : channel.StartRecv(transfer.data, transfer.bytes, transfer.peer, tag, wire));
    *moved = true;
    all = false;
  }
  return all;
}

bool HierarchicalChannel::ProgressRound(Round* round) {
  bool moved = false;
  const bool transferred = MoveTransfers(round, &moved);
  if (round->stage == Stage::kDown && !round->handed_down && round->number == next_down_ &&
      table().failure.ok()) {
    HandDown(round);
    moved = true;
  }
  bool finished = transferred && Finished(parts_.up.get(), &round->up, &moved);
  for (Request& request : round->down) {
    finished = Finished(parts_.down.get(), &request, &moved) && finished;
  }
  if (!finished || !table().failure.ok()) return moved;
  switch (round->stage) {
    case Stage::kUp:
    case Stage::kOut:
    case Stage::kBack:
      round->transfers.clear();
      round->started = 0;
      if (round->stage == Stage::kUp) {
        StartOut(round);
      } else if (round->stage == Stage::kOut) {
        StartBack(round);
      } else {
        StartDown(round);
      }
      return true;
    case Stage::kDown:
      if (!round->handed_down) return moved;
      End(round);
      return true;
  }
  return moved;
}

Status HierarchicalChannel::InGroupRanks(const Status& error, int peer) const {
  const std::string as_host = fmt::format("rank {},", peer - hosts_.first(hosts_.own));
  std::string message = error.message();
  const size_t at = message.find(as_host);
  if (at != std::string::npos) message.replace(at, as_host.size(), fmt::format("rank {},", peer));
  return Status(error.code(), std::move(message));
}

bool HierarchicalChannel::Progress() {
  bool moved = false;
  while (table().failure.ok() && StartNextRound()) moved = true;
  for (Round& round : rounds_) {
    while (round.slot >= 0 && table().failure.ok() && ProgressRound(&round)) moved = true;
  }
  for (size_t slot = 0; slot < is_whole_.size() && table().failure.ok(); ++slot) {
    if (!is_whole_[slot]) continue;
    Operation& operation = table().operations[slot];
    const StatusOr<bool> finished = ChannelOf(operation).Test(whole_requests_[slot]);
    if (finished.ok() && !*finished) continue;
    is_whole_[slot] = false;
    moved = true;
    if (finished.ok()) {
      operation.Finish();
    } else {
      operation.Finish(IsNear(operation) ? InGroupRanks(finished.status(), operation.peer)
                                         : finished.status());
    }
  }
  return moved;
}

}  // namespace llmir::comm
