// The channel of ranks on several hosts, some of which have more than one of them. Within a host
// data goes through shared memory; between hosts one rank of each, the leader, exchanges for all
// of it by MPI. A host's ranks follow each other in the group, so that sums keep the order of the
// ranks: a prefix of the sum goes from host to host, and the total comes back; little data is
// exchanged as it is and summed by every leader, in one message each way. Sums over a tree and
// messages between hosts go from rank to rank by MPI.
//
// As in the other backends a collective is cut into rounds, numbered the same on all ranks, of
// which a few are under way at a time. A round goes through four stages: up to the leader, out to
// other hosts, back, and down from the leader.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "comm/channel.h"
#include "comm/operation_channel.h"

namespace llmir::comm {

// The hosts of a group: host h has the ranks from firsts[h] to firsts[h + 1], its leader first.
struct HostRanks {
  std::vector<int> firsts;
  int own = 0;

  int hosts() const { return static_cast<int>(firsts.size()) - 1; }
  int first(int host) const { return firsts[static_cast<size_t>(host)]; }
  int ranks(int host) const { return first(host + 1) - first(host); }
  int HostOf(int rank) const;
};

class HierarchicalChannel final : public OperationChannel {
 public:
  // The channels that this one is made of. Those of a host have its ranks in group order and the
  // size of InnerBytes at least, the others all ranks of the group.
  struct Parts {
    std::unique_ptr<Channel> up;
    std::unique_ptr<Channel> down;
    std::unique_ptr<Channel> host_messages;
    std::unique_ptr<Channel> between;   // what leaders exchange
    std::unique_ptr<Channel> messages;  // and sums over a tree
  };
  static size_t InnerBytes(const HostRanks& hosts, size_t max_bytes);

  HierarchicalChannel(Parts parts, HostRanks hosts, int rank, int size, size_t max_bytes);

 protected:
  void Begin(int slot) override;
  bool Progress() override;

 private:
  static constexpr int kRoundsInFlight = 4;
  static constexpr int kTransfersInFlight = kMaxRequests / kRoundsInFlight;

  enum class Stage : uint8_t { kUp, kOut, kBack, kDown };
  enum class Content : uint8_t { kPrefix, kTotal, kParts };
  struct Transfer {
    std::byte* data;
    size_t bytes;
    int peer;
    Content content;
    bool sends;
  };
  struct Round {
    int slot = -1;  // of the operation; -1: none
    uint64_t number = 0;
    size_t begin = 0;  // of the operation's data
    size_t bytes = 0;
    Stage stage = Stage::kUp;
    bool handed_down = false;
    Request up;
    std::array<Request, 2> down;
    std::vector<Transfer> transfers;  // of this stage, started in this order
    size_t started = 0;
    std::array<Request, kTransfersInFlight> open;
    std::vector<std::byte> parts;   // raw data of ranks
    std::vector<std::byte> prefix;  // of the sum: what comes from the host before
    std::vector<std::byte> sum;     // of a reduce-scatter
  };

  bool is_leader() const { return rank() == hosts_.first(hosts_.own); }
  bool is_last() const { return hosts_.own == hosts_.hosts() - 1; }
  int leader(int host) const { return hosts_.first(host); }
  Operation& OperationOf(const Round& round) {
    return table().operations[static_cast<size_t>(round.slot)];
  }
  size_t PieceBytes(const Operation& operation) const;
  // Is this a sum of so little data that all of it goes to every leader?
  bool IsDirect(const Operation& operation) const;
  static bool IsSum(const Operation& operation);
  // Where the sum of a round is made.
  std::byte* Target(Round* round);
  // The part of the round's data that belongs to the ranks [first, last), as begin and end in it.
  std::pair<size_t, size_t> PartOf(const Round& round, int first, int last);

  // Operations that another channel carries as a whole: messages, and sums over a tree.
  bool IsNear(const Operation& operation) const;
  Channel& ChannelOf(const Operation& operation) const;
  StatusOr<Request> StartTreeSum(const Operation& operation);

  bool StartNextRound();
  bool ProgressRound(Round* round);
  void StartUp(Round* round);
  void StartOut(Round* round);
  void StartBack(Round* round);
  void StartDown(Round* round);
  void HandDown(Round* round);
  void End(Round* round);
  // Nothing is sent, nor expected, where there are no bytes.
  void AddSend(Round* round, Content content, const std::byte* data, size_t bytes, int peer);
  void AddReceive(Round* round, Content content, std::byte* data, size_t bytes, int peer);
  // Every leader's host part to every other leader; `offset(rank)` is where a rank's part begins.
  template <typename Offset>
  void AddExchange(Round* round, std::byte* data, const Offset& offset);
  void SumHost(Round* round);
  // What this host sends, as the others get it, so that all ranks go on with the same values.
  static void KeepAsSent(const Operation& operation, std::byte* data, size_t bytes);
  // Starts and tests the transfers of the round's stage; true once all have finished.
  bool MoveTransfers(Round* round, bool* moved);
  bool Finished(Channel* channel, Request* request, bool* moved);
  Request Take(StatusOr<Request> request);
  // An error of a message within the host, whose channel counts the host's ranks alone.
  Status InGroupRanks(const Status& error, int peer) const;

  const Parts parts_;
  const HostRanks hosts_;

  std::array<Round, kRoundsInFlight> rounds_;
  uint64_t next_round_ = 0;
  uint64_t next_down_ = 0;                 // rounds are handed down in order
  std::array<int, kMaxRequests> queue_{};  // slots of operations with rounds to start
  uint64_t begun_ = 0;
  uint64_t starting_ = 0;
  size_t starting_index_ = 0;
  std::array<size_t, kMaxRequests> round_counts_{};     // by slot
  std::array<size_t, kMaxRequests> rounds_left_{};      // by slot
  std::array<Request, kMaxRequests> whole_requests_{};  // by slot
  std::array<bool, kMaxRequests> is_whole_{};           // by slot: under way in another channel
  std::vector<size_t> counts_;
  std::vector<size_t> all_counts_;
  std::vector<const float*> sources_;
};

}  // namespace llmir::comm
