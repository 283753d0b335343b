// Transfer services as ranks of one process: replica 0 is cut in two by heads, replica 1 in two by
// layers.
#include "kvpool/transfer_service.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include "kvpool/transfer_frames.h"

namespace llmir::kvpool {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

constexpr int32_t kLayers = 4;
constexpr int32_t kHeads = 4;

std::byte Value(int replica, int32_t block, int32_t layer, int32_t head, int64_t i) {
  return static_cast<std::byte>(replica * 101 + block * 13 + layer * 131 + head * 29 + i * 7 +
                                (i >> 8));
}

struct Job {
  bool sockets_only = false;
  bool between_hosts = false;
  size_t blocks = 16;
  int64_t head_bytes = 1000;
  milliseconds patience{10000};
  size_t spill_slots = 0;
};

class TransferServiceTest : public testing::Test {
 protected:
  struct Rank {
    int replica;
    BlockLayout layout;
    std::optional<KvArena> arena;
    std::unique_ptr<TransferService> service;
  };

  void Make(const Job& setup,
            const std::function<void(std::vector<TransferEndpoint>&)>& change = {}) {
    const int64_t bytes = setup.head_bytes;
    ranks_.clear();
    ranks_.push_back({0, {0, kLayers, 0, 1, bytes}, {}, {}});
    ranks_.push_back({0, {0, kLayers, 1, 3, bytes}, {}, {}});
    ranks_.push_back({1, {0, 1, 0, kHeads, bytes}, {}, {}});
    ranks_.push_back({1, {1, 3, 0, kHeads, bytes}, {}, {}});
    TransferOptions options;
    options.sockets_only = setup.sockets_only;
    options.between_hosts = setup.between_hosts;
    options.patience = setup.patience;
    options.spill_slots = setup.spill_slots;
    if (setup.spill_slots > 0) options.spill_folder = testing::TempDir();
    if (on_fatal_) options.on_fatal = on_fatal_;
    endpoints_.clear();
    for (size_t r = 0; r < ranks_.size(); ++r) {
      Rank& rank = ranks_[r];
      // Extents differ from rank to rank, as plans' may.
      auto arena = KvArena::Create({setup.blocks, static_cast<size_t>(rank.layout.slices()),
                                    static_cast<size_t>(rank.layout.slice_bytes()), size_t{1} << r},
                                   Sharing::kShared);
      ASSERT_TRUE(arena.ok()) << arena.status().ToString();
      rank.arena = std::move(arena).value();
      Fill(rank);
      auto service = TransferService::Create(static_cast<int>(r), rank.replica,
                                             setup.between_hosts ? rank.replica : 0, rank.layout,
                                             *rank.arena, options);
      ASSERT_TRUE(service.ok()) << service.status().ToString();
      rank.service = std::move(service).value();
      endpoints_.push_back(rank.service->endpoint());
    }
    if (change) change(endpoints_);
    for (Rank& rank : ranks_) {
      const Status joined = rank.service->Join(endpoints_);
      ASSERT_TRUE(joined.ok()) << joined.ToString();
    }
  }

  // Byte i of a head of a layer, counted from the rank's first, in a block.
  static std::byte& At(const Rank& rank, int32_t block, int32_t layer, int32_t head, int64_t i) {
    const int64_t slice = 2 * (layer * rank.layout.kv_heads + head) + i / rank.layout.slice_bytes();
    return rank.arena->slice(static_cast<size_t>(slice),
                             static_cast<size_t>(block))[i % rank.layout.slice_bytes()];
  }

  static void Fill(Rank& rank) {
    for (size_t block = 0; block < rank.arena->shape().blocks; ++block) {
      for (int32_t layer = 0; layer < rank.layout.layers; ++layer) {
        for (int32_t head = 0; head < rank.layout.kv_heads; ++head) {
          for (int64_t i = 0; i < rank.layout.head_bytes; ++i) {
            At(rank, static_cast<int32_t>(block), layer, head, i) =
                Value(rank.replica, static_cast<int32_t>(block), rank.layout.first_layer + layer,
                      rank.layout.first_kv_head + head, i);
          }
        }
      }
    }
  }

