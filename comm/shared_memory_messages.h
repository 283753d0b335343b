// Messages over a SharedSegment. A sender writes into the mailbox of its request slot and rings the
// doorbell of the receiver, who copies straight to where the data belongs. Messages larger than a
// mailbox flow through it as a ring.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "comm/operation_channel.h"
#include "comm/shared_segment.h"

namespace llmir::comm {

class SharedMemoryMessages {
 public:
  // Both arguments outlive the object.
  SharedMemoryMessages(SharedSegment* segment, int rank, OperationTable* table);

  void Begin(int slot);
  bool open() const { return open_count_ > 0; }  // is any message in progress?
  bool Progress();

 private:
  // Announced messages of one peer that no receive has matched yet, in the order of their start.
  struct Arrived {
    uint64_t rung = 0;  // messages announced so far
    int count = 0;
    std::array<int, kMaxRequests> mailboxes{};
  };

  bool ProgressSend(int slot);
  bool ProgressReceive(int slot);
  // Writes as much of the send in `slot` as its mailbox takes; true if anything.
  bool Fill(int slot);
  // Takes note of the messages that `peer` has announced.
  void Listen(int peer);
  // Finds the oldest noted message for the receive in `slot`; false if there is none.
  bool Match(int slot);

  SharedSegment* const segment_;
  OperationTable* const table_;
  const int rank_;

  std::array<int, kMaxRequests>
      open_{};  // slots of the messages in progress, in the order of their start
  int open_count_ = 0;
  std::array<uint64_t, kMaxRequests> moved_bytes_{};  // by slot: sent or received so far
  std::array<int, kMaxRequests> matched_{};           // by slot: the sender's mailbox, or -1
  std::vector<uint64_t> sent_;                        // by peer: messages announced
  std::vector<Arrived> arrived_;                      // by peer
};

}  // namespace llmir::comm
