// llmir-inspect: shows what a plan says, checks that it may be run, simulates it on a cluster, and
// holds its predictions against a run.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <string>

#include "plan_schema/base/status.h"
#include "plan_schema/base/version.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_file.h"
#include "plan_schema/plan_printer.h"
#include "plan_schema/plan_verifier.h"
#include "plan_schema/tools/report_comparison.h"
#include "plan_schema/tools/simulation_report.h"

namespace llmir::plan {
namespace {

StatusOr<PlanFile> ReadVerified(const std::string& path) {
  LLMIR_ASSIGN_OR_RETURN(PlanFile file, PlanFile::Read(path));
  LLMIR_RETURN_IF_ERROR(VerifyPlan(file.plan()).WithContext(path));
  return file;
}

std::string Header(const PlanFile& file) {
  const Version* version = file.plan().version();
  return fmt::format("{}: LLMIR plan {}.{}, {} bytes, checksum {:016x}\n", file.origin(),
                     version == nullptr ? kMajorVersion : version->major(),
                     version == nullptr ? kMinorVersion : version->minor(), file.bytes().size(),
                     file.checksum());
}

Status Show(const std::string& path, bool json, bool explain, const PrintOptions& options) {
  if (json) {
    // A plan that the semantic verifier refuses can still be looked at field by field.
    LLMIR_ASSIGN_OR_RETURN(const PlanFile file, PlanFile::Read(path));
    fmt::print("{}", PlanToJson(file.plan()));
    return Status();
  }
  LLMIR_ASSIGN_OR_RETURN(const PlanFile file, ReadVerified(path));
  if (explain) {
    fmt::print("{}\n{}", Header(file), ExplanationsToText(file.plan()));
    return Status();
  }
  fmt::print("{}\n{}", Header(file), PlanToText(file.plan(), options));
  return Status();
}

Status Verify(const std::string& path) {
  LLMIR_ASSIGN_OR_RETURN(const PlanFile file, ReadVerified(path));
  fmt::print("{}verified: {} ranks\n", Header(file), WorldSize(file.plan()));
  return Status();
}

Status Compare(const std::string& path, const std::string& report, bool json) {
  LLMIR_ASSIGN_OR_RETURN(const PlanFile file, ReadVerified(path));
  LLMIR_ASSIGN_OR_RETURN(const ReportComparison comparison, CompareWithReport(file, report));
  fmt::print("{}", json ? ComparisonToJson(comparison) : ComparisonToText(comparison));
  return Status();
}

Status SimulatePlan(const std::string& path, const SimulateOptions& options) {
  LLMIR_ASSIGN_OR_RETURN(const PlanFile file, ReadVerified(path));
  LLMIR_ASSIGN_OR_RETURN(const std::string report, SimulateToReport(file, options));
  fmt::print("{}", report);
  return Status();
}

int Main(int argc, char** argv) {
  CLI::App app("Shows and checks LLMIR execution plans.", "llmir-inspect");
  app.set_version_flag("--version", fmt::format("llmir-inspect {}", kVersion));
  app.require_subcommand(1);

  std::string path;
  bool json = false;
  bool explain = false;
  PrintOptions options;
  ProgramKind program{};
  std::map<std::string, ProgramKind> kinds;
  for (const ProgramKind kind : EnumValuesProgramKind()) kinds[EnumNameProgramKind(kind)] = kind;

  CLI::App* show = app.add_subcommand("show", "Prints what a plan says.");
  show->add_option("PLAN", path, "Plan file")->required();
  CLI::Option* json_flag =
      show->add_flag("--json", json, "The whole plan as JSON, even if it isn't valid");
  CLI::Option* program_option = show->add_option("--program", program, "Only programs of this kind")
                                    ->transform(CLI::CheckedTransformer(kinds))
                                    ->excludes(json_flag);
  show->add_flag("--steps", options.all_steps, "Every layer's steps, not equal layers once")
      ->excludes(json_flag);
  show->add_flag("--explain", explain, "What each pass of the planner did and expects to gain")
      ->excludes(json_flag);
  CLI::App* verify = app.add_subcommand("verify", "Checks that a plan may be run.");
  verify->add_option("PLAN", path, "Plan file")->required();
  std::string report;
  CLI::App* compare =
      app.add_subcommand("compare", "Prints what a plan predicts beside what a run of it took.");
  compare->add_option("PLAN", path, "Plan file, made with --calibration")->required();
  compare->add_option("REPORT", report, "What llmir-exec --report wrote")->required();
  compare->add_flag("--json", json, "As JSON");

  SimulateOptions simulated;
  CLI::App* simulate = app.add_subcommand(
      "simulate", "Plays a plan's programs on a cluster: times, waits, bytes per link, memory.");
  simulate->add_option("PLAN", path, "Plan file")->required();
  simulate->add_option("--cluster", simulated.cluster,
                       "Hardware, as in configs/clusters (default: the calibrated host)");
  simulate->add_option("--calibration", simulated.calibration,
                       "What llmir-exec --calibrate measured on the cluster's first node");
  simulate->add_option("--batch", simulated.batch, "Sequences that decode (default: the plan's)")
      ->check(CLI::PositiveNumber);
  simulate
      ->add_option("--prompt", simulated.prompt, "Tokens of a prompt (default: one chunk of them)")
      ->check(CLI::PositiveNumber);
  simulate->add_option("--answer", simulated.answer, "Tokens of an answer")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  simulate
      ->add_option("--context", simulated.context,
                   "Tokens that decoding sequences have (default: the prompt and half the answer)")
      ->check(CLI::PositiveNumber);
  simulate
      ->add_option(
          "--in-flight", simulated.in_flight,
          "Steps under way at a time, each with its part of the batch (default: the plan's)")
      ->check(CLI::Range(1, 1024));
  simulate
      ->add_option("--threads", simulated.threads,
                   "Of each rank (default: the node's cores divided by its ranks)")
      ->check(CLI::Range(1, 1024));
  CLI::Option* simulate_json = simulate->add_flag("--json", simulated.json, "As JSON, every step");
  simulate->add_flag("--steps", simulated.steps, "Also each step of each rank")
      ->excludes(simulate_json);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    fmt::print(stderr, "llmir-inspect: {}; see llmir-inspect --help\n", error.what());
    return 2;
  }
  if (*program_option) options.program = program;

  const Status status = *verify     ? Verify(path)
                        : *compare  ? Compare(path, report, json)
                        : *simulate ? SimulatePlan(path, simulated)
                                    : Show(path, json, explain, options);
  if (status.ok()) return 0;
  fmt::print(stderr, "llmir-inspect: {}\n", status.ToString());
  return 1;
}

}  // namespace
}  // namespace llmir::plan

int main(int argc, char** argv) {
  try {
    return llmir::plan::Main(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "llmir-inspect: {}\n", error.what());
    return 1;
  }
}
