//===- LLMOps.td - Operations of the llm dialect --------------*- tablegen -*-===//

#ifndef LLMIR_DIALECT_LLM_IR_LLMOPS
#define LLMIR_DIALECT_LLM_IR_LLMOPS

include "mlir/IR/OpBase.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "planner/Dialect/LLM/IR/LLMInterfaces.td"
include "planner/Dialect/LLM/IR/LLMTypes.td"

class LLM_Op<string mnemonic, list<Trait> traits = []>
    : Op<LLM_Dialect, mnemonic, traits>;

// The bytes of the cache, and the order of messages among ranks. An operation
// with effects on them is neither removed, merged nor reordered.
def LLM_KVCacheResource : Resource<"::llmir::llm::KVCacheResource">;
def LLM_NetworkResource : Resource<"::llmir::llm::NetworkResource">;

class LLM_Communication<string mnemonic, list<Trait> traits = [],
                        list<string> methods = []>
    : LLM_Op<mnemonic, !listconcat(traits, [
          DeclareOpInterfaceMethods<LLM_CommunicationOpInterface, methods>,
          MemoryEffects<[MemRead<LLM_NetworkResource>,
                         MemWrite<LLM_NetworkResource>]>])>;

class LLM_ShardableWith<list<string> methods>
    : DeclareOpInterfaceMethods<LLM_ShardableOpInterface, methods>;
def LLM_Shardable : LLM_ShardableWith<["getDivision"]>;
def LLM_InPlace : DeclareOpInterfaceMethods<LLM_InPlaceOpInterface>;

// Appends to the cache, and returns it.
class LLM_AppendOp<string mnemonic, list<Trait> traits = []>
    : LLM_Op<mnemonic, !listconcat(traits, [
          LLM_KVCacheOpInterface,
          MemoryEffects<[MemRead<LLM_KVCacheResource>,
                         MemWrite<LLM_KVCacheResource>]>])>;

// Reads what was appended.
class LLM_CacheReadOp<string mnemonic, list<Trait> traits = []>
    : LLM_Op<mnemonic, !listconcat(traits, [
          LLM_KVCacheOpInterface,
          MemoryEffects<[MemRead<LLM_KVCacheResource>]>])> {
  code noNewCache = [{
    ::mlir::TypedValue<::llmir::llm::PagedKVCacheType> getNewCache() {
      return {};
    }
  }];
}

// [tokens, columns]: f32, or int8 with a scale per 32 columns.
def LLM_Activation : Type<CPred<"::llmir::llm::isActivationType($_self)">,
    "matrix of activations with one row per token">;
def LLM_FloatActivation : Type<And<[LLM_Activation.predicate,
    CPred<"!::llmir::llm::isQuantized($_self)">,
    CPred<"!::llmir::llm::isIdMatrix($_self)">]>,
    "matrix of float activations with one row per token">;
// What a weight is stored as.
def LLM_Weight : Type<CPred<"::llmir::llm::isWeightType($_self)">,
    "matrix or vector of weights of static shape">;
def LLM_QuantizedMatrix : Type<And<[
    CPred<"::llmir::llm::isQuantized($_self)">,
    CPred<"::llmir::llm::getShape($_self).size() == 2">]>,
    "quantized matrix">;
def LLM_IndexVector : TensorRankOf<[I32, I64], [1]>;
def LLM_IdMatrix : Type<CPred<"::llmir::llm::isIdMatrix($_self)">,
    "matrix of i32">;

//===----------------------------------------------------------------------===//
// Weights and the look-up of embeddings
//===----------------------------------------------------------------------===//