  // Whether block `to` of the replica's ranks holds what block `from` of replica `source` does.
  void ExpectBlock(int replica, int32_t to, int source, int32_t from) {
    for (const Rank& rank : ranks_) {
      if (rank.replica != replica) continue;
      int64_t wrong = 0;
      for (int32_t layer = 0; layer < rank.layout.layers; ++layer) {
        for (int32_t head = 0; head < rank.layout.kv_heads; ++head) {
          for (int64_t i = 0; i < rank.layout.head_bytes; ++i) {
            wrong +=
                At(rank, to, layer, head, i) != Value(source, from, rank.layout.first_layer + layer,
                                                      rank.layout.first_kv_head + head, i);
          }
        }
      }
      EXPECT_EQ(wrong, 0) << "block " << to << " of replica " << replica << ", "
                          << rank.layout.layers << " layers, " << rank.layout.kv_heads << " heads";
    }
  }

  TransferOutcome Wait() {
    TransferOutcome outcome;
    for (int i = 0; i < 30000; ++i) {
      if (ranks_[0].service->TakeOutcome(&outcome)) return outcome;
      // Returns at once while a loss isn't taken.
      ranks_[0].service->WaitOutcome(milliseconds(10));
      std::this_thread::sleep_for(milliseconds(1));
    }
    ADD_FAILURE() << "no outcome";
    return outcome;
  }
  Status Order(uint64_t ticket, int source, int destination, std::vector<int32_t> from,
               std::vector<int32_t> to) {
    return ranks_[0].service->Order({ticket, TransferKind::kFetch, source, destination, from, to});
  }

