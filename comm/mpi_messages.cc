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

void MpiMessages::Encode(const Operation& operation, std::byte* out) {
  if (operation.wire == Wire::kFloat32) {
    std::memcpy(out, operation.in, operation.bytes);
  } else {
    EncodeInt8(reinterpret_cast<const float*>(operation.in), operation.bytes / sizeof(float), out);
  }
}

void MpiMessages::Decode(const Operation& operation, const std::byte* in) {
  if (operation.wire == Wire::kFloat32) {
    std::memcpy(operation.out, in, operation.bytes);
  } else {
    DecodeInt8(in, operation.bytes / sizeof(float), reinterpret_cast<float*>(operation.out));
  }
}

void MpiMessages::Begin(int slot) {
  const Operation& operation = table_->operations[static_cast<size_t>(slot)];
  Message& message = messages_[static_cast<size_t>(slot)];
  message.stage = Message::Stage::kEnvelope;
  message.moved_bytes = 0;
  const size_t wire_bytes = operation.WireBytes(operation.bytes);
  if (operation.wire != Wire::kFloat32 && !IsEager(operation)) {
    message.encoded.resize(std::max(message.encoded.size(), wire_bytes));
    if (operation.kind == OperationKind::kSend) Encode(operation, message.encoded.data());
  }
  if (operation.kind == OperationKind::kReceive) {
    Check(MPI_Irecv(message.envelope.data(), static_cast<int>(message.envelope.size()), MPI_BYTE,
                    operation.peer, operation.tag, envelopes_, &message.requests[0]),
          "MPI_Irecv of an envelope");
    return;
  }
  const Envelope envelope{wire_bytes, static_cast<uint64_t>(slot)};
  std::memcpy(message.envelope.data(), &envelope, sizeof envelope);
  size_t bytes = sizeof envelope;
  if (IsEager(operation) && operation.bytes > 0) {
    Encode(operation, message.envelope.data() + bytes);
    bytes += wire_bytes;
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
  const size_t wire_bytes = operation.WireBytes(operation.bytes);
  uint64_t peer_bytes = message.answer;
  if (operation.kind == OperationKind::kReceive) {
    Envelope envelope{};
    std::memcpy(&envelope, message.envelope.data(), sizeof envelope);
    peer_bytes = envelope.bytes;
    message.sender_slot = static_cast<int>(envelope.sender_slot);
    message.answer = wire_bytes;
    Check(MPI_Isend(&message.answer, sizeof message.answer, MPI_BYTE, operation.peer,
                    kAnswerTag + message.sender_slot, control_, &message.requests[1]),
          "MPI_Isend of an answer");
    if (peer_bytes == wire_bytes && IsEager(operation) && operation.bytes > 0) {
      Decode(operation, message.envelope.data() + sizeof envelope);
    }
  } else {
    message.sender_slot = slot;
  }
  message.stage = Message::Stage::kData;
  if (peer_bytes != wire_bytes) {
    operation.status = SizeMismatch(operation, peer_bytes);
    message.moved_bytes = wire_bytes;
  } else if (IsEager(operation)) {
    message.moved_bytes = wire_bytes;
  } else {
    NextPiece(slot);
  }
}

void MpiMessages::NextPiece(int slot) {
  Operation& operation = table_->operations[static_cast<size_t>(slot)];
  Message& message = messages_[static_cast<size_t>(slot)];
  const size_t wire_bytes = operation.WireBytes(operation.bytes);
  const bool is_encoded = operation.wire != Wire::kFloat32;
  if (message.moved_bytes == wire_bytes) {
    if (is_encoded && operation.kind == OperationKind::kReceive && !IsEager(operation) &&
        operation.status.ok()) {
      Decode(operation, message.encoded.data());
    }
    message.stage = Message::Stage::kIdle;
    operation.Finish();
    return;
  }
  const size_t bytes = std::min(kMpiPieceBytes, wire_bytes - message.moved_bytes);
  const int tag = kDataTag + message.sender_slot;
  if (operation.kind == OperationKind::kSend) {
    const std::byte* data = is_encoded ? message.encoded.data() : operation.in;
    Check(MPI_Isend(data + message.moved_bytes, static_cast<int>(bytes), MPI_BYTE, operation.peer,
                    tag, control_, &message.requests[0]),
          "MPI_Isend of a message's data");
  } else {
    std::byte* data = is_encoded ? message.encoded.data() : operation.out;
    Check(MPI_Irecv(data + message.moved_bytes, static_cast<int>(bytes), MPI_BYTE, operation.peer,
                    tag, control_, &message.requests[0]),
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
