#include "comm/shared_memory_messages.h"

#include <algorithm>
#include <cstring>

namespace llmir::comm {
namespace {

// So much is copied before the other side hears of it: both copy at the same time.
constexpr size_t kPieceBytes = size_t{64} << 10;

}  // namespace

SharedMemoryMessages::SharedMemoryMessages(SharedSegment* segment, int rank, OperationTable* table)
    : segment_(segment),
      table_(table),
      rank_(rank),
      sent_(static_cast<size_t>(segment->ranks())),
      arrived_(static_cast<size_t>(segment->ranks())) {}

void SharedMemoryMessages::Begin(int slot) {
  const Operation& operation = table_->operations[static_cast<size_t>(slot)];
  open_[static_cast<size_t>(open_count_++)] = slot;
  moved_bytes_[static_cast<size_t>(slot)] = 0;
  matched_[static_cast<size_t>(slot)] = -1;
  if (operation.kind == OperationKind::kReceive) return;

  Mailbox& mailbox = segment_->mailbox(rank_, slot);
  mailbox.tag = static_cast<uint64_t>(operation.tag);
  mailbox.bytes = operation.bytes;
  mailbox.filled.store(0, std::memory_order_relaxed);
  mailbox.drained.store(0, std::memory_order_relaxed);
  Fill(slot);
  const uint64_t number = sent_[static_cast<size_t>(operation.peer)]++;
  segment_->doorbell(rank_, operation.peer)
      .entries[number % kMaxRequests]
      .store((number + 1) * kMaxRequests + static_cast<uint64_t>(slot), std::memory_order_release);
}

bool SharedMemoryMessages::Fill(int slot) {
  const Operation& operation = table_->operations[static_cast<size_t>(slot)];
  Mailbox& mailbox = segment_->mailbox(rank_, slot);
  uint64_t& filled = moved_bytes_[static_cast<size_t>(slot)];
  const uint64_t drained = mailbox.drained.load(std::memory_order_acquire);
  const uint64_t read = drained == 0 ? 0 : drained - 1;
  const size_t capacity = segment_->mailbox_bytes();
  const size_t place = filled % capacity;
  const size_t bytes = std::min(
      {operation.bytes - filled, capacity - (filled - read), capacity - place, kPieceBytes});
  if (bytes == 0) return false;
  std::memcpy(segment_->mailbox_data(rank_, slot) + place, operation.in + filled, bytes);
  filled += bytes;
  mailbox.filled.store(filled, std::memory_order_release);
  return true;
}

bool SharedMemoryMessages::ProgressSend(int slot) {
  Operation& operation = table_->operations[static_cast<size_t>(slot)];
  Mailbox& mailbox = segment_->mailbox(rank_, slot);
  const uint64_t drained = mailbox.drained.load(std::memory_order_acquire);
  if (drained == Mailbox::kRefused) {
    operation.Finish(
        SizeMismatch(operation, mailbox.receiver_bytes.load(std::memory_order_relaxed)));
    return true;
  }
  if (drained == operation.bytes + 1) {
    operation.Finish();
    return true;
  }
  return Fill(slot);
}

void SharedMemoryMessages::Listen(int peer) {
  Arrived& arrived = arrived_[static_cast<size_t>(peer)];
  const Doorbell& doorbell = segment_->doorbell(peer, rank_);
  while (arrived.count < kMaxRequests) {
    const uint64_t entry =
        doorbell.entries[arrived.rung % kMaxRequests].load(std::memory_order_acquire);
    if (entry / kMaxRequests != arrived.rung + 1) return;
    arrived.mailboxes[static_cast<size_t>(arrived.count++)] =
        static_cast<int>(entry % kMaxRequests);
    ++arrived.rung;
  }
}

bool SharedMemoryMessages::Match(int slot) {
  const Operation& operation = table_->operations[static_cast<size_t>(slot)];
  Arrived& arrived = arrived_[static_cast<size_t>(operation.peer)];
  const auto end = arrived.mailboxes.begin() + arrived.count;
  const auto found = std::find_if(arrived.mailboxes.begin(), end, [&](int mailbox) {
    return segment_->mailbox(operation.peer, mailbox).tag == static_cast<uint64_t>(operation.tag);
  });
  if (found == end) return false;
  matched_[static_cast<size_t>(slot)] = *found;
  std::copy(found + 1, end, found);
  --arrived.count;
  return true;
}

bool SharedMemoryMessages::ProgressReceive(int slot) {
  Operation& operation = table_->operations[static_cast<size_t>(slot)];
  const bool matches_now = matched_[static_cast<size_t>(slot)] < 0;
  if (matches_now && !Match(slot)) return false;
  const int sender_slot = matched_[static_cast<size_t>(slot)];
  Mailbox& mailbox = segment_->mailbox(operation.peer, sender_slot);
  if (matches_now && mailbox.bytes != operation.bytes) {
    operation.Finish(SizeMismatch(operation, mailbox.bytes));
    mailbox.receiver_bytes.store(operation.bytes, std::memory_order_relaxed);
    mailbox.drained.store(Mailbox::kRefused, std::memory_order_release);
    return true;
  }
  uint64_t& received = moved_bytes_[static_cast<size_t>(slot)];
  const uint64_t filled = mailbox.filled.load(std::memory_order_acquire);
  const size_t capacity = segment_->mailbox_bytes();
  const bool moves = matches_now || received < filled;
  while (received < filled) {
    const size_t place = received % capacity;
    const size_t bytes = std::min(filled - received, capacity - place);
    std::memcpy(operation.out + received,
                segment_->mailbox_data(operation.peer, sender_slot) + place, bytes);
    received += bytes;
  }
  if (moves) mailbox.drained.store(received + 1, std::memory_order_release);
  if (received == operation.bytes) operation.Finish();
  return moves;
}

bool SharedMemoryMessages::Progress() {
  // All doorbells before all matches: a message that arrives in between must not go to a later
  // receive of its tag.
  for (int i = 0; i < open_count_; ++i) {
    const int slot = open_[static_cast<size_t>(i)];
    const Operation& operation = table_->operations[static_cast<size_t>(slot)];
    if (operation.kind == OperationKind::kReceive && matched_[static_cast<size_t>(slot)] < 0) {
      Listen(operation.peer);
    }
  }
  bool moved = false;
  int kept = 0;
  for (int i = 0; i < open_count_; ++i) {
    const int slot = open_[static_cast<size_t>(i)];
    const Operation& operation = table_->operations[static_cast<size_t>(slot)];
    if (operation.state == Operation::State::kOpen) {
      moved |= operation.kind == OperationKind::kSend ? ProgressSend(slot) : ProgressReceive(slot);
    }
    if (operation.state == Operation::State::kOpen) open_[static_cast<size_t>(kept++)] = slot;
  }
  open_count_ = kept;
  return moved;
}

}  // namespace llmir::comm
