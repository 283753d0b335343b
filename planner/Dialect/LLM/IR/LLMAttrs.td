//===- LLMAttrs.td - Attributes of the llm dialect ------------*- tablegen -*-===//

#ifndef LLMIR_DIALECT_LLM_IR_LLMATTRS
#define LLMIR_DIALECT_LLM_IR_LLMATTRS

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "planner/Dialect/LLM/IR/LLMDialect.td"

// A bracketed list of integers; `?` stands for a value that isn't known, `7 x 4` for four sevens.
class LLM_IntegerList<string desc> : ArrayRefParameter<"int64_t", desc> {
  let parser = "::llmir::llm::parseIntegerList($_parser)";
  let printer = "::llmir::llm::printIntegerList($_printer, $_self)";
}

class LLM_Enum<string name, string summary, list<I32EnumAttrCase> cases>
    : I32EnumAttr<name, summary, cases> {
  let cppNamespace = "::llmir::llm";
  let genSpecializedAttr = 0;
}

// An enumerator written as a bare word inside another attribute.
class LLM_EnumParameter<string name> : AttrParameter<"::llmir::llm::" # name, ""> {
  let parser = "::llmir::llm::parseEnum<::llmir::llm::" # name # ">($_parser)";
  let printer = "$_printer << ::llmir::llm::stringifyEnum($_self)";
}

def LLM_Unit : LLM_Enum<"Unit", "what one leaf of a tensor is", [
  I32EnumAttrCase<"Whole", 0, "whole">,
  I32EnumAttrCase<"QueryHead", 1, "query_head">,
  I32EnumAttrCase<"KvHead", 2, "kv_head">,
  I32EnumAttrCase<"MlpColumn", 3, "mlp_column">,
  I32EnumAttrCase<"Vocabulary", 4, "vocabulary">]>;

def LLM_Axis : LLM_Enum<"Axis", "the axis that leaves divide", [
  I32EnumAttrCase<"None", 0, "none">,
  I32EnumAttrCase<"Rows", 1, "rows">,
  I32EnumAttrCase<"Columns", 2, "columns">]>;

def LLM_ProgramKind : LLM_Enum<"ProgramKind", "what steps a program is for", [
  I32EnumAttrCase<"Mixed", 0, "mixed">,
  I32EnumAttrCase<"Decode", 1, "decode">,
  I32EnumAttrCase<"Score", 2, "score">]>;

def LLM_Rows : LLM_Enum<"Rows", "what a buffer has one row for", [
  I32EnumAttrCase<"Tokens", 0, "tokens">,
  I32EnumAttrCase<"Sampled", 1, "sampled">,
  I32EnumAttrCase<"One", 2, "one">,
  I32EnumAttrCase<"FirstHalf", 3, "first_half">,
  I32EnumAttrCase<"SecondHalf", 4, "second_half">,
  I32EnumAttrCase<"Share", 5, "share">]>;

def LLM_AttentionForm : LLM_Enum<"AttentionForm", "how attention is computed", [
  I32EnumAttrCase<"Flash", 0, "flash">,
  I32EnumAttrCase<"FusedSoftmax", 1, "fused_softmax">,
  I32EnumAttrCase<"Masked", 2, "masked">,
  I32EnumAttrCase<"Standard", 3, "standard">]>;

class LLM_Attr<string name, string mnemonic_> : AttrDef<LLM_Dialect, name> {
  let mnemonic = mnemonic_;
}

def LLM_ActivationKind
    : LLM_Enum<"ActivationKind", "an activation function", [
  I32EnumAttrCase<"Silu", 0, "silu">,
  I32EnumAttrCase<"Gelu", 1, "gelu">,
  I32EnumAttrCase<"GeluTanh", 2, "gelu_tanh">,
  I32EnumAttrCase<"Relu", 3, "relu">]>;

def LLM_ActivationKindAttr
    : EnumAttr<LLM_Dialect, LLM_ActivationKind, "activation_kind">;

// By another name than MLIR's own UnitAttr.
def LLM_UnitAttr : EnumAttr<LLM_Dialect, LLM_Unit, "unit"> {
  let cppClassName = "LeafUnitAttr";
}

def LLM_RowsAttr : EnumAttr<LLM_Dialect, LLM_Rows, "rows">;

