//===- Explain.h - What a pass did, for people -----------------*- C++ -*-===//
//
// Passes say what they did and what they expect to gain. The sentences travel
// with the module, as attribute `llm.explanations`, into the plan
// (Provenance.explanations), where `llmir-plan --explain` and `llmir-inspect
// show --explain` read them.
//
//===----------------------------------------------------------------------===//

#ifndef LLMIR_DIALECT_LLM_TRANSFORMS_EXPLAIN_H
#define LLMIR_DIALECT_LLM_TRANSFORMS_EXPLAIN_H

#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinOps.h"

namespace llmir::llm {

/// Appends an explanation to `module`: [pass, text, gain]. `pass` is the pass's
/// name on llmir-opt's command line; `gain` has units and is empty where
/// nothing is claimed.
inline void explain(mlir::ModuleOp module, llvm::StringRef pass,
                    const llvm::Twine &text, const llvm::Twine &gain = "") {
  constexpr llvm::StringLiteral kName = "llm.explanations";
  mlir::MLIRContext *context = module.getContext();
  auto string = [&](const llvm::Twine &value) -> mlir::Attribute {
    return mlir::StringAttr::get(context, value);
  };
  llvm::SmallVector<mlir::Attribute> all;
  if (auto before = module->getAttrOfType<mlir::ArrayAttr>(kName))
    all.append(before.begin(), before.end());
  all.push_back(mlir::ArrayAttr::get(
      context, {string(pass), string(text), string(gain)}));
  module->setAttr(kName, mlir::ArrayAttr::get(context, all));
}

} // namespace llmir::llm

#endif // LLMIR_DIALECT_LLM_TRANSFORMS_EXPLAIN_H
