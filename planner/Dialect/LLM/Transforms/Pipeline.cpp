//===- Pipeline.cpp - From an imported model to placed programs -----------===//
//
// The one place that says which passes make a plan, in which order, and which
// of them can be left out (llmir-plan --disable). A phase ends with a check of
// what holds from there on.
//
//===----------------------------------------------------------------------===//

#include "planner/Dialect/LLM/Transforms/Passes.h"

#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/ADT/StringExtras.h"

using namespace mlir;
using namespace llmir;
using namespace llmir::llm;

namespace {

/// The paper's four families of optimizations, and what joins steps.
constexpr StringLiteral kFamilies[] = {"kv", "precision", "attention",
                                       "parallel", "fusion"};

/// Collects the passes of the pipeline by families.
class PipelineBuilder {
public:
  PipelineBuilder(OpPassManager &manager, ArrayRef<std::string> disabled)
      : manager(manager), disabled(disabled), isUsed(disabled.size(), false) {
    for (StringRef family : kFamilies)
      markDisabled(family);
  }

  /// The passes added next belong to `name`.
  void family(StringRef name) { currentFamily = name; }

  /// A pass without which there is no plan.
  void need(std::unique_ptr<Pass> pass) {
    StringRef name = pass->getArgument();
    if (markDisabled(name))
      needed.push_back(name);
    names.push_back(name.str());
    manager.addPass(std::move(pass));
  }

  /// A pass that makes a plan better, and can be left out: by its own name or
  /// its family's. Added only where `isWanted`.
  void optimize(std::unique_ptr<Pass> pass, bool isWanted = true) {
    names.push_back(pass->getArgument().str());
    optional.push_back(pass->getArgument());
    bool byName = markDisabled(pass->getArgument());
    bool byFamily = markDisabled(currentFamily);
    if (isWanted && !byName && !byFamily)
      manager.addPass(std::move(pass));
  }

  void verify(const char *phase) {
    manager.addPass(createVerifyPhase({phase}));
  }

  std::vector<std::string> takeNames() { return std::move(names); }

  Status getStatus() const {
    if (!needed.empty())
      return InvalidArgument("--disable {}: every plan needs this pass; "
                             "expected {}",
                             needed.front().str(), getChoices());
    for (auto [name, used] : llvm::zip(disabled, isUsed))
      if (!used)
        return InvalidArgument("--disable {}: expected {}", name, getChoices());
    return Status();
  }

private:
  bool markDisabled(StringRef name) {
    bool isDisabled = false;
    for (auto [index, entry] : llvm::enumerate(disabled))
      if (entry == name)
        isDisabled = isUsed[index] = true;
    return isDisabled;
  }
  std::string getChoices() const {
    return fmt::format("a family ({}) or a pass ({})",
                       llvm::join(ArrayRef(kFamilies), ", "),
                       llvm::join(optional, ", "));
  }

