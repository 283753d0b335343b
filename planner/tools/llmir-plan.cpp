//===- llmir-plan.cpp - Turn a checkpoint into an execution plan ----------===//

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <unistd.h>

#include "mlir/IR/AsmState.h"
#include "mlir/Pass/PassManager.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/raw_ostream.h"

#include "plan_schema/base/version.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_file.h"
#include "plan_schema/plan_printer.h"
#include "plan_schema/plan_verifier.h"
#include "planner/Frontend/ImportShape.h"
#include "planner/Planner.h"

namespace cl = llvm::cl;
using namespace llmir;

namespace {

cl::OptionCategory category("Planning options");

cl::opt<std::string>
    model(cl::Positional, cl::Required,
          cl::desc("<GGUF file, Hugging Face folder or shape (.yaml)>"),
          cl::cat(category));
cl::opt<std::string> output("o", cl::value_desc("file"), cl::init("plan.fb"),
                            cl::desc("Where to write the plan"),
                            cl::cat(category));
cl::list<int64_t> tp("tp", cl::CommaSeparated, cl::value_desc("n[,n...]"),
                     cl::desc("Ranks that divide a stage's matrices: one "
                              "number, or one per stage (default 1)"),
                     cl::cat(category));
cl::opt<std::string>
    ranks("ranks", cl::value_desc("n|auto"),
          cl::desc("Ranks of the job: chooses --tp and --pp; with --cluster at "
                   "most so many, auto: as many as it has places"),
          cl::cat(category));
cl::opt<std::string>
    cluster("cluster", cl::value_desc("file"),
            cl::desc("Hardware, as in configs/clusters: plans for it are "
                     "simulated and the best is taken"),
            cl::cat(category));
cl::opt<std::string>
    goal("goal", cl::value_desc("what"), cl::init("latency"),
         cl::desc("With --cluster and --ranks: latency (shortest requests, the "
                  "default) or throughput (most tokens per second)"),
         cl::cat(category));
cl::opt<std::string>
    rankMemory("rank-memory", cl::value_desc("bytes"),
               cl::desc("With --ranks: weights that a rank may hold"),
               cl::cat(category));
cl::opt<int64_t> pp("pp", cl::value_desc("n"), cl::init(1),
                    cl::desc("Stages of layers, one after the other"),
                    cl::cat(category));
cl::opt<int64_t> dp("dp", cl::value_desc("n"), cl::init(1),
                    cl::desc("Replicas of all stages, each with its own KV "
                             "blocks; requests are shared out among them"),
                    cl::cat(category));
cl::opt<int64_t> stepsInFlight(
    "steps-in-flight", cl::value_desc("n"), cl::init(0),
    cl::desc("Steps of a replica that are under way at a time, of "
             "--max-batch sequences each (default: as many as stages)"),
    cl::cat(category));
cl::opt<std::string>
    weights("weights", cl::value_desc("type"), cl::init("keep"),
            cl::desc("How weights are packed: keep (as stored), q3 (q3_1), q4 "
                     "(q4_1), q5 (q5_0), q6 (q6_0), q8 (q8_0), or a type by "
                     "name: f32, f16, bf16, q3_0, q3_1, q4_0, ... q6_1, "
                     "q3_1_64, ... q6_1_64; or auto:Bbpw (auto:4.5bpw): the "
                     "mix of types with B bits per weight that loses least"),
            cl::cat(category));
cl::opt<std::string> method(
    "method", cl::value_desc("name"),
    cl::desc("How values are rounded: rtn (to the nearest), awq, gptq or "
             "awq+gptq (default: rtn, with auto:Bbpw gptq)"),
    cl::cat(category));
cl::list<std::string> types("types", cl::CommaSeparated,
                            cl::value_desc("type[,type...]"),
                            cl::desc("Types that --weights auto:Bbpw may take "
                                     "(default: all)"),
                            cl::cat(category));
cl::opt<std::string>
    activations("activations", cl::value_desc("file"),
                cl::desc("What llmir-exec --collect-activations wrote: for "
                         "--weights auto:Bbpw and --method"),
                cl::cat(category));
cl::opt<std::string> pack("pack", cl::value_desc("file"),
                          cl::desc("Write the weights as kernels read them, "
                                   "to be mapped at load; awq and gptq need "
                                   "it, no checkpoint has their values"),
                          cl::cat(category));
cl::opt<std::string>
    packIsa("pack-isa", cl::value_desc("family"),
            cl::desc("With --pack: whose kernels, portable, avx2 or avx512 "
                     "(default: the best of this processor)"),
            cl::cat(category));
cl::opt<std::string>
    kvType("kv-dtype", cl::value_desc("type"),
           cl::desc("Keys and values: f32, bf16, int8 or fp8 (default: f32 "
                    "with --weights f32, else bf16)"),
           cl::cat(category));
cl::opt<std::string> attention(
    "attention", cl::value_desc("form"), cl::init("auto"),
    cl::desc("How attention is computed: auto, flash, fused-softmax, masked or "
             "standard; then, with commas, no-share-kv, window=N (attend to "
             "the last N tokens)"),
    cl::cat(category));
cl::opt<int64_t>
    blockSize("block-size", cl::value_desc("tokens"), cl::init(0),
              cl::desc("Tokens of a KV block, a power of two (default: chosen "
                       "for the workload; 16 without)"),
              cl::cat(category));
cl::opt<int64_t>
    kvBlocks("kv-blocks", cl::value_desc("n"), cl::init(0),
             cl::desc("KV blocks per rank (default: enough for max-batch "
                      "sequences of full length in each step in flight)"),
             cl::cat(category));
cl::opt<std::string>
    kvMemory("kv-memory", cl::value_desc("bytes"),
             cl::desc("Memory for KV blocks per rank instead; suffixes K, M, "
                      "G, Ki, Mi, Gi"),
             cl::cat(category));
cl::opt<std::string>
    kvExtent("kv-extent", cl::value_desc("bytes"),
             cl::desc("What lies side by side of the keys, or the values, of "
                      "one head: extents of about so many bytes each "
                      "(default: 32Ki; 1: every block by itself)"),
             cl::cat(category));
cl::opt<std::string>
    kvArena("kv-arena", cl::value_desc("how"), cl::init("auto"),
            cl::desc("KV blocks in one arena with the activations (unified), "
                     "or in memory of their own (separate, which auto chooses "
                     "with several replicas)"),
            cl::cat(category));
cl::opt<int64_t> context("context", cl::value_desc("tokens"), cl::init(0),
                         cl::desc("Longest sequence, prompt and answer "
                                  "(default: the model's, at most 4096)"),
                         cl::cat(category));
cl::opt<int64_t> maxBatch("max-batch", cl::value_desc("n"), cl::init(8),
                          cl::desc("Sequences in one step"), cl::cat(category));
cl::opt<int64_t> prefillChunk("prefill-chunk", cl::value_desc("tokens"),
                              cl::init(512),
                              cl::desc("Prompt tokens in one step"),
                              cl::cat(category));

cl::opt<std::string> overlap(
    "overlap", cl::value_desc("how"), cl::init("auto"),
    cl::desc("How ranks of a stage share out steps of many tokens: none, "
             "scatter (each adds and normalizes its share of the tokens), "
             "halves (one half's work beside the other's sums) or auto"),
    cl::cat(category));
cl::opt<std::string>
    wire("wire", cl::value_desc("type"), cl::init("f32"),
         cl::desc("How activations travel between hosts: f32, or int8, a "
                  "quarter of the bytes with an error that the plan states. "
                  "Within a host nothing changes"),
         cl::cat(category));
cl::opt<bool> bf16Activations(
    "bf16-activations",
    cl::desc("Round what bf16 weights are multiplied with to bf16, for which "
             "processors have faster products (AVX512_BF16)"),
    cl::cat(category));

cl::opt<std::string> reproducible(
    "reproducible", cl::ValueOptional, cl::value_desc("family"),
    cl::desc("No bit of a result depends on batch, chunks, cached prefixes, tp "
             "or pp. The plan runs with one family of kernels: portable, avx2 "
             "or avx512 (default: the best of this processor)"),
    cl::cat(category));
cl::opt<std::string>
    calibration("calibration", cl::value_desc("file"),
                cl::desc("What llmir-exec --calibrate measured: the plan says "
                         "how long each step takes"),
                cl::cat(category));

cl::opt<std::string> workload("workload", cl::value_desc("file"),
                              cl::desc("Requests that the plan is made for, "
                                       "as in configs/workloads"),
                              cl::cat(category));
cl::list<std::string> disable(
    "disable", cl::CommaSeparated, cl::value_desc("name[,name...]"),
    cl::desc("Leave out optimizations: families (kv, "
             "precision, attention, parallel, fusion) or passes by name"),
    cl::cat(category));
cl::list<std::string>
    printIrAfter("print-ir-after", cl::value_desc("pass"),
                 cl::desc("Print the module after this pass; repeatable"),
                 cl::cat(category));
cl::opt<bool> explain("explain",
                      cl::desc("Print what each pass did and what it expects "
                               "to gain"),
                      cl::cat(category));

/// "512", "64K", "1.5Gi" in bytes.
StatusOr<uint64_t> parseBytes(const char *option, const std::string &text) {
  auto wrong = [&] {
    return InvalidArgument("{} {}: expected bytes, such as 800M or 2Gi", option,
                           text);
  };
  llvm::StringRef rest = text;
  llvm::StringRef number =
      rest.take_while([](char c) { return llvm::isDigit(c) || c == '.'; });
  rest = rest.drop_front(number.size());
  double value;
  if (number.empty() || number.getAsDouble(value))
    return wrong();
  static constexpr std::pair<const char *, double> kSuffixes[] = {
      {"", 1},
      {"K", 1e3},
      {"M", 1e6},
      {"G", 1e9},
      {"Ki", 1024},
      {"Mi", 1024 * 1024},
      {"Gi", 1024 * 1024 * 1024}};
  constexpr double kMost = 1e18;
  for (auto [suffix, factor] : kSuffixes)
    if (rest == suffix && value * factor >= 1 && value * factor <= kMost)
      return static_cast<uint64_t>(value * factor);
  return wrong();
}

/// The arguments, without the folders of paths.
std::string getCommand(int argc, char **argv) {
  std::string command = "llmir-plan";
  for (int i = 1; i < argc; ++i) {
    llvm::StringRef argument = argv[i];
    size_t slash = argument.rfind('/');
    if (slash != llvm::StringRef::npos) {
      size_t equals = argument.find('=');
      llvm::StringRef option =
          equals < slash ? argument.take_front(equals + 1) : "";
      llvm::StringRef path = argument.rtrim('/');
      argument = path.drop_front(path.rfind('/') + 1);
      command += " " + (option + argument).str();
      continue;
    }
    command += " " + argument.str();
  }
  return command;
}

/// Writes beside `path` first, so that a reader sees the old file or the new
/// one, whole.
Status writeFile(const std::string &path, std::span<const std::byte> bytes) {
  const std::string temporary = fmt::format("{}.{}.tmp", path, getpid());
  std::FILE *file = std::fopen(temporary.c_str(), "wb");
  if (!file)
    return InvalidArgument("{}: cannot be written: {}", path,
                           std::strerror(errno));
  bool ok = std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
  ok = std::fflush(file) == 0 && fsync(fileno(file)) == 0 && ok;
  int error = errno;
  ok = std::fclose(file) == 0 && ok;
  if (ok && std::rename(temporary.c_str(), path.c_str()) == 0)
    return Status();
  if (ok)
    error = errno;
  std::remove(temporary.c_str());
  return ResourceExhausted("{}: cannot be written: {}", path,
                           std::strerror(error));
}

std::string formatBytes(uint64_t bytes) {
  if (bytes >= 1000 * 1000 * 1000)
    return fmt::format("{:.2f} GB", bytes / 1e9);
  return fmt::format("{:.1f} MB", bytes / 1e6);
}

/// One line that is rewritten on a terminal; elsewhere a line every few
/// seconds.
void reportProgress(const std::string &text) {
  static auto last = std::chrono::steady_clock::now();
  const bool isTerminal = isatty(STDERR_FILENO) != 0;
  const auto now = std::chrono::steady_clock::now();
  if (now - last < std::chrono::milliseconds(isTerminal ? 100 : 5000))
    return;
  last = now;
  if (isTerminal)
    fmt::print(stderr, "\r{:<60}", text);
  else
    fmt::print(stderr, "{}\n", text);
  std::fflush(stderr);
}

void printSummary(const plan::Plan &plan, size_t fileBytes, double seconds) {
  const uint32_t ranks = plan::WorldSize(plan);
  fmt::print("{}: {} for {} rank{}, planned in {:.2f} s\n", output.getValue(),
             formatBytes(fileBytes), ranks, ranks == 1 ? "" : "s", seconds);
  fmt::print("KV cache: {} blocks of {} tokens, {}\n", plan.kv()->blocks(),
             plan.kv()->block_size(), plan::DTypeName(plan.kv()->dtype()));
  for (const plan::Replica *replica : *plan.replicas())
    for (const plan::Stage *stage : *replica->stages())
      for (const plan::Rank *rank : *stage->ranks()) {
        const plan::Memory &memory = *rank->memory();
        const uint64_t blocks = plan.kv()->blocks();
        fmt::print(
            "rank {}: layers {} to {}, {} at most: weights {}, "
            "activations {}, KV {}, other {}\n",
            rank->world_rank(), stage->layer_begin(), stage->layer_end() - 1,
            formatBytes(plan::PeakBytes(memory, blocks)),
            formatBytes(memory.weights()), formatBytes(memory.activations()),
            formatBytes(memory.kv_block() * blocks),
            formatBytes(memory.fixed()));
      }
  fmt::print("run it: mpirun -n {} llmir-exec {}{}\n", ranks, output.getValue(),
             isShape(model) ? " --random-weights" : "");
}

Status run(int argc, char **argv) {
  auto start = std::chrono::steady_clock::now();
  LLMIR_ASSIGN_OR_RETURN(checkpoint::Checkpoint checkpoint,
                         isShape(model) ? readShape(model)
                                        : checkpoint::Checkpoint::Open(model));
  std::optional<checkpoint::Tokenizer> tokenizer;
  if (checkpoint.has_weights()) {
    LLMIR_ASSIGN_OR_RETURN(tokenizer, checkpoint::Tokenizer::Load(model));
  }

  PlannerOptions options;
  if (!tp.empty())
    options.tp.assign(tp.begin(), tp.end());
  options.pp = pp;
  options.dp = dp;
  if (stepsInFlight.getNumOccurrences() > 0)
    options.stepsInFlight = stepsInFlight;
  if (ranks.getNumOccurrences() > 0) {
    if (tp.getNumOccurrences() > 0 || pp.getNumOccurrences() > 0)
      return InvalidArgument("--ranks chooses --tp and --pp: give it alone");
    if (ranks == "auto") {
      if (cluster.empty())
        return InvalidArgument("--ranks auto: --cluster FILE is missing, which "
                               "says how many there could be");
    } else if (llvm::StringRef(ranks).getAsInteger(10, options.ranks) ||
               options.ranks < 1) {
      return InvalidArgument("--ranks {}: expected 1 or more, or auto",
                             ranks.getValue());
    }
    if (!cluster.empty()) {
      options.goal = goal;
      if (dp.getNumOccurrences() == 0)
        options.dp = 0;
    }
  } else if (goal.getNumOccurrences() > 0) {
    return InvalidArgument("--goal {}: is for a search: give --ranks N or auto "
                           "and --cluster FILE",
                           goal.getValue());
  }
  options.cluster = cluster;
  if (rankMemory.getNumOccurrences() > 0) {
    LLMIR_ASSIGN_OR_RETURN(options.rankMemory,
                           parseBytes("--rank-memory", rankMemory));
  }
  options.weights = weights;
  options.method = method;
  options.types.assign(types.begin(), types.end());
  options.activations = activations;
  options.pack = pack;
  options.packIsa = packIsa;
  options.kvType = kvType;
  options.attention = attention;
  if (blockSize.getNumOccurrences() > 0)
    options.blockSize = blockSize;
  if (kvBlocks.getNumOccurrences() > 0)
    options.kvBlocks = kvBlocks;
  if (kvMemory.getNumOccurrences() > 0) {
    LLMIR_ASSIGN_OR_RETURN(options.kvMemory,
                           parseBytes("--kv-memory", kvMemory));
  }
  if (kvExtent.getNumOccurrences() > 0) {
    LLMIR_ASSIGN_OR_RETURN(options.kvExtent,
                           parseBytes("--kv-extent", kvExtent));
  }
  options.kvArena = kvArena;
  if (context.getNumOccurrences() > 0)
    options.context = context;
  options.maxBatch = maxBatch;
  options.prefillChunk = prefillChunk;
  options.overlap = overlap;
  options.wire = wire;
  options.bf16Activations = bf16Activations;
  options.reproducible = reproducible.getNumOccurrences() > 0;
  options.isa = reproducible;
  options.calibration = calibration;
  options.workload = workload;
  options.disabled.assign(disable.begin(), disable.end());
  options.printIrAfter.assign(printIrAfter.begin(), printIrAfter.end());
  options.command = getCommand(argc, argv);
  options.planFolder = std::filesystem::path(output.getValue()).parent_path();
  options.progress = reportProgress;
  options.found = [](const std::string &table, const std::string &reason) {
    fmt::print("{}{}\n", table, reason);
  };
  options.note = [](const std::string &text) {
    fmt::print(stderr, "llmir-plan: note: {}\n", text);
  };
  options.configure = [](mlir::PassManager &manager) {
    return succeeded(mlir::applyPassManagerCLOptions(manager));
  };
  LLMIR_ASSIGN_OR_RETURN(
      auto planned,
      planCheckpoint(checkpoint, tokenizer ? &*tokenizer : nullptr, options));

  std::vector<std::byte> bytes = plan::PlanFile::Serialize(*planned);
  const size_t fileBytes = bytes.size();
  LLMIR_ASSIGN_OR_RETURN(plan::PlanFile file,
                         plan::PlanFile::FromBytes(std::move(bytes), output));
  if (Status status = plan::VerifyPlan(file.plan()); !status.ok())
    return Internal("the plan that was made isn't valid: {}", status.message());
  LLMIR_RETURN_IF_ERROR(writeFile(output, file.bytes()));
  if (explain)
    fmt::print("{}\n", plan::ExplanationsToText(file.plan()));
  printSummary(
      file.plan(), fileBytes,
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count());
  return Status();
}

} // namespace

