#include "comm/mpi_messages.h"

#include <algorithm>
#include <cstring>

namespace llmir::comm {

MpiMessages::MpiMessages(MPI_Comm envelopes, MPI_Comm control, size_t max_bytes,
                         OperationTable* table)
    : envelopes_(envelopes),
      control_(control),
      eager_bytes_(std::min(max_bytes, kMpiEagerBytes)),
      table_(table) {
  for (Message& message : messages_) message.envelope.resize(sizeof(Envelope) + eager_bytes_);
}

MpiMessages::~MpiMessages() {
  for (Message& message : messages_) {
    for (MPI_Request& request : message.requests) {
      if (request == MPI_REQUEST_NULL) continue;
      MPI_Cancel(&request);
      MPI_Request_free(&request);
    }
  }
}

void MpiMessages::Check(int code, std::string_view what) {
  const Status status = MpiStatus(code, what);
  if (!status.ok()) table_->Fail(status);
}

void MpiMessages::Begin(int slot) {
  const Operation& operation = table_->operations[static_cast<size_t>(slot)];
  Message& message = messages_[static_cast<size_t>(slot)];
  message.stage = Message::Stage::kEnvelope;
  message.moved_bytes = 0;
  if (operation.kind == OperationKind::kReceive) {
    Check(MPI_Irecv(message.envelope.data(), static_cast<int>(message.envelope.size()), MPI_BYTE,
                    operation.peer, operation.tag, envelopes_, &message.requests[0]),
          "MPI_Irecv of an envelope");
    return;
  }
  const Envelope envelope{operation.bytes, static_cast<uint64_t>(slot)};
  std::memcpy(message.envelope.data(), &envelope, sizeof envelope);
  size_t bytes = sizeof envelope;
  if (IsEager(operation) && operation.bytes > 0) {
    std::memcpy(message.envelope.data() + bytes, operation.in, operation.bytes);
    bytes += operation.bytes;
  }
  Check(MPI_Irecv(&message.answer, sizeof message.answer, MPI_BYTE, operation.peer,
                  kAnswerTag + slot, control_, &message.requests[1]),
        "MPI_Irecv of an answer");
  Check(MPI_Isend(message.envelope.data(), static_cast<int>(bytes), MPI_BYTE, operation.peer,
                  operation.tag, envelopes_, &message.requests[0]),
        "MPI_Isend of an envelope");
}

void MpiMessages::EndEnvelope(int slot) {
  Operation& operation = table_->operations[static_cast<size_t>(slot)];
  Message& message = messages_[static_cast<size_t>(slot)];
  uint64_t peer_bytes = message.answer;
  if (operation.kind == OperationKind::kReceive) {
    Envelope envelope{};
    std::memcpy(&envelope, message.envelope.data(), sizeof envelope);
    peer_bytes = envelope.bytes;
    message.sender_slot = static_cast<int>(envelope.sender_slot);
    message.answer = operation.bytes;
    Check(MPI_Isend(&message.answer, sizeof message.answer, MPI_BYTE, operation.peer,
                    kAnswerTag + message.sender_slot, control_, &message.requests[1]),
          "MPI_Isend of an answer");
    if (peer_bytes == operation.bytes && IsEager(operation) && operation.bytes > 0) {
      std::memcpy(operation.out, message.envelope.data() + sizeof envelope, operation.bytes);
    }
  } else {
    message.sender_slot = slot;
  }
  message.stage = Message::Stage::kData;
  if (peer_bytes != operation.bytes) {
    operation.status = SizeMismatch(operation, peer_bytes);
    message.moved_bytes = operation.bytes;
  } else if (IsEager(operation)) {
    message.moved_bytes = operation.bytes;
  } else {
    NextPiece(slot);
  }
}

void MpiMessages::NextPiece(int slot) {
  Operation& operation = table_->operations[static_cast<size_t>(slot)];
  Message& message = messages_[static_cast<size_t>(slot)];
  if (message.moved_bytes == operation.bytes) {
    message.stage = Message::Stage::kIdle;
    operation.Finish();
    return;
  }
  const size_t bytes = std::min(kMpiPieceBytes, operation.bytes - message.moved_bytes);
  const int tag = kDataTag + message.sender_slot;
  if (operation.kind == OperationKind::kSend) {
    Check(MPI_Isend(operation.in + message.moved_bytes, static_cast<int>(bytes), MPI_BYTE,
                    operation.peer, tag, control_, &message.requests[0]),
          "MPI_Isend of a message's data");
  } else {
    Check(MPI_Irecv(operation.out + message.moved_bytes, static_cast<int>(bytes), MPI_BYTE,
                    operation.peer, tag, control_, &message.requests[0]),
          "MPI_Irecv of a message's data");
  }
  message.moved_bytes += bytes;
}

bool MpiMessages::Progress() {
  bool moved = false;
  for (int slot = 0; slot < kMaxRequests && table_->failure.ok(); ++slot) {
    Message& message = messages_[static_cast<size_t>(slot)];
    if (message.stage == Message::Stage::kIdle) continue;
    int finished = 0;
    Check(MPI_Testall(static_cast<int>(message.requests.size()), message.requests.data(), &finished,
                      MPI_STATUSES_IGNORE),
          "MPI_Testall of a message");
    if (finished == 0 || !table_->failure.ok()) continue;
    moved = true;
    if (message.stage == Message::Stage::kEnvelope) {
      EndEnvelope(slot);
    } else {
      NextPiece(slot);
    }
  }
  return moved;
}

}  // namespace llmir::comm