def LLM_WeightOp : LLM_Op<"weight", [Pure]> {
  let summary = "a weight, joined by rows from tensors of the checkpoint";
  let description = [{
    The result's type is how the weight is packed at load; the pieces say what
    it is made from and along which axis ranks may divide it. Interleaved pieces
    (two of equal shape) alternate panel by panel. All references to one name
    must agree.

    ```mlir
    %w = llm.weight @layers.0.o layer 0 pieces
        [#llm.piece<"blk.0.attn_output.weight" : tensor<64x64xf16>,
                    query_head columns 16>] : tensor<64x64xbf16>
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, OptionalAttr<I64Attr>:$layer,
                       TypedArrayAttrBase<LLM_PieceAttr, "pieces">:$pieces,
                       UnitAttr:$interleaved);
  let results = (outs LLM_Weight:$result);
  let assemblyFormat = [{
    $sym_name (`layer` $layer^)? `pieces` $pieces (`interleaved` $interleaved^)?
    attr-dict `:` type($result)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    ::llvm::SmallVector<::llmir::llm::PieceAttr> getPieceList();
    /// Unit and axis along which ranks divide the weight.
    ::llmir::llm::Unit getUnit() { return getPieceList().front().getUnit(); }
    ::llmir::llm::Axis getAxis() { return getPieceList().front().getAxis(); }
    /// Columns per leaf of the sums along a row; 0: all in one leaf.
    int64_t getLeafColumns() {
      return getAxis() == ::llmir::llm::Axis::Columns
                 ? getPieceList().front().getLeaf()
                 : 0;
    }
  }];
}

def LLM_EmbeddingOp : LLM_Op<"embedding", [Pure, LLM_Shardable]> {
  let summary = "rows of the embedding for token ids";
  let description = [{
    With a sharded weight the result is partial: ids outside the rank's rows
    give rows of zeros, and the sum over the ranks is the embedding.
  }];
  let arguments = (ins LLM_IndexVector:$ids, LLM_Weight:$weight);
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = [{
    $ids `,` $weight attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Dense layers
//===----------------------------------------------------------------------===//

def LLM_LinearOp
    : LLM_Op<"linear",
             [Pure,
              DeclareOpInterfaceMethods<LLM_InPlaceOpInterface,
                                        ["worksInPlace"]>,
              LLM_ShardableWith<["getDivision", "divideResults"]>]> {
  let summary = "input times the transposed weight";
  let description = [{
    The residual is added after the whole sum. `silu_mul` multiplies the first
    piece of an interleaved weight, through silu, with the second. A weight
    divided along its columns gives a partial result, to be summed over the
    ranks.
  }];
  let arguments = (ins LLM_Activation:$input, LLM_Weight:$weight,
                       Optional<LLM_FloatActivation>:$residual,
                       UnitAttr:$silu_mul);
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = [{
    $input `,` $weight (`residual` $residual^)? (`silu_mul` $silu_mul^)?
    attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// The result is this rank's part of a sum over the ranks.
    bool isPartial();
  }];
}

def LLM_RMSNormOp : LLM_Op<"rms_norm", [Pure, LLM_Shardable]> {
  let summary = "root mean square norm of each row, times a vector";
  let description = [{
    The result is float, or int8 with scales (as if `llm.quantize` followed).
  }];
  let arguments = (ins LLM_FloatActivation:$input, LLM_Weight:$weight,
                       F32Attr:$epsilon);
  let results = (outs LLM_Activation:$result);
  let assemblyFormat = [{
    $input `,` $weight attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def LLM_LayerNormOp : LLM_Op<"layer_norm", [Pure, LLM_Shardable]> {
  let summary = "each row less its mean, by its deviation, times a vector";
  let description = [{
    (x - mean) / sqrt(variance + epsilon) * weight, without a bias.
  }];
  let arguments = (ins LLM_FloatActivation:$input, LLM_Weight:$weight,
                       F32Attr:$epsilon);
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = [{
    $input `,` $weight attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

// Matrices of one type give a matrix of that type, element by element.
class LLM_Elementwise<string mnemonic, list<Trait> traits = []>
    : LLM_Op<mnemonic, !listconcat([Pure, LLM_ShardableOpInterface], traits)>;

def LLM_ActivationOp
    : LLM_Elementwise<"activation", [AllTypesMatch<["gate", "result"]>]> {
  let summary = "an activation function, times another matrix if there is one";
  let description = [{
    `gelu` is x Φ(x) by the error function, `gelu_tanh` the same by hyperbolic
    tangent; `silu` with a factor is `llm.silu_mul`.

    ```mlir
    %y = llm.activation gelu %gate times %up
        : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
    ```
  }];
  let arguments = (ins LLM_ActivationKindAttr:$kind, LLM_FloatActivation:$gate,
                       Optional<LLM_FloatActivation>:$up);
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = [{
    $kind $gate (`times` $up^)? attr-dict `:`
    functional-type(operands, results)
  }];
  let hasVerifier = 1;
  let hasCanonicalizeMethod = 1;
}

def LLM_SoftcapOp
    : LLM_Elementwise<"softcap", [AllTypesMatch<["input", "result"]>]> {
  let summary = "cap * tanh(x / cap) of each element";
  let arguments = (ins LLM_FloatActivation:$input, F32Attr:$cap);
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = [{
    $input attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def LLM_SiluMulOp
    : LLM_Elementwise<"silu_mul", [AllTypesMatch<["gate", "up", "result"]>]> {
  let summary = "silu(gate) * up";
  let arguments = (ins LLM_FloatActivation:$gate, LLM_FloatActivation:$up);
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = [{
    $gate `,` $up attr-dict `:` functional-type(operands, results)
  }];
}

def LLM_AddOp
    : LLM_Elementwise<"add",
          [AllTypesMatch<["lhs", "rhs", "result"]>,
           DeclareOpInterfaceMethods<LLM_InPlaceOpInterface,
                                     ["worksInPlace"]>]> {
  let summary = "sum of two matrices of activations";
  let arguments = (ins LLM_FloatActivation:$lhs, LLM_FloatActivation:$rhs);
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = [{
    $lhs `,` $rhs attr-dict `:` functional-type(operands, results)
  }];
}

def LLM_QuantizeOp : LLM_Op<"quantize", [Pure, LLM_ShardableOpInterface]> {
  let summary = "float activations to few bits with scales";
  let arguments = (ins LLM_FloatActivation:$input);
  let results = (outs LLM_Activation:$result);
  let assemblyFormat = [{
    $input attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def LLM_DequantizeOp
    : LLM_Op<"dequantize", [Pure, LLM_ShardableOpInterface]> {
  let summary = "activations of few bits with scales to floats";
  let description = [{
    Not the inverse of `llm.quantize`, which rounds: neither folds the other.
  }];
  let arguments = (ins LLM_Activation:$input);
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = [{
    $input attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def LLM_QuantizedMatmulOp : LLM_Op<"quantized_matmul", [Pure]> {
  let summary = "input times the transposed quantized matrix";
  let description = [{
    The paper's form of `llm.linear` on a quantized matrix, which
    `llm-lower-operations` makes of it where a kernel has the matrix's format.
  }];
  let arguments = (ins LLM_Activation:$input, LLM_QuantizedMatrix:$weight);
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = [{
    $input `,` $weight attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Attention and the KV cache
//===----------------------------------------------------------------------===//

def LLM_CreatePagedCacheOp
    : LLM_Op<"create_paged_cache",
             [MemoryEffects<[MemAlloc<LLM_KVCacheResource>]>]> {
  let summary = "the paged KV cache of the stage";
  let results = (outs LLM_PagedKVCacheType:$cache);
  let assemblyFormat = "attr-dict `:` type($cache)";
}

def LLM_AttentionOp
    : LLM_Op<"attention",
             [Pure, LLM_AttentionOpInterface,
              AllTypesMatch<["query", "result"]>,
              AllTypesMatch<["keys", "values"]>]> {
  let summary = "causal attention of queries over keys and values";
  let description = [{
    Standard multi-head attention: each row attends to the rows of its sequence
    up to its own. All three are [batch, tokens, heads, headDim], or matrices
    with one row per token and heads of `head_dim` side by side; query heads
    share KV heads where there are fewer of these.

    A step sees only a sequence's new rows, so that what it executes is
    `llm.paged_attention`: `llm-lower-operations` makes it of this where the
    keys and values are appended to a cache as well, or are looked up there.
  }];
  let arguments = (ins AnyType:$query, AnyType:$keys, AnyType:$values,
                       OptionalAttr<I64Attr>:$head_dim);
  let results = (outs AnyType:$result);
  let assemblyFormat = [{
    $query `,` $keys `,` $values attr-dict `:`
    functional-type(operands, results)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    int64_t getHeadSize() {
      ::llvm::ArrayRef<int64_t> shape =
          ::llmir::llm::getShape(getQuery().getType());
      return shape.size() == 4 ? shape[3] : getHeadDim().value_or(0);
    }
  }];
}

def LLM_RopeOp
    : LLM_Elementwise<"rope", [AllTypesMatch<["input", "result"]>]> {
  let summary = "rotary position embedding of the heads in each row";
  let arguments = (ins LLM_FloatActivation:$input, LLM_IndexVector:$positions,
                       I64Attr:$head_dim);
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = [{
    $input `,` $positions attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def LLM_AppendKVOp : LLM_AppendOp<"append_kv"> {
  let summary = "append keys and values to sequences of the cache";
  let description = [{
    Keys and values are [batch, tokens, heads, headDim], or matrices with one
    row per token and the heads side by side. The results are the cache after
    the write and the block indices through which attention reads it.
  }];
  let arguments = (ins LLM_PagedKVCacheType:$cache,
                       AnyRankedTensor:$keys, AnyRankedTensor:$values,
                       LLM_IndexVector:$sequences,
                       DefaultValuedAttr<I64Attr, "0">:$layer);
  let results = (outs LLM_PagedKVCacheType:$new_cache,
                      LLM_IndexVector:$indices);
  let assemblyFormat = [{
    $cache `,` $keys `,` $values `,` $sequences attr-dict `:`
    functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def LLM_LookupKVOp : LLM_CacheReadOp<"lookup_kv"> {
  let summary = "the keys and values that sequences have in the cache";
  let description = [{
    Shaped as they were appended: [batch, tokens, heads, headDim], or matrices
    with one row per token. No step copies them out: `llm-lower-operations`
    lets attention read them where they lie.
  }];
  let arguments = (ins LLM_PagedKVCacheType:$cache, LLM_IndexVector:$indices,
                       DefaultValuedAttr<I64Attr, "0">:$layer);
  let results = (outs AnyType:$keys, AnyType:$values);
  let assemblyFormat = [{
    $cache `,` $indices attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = noNewCache;
}

def LLM_RopeAppendOp : LLM_AppendOp<"rope_append", [LLM_InPlace,
                                                    LLM_Shardable]> {
  let summary = "rotate queries and keys, append keys and values";
  let description = [{
    `llm.rope` of the queries and keys and `llm.append_kv` in one, on rows
    [queries | keys | values] of heads, which it rewrites in place.
  }];
  let arguments = (ins LLM_FloatActivation:$qkv, LLM_PagedKVCacheType:$cache,
                       LLM_IndexVector:$positions, LLM_IndexVector:$sequences,
                       DefaultValuedAttr<I64Attr, "0">:$layer);
  let results = (outs LLM_FloatActivation:$result,
                      LLM_PagedKVCacheType:$new_cache,
                      LLM_IndexVector:$indices);
  let assemblyFormat = [{
    $qkv `,` $cache `,` $positions `,` $sequences attr-dict `:`
    functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def LLM_PagedAttentionOp
    : LLM_CacheReadOp<"paged_attention",
          [LLM_AttentionOpInterface,
           LLM_ShardableWith<["getDivision", "divideResults"]>]> {
  let summary = "causal attention of queries over the paged cache";
  let description = [{
    The query is [batch, tokens, heads, headDim], or a matrix with one row per
    token whose first columns are the query heads side by side (the rest, as
    left by `llm.rope_append`, isn't read).
  }];
  let arguments = (ins AnyType:$query, LLM_PagedKVCacheType:$cache,
                       LLM_IndexVector:$indices,
                       DefaultValuedAttr<I64Attr, "0">:$layer,
                       OptionalAttr<LLM_AttentionAttr>:$attention);
  let results = (outs AnyType:$result);
  let assemblyFormat = [{
    $query `,` $cache `,` $indices attr-dict `:`
    functional-type(operands, results)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = noNewCache # [{
    int64_t getHeadSize() { return getCache().getType().getHeadDim(); }
  }];
}

def LLM_AppendAttentionOp
    : LLM_AppendOp<"append_attention",
          [LLM_AttentionOpInterface,
           LLM_ShardableWith<["getDivision", "divideResults"]>]> {
  let summary = "rope_append and paged_attention in one pass";
  let description = [{
    For steps of one token per sequence. Rows are [queries | keys | values] of
    heads, as of `llm.rope_append`, and are left alone; the result has the head
    outputs. New keys and values are attended to as they are written.
  }];
  let arguments = (ins LLM_FloatActivation:$qkv, LLM_PagedKVCacheType:$cache,
                       LLM_IndexVector:$positions, LLM_IndexVector:$sequences,
                       DefaultValuedAttr<I64Attr, "0">:$layer,
                       OptionalAttr<LLM_AttentionAttr>:$attention);
  let results = (outs LLM_FloatActivation:$result,
                      LLM_PagedKVCacheType:$new_cache);
  let assemblyFormat = [{
    $qkv `,` $cache `,` $positions `,` $sequences attr-dict `:`
    functional-type(operands, results)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    ::mlir::Value getQuery() { return getQkv(); }
    int64_t getHeadSize() { return getCache().getType().getHeadDim(); }
  }];
}

//===----------------------------------------------------------------------===//
// What leaves the model: ids and log-probabilities
//===----------------------------------------------------------------------===//

def LLM_GatherRowsOp
    : LLM_Op<"gather_rows", [Pure, LLM_Shardable,
                             AllTypesMatch<["input", "result"]>]> {
  let summary = "the rows with the given indices";
  let description = [{
    What works row by row commutes with it; canonicalization puts it first, so
    that fewer rows are computed.
  }];
  let arguments = (ins LLM_FloatActivation:$input, LLM_IndexVector:$rows);
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = [{
    $input `,` $rows attr-dict `:` functional-type(operands, results)
  }];
  let hasCanonicalizeMethod = 1;
}

def LLM_LogitsOp : LLM_Op<"logits", [Pure]> {
  let summary = "the head's logits of each row, capped where the model does";
  let description = [{
    `llm-lower-operations` makes it a `llm.linear`, and a `llm.softcap` behind
    it.
  }];
  let arguments = (ins LLM_FloatActivation:$input, LLM_Weight:$weight,
                       OptionalAttr<F32Attr>:$softcap);
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = [{
    $input `,` $weight (`softcap` $softcap^)? attr-dict `:`
    functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def LLM_SampleOp : LLM_Op<"sample", [Pure, LLM_Shardable]> {
  let summary = "one token id per row of logits";
  let description = [{
    The sampling parameters and the counter of the noise come with the request,
    so that the same step gives the same ids.
  }];
  let arguments = (ins LLM_FloatActivation:$logits);
  let results = (outs LLM_IdMatrix:$ids);
  let assemblyFormat = [{
    $logits attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def LLM_ScoreOp
    : LLM_Op<"score", [Pure,
                       LLM_ShardableWith<["getDivision",
                                          "divideResults"]>]> {
  let summary = "what a shard of the head contributes to log-probabilities";
  let description = [{
    Per row: the logits' maximum, the sum of exp(logit - maximum), the target's
    logit; with `by_leaf` three such numbers for each vocabulary leaf, which
    don't depend on who has which. The second result is scratch for the logits
    of a chunk of rows.
  }];
  let arguments = (ins LLM_Activation:$input, LLM_Weight:$weight,
                       LLM_IndexVector:$targets, UnitAttr:$by_leaf);
  let results = (outs LLM_FloatActivation:$parts,
                      LLM_FloatActivation:$logits);
  let assemblyFormat = [{
    $input `,` $weight `,` $targets (`by_leaf` $by_leaf^)? attr-dict `:`
    functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def LLM_ScoreMergeOp : LLM_Op<"score_merge", [Pure, LLM_Shardable]> {
  let summary = "log-probability of each row's target from all shards' parts";
  let arguments = (ins LLM_FloatActivation:$parts);
  let results = (outs LLM_FloatActivation:$log_probabilities);
  let assemblyFormat = [{
    $parts attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Communication among the ranks of a stage, and from stage to stage
//===----------------------------------------------------------------------===//

// A collective on whole rows whose result lies where its input lay.
class LLM_Collective<string mnemonic, Type type = LLM_FloatActivation,
                     list<Trait> traits = []>
    : LLM_Communication<mnemonic, !listconcat(traits, [
          AllTypesMatch<["input", "result"]>])> {
  let arguments = (ins type:$input);
  let results = (outs type:$result);
  let assemblyFormat = [{
    $input attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

// The same, split: `llm.wait` gives the result. Until then the input must be
// left alone.
class LLM_CollectiveStart<string mnemonic, Type type = LLM_FloatActivation>
    : LLM_Communication<mnemonic> {
  let arguments = (ins type:$input);
  let results = (outs LLM_TokenType:$token);
  let assemblyFormat = [{
    $input attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

// Those that sum. With a tree each rank's summand is the sums over the nodes
// that cover its leaves of that unit, in the tree over all of them.
class LLM_SumCollective<string mnemonic, list<Trait> traits = []>
    : LLM_Collective<mnemonic, LLM_FloatActivation, traits> {
  let arguments = (ins LLM_FloatActivation:$input,
                       OptionalAttr<LLM_UnitAttr>:$tree);
  let assemblyFormat = [{
    $input (`tree` $tree^)? attr-dict `:` functional-type(operands, results)
  }];
}
class LLM_SumStart<string mnemonic> : LLM_CollectiveStart<mnemonic> {
  let arguments = (ins LLM_FloatActivation:$input,
                       OptionalAttr<LLM_UnitAttr>:$tree);
  let assemblyFormat = [{
    $input (`tree` $tree^)? attr-dict `:` functional-type(operands, results)
  }];
}

def LLM_AllReduceOp : LLM_SumCollective<"all_reduce", [LLM_InPlace]> {
  let summary = "sum over the ranks of the stage, in place";
  let description = [{
    In rank order, so that the result's last bits depend on who has which
    leaves. With `tree` they don't: the sums over the leaves of all ranks are
    added in the order of one tree (plan_schema/sum_tree.h), to which a rank
    contributes several nodes where its leaves aren't one.

    ```mlir
    %y = llm.all_reduce %x tree mlp_column
        : (tensor<?x64xf32>) -> tensor<?x64xf32>
    ```
  }];
}

def LLM_AllReduceStartOp : LLM_SumStart<"all_reduce_start"> {
  let summary = "start an all_reduce";
}

def LLM_ReduceScatterOp : LLM_SumCollective<"reduce_scatter"> {
  let summary = "sum over the ranks of the stage, each rank its share of rows";
  let description = [{
    The sums are those of `llm.all_reduce`, but each rank ends with its own
    share of the rows alone, in place (`share`, as `llm.rows` has it).
  }];
}

def LLM_ReduceScatterStartOp : LLM_SumStart<"reduce_scatter_start"> {
  let summary = "start a reduce_scatter";
}

def LLM_AllGatherOp : LLM_Collective<"all_gather", LLM_Activation> {
  let hasCanonicalizeMethod = 1;
  let summary = "the shares of rows of all ranks of the stage, on each of them";
  let description = [{
    Each rank gives its `share` of the rows and ends with all of them, in place.
  }];
}

def LLM_AllGatherStartOp
    : LLM_CollectiveStart<"all_gather_start", LLM_Activation> {
  let summary = "start an all_gather";
}

def LLM_BroadcastOp
    : LLM_Collective<"broadcast", LLM_Activation, [LLM_InPlace]> {
  let summary = "the rows of the stage's first rank, on all its ranks, in place";
}

def LLM_BroadcastStartOp
    : LLM_CollectiveStart<"broadcast_start", LLM_Activation> {
  let summary = "start a broadcast";
}

def LLM_GatherOp : LLM_Communication<"gather"> {
  let summary = "the columns of all ranks, on the first rank of the stage";
  let arguments = (ins LLM_FloatActivation:$input);
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = [{
    $input attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def LLM_GatherStartOp : LLM_Communication<"gather_start"> {
  let summary = "start a gather";
  let arguments = (ins LLM_FloatActivation:$input);
  let results = (outs LLM_TokenType:$token);
  let assemblyFormat = [{
    $input attr-dict `:` functional-type(operands, results)
  }];
}

def LLM_SendOp : LLM_Communication<"send", [], ["isCollective"]> {
  let summary = "rows to ranks of the next stage";
  let arguments = (ins LLM_FloatActivation:$input);
  let assemblyFormat = "$input attr-dict `:` type($input)";
}

def LLM_SendStartOp
    : LLM_Communication<"send_start", [], ["isCollective"]> {
  let summary = "start a send";
  let description = [{
    `llm.wait` gives nothing: after it the input may be overwritten.
  }];
  let arguments = (ins LLM_FloatActivation:$input);
  let results = (outs LLM_TokenType:$token);
  let assemblyFormat = [{
    $input attr-dict `:` functional-type(operands, results)
  }];
}

def LLM_RecvOp
    : LLM_Communication<"recv", [], ["isCollective", "getMessage"]> {
  let summary = "rows from a rank of the previous stage";
  let results = (outs LLM_FloatActivation:$result);
  let assemblyFormat = "attr-dict `:` type($result)";
}

def LLM_RecvStartOp
    : LLM_Communication<"recv_start", [], ["isCollective", "getMessage"]> {
  let summary = "start a recv";
  let description = [{
    The rows are what `llm.wait` gives; they are written from here on.
  }];
  let results = (outs LLM_TokenType:$token);
  let assemblyFormat = "attr-dict `:` type($token)";
}

def LLM_WaitOp
    : LLM_Communication<"wait",
          [DeclareOpInterfaceMethods<LLM_InPlaceOpInterface,
                                     ["worksInPlace"]>],
          ["isCollective", "getMessage"]> {
  let summary = "the result of a started operation";
  let description = [{
    Each token is waited for once. The wait for a `llm.send_start` has no
    result.
  }];
  let arguments = (ins LLM_TokenType:$token);
  let results = (outs Optional<LLM_Activation>:$result);
  let assemblyFormat = [{
    $token attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def LLM_PrefetchOp
    : LLM_Op<"prefetch", [MemoryEffects<[MemWrite<LLM_NetworkResource>]>]> {
  let summary = "bring the beginning of a weight near";
  let description = [{
    A hint for the time that a collective takes: it changes no value, but keeps
    its place among the messages.
  }];
  let arguments = (ins LLM_Weight:$weight);
  let assemblyFormat = "$weight attr-dict `:` type($weight)";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Parts of the rows
//===----------------------------------------------------------------------===//

def LLM_RowsOp : LLM_Op<"rows", [Pure, AllTypesMatch<["input", "result"]>]> {
  let summary = "a part of the rows, where they lie";
  let description = [{
    Of n rows, `first_half` is [0, (n + 1) / 2), `second_half` the rest, `share`
    is [n i / r, n (i + 1) / r) on rank i of the stage's r. A view, not a step:
    rows keep their numbers, so that what reads positions or sequences takes
    those of its part.

    ```mlir
    %a = llm.rows %x first_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
    ```
  }];
  let arguments = (ins LLM_Activation:$input,
                       LLM_RowsAttr:$part);
  let results = (outs LLM_Activation:$result);
  let assemblyFormat = [{
    $input $part attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
  let hasFolder = 1;
}

def LLM_JoinRowsOp
    : LLM_Op<"join_rows", [Pure,
                           AllTypesMatch<["first", "second", "result"]>]> {
  let summary = "all rows, from their two halves";
  let description = [{
    A view as well: both halves lie in one buffer.
  }];
  let arguments = (ins LLM_Activation:$first, LLM_Activation:$second);
  let results = (outs LLM_Activation:$result);
  let assemblyFormat = [{
    $first `,` $second attr-dict `:` functional-type(operands, results)
  }];
  let hasFolder = 1;
}

#endif // LLMIR_DIALECT_LLM_IR_LLMOPS
