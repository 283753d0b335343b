//===- Passes.td - Passes of the llm dialect ------------------*- tablegen -*-===//

#ifndef LLMIR_DIALECT_LLM_TRANSFORMS_PASSES
#define LLMIR_DIALECT_LLM_TRANSFORMS_PASSES

include "mlir/Pass/PassBase.td"

//===----------------------------------------------------------------------===//
// Lowering
//===----------------------------------------------------------------------===//

def LowerOperations : Pass<"llm-lower-operations", "::mlir::ModuleOp"> {
  let summary = "Say what a step executes";
  let description = [{
    `llm.logits` becomes a linear, with a `llm.softcap` behind it where it has
    one; `llm.quantized_matmul` a linear, where a kernel has the format of the
    matrix. `llm.attention` becomes `llm.paged_attention` where its keys and
    values are appended to a cache before it, or come from a `llm.lookup_kv`,
    and that layer isn't written in between.
  }];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

//===----------------------------------------------------------------------===//
// KV cache
//===----------------------------------------------------------------------===//

def ChooseBlockSize : Pass<"llm-choose-block-size", "::mlir::ModuleOp"> {
  let summary = "Choose how many tokens a KV block holds";
  let description = [{
    Each size costs, per decode step of the workload (`llm.workload`) on one
    rank, the measured time of attention, and the time in which memory could
    deliver the bytes that the sequences allocate and don't use. The cheapest
    one becomes the block size of all cache types; `llm.block_sizes` on the
    module lists what was compared. Without a workload the size stays.
  }];
  let options = [
    Option<"blockSize", "block-size", "int64_t", "0",
           "take this one, in tokens; 0: choose">,
    Option<"calibration", "calibration", "std::string", "\"\"",
           "file of llmir-exec --calibrate; empty: attention costs nothing">,
    Option<"wasteRate", "waste-rate", "double", "0",
           "wasted bytes that cost 1 us; 0: memory's measured bandwidth">,
    Option<"ranks", "ranks", "int64_t", "1", "ranks that divide the heads">,
    Option<"stages", "stages", "int64_t", "1", "stages that divide the layers">
  ];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

def SharePrefixes : Pass<"llm-share-prefixes", "::mlir::ModuleOp"> {
  let summary = "Find tokens that many prompts start with";
  let description = [{
    The prefixes that the workload (`llm.workload`) declares, and those that its
    sample prompts turn out to have in common, in whole blocks, become
    `llm.prefixes` on the module: computed once at load, their blocks are shared
    by the sequences that start with them.
  }];
  let options = [
    Option<"minShare", "min-share", "double", "0.05",
           "of the sample prompts must start with a prefix, at least two">
  ];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

def AllocateBlocks : Pass<"llm-allocate-blocks", "::mlir::ModuleOp"> {
  let summary = "Bound the KV blocks of a rank";
  let description = [{
    Enough blocks for the sequences that run at once, each as long as the
    workload's longest request (without a workload: as the cache's longest
    sequence), and for the shared prefixes; or the number or memory given. Where
    every layer has a window, a sequence needs blocks for the widest and a step.
    `llm.kv_blocks` on the module is that of every rank. The pool gives each
    sequence a run of blocks of its own where that bound allows.
  }];
  let options = [
    Option<"kvBlocks", "kv-blocks", "int64_t", "0",
           "take this number; 0: choose">,
    Option<"kvMemory", "kv-memory", "int64_t", "0",
           "bytes of blocks on the rank with most heads and layers; 0: any">,
    Option<"maxBatch", "max-batch", "int64_t", "8", "sequences at a time">,
    Option<"prefillChunk", "prefill-chunk", "int64_t", "512",
           "prompt tokens in one step">
  ];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

//===----------------------------------------------------------------------===//
// Precision
//===----------------------------------------------------------------------===//

def ChoosePrecision : Pass<"llm-choose-precision", "::mlir::ModuleOp"> {
  let summary = "Choose how each weight is packed";
  let description = [{
    Vectors become f32. Matrices that read the same activations, and all uses of
    one weight, get one encoding, so that they can be joined and share int8
    activations. `keep` takes the encoding in which the checkpoint stores them
    all, or bf16 where it stores them differently. An encoding in groups of 32
    or 64 columns needs rows, and leaves of rows, that are multiples of these:
    where they aren't, groups of 64 give way to 32 and those to bf16, and a
    remark says so. The module's attribute `llm.weight_types`, a dictionary from
    tensors of the checkpoint to encodings, comes before all this.
  }];
  let options = [
    Option<"weights", "weights", "std::string", "\"keep\"",
           "keep, q3 (q3_1), q4 (q4_1), q5 (q5_0), q6 (q6_0), q8 (q8_0), or a "
           "type by name: f32, f16, bf16, q4_0, q5_1_64, ...">
  ];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

def InsertQuantize : Pass<"llm-insert-quantize", "::mlir::ModuleOp"> {
  let summary = "Quantize the activations that quantized weights read";
  let description = [{
    One `llm.quantize` per activation, however many weights read it. Weights of
    float encodings go on reading floats.
  }];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

//===----------------------------------------------------------------------===//
// Fusion
//===----------------------------------------------------------------------===//

def FuseQkv : Pass<"llm-fuse-qkv", "::mlir::ModuleOp"> {
  let summary = "Join the projections before attention, and rope with append";
  let description = [{
    Queries, keys and values of one input become one `llm.linear` over a weight
    of three pieces; their rotation and `llm.append_kv` become
    `llm.rope_append`, which touches the rows once.
  }];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

def FuseGateUp : Pass<"llm-fuse-gate-up", "::mlir::ModuleOp"> {
  let summary = "Join gate and up, and multiply in the epilogue";
  let description = [{
    Two linears of one input under a `llm.silu_mul` become one linear over an
    interleaved weight with that epilogue.
  }];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

def FuseNormQuantize : Pass<"llm-fuse-norm-quantize", "::mlir::ModuleOp"> {
  let summary = "Let a norm write int8 where only a quantize reads it";
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

def FuseResidual : Pass<"llm-fuse-residual", "::mlir::ModuleOp"> {
  let summary = "Add the residual in the epilogue of a linear";
  let description = [{
    Not where the linear's result is a partial sum, since every rank would add
    the residual: run after `llm-shard-stages`.
  }];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

//===----------------------------------------------------------------------===//
// Parallelization
//===----------------------------------------------------------------------===//

def SplitStages : Pass<"llm-split-stages", "::mlir::ModuleOp"> {
  let summary = "Cut the model between layers into pipeline stages";
  let description = [{
    Replaces `@model` by functions `@stage0`, `@stage1`, ..., with a `llm.send`
    at the end of one and a `llm.recv` at the start of the next. The cuts make
    the slowest stage as fast as possible; the cost of a stage is the time that
    one token takes there by the calibration, without one the bytes of weights
    that it reads and the operations on them (of the embedding: one row).
  }];
  let options = [
    Option<"stages", "stages", "int64_t", "1", "number of stages">,
    ListOption<"ranks", "ranks", "int64_t",
               "ranks that share each stage, if not equally many">,
    ListOption<"speeds", "speeds", "double",
               "of the ranks of all stages, if not alike; by any unit">,
    Option<"calibration", "calibration", "std::string", "\"\"",
           "what llmir-exec --calibrate measured; empty: bytes and operations">,
    Option<"flopsPerByte", "flops-per-byte", "double", "16",
           "operations in the time of reading a byte, where nothing was "
           "measured">
  ];
  let dependentDialects = ["::llmir::llm::LLMDialect",
                           "::mlir::func::FuncDialect"];
}

def ShardStages : Pass<"llm-shard-stages", "::mlir::ModuleOp"> {
  let summary = "Divide the weights of each stage among its ranks, by leaves";
  let description = [{
    Gives each rank contiguous ranges of leaves, as even as they allow or, with
    speeds, in proportion to them, at least one leaf each, and
    turns types into `!llm.sharded_tensor`. Partial sums (embedding, weights
    divided by columns) go through `llm.all_reduce`, logits and parts of scores
    through `llm.gather`.
  }];
  let options = [
    ListOption<"ranks", "ranks", "int64_t",
               "ranks of each stage, or one number for all stages">,
    ListOption<"speeds", "speeds", "double",
               "of the ranks of all stages, if not alike; by any unit">,
    Option<"reproducible", "reproducible", "bool", "false",
           "sums over ranks and scores are those of one rank, bit for bit: "
           "`tree` of all_reduce, `by_leaf` of score">
  ];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

//===----------------------------------------------------------------------===//
// Programs
//===----------------------------------------------------------------------===//

def MakePrograms : Pass<"llm-make-programs", "::mlir::ModuleOp"> {
  let summary = "Specialize each stage for the kinds of steps it runs";
  let description = [{
    `mixed` gives ids for the sampled rows, `decode` for every row, `score`
    log-probabilities for every row. What a program doesn't need goes.
  }];
  let options = [
    Option<"maxBatch", "max-batch", "int64_t", "8", "sequences in one step">,
    Option<"prefillChunk", "prefill-chunk", "int64_t", "512",
           "prompt tokens in one step">
  ];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

def ChooseAttention : Pass<"llm-choose-attention", "::mlir::ModuleOp"> {
  let summary = "Choose how each layer of each program attends";
  let description = [{
    Run after `llm-make-programs`, since steps of one token per sequence and
    chunks of prompts differ. `auto` takes what was measured to be the fastest,
    per kind of program, or flash without a calibration. A window or a softcap
    that the model has stays; `window` narrows it.
  }];
  let options = [
    Option<"form", "form", "std::string", "\"auto\"",
           "auto, flash, fused_softmax, masked or standard">,
    Option<"shareKv", "share-kv", "bool", "true",
           "query heads of one KV head read it once">,
    Option<"window", "window", "int64_t", "0",
           "tokens that a token attends to at most, itself included; 0: as the "
           "model">,
    Option<"calibration", "calibration", "std::string", "\"\"",
           "file of llmir-exec --calibrate; empty: none">
  ];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

def FuseAppendAttention
    : Pass<"llm-fuse-append-attention", "::mlir::ModuleOp"> {
  let summary = "Append and attend in one pass, in decode programs";
  let description = [{
    An `llm.rope_append` and the `llm.paged_attention` of its layer that follows
    become `llm.append_attention`. Not where the rotated rows or the indices go
    elsewhere, where something touches the cache or sends messages in between,
    or where attention isn't flash.
  }];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

//===----------------------------------------------------------------------===//
// Communication
//===----------------------------------------------------------------------===//

def MergeCollectives : Pass<"llm-merge-collectives", "::mlir::ModuleOp"> {
  let summary = "Make one sum over the ranks of two that are added";
  let description = [{
    `add(all_reduce a, all_reduce b)` becomes `all_reduce(add a, b)`, and
    `add(add(x, all_reduce a), all_reduce b)` becomes
    `add(x, all_reduce(add a, b))`: half the messages. Not where anything else
    reads one of the sums. The order of sums changes: ranks after summands.
  }];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

def ScatterNorms : Pass<"llm-scatter-norms", "::mlir::ModuleOp"> {
  let summary = "Add and normalize on each rank's share of the tokens";
  let description = [{
    An `llm.all_reduce` becomes an `llm.reduce_scatter`; the additions, norms
    and quantizations that follow work on the rank's share of the tokens; what
    reads all rows gets them by an `llm.all_gather`, in int8 where it reads
    int8. The residual stream stays scattered from one norm to the next. In
    programs of many tokens (`mixed`, `score`), where what is saved (bytes sent,
    and bytes that additions and norms move) exceeds what the additional
    collectives cost. All sums keep their order.
  }];
  let options = [
    Option<"collectiveBytes", "collective-bytes", "int64_t", "65536",
           "bytes that could be sent in the time that starting a collective "
           "takes">,
    Option<"always", "always", "bool", "false", "whatever it costs">
  ];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

def OverlapHalves : Pass<"llm-overlap-halves", "::mlir::ModuleOp"> {
  let summary = "Work on one half of the tokens while the other's sums travel";
  let description = [{
    Around each `llm.all_reduce` the first half of a step's tokens goes first,
    then the second: between the start of a half's sum and its first use lies
    the other half's work. Appending and attention take all tokens at once. In
    programs of many tokens (`mixed`, `score`). Results keep their bits.
  }];
  let options = [
    Option<"minTokens", "min-tokens", "int64_t", "64",
           "tokens that a program must be for: matrices are read once per half">
  ];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

def SplitCollectives : Pass<"llm-split-collectives", "::mlir::ModuleOp"> {
  let summary = "Split each collective into a start and a wait";
  let description = [{
    For all_reduce, reduce_scatter and all_gather.
  }];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

def EncodeMessages : Pass<"llm-encode-messages", "::mlir::ModuleOp"> {
  let summary = "Let rows travel between hosts in int8";
  let description = [{
    Gives `llm.wire = "int8"` to whatever passes on rows of f32: all_reduce,
    reduce_scatter, all_gather, send, recv and their starts. Where it crosses
    from host to host, 32 values travel as 34 bytes (comm/wire.h). Not to sums
    over a tree, whose results don't depend on the layout.
  }];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

def PrefetchWeights : Pass<"llm-prefetch-weights", "::mlir::ModuleOp"> {
  let summary = "Bring the next matrix near while a collective is under way";
  let description = [{
    An `llm.prefetch` before each wait, for the first matrix that is read after
    it; not where that one has just been read.
  }];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

//===----------------------------------------------------------------------===//
// Schedule and memory
//===----------------------------------------------------------------------===//

def ScheduleSteps : Pass<"llm-schedule-steps", "::mlir::ModuleOp"> {
  let summary = "Number the steps of each program and its events";
  let description = [{
    A start moves up to what it sums, a wait down to its first use: what lies
    between them overlaps. Every operation but weights and the cache's creation
    is a step, `llm.step`; a start and its wait share an `llm.event`.
  }];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

def PlanMemory : Pass<"llm-plan-memory", "::mlir::ModuleOp"> {
  let summary = "Place every activation in an arena";
  let description = [{
    First fit by live range, for each rank by itself, at multiples of 64 bytes.
    Operations that rewrite an operand share its buffer: rope_append and
    all_reduce always, sums where the operand isn't read later.
  }];
  let options = [
    Option<"scoreRows", "score-rows", "int64_t", "64",
           "rows whose logits a score step holds at a time">
  ];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

//===----------------------------------------------------------------------===//
// Verification between phases
//===----------------------------------------------------------------------===//

def VerifyPhase : Pass<"llm-verify-phase", "::mlir::ModuleOp"> {
  let summary = "Check what must hold after a phase of the pipeline";
  let description = [{
    - `operations`: nothing is left that `llm-lower-operations` lowers.
    - `precision`: quantized weights read int8 activations.
    - `fusion`: only operations that are steps of a plan are left, and the
      cache stores keys and values as a kernel reads them.
    - `parallel`: each function is a stage; partial sums are reduced, once.
    - `programs`: each function is a program of a stage, all stages having the
      same programs.
    - `communication`: operations read the rows that they need: what works by
      tokens or sequences all of them, the others the same part of each operand;
      gathers take shares, joins two halves.
    - `schedule`: steps and events are numbered in order.
    - `memory`: every activation has a place, and what is live at the same time
      lies apart.
  }];
  let options = [
    Option<"phase", "phase", "std::string", "", "the phase that has ended">
  ];
  let dependentDialects = ["::llmir::llm::LLMDialect"];
}

#endif // LLMIR_DIALECT_LLM_TRANSFORMS_PASSES
