#include <cstdio>
#include <cstdlib>

#include "comm/shared_memory_channel.h"
#include "comm/world.h"

namespace llmir::comm {

std::vector<std::unique_ptr<Channel>> CreateLoopbackChannels(int ranks, size_t max_bytes) {
  StatusOr<std::shared_ptr<SharedSegment>> segment = SharedSegment::CreatePrivate(ranks, max_bytes);
  if (!segment.ok()) {
    // As for any other allocation of this process that fails.
    fmt::print(stderr, "loopback channels: {}\n", segment.status().ToString());
    std::abort();
  }
  std::vector<std::unique_ptr<Channel>> channels;
  for (int rank = 0; rank < ranks; ++rank) {
    channels.push_back(
        std::make_unique<SharedMemoryChannel>(*segment, rank, max_bytes, "loopback"));
  }
  return channels;
}

}  // namespace llmir::comm
