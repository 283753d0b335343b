#include "plan_schema/tools/report_comparison.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "plan_schema/plan_facts.h"

namespace llmir::plan {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kReportVersion = 1;  // executor/report.cc
constexpr const char* kCommunication = "communication";

// A start is predicted at its own step, but its time passes in the wait: one row for all of them.
std::string RowOf(StepKind kind) {
  const bool exchanges =
      IsCollective(kind) || IsSend(kind) || IsRecv(kind) || kind == StepKind::wait;
  return exchanges ? kCommunication : EnumNameStepKind(kind);
}

// A rank of the plan, and its place in it.
struct Place {
  const Stage* stage;
  uint32_t rank;  // of the stage
};
std::map<uint32_t, Place> PlacesOf(const Plan& plan) {
  std::map<uint32_t, Place> places;
  for (const Replica* replica : *plan.replicas()) {
    for (const Stage* stage : *replica->stages()) {
      for (uint32_t r = 0; r < stage->ranks()->size(); ++r) {
        places[stage->ranks()->Get(r)->world_rank()] = {stage, r};
      }
    }
  }
  return places;
}

class Comparer {
 public:
  Comparer(const PlanFile& plan, std::string origin, const Json& report)
      : plan_(plan), origin_(std::move(origin)), report_(report) {}

  StatusOr<ReportComparison> Compare() {
    LLMIR_RETURN_IF_ERROR(VerifyIsOfThisPlan());
    const auto places = PlacesOf(plan_.plan());
    const Json& ranks = report_.at("ranks");
    if (ranks.size() != places.size()) {
      return InvalidArgument("{}: {} ranks, but {} has {}", origin_, ranks.size(), plan_.origin(),
                             places.size());
    }
    for (const Json& rank : ranks) {
      const auto world_rank = rank.at("rank").get<uint32_t>();
      const auto place = places.find(world_rank);
      if (place == places.end()) {
        return InvalidArgument("{}: rank {}, which {} does not have", origin_, world_rank,
                               plan_.origin());
      }
      for (const Json& program : rank.at("programs")) {
        LLMIR_RETURN_IF_ERROR(Add(program, world_rank, place->second));
      }
    }
    for (auto& program : comparison_.programs) {
      for (auto& kind : program.kinds) {
        const double ranks_with = counts_.at({program.name, kind.name});
        kind.time.predicted_us /= ranks_with;
        kind.time.measured_us /= ranks_with;
      }
    }
    return std::move(comparison_);
  }

 private:
  Status VerifyIsOfThisPlan() const {
    const int version = report_.at("report_version").get<int>();
    if (version != kReportVersion) {
      return Incompatible("{}: report version {}, expected {}", origin_, version, kReportVersion);
    }
    const auto checksum = report_.at("plan_checksum").get<std::string>();
    const std::string expected = fmt::format("{:016x}", plan_.checksum());
    if (checksum != expected) {
      return InvalidArgument(
          "{}: of the plan with checksum {} ({}), but {} has {}: run that plan with llmir-exec "
          "--report, or name the plan that ran",
          origin_, checksum, report_.value("plan", "unnamed"), plan_.origin(), expected);
    }
    for (const Replica* replica : *plan_.plan().replicas()) {
      for (const Program* program : *replica->stages()->Get(0)->programs()) {
        if (program->predicted_tokens() > 0) return Status();
      }
    }
    return InvalidArgument(
        "{}: without predicted times; make it with llmir-plan --calibration (llmir-exec "
        "--calibrate writes the file)",
        plan_.origin());
  }

  Status Add(const Json& entry, uint32_t world_rank, const Place& place) {
    const auto name = entry.at("program").get<std::string>();
    // The report names programs by kind.
    const Program* program = nullptr;
    for (const Program* candidate : *place.stage->programs()) {
      if (name != EnumNameProgramKind(candidate->kind())) continue;
      if (program != nullptr) {
        return Incompatible("{}: {} has several programs of kind {}, and a report names one",
                            origin_, plan_.origin(), name);
      }
      program = candidate;
    }
    if (program == nullptr) {
      return InvalidArgument("{}: a program of kind {} on rank {}, which {} does not have", origin_,
                             name, world_rank, plan_.origin());
    }
    auto& result = ProgramOf(name);
    result.runs = entry.at("runs").get<uint64_t>();
    if (result.runs == 0) {
      return InvalidArgument("{}: the {} program of rank {} ran 0 times, expected 1 or more",
                             origin_, name, world_rank);
    }
    result.tokens = entry.at("tokens").get<double>() / static_cast<double>(result.runs);
    result.predicted_tokens = program->predicted_tokens();

    std::map<std::string, std::pair<uint32_t, TimePair>> rows;
    std::vector<std::string> order;
    ReportComparison::OnRank whole{world_rank, {}};
    const Json& measured = entry.at("steps");
    size_t next = 0;
    for (const Step* step : *program->steps()) {
      const StepRank& own = *step->ranks()->Get(place.rank);
      if (own.skip()) continue;
      const char* kind = EnumNameStepKind(step->kind());
      if (next == measured.size() || measured.at(next).at("kind").get<std::string>() != kind) {
        return InvalidArgument(
            "{}: step {} of rank {}'s {} program is {}, but in {} it is {} \"{}\"", origin_, next,
            world_rank, name,
            next == measured.size() ? "missing" : measured.at(next).at("kind").get<std::string>(),
            plan_.origin(), kind, step->name()->string_view());
      }
      const double us = measured.at(next++).at("median_us").get<double>();
      auto& [steps, time] = rows[RowOf(step->kind())];
      if (steps++ == 0) order.push_back(RowOf(step->kind()));
      for (TimePair* sum : {&time, &whole.time}) {
        sum->predicted_us += own.predicted_us();
        sum->measured_us += us;
      }
    }
    if (next != measured.size()) {
      return InvalidArgument("{}: {} steps of rank {}'s {} program, but {} has {}", origin_,
                             measured.size(), world_rank, name, plan_.origin(), next);
    }
    for (const std::string& row : order) {
      auto& kind = KindOf(result, row);
      kind.steps = std::max(kind.steps, rows[row].first);
      kind.time.predicted_us += rows[row].second.predicted_us;
      kind.time.measured_us += rows[row].second.measured_us;
      ++counts_[{name, row}];
    }
    result.ranks.push_back(whole);
    return Status();
  }

