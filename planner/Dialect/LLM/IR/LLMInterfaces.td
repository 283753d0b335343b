//===- LLMInterfaces.td - What passes ask operations for ------*- tablegen -*-===//

#ifndef LLMIR_DIALECT_LLM_IR_LLMINTERFACES
#define LLMIR_DIALECT_LLM_IR_LLMINTERFACES

include "mlir/IR/OpBase.td"

class LLM_Interface<string name> : OpInterface<name> {
  let cppNamespace = "::llmir::llm";
}

def LLM_KVCacheOpInterface : LLM_Interface<"KVCacheOpInterface"> {
  let description = [{
    An operation that reads or writes keys and values of one layer of a paged
    cache. The cache is SSA state: who appends returns the cache after the
    write, and who reads it takes that.
  }];
  let methods = [
    InterfaceMethod<"The cache before the operation.",
                    "::mlir::TypedValue<::llmir::llm::PagedKVCacheType>",
                    "getCache">,
    InterfaceMethod<"The operand that is the cache.", "::mlir::OpOperand &",
                    "getCacheMutable">,
    InterfaceMethod<"The cache after the operation; null where it only reads.",
                    "::mlir::TypedValue<::llmir::llm::PagedKVCacheType>",
                    "getNewCache">,
    InterfaceMethod<"The layer, counted from the cache's first.", "uint64_t",
                    "getLayer">,
    InterfaceMethod<"", "void", "setLayer", (ins "uint64_t":$layer)>
  ];
  let extraSharedClassDeclaration = [{
    /// Whether the operation writes keys and values.
    bool appends() { return $_op.getNewCache() != nullptr; }
  }];
  let verify = "return ::llmir::llm::verifyCacheOperation($_op);";
}

def LLM_AttentionOpInterface : LLM_Interface<"AttentionOpInterface"> {
  let description = [{
    An operation that attends: each row of queries to the tokens of its sequence
    up to its own, with keys and values given as operands or kept in a cache
    (then it's a KVCacheOpInterface as well).
  }];
  let methods = [
    InterfaceMethod<[{
      The queries: [batch, tokens, heads, headDim], or a matrix with one row per
      token whose first columns are the query heads side by side.
    }], "::mlir::Value", "getQuery">,
    InterfaceMethod<"The heads' outputs, shaped as the queries.",
                    "::mlir::Value", "getResult">,
    InterfaceMethod<"Elements of a head.", "int64_t", "getHeadSize">
  ];
}

def LLM_ShardableOpInterface : LLM_Interface<"ShardableOpInterface"> {
  let description = [{
    An operation that the ranks of a stage may divide among them. From how one
    operand is divided follows what each rank's result is of the whole one.
  }];
  let methods = [
    InterfaceMethod<[{
      What the results are where `operand` is divided along dimension `dim`, the
      operands that go with it alike. By default: as an operation does that
      works element by element.
    }], "::llmir::llm::Division", "getDivision",
        (ins "::mlir::OpOperand &":$operand, "int64_t":$dim), "", [{
      return dim == 0 ? ::llmir::llm::Division::Rows
                      : ::llmir::llm::Division::Columns;
    }]>,
    InterfaceMethod<[{
      Gives the results the types that they have on the ranks of `stage`, after
      the operands got theirs.
    }], "void", "divideResults",
        (ins "::llmir::llm::ModelAttr":$model, "::llmir::llm::StageAttr":$stage),
        "", [{
      for (::mlir::OpResult result : $_op->getResults())
        if (::llmir::llm::isActivationType(result.getType()))
          result.setType(::llmir::llm::withColumnsOf(
              result.getType(), $_op->getOperand(0).getType()));
    }]>
  ];
}

def LLM_InPlaceOpInterface : LLM_Interface<"InPlaceOpInterface"> {
  let description = [{
    An operation whose first result may, or must, lie where a value that it reads
    lay.
  }];
  let methods = [
    InterfaceMethod<[{
      The values whose place the result can take, the best one first.
    }], "::llvm::SmallVector<::mlir::Value, 2>", "getInPlaceValues">,
    InterfaceMethod<"Whether it must take the first one's.", "bool",
                    "worksInPlace", (ins), "", "return true;">
  ];
}

def LLM_CommunicationOpInterface : LLM_Interface<"CommunicationOpInterface"> {
  let description = [{
    An operation that exchanges rows with other ranks: those of its stage, or of
    the stage before or behind. Each has a form that starts it and yields a
    token, which `llm.wait` takes.
  }];
  let methods = [
    InterfaceMethod<"Whether the ranks of the stage take part in it together.",
                    "bool", "isCollective", (ins), "", "return true;">,
    InterfaceMethod<[{
      The activations whose rows are exchanged; null where another operation has
      them.
    }], "::mlir::Value", "getMessage", (ins), "",
        "return $_op->getOperand(0);">
  ];
}

#endif // LLMIR_DIALECT_LLM_IR_LLMINTERFACES