  // A connection to a rank's service that has said `hello`.
  int Connect(int rank, const Hello& hello) {
    const int file = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(endpoints_[static_cast<size_t>(rank)].port));
    EXPECT_EQ(connect(file, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(write(file, &hello, sizeof hello), static_cast<ssize_t>(sizeof hello));
    return file;
  }

  std::function<void(const Status&)> on_fatal_;
  std::vector<Rank> ranks_;
  std::vector<TransferEndpoint> endpoints_;
};

class TransferWays : public TransferServiceTest, public testing::WithParamInterface<bool> {};

INSTANTIATE_TEST_SUITE_P(Ways, TransferWays, testing::Values(false, true),
                         [](const auto& test) { return test.param ? "Sockets" : "Memory"; });

TEST_P(TransferWays, BlocksMoveBetweenReplicasThatAreCutInDifferentWays) {
  Make({.sockets_only = GetParam()});
  ASSERT_TRUE(Order(1, 0, 1, {3, 9, 4}, {0, 1, 15}).ok());
  TransferOutcome outcome = Wait();
  EXPECT_EQ(outcome.ticket, 1u);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
  EXPECT_EQ(outcome.bytes, 3u * kLayers * kHeads * 1000);
  EXPECT_GT(outcome.seconds, 0);
  ExpectBlock(1, 0, 0, 3);
  ExpectBlock(1, 1, 0, 9);
  ExpectBlock(1, 15, 0, 4);
  ExpectBlock(1, 2, 1, 2);  // all others are as they were
  ASSERT_TRUE(Order(2, 1, 0, {2}, {7}).ok());
  outcome = Wait();
  EXPECT_EQ(outcome.ticket, 2u);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
  ExpectBlock(0, 7, 1, 2);
  ExpectBlock(0, 3, 0, 3);
}

TEST_P(TransferWays, ManyOrdersGiveAsManyOutcomes) {
  Make({.sockets_only = GetParam()});
  for (int32_t i = 0; i < 50; ++i) {
    ASSERT_TRUE(Order(static_cast<uint64_t>(i), 0, 1, {i % 16}, {(i + 5) % 16}).ok());
  }
  std::vector<bool> seen(50);
  for (int i = 0; i < 50; ++i) {
    const TransferOutcome outcome = Wait();
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
    ASSERT_LT(outcome.ticket, 50u);
    EXPECT_FALSE(seen[outcome.ticket]);
    seen[outcome.ticket] = true;
  }
  for (int32_t i = 34; i < 50; ++i) ExpectBlock(1, (i + 5) % 16, 0, i % 16);
}

TEST_P(TransferWays, AnOrderOfABlockThatIsNotFailsOnAllRanksAndTheNextOneSucceeds) {
  Make({.sockets_only = GetParam()});
  ASSERT_TRUE(Order(1, 0, 1, {16}, {0}).ok());
  TransferOutcome outcome = Wait();
  EXPECT_EQ(outcome.status.code(), StatusCode::kOutOfRange) << outcome.status.ToString();
  ASSERT_TRUE(Order(2, 0, 1, {1}, {-1}).ok());
  EXPECT_EQ(Wait().status.code(), StatusCode::kOutOfRange);
  ASSERT_TRUE(Order(3, 0, 1, {1}, {2}).ok());
  outcome = Wait();
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
  ExpectBlock(1, 2, 0, 1);
}

TEST_F(TransferServiceTest, BlocksComeFromTheSpillFilesOfAnotherReplica) {
  Make({.spill_slots = 4});
  const auto order = [&](TransferKind kind, int source, int destination, std::vector<int32_t> from,
                         std::vector<int32_t> to) {
    EXPECT_TRUE(ranks_[0].service->Order({9, kind, source, destination, from, to}).ok());
    return Wait();
  };
  for (const int source : {0, 1}) {
    const int other = 1 - source;
    TransferOutcome outcome = order(TransferKind::kSpill, source, source, {7, 2}, {3, 0});
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
    outcome = order(TransferKind::kRestore, source, other, {0, 3}, {10, 12});
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
    EXPECT_EQ(outcome.bytes, 2u * kLayers * kHeads * 1000);
    ExpectBlock(other, 10, source, 2);
    ExpectBlock(other, 12, source, 7);
    // What was never written breaks the connection off; the next one is another.
    EXPECT_EQ(order(TransferKind::kRestore, source, other, {1}, {5}).status.code(),
              StatusCode::kUnavailable);
    EXPECT_EQ(order(TransferKind::kRestore, source, other, {4}, {5}).status.code(),
              StatusCode::kOutOfRange);
    outcome = order(TransferKind::kRestore, source, other, {3}, {5});
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
    ExpectBlock(other, 5, source, 7);
  }
  EXPECT_EQ(ranks_[0].service->Order({1, TransferKind::kSpill, 0, 1, {}, {}}).code(),
            StatusCode::kInvalidArgument);
}

TEST_F(TransferServiceTest, BlocksComeBackFromTheSpillFiles) {
  Make({.spill_slots = 4});
  const auto order = [&](TransferKind kind, int replica, std::vector<int32_t> from,
                         std::vector<int32_t> to) {
    EXPECT_TRUE(ranks_[0].service->Order({9, kind, replica, replica, from, to}).ok());
    return Wait();
  };
  for (const int replica : {0, 1}) {
    TransferOutcome outcome = order(TransferKind::kSpill, replica, {7, 2}, {3, 0});
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
    EXPECT_EQ(outcome.bytes, 2u * kLayers * kHeads * 1000);
    outcome = order(TransferKind::kRestore, replica, {0, 3}, {10, 11});
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
    ExpectBlock(replica, 10, replica, 2);
    ExpectBlock(replica, 11, replica, 7);
    EXPECT_EQ(order(TransferKind::kRestore, replica, {1}, {5}).status.code(),
              StatusCode::kDataLoss);
    EXPECT_EQ(order(TransferKind::kSpill, replica, {1}, {4}).status.code(),
              StatusCode::kOutOfRange);
    EXPECT_EQ(order(TransferKind::kSpill, replica, {16}, {1}).status.code(),
              StatusCode::kOutOfRange);
  }
  Make({});
  EXPECT_EQ(order(TransferKind::kSpill, 1, {1}, {1}).status.code(), StatusCode::kUnavailable);
}

TEST_F(TransferServiceTest, OrdersThatMakeNoSenseAreRefused) {
  Make({});
  const std::vector<int32_t> one{1};
  EXPECT_EQ(ranks_[0].service->Order({1, TransferKind::kSpill, 0, 1, one, one}).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(Order(1, 0, 1, {1, 2}, {1}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Order(1, 0, 0, {1}, {1}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Order(1, 0, 1, {}, {}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ranks_[1].service->Order({1, TransferKind::kFetch, 0, 1, one, one}).code(),
            StatusCode::kInvalidArgument);
}

TEST_F(TransferServiceTest, HostsReachEachOtherByTheirAddresses) {
  if (HostAddresses().empty()) GTEST_SKIP() << "UNAVAILABLE: this host has loopback alone";
  Make({.between_hosts = true});
  EXPECT_FALSE(ranks_[0].service->ShareHost(0, 1));
  EXPECT_TRUE(ranks_[0].service->ShareHost(1, 1));
  ASSERT_TRUE(Order(1, 0, 1, {3}, {4}).ok());
  const TransferOutcome outcome = Wait();
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
  ExpectBlock(1, 4, 0, 3);
}

TEST_F(TransferServiceTest, ARankThatCannotReachRank0SaysSo) {
  Make({});
  auto lone = TransferService::Create(1, 0, 0, ranks_[1].layout, *ranks_[1].arena, {});
  ASSERT_TRUE(lone.ok()) << lone.status().ToString();
  std::vector<TransferEndpoint> endpoints = endpoints_;
  endpoints[0].port = 1;  // nobody's
  const Status joined = (*lone)->Join(endpoints);
  EXPECT_EQ(joined.code(), StatusCode::kUnavailable);
  EXPECT_THAT(joined.message(), HasSubstr("rank 0 can't be reached: 127.0.0.1 port 1"));
}

TEST_F(TransferServiceTest, AnOwnerThatIsLostFailsWhatNeedsItAndNothingElse) {
  Make({.sockets_only = true});
  ranks_[3].service.reset();
  ASSERT_TRUE(Order(1, 1, 0, {3}, {4}).ok());
  TransferOutcome outcome = Wait();
  EXPECT_EQ(outcome.status.code(), StatusCode::kUnavailable) << outcome.status.ToString();
  EXPECT_THAT(outcome.status.message(), HasSubstr("rank 3"));
  // A rank of the destination that is lost.
  ASSERT_TRUE(Order(2, 0, 1, {3}, {4}).ok());
  outcome = Wait();
  EXPECT_THAT(outcome.status.ToString(), HasSubstr("it is lost"));
  int lost = -1;
  EXPECT_TRUE(ranks_[0].service->TakeLost(&lost));
  EXPECT_EQ(lost, 1);
  EXPECT_FALSE(ranks_[0].service->TakeLost(&lost)) << "each once";
}

TEST_F(TransferServiceTest, RanksThatWaitForALostOneAreTold) {
  std::atomic<int> told{0};
  on_fatal_ = [&](const Status&) { ++told; };
  Make({});
  ranks_[3].service.reset();
  for (int i = 0; i < 1000 && told < 1; ++i) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(told, 1) << "rank 2, of the same replica";
  ranks_[1].service.reset();
  for (int i = 0; i < 1000 && told < 2; ++i) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(told, 2) << "rank 0 has lost its own replica";
  ranks_.clear();
}

TEST_F(TransferServiceTest, RanksThatGoAtTheEndAreNoLoss) {
  std::atomic<int> told{0};
  on_fatal_ = [&](const Status&) { ++told; };
  Make({});
  for (Rank& rank : ranks_) rank.service->Close();
  for (size_t r : {3, 0, 2, 1}) {
    ranks_[r].service.reset();
    std::this_thread::sleep_for(milliseconds(20));
  }
  EXPECT_EQ(told, 0);
}

TEST_F(TransferServiceTest, AnOwnerThatIsLostDuringATransferFailsIt) {
  Make({.sockets_only = true, .blocks = 64, .head_bytes = 500000});
  // What arrives first overwrites the first byte of what replica 0 has in block 20.
  const volatile std::byte* first = ranks_[0].arena->slice(0, 20);
  const std::byte before = *first;
  ASSERT_NE(Value(1, 0, 0, 0, 0), before);
  std::vector<int32_t> from;
  std::vector<int32_t> to;
  for (int32_t i = 0; i < 40; ++i) {
    from.push_back(i);
    to.push_back(20 + i);
  }
  ASSERT_TRUE(Order(1, 1, 0, from, to).ok());
  while (*first == before) std::this_thread::yield();
  ranks_[2].service.reset();
  ranks_[3].service.reset();
  const TransferOutcome outcome = Wait();
  EXPECT_EQ(outcome.status.code(), StatusCode::kUnavailable) << outcome.status.ToString();
}

TEST_F(TransferServiceTest, MemoryOfALostRankThatWasMappedStays) {
  Make({});
  ASSERT_TRUE(Order(1, 1, 0, {3}, {4}).ok());
  EXPECT_TRUE(Wait().status.ok());
  ranks_[2].service.reset();
  ranks_[3].service.reset();
  ASSERT_TRUE(Order(2, 1, 0, {5}, {6}).ok());
  const TransferOutcome outcome = Wait();
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
  ExpectBlock(0, 6, 1, 5);
}

TEST_F(TransferServiceTest, AnOwnerThatSaysNothingIsGivenUp) {
  const int silent = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(silent, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(silent, 8), 0);
  socklen_t size = sizeof address;
  ASSERT_EQ(getsockname(silent, reinterpret_cast<sockaddr*>(&address), &size), 0);
  Make({.sockets_only = true, .patience = milliseconds(150)},
       [&](std::vector<TransferEndpoint>& endpoints) {
         endpoints[2].port = ntohs(address.sin_port);
       });
  ASSERT_TRUE(Order(1, 1, 0, {3}, {4}).ok());
  const TransferOutcome outcome = Wait();
  EXPECT_EQ(outcome.status.code(), StatusCode::kDeadlineExceeded) << outcome.status.ToString();
  close(silent);
}

// Another rank's memory, by a name that has come to mean something else.
TEST_F(TransferServiceTest, MemoryThatIsNotTheOwnersIsNotRead) {
  Make({}, [&](std::vector<TransferEndpoint>& endpoints) {
    endpoints[2].descriptor = endpoints[3].descriptor;
  });
  ASSERT_TRUE(Order(1, 1, 0, {3}, {4}).ok());
  const TransferOutcome outcome = Wait();
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();  // by the socket
  ExpectBlock(0, 4, 1, 3);
}

TEST_F(TransferServiceTest, AStrangerIsNotServed) {
  Make({});
  std::array<uint8_t, 16> cookie = endpoints_[0].cookie;
  cookie[15] ^= 1;
  for (const Hello& hello :
       {Hello{kTransferMagic, kTransferVersion, cookie, Purpose::kGet, 1},
        Hello{kTransferMagic, kTransferVersion + 1, endpoints_[0].cookie, Purpose::kGet, 1},
        Hello{kTransferMagic, kTransferVersion, endpoints_[0].cookie, Purpose::kGet, 4},
        Hello{kTransferMagic, kTransferVersion, endpoints_[0].cookie, Purpose{9}, 1}}) {
    const int file = Connect(2, hello);
    char byte = 0;
    EXPECT_LE(read(file, &byte, 1), 0);
    close(file);
  }
}

TEST_F(TransferServiceTest, BytesOutsideOfABlockAreRefused) {
  Make({});
  const Hello hello{kTransferMagic, kTransferVersion, endpoints_[0].cookie, Purpose::kGet, 1};
  const auto size = static_cast<uint64_t>(ranks_[2].layout.slices());
  const auto reply = [&](PieceFrame piece, int32_t block, uint32_t spilled = 0) {
    const int file = Connect(2, hello);
    const GetRequest request{1, 1, spilled, 0};
    EXPECT_EQ(write(file, &request, sizeof request), static_cast<ssize_t>(sizeof request));
    EXPECT_EQ(write(file, &piece, sizeof piece), static_cast<ssize_t>(sizeof piece));
    EXPECT_EQ(write(file, &block, sizeof block), static_cast<ssize_t>(sizeof block));
    GetReply got{99, 0, 0};
    EXPECT_EQ(recv(file, &got, sizeof got, MSG_WAITALL), static_cast<ssize_t>(sizeof got));
    close(file);
    return static_cast<StatusCode>(got.code);
  };
  EXPECT_EQ(reply({0, size}, 0), StatusCode::kOk);
  EXPECT_EQ(reply({1, size}, 0), StatusCode::kOutOfRange);
  EXPECT_EQ(reply({size + 1, 0}, 0), StatusCode::kOutOfRange);
  EXPECT_EQ(reply({UINT64_MAX - 3, 8}, 0), StatusCode::kOutOfRange);
  EXPECT_EQ(reply({0, 8}, 16), StatusCode::kOutOfRange);
  EXPECT_EQ(reply({0, 8}, -1), StatusCode::kOutOfRange);
  EXPECT_EQ(reply({0, 8}, 0, 1), StatusCode::kOutOfRange) << "there is no spill file";
}

}  // namespace
}  // namespace llmir::kvpool
