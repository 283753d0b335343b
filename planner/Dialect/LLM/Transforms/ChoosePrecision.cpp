//===- ChoosePrecision.cpp - Choose how each weight is packed -------------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

#include "llvm/ADT/EquivalenceClasses.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"

namespace llmir::llm {
#define GEN_PASS_DEF_CHOOSEPRECISION
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

/// The encoding that --weights asks for; empty for an unknown choice.
StringRef getRequestedEncoding(StringRef choice) {
  return llvm::StringSwitch<StringRef>(choice)
      .Case("keep", "keep")
      .Case("f32", "f32")
      .Case("bf16", "bf16")
      .Case("q8", "q8_0")
      .Case("q4", "q4_1")
      .Default("");
}

/// The encoding in which the checkpoint stores all of `weights`, else bf16.
StringRef getStoredEncoding(ArrayRef<WeightOp> weights) {
  StringRef stored;
  for (WeightOp weight : weights)
    for (PieceAttr piece : weight.getPieceList()) {
      StringRef encoding = getEncoding(piece.getType());
      if (!stored.empty() && encoding != stored)
        return "bf16";
      stored = encoding;
    }
  return stored;
}

/// Rows, and leaves of rows, are whole groups.
bool fitsGroups(WeightOp weight) {
  return getColumns(weight.getType()) % kQuantGroup == 0 &&
         weight.getLeafColumns() % kQuantGroup == 0;
}

struct ChoosePrecisionPass
    : public llmir::llm::impl::ChoosePrecisionBase<ChoosePrecisionPass> {
  using ChoosePrecisionBase::ChoosePrecisionBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    StringRef requested = getRequestedEncoding(weights);
    if (requested.empty()) {
      module.emitError() << "unknown choice of weights '" << weights
                         << "': expected keep, f32, bf16, q8 or q4";
      return signalPassFailure();
    }

    // Names that must be packed alike, and the references to each name.
    llvm::EquivalenceClasses<StringRef> alike;
    llvm::MapVector<StringRef, SmallVector<WeightOp>> references;
    llvm::DenseMap<Value, StringRef> firstReader;
    module.walk([&](WeightOp weight) {
      alike.insert(weight.getSymName());
      references[weight.getSymName()].push_back(weight);
    });
    auto addReader = [&](Value input, Value weightValue) {
      auto weight = weightValue.getDefiningOp<WeightOp>();
      if (!weight)
        return;
      auto [entry, isFirst] =
          firstReader.try_emplace(input, weight.getSymName());
      if (!isFirst)
        alike.unionSets(entry->second, weight.getSymName());
    };
    module.walk([&](LinearOp op) { addReader(op.getInput(), op.getWeight()); });
    module.walk([&](ScoreOp op) { addReader(op.getInput(), op.getWeight()); });

    llvm::MapVector<StringRef, SmallVector<WeightOp>> groups;
    for (auto &[name, ops] : references)
      groups[alike.getLeaderValue(name)].append(ops.begin(), ops.end());

    WeightOp firstMisfit;
    StringRef refused;
    llvm::SetVector<StringRef> misfits;
    for (auto &[leader, ops] : groups) {
      bool isVector = getShape(ops.front().getType()).size() == 1;
      StringRef encoding = isVector              ? "f32"
                           : requested == "keep" ? getStoredEncoding(ops)
                                                 : requested;
      bool inGroups = encoding.starts_with("q");
      auto misfit =
          llvm::find_if(ops, [](WeightOp op) { return !fitsGroups(op); });
      if (inGroups && misfit != ops.end()) {
        if (!firstMisfit) {
          firstMisfit = *misfit;
          refused = encoding;
        }
        for (WeightOp op : ops)
          misfits.insert(op.getSymName());
        encoding = "bf16";
      }
      for (WeightOp op : ops)
        op.getResult().setType(
            getWeightType(&getContext(), encoding, getShape(op.getType())));
    }
    explainChoice(references);
    if (firstMisfit)
      module.emitRemark() << misfits.size() << " weights are packed as bf16, "
                          << "not " << refused << ": rows of '"
                          << firstMisfit.getSymName() << "' have "
                          << getColumns(firstMisfit.getType())
                          << " columns in leaves of "
                          << (firstMisfit.getLeafColumns()
                                  ? firstMisfit.getLeafColumns()
                                  : getColumns(firstMisfit.getType()))
                          << ", not multiples of " << kQuantGroup;
  }

  void explainChoice(
      const llvm::MapVector<StringRef, SmallVector<WeightOp>> &references) {
    llvm::MapVector<StringRef, std::pair<int64_t, double>> counts;
    double stored = 0, packed = 0;
    for (auto &[name, ops] : references) {
      WeightOp weight = ops.front();
      auto &[number, bytes] = counts[getEncoding(weight.getType())];
      ++number;
      bytes += getWeightBytes(weight.getType());
      packed += getWeightBytes(weight.getType());
      for (PieceAttr piece : weight.getPieceList())
        stored += getWeightBytes(piece.getType());
    }
    SmallVector<std::string> list;
    for (auto &[encoding, count] : counts)
      list.push_back(fmt::format("{} {} ({})", count.first, encoding.str(),
                                 formatBytes(count.second)));
    explain(getOperation(), "llm-choose-precision",
            "weights: " + llvm::join(list, ", "),
            fmt::format("{} packed, {} in the checkpoint", formatBytes(packed),
                        formatBytes(stored)));
  }
};

} // namespace
