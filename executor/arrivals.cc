#include "executor/arrivals.h"

#include <algorithm>
#include <chrono>

#include "plan_schema/base/hash.h"
#include "plan_schema/plan_facts.h"

namespace llmir::executor {
namespace {

// Tags above those of rows between stages, below those of Rank.
constexpr int kClockTag = comm::kMaxTag - 100;
constexpr int kArrivalsTag = comm::kMaxTag - 200;  // minus a message's number in its program
constexpr int kPings = 32;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What is added to this rank's times to make them rank 0's. 0 where they are of one host.
StatusOr<double> ClockOffset(comm::World& world, comm::Channel& messages) {
  struct Ping {
    uint64_t host;
    double time;
  };
  Ping ping{Hash64(world.host()), 0};
  if (world.rank() == 0) {
    for (int rank = 1; rank < world.size(); ++rank) {
      for (int i = 0; i < kPings; ++i) {
        Ping received{};
        LLMIR_RETURN_IF_ERROR(messages.Recv(&received, sizeof received, rank, kClockTag));
        ping.time = Now();
        LLMIR_RETURN_IF_ERROR(messages.Send(&ping, sizeof ping, rank, kClockTag));
      }
    }
    return 0.0;
  }
  double offset = 0;
  double shortest = 1e9;
  for (int i = 0; i < kPings; ++i) {
    Ping answer{};
    const double sent = Now();
    LLMIR_RETURN_IF_ERROR(messages.Send(&ping, sizeof ping, 0, kClockTag));
    LLMIR_RETURN_IF_ERROR(messages.Recv(&answer, sizeof answer, 0, kClockTag));
    const double back = Now();
    if (answer.host == ping.host || back - sent >= shortest) continue;
    shortest = back - sent;
    offset = answer.time - (sent + back) / 2;
  }
  return offset;
}

// When this rank came to the last executions of a step, on rank 0's clock; the same places in the
// ring are the same executions on all ranks.
std::vector<double> Times(const Program::Arrivals& arrivals, double offset) {
  const uint64_t count = std::min<uint64_t>(arrivals.times->count, StepTimes::kKept);
  std::vector<double> times(arrivals.entered.begin(),
                            arrivals.entered.begin() + static_cast<std::ptrdiff_t>(count));
  for (double& time : times) time += offset;
  return times;
}

// A step of this rank and of those that it met there. Each posts its part of the exchange at one
// time and waits for the others from another time on; in a blocking step they are the same.
struct Meeting {
  const StepTimes& times;
  const std::vector<double>& posted;
  const std::vector<double>& waits;
  const std::vector<std::vector<double>>& others_posted;
  const std::vector<std::vector<double>>& others_wait;
};

Arrival Compare(const Meeting& meeting) {
  Arrival result;
  double waited = 0;
  double took = 0;
  for (size_t i = 0; i < meeting.posted.size(); ++i) {
    double last = -1e300;  // of the others
    for (const std::vector<double>& other : meeting.others_posted) last = std::max(last, other[i]);
    const double us = meeting.times.kept_us[i];
    took += us;
    waited += std::clamp((last - meeting.waits[i]) * 1e6, 0.0, us);
    if (last > meeting.posted[i]) continue;  // somebody else was waited for
    for (const std::vector<double>& other : meeting.others_wait) {
      result.awaited_us += std::max(0.0, meeting.posted[i] - other[i]) * 1e6;
    }
  }
  if (took == 0) return result;
  result.waited = waited / took;
  result.awaited_us *= meeting.times.total_us / took;
  return result;
}

}  // namespace

StatusOr<std::vector<std::vector<Arrival>>> CompareArrivals(
    comm::World& world, const std::vector<std::unique_ptr<Program>>& programs,
    comm::Channel& messages) {
  LLMIR_ASSIGN_OR_RETURN(const double offset, ClockOffset(world, messages));
  std::vector<std::vector<Arrival>> result;
  for (const auto& program : programs) {
    const std::vector<Program::Arrivals> arrivals = program->arrivals();
    std::vector<Arrival>& compared = result.emplace_back(arrivals.size());
    std::vector<std::vector<double>> own(arrivals.size());
    std::vector<std::vector<std::vector<double>>> others(arrivals.size());
    std::vector<comm::Request> requests;
    for (size_t i = 0; i < arrivals.size(); ++i) {
      const Program::Arrivals& step = arrivals[i];
      if (step.channel == nullptr) continue;
      own[i] = Times(step, offset);
      const bool collective = plan::IsCollective(
          step.start >= 0 ? arrivals[static_cast<size_t>(step.start)].kind : step.kind);
      if (step.start >= 0 && !collective) continue;  // the messages' own times will do
      const size_t words = own[i].size() * sizeof(double) / sizeof(float);
      if (collective) {
        // All ranks of the stage have run the program as often.
        const auto ranks = static_cast<size_t>(step.channel->size());
        std::vector<double> all(own[i].size() * ranks);
        const std::vector<size_t> counts(ranks, words);
        LLMIR_ASSIGN_OR_RETURN(
            const comm::Request request,
            step.channel->StartAllGather(reinterpret_cast<const float*>(own[i].data()), counts,
                                         reinterpret_cast<float*>(all.data())));
        LLMIR_RETURN_IF_ERROR(step.channel->Wait(request));
        for (size_t r = 0; r < ranks; ++r) {
          if (static_cast<int>(r) == step.channel->rank()) continue;
          const auto begin = all.begin() + static_cast<std::ptrdiff_t>(r * own[i].size());
          others[i].emplace_back(begin, begin + static_cast<std::ptrdiff_t>(own[i].size()));
        }
        continue;
      }
      others[i].assign(step.peers.size(), std::vector<double>(own[i].size()));
      for (size_t k = 0; k < step.peers.size(); ++k) {
        const size_t bytes = own[i].size() * sizeof(double);
        const int tag = kArrivalsTag - step.tag;
        LLMIR_ASSIGN_OR_RETURN(const comm::Request received,
                               messages.StartRecv(others[i][k].data(), bytes, step.peers[k], tag));
        LLMIR_ASSIGN_OR_RETURN(const comm::Request sent,
                               messages.StartSend(own[i].data(), bytes, step.peers[k], tag));
        requests.push_back(received);
        requests.push_back(sent);
      }
    }
    for (const comm::Request request : requests) {
      LLMIR_RETURN_IF_ERROR(messages.Wait(request));
    }
    for (size_t i = 0; i < arrivals.size(); ++i) {
      const Program::Arrivals& step = arrivals[i];
      if (step.channel == nullptr || plan::IsStart(step.kind)) continue;
      const size_t posted = step.start >= 0 ? static_cast<size_t>(step.start) : i;
      compared[i] = Compare({*step.times, own[posted], own[i], others[posted],
                             others[i].empty() ? others[posted] : others[i]});
    }
  }
  return result;
}

}  // namespace llmir::executor
