#include "executor/options.h"

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <random>

#include "executor/prompt_file.h"
#include "kernels/self_test.h"
#include "plan_schema/base/version.h"

namespace llmir::executor {

StatusOr<Options> ParseOptions(int argc, char** argv) {
  Options options;
  CLI::App app{
      "Runs an execution plan, one process per rank of the plan:\n"
      "  mpirun -n N llmir-exec plan.fb --chat --prompt \"What is the capital of France?\"\n"
      "Environment: LLMIR_CPU_ISA=portable|avx2|avx512 overrides the choice of kernels.",
      "llmir-exec"};
  app.set_version_flag("--version", std::string("llmir-exec ") + kVersion);
  auto* plan = app.add_option("plan", options.plan, "The plan that llmir-plan wrote");
  app.add_option("--model", options.model,
                 "The checkpoint (GGUF file or folder), when it isn't where the plan says, "
                 "relative to the plan");
  uint64_t random_seed = 1;
  auto* random = app.add_option("--random-weights", random_seed,
                                "Random weights, the same for every division among ranks, instead "
                                "of a checkpoint's; prompts are given as ids")
                     ->expected(0, 1)
                     ->default_str(std::to_string(random_seed))
                     ->type_name("[SEED]");
  auto* prompt = app.add_option("--prompt", options.prompt,
                                "Answer this and stream the answer to standard output");
  app.add_flag("--chat", options.chat,
               "Put --prompt through the checkpoint's chat template as the user's message")
      ->needs(prompt);
  app.add_option("--system", options.system, "The system message, with --chat");
  auto* prompts = app.add_option(
      "--prompts", options.prompts_file,
      "Answer every line of this JSON-lines file, batched: {\"prompt\": …}, {\"messages\": …} or "
      "{\"prompt_ids\": …}, with sampling fields of its own");
  auto* score =
      app.add_option("--score", options.score_file,
                     "Write the log-probabilities of each line's prompt_ids or prompt to --output");
  auto* socket = app.add_option(
      "--socket", options.socket,
      "Serve the engine at this local socket until SIGINT or SIGTERM, which lets what "
      "runs end (docs/protocol.md); a second one cancels it");
  socket->excludes(prompt)->excludes(prompts)->excludes(score);
  app.add_option("--max-waiting", options.engine.max_waiting,
                 "With --socket, refuse requests while so many wait; 0: any number may")
      ->needs(socket)
      ->check(CLI::NonNegativeNumber);
  prompt->excludes(prompts)->excludes(score);
  prompts->excludes(score);
  app.add_option("--output", options.output,
                 "JSON-lines file for answers or log-probabilities, in the prompts' order");
  app.add_option("--logits", options.logits_folder,
                 "Folder for the logits: N.npy per prompt (0, 1, …), fp32, a row per generated id");
  app.add_option("--report", options.report,
                 "Write what was measured, per rank and step, to this JSON file");
  app.add_option("--calibrate", options.calibrate,
                 "Measure this machine's kernels and memory for llmir-plan --calibration and write "
                 "them to this JSON file; takes no plan")
      ->excludes(plan)
      ->excludes(prompt)
      ->excludes(prompts)
      ->excludes(score);
  app.add_option("--collect-activations", options.activations,
                 "Write what the matrices read, with --score or --prompts, to this JSON file and "
                 "FILE.safetensors, for llmir-plan --activations; needs a plan with --weights f32 "
                 "or bf16 for one rank");
  app.add_option("--max-tokens", options.defaults.max_tokens, "Longest answer, in tokens")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 24));
  auto& sampling = options.defaults.sampling;
  app.add_option("--temperature", sampling.temperature, "0: greedy")->capture_default_str();
  app.add_option("--top-k", sampling.top_k, "Sample among the K most probable ids; 0: all")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--top-p", sampling.top_p,
                 "Sample among the fewest ids with this much probability together")
      ->capture_default_str();
  app.add_option("--min-p", sampling.min_p,
                 "Sample among ids with this fraction of the best one's probability")
      ->capture_default_str();
  auto* seed =
      app.add_option("--seed", sampling.seed, "Seed of the sampling noise; default: a random one");
  app.add_option("--stop", options.defaults.stop,
                 "End the answer before this text; may be given several times")
      ->take_all();
  app.add_flag("--ignore-eos", options.defaults.ignore_eos, "Go on when the model ends its answer");
  app.add_option("--threads", options.threads,
                 "Threads of each rank; default: the host's cores divided by its ranks")
      ->check(CLI::Range(1, 1024));
  bool forget = false;
  app.add_flag("--forget-prefixes", forget,
               "Compute every prompt from its first token; blocks of ended answers don't stay");
  app.add_option("--step-tokens", options.engine.step_tokens,
                 "Prompt tokens of a step that also decodes, at most the plan's --prefill-chunk; "
                 "default: by measured times, so that decodes aren't slowed down much")
      ->check(CLI::Range(1, 1 << 24));
  app.add_option("--swap-blocks", options.engine.swap_blocks,
                 "Places for KV blocks in memory outside the plan's, per rank, for sequences that "
                 "give way to others")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 28));
  auto* spill =
      app.add_option("--spill", options.spill_folder,
                     "Keep cached KV blocks that memory has no room for in a file in this "
                     "folder, one per rank, which goes with the process")
          ->type_name("DIR");
  app.add_option("--spill-bytes", options.spill_bytes, "Largest spill file of a rank; as in 4GB")
      ->capture_default_str()
      ->transform(CLI::AsSizeValue(false))
      ->needs(spill);
  app.add_option("--speculate", options.engine.draft_tokens,
                 "Check up to N ids of a sequence per step, guessed from what it said before; "
                 "answers stay the same")
      ->capture_default_str()
      ->check(CLI::Range(0, 64))
      ->type_name("N");
  auto* without_exchange = app.add_flag(
      "--without-exchange", options.without_exchange,
      "Measure what the ranks compute without what they exchange in a step: with --prompts and "
      "--report; answers mean nothing and are not given");
  app.add_flag("--quiet", options.quiet, "No progress and closing lines on standard error");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    options.message = app.help();
    return options;
  } catch (const CLI::CallForVersion&) {
    options.message = app.version() + "\n";
    return options;
  } catch (const CLI::ParseError& error) {
    return InvalidArgument("{}; see llmir-exec --help", error.what());
  }
  options.engine.reuse_prefixes = !forget;
  options.command = "llmir-exec";
  for (int i = 1; i < argc; ++i) options.command += std::string(" ") + argv[i];
  if (!options.calibrate.empty()) return options;
  if (options.plan.empty()) return InvalidArgument("plan is required; see llmir-exec --help");
  if (random->count() > 0) options.random_seed = random_seed;
  options.seed_given = seed->count() > 0;
  if (!options.seed_given) sampling.seed = std::random_device{}();
  if (options.prompt.empty() && options.prompts_file.empty() && options.score_file.empty() &&
      options.socket.empty()) {
    return InvalidArgument(
        "nothing to do: give --prompt, --prompts, --score or --socket; see llmir-exec --help");
  }
  if (!options.score_file.empty() && options.output.empty() && options.activations.empty()) {
    return InvalidArgument(
        "--score needs --output FILE for the log-probabilities, or "
        "--collect-activations FILE");
  }
  if (without_exchange->count() > 0 &&
      (options.prompts_file.empty() || options.report.empty() || !options.output.empty() ||
       !options.logits_folder.empty())) {
    return InvalidArgument(
        "--without-exchange measures and computes nothing of use: give --prompts and --report, "
        "neither --output nor --logits");
  }
  for (const std::string& stop : options.defaults.stop) {
    if (stop.empty()) return InvalidArgument("--stop: the text is empty");
  }
  LLMIR_RETURN_IF_ERROR(CheckSampling(sampling));
  return options;
}