def LLM_ModelAttr : LLM_Attr<"Model", "model"> {
  let summary = "the shape of a Llama-family model";
  let description = [{
    `mlp_leaf` and `vocabulary_leaf` are the sizes of the leaves, the only units
    in which work is divided among ranks; a head is the leaf of attention.
  }];
  let parameters = (ins "int64_t":$layers, "int64_t":$hidden,
                        "int64_t":$query_heads, "int64_t":$kv_heads,
                        "int64_t":$head_dim, "int64_t":$mlp_columns,
                        "int64_t":$vocabulary, "int64_t":$mlp_leaf,
                        "int64_t":$vocabulary_leaf);
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    /// Leaves of `unit`; 1 for whole.
    int64_t getLeafCount(::llmir::llm::Unit unit) const;
    /// Query heads that share a KV head.
    int64_t getHeadsPerKv() const { return getQueryHeads() / getKvHeads(); }
  }];
}

def LLM_PieceAttr : LLM_Attr<"Piece", "piece"> {
  let summary = "a checkpoint tensor that is part of a weight";
  let description = [{
    `type` is how the checkpoint stores it. `leaf` is rows or columns per leaf,
    0 where the tensor isn't divided.
  }];
  let parameters = (ins StringRefParameter<>:$tensor, "::mlir::Type":$type,
                        LLM_EnumParameter<"Unit">:$unit,
                        LLM_EnumParameter<"Axis">:$axis, "int64_t":$leaf);
  let assemblyFormat = "`<` $tensor `:` $type `,` $unit $axis $leaf `>`";
  let genVerifyDecl = 1;
}

def LLM_StageAttr : LLM_Attr<"Stage", "stage"> {
  let summary = "a pipeline stage: its layers, ranks and their leaves";
  let description = [{
    `layers` is [begin, end). Where the leaves are known, rank r of the stage
    owns query heads, MLP leaves and vocabulary leaves [list[r], list[r + 1]),
    and KV heads [list[2 r], list[2 r + 1]), which overlap where a border splits
    a group. Its world rank is `first_rank` + r.
  }];
  let parameters = (ins "int64_t":$index, "int64_t":$first_rank,
                        LLM_IntegerList<"">:$layers,
                        LLM_IntegerList<"">:$query_head,
                        LLM_IntegerList<"">:$kv_head,
                        LLM_IntegerList<"">:$mlp_column,
                        LLM_IntegerList<"">:$vocabulary);
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    int64_t getRanks() const { return getQueryHead().size() - 1; }
    /// Leaves [first, second) of `unit` that `rank` owns; {0, 1} for whole.
    std::pair<int64_t, int64_t> getLeaves(::llmir::llm::Unit unit,
                                          int64_t rank) const;
  }];
}

def LLM_ProgramAttr : LLM_Attr<"Program", "program"> {
  let summary = "the steps that a function is for";
  let parameters = (ins LLM_EnumParameter<"ProgramKind">:$kind,
                        "int64_t":$min_tokens, "int64_t":$max_tokens,
                        "int64_t":$max_sampled);
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
}

def LLM_BufferAttr : LLM_Attr<"Buffer", "buffer"> {
  let summary = "where a result lies";
  let description = [{
    Results with the same `id` share a buffer. `offsets` and `bytes` have one
    entry per rank of the stage; the buffer is in use in steps
    [`first`, `last`], both included.
  }];
  let parameters = (ins "int64_t":$id, LLM_EnumParameter<"Rows">:$rows,
                        "int64_t":$max_rows, "int64_t":$arena,
                        LLM_IntegerList<"">:$offsets,
                        LLM_IntegerList<"">:$bytes, "int64_t":$first,
                        "int64_t":$last);
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
}

def LLM_AttentionAttr : LLM_Attr<"Attention", "attention"> {
  let summary = "how a layer attends";
  let description = [{
    ```
    #llm.attention<form = flash, window = 128, share_kv = false,
                   softcap = 5.000000e+01 : f32>
    ```
    A token attends to the last `window` tokens, itself included; 0 stands for
    all. With `share_kv` the query heads of a KV head read it once. Scores
    become softcap * tanh(score / softcap) where there is a softcap.
  }];
  let parameters = (ins LLM_EnumParameter<"AttentionForm">:$form,
                        DefaultValuedParameter<"int64_t", "0">:$window,
                        DefaultValuedParameter<"bool", "true">:$share_kv,
                        OptionalParameter<"::mlir::FloatAttr">:$softcap);
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    /// 0 where there is none.
    double getSoftcapOrZero() const {
      return getSoftcap() ? getSoftcap().getValueAsDouble() : 0;
    }
  }];
}

#endif // LLMIR_DIALECT_LLM_IR_LLMATTRS
