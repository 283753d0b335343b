//===- Search.cpp - The layout for a cluster and a load -------------------===//

#include "planner/Search.h"

#include <algorithm>

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

#include "plan_schema/plan_facts.h"
#include "planner/Layout.h"

using namespace llmir;

namespace {

/// Layouts that are planned, of those that a first estimate finds best.
constexpr size_t kMostLayouts = 32;
/// Of them, those that are tried with other blocks and overlaps.
constexpr size_t kRefined = 3;
/// Numbers of ranks up to this one are tried one by one.
constexpr int64_t kEveryCount = 8;

std::string formatTp(const std::vector<int64_t> &tp) {
  return llvm::join(
      llvm::map_range(tp, [](int64_t ranks) { return std::to_string(ranks); }),
      "+");
}

/// "2+1", and of several replicas "3 x 2+1".
std::string formatLayout(const Candidate &candidate) {
  std::string stages = formatTp(candidate.tp);
  return candidate.replicas == 1
             ? stages
             : fmt::format("{} x {}", candidate.replicas, stages);
}

/// Replicas of a layout.
struct Replicated {
  int64_t replicas = 1;
  Layout layout;
};

class Searcher {
public:
  Searcher(const checkpoint::Checkpoint &checkpoint,
           const checkpoint::Tokenizer *tokenizer,
           const PlannerOptions &options, const plan::Cluster &cluster,
           const plan::Calibration *calibration, const plan::ForecastLoad &load)
      : checkpoint(checkpoint), tokenizer(tokenizer), options(options),
        cluster(cluster), calibration(calibration), load(load) {}

  StatusOr<SearchResult> run() {
    LLMIR_ASSIGN_OR_RETURN(std::vector<Replicated> layouts, listCandidates());
    for (const Replicated &each : layouts)
      weigh(each.replicas, each.layout.tp, options.overlap, options.blockSize);
    sort();
    std::vector<Candidate> best;
    for (const Candidate &candidate : candidates)
      if (candidate.problem.ok() && best.size() < kRefined)
        best.push_back(candidate);
    for (const Candidate &candidate : best)
      refine(candidate);
    sort();
    if (!candidates.front().problem.ok())
      return ResourceExhausted("{}: none of {} layouts fits {}: {}",
                               checkpoint.path(), candidates.size(),
                               cluster.name,
                               candidates.front().problem.message());
    SearchResult result;
    result.reason = explain();
    result.candidates = std::move(candidates);
    return result;
  }

private:
  bool isThroughput() const { return options.goal == "throughput"; }
  /// Less is better.
  double getScore(const Candidate &candidate) const {
    return isThroughput() ? 1e6 / candidate.tokensPerSecond
                          : candidate.requestUs;
  }
  void sort() {
    llvm::stable_sort(candidates, [&](const Candidate &a, const Candidate &b) {
      if (a.problem.ok() != b.problem.ok())
        return a.problem.ok();
      return a.problem.ok() && getScore(a) < getScore(b);
    });
  }

  /// The numbers of ranks that are tried: all small ones, powers of two, and
  /// what was asked for.
  std::vector<int64_t> listCounts() const {
    int64_t most = options.ranks > 0 ? options.ranks : cluster.places();
    most =
        std::min<int64_t>(most, getMostReplicas() * checkpoint.config().layers *
                                    getLargestTp(checkpoint.config()));
    std::vector<int64_t> counts;
    for (int64_t count = 1; count <= most; ++count)
      if (count <= kEveryCount || llvm::isPowerOf2_64(count) || count == most)
        counts.push_back(count);
    return counts;
  }

  /// options.dp, or where it is to be chosen as many as there are sequences.
  int64_t getMostReplicas() const {
    if (options.dp > 0)
      return options.dp;
    return std::min<int64_t>(load.batch, plan::kMostStepsInFlight);
  }

  StatusOr<std::vector<Replicated>> listCandidates() const {
    std::vector<Replicated> found;
    Status problem;
    for (int64_t count : listCounts()) {
      for (int64_t replicas = std::max<int64_t>(options.dp, 1);
           replicas <= getMostReplicas(); ++replicas) {
        if (count % replicas != 0)
          continue;
        auto layouts = listLayouts(
            checkpoint, {count / replicas, options.weights,
                         options.rankMemory.value_or(0), calibration});
        // What doesn't fit on few ranks may fit on more.
        if (!layouts.ok()) {
          if (problem.ok())
            problem = layouts.status();
          continue;
        }
        // The best of each number of ranks and replicas stays, whatever the
        // others promise.
        for (auto [index, layout] : llvm::enumerate(*layouts)) {
          layout.isBestOfCount = index == 0;
          found.push_back({replicas, std::move(layout)});
        }
      }
    }
    if (found.empty())
      return problem.ok()
                 ? ResourceExhausted("--dp {}: needs as many ranks, of {}",
                                     options.dp, listCounts().back())
                 : problem;
    // For throughput, replicas divide the time of a token among them.
    auto getEstimate = [&](const Replicated &each) {
      return each.layout.usPerToken / (isThroughput() ? each.replicas : 1);
    };
    llvm::stable_sort(found, [&](const Replicated &a, const Replicated &b) {
      if (a.layout.isBestOfCount != b.layout.isBestOfCount)
        return a.layout.isBestOfCount;
      return getEstimate(a) < getEstimate(b);
    });
    if (found.size() > kMostLayouts)
      found.resize(kMostLayouts);
    return found;
  }

