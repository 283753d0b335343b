//===- LLMAttrs.cpp - Attributes of the llm dialect -----------------------===//

#include "planner/Dialect/LLM/IR/LLMDialect.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace llmir::llm;

#include "planner/Dialect/LLM/IR/LLMEnums.cpp.inc"

#define GET_ATTRDEF_CLASSES
#include "planner/Dialect/LLM/IR/LLMAttrs.cpp.inc"

void LLMDialect::registerAttributes() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "planner/Dialect/LLM/IR/LLMAttrs.cpp.inc"
      >();
}

FailureOr<SmallVector<int64_t>>
llmir::llm::parseIntegerList(AsmParser &parser) {
  SmallVector<int64_t> list;
  auto parseElement = [&]() -> ParseResult {
    if (succeeded(parser.parseOptionalQuestion())) {
      list.push_back(ShapedType::kDynamic);
      return success();
    }
    if (parser.parseInteger(list.emplace_back()))
      return failure();
    if (failed(parser.parseOptionalKeyword("x")))
      return success();
    llvm::SMLoc loc = parser.getCurrentLocation();
    int64_t count;
    if (parser.parseInteger(count))
      return failure();
    constexpr int64_t kMost = int64_t{1} << 20;
    if (count < 1 || count > kMost)
      return parser.emitError(loc) << "repeats a value " << count
                                   << " times, expected 1 to " << kMost;
    list.append(count - 1, list.back());
    return success();
  };
  if (parser.parseCommaSeparatedList(AsmParser::Delimiter::Square,
                                     parseElement))
    return failure();
  return list;
}

void llmir::llm::printIntegerList(AsmPrinter &printer, ArrayRef<int64_t> list) {
  // What all of many ranks have alike is written once.
  constexpr size_t kShortestRun = 4;
  printer << '[';
  for (size_t i = 0; i < list.size();) {
    if (i > 0)
      printer << ", ";
    int64_t value = list[i];
    size_t run = list.drop_front(i)
                     .take_while([&](int64_t other) { return other == value; })
                     .size();
    if (ShapedType::isDynamic(value)) {
      printer << '?';
      run = 1;
    } else if (run >= kShortestRun) {
      printer << value << " x " << run;
    } else {
      printer << value;
      run = 1;
    }
    i += run;
  }
  printer << ']';
}

FailureOr<bool> llmir::llm::parseBool(AsmParser &parser) {
  if (succeeded(parser.parseOptionalKeyword("true")))
    return true;
  if (succeeded(parser.parseOptionalKeyword("false")))
    return false;
  return parser.emitError(parser.getCurrentLocation(),
                          "expected 'true' or 'false'");
}

int64_t ModelAttr::getLeafCount(Unit unit) const {
  switch (unit) {
  case Unit::Whole:
    return 1;
  case Unit::QueryHead:
    return getQueryHeads();
  case Unit::KvHead:
    return getKvHeads();
  case Unit::MlpColumn:
    return llvm::divideCeil(getMlpColumns(), getMlpLeaf());
  case Unit::Vocabulary:
    return llvm::divideCeil(getVocabulary(), getVocabularyLeaf());
  }
  llvm_unreachable("unknown unit");
}

LogicalResult ModelAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                int64_t layers, int64_t hidden,
                                int64_t queryHeads, int64_t kvHeads,
                                int64_t headDim, int64_t mlpColumns,
                                int64_t vocabulary, int64_t mlpLeaf,
                                int64_t vocabularyLeaf) {
  for (int64_t value : {layers, hidden, queryHeads, kvHeads, headDim,
                        mlpColumns, vocabulary, mlpLeaf, vocabularyLeaf})
    if (value <= 0)
      return emitError() << "every size of a model must be positive, got "
                         << value;
  if (queryHeads % kvHeads != 0)
    return emitError() << queryHeads << " query heads can't share " << kvHeads
                       << " KV heads evenly";
  return success();
}

