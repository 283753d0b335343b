// Collectives over a SharedSegment. Every collective is cut into rounds, numbered the same on all
// ranks; in a round each rank copies its data into its own place once, raises a flag, and reads the
// others' where they lie.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "comm/operation_channel.h"
#include "comm/shared_segment.h"

namespace llmir::comm {

class SharedMemoryCollectives {
 public:
  // Both arguments outlive the object.
  SharedMemoryCollectives(SharedSegment* segment, int rank, OperationTable* table);

  // Appends the operation in `slot` to those in progress.
  void Begin(int slot);
  // As Channel's; a rank that is found in another operation fails the table.
  bool Progress();

 private:
  // How far one of the three phases has come: `rounds` rounds in all, the next one being round
  // `index` of the `operations`-th operation.
  struct Cursor {
    uint64_t operations = 0;
    uint64_t rounds = 0;
    size_t index = 0;
  };
  // The highest value of each rank's flag that this rank has seen.
  using Seen = std::vector<uint64_t>;

  Operation& At(const Cursor& cursor);
  // The bytes that a round of `operation` carries of a rank's data, or of its part; of a sum of
  // nodes, of each node. In a rank's place they lie one after the other.
  size_t PieceBytes(const Operation& operation) const;
  size_t RoundCount(const Operation& operation) const;
  void Advance(Cursor* cursor);
  bool AllHave(std::atomic<uint64_t> RankFlags::* flag, Seen* seen, uint64_t rounds);
  bool RankHas(int rank, std::atomic<uint64_t> RankFlags::* flag, Seen* seen, uint64_t rounds);
  bool RankHasContributed(int rank, uint64_t rounds);

  // The phases of a round; each returns whether it moved on by one.
  bool Contribute();
  bool Reduce();
  bool Complete();

  // All-reduces of more than two ranks with much data: each rank sums one slice and all read the
  // sums.
  bool IsSliced(const Operation& operation, size_t bytes) const;
  // The slice of `rank` in a round of `bytes` bytes, as begin and end.
  std::pair<size_t, size_t> Slice(int rank, size_t bytes) const;
  // Copies [begin, end) of `data` without [skip_begin, skip_end).
  static void CopyAround(std::byte* to, const std::byte* data, size_t bytes, size_t skip_begin,
                         size_t skip_end);
  // The same for `bytes` bytes from `begin` of each node of this rank, to its place in the round.
  void CopyNodes(const Operation& operation, uint64_t round, size_t begin, size_t bytes,
                 size_t skip_begin, size_t skip_end);
  // The sum over ranks of [begin, end) of the round's data; this rank's own comes from `own`, which
  // is where the round begins.
  void Sum(const Operation& operation, uint64_t round, const std::byte* own, size_t begin,
           size_t end, std::byte* out);
  bool SameOperation(int peer, uint64_t round, const Operation& operation);

  SharedSegment* const segment_;
  OperationTable* const table_;
  const int rank_;
  const int size_;
  const size_t round_bytes_;

  std::array<int, kMaxRequests>
      queue_{};  // slots of the operations in progress, in the order of their start
  std::array<size_t, kMaxRequests> round_counts_{};
  uint64_t begun_ = 0;
  Cursor contribute_;
  Cursor reduce_;
  Cursor complete_;
  Seen contributed_;
  Seen reduced_;
  Seen consumed_;
  std::vector<const float*> sources_;  // room for as many nodes as ranks can have
};

}  // namespace llmir::comm
