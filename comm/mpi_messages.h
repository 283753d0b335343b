// Messages over MPI. An envelope with the size goes first, with the data in it where it is little;
// the receiver answers with the size that it expects, so that both sides know of a mismatch; more
// data follows after a matching answer. All sizes are those on the wire (Operation::wire).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "comm/mpi_collectives.h"
#include "comm/mpi_support.h"
#include "comm/operation_channel.h"

namespace llmir::comm {

// The most bytes that travel in the envelope, and in one MPI message after it.
inline constexpr size_t kMpiEagerBytes = size_t{32} << 10;
inline constexpr size_t kMpiPieceBytes = size_t{4} << 20;

class MpiMessages {
 public:
  // Envelopes travel in `envelopes` under the caller's tags, all else in `control` under tags from
  // kMpiCollectiveTags up. `table` outlives the object.
  MpiMessages(MPI_Comm envelopes, MPI_Comm control, size_t max_bytes, OperationTable* table);
  ~MpiMessages();
  MpiMessages(const MpiMessages&) = delete;
  MpiMessages& operator=(const MpiMessages&) = delete;

  void Begin(int slot);
  bool Progress();

 private:
  struct Envelope {
    uint64_t bytes;
    uint64_t sender_slot;
  };
  struct Message {
    enum class Stage : uint8_t { kIdle, kEnvelope, kData };
    Stage stage = Stage::kIdle;
    int sender_slot = 0;
    size_t moved_bytes = 0;  // of the data after the envelope, posted so far
    uint64_t answer = 0;     // the size that the receiver expects
    // [0]: the envelope, then pieces of data. [1]: the answer.
    std::array<MPI_Request, 2> requests{MPI_REQUEST_NULL, MPI_REQUEST_NULL};
    std::vector<std::byte> envelope;  // an Envelope and the data in it
    std::vector<std::byte> encoded;   // data that doesn't travel as it is
  };

  static constexpr int kAnswerTag = kMpiCollectiveTags;
  static constexpr int kDataTag = kAnswerTag + kMaxRequests;

  bool IsEager(const Operation& operation) const {
    return operation.WireBytes(operation.bytes) <= eager_bytes_;
  }
  // After the envelope and, for a sender, the answer.
  void EndEnvelope(int slot);
  // A sender's data as it travels: of an eager message to the envelope.
  void Encode(const Operation& operation, std::byte* out);
  void Decode(const Operation& operation, const std::byte* in);
  // Posts the next piece of data, or ends the operation.
  void NextPiece(int slot);
  void Check(int code, std::string_view what);

  const MPI_Comm envelopes_;
  const MPI_Comm control_;
  const size_t eager_bytes_;
  OperationTable* const table_;
  std::array<Message, kMaxRequests> messages_;  // by slot
};

}  // namespace llmir::comm