LogicalResult PieceAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                StringRef tensor, Type type, Unit unit,
                                Axis axis, int64_t leaf) {
  if (!isWeightType(type))
    return emitError() << "piece '" << tensor << "' has type " << type
                       << ", which isn't that of a weight";
  bool whole = unit == Unit::Whole;
  if (whole != (axis == Axis::None) || whole != (leaf == 0) || leaf < 0)
    return emitError() << "piece '" << tensor << "': a divided tensor needs "
                       << "unit, axis and leaf, a whole one none of them";
  return success();
}

/// Ascending boundaries that start at 0.
static bool areBoundaries(ArrayRef<int64_t> list) {
  return list.size() >= 2 && list.front() == 0 && llvm::is_sorted(list);
}

LogicalResult
StageAttr::verify(function_ref<InFlightDiagnostic()> emitError, int64_t index,
                  int64_t firstRank, ArrayRef<int64_t> layers,
                  ArrayRef<int64_t> queryHead, ArrayRef<int64_t> kvHead,
                  ArrayRef<int64_t> mlpColumn, ArrayRef<int64_t> vocabulary) {
  if (index < 0 || firstRank < 0)
    return emitError() << "stage and rank numbers must not be negative";
  if (layers.size() != 2 || layers[0] < 0 || layers[0] >= layers[1])
    return emitError() << "a stage needs layers [begin, end), not empty";
  if (!areBoundaries(queryHead) || !areBoundaries(mlpColumn) ||
      !areBoundaries(vocabulary))
    return emitError() << "leaf boundaries must ascend from 0";
  if (mlpColumn.size() != queryHead.size() ||
      vocabulary.size() != queryHead.size() ||
      kvHead.size() != 2 * (queryHead.size() - 1))
    return emitError() << "leaf boundaries of all units must be for the same "
                       << "number of ranks";
  return success();
}

std::pair<int64_t, int64_t> StageAttr::getLeaves(Unit unit,
                                                 int64_t rank) const {
  switch (unit) {
  case Unit::Whole:
    return {0, 1};
  case Unit::QueryHead:
    return {getQueryHead()[rank], getQueryHead()[rank + 1]};
  case Unit::KvHead:
    return {getKvHead()[2 * rank], getKvHead()[2 * rank + 1]};
  case Unit::MlpColumn:
    return {getMlpColumn()[rank], getMlpColumn()[rank + 1]};
  case Unit::Vocabulary:
    return {getVocabulary()[rank], getVocabulary()[rank + 1]};
  }
  llvm_unreachable("unknown unit");
}

LogicalResult ProgramAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                  ProgramKind kind, int64_t minTokens,
                                  int64_t maxTokens, int64_t maxSampled) {
  if (minTokens < 1 || maxTokens < minTokens)
    return emitError() << "a program is for 1 or more tokens, got ["
                       << minTokens << ", " << maxTokens << "]";
  if (maxSampled < 0 || maxSampled > maxTokens)
    return emitError() << maxSampled << " sampled rows of " << maxTokens
                       << " tokens";
  return success();
}

LogicalResult BufferAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                 int64_t id, Rows rows, int64_t maxRows,
                                 int64_t arena, ArrayRef<int64_t> offsets,
                                 ArrayRef<int64_t> bytes, int64_t first,
                                 int64_t last) {
  if (offsets.empty() || offsets.size() != bytes.size())
    return emitError() << "a buffer needs an offset and a size per rank";
  for (auto [offset, size] : llvm::zip(offsets, bytes))
    if (offset < 0 || offset % 64 != 0 || size < 0)
      return emitError() << "offset " << offset
                         << " must be a non-negative multiple of 64";
  if (first > last)
    return emitError() << "live from step " << first << " to " << last;
  return success();
}

//===----------------------------------------------------------------------===//
// AttentionAttr
//===----------------------------------------------------------------------===//

LogicalResult
AttentionAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                      AttentionForm, int64_t window, bool, FloatAttr softcap) {
  if (window < 0)
    return emitError() << "a window has tokens or is 0, got " << window;
  if (softcap && !(softcap.getValueAsDouble() > 0 && softcap.getType().isF32()))
    return emitError() << "a softcap is a positive f32, got " << softcap;
  return success();
}
