#include "kernels/worker_pool.h"

#include <gtest/gtest.h>

#include <sys/resource.h>

#include <chrono>
#include <numeric>
#include <vector>

namespace llmir::kernels {
namespace {

class WorkerPoolTest : public testing::TestWithParam<int> {};

TEST_P(WorkerPoolTest, EveryThreadRunsOnceAndTheCallerIsThreadZero) {
  WorkerPool pool(GetParam());
  ASSERT_EQ(pool.threads(), GetParam());
  const std::thread::id caller = std::this_thread::get_id();
  for (int round = 0; round < 200; ++round) {
    std::vector<int> calls(static_cast<size_t>(pool.threads()));
    std::thread::id zero;
    pool.Run([&](int thread) {
      ++calls[static_cast<size_t>(thread)];
      if (thread == 0) zero = std::this_thread::get_id();
    });
    EXPECT_EQ(zero, caller);
    for (const int count : calls) EXPECT_EQ(count, 1);
  }
}

// Each thread adds its neighbour's value of the round before: without a barrier, or with one that
// lets a thread through early, some read would be of a wrong round.
TEST_P(WorkerPoolTest, BarrierSeparatesRounds) {
  WorkerPool pool(GetParam());
  constexpr int kRounds = 500;
  struct alignas(64) Slot {
    int64_t value[2];
  };
  std::vector<Slot> slots(static_cast<size_t>(pool.threads()));
  std::vector<int> errors(static_cast<size_t>(pool.threads()));
  pool.Run([&](int thread) {
    const auto me = static_cast<size_t>(thread);
    const size_t next = (me + 1) % slots.size();
    slots[me].value[0] = 0;
    pool.Barrier();
    for (int round = 0; round < kRounds; ++round) {
      if (slots[next].value[round % 2] != round) ++errors[me];
      slots[me].value[(round + 1) % 2] = round + 1;
      pool.Barrier();
    }
  });
  EXPECT_EQ(std::accumulate(errors.begin(), errors.end(), 0), 0);
  for (const Slot& slot : slots) EXPECT_EQ(slot.value[kRounds % 2], kRounds);
}

TEST_P(WorkerPoolTest, SleepingWorkersWakeForWork) {
  WorkerPool pool(GetParam());
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> calls{0};
    pool.Run([&](int) { calls.fetch_add(1, std::memory_order_relaxed); });
    EXPECT_EQ(calls.load(), GetParam());
  }
}

// Eight threads are more than the cores of many machines: there the pool must give cores away.
INSTANTIATE_TEST_SUITE_P(Threads, WorkerPoolTest, testing::Values(1, 2, 3, 4, 8));

TEST(WorkerPoolTest, OversubscribedPoolStillSeparatesRounds) {
  WorkerPool pool(4, /*oversubscribed=*/true);
  std::atomic<int> sum{0};
  std::vector<int> seen(4);
  pool.Run([&](int thread) {
    sum.fetch_add(thread + 1, std::memory_order_relaxed);
    pool.Barrier();
    seen[static_cast<size_t>(thread)] = sum.load(std::memory_order_relaxed);
  });
  for (const int value : seen) EXPECT_EQ(value, 10);
}

TEST(WorkerPoolTest, IdlePoolUsesNoProcessorTime) {
  WorkerPool pool(4);
  pool.Run([](int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto used = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const auto us = [](const timeval& t) { return t.tv_sec * 1000000 + t.tv_usec; };
    return us(usage.ru_utime) + us(usage.ru_stime);
  };
  const int64_t before = used();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(used() - before, 10000) << "microseconds of processor time in 200 ms of idleness";
}

TEST(WorkerPoolTest, SharesCoverAllItemsOnceInMultiplesOfTheGrain) {
  for (const int64_t count : {0, 1, 15, 16, 17, 100, 576, 49152}) {
    for (const int64_t grain : {1, 16, 64}) {
      for (const int threads : {1, 2, 3, 7, 64}) {
        int64_t at = 0;
        for (int t = 0; t < threads; ++t) {
          const Share share = ShareOf(count, grain, t, threads);
          EXPECT_EQ(share.begin, at);
          EXPECT_GE(share.end, share.begin);
          EXPECT_TRUE(share.end == count || share.end % grain == 0);
          at = share.end;
        }
        EXPECT_EQ(at, count);
      }
    }
  }
}

}  // namespace
}  // namespace llmir::kernels