namespace {

// The family that the environment or the processor asks for.
StatusOr<kernels::Isa> WantedIsa() {
  const char* wanted = std::getenv("LLMIR_CPU_ISA");
  if (wanted == nullptr || *wanted == '\0') return kernels::DetectIsa();
  const auto isa = kernels::ParseIsa(wanted);
  if (!isa.has_value())
    return InvalidArgument("LLMIR_CPU_ISA={}: expected portable, avx2 or avx512", wanted);
  if (!kernels::IsaAvailable(*isa))
    return Incompatible("LLMIR_CPU_ISA={}: this processor doesn't have it", wanted);
  return *isa;
}

// `isa`, if its kernels compute on this processor what they must.
StatusOr<kernels::Isa> Tested(kernels::Isa isa) {
  if (isa == kernels::Isa::kPortable) return isa;
  const char* failed = kernels::FailedKernel(isa);
  if (failed == nullptr) return isa;
  return Incompatible(
      "the {} kernels fail their self-test here: {} differs from the portable kernel's result; run "
      "with LLMIR_CPU_ISA=portable, or a family that passes, and report it",
      kernels::IsaName(isa), failed);
}

}  // namespace

StatusOr<kernels::Isa> ChooseIsa() {
  LLMIR_ASSIGN_OR_RETURN(const kernels::Isa isa, WantedIsa());
  return Tested(isa);
}

StatusOr<kernels::Isa> ChooseIsaFor(const plan::Plan& plan) {
  LLMIR_ASSIGN_OR_RETURN(const kernels::Isa chosen, WantedIsa());
  if (!plan.reproducible()) return Tested(chosen);
  const std::string_view name = plan.isa()->string_view();
  const auto bound = kernels::ParseIsa(name);
  if (!bound.has_value()) {
    return Incompatible(
        "the plan is reproducible with the {} kernels, which this runtime doesn't know: it has "
        "portable, avx2 and avx512",
        name);
  }
  const char* wanted = std::getenv("LLMIR_CPU_ISA");
  if (wanted != nullptr && *wanted != '\0' && chosen != *bound) {
    return Incompatible(
        "the plan is reproducible with the {} kernels, but LLMIR_CPU_ISA={}: unset it, or plan "
        "with "
        "--reproducible={}",
        name, wanted, wanted);
  }
  if (!kernels::IsaAvailable(*bound)) {
    return Incompatible(
        "the plan is reproducible with the {} kernels, which this processor doesn't have (its best "
        "are {}): run it on one that has them, or plan with --reproducible={}",
        name, kernels::IsaName(chosen), kernels::IsaName(chosen));
  }
  return Tested(*bound);
}

}  // namespace llmir::executor
