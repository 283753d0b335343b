#include "executor/report.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "executor/output_files.h"
#include "plan_schema/base/version.h"

namespace llmir::executor {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kReportVersion = 1;

double Quantile(std::vector<float>& values, double q) {
  if (values.empty()) return 0;
  const auto at = static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
  return values[at];
}

Json StepJson(const Program::StepReport& step, const Arrival& arrival) {
  std::vector<float> kept(
      step.times->kept_us,
      step.times->kept_us + std::min<uint64_t>(step.times->count, StepTimes::kKept));
  Json json;
  json["step"] = step.name;
  json["kind"] = step.kind;
  json["layer"] = step.layer;
  json["count"] = step.times->count;
  json["median_us"] = Quantile(kept, 0.5);
  json["p95_us"] = Quantile(kept, 0.95);
  json["total_us"] = step.times->total_us;
  if (step.communication) {
    json["message_bytes"] = step.message_bytes;
    json["wait_us"] = step.times->total_us * arrival.waited;
    json["transfer_us"] = step.times->total_us * (1 - arrival.waited);
    json["awaited_us"] = arrival.awaited_us;
  }
  return json;
}

}  // namespace

std::string EngineReport(const EngineStatistics& statistics) {
  Json json = {{"steps", statistics.steps},
               {"prompt_tokens", statistics.prompt_tokens},
               {"generated_tokens", statistics.generated_tokens},
               {"prefill_seconds", statistics.prefill_seconds},
               {"decode_seconds", statistics.decode_seconds},
               {"decode_steps", statistics.decode_steps},
               {"decode_rows", statistics.decode_rows},
               {"peak_kv_blocks", statistics.peak_blocks},
               {"pinned_tokens", statistics.pinned_tokens},
               {"pin_seconds", statistics.pin_seconds},
               {"prefix_hits", statistics.prefix_hits},
               {"reused_prompt_tokens", statistics.reused_tokens},
               {"lost_replicas", statistics.lost_replicas},
               {"fetches", statistics.fetches},
               {"failed_fetches", statistics.failed_fetches},
               {"fetched_tokens", statistics.fetched_tokens},
               {"fetched_bytes", statistics.fetched_bytes},
               {"fetch_seconds", statistics.fetch_seconds},
               {"spilled_blocks", statistics.spilled_blocks},
               {"restores", statistics.restores},
               {"restored_tokens", statistics.restored_tokens},
               {"evicted_kv_blocks", statistics.evicted_blocks},
               {"held_kv_blocks", statistics.held_blocks},
               {"preempted_to_recompute", statistics.recomputed},
               {"preempted_to_swap", statistics.swapped},
               {"recomputed_tokens", statistics.recomputed_tokens},
               {"copied_kv_blocks", statistics.copied_blocks},
               {"drafted_tokens", statistics.drafted_tokens},
               {"accepted_tokens", statistics.accepted_tokens},
               {"kv_waste", statistics.allocated_tokens > 0
                                ? statistics.unused_tokens / statistics.allocated_tokens
                                : 0}};
  std::vector<float> scheduler = statistics.scheduler_us;
  json["scheduler_median_us"] = Quantile(scheduler, 0.5);
  json["scheduler_p95_us"] = Quantile(scheduler, 0.95);
  return json.dump();
}

uint64_t PeakResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

uint64_t ResidentFileBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssFile:")) return std::strtoull(line.c_str() + 8, nullptr, 10) * 1024;
  }
  return 0;
}

std::string RankReport(const Rank& rank, int world_rank, const std::string& host,
                       const std::vector<std::vector<Arrival>>& arrivals, uint64_t peak_bytes,
                       double bandwidth) {
  const LoadStatistics& load = rank.weights().statistics();
  Json json;
  json["rank"] = world_rank;
  json["replica"] = rank.replica();
  json["stage"] = rank.stage();
  json["host"] = host;
  json["threads"] = rank.threads();
  json["cores"] = rank.cores();
  json["pinned"] = rank.pinned();
  json["isa"] = kernels::IsaName(rank.isa());
  json["channel"] = rank.channel_backend();
  json["random_weights"] = load.random;
  json["source_bytes_consumed"] = load.source_bytes;
  json["source_bytes_shared"] = load.source_shared_bytes;
  json["storage_bytes_read"] = load.storage_bytes;
  json["packed_bytes"] = load.packed_bytes;
  json["mapped_bytes"] = load.mapped_bytes;
  json["gathered_bytes"] = load.gathered_bytes;
  json["repacked_weights"] = load.repacked_weights;
  json["load_seconds"] = load.seconds;
  json["load"] = {{"read_seconds", load.read_seconds},
                  {"map_seconds", load.map_seconds},
                  {"hash_seconds", load.hash_seconds},
                  {"pack_seconds", load.pack_seconds}};
  json["peak_resident_bytes"] = peak_bytes;
  json["read_bandwidth"] = bandwidth;
  json["programs"] = Json::array();
  Json times = {{"compute", 0.0}, {"wait", 0.0}, {"transfer", 0.0}, {"awaited", 0.0}};
  double planned = 0;
  for (size_t p = 0; p < rank.programs().size(); ++p) {
    const Program& program = *rank.programs()[p];
    if (program.runs() == 0) continue;
    Json entry;
    entry["program"] = plan::EnumNameProgramKind(program.kind());
    entry["runs"] = program.runs();
    entry["tokens"] = program.tokens();
    double total = 0;
    double wait = 0;
    double transfer = 0;
    double awaited = 0;
    entry["steps"] = Json::array();
    const std::vector<Program::StepReport> steps = program.report();
    for (size_t i = 0; i < steps.size(); ++i) {
      const Arrival arrival = i < arrivals[p].size() ? arrivals[p][i] : Arrival{};
      total += steps[i].times->total_us;
      planned += steps[i].flops_per_token * static_cast<double>(program.tokens());
      if (steps[i].communication) {
        wait += steps[i].times->total_us * arrival.waited;
        transfer += steps[i].times->total_us * (1 - arrival.waited);
        awaited += arrival.awaited_us;
      }
      entry["steps"].push_back(StepJson(steps[i], arrival));
    }
    entry["total_us"] = total;
    entry["communication_us"] = wait + transfer;
    entry["wait_us"] = wait;
    entry["transfer_us"] = transfer;
    entry["compute_us"] = total - wait - transfer;
    entry["awaited_us"] = awaited;
    const std::pair<const char*, double> parts[] = {{"compute", total - wait - transfer},
                                                    {"wait", wait},
                                                    {"transfer", transfer},
                                                    {"awaited", awaited}};
    for (const auto& [name, us] : parts) times[name] = times[name].get<double>() + us * 1e-6;
    json["programs"].push_back(std::move(entry));
  }
  json["seconds"] = std::move(times);
  json["planned_flops"] = planned;
  return json.dump();
}