  void refine(const Candidate &candidate) {
    std::vector<std::string> overlaps = {options.overlap};
    int64_t widest = *llvm::max_element(candidate.tp);
    if (options.overlap == "auto" && widest > 1)
      overlaps = {"auto", "none", "scatter", "halves"};
    std::vector<std::optional<int64_t>> blocks = {options.blockSize};
    if (!options.blockSize)
      for (int64_t size : {16, 32, 64, 128, 256})
        blocks.push_back(size);
    for (const std::string &overlap : overlaps)
      if (overlap != candidate.overlap)
        weigh(candidate.replicas, candidate.tp, overlap, options.blockSize);
    for (std::optional<int64_t> size : blocks)
      if (size && *size != candidate.blockSize)
        weigh(candidate.replicas, candidate.tp, candidate.overlap, size);
  }

  void weigh(int64_t replicas, const std::vector<int64_t> &tp,
             const std::string &overlap, std::optional<int64_t> blockSize) {
    Candidate candidate;
    candidate.replicas = replicas;
    candidate.tp = tp;
    candidate.overlap = overlap;
    candidate.blockSize = blockSize.value_or(0);
    candidate.problem = simulate(candidate, blockSize);
    if (options.progress)
      options.progress(fmt::format("weighing layouts: {} done, {} ranks now",
                                   candidates.size(), candidate.getRanks()));
    candidates.push_back(std::move(candidate));
  }

  Status simulate(Candidate &candidate, std::optional<int64_t> blockSize) {
    PlannerOptions own = options;
    own.tp = candidate.tp;
    own.pp = candidate.tp.size();
    own.dp = candidate.replicas;
    own.ranks = 0;
    own.goal.clear();
    own.overlap = candidate.overlap;
    own.blockSize = blockSize;
    own.pack.clear();
    own.packIsa.clear();
    own.isTrial = true;
    own.printIrAfter.clear();
    own.progress = nullptr;
    own.note = nullptr;
    own.configure = nullptr;
    LLMIR_ASSIGN_OR_RETURN(auto planned,
                           planCheckpoint(checkpoint, tokenizer, own));
    flatbuffers::FlatBufferBuilder builder;
    builder.Finish(plan::Plan::Pack(builder, planned.get()));
    const auto &packed =
        *flatbuffers::GetRoot<plan::Plan>(builder.GetBufferPointer());
    candidate.blockSize = packed.kv()->block_size();
    const plan::CostModel costs(packed, &cluster, calibration, {});
    LLMIR_RETURN_IF_ERROR(costs.CheckMemory());
    LLMIR_ASSIGN_OR_RETURN(plan::Forecast forecast,
                           plan::MakeForecast(packed, costs, load));
    candidate.firstTokenUs = forecast.first_token_us;
    candidate.tokenUs = forecast.token_us;
    candidate.requestUs = forecast.request_us;
    candidate.tokensPerSecond = forecast.tokens_per_s;
    candidate.isOversubscribed = costs.Oversubscribed();
    double runs = forecast.decode.step_us.size();
    for (const plan::SimulatedRank &rank : forecast.decode.ranks)
      if (rank.compute_us / runs > candidate.computeUs) {
        candidate.computeUs = rank.compute_us / runs;
        candidate.transferUs = rank.transfer_us / runs;
        candidate.waitUs = (rank.wait_us + rank.bubble_us) / runs;
      }
    for (const plan::Stage *stage :
         *packed.replicas()->Get(forecast.replica)->stages())
      for (const plan::Rank *rank : *stage->ranks())
        candidate.largestRank =
            std::max(candidate.largestRank,
                     costs.PeakRankBytes(*rank, packed.kv()->blocks()));
    return Status();
  }

  /// What `loser` spends more time on than the chosen one.
  std::string compare(const Candidate &best, const Candidate &loser) const {
    std::string parts;
    auto part = [&](const char *name, double mine, double other) {
      // Less than a hundredth of a token isn't a reason.
      if (other - mine < 0.01 * best.tokenUs)
        return;
      parts += fmt::format("{}{:.2f} ms more of {}", parts.empty() ? "" : ", ",
                           (other - mine) / 1e3, name);
    };
    part("computing", best.computeUs, loser.computeUs);
    part("messages", best.transferUs, loser.transferUs);
    part("waiting", best.waitUs, loser.waitUs);
    if (loser.firstTokenUs > 1.01 * best.firstTokenUs)
      parts += fmt::format("{}{:.0f} ms more to the first token",
                           parts.empty() ? "" : ", ",
                           (loser.firstTokenUs - best.firstTokenUs) / 1e3);
    return parts.empty() ? "nearly the same" : parts;
  }

