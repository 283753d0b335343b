#include "comm/mpi_channel.h"

#include <utility>

namespace llmir::comm {

MpiChannel::MpiChannel(MpiCommunicator envelopes, MpiCommunicator control, int rank, int size,
                       size_t max_bytes)
    : OperationChannel(rank, size, max_bytes, "mpi"),
      envelopes_(std::move(envelopes)),
      control_(std::move(control)),
      collectives_(control_.get(), rank, size, max_bytes, &table()),
      messages_(envelopes_.get(), control_.get(), max_bytes, &table()) {}

void MpiChannel::Begin(int slot) {
  if (table().operations[static_cast<size_t>(slot)].IsMessage()) {
    messages_.Begin(slot);
  } else {
    collectives_.Begin(slot);
  }
  Progress();
}

bool MpiChannel::Progress() {
  const bool moved = collectives_.Progress();
  return messages_.Progress() || moved;
}

}  // namespace llmir::comm
