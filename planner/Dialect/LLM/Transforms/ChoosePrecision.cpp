//===- ChoosePrecision.cpp - Choose how each weight is packed -------------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

#include "kernels/block_formats.h"
#include "llvm/ADT/EquivalenceClasses.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FormatVariadic.h"

namespace llmir::llm {
#define GEN_PASS_DEF_CHOOSEPRECISION
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;
namespace kernels = llmir::kernels;

StringRef llmir::llm::getRequestedEncoding(StringRef choice) {
  StringRef encoding = llvm::StringSwitch<StringRef>(choice)
                           .Case("q3", "q3_1")
                           .Case("q4", "q4_1")
                           .Case("q5", "q5_0")
                           .Case("q6", "q6_0")
                           .Case("q8", "q8_0")
                           .Default(choice);
  if (encoding == "keep")
    return "keep";
  if (auto known = kernels::FindEncoding(encoding))
    return kernels::FormatOf(*known).name;
  return "";
}

namespace {

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

/// The encoding that the module's `llm.weight_types` gives for the tensors of
/// `weights`, or none.
StringRef getGivenEncoding(DictionaryAttr types, ArrayRef<WeightOp> weights) {
  for (WeightOp weight : weights)
    for (PieceAttr piece : weight.getPieceList())
      if (types)
        if (auto type = types.getAs<StringAttr>(piece.getTensor()))
          return type.getValue();
  return {};
}

/// Rows, and leaves of rows, are whole groups.
bool fitsGroups(WeightOp weight, int64_t group) {
  return getColumns(weight.getType()) % group == 0 &&
         weight.getLeafColumns() % group == 0;
}

/// An encoding, and the weight whose rows refused another, if one did.
struct FittedEncoding {
  StringRef encoding;
  WeightOp misfit;
  int64_t refusedGroup = 0;
};

/// `wanted`, or what gives way to the rows of `weights`: groups of 64 become
/// groups of 32, and those bf16.
FittedEncoding fitEncoding(ArrayRef<WeightOp> weights, StringRef wanted) {
  FittedEncoding fitted = {wanted, {}};
  while (int64_t group =
             kernels::FormatOf(*kernels::FindEncoding(fitted.encoding)).group) {
    const auto *misfit = llvm::find_if(
        weights, [&](WeightOp weight) { return !fitsGroups(weight, group); });
    if (misfit == weights.end())
      break;
    StringRef smaller = fitted.encoding;
    fitted = {smaller.consume_back("_64") ? smaller : "bf16", *misfit, group};
  }
  return fitted;
}

/// "4.5 bits": per element of `elements` that take `bytes`.
std::string formatBits(int64_t bytes, int64_t elements) {
  return llvm::formatv("{0:F2} bits", 8.0 * bytes / elements);
}

struct ChoosePrecisionPass
    : public llmir::llm::impl::ChoosePrecisionBase<ChoosePrecisionPass> {
  using ChoosePrecisionBase::ChoosePrecisionBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    StringRef requested = getRequestedEncoding(weights);
    if (requested.empty()) {
      module.emitError() << "unknown choice of weights '" << weights
                         << "': expected " << kWeightChoices;
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

    auto weightTypes =
        module->getAttrOfType<DictionaryAttr>("llm.weight_types");

    // What gave way, by what was wanted and what was taken.
    struct Misfits {
      llvm::SetVector<StringRef> names;
      FittedEncoding first;
    };
    llvm::MapVector<std::pair<StringRef, StringRef>, Misfits> misfits;
    for (auto &[leader, ops] : groups) {
      bool isVector = getShape(ops.front().getType()).size() == 1;
      StringRef given = getGivenEncoding(weightTypes, ops);
      StringRef wanted = isVector              ? "f32"
                         : !given.empty()      ? given
                         : requested == "keep" ? getStoredEncoding(ops)
                                               : requested;
      FittedEncoding fitted = fitEncoding(ops, wanted);
      if (fitted.misfit) {
        Misfits &entry = misfits[{wanted, fitted.encoding}];
        if (entry.names.empty())
          entry.first = fitted;
        for (WeightOp op : ops)
          entry.names.insert(op.getSymName());
      }
      for (WeightOp op : ops)
        op.getResult().setType(getWeightType(&getContext(), fitted.encoding,
                                             getShape(op.getType())));
    }
    std::string changes;
    for (auto &[types, entry] : misfits) {
      WeightOp first = entry.first.misfit;
      int64_t columns = getColumns(first.getType());
      int64_t leaf = first.getLeafColumns() ? first.getLeafColumns() : columns;
      size_t names = entry.names.size();
      std::string change = llvm::formatv(
          "{0} weight{1} packed as {2}, not {3}: rows of '{4}' have {5} "
          "columns in leaves of {6}, not multiples of {7}",
          names, names == 1 ? " is" : "s are", types.second, types.first,
          first.getSymName(), columns, leaf, entry.first.refusedGroup);
      module.emitRemark() << change;
      changes += "; " + change;
    }
    explainSizes(module, references, changes);
  }

  /// Says how many bytes the weights take, as packed and as stored.
  void explainSizes(
      ModuleOp module,
      const llvm::MapVector<StringRef, SmallVector<WeightOp>> &references,
      StringRef changes) {
    llvm::MapVector<StringRef, int64_t> count;
    int64_t packed = 0, stored = 0, elements = 0;
    for (auto &[name, ops] : references) {
      WeightOp weight = ops.front();
      Type type = weight.getType();
      if (getShape(type).size() < 2)
        continue;
      ++count[getEncoding(type)];
      packed += getWeightBytes(type);
      for (PieceAttr piece : weight.getPieceList())
        stored += getWeightBytes(piece.getType());
      elements += getShape(type)[0] * getShape(type)[1];
    }
    if (count.empty())
      return;
    std::string text;
    for (auto &[encoding, matrices] : count)
      text += llvm::formatv("{0}{1} matrices as {2}", text.empty() ? "" : ", ",
                            matrices, encoding);
    explain(module, getArgument(), text + changes,
            llvm::formatv("weights take {0:F1} MB, {1} each; as stored {2:F1} "
                          "MB, {3}",
                          packed * 1e-6, formatBits(packed, elements),
                          stored * 1e-6, formatBits(stored, elements)));
  }
};

} // namespace
