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

#include <fmt/format.h>

#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinOps.h"

namespace llmir::llm {

inline constexpr llvm::StringLiteral kExplanations = "llm.explanations";

/// Appends an explanation to `module`: [pass, text, gain]. `pass` is the pass's
/// name on llmir-opt's command line; `gain` has units and is empty where
/// nothing is claimed.
inline void explain(mlir::ModuleOp module, llvm::StringRef pass,
                    const llvm::Twine &text, const llvm::Twine &gain = "") {
  mlir::MLIRContext *context = module.getContext();
  auto string = [&](const llvm::Twine &value) -> mlir::Attribute {
    return mlir::StringAttr::get(context, value);
  };
  llvm::SmallVector<mlir::Attribute> all;
  if (auto before = module->getAttrOfType<mlir::ArrayAttr>(kExplanations))
    all.append(before.begin(), before.end());
  all.push_back(mlir::ArrayAttr::get(
      context, {string(pass), string(text), string(gain)}));
  module->setAttr(kExplanations, mlir::ArrayAttr::get(context, all));
}

/// "1.23 MB", "45 bytes".
inline std::string formatBytes(double bytes) {
  constexpr double kMega = 1e6;
  if (bytes >= kMega)
    return fmt::format("{:.2f} MB", bytes / kMega);
  if (bytes >= 1e4)
    return fmt::format("{:.1f} kB", bytes / 1e3);
  return fmt::format("{:.0f} bytes", bytes);
}

} // namespace llmir::llm

#endif // LLMIR_DIALECT_LLM_TRANSFORMS_EXPLAIN_H
