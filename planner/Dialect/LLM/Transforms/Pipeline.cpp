//===- Pipeline.cpp - From an imported model to placed programs -----------===//

#include "planner/Dialect/LLM/Transforms/Passes.h"

#include "mlir/Transforms/Passes.h"

using namespace mlir;

void llmir::llm::buildPlanPipeline(OpPassManager &manager,
                                   const PipelineOptions &options) {
  auto verify = [&](const char *phase) {
    manager.addPass(createVerifyPhase({phase}));
  };

  //===--------------------------------------------------------------------===//
  // Lowering: operations that steps execute
  //===--------------------------------------------------------------------===//
  manager.addPass(createLowerOperations());
  manager.addPass(createCanonicalizerPass());
  verify("operations");

  //===--------------------------------------------------------------------===//
  // Precision: how weights are packed, and what they read
  //===--------------------------------------------------------------------===//
  manager.addPass(createChoosePrecision({options.weights}));
  manager.addPass(createInsertQuantize());
  verify("precision");

  //===--------------------------------------------------------------------===//
  // Fusion: one operation per step that a kernel executes
  //===--------------------------------------------------------------------===//
  manager.addPass(createFuseQkv());
  manager.addPass(createFuseGateUp());
  manager.addPass(createFuseNormQuantize());
  verify("fusion");

  //===--------------------------------------------------------------------===//
  // Parallelization: stages, their ranks' leaves, and what they exchange
  //===--------------------------------------------------------------------===//
  manager.addPass(createSplitStages({options.stages}));
  ShardStagesOptions sharding;
  sharding.ranks.assign(options.ranks.begin(), options.ranks.end());
  manager.addPass(createShardStages(sharding));
  // What no reduction stands in the way of, joins its linear.
  manager.addPass(createFuseResidual());
  verify("parallel");

  //===--------------------------------------------------------------------===//
  // Programs: each stage for each kind of step
  //===--------------------------------------------------------------------===//
  manager.addPass(createMakePrograms({options.maxBatch, options.prefillChunk}));
  verify("programs");

  //===--------------------------------------------------------------------===//
  // Communication: fewer and smaller messages, with work beside them
  //===--------------------------------------------------------------------===//
  manager.addPass(createMergeCollectives());
  if (options.overlap == "auto" || options.overlap == "scatter") {
    ScatterNormsOptions scattering;
    scattering.always = options.overlap == "scatter";
    manager.addPass(createScatterNorms(scattering));
  }
  if (options.overlap == "auto" || options.overlap == "halves") {
    OverlapHalvesOptions halving;
    if (options.overlap == "halves")
      halving.minTokens = 1;
    manager.addPass(createOverlapHalves(halving));
  }
  manager.addPass(createSplitCollectives());
  manager.addPass(createPrefetchWeights());
  verify("communication");

  //===--------------------------------------------------------------------===//
  // Schedule: a flat list of steps
  //===--------------------------------------------------------------------===//
  manager.addPass(createScheduleSteps());
  verify("schedule");

  //===--------------------------------------------------------------------===//
  // Memory: every activation at a place
  //===--------------------------------------------------------------------===//
  manager.addPass(createPlanMemory());
  verify("memory");
}
