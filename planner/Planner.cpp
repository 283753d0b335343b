//===- Planner.cpp - From a checkpoint to a plan --------------------------===//

#include "planner/Planner.h"

#include <cmath>
#include <filesystem>

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/Pass/PassManager.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

#include "plan_schema/base/version.h"
#include "plan_schema/cost/calibration.h"
#include "plan_schema/plan_facts.h"
#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"
#include "planner/Frontend/ImportCheckpoint.h"
#include "planner/Layout.h"
#include "planner/Quantization/QuantizeModel.h"
#include "planner/Replicas.h"
#include "planner/Search.h"
#include "planner/Target/Plan/ExportPlan.h"
#include "planner/Target/Plan/StepTimes.h"
#include "planner/Workload.h"

using namespace mlir;
using namespace llmir;

namespace {

/// Longer contexts than this are planned for on demand only.
constexpr int64_t kDefaultContext = 4096;

/// K lies in groups of 16 tokens.
constexpr int64_t kLeastBlockSize = 16;

/// Sizes beyond this can't be meant, and products of two of them can't wrap.
constexpr int64_t kLargest = int64_t{1} << 28;

Status checkRange(const char *option, int64_t value, int64_t least,
                  int64_t most) {
  if (value >= least && value <= most)
    return Status();
  return InvalidArgument("{} {}: expected {} to {}", option, value, least,
                         most);
}

/// Ranks can't outnumber the leaves of anything that they divide.
Status checkLayout(const checkpoint::ModelConfig &config,
                   const PlannerOptions &options) {
  if (options.pp < 1 || options.pp > config.layers)
    return InvalidArgument("--pp {}: a stage has at least one layer, and the "
                           "model has {}; the largest pp is {}",
                           options.pp, config.layers, config.layers);
  if (options.tp.size() != 1 &&
      static_cast<int64_t>(options.tp.size()) != options.pp)
    return InvalidArgument("--tp names {} stages, --pp {}: give one number, or "
                           "one for each stage",
                           options.tp.size(), options.pp);
  int64_t mlpLeaves = llvm::divideCeil(config.mlp_columns, kMlpLeaf);
  int64_t vocabularyLeaves =
      llvm::divideCeil(config.vocabulary, kVocabularyLeaf);
  int64_t largest = getLargestTp(config);
  for (int64_t ranks : options.tp)
    if (ranks < 1 || ranks > largest)
      return InvalidArgument(
          "--tp {}: the ranks of a stage divide {} query heads, {} groups of "
          "{} MLP columns and {} of {} vocabulary rows; the largest tp is {}",
          ranks, config.query_heads, mlpLeaves, kMlpLeaf, vocabularyLeaves,
          kVocabularyLeaf, largest);
  return Status();
}

/// One step for each stage, as far as rank 0 can follow those of all replicas.
int64_t getStepsInFlight(const PlannerOptions &options) {
  return options.stepsInFlight.value_or(
      std::min<int64_t>(options.pp, plan::kMostStepsInFlight / options.dp));
}

Status checkOptions(const checkpoint::ModelConfig &config,
                    const PlannerOptions &options) {
  LLMIR_RETURN_IF_ERROR(
      checkRange("--dp", options.dp, 1, plan::kMostStepsInFlight));
  LLMIR_RETURN_IF_ERROR(checkLayout(config, options));
  int64_t most =
      std::min<int64_t>(options.pp, plan::kMostStepsInFlight / options.dp);
  if (options.stepsInFlight &&
      (*options.stepsInFlight < 1 || *options.stepsInFlight > most))
    return InvalidArgument("--steps-in-flight {}: expected 1 to {}: at most "
                           "one for each of {} stages, and {} in {} replicas "
                           "together",
                           *options.stepsInFlight, most, options.pp,
                           plan::kMostStepsInFlight, options.dp);
  if (!llvm::StringRef(options.weights).starts_with("auto:") &&
      llm::getRequestedEncoding(options.weights).empty())
    return InvalidArgument("--weights {}: expected {}, or auto:Bbpw for B bits "
                           "per weight, such as auto:4.5bpw",
                           options.weights, llm::kWeightChoices.str());
  if (!llvm::is_contained({"", "f32", "bf16", "int8", "fp8"}, options.kvType))
    return InvalidArgument("--kv-dtype {}: expected f32, bf16, int8 or fp8",
                           options.kvType);
  if (options.blockSize &&
      (*options.blockSize < 16 || *options.blockSize > kLargest ||
       !llvm::isPowerOf2_64(*options.blockSize)))
    return InvalidArgument("--block-size {}: expected a power of two from 16",
                           *options.blockSize);
  if (options.kvBlocks && options.kvMemory)
    return InvalidArgument("--kv-blocks and --kv-memory say the same in two "
                           "ways: give one of them");
  if (!llvm::is_contained({"none", "halves", "scatter", "auto"},
                          options.overlap))
    return InvalidArgument("--overlap {}: expected none, halves, scatter or "
                           "auto",
                           options.overlap);
  if (!llvm::is_contained({"unified", "separate", "auto"}, options.kvArena))
    return InvalidArgument("--kv-arena {}: expected unified, separate or auto",
                           options.kvArena);
  if (!llvm::is_contained({"f32", "int8"}, options.wire))
    return InvalidArgument("--wire {}: expected f32 or int8", options.wire);
  if (options.reproducible && options.wire != "f32")
    return InvalidArgument("--wire {}: results of a plan that is "
                           "--reproducible don't depend on which ranks share "
                           "a host; leave one of the two out",
                           options.wire);
  if (options.reproducible && options.bf16Activations)
    return InvalidArgument("--bf16-activations: of one family of kernels some "
                           "processors take subnormal numbers as 0 there, so "
                           "the plan isn't --reproducible; leave one of the "
                           "two out");
  if (!llvm::is_contained({"", "latency", "throughput"}, options.goal))
    return InvalidArgument("--goal {}: expected latency or throughput",
                           options.goal);
  if (!options.packIsa.empty() && !kernels::ParseIsa(options.packIsa))
    return InvalidArgument("--pack-isa {}: expected portable, avx2 or avx512",
                           options.packIsa);
  if (!options.isa.empty() && !kernels::ParseIsa(options.isa))
    return InvalidArgument("--reproducible={}: expected a family of kernels, "
                           "portable, avx2 or avx512",
                           options.isa);
  if (!options.packIsa.empty() && options.pack.empty())
    return InvalidArgument("--pack-isa {}: nothing is packed without --pack "
                           "FILE",
                           options.packIsa);
  if (options.context)
    LLMIR_RETURN_IF_ERROR(
        checkRange("--context", *options.context, 1, config.context));
  if (options.kvBlocks)
    LLMIR_RETURN_IF_ERROR(
        checkRange("--kv-blocks", *options.kvBlocks, 1, kLargest));
  LLMIR_RETURN_IF_ERROR(
      checkRange("--max-batch", options.maxBatch, 1, int64_t{1} << 16));
  return checkRange("--prefill-chunk", options.prefillChunk, 1,
                    int64_t{1} << 16);
}

/// Plans don't say where on a machine their inputs lay.
std::string getFileName(const std::string &path) {
  return std::filesystem::path(path).filename();
}

/// "flash,no-share-kv,window=128" into the pipeline's options.
Status parseAttention(const std::string &text, llm::PipelineOptions &options) {
  auto wrong = [&](StringRef part) {
    return InvalidArgument("--attention {}: \"{}\", expected auto, flash, "
                           "fused-softmax, masked or standard, and after it "
                           "any of ,no-share-kv and ,window=N",
                           text, part.str());
  };
  SmallVector<StringRef> parts;
  StringRef(text).split(parts, ',');
  StringRef form = parts.front();
  if (!llvm::is_contained(
          {"auto", "flash", "fused-softmax", "masked", "standard"}, form))
    return wrong(form);
  options.attention = form == "fused-softmax" ? "fused_softmax" : form.str();
  for (StringRef part : ArrayRef(parts).drop_front()) {
    StringRef number = part;
    if (part == "no-share-kv")
      options.shareKv = false;
    else if (!number.consume_front("window=") ||
             number.getAsInteger(10, options.attentionWindow) ||
             options.attentionWindow < 1 || options.attentionWindow > kLargest)
      return wrong(part);
  }
  return Status();
}

Type getKvElement(Builder &builder, StringRef name) {
  if (name == "f32")
    return builder.getF32Type();
  if (name == "int8")
    return builder.getI8Type();
  if (name == "fp8")
    return Float8E4M3FNType::get(builder.getContext());
  return builder.getBF16Type();
}

/// Every option with the value used, defaults included.
std::vector<std::string> listOptions(const PlannerOptions &options,
                                     const std::string &kvType,
                                     int64_t context) {
  return {"tp=" + llvm::join(llvm::map_range(options.tp,
                                             [](int64_t ranks) {
                                               return std::to_string(ranks);
                                             }),
                             ","),
          fmt::format("pp={}", options.pp),
          fmt::format("dp={}", options.dp),
          fmt::format("steps-in-flight={}", getStepsInFlight(options)),
          fmt::format("ranks={}", options.ranks),
          fmt::format("rank-memory={}", options.rankMemory.value_or(0)),
          fmt::format("cluster={}", getFileName(options.cluster)),
          fmt::format("goal={}", options.goal),
          fmt::format("weights={}", options.weights),
          fmt::format("method={}", options.method),
          "types=" + llvm::join(options.types, ","),
          fmt::format("bf16-activations={}", options.bf16Activations),
          fmt::format("kv-dtype={}", kvType),
          fmt::format("attention={}", options.attention),
          fmt::format("block-size={}", options.blockSize.value_or(0)),
          fmt::format("kv-blocks={}", options.kvBlocks.value_or(0)),
          fmt::format("kv-memory={}", options.kvMemory.value_or(0)),
          fmt::format("kv-extent={}", options.kvExtent.value_or(0)),
          fmt::format("kv-arena={}", options.kvArena),
          fmt::format("context={}", context),
          fmt::format("max-batch={}", options.maxBatch),
          fmt::format("prefill-chunk={}", options.prefillChunk),
          fmt::format("overlap={}", options.overlap),
          fmt::format("wire={}", options.wire),
          "reproducible=" + (options.reproducible ? options.isa : "no"),
          fmt::format("pack={}", getFileName(options.pack)),
          fmt::format("pack-isa={}", options.packIsa),
          fmt::format("workload={}", getFileName(options.workload)),
          fmt::format("disable={}", llvm::join(options.disabled, ",")),
          fmt::format("calibration={}", getFileName(options.calibration))};
}

/// What a search plans for: the workload's mean request, or one request at a
/// time with a prompt of one chunk.
plan::ForecastLoad getLoad(const checkpoint::ModelConfig &config,
                           const PlannerOptions &options,
                           const std::optional<Workload> &workload) {
  int64_t context = options.context.value_or(
      std::min<int64_t>(config.context, kDefaultContext));
  plan::ForecastLoad load;
  load.prompt = std::min(options.prefillChunk, (context + 1) / 2);
  load.answer = 128;
  load.batch = options.goal == "throughput" ? options.maxBatch : 1;
  if (workload) {
    double prompt = 0, answer = 0;
    for (const Workload::Request &request : workload->requests) {
      prompt += request.prompt;
      answer += request.answer;
    }
    load.prompt = std::llround(prompt / workload->requests.size());
    load.answer = std::llround(answer / workload->requests.size());
    load.batch = std::min(workload->batch, options.maxBatch);
  }
  load.prompt = std::clamp<int64_t>(load.prompt, 1, context);
  load.context = std::min<double>(context, load.prompt + load.answer / 2.0);
  return load;
}

/// Of each rank the part of its node's memory bandwidth that it gets, which is
/// what decoding goes at; empty where all are alike.
SmallVector<double> getSpeeds(const plan::Cluster &cluster,
                              const PlannerOptions &options) {
  int64_t ranks = 0;
  for (int64_t stage = 0; stage < options.pp; ++stage)
    ranks += options.tp[options.tp.size() == 1 ? 0 : stage];
  std::vector<int> places = plan::PlaceRanks(cluster, ranks);
  SmallVector<double> speeds;
  for (int place : places) {
    const plan::Node &node = cluster.nodes[place];
    speeds.push_back(node.device.read_bytes_per_s /
                     (node.accelerators > 0 ? 1 : llvm::count(places, place)));
  }
  if (llvm::all_equal(speeds))
    speeds.clear();
  return speeds;
}

void explainLayout(ModuleOp module, const Layout &layout) {
  std::string stages = llvm::join(
      llvm::map_range(layout.tp, [](int64_t n) { return std::to_string(n); }),
      " + ");
  llm::explain(
      module, "--ranks",
      fmt::format("{} stage{} of {} ranks: {:.0f} us per token of one sequence "
                  "by this estimate, {} of weights on the largest rank",
                  layout.tp.size(), layout.tp.size() == 1 ? "" : "s", stages,
                  layout.usPerToken, llm::formatBytes(layout.largestRank)),
      fmt::format("{:.0f} % of a speed-up as large as the number of ranks",
                  100 * layout.efficiency));
}

/// Prints the module to stderr after each pass of `passes`.
Status printAfter(PassManager &manager,
                  const std::vector<std::string> &passes) {
  if (passes.empty())
    return Status();
  std::vector<std::string> known = llm::getPipelinePasses();
  for (const std::string &pass : passes)
    if (!llvm::is_contained(known, pass))
      return InvalidArgument("--print-ir-after {}: expected one of {}", pass,
                             llvm::join(known, ", "));
  manager.enableIRPrinting(
      /*shouldPrintBeforePass=*/{},
      [passes](Pass *pass, Operation *) {
        return llvm::is_contained(passes, pass->getArgument());
      },
      /*printModuleScope=*/true, /*printAfterOnlyOnChange=*/false);
  return Status();
}

/// What calibration gives: the types of the weights and, where their values
/// are new, the checkpoint with these.
struct Calibrated {
  quantization::QuantizedModel model;
  std::optional<checkpoint::Checkpoint> changed;
  std::string activationsFile; // its name
  uint64_t activationsHash = 0;
};

/// The bits of "auto:4.5bpw".
StatusOr<double> parseBudget(const std::string &weights) {
  llvm::StringRef text = llvm::StringRef(weights).drop_front(5);
  double bits;
  if (!text.consume_back("bpw") || text.getAsDouble(bits) || !(bits > 0) ||
      bits > 32)
    return InvalidArgument("--weights {}: expected bits per weight, such as "
                           "auto:4.5bpw",
                           weights);
  return bits;
}

/// Chooses types, and values where a method needs activations, by the options.
StatusOr<Calibrated> calibrate(const checkpoint::Checkpoint &checkpoint,
                               const PlannerOptions &options) {
  bool isAuto = llvm::StringRef(options.weights).starts_with("auto:");
  quantization::QuantizeOptions quantize;
  quantize.mlpLeaf = kMlpLeaf;
  quantize.threads = options.threads;
  quantize.progress = options.progress;
  std::string name = options.method;
  if (name.empty())
    name = isAuto ? "gptq" : "rtn";
  auto method = quantization::findMethod(name);
  if (!method)
    return InvalidArgument("--method {}: expected rtn, awq, gptq or awq+gptq",
                           name);
  quantize.method = *method;
  if (isAuto) {
    LLMIR_ASSIGN_OR_RETURN(quantize.bitsPerWeight,
                           parseBudget(options.weights));
    for (const std::string &type : options.types) {
      auto encoding =
          kernels::FindEncoding(llm::getRequestedEncoding(type).str());
      if (!encoding)
        return InvalidArgument("--types {}: expected types by name, such as "
                               "q3_1_64,q4_1_64,q8_0",
                               type);
      quantize.offered.push_back(*encoding);
    }
    if (name == "awq" || name == "awq+gptq")
      return InvalidArgument("--method {}: scales are searched for one type: "
                             "give --weights a type, or take gptq",
                             name);
  } else {
    auto encoding =
        kernels::FindEncoding(llm::getRequestedEncoding(options.weights).str());
    if (!encoding || kernels::FormatOf(*encoding).group == 0)
      return InvalidArgument("--method {}: --weights {} isn't a type that "
                             "values are rounded to in groups: take q4_0, "
                             "q4_1_64 or another",
                             name, options.weights);
    quantize.encoding = *encoding;
  }
  if (options.activations.empty())
    return InvalidArgument("--weights {} --method {}: --activations FILE is "
                           "missing, which llmir-exec --collect-activations "
                           "writes",
                           options.weights, name);
  if (name != "rtn" && options.pack.empty())
    return InvalidArgument("--method {}: the weights can't be made from the "
                           "checkpoint again: name a file for them with "
                           "--pack FILE",
                           name);
  LLMIR_ASSIGN_OR_RETURN(checkpoint::ActivationFile activations,
                         checkpoint::ReadActivationFile(options.activations));
  Calibrated result;
  result.activationsFile =
      std::filesystem::path(options.activations).filename();
  result.activationsHash = activations.hash;
  LLMIR_ASSIGN_OR_RETURN(result.model, quantization::quantizeModel(
                                           checkpoint, &activations, quantize));
  if (!result.model.packed.empty()) {
    LLMIR_ASSIGN_OR_RETURN(
        result.changed,
        checkpoint::Checkpoint::OpenWith(
            checkpoint.path(), std::move(result.model.packed), options.pack));
    result.model.packed.clear();
  }
  return result;
}

/// Hands the chosen types to the passes, and what they are expected to cost.
void recordTypes(ModuleOp module, const quantization::QuantizedModel &model) {
  Builder builder(module.getContext());
  SmallVector<NamedAttribute> types;
  for (const quantization::WeightChoice &choice : model.choices)
    types.push_back(builder.getNamedAttr(
        choice.tensor,
        builder.getStringAttr(kernels::FormatOf(choice.encoding).name)));
  module->setAttr("llm.weight_types", builder.getDictionaryAttr(types));
  llm::explain(module, "llm-choose-precision",
               "types by measured output errors: " + model.summary,
               fmt::format("{:.3f} bits per weight, embedding and scales "
                           "counted; the loss is expected to rise by {:.4f} "
                           "nats per token",
                           model.bitsPerWeight, model.expectedLoss));
}

} // namespace

