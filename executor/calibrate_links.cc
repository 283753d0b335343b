#include "executor/calibrate_links.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "comm/world.h"
#include "executor/cores.h"
#include "kernels/worker_pool.h"

namespace llmir::executor {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr size_t kBytes[] = {256, 2304, 8192, 65536, 524288, size_t{2} << 20};
constexpr size_t kMostBytes = size_t{2} << 20;
constexpr int kTurns = 7;
constexpr int kTag = 7;
constexpr int kMostRanks = 8;
// Operations of a turn: many of the small ones, a few of the large.
int OperationsOf(size_t bytes) { return bytes <= 8192 ? 200 : bytes <= 65536 ? 50 : 8; }

struct Operation {
  const char* name;  // as the plan's step kind
  Status (*run)(comm::Channel& channel, std::vector<float>& data, std::vector<float>& out,
                size_t count);
};

// `count` floats in equal parts, the first ranks taking one more.
std::vector<size_t> Parts(size_t count, int ranks) {
  std::vector<size_t> parts(static_cast<size_t>(ranks), count / static_cast<size_t>(ranks));
  for (size_t i = 0; i < count % static_cast<size_t>(ranks); ++i) ++parts[i];
  return parts;
}

Status AllReduce(comm::Channel& channel, std::vector<float>& data, std::vector<float>&,
                 size_t count) {
  return channel.AllReduce(data.data(), count);
}
Status ReduceScatter(comm::Channel& channel, std::vector<float>& data, std::vector<float>& out,
                     size_t count) {
  return channel.ReduceScatter(data.data(), Parts(count, channel.size()), out.data());
}
Status AllGather(comm::Channel& channel, std::vector<float>& data, std::vector<float>& out,
                 size_t count) {
  return channel.AllGather(data.data(), Parts(count, channel.size()), out.data());
}
Status Gather(comm::Channel& channel, std::vector<float>& data, std::vector<float>& out,
              size_t count) {
  return channel.Gather(data.data(), Parts(count, channel.size()), out.data(), 0);
}
Status Broadcast(comm::Channel& channel, std::vector<float>& data, std::vector<float>&,
                 size_t count) {
  return channel.Broadcast(data.data(), count * sizeof(float), 0);
}
// There and back between the first and the last rank: two messages.
Status Exchange(comm::Channel& channel, std::vector<float>& data, std::vector<float>& out,
                size_t count) {
  const int last = channel.size() - 1;
  const size_t bytes = count * sizeof(float);
  if (channel.rank() == 0) {
    LLMIR_RETURN_IF_ERROR(channel.Send(data.data(), bytes, last, kTag));
    return channel.Recv(out.data(), bytes, last, kTag);
  }
  if (channel.rank() != last) return Status();
  LLMIR_RETURN_IF_ERROR(channel.Recv(out.data(), bytes, 0, kTag));
  return channel.Send(data.data(), bytes, 0, kTag);
}

constexpr Operation kOperations[] = {{"all_reduce", AllReduce}, {"reduce_scatter", ReduceScatter},
                                     {"all_gather", AllGather}, {"gather", Gather},
                                     {"broadcast", Broadcast},  {"send", Exchange}};

}  // namespace

StatusOr<Json> MeasureChannel(comm::Channel& channel, const std::atomic<bool>& cancelled) {
  std::vector<float> data(kMostBytes / sizeof(float), 0.0f);  // sums of zeros stay what they are
  std::vector<float> out(kMostBytes / sizeof(float), 0.0f);
  Json json = Json::array();
  for (const Operation& operation : kOperations) {
    const bool there_and_back = operation.run == Exchange;
    Json entry = {{"operation", operation.name}, {"sizes", Json::array()}};
    for (const size_t bytes : kBytes) {
      const int operations = OperationsOf(bytes);
      double best = 0;
      for (int turn = -1; turn < kTurns; ++turn) {  // the first one warms up
        LLMIR_RETURN_IF_ERROR(channel.Barrier());
        const auto begin = Clock::now();
        for (int i = 0; i < operations; ++i) {
          LLMIR_RETURN_IF_ERROR(operation.run(channel, data, out, bytes / sizeof(float)));
        }
        const double us = std::chrono::duration<double, std::micro>(Clock::now() - begin).count() /
                          (there_and_back ? 2 * operations : operations);
        if (turn == 0 || us < best) best = us;
      }
      entry["sizes"].push_back({{"bytes", bytes}, {"us", best}});
    }
    json.push_back(std::move(entry));
    // All ranks leave at the same place: the first one's word counts.
    int32_t stop = cancelled.load(std::memory_order_relaxed) ? 1 : 0;
    LLMIR_RETURN_IF_ERROR(channel.Broadcast(&stop, sizeof stop, 0));
    if (stop != 0) return Cancelled("stopped by a signal; nothing was written");
  }
  return json;
}

StatusOr<Json> MeasureHostLinks(int cores, const std::atomic<bool>& cancelled) {
  Json json = Json::array();
  for (int ranks = 2; ranks <= std::min(cores, kMostRanks); ++ranks) {
    const auto channels = comm::CreateLoopbackChannels(ranks, kMostBytes);
    const KeptCores kept;
    kernels::WorkerPool pool(ranks);
    PinThreads(pool, 0, 1, cores);
    std::vector<Status> statuses(static_cast<size_t>(ranks));
    Json operations;
    pool.Run([&](int thread) {
      auto measured = MeasureChannel(*channels[static_cast<size_t>(thread)], cancelled);
      statuses[static_cast<size_t>(thread)] = measured.status();
      if (thread == 0 && measured.ok()) operations = std::move(measured).value();
    });
    for (const Status& status : statuses) LLMIR_RETURN_IF_ERROR(status);
    json.push_back({{"channel", "shared-memory"},
                    {"ranks", ranks},
                    {"hosts", 1},
                    {"operations", std::move(operations)}});
  }
  return json;
}

}  // namespace llmir::executor