  ReportComparison::OfProgram& ProgramOf(const std::string& name) {
    for (auto& program : comparison_.programs) {
      if (program.name == name) return program;
    }
    comparison_.programs.emplace_back().name = name;
    return comparison_.programs.back();
  }
  static ReportComparison::Kind& KindOf(ReportComparison::OfProgram& program,
                                        const std::string& name) {
    for (auto& kind : program.kinds) {
      if (kind.name == name) return kind;
    }
    program.kinds.emplace_back().name = name;
    return program.kinds.back();
  }

  const PlanFile& plan_;
  const std::string origin_;
  const Json& report_;
  ReportComparison comparison_;
  std::map<std::pair<std::string, std::string>, uint32_t> counts_;  // ranks with such steps
};

std::string RatioText(const TimePair& time) {
  if (time.predicted_us <= 0) return "-";
  return fmt::format("{:.2f}", time.measured_us / time.predicted_us);
}

Json PairJson(const TimePair& time) {
  Json json;
  json["predicted_us"] = time.predicted_us;
  json["measured_us"] = time.measured_us;
  json["ratio"] = time.predicted_us > 0 ? Json(time.measured_us / time.predicted_us) : Json();
  return json;
}

}  // namespace

StatusOr<ReportComparison> CompareWithReport(const PlanFile& plan, const std::string& report_path) {
  std::ifstream stream(report_path);
  if (!stream) return InvalidArgument("{}: cannot be read", report_path);
  const Json report = Json::parse(stream, nullptr, false);
  if (report.is_discarded()) {
    return InvalidArgument("{}: not JSON, expected what llmir-exec --report wrote", report_path);
  }
  try {
    return Comparer(plan, report_path, report).Compare();
  } catch (const Json::exception& error) {
    return InvalidArgument("{}: not what llmir-exec --report writes: {}", report_path,
                           error.what());
  }
}

std::string ComparisonToText(const ReportComparison& comparison) {
  std::string text;
  for (const auto& program : comparison.programs) {
    text += fmt::format(
        "{}Program {}: {} runs of {:.1f} tokens, predicted for {}; microseconds of a run\n",
        text.empty() ? "" : "\n", program.name, program.runs, program.tokens,
        program.predicted_tokens);
    constexpr const char* kRow = "  {:<16} {:>6} {:>12} {:>12} {:>20}\n";
    text += fmt::format(kRow, "kind", "steps", "predicted", "measured", "measured/predicted");
    const auto row = [&](const std::string& name, const std::string& steps, const TimePair& time) {
      text += fmt::format(kRow, name, steps, fmt::format("{:.1f}", time.predicted_us),
                          fmt::format("{:.1f}", time.measured_us), RatioText(time));
    };
    for (const auto& kind : program.kinds) row(kind.name, std::to_string(kind.steps), kind.time);
    for (const auto& rank : program.ranks) {
      row(fmt::format("all, rank {}", rank.world_rank), "", rank.time);
    }
  }
  return text;
}

std::string ComparisonToJson(const ReportComparison& comparison) {
  Json json;
  json["programs"] = Json::array();
  for (const auto& program : comparison.programs) {
    Json entry;
    entry["program"] = program.name;
    entry["runs"] = program.runs;
    entry["tokens"] = program.tokens;
    entry["predicted_tokens"] = program.predicted_tokens;
    entry["kinds"] = Json::array();
    for (const auto& kind : program.kinds) {
      Json row = {{"kind", kind.name}, {"steps", kind.steps}};
      row.update(PairJson(kind.time));
      entry["kinds"].push_back(std::move(row));
    }
    entry["ranks"] = Json::array();
    for (const auto& rank : program.ranks) {
      Json row = {{"rank", rank.world_rank}};
      row.update(PairJson(rank.time));
      entry["ranks"].push_back(std::move(row));
    }
    json["programs"].push_back(std::move(entry));
  }
  return json.dump(1) + '\n';
}

}  // namespace llmir::plan
