#include "plan_schema/tools/simulation_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "plan_schema/plan_facts.h"

namespace llmir::plan {
namespace {

using Json = nlohmann::ordered_json;

struct Links {
  std::string name;
  double prompt_bytes = 0;
  double step_bytes = 0;  // of one decode step
};

std::vector<Links> LinksOf(const Forecast& forecast, const Cluster& cluster) {
  std::map<std::pair<int, int>, Links> by_nodes;
  const auto name = [&](const std::pair<int, int>& link) {
    const std::string& from = cluster.nodes[static_cast<size_t>(link.first)].name;
    const std::string& to = cluster.nodes[static_cast<size_t>(link.second)].name;
    return link.first == link.second ? "within " + from : from + " to " + to;
  };
  for (const auto& [link, bytes] : forecast.prompt.link_bytes) {
    by_nodes[link] = {name(link), bytes, 0};
  }
  for (const auto& [link, bytes] : forecast.decode.link_bytes) {
    by_nodes[link].name = name(link);
    by_nodes[link].step_bytes = bytes / static_cast<double>(forecast.decode.step_us.size());
  }
  std::vector<Links> links;
  for (auto& [nodes, link] : by_nodes) links.push_back(std::move(link));
  return links;
}

// Resident bytes of a rank after the simulated steps, and what its plan may need at most.
struct RankBytes {
  double peak = 0;
  double most = 0;
};
RankBytes BytesOf(const Plan& plan, const CostModel& costs, const Forecast& forecast,
                  const SimulatedRank& simulated) {
  const Replica& replica = *plan.replicas()->Get(forecast.replica);
  const Stage& stage = *replica.stages()->Get(simulated.stage);
  for (uint32_t r = 0; r < stage.ranks()->size(); ++r) {
    const Rank& rank = *stage.ranks()->Get(r);
    if (rank.world_rank() != simulated.world_rank) continue;
    const uint32_t prompt =
        std::min(forecast.load.prompt * forecast.sequences, plan.limits()->prefill_chunk());
    return {costs.ResidentBytes(stage, r, forecast.blocks, prompt, forecast.sequences),
            costs.PeakRankBytes(rank, plan.kv()->blocks())};
  }
  return {};
}

std::string Ms(double us) { return fmt::format("{:.3f}", us / 1e3); }
std::string Size(double bytes) {
  return bytes >= 1e9   ? fmt::format("{:.2f} GB", bytes / 1e9)
         : bytes >= 1e6 ? fmt::format("{:.1f} MB", bytes / 1e6)
                        : fmt::format("{:.1f} kB", bytes / 1e3);
}

std::string ToText(const Plan& plan, const CostModel& costs, const Forecast& forecast,
                   const SimulateOptions& options) {
  const Cluster& cluster = costs.cluster();
  std::string text = fmt::format(
      "Simulated on {}{}: {} rank{}{}\n"
      "Load: {} sequence{} of {:.0f} tokens decode, {} step{} in flight; prompts of {} tokens\n{}\n"
      "time to first token  {} ms\ntime per token       {} ms\ndecoding             {:.1f} "
      "tokens/s\n"
      "with prompts         {:.1f} tokens/s, answers of {} tokens\n",
      cluster.name, options.calibration.empty() ? " by its stated figures" : " by measured times",
      WorldSize(plan), WorldSize(plan) == 1 ? "" : "s",
      costs.Oversubscribed() ? ", more than it has cores: times are rough" : "",
      forecast.load.batch, forecast.load.batch == 1 ? "" : "s", forecast.load.context,
      forecast.in_flight, forecast.in_flight == 1 ? "" : "s", forecast.load.prompt,
      plan.replicas()->size() > 1 ? fmt::format("Of {} replicas, which divide them, number {}, the "
                                                "slowest, is shown; rates are of all\n",
                                                plan.replicas()->size(), forecast.replica)
                                  : std::string(),
      Ms(forecast.first_token_us), Ms(forecast.token_us), forecast.decode_per_s,
      forecast.tokens_per_s, forecast.load.answer);
  if (const Status status = costs.CheckMemory(); !status.ok()) {
    text += fmt::format("does not fit: {}\n", status.message());
  }
  constexpr const char* kRow = "{:>5} {:<10} {:>7} {:>10} {:>10} {:>10} {:>10} {:>11} {:>11}\n";
  for (const auto& [title, simulation] :
       {std::pair("Prompt", &forecast.prompt), std::pair("Decode", &forecast.decode)}) {
    text += fmt::format("\n{}, ms per step of the engine ({} simulated)\n", title,
                        simulation->step_us.size());
    text += fmt::format(kRow, "rank", "node", "threads", "compute", "transfer", "wait", "bubble",
                        "peak", "most");
    const auto runs = static_cast<double>(simulation->step_us.size());
    for (const SimulatedRank& rank : simulation->ranks) {
      const RankBytes bytes = BytesOf(plan, costs, forecast, rank);
      text += fmt::format(kRow, rank.world_rank,
                          cluster.nodes[static_cast<size_t>(costs.NodeOf(rank.world_rank))].name,
                          costs.ThreadsOf(rank.world_rank), Ms(rank.compute_us / runs),
                          Ms(rank.transfer_us / runs), Ms(rank.wait_us / runs),
                          Ms(rank.bubble_us / runs), Size(bytes.peak), Size(bytes.most));
    }
  }
  text += fmt::format("\n{:<28} {:>14} {:>18}\n", "link", "prompt", "decode, per step");
  for (const Links& link : LinksOf(forecast, cluster)) {
    text += fmt::format("{:<28} {:>14} {:>18}\n", link.name, Size(link.prompt_bytes),
                        Size(link.step_bytes));
  }
  if (!options.steps) return text;
  constexpr const char* kStepRow = "{:>5} {:>10} {:>10} {:>10} {:>10}  {}\n";
  for (const auto& [title, simulation] :
       {std::pair("prompt", &forecast.prompt), std::pair("decode", &forecast.decode)}) {
    text += fmt::format("\nSteps of the last simulated {} step, us\n", title);
    text += fmt::format(kStepRow, "rank", "begin", "compute", "transfer", "wait", "step");
    for (const SimulatedStep& step : simulation->steps) {
      text += fmt::format(kStepRow, step.world_rank, fmt::format("{:.1f}", step.begin_us),
                          fmt::format("{:.1f}", step.compute_us),
                          fmt::format("{:.1f}", step.transfer_us),
                          fmt::format("{:.1f}", step.wait_us), step.step->name()->string_view());
    }
  }
  return text;
}

Json SimulationJson(const Plan& plan, const CostModel& costs, const Forecast& forecast,
                    const Simulation& simulation) {
  Json json;
  json["engine_steps"] = simulation.step_us.size();
  json["step_us"] = simulation.step_us;
  json["ranks"] = Json::array();
  for (const SimulatedRank& rank : simulation.ranks) {
    const RankBytes bytes = BytesOf(plan, costs, forecast, rank);
    json["ranks"].push_back(
        {{"rank", rank.world_rank},
         {"stage", rank.stage},
         {"node", costs.cluster().nodes[static_cast<size_t>(costs.NodeOf(rank.world_rank))].name},
         {"threads", costs.ThreadsOf(rank.world_rank)},
         {"compute_us", rank.compute_us},
         {"transfer_us", rank.transfer_us},
         {"wait_us", rank.wait_us},
         {"bubble_us", rank.bubble_us},
         {"peak_bytes", bytes.peak},
         {"most_bytes", bytes.most}});
  }
  json["steps"] = Json::array();
  for (const SimulatedStep& step : simulation.steps) {
    json["steps"].push_back({{"rank", step.world_rank},
                             {"step", step.step->name()->str()},
                             {"kind", EnumNameStepKind(step.step->kind())},
                             {"layer", step.step->layer()},
                             {"begin_us", step.begin_us},
                             {"compute_us", step.compute_us},
                             {"transfer_us", step.transfer_us},
                             {"wait_us", step.wait_us}});
  }
  return json;
}

std::string ToJson(const PlanFile& file, const CostModel& costs, const Forecast& forecast) {
  const Plan& plan = file.plan();
  Json json;
  json["plan_checksum"] = fmt::format("{:016x}", file.checksum());
  json["cluster"] = costs.cluster().name;
  json["oversubscribed"] = costs.Oversubscribed();
  json["fits"] = costs.CheckMemory().ok();
  json["load"] = {{"batch", forecast.load.batch},
                  {"prompt", forecast.load.prompt},
                  {"answer", forecast.load.answer},
                  {"context", forecast.load.context},
                  {"in_flight", forecast.in_flight}};
  json["replica"] = forecast.replica;
  json["sequences"] = forecast.sequences;
  json["first_token_us"] = forecast.first_token_us;
  json["token_us"] = forecast.token_us;
  json["decode_tokens_per_s"] = forecast.decode_per_s;
  json["tokens_per_s"] = forecast.tokens_per_s;
  json["kv_blocks"] = forecast.blocks;
  json["links"] = Json::array();
  for (const Links& link : LinksOf(forecast, costs.cluster())) {
    json["links"].push_back({{"link", link.name},
                             {"prompt_bytes", link.prompt_bytes},
                             {"decode_step_bytes", link.step_bytes}});
  }
  json["prompt"] = SimulationJson(plan, costs, forecast, forecast.prompt);
  json["decode"] = SimulationJson(plan, costs, forecast, forecast.decode);
  return json.dump(1) + '\n';
}

}  // namespace

StatusOr<std::string> SimulateToReport(const PlanFile& file, const SimulateOptions& options) {
  std::optional<Cluster> cluster;
  std::optional<Calibration> calibration;
  if (options.cluster.empty() && options.calibration.empty()) {
    return InvalidArgument(
        "simulate: on which hardware? Give --cluster FILE, --calibration FILE or both");
  }
  if (!options.cluster.empty()) {
    LLMIR_ASSIGN_OR_RETURN(cluster, ReadCluster(options.cluster));
  }
  if (!options.calibration.empty()) {
    LLMIR_ASSIGN_OR_RETURN(calibration, Calibration::Read(options.calibration));
  }
  const Plan& plan = file.plan();
  const CostModel costs(plan, cluster ? &*cluster : nullptr, calibration ? &*calibration : nullptr,
                        {options.in_flight, options.threads});
  const Limits& limits = *plan.limits();
  ForecastLoad load;
  load.batch = options.batch > 0 ? options.batch : limits.max_batch() * plan.replicas()->size();
  load.answer = std::max(1u, options.answer);
  load.prompt = options.prompt > 0 ? options.prompt
                                   : std::min(limits.prefill_chunk(), (limits.context() + 1) / 2);
  load.context = options.context > 0
                     ? options.context
                     : std::min<double>(limits.context(), load.prompt + load.answer / 2.0);
  auto forecast = MakeForecast(plan, costs, load, options.in_flight);
  if (!forecast.ok()) return forecast.status().WithContext(file.origin());
  return options.json ? ToJson(file, costs, *forecast) : ToText(plan, costs, *forecast, options);
}

}  // namespace llmir::plan