  OpPassManager &manager;
  ArrayRef<std::string> disabled;
  SmallVector<bool> isUsed; // by index of `disabled`
  StringRef currentFamily;
  std::vector<std::string> names;
  SmallVector<StringRef> optional, needed;
};

void addPasses(PipelineBuilder &pipeline, const PipelineOptions &options) {
  //===--------------------------------------------------------------------===//
  // Lowering: operations that steps execute
  //===--------------------------------------------------------------------===//
  pipeline.need(createLowerOperations());
  pipeline.need(createCanonicalizerPass());
  pipeline.verify("operations");

  //===--------------------------------------------------------------------===//
  // KV cache: the size of its blocks, and what requests share
  //===--------------------------------------------------------------------===//
  pipeline.family("kv");
  ChooseBlockSizeOptions blockSize;
  blockSize.blockSize = options.blockSize;
  blockSize.calibration = options.calibration;
  blockSize.ranks = *llvm::max_element(options.ranks);
  blockSize.stages = options.stages;
  pipeline.optimize(createChooseBlockSize(blockSize));
  pipeline.optimize(createSharePrefixes());

  //===--------------------------------------------------------------------===//
  // Precision: how weights are packed, and what they read
  //===--------------------------------------------------------------------===//
  pipeline.family("precision");
  pipeline.need(createChoosePrecision({options.weights}));
  pipeline.need(createInsertQuantize());
  pipeline.verify("precision");

  //===--------------------------------------------------------------------===//
  // Fusion: one operation per step that a kernel executes
  //===--------------------------------------------------------------------===//
  // Rotation and append are one step, on rows that hold q, k and v.
  pipeline.need(createFuseQkv());
  // No step multiplies by silu but the epilogue.
  pipeline.need(createFuseGateUp());
  pipeline.optimize(createFuseNormQuantize());
  pipeline.verify("fusion");

  //===--------------------------------------------------------------------===//
  // Parallelization: stages, their ranks' leaves, and what they exchange
  //===--------------------------------------------------------------------===//
  pipeline.family("parallel");
  SplitStagesOptions splitting;
  splitting.stages = options.stages;
  splitting.ranks.assign(options.ranks.begin(), options.ranks.end());
  splitting.speeds.assign(options.speeds.begin(), options.speeds.end());
  splitting.calibration = options.calibration;
  pipeline.need(createSplitStages(splitting));
  ShardStagesOptions sharding;
  sharding.ranks.assign(options.ranks.begin(), options.ranks.end());
  sharding.speeds.assign(options.speeds.begin(), options.speeds.end());
  sharding.reproducible = options.reproducible;
  pipeline.need(createShardStages(sharding));
  // What no reduction stands in the way of, joins its linear.
  pipeline.family("fusion");
  pipeline.optimize(createFuseResidual());
  pipeline.verify("parallel");

  //===--------------------------------------------------------------------===//
  // Programs: each stage for each kind of step
  //===--------------------------------------------------------------------===//
  pipeline.need(createMakePrograms({options.maxBatch, options.prefillChunk}));
  pipeline.verify("programs");

  //===--------------------------------------------------------------------===//
  // Attention: its form, and appending on the way
  //===--------------------------------------------------------------------===//
  ChooseAttentionOptions attention;
  attention.form = options.attention;
  // One form in all programs: forms differ in their order of sums.
  if (options.reproducible && options.attention == "auto")
    attention.form = "flash";
  attention.shareKv = options.shareKv;
  attention.window = options.attentionWindow;
  attention.calibration = options.calibration;
  pipeline.family("attention");
  // What is asked for by hand isn't left out with the family.
  if (options.attention != "auto" || !options.shareKv ||
      options.attentionWindow > 0)
    pipeline.need(createChooseAttention(attention));
  else
    pipeline.optimize(createChooseAttention(attention));
  // Windows bound the blocks of a sequence.
  pipeline.family("kv");
  AllocateBlocksOptions blocks;
  blocks.kvBlocks = options.kvBlocks;
  blocks.kvMemory = options.kvMemory;
  blocks.maxBatch = options.maxBatch * options.stepsInFlight;
  blocks.prefillChunk = options.prefillChunk;
  pipeline.need(createAllocateBlocks(blocks));
  pipeline.family("attention");
  pipeline.optimize(createFuseAppendAttention());

  //===--------------------------------------------------------------------===//
  // Communication: fewer and smaller messages, with work beside them
  //===--------------------------------------------------------------------===//
  pipeline.family("parallel");
  pipeline.optimize(createMergeCollectives());
  ScatterNormsOptions scattering;
  scattering.always = options.overlap == "scatter";
  pipeline.optimize(createScatterNorms(scattering),
                    options.overlap == "auto" || scattering.always);
  OverlapHalvesOptions halving;
  if (options.overlap == "halves")
    halving.minTokens = 1;
  pipeline.optimize(createOverlapHalves(halving),
                    options.overlap == "auto" || options.overlap == "halves");
  pipeline.optimize(createSplitCollectives());
  pipeline.optimize(createEncodeMessages(), options.wire == "int8");
  pipeline.optimize(createPrefetchWeights());
  pipeline.verify("communication");

  //===--------------------------------------------------------------------===//
  // Schedule: a flat list of steps
  //===--------------------------------------------------------------------===//
  pipeline.need(createScheduleSteps());
  pipeline.verify("schedule");

  //===--------------------------------------------------------------------===//
  // Memory: every activation at a place
  //===--------------------------------------------------------------------===//
  pipeline.need(createPlanMemory());
  pipeline.verify("memory");
}

/// The pipeline's options on llmir-opt's command line.
struct PipelineArguments : PassPipelineOptions<PipelineArguments> {
  Option<std::string> weights{*this, "weights",
                              llvm::cl::desc("as of llm-choose-precision"),
                              llvm::cl::init("keep")};
  Option<int64_t> stages{*this, "stages", llvm::cl::desc("number of stages"),
                         llvm::cl::init(1)};
  ListOption<int64_t> ranks{*this, "ranks",
                            llvm::cl::desc("as of llm-shard-stages")};
  Option<int64_t> maxBatch{*this, "max-batch",
                           llvm::cl::desc("sequences in one step"),
                           llvm::cl::init(8)};
  Option<int64_t> prefillChunk{*this, "prefill-chunk",
                               llvm::cl::desc("prompt tokens in one step"),
                               llvm::cl::init(512)};
  Option<std::string> overlap{*this, "overlap",
                              llvm::cl::desc("none, halves, scatter or auto"),
                              llvm::cl::init("auto")};
  Option<bool> reproducible{*this, "reproducible",
                            llvm::cl::desc("as of llm-shard-stages"),
                            llvm::cl::init(false)};
  ListOption<std::string> disabled{
      *this, "disable", llvm::cl::desc("families and passes to leave out")};
};

} // namespace

Status llmir::llm::buildPlanPipeline(OpPassManager &manager,
                                     const PipelineOptions &options) {
  PipelineBuilder pipeline(manager, options.disabled);
  addPasses(pipeline, options);
  return pipeline.getStatus();
}

std::vector<std::string> llmir::llm::getPipelinePasses() {
  OpPassManager manager(ModuleOp::getOperationName());
  PipelineBuilder pipeline(manager, {});
  addPasses(pipeline, {});
  return pipeline.takeNames();
}

void llmir::llm::registerPlanPipeline() {
  PassPipelineRegistration<PipelineArguments>(
      "llm-plan", "From an imported model to placed programs",
      [](OpPassManager &manager, const PipelineArguments &arguments) {
        PipelineOptions options;
        options.weights = arguments.weights;
        options.stages = arguments.stages;
        if (!arguments.ranks.empty())
          options.ranks.assign(arguments.ranks.begin(), arguments.ranks.end());
        options.maxBatch = arguments.maxBatch;
        options.prefillChunk = arguments.prefillChunk;
        options.overlap = arguments.overlap;
        options.reproducible = arguments.reproducible;
        options.disabled.assign(arguments.disabled.begin(),
                                arguments.disabled.end());
        if (Status status = buildPlanPipeline(manager, options); !status.ok())
          llvm::report_fatal_error(llvm::Twine(status.message()),
                                   /*gen_crash_diag=*/false);
      });
}
