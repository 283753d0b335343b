// The memory that the ranks of a shared-memory or loopback channel have in common, and what lies
// where in it.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "comm/channel.h"
#include "plan_schema/base/status.h"

namespace llmir::comm {

static_assert(std::atomic<uint64_t>::is_always_lock_free, "flags are shared between processes");

// Rounds of collectives that a rank may be ahead of the slowest reader of its data.
inline constexpr int kRoundsInFlight = 4;
// The most bytes that a round of a collective carries per rank, and a message's sender per mailbox.
inline constexpr size_t kRoundBytes = size_t{128} << 10;
inline constexpr size_t kMailboxBytes = size_t{256} << 10;

// Two cache lines: the hardware fetches neighbours in pairs, and one rank's flags must not travel
// with another's.
inline constexpr size_t kFlagAlignment = 128;

// One rank's progress through the rounds of the collectives; written by that rank only.
struct RankFlags {
  // Rounds to which the rank has contributed, with the identity of the operation of each of the
  // last ones, and the rounds that the rank had finished reading by then: in one line, so that who
  // waits for a contribution learns both.
  alignas(kFlagAlignment) std::atomic<uint64_t> contributed;
  std::atomic<uint64_t> consumed_by_then;
  std::array<std::atomic<uint64_t>, kRoundsInFlight> identities;
  // Rounds whose slice it has summed, and rounds that it has finished reading.
  alignas(kFlagAlignment) std::atomic<uint64_t> reduced;
  alignas(kFlagAlignment) std::atomic<uint64_t> consumed;
};

static_assert(offsetof(RankFlags, identities) + sizeof(RankFlags::identities) <= 64,
              "what a contribution says is in one cache line");

// Announces messages from one rank to another in the order of their start: entry i % kMaxRequests
// holds (i + 1) * kMaxRequests + the sender's mailbox. Written by the sender only.
struct alignas(kFlagAlignment) Doorbell {
  std::array<std::atomic<uint64_t>, kMaxRequests> entries;
};

// One message on its way: a ring of bytes. A sender has one per request slot.
struct Mailbox {
  static constexpr uint64_t kRefused = UINT64_MAX;
  // By the sender: set before the doorbell, then the bytes written so far.
  alignas(kFlagAlignment) uint64_t tag;
  uint64_t bytes;
  std::atomic<uint64_t> filled;
  // By the receiver: 0, then 1 + the bytes read so far once it has matched the message; kRefused
  // for a wrong size.
  alignas(kFlagAlignment) std::atomic<uint64_t> drained;
  std::atomic<uint64_t> receiver_bytes;  // set before kRefused
};

class SharedSegment {
 public:
  // Memory for `ranks` threads of this process.
  static StatusOr<std::shared_ptr<SharedSegment>> CreatePrivate(int ranks, size_t max_bytes);
  // Memory that other processes can open. It has no name: the last process that maps it frees it,
  // however it ends.
  static StatusOr<std::shared_ptr<SharedSegment>> CreateShared(int ranks, size_t max_bytes,
                                                               uint64_t cookie);
  // Maps what process `pid` of this host has as descriptor(). `cookie` proves that it is the same.
  static StatusOr<std::shared_ptr<SharedSegment>> Open(int ranks, size_t max_bytes, pid_t pid,
                                                       int descriptor, uint64_t cookie);
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;
  ~SharedSegment();

  int descriptor() const { return descriptor_; }
  // Closes the descriptor; the memory stays.
  void CloseDescriptor();

  int ranks() const { return ranks_; }
  size_t round_bytes() const { return round_bytes_; }
  size_t mailbox_bytes() const { return mailbox_bytes_; }

  RankFlags& flags(int rank) const {
    return reinterpret_cast<RankFlags*>(data_ + flags_offset_)[rank];
  }
  Doorbell& doorbell(int from, int to) const {
    return reinterpret_cast<Doorbell*>(data_ + doorbells_offset_)[from * ranks_ + to];
  }
  Mailbox& mailbox(int rank, int slot) const {
    return reinterpret_cast<Mailbox*>(data_ + mailboxes_offset_)[rank * kMaxRequests + slot];
  }
  std::byte* mailbox_data(int rank, int slot) const {
    return data_ + mailbox_data_offset_ +
           static_cast<size_t>(rank * kMaxRequests + slot) * mailbox_bytes_;
  }
  // The data of `rank` in `round`.
  std::byte* round_data(int rank, uint64_t round) const {
    return data_ + round_data_offset_ +
           (static_cast<size_t>(rank) * kRoundsInFlight + round % kRoundsInFlight) * round_bytes_;
  }
  // Makes the pages of `rank`'s rounds present, so that the first operations don't pay for it.
  void TouchRounds(int rank) const;

 private:
  SharedSegment(int ranks, size_t max_bytes);
  Status Map(int extra_flags);

  int ranks_;
  size_t round_bytes_;
  size_t mailbox_bytes_;
  size_t flags_offset_;
  size_t doorbells_offset_;
  size_t mailboxes_offset_;
  size_t round_data_offset_;
  size_t mailbox_data_offset_;
  size_t bytes_;
  int descriptor_ = -1;
  std::byte* data_ = nullptr;
};

}  // namespace llmir::comm
