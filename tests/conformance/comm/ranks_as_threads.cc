// Ranks as threads of this process, over the loopback backend.
#include <thread>

#include "comm/world.h"
#include "tests/conformance/comm/ranks.h"

namespace llmir::comm {

std::vector<int> GroupSizes() { return {1, 2, 3, 4, 7}; }

void OnEachRank(int size, size_t max_bytes, int channels, const RankBody& body) {
  std::vector<std::vector<std::unique_ptr<Channel>>> by_rank(static_cast<size_t>(size));
  for (int channel = 0; channel < channels; ++channel) {
    std::vector<std::unique_ptr<Channel>> ends = CreateLoopbackChannels(size, max_bytes);
    for (size_t rank = 0; rank < ends.size(); ++rank) {
      by_rank[rank].push_back(std::move(ends[rank]));
    }
  }
  std::vector<std::jthread> threads;
  for (const auto& ends : by_rank) threads.emplace_back([&body, &ends] { body(ends); });
}

}  // namespace llmir::comm
