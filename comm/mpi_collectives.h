// Collectives over MPI messages, in rank order (MPI_Allreduce promises no order). Every collective
// is cut into rounds, numbered the same on all ranks; a round is one exchange among all ranks, or
// two for an all-reduce of much data. Where Operation::wire says so, what is sent is encoded, in
// groups that begin anew with each rank's piece of a round, and all ranks go on with what those
// who got it read. A few rounds are under way at a time. All of it moves only in
// Progress(): MPI does nothing in the background.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "comm/mpi_support.h"
#include "comm/operation_channel.h"

namespace llmir::comm {

// The most bytes that a round carries per rank.
inline constexpr size_t kMpiRoundBytes = size_t{1} << 20;

class MpiCollectives {
 public:
  // `table` outlives the object. Uses tags from 0 up to kMpiCollectiveTags of `communicator`.
  MpiCollectives(MPI_Comm communicator, int rank, int size, size_t max_bytes,
                 OperationTable* table);
  ~MpiCollectives();
  MpiCollectives(const MpiCollectives&) = delete;
  MpiCollectives& operator=(const MpiCollectives&) = delete;

  void Begin(int slot);
  bool Progress();

 private:
  static constexpr int kRoundsInFlight = 4;

  struct Round {
    int slot = -1;  // of the operation; -1: none
    uint64_t number = 0;
    size_t index = 0;  // within the operation
    int phase = 0;
    int request_count = 0;
    std::vector<MPI_Request> requests;
    std::vector<std::byte> scratch;  // what others send, to be summed
    // What goes out of several nodes, side by side, or encoded; touched by nothing else.
    std::unique_ptr<std::byte[]> packed;
    size_t packed_bytes = 0;
  };

  size_t RoundCount(const Operation& operation) const;
  // The bytes of each rank's part, or of each of its nodes, that a round of `operation` carries.
  size_t PieceBytes(const Operation& operation) const;
  // What a round carries of a part, or of each of its nodes, of `bytes` bytes in all.
  size_t Carried(const Round& round, size_t bytes) const;
  bool IsSliced(const Operation& operation, size_t bytes) const;
  size_t SliceStride(size_t bytes) const;
  std::pair<size_t, size_t> Slice(int rank, size_t bytes) const;

  bool StartNextRound();
  // After all messages of a phase: sums, and starts the next phase or ends the round.
  void EndPhase(Round* round);
  void PostFirstPhase(Round* round);
  void PostEncoded(Round* round);  // the first phase of encoded data
  void PostSecondPhase(Round* round);
  void EndRound(Round* round);
  void PostSend(Round* round, const std::byte* data, size_t bytes, int peer);
  void PostReceive(Round* round, std::byte* data, size_t bytes, int peer);
  // Of a sum: `bytes` bytes of each node of this rank, which begin at `data`, as one message.
  void PostSendNodes(Round* round, const std::byte* data, size_t bytes, int peer);
  // The place of `bytes` bytes in what is put together for sending.
  static std::byte* Pack(Round* round, size_t bytes);
  // `bytes` bytes of floats as they travel: themselves, or encoded among what is put together.
  static const std::byte* AsSent(Round* round, const Operation& operation, const std::byte* data,
                                 size_t bytes);
  // The scratch memory that a peer's message of `bytes` bytes per node takes.
  static size_t ScratchBytes(const Operation& operation, size_t bytes, int peer);
  int Tag(const Round& round) const;
  // The sum over ranks of `bytes` bytes (per node); others' lie in the round's scratch.
  void Sum(const Round& round, const std::byte* own, size_t bytes, std::byte* out);
  // The same of what lies there encoded; this rank's own part as `own_encoded` has it, if not null.
  void SumEncoded(const Round& round, const std::byte* own, const std::byte* own_encoded,
                  size_t bytes, std::byte* out);
  // What came encoded into the round's scratch, and this rank's own part, to their places: peer's
  // part of `bytes(peer)` bytes to `place(peer)`.
  template <typename Bytes, typename Place>
  void PlaceEncoded(Round* round, const Bytes& bytes, const Place& place);

  const MPI_Comm communicator_;
  OperationTable* const table_;
  const int rank_;
  const int size_;
  const size_t round_bytes_;

  std::array<Round, kRoundsInFlight> rounds_;
  uint64_t next_round_ = 0;
  std::array<int, kMaxRequests>
      queue_{};  // slots of operations with rounds to start, in the order of their start
  uint64_t begun_ = 0;
  uint64_t starting_ = 0;                            // the operation whose rounds are started now
  size_t starting_index_ = 0;                        // and the next of them
  std::array<size_t, kMaxRequests> rounds_left_{};   // by slot: to be finished
  std::array<size_t, kMaxRequests> round_counts_{};  // by slot
  std::vector<float> decoded_;                       // a block of each rank
  std::vector<const float*> sources_;                // room for as many nodes as ranks can have
};

inline constexpr int kMpiCollectiveTags = 8192;

}  // namespace llmir::comm