StatusOr<std::unique_ptr<plan::PlanT>>
llmir::planCheckpoint(const checkpoint::Checkpoint &checkpoint,
                      const checkpoint::Tokenizer *tokenizer,
                      const PlannerOptions &given) {
  const checkpoint::ModelConfig &config = checkpoint.config();
  PlannerOptions options = given;
  if (options.reproducible && options.isa.empty())
    options.isa = kernels::IsaName(kernels::DetectIsa());
  std::optional<plan::Calibration> calibration;
  if (!options.calibration.empty()) {
    LLMIR_ASSIGN_OR_RETURN(calibration,
                           plan::Calibration::Read(options.calibration));
  }
  std::optional<Workload> workload;
  if (!options.workload.empty()) {
    LLMIR_ASSIGN_OR_RETURN(workload, readWorkload(options.workload));
  }
  std::optional<plan::Cluster> cluster;
  if (!options.cluster.empty()) {
    LLMIR_ASSIGN_OR_RETURN(cluster, plan::ReadCluster(options.cluster));
  }
  std::optional<SearchResult> found;
  if (cluster && !options.goal.empty()) {
    PlannerOptions fixed = options;
    fixed.dp = std::max<int64_t>(options.dp, 1);
    LLMIR_RETURN_IF_ERROR(checkOptions(config, fixed));
    LLMIR_ASSIGN_OR_RETURN(
        found, searchLayout(checkpoint, tokenizer, options, *cluster,
                            calibration ? &*calibration : nullptr,
                            getLoad(config, options, workload)));
    const Candidate &chosen = found->candidates.front();
    options.tp = chosen.tp;
    options.pp = chosen.tp.size();
    options.dp = chosen.replicas;
    options.overlap = chosen.overlap;
    options.blockSize = chosen.blockSize;
    options.ranks = 0;
    if (options.found)
      options.found(formatCandidates(*found, options.goal == "throughput"),
                    found->reason);
  }
  std::optional<Layout> layout;
  if (options.ranks != 0) {
    if (options.dp < 1 || options.ranks % options.dp != 0)
      return InvalidArgument("--ranks {} can't be divided among --dp {} equal "
                             "replicas",
                             options.ranks, options.dp);
    LLMIR_ASSIGN_OR_RETURN(
        layout,
        chooseLayout(checkpoint, {options.ranks / options.dp, options.weights,
                                  options.rankMemory.value_or(0),
                                  calibration ? &*calibration : nullptr}));
    options.tp = layout->tp;
    options.pp = layout->tp.size();
  }
  LLMIR_RETURN_IF_ERROR(checkOptions(config, options));
  if (!options.pack.empty() && !checkpoint.has_weights())
    return InvalidArgument("--pack: {} is a shape, which has no weights: plan "
                           "a checkpoint, or leave it out",
                           checkpoint.path());
  if (tokenizer && tokenizer->vocabulary() > config.vocabulary)
    return InvalidArgument("{}: the tokenizer has {} ids, the model {} rows",
                           tokenizer->file(), tokenizer->vocabulary(),
                           config.vocabulary);
  int64_t context =
      options.context.value_or(std::min(config.context, kDefaultContext));
  std::string kvType = options.kvType;
  if (kvType.empty())
    kvType = options.weights == "f32" ? "f32" : "bf16";

  // One model at a time: MLIR's own threads would only be started and stopped.
  MLIRContext mlirContext(MLIRContext::Threading::DISABLED);
  mlirContext.loadDialect<llm::LLMDialect, func::FuncDialect>();
  std::string error;
  ScopedDiagnosticHandler handler(&mlirContext, [&](Diagnostic &diagnostic) {
    if (diagnostic.getSeverity() != DiagnosticSeverity::Error) {
      if (options.note)
        options.note(diagnostic.str());
    } else if (error.empty()) {
      error = diagnostic.str();
    }
  });

  Builder builder(&mlirContext);
  CacheOptions cache;
  cache.elementType = getKvElement(builder, kvType);
  cache.blockSize = options.blockSize.value_or(kLeastBlockSize);
  cache.context = context;
  std::optional<Calibrated> calibrated;
  const checkpoint::Checkpoint *source = &checkpoint;
  if (llvm::StringRef(options.weights).starts_with("auto:") ||
      !options.method.empty()) {
    LLMIR_ASSIGN_OR_RETURN(calibrated, calibrate(checkpoint, options));
    if (calibrated->changed)
      source = &*calibrated->changed;
  }
  auto imported = importCheckpoint(&mlirContext, *source, cache);
  if (!imported.ok())
    return Status(imported.status().code(),
                  imported.status().message() +
                      (error.empty() ? "" : ": " + error));
  OwningOpRef<ModuleOp> module = std::move(imported).value();

  if (workload)
    LLMIR_RETURN_IF_ERROR(attachWorkload(*module, *workload, tokenizer));

  if (layout)
    explainLayout(*module, *layout);
  if (found)
    llm::explain(*module, "--goal " + given.goal, found->reason, "");

  llm::PipelineOptions pipeline;
  LLMIR_RETURN_IF_ERROR(parseAttention(options.attention, pipeline));
  pipeline.weights = calibrated ? "keep" : options.weights;
  if (calibrated)
    recordTypes(*module, calibrated->model);
  pipeline.stages = options.pp;
  pipeline.ranks.assign(options.tp.begin(), options.tp.end());
  if (cluster)
    pipeline.speeds = getSpeeds(*cluster, options);
  pipeline.maxBatch = options.maxBatch;
  pipeline.stepsInFlight = getStepsInFlight(options);
  pipeline.prefillChunk = options.prefillChunk;
  pipeline.overlap = options.overlap;
  pipeline.reproducible = options.reproducible;
  pipeline.wire = options.wire;
  PassManager manager(&mlirContext);
  if (options.configure && !options.configure(manager))
    return InvalidArgument("wrong options of the pass manager");
  pipeline.blockSize = options.blockSize.value_or(0);
  pipeline.kvBlocks = options.kvBlocks.value_or(0);
  pipeline.kvMemory = options.kvMemory.value_or(0);
  pipeline.calibration = options.calibration;
  pipeline.disabled = options.disabled;
  LLMIR_RETURN_IF_ERROR(llm::buildPlanPipeline(manager, pipeline));
  LLMIR_RETURN_IF_ERROR(printAfter(manager, options.printIrAfter));
  if (failed(manager.run(*module)))
    return InvalidArgument("{}: can't be planned: {}", checkpoint.path(),
                           error.empty() ? "no reason was given" : error);

  ExportOptions exportOptions;
  exportOptions.planFolder = options.planFolder;
  exportOptions.limits.context = context;
  exportOptions.limits.max_batch = options.maxBatch;
  exportOptions.limits.prefill_chunk = options.prefillChunk;
  exportOptions.limits.max_tokens = options.prefillChunk + options.maxBatch;
  exportOptions.limits.steps_in_flight = getStepsInFlight(options);
  exportOptions.bf16Activations = options.bf16Activations;
  exportOptions.kvRunBytes = options.kvExtent.value_or(plan::kKvRunBytes);
  // Replicas read each other's blocks where they share a host: what they map is
  // blocks alone, and shared memory has no huge pages for activations.
  exportOptions.kvInArena = options.kvArena == "unified" ||
                            (options.kvArena == "auto" && options.dp == 1);
  exportOptions.provenance.planner_version = kVersion;
  exportOptions.provenance.command = options.command;
  exportOptions.provenance.options = listOptions(options, kvType, context);
  if (workload)
    exportOptions.provenance.workload_file = workload->file;
  exportOptions.threads = options.threads;
  exportOptions.isHashed = !options.isTrial;
  exportOptions.pack = options.pack;
  if (options.reproducible)
    exportOptions.isa = options.isa;
  // The layouts of the kernels that will read them.
  std::string packIsa = options.packIsa.empty() && options.reproducible
                            ? options.isa
                            : options.packIsa;
  exportOptions.packIsa =
      packIsa.empty() ? kernels::DetectIsa() : *kernels::ParseIsa(packIsa);
  exportOptions.progress = options.progress;
  if (calibrated) {
    exportOptions.provenance.activations_file = calibrated->activationsFile;
    exportOptions.provenance.activations_hash = calibrated->activationsHash;
    for (const quantization::WeightChoice &choice : calibrated->model.choices)
      exportOptions.quantized[choice.tensor] = {choice.method, choice.error};
  }
  LLMIR_ASSIGN_OR_RETURN(
      auto plan, exportPlan(*module, *source, tokenizer, exportOptions));
  if (calibration) {
    plan->provenance->calibration_file = calibration->file();
    plan->provenance->calibration_hash = calibration->hash();
    // Without a workload sequences are half full on average.
    ExpectedLoad load{static_cast<double>(options.maxBatch), context / 2.0};
    if (workload)
      load = {static_cast<double>(workload->batch),
              std::min<double>(context, workload->getMeanContext())};
    LLMIR_RETURN_IF_ERROR(
        predictTimes(*plan, cluster ? &*cluster : nullptr, *calibration, load));
  }
  addReplicas(*plan, options.dp);
  return plan;
}