int main(int argc, char **argv) {
  mlir::registerAsmPrinterCLOptions();
  mlir::registerMLIRContextCLOptions();
  mlir::registerPassManagerCLOptions();
  cl::Option *printIr =
      cl::getRegisteredOptions().lookup("mlir-print-ir-after-all");
  std::optional<cl::alias> shorter;
  if (printIr)
    shorter.emplace("print-ir-after-all", cl::aliasopt(*printIr),
                    cl::desc("Print the module after each pass"),
                    cl::cat(category));
  cl::HideUnrelatedOptions(category);
  cl::SetVersionPrinter([](llvm::raw_ostream &stream) {
    stream << "llmir-plan " << kVersion << "\n";
  });
  // LLVM's guess at what was meant is a second line; an error is one.
  std::string errors;
  llvm::raw_string_ostream stream(errors);
  if (!cl::ParseCommandLineOptions(
          argc, argv,
          "Turns a checkpoint into an execution plan for llmir-exec.\n"
          "--print-ir-after-all and MLIR's other options for passes are "
          "accepted too, see --help-hidden.\n",
          &stream)) {
    if (!errors.empty()) // else LLVM has printed it
      fmt::print(stderr, "{}\n", errors.substr(0, errors.find('\n')));
    return 1;
  }
  if (Status status = run(argc, argv); !status.ok()) {
    fmt::print(stderr, "llmir-plan: {}\n", status.message());
    return 1;
  }
  return 0;
}
