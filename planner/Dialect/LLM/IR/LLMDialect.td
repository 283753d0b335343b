//===- LLMDialect.td - The llm dialect ------------------------*- tablegen -*-===//

#ifndef LLMIR_DIALECT_LLM_IR_LLMDIALECT
#define LLMIR_DIALECT_LLM_IR_LLMDIALECT

include "mlir/IR/DialectBase.td"

def LLM_Dialect : Dialect {
  let name = "llm";
  let cppNamespace = "::llmir::llm";
  let summary = "Inference of large language models on a paged KV cache";
  let description = [{
    A model is one function over the fields of a step descriptor: token ids,
    positions, sequences, sampled rows and target ids, each a vector with one
    entry per row. Activations are matrices with one row per token. The
    pipeline (Transforms/Pipeline.cpp) turns that function into one program per
    stage and kind, in which every operation is one step of the execution plan.

    Programs are SPMD: the ranks of a stage share them, and what differs from
    rank to rank is in the types (`!llm.sharded_tensor` with shard index `?`).

    Discardable attributes:
    - `llm.model` on the module: the model's shape (`#llm.model`)
    - `llm.stage` on a function: its place in the topology (`#llm.stage`)
    - `llm.program` on a function: what steps it is for (`#llm.program`)
    - `llm.step` on an operation: its position in the step list
    - `llm.event` on a start and its `wait`: the event between them
    - `llm.buffers` on an operation: a `#llm.buffer` per activation result
    - `llm.explanations` on the module: what passes did, for people
    - `llm.workload` on the module: the requests that the plan is made for
    - `llm.block_sizes`, `llm.prefixes`, `llm.kv_blocks` on the module: what the
      passes on the KV cache found
  }];
  let useDefaultAttributePrinterParser = 1;
  let useDefaultTypePrinterParser = 1;
  let hasOperationAttrVerify = 1;
  let extraClassDeclaration = [{
    void registerAttributes();
    void registerTypes();
  }];
}

#endif // LLMIR_DIALECT_LLM_IR_LLMDIALECT
