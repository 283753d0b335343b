// What only shared memory promises beyond the conformance suite.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "comm/world.h"

namespace llmir::comm {
namespace {

TEST(Loopback, RanksInDifferentCollectivesAllGetTheError) {
  auto channels = CreateLoopbackChannels(2, 1 << 16);
  std::vector<Status> statuses(2);
  {
    std::jthread first([&] {
      float data[4] = {};
      statuses[0] = channels[0]->AllReduce(data, 4);
    });
    std::jthread second([&] {
      float data[8] = {};
      statuses[1] = channels[1]->AllReduce(data, 8);
    });
  }
  for (size_t rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(statuses[rank].code(), StatusCode::kInternal);
    EXPECT_THAT(statuses[rank].message(), testing::HasSubstr("all-reduce of 16 bytes"));
    EXPECT_THAT(statuses[rank].message(), testing::HasSubstr("all-reduce of 32 bytes"));
    // Ranks that no longer agree stay apart: the error comes back at once instead of a hang.
    float data[4] = {};
    EXPECT_EQ(channels[rank]->AllReduce(data, 4).code(), StatusCode::kInternal);
    EXPECT_EQ(channels[rank]->Send(data, 4, 1 - static_cast<int>(rank), 0).code(),
              StatusCode::kInternal);
  }
}

TEST(Loopback, BroadcastRootRunsAheadOfItsReaders) {
  auto channels = CreateLoopbackChannels(2, 1 << 16);
  int sent[3] = {1, 2, 3};
  for (int& value : sent) {
    EXPECT_TRUE(
        channels[0]->Broadcast(&value, sizeof value, 0).ok());  // returns before rank 1 reads
  }
  for (const int expected : {1, 2, 3}) {
    int value = 0;
    EXPECT_TRUE(channels[1]->Broadcast(&value, sizeof value, 0).ok());
    EXPECT_EQ(value, expected);
  }
}

TEST(Loopback, SendWaitsForItsReceive) {
  auto channels = CreateLoopbackChannels(2, 1 << 16);
  int sent = 5;
  const StatusOr<Request> send = channels[0]->StartSend(&sent, sizeof sent, 1, 0);
  ASSERT_TRUE(send.ok());
  StatusOr<bool> finished = channels[0]->Test(*send);
  ASSERT_TRUE(finished.ok());
  EXPECT_FALSE(*finished);
  int received = 0;
  EXPECT_TRUE(channels[1]->Recv(&received, sizeof received, 0, 0).ok());
  finished = channels[0]->Test(*send);
  ASSERT_TRUE(finished.ok());
  EXPECT_TRUE(*finished);
  EXPECT_EQ(received, 5);
}

TEST(Loopback, ChannelsOutliveEachOther) {
  auto channels = CreateLoopbackChannels(3, 1 << 16);
  channels[0].reset();
  int sent = 7;
  int received = 0;
  const StatusOr<Request> send = channels[1]->StartSend(&sent, sizeof sent, 2, 0);
  ASSERT_TRUE(send.ok());
  EXPECT_TRUE(channels[2]->Recv(&received, sizeof received, 1, 0).ok());
  EXPECT_TRUE(channels[1]->Wait(*send).ok());
  EXPECT_EQ(received, 7);
}

}  // namespace
}  // namespace llmir::comm