double TotalBandwidth(const std::vector<std::string>& rank_reports) {
  double total = 0;
  for (const std::string& text : rank_reports)
    total += Json::parse(text, nullptr, false).value("read_bandwidth", 0.0);
  return total;
}

RankTimes CompareRanks(const std::vector<std::string>& rank_reports) {
  RankTimes result;
  // What a rank loses that is stopped, or has no core, falls on its computation and on its own part
  // of transfers alike; what others lose by that is their wait, which isn't in anyone's pace.
  struct Pace {
    double compute, transfer, awaited, flops;
  };
  std::vector<Pace> ranks;
  for (size_t r = 0; r < rank_reports.size(); ++r) {
    const Json json = Json::parse(rank_reports[r], nullptr, false);
    const Json& seconds = json["seconds"];
    const double parts[] = {seconds["compute"], seconds["wait"], seconds["transfer"]};
    const double total = std::max(parts[0] + parts[1] + parts[2], 1e-9);
    const std::pair<double*, double*> ranges[] = {{&result.least_compute, &result.most_compute},
                                                  {&result.least_wait, &result.most_wait},
                                                  {&result.least_transfer, &result.most_transfer}};
    for (size_t k = 0; k < std::size(parts); ++k) {
      const double share = parts[k] / total;
      *ranges[k].first = r == 0 ? share : std::min(*ranges[k].first, share);
      *ranges[k].second = r == 0 ? share : std::max(*ranges[k].second, share);
    }
    ranks.push_back({.compute = parts[0],
                     .transfer = parts[2],
                     .awaited = seconds["awaited"],
                     .flops = std::max(json["planned_flops"].get<double>(), 1.0)});
  }
  const auto median = [&ranks](auto value) {
    std::vector<double> values;
    for (const Pace& rank : ranks) values.push_back(value(rank));
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
    std::ranges::nth_element(values, middle);
    return *middle;
  };
  const double seconds_per_flop =
      median([](const Pace& rank) { return rank.compute / rank.flops; });
  const double transfer = median([](const Pace& rank) { return rank.transfer; });
  double most = 0;
  for (size_t r = 0; r < ranks.size(); ++r) {
    const double expected = std::max(seconds_per_flop * ranks[r].flops + transfer, 1e-9);
    const double slowness = (ranks[r].compute + ranks[r].transfer) / expected;
    if (slowness <= most) continue;
    most = result.slowness = slowness;
    result.slowest = static_cast<int>(r);
    result.awaited_seconds = ranks[r].awaited;
  }
  return result;
}

std::string RankLine(const RankTimes& times) {
  const auto range = [](double least, double most) {
    return fmt::format("{:.0f} to {:.0f} %", 100 * least, 100 * most);
  };
  return fmt::format(
      "ranks: {} compute, {} wait for others, {} transfer | slowest: rank {}, {:.2f} x the median "
      "rank's time for its work and transfers; others waited {:.2f} s for it",
      range(times.least_compute, times.most_compute), range(times.least_wait, times.most_wait),
      range(times.least_transfer, times.most_transfer), times.slowest, times.slowness,
      times.awaited_seconds);
}

Status WriteReport(const std::string& path, const RunFacts& facts,
                   const EngineStatistics& statistics,
                   const std::vector<std::string>& rank_reports) {
  Json json;
  json["report_version"] = kReportVersion;
  json["llmir_version"] = kVersion;
  json["plan"] = facts.plan_path;
  json["plan_checksum"] = fmt::format("{:016x}", facts.plan_checksum);
  json["load_seconds"] = facts.load_seconds;
  json["run_seconds"] = facts.run_seconds;
  json["first_token"] = {
      {"seconds", facts.first_token_seconds}, {"mpi_init_seconds", facts.mpi_init_seconds},
      {"plan_seconds", facts.plan_seconds},   {"prompt_seconds", facts.prompt_seconds},
      {"load_seconds", facts.load_seconds},   {"prefill_seconds", facts.prefill_seconds}};
  json["without_exchange"] = facts.without_exchange;
  json["engine"] = Json::parse(EngineReport(statistics), nullptr, false);
  if (rank_reports.size() > 1) {
    const RankTimes times = CompareRanks(rank_reports);
    json["slowest"] = {{"rank", times.slowest},
                       {"times_median", times.slowness},
                       {"awaited_seconds", times.awaited_seconds}};
  }
  json["ranks"] = Json::array();
  for (const std::string& text : rank_reports)
    json["ranks"].push_back(Json::parse(text, nullptr, false));

  return WriteWholeFile(path, json.dump(1) + '\n');
}

}  // namespace llmir::executor
