// The channel of ranks that share memory: threads of a process (loopback) or processes of a host.
#pragma once

#include <memory>
#include <string_view>

#include "comm/operation_channel.h"
#include "comm/shared_memory_collectives.h"
#include "comm/shared_memory_messages.h"
#include "comm/shared_segment.h"

namespace llmir::comm {

class SharedMemoryChannel final : public OperationChannel {
 public:
  // `backend` is a literal. `max_bytes` is what the segment was made for.
  SharedMemoryChannel(std::shared_ptr<SharedSegment> segment, int rank, size_t max_bytes,
                      std::string_view backend);

 protected:
  void Begin(int slot) override;
  bool Progress() override;

 private:
  const std::shared_ptr<SharedSegment> segment_;
  SharedMemoryCollectives collectives_;
  SharedMemoryMessages messages_;
};

}  // namespace llmir::comm
