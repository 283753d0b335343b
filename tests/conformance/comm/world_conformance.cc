// What World must do, in a job of any size.
#include "comm/world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/conformance/comm/job.h"

namespace llmir::comm {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;

// The sum of `value` over `ranks`, through a channel among them; also checks who is who in it.
float SumOver(const std::vector<int>& ranks, float value) {
  StatusOr<std::unique_ptr<Channel>> channel =
      JobWorld().CreateChannel(ranks, kMaxBytes, JobBackend());
  EXPECT_TRUE(channel.ok()) << channel.status().ToString();
  if (!channel.ok()) return -1;
  EXPECT_EQ((*channel)->size(), static_cast<int>(ranks.size()));
  EXPECT_EQ(ranks[static_cast<size_t>((*channel)->rank())], JobWorld().rank());
  int root = ranks[0];
  EXPECT_TRUE((*channel)->Broadcast(&root, sizeof root, 0).ok());
  EXPECT_EQ(root, ranks[0]);
  const Status status = (*channel)->AllReduce(&value, 1);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return value;
}

// How many hosts the job's ranks are on.
int HostCount() {
  std::vector<int> ranks(static_cast<size_t>(JobWorld().size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  StatusOr<std::unique_ptr<Channel>> channel =
      JobWorld().CreateChannel(ranks, kMaxBytes, Backend::kMpi);
  EXPECT_TRUE(channel.ok()) << channel.status().ToString();
  if (!channel.ok()) return 0;
  float leaders = JobWorld().local_rank() == 0 ? 1 : 0;
  const Status status = (*channel)->AllReduce(&leaders, 1);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return static_cast<int>(leaders);
}

std::vector<int> Range(int begin, int end) {
  std::vector<int> ranks(static_cast<size_t>(end - begin));
  std::iota(ranks.begin(), ranks.end(), begin);
  return ranks;
}

TEST(World, RanksOfAHostAreCounted) {
  const World& world = JobWorld();
  EXPECT_GE(world.rank(), 0);
  EXPECT_LT(world.rank(), world.size());
  EXPECT_GE(world.local_rank(), 0);
  EXPECT_LT(world.local_rank(), world.local_size());
  EXPECT_LE(world.local_size(), world.size());
  if (HostCount() == 1) {
    EXPECT_EQ(world.local_size(), world.size());
    EXPECT_EQ(world.local_rank(), world.rank());
  }
  EXPECT_FALSE(world.host().empty());
}

TEST(World, ChannelHasTheBackendThatWasAskedFor) {
  const std::vector<int> ranks = Range(0, JobWorld().size());
  StatusOr<std::unique_ptr<Channel>> channel =
      JobWorld().CreateChannel(ranks, kMaxBytes, JobBackend());
  ASSERT_TRUE(channel.ok()) << channel.status().ToString();
  const int hosts = HostCount();
  EXPECT_EQ((*channel)->backend(), JobWorld().size() == 1          ? "loopback"
                                   : JobBackend() == Backend::kMpi ? "mpi"
                                   : hosts == 1                    ? "shared-memory"
                                   : hosts < JobWorld().size()     ? "hierarchical"
                                                                   : "mpi");
}

TEST(World, ReversedGroupCountsFromItsEnd) {
  std::vector<int> ranks = Range(0, JobWorld().size());
  std::reverse(ranks.begin(), ranks.end());
  EXPECT_EQ(SumOver(ranks, 1), static_cast<float>(ranks.size()));
}

TEST(World, SomeRanksMakeAChannelWhileOthersMakeAnother) {
  const int size = JobWorld().size();
  const int half = size / 2;
  const bool low = JobWorld().rank() < half;
  const std::vector<int> ranks = low ? Range(0, half) : Range(half, size);
  EXPECT_EQ(SumOver(ranks, 1), static_cast<float>(ranks.size()));
}

TEST(World, ChannelOfRanksThatAlternateBetweenHostsWorks) {
  std::vector<int> ranks;
  for (int begin : {0, 1}) {
    for (int rank = begin; rank < JobWorld().size(); rank += 2) ranks.push_back(rank);
  }
  EXPECT_EQ(SumOver(ranks, 1), static_cast<float>(ranks.size()));
}

TEST(World, ChannelWithoutTheFirstAndLastRankWorks) {
  const int size = JobWorld().size();
  const std::vector<int> ranks = Range(size > 2 ? 1 : 0, size > 3 ? size - 1 : size);
  if (std::count(ranks.begin(), ranks.end(), JobWorld().rank()) > 0) {
    EXPECT_EQ(SumOver(ranks, 1), static_cast<float>(ranks.size()));
  }
}

TEST(World, ChannelOfOneRankIsLoopback) { EXPECT_EQ(SumOver({JobWorld().rank()}, 3), 3); }

TEST(World, WrongGroupsAreRefused) {
  World& world = JobWorld();
  const auto refused = [&](const std::vector<int>& ranks) {
    return world.CreateChannel(ranks, kMaxBytes, JobBackend()).status().code() ==
           StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused({}));
  EXPECT_TRUE(refused({world.size()}));
  EXPECT_TRUE(refused({-1}));
  EXPECT_TRUE(refused({world.rank(), world.rank()}));
  if (world.size() > 1) {
    EXPECT_TRUE(refused({(world.rank() + 1) % world.size()}));
  }
}

TEST(World, BytesOfRank0ReachEveryRank) {
  for (const size_t bytes : {size_t{0}, size_t{1}, (size_t{3} << 20) + 7}) {
    std::vector<std::byte> expected(bytes);
    for (size_t i = 0; i < bytes; ++i) expected[i] = static_cast<std::byte>(i * 37 % 251);
    StatusOr<std::vector<std::byte>> got =
        JobWorld().BroadcastBytes(JobWorld().rank() == 0 ? expected : std::vector<std::byte>(5));
    ASSERT_TRUE(got.ok()) << got.status().ToString();
    EXPECT_TRUE(*got == expected) << bytes;
  }
}

TEST(World, AllAgreeOnTheErrorOfTheLowestRankThatHasOne) {
  World& world = JobWorld();
  EXPECT_TRUE(world.Agree(Status()).ok());
  const int first = world.size() / 2;
  const Status status =
      world.Agree(world.rank() < first ? Status() : NotFound("weights of rank {}", world.rank()));
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  // In brackets the host of that rank, which may be another one than this rank's.
  const std::string told = fmt::format("weights of rank {}", first);
  if (world.size() == 1) {
    EXPECT_EQ(status.message(), told);
  } else {
    EXPECT_THAT(status.message(), testing::StartsWith(fmt::format("rank {} (", first)));
    EXPECT_THAT(status.message(), testing::EndsWith("): " + told));
  }
  EXPECT_TRUE(world.Agree(Status()).ok());
}

TEST(World, IsCreatedOnce) {
  EXPECT_EQ(World::Create(nullptr, nullptr).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace llmir::comm
