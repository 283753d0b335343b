#include "comm/shared_memory_channel.h"

#include <utility>

namespace llmir::comm {

SharedMemoryChannel::SharedMemoryChannel(std::shared_ptr<SharedSegment> segment, int rank,
                                         size_t max_bytes, std::string_view backend)
    : OperationChannel(rank, segment->ranks(), max_bytes, backend),
      segment_(std::move(segment)),
      collectives_(segment_.get(), rank, &table()),
      messages_(segment_.get(), rank, &table()) {
  if (segment_->ranks() > 1) segment_->TouchRounds(rank);
}

void SharedMemoryChannel::Begin(int slot) {
  if (table().operations[static_cast<size_t>(slot)].IsMessage()) {
    messages_.Begin(slot);
  } else {
    collectives_.Begin(slot);
  }
  Progress();
}

bool SharedMemoryChannel::Progress() {
  const bool moved = collectives_.Progress();
  return (messages_.open() && messages_.Progress()) || moved;
}

}  // namespace llmir::comm
