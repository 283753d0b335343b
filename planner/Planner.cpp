//===- Planner.cpp - From a checkpoint to a plan --------------------------===//

#include "planner/Planner.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/Pass/PassManager.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

#include "plan_schema/base/version.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"
#include "planner/Frontend/ImportCheckpoint.h"
#include "planner/Target/Plan/ExportPlan.h"

using namespace mlir;
using namespace llmir;

namespace {

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
  int64_t largest = std::min({config.query_heads, mlpLeaves, vocabularyLeaves});
  for (int64_t ranks : options.tp)
    if (ranks < 1 || ranks > largest)
      return InvalidArgument(
          "--tp {}: the ranks of a stage divide {} query heads, {} groups of "
          "{} MLP columns and {} of {} vocabulary rows; the largest tp is {}",
          ranks, config.query_heads, mlpLeaves, kMlpLeaf, vocabularyLeaves,
          kVocabularyLeaf, largest);
  return Status();
}

Status checkOptions(const checkpoint::ModelConfig &config,
                    const PlannerOptions &options) {
  LLMIR_RETURN_IF_ERROR(checkLayout(config, options));
  if (llm::getRequestedEncoding(options.weights).empty())
    return InvalidArgument("--weights {}: expected {}", options.weights,
                           llm::kWeightChoices.str());
  if (!llvm::is_contained({"", "f32", "bf16"}, options.kvType))
    return InvalidArgument("--kv-dtype {}: expected f32 or bf16",
                           options.kvType);
  if (options.blockSize < 16 || options.blockSize > kLargest ||
      (options.blockSize & (options.blockSize - 1)) != 0)
    return InvalidArgument("--block-size {}: expected a power of two from 16",
                           options.blockSize);
  if (options.kvBlocks && options.kvMemory)
    return InvalidArgument("--kv-blocks and --kv-memory say the same in two "
                           "ways: give one of them");
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
          fmt::format("weights={}", options.weights),
          fmt::format("kv-dtype={}", kvType),
          fmt::format("block-size={}", options.blockSize),
          fmt::format("kv-blocks={}", options.kvBlocks.value_or(0)),
          fmt::format("kv-memory={}", options.kvMemory.value_or(0)),
          fmt::format("context={}", context),
          fmt::format("max-batch={}", options.maxBatch),
          fmt::format("prefill-chunk={}", options.prefillChunk)};
}

} // namespace

StatusOr<std::unique_ptr<plan::PlanT>>
llmir::planCheckpoint(const checkpoint::Checkpoint &checkpoint,
                      const checkpoint::Tokenizer &tokenizer,
                      const PlannerOptions &options) {
  const checkpoint::ModelConfig &config = checkpoint.config();
  LLMIR_RETURN_IF_ERROR(checkOptions(config, options));
  if (tokenizer.vocabulary() > config.vocabulary)
    return InvalidArgument("{}: the tokenizer has {} ids, the model {} rows",
                           tokenizer.file(), tokenizer.vocabulary(),
                           config.vocabulary);
  constexpr int64_t kDefaultContext = 4096;
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
  cache.elementType = kvType == "f32" ? Type(builder.getF32Type())
                                      : Type(builder.getBF16Type());
  cache.blockSize = options.blockSize;
  cache.context = context;
  auto imported = importCheckpoint(&mlirContext, checkpoint, cache);
  if (!imported.ok())
    return Status(imported.status().code(),
                  imported.status().message() +
                      (error.empty() ? "" : ": " + error));
  OwningOpRef<ModuleOp> module = std::move(imported).value();

  llm::PipelineOptions pipeline;
  pipeline.weights = options.weights;
  pipeline.stages = options.pp;
  pipeline.ranks.assign(options.tp.begin(), options.tp.end());
  pipeline.maxBatch = options.maxBatch;
  pipeline.prefillChunk = options.prefillChunk;
  PassManager manager(&mlirContext);
  if (options.configure && !options.configure(manager))
    return InvalidArgument("wrong options of the pass manager");
  llm::buildPlanPipeline(manager, pipeline);
  if (failed(manager.run(*module)))
    return Internal("{}: planning failed: {}", checkpoint.path(),
                    error.empty() ? "no reason was given" : error);

  ExportOptions exportOptions;
  exportOptions.planFolder = options.planFolder;
  exportOptions.limits.context = context;
  exportOptions.limits.max_batch = options.maxBatch;
  exportOptions.limits.prefill_chunk = options.prefillChunk;
  exportOptions.limits.max_tokens = options.prefillChunk + options.maxBatch;
  exportOptions.provenance.planner_version = kVersion;
  exportOptions.provenance.command = options.command;
  exportOptions.provenance.options = listOptions(options, kvType, context);
  exportOptions.kvBlocks = options.kvBlocks.value_or(0);
  exportOptions.kvMemory = options.kvMemory.value_or(0);
  exportOptions.threads = options.threads;
  return exportPlan(*module, checkpoint, tokenizer, exportOptions);
}
