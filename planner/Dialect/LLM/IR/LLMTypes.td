//===- LLMTypes.td - Types of the llm dialect -----------------*- tablegen -*-===//

#ifndef LLMIR_DIALECT_LLM_IR_LLMTYPES
#define LLMIR_DIALECT_LLM_IR_LLMTYPES

include "planner/Dialect/LLM/IR/LLMAttrs.td"

class LLM_Type<string name, string mnemonic_> : TypeDef<LLM_Dialect, name> {
  let mnemonic = mnemonic_;
}

def LLM_BoolParameter : TypeParameter<"bool", ""> {
  let parser = "::llmir::llm::parseBool($_parser)";
  let printer = "$_printer << ($_self ? \"true\" : \"false\")";
}

def LLM_PagedKVCacheType : LLM_Type<"PagedKVCache", "paged_kv_cache"> {
  let summary = "a paged cache of attention keys and values";
  let description = [{
    ```
    !llm.paged_kv_cache<elementType, numLayers, numHeads, headDim, blockSize,
                        maxSeqLen>
    !llm.paged_kv_cache<elementType, numLayers, numHeads, headDim, blockSize,
                        maxSeqLen, keyType, valueType>
    ```
    Heads are KV heads; a block holds `blockSize` tokens of one sequence, a
    power of two; a sequence has at most `maxSeqLen` tokens. Keys and values are
    stored as `elementType`, or as the types of their own: f32, f16, bf16, i8
    (with a scale per token and head) or f8E4M3FN.
  }];
  let parameters = (ins "::mlir::Type":$elementType, "int64_t":$numLayers,
                        "int64_t":$numHeads, "int64_t":$headDim,
                        "int64_t":$blockSize, "int64_t":$maxSeqLen,
                        OptionalParameter<"::mlir::Type">:$keyType,
                        OptionalParameter<"::mlir::Type">:$valueType);
  let assemblyFormat = [{
    `<` $elementType `,` $numLayers `,` $numHeads `,` $headDim `,` $blockSize
    `,` $maxSeqLen (`,` $keyType^ `,` $valueType)? `>`
  }];
  let genVerifyDecl = 1;
  let builders = [
    // Keys and values as `elementType`.
    TypeBuilder<(ins "::mlir::Type":$elementType, "int64_t":$numLayers,
                     "int64_t":$numHeads, "int64_t":$headDim,
                     "int64_t":$blockSize, "int64_t":$maxSeqLen), [{
      return $_get($_ctxt, elementType, numLayers, numHeads, headDim, blockSize,
                   maxSeqLen, ::mlir::Type(), ::mlir::Type());
    }]>
  ];
  let extraClassDeclaration = [{
    /// How keys and values are stored.
    ::mlir::Type getStoredKeyType() {
      return getKeyType() ? getKeyType() : getElementType();
    }
    ::mlir::Type getStoredValueType() {
      return getValueType() ? getValueType() : getElementType();
    }
    /// The same cache of `layers` layers.
    PagedKVCacheType withLayers(int64_t layers);
  }];
}

def LLM_ShardedTensorType : LLM_Type<"ShardedTensor", "sharded_tensor"> {
  let summary = "one rank's shard of a tensor";
  let description = [{
    ```
    !llm.sharded_tensor<originalType, shardDim, numShards, shardIndex>
    !llm.sharded_tensor<originalType, shardDim, numShards, shardIndex, offsets>
    ```
    Shard index `?` is the shard of the rank that executes the operation.
    Without offsets the dimension is divided evenly. With them shard i has
    offsets[i + 1] - offsets[i] elements: where they lie when all shards are
    laid end to end. The last offset exceeds the dimension where parts are
    replicated (KV heads of a group that a border splits); a shard may be empty.
  }];
  let parameters = (ins "::mlir::Type":$originalType, "int64_t":$shardDim,
                        "int64_t":$numShards, "int64_t":$shardIndex,
                        LLM_IntegerList<"">:$offsets);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    /// Elements along the divided dimension that shard `index` holds.
    int64_t getShardSize(int64_t index) const;
  }];
}

def LLM_QuantizedTensorType : LLM_Type<"QuantizedTensor", "quantized_tensor"> {
  let summary = "a tensor of few bits per element with scales";
  let description = [{
    ```
    !llm.quantized_tensor<elementType, shape, isSymmetric, isPerChannel,
                          quantAxis, groupSize, numBits>
    ```
    `elementType` is the type of the scales. An asymmetric tensor has a minimum
    beside each scale. Scales belong to groups of `groupSize` elements along
    `quantAxis`; with `isPerChannel` and group size 0, to each index of it.
  }];
  let parameters = (ins "::mlir::Type":$elementType, LLM_IntegerList<"">:$shape,
                        LLM_BoolParameter:$isSymmetric,
                        LLM_BoolParameter:$isPerChannel, "int64_t":$quantAxis,
                        "int64_t":$groupSize, "int64_t":$numBits);
  let assemblyFormat = [{
    `<` $elementType `,` $shape `,` $isSymmetric `,` $isPerChannel `,`
    $quantAxis `,` $groupSize `,` $numBits `>`
  }];
  let genVerifyDecl = 1;
}

def LLM_TokenType : LLM_Type<"Token", "token"> {
  let summary = "a started operation that must be waited for";
}

#endif // LLMIR_DIALECT_LLM_IR_LLMTYPES
