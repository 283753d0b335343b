#include "executor/report.h"

#include <sys/resource.h>

#include <algorithm>
#include <nlohmann/json.hpp>

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

Json StepJson(const Program::StepReport& step) {
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
  if (step.communication) json["message_bytes"] = step.message_bytes;
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

std::string RankReport(const Rank& rank, int world_rank, const std::string& host,
                       uint64_t peak_bytes, double bandwidth) {
  const LoadStatistics& load = rank.weights().statistics();
  Json json;
  json["rank"] = world_rank;
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
  json["repacked_weights"] = load.repacked_weights;
  json["load_seconds"] = load.seconds;
  json["load"] = {{"read_seconds", load.read_seconds},
                  {"map_seconds", load.map_seconds},
                  {"hash_seconds", load.hash_seconds},
                  {"pack_seconds", load.pack_seconds}};
  json["peak_resident_bytes"] = peak_bytes;
  json["read_bandwidth"] = bandwidth;
  json["programs"] = Json::array();
  for (const auto& program : rank.programs()) {
    if (program->runs() == 0) continue;
    Json entry;
    entry["program"] = plan::EnumNameProgramKind(program->kind());
    entry["runs"] = program->runs();
    entry["tokens"] = program->tokens();
    double wait = 0;
    double total = 0;
    entry["steps"] = Json::array();
    for (const auto& step : program->report()) {
      total += step.times->total_us;
      if (step.communication) wait += step.times->total_us;
      entry["steps"].push_back(StepJson(step));
    }
    entry["total_us"] = total;
    entry["communication_us"] = wait;
    json["programs"].push_back(std::move(entry));
  }
  return json.dump();
}

double TotalBandwidth(const std::vector<std::string>& rank_reports) {
  double total = 0;
  for (const std::string& text : rank_reports)
    total += Json::parse(text, nullptr, false).value("read_bandwidth", 0.0);
  return total;
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
  json["ranks"] = Json::array();
  for (const std::string& text : rank_reports)
    json["ranks"].push_back(Json::parse(text, nullptr, false));

  return WriteWholeFile(path, json.dump(1) + '\n');
}

}  // namespace llmir::executor
