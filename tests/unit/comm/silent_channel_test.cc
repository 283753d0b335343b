#include "comm/silent_channel.h"

#include <gtest/gtest.h>

#include <vector>

namespace llmir::comm {
namespace {

TEST(SilentChannel, EndsEveryOperationAndLeavesResultsAlone) {
  const std::unique_ptr<Channel> channel = CreateSilentChannel(1, 3);
  EXPECT_EQ(channel->rank(), 1);
  EXPECT_EQ(channel->size(), 3);
  EXPECT_EQ(channel->backend(), "silent");
  std::vector<float> data = {1, 2, 3};
  std::vector<float> all(9, -1);
  const std::vector<size_t> counts(3, 3);
  EXPECT_TRUE(channel->AllReduce(data.data(), data.size()).ok());
  EXPECT_TRUE(channel->AllGather(data.data(), counts, all.data()).ok());
  EXPECT_TRUE(channel->ReduceScatter(all.data(), counts, data.data()).ok());
  EXPECT_TRUE(channel->Gather(data.data(), counts, all.data(), 1).ok());
  EXPECT_TRUE(channel->Recv(data.data(), 12, 0, 7).ok());
  EXPECT_TRUE(channel->Send(data.data(), 12, 2, 7).ok());
  EXPECT_TRUE(channel->Broadcast(data.data(), 12, 0).ok());
  EXPECT_EQ(data, (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(all, std::vector<float>(9, -1));
  EXPECT_FALSE(channel->Progress());
}

}  // namespace
}  // namespace llmir::comm