  std::string explain() const {
    const Candidate &best = candidates.front();
    std::string text =
        fmt::format("{} rank{} as {}, overlap {}, blocks of {}: {:.2f} ms per "
                    "token, {:.1f} "
                    "ms to the first, {:.1f} tokens/s with {} at once on {}",
                    best.getRanks(), best.getRanks() == 1 ? "" : "s",
                    formatLayout(best), best.overlap, best.blockSize,
                    best.tokenUs / 1e3, best.firstTokenUs / 1e3,
                    best.tokensPerSecond, load.batch, cluster.name);
    auto isOther = [&](const Candidate &c) {
      return c.problem.ok() && (c.tp != best.tp || c.replicas != best.replicas);
    };
    if (auto next = llvm::find_if(candidates, isOther);
        next != candidates.end())
      text += fmt::format("; next, {:.1f} % worse: {} ({} per token)",
                          100 * (getScore(*next) / getScore(best) - 1),
                          formatLayout(*next), compare(best, *next));
    // The best of what was asked for, or of as many ranks as there are places.
    int64_t asked = options.ranks > 0 ? options.ranks : cluster.places();
    if (best.getRanks() >= asked)
      return text;
    text += fmt::format("; use fewer ranks: {} of {}", best.getRanks(), asked);
    auto full = llvm::find_if(candidates, [&](const Candidate &c) {
      return c.problem.ok() && c.getRanks() == asked;
    });
    if (full != candidates.end())
      text += fmt::format(", for {} would be {:.0f} % worse ({} per token)",
                          asked, 100 * (getScore(*full) / getScore(best) - 1),
                          compare(best, *full));
    return text;
  }

  const checkpoint::Checkpoint &checkpoint;
  const checkpoint::Tokenizer *tokenizer;
  const PlannerOptions &options;
  const plan::Cluster &cluster;
  const plan::Calibration *calibration;
  const plan::ForecastLoad load;
  std::vector<Candidate> candidates;
};

} // namespace

int64_t Candidate::getRanks() const {
  int64_t ranks = 0;
  for (int64_t count : tp)
    ranks += count;
  return replicas * ranks;
}

StatusOr<SearchResult>
llmir::searchLayout(const checkpoint::Checkpoint &checkpoint,
                    const checkpoint::Tokenizer *tokenizer,
                    const PlannerOptions &options, const plan::Cluster &cluster,
                    const plan::Calibration *calibration,
                    const plan::ForecastLoad &load) {
  return Searcher(checkpoint, tokenizer, options, cluster, calibration, load)
      .run();
}

std::string llmir::formatCandidates(const SearchResult &result,
                                    bool isThroughput) {
  constexpr const char *kRow =
      "{:>5} {:<12} {:<8} {:>6} {:>12} {:>11} {:>11} {:>10} {:>10} {:>9}  {}\n";
  std::string text = fmt::format(
      fmt::runtime(kRow), "ranks", "stages", "overlap", "block", "first, ms",
      "token, ms", "tokens/s", "messages", "waiting", "GB/rank", "");
  for (auto [index, candidate] : llvm::enumerate(result.candidates)) {
    std::string stages = formatLayout(candidate);
    if (!candidate.problem.ok()) {
      text +=
          fmt::format("{:>5} {:<12} {:<8} can't: {}\n", candidate.getRanks(),
                      stages, candidate.overlap, candidate.problem.message());
      continue;
    }
    const Candidate &best = result.candidates.front();
    double worse = isThroughput
                       ? best.tokensPerSecond / candidate.tokensPerSecond
                       : candidate.requestUs / best.requestUs;
    std::string verdict =
        index == 0 ? "chosen"
                   : fmt::format("{:.1f} % worse", 100 * (worse - 1));
    if (candidate.isOversubscribed)
      verdict += ", more ranks than cores";
    text += fmt::format(fmt::runtime(kRow), candidate.getRanks(), stages,
                        candidate.overlap, candidate.blockSize,
                        fmt::format("{:.1f}", candidate.firstTokenUs / 1e3),
                        fmt::format("{:.3f}", candidate.tokenUs / 1e3),
                        fmt::format("{:.1f}", candidate.tokensPerSecond),
                        fmt::format("{:.3f}", candidate.transferUs / 1e3),
                        fmt::format("{:.3f}", candidate.waitUs / 1e3),
                        fmt::format("{:.2f}", candidate.largestRank / 1e9),
                        verdict);
  }
  return text;
}
