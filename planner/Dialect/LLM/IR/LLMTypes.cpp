//===- LLMTypes.cpp - Types of the llm dialect ----------------------------===//

#include "planner/Dialect/LLM/IR/LLMDialect.h"

#include "kernels/block_formats.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace llmir::llm;
namespace kernels = llmir::kernels;
using kernels::Encoding;

#define GET_TYPEDEF_CLASSES
#include "planner/Dialect/LLM/IR/LLMTypes.cpp.inc"

void LLMDialect::registerTypes() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "planner/Dialect/LLM/IR/LLMTypes.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// PagedKVCacheType
//===----------------------------------------------------------------------===//

LogicalResult
PagedKVCacheType::verify(function_ref<InFlightDiagnostic()> emitError,
                         Type elementType, int64_t numLayers, int64_t numHeads,
                         int64_t headDim, int64_t blockSize, int64_t maxSeqLen,
                         Type keyType, Type valueType) {
  for (Type type : {elementType, keyType, valueType})
    if (type && !type.isF32() && !type.isF16() && !type.isBF16() &&
        !type.isSignlessInteger(8) && !isa<Float8E4M3FNType>(type))
      return emitError() << "keys and values are stored as f32, f16, bf16, i8 "
                         << "or f8E4M3FN, got " << type;
  for (int64_t value : {numLayers, numHeads, headDim, blockSize, maxSeqLen})
    if (value <= 0)
      return emitError() << "every size of a cache must be positive, got "
                         << value;
  if (!llvm::isPowerOf2_64(blockSize))
    return emitError() << "a block holds a power of two of tokens, got "
                       << blockSize;
  return success();
}

PagedKVCacheType PagedKVCacheType::withLayers(int64_t layers) {
  return get(getContext(), getElementType(), layers, getNumHeads(),
             getHeadDim(), getBlockSize(), getMaxSeqLen(), getKeyType(),
             getValueType());
}

//===----------------------------------------------------------------------===//
// ShardedTensorType
//===----------------------------------------------------------------------===//

Type ShardedTensorType::parse(AsmParser &parser) {
  Type original;
  int64_t dim = 0, shards = 0, index = ShapedType::kDynamic;
  SmallVector<int64_t> offsets;
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess() || parser.parseType(original) || parser.parseComma() ||
      parser.parseInteger(dim) || parser.parseComma() ||
      parser.parseInteger(shards) || parser.parseComma())
    return {};
  if (failed(parser.parseOptionalQuestion()) && parser.parseInteger(index))
    return {};
  if (succeeded(parser.parseOptionalComma())) {
    FailureOr<SmallVector<int64_t>> list = parseIntegerList(parser);
    if (failed(list))
      return {};
    offsets = *list;
  }
  if (parser.parseGreater())
    return {};
  return getChecked([&] { return parser.emitError(loc); }, parser.getContext(),
                    original, dim, shards, index, ArrayRef<int64_t>(offsets));
}

void ShardedTensorType::print(AsmPrinter &printer) const {
  printer << '<' << getOriginalType() << ", " << getShardDim() << ", "
          << getNumShards() << ", ";
  if (ShapedType::isDynamic(getShardIndex()))
    printer << '?';
  else
    printer << getShardIndex();
  if (!getOffsets().empty()) {
    printer << ", ";
    printIntegerList(printer, getOffsets());
  }
  printer << '>';
}

LogicalResult
ShardedTensorType::verify(function_ref<InFlightDiagnostic()> emitError,
                          Type originalType, int64_t shardDim,
                          int64_t numShards, int64_t shardIndex,
                          ArrayRef<int64_t> offsets) {
  if (!isa<RankedTensorType, QuantizedTensorType>(originalType))
    return emitError() << "only tensors can be sharded, got " << originalType;
  ArrayRef<int64_t> shape = ::getShape(originalType);
  if (shardDim < 0 || shardDim >= static_cast<int64_t>(shape.size()))
    return emitError() << "shard dimension " << shardDim << " of a tensor with "
                       << shape.size() << " dimensions";
  if (numShards < 1)
    return emitError() << "needs at least 1 shard, got " << numShards;
  if (!ShapedType::isDynamic(shardIndex) &&
      (shardIndex < 0 || shardIndex >= numShards))
    return emitError() << "shard index " << shardIndex << " isn't below the "
                       << "number of shards, " << numShards;
  int64_t size = shape[shardDim];
  if (offsets.empty()) {
    if (!ShapedType::isDynamic(size) && size % numShards != 0)
      return emitError() << size << " elements can't be divided evenly into "
                         << numShards << " shards; give their offsets";
    return success();
  }
  if (static_cast<int64_t>(offsets.size()) != numShards + 1)
    return emitError() << numShards << " shards need " << numShards + 1
                       << " offsets, got " << offsets.size();
  if (offsets.front() != 0 || !llvm::is_sorted(offsets))
    return emitError() << "offsets must ascend from 0";
  if (!ShapedType::isDynamic(size) && offsets.back() < size)
    return emitError() << "shards cover " << offsets.back() << " of " << size
                       << " elements";
  return success();
}

int64_t ShardedTensorType::getShardSize(int64_t index) const {
  if (!getOffsets().empty())
    return getOffsets()[index + 1] - getOffsets()[index];
  int64_t size = ::getShape(getOriginalType())[getShardDim()];
  return ShapedType::isDynamic(size) ? size : size / getNumShards();
}

//===----------------------------------------------------------------------===//
// QuantizedTensorType
//===----------------------------------------------------------------------===//

LogicalResult QuantizedTensorType::verify(
    function_ref<InFlightDiagnostic()> emitError, Type elementType,
    ArrayRef<int64_t> shape, bool isSymmetric, bool isPerChannel,
    int64_t quantAxis, int64_t groupSize, int64_t numBits) {
  if (!elementType.isIntOrFloat())
    return emitError() << "the element type must be a number, got "
                       << elementType;
  if (shape.empty() || llvm::any_of(shape, [](int64_t size) {
        return !ShapedType::isDynamic(size) && size < 0;
      }))
    return emitError() << "needs a shape of one or more dimensions";
  if (quantAxis < 0 || quantAxis >= static_cast<int64_t>(shape.size()))
    return emitError() << "quantization axis " << quantAxis
                       << " of a tensor with " << shape.size() << " dimensions";
  if (numBits < 2 || numBits > 8)
    return emitError() << "2 to 8 bits per element, got " << numBits;
  if (groupSize < 0 || (groupSize == 0) != isPerChannel)
    return emitError() << "needs a group size, or 0 with scales per channel";
  int64_t size = shape[quantAxis];
  if (groupSize > 0 && !ShapedType::isDynamic(size) && size % groupSize != 0)
    return emitError() << size << " elements along the quantization axis "
                       << "aren't a multiple of the group size, " << groupSize;
  return success();
}

//===----------------------------------------------------------------------===//
// Questions about types
//===----------------------------------------------------------------------===//

Type llmir::llm::getWholeType(Type type) {
  if (auto sharded = dyn_cast<ShardedTensorType>(type))
    return sharded.getOriginalType();
  return type;
}

ArrayRef<int64_t> llmir::llm::getShape(Type type) {
  return llvm::TypeSwitch<Type, ArrayRef<int64_t>>(getWholeType(type))
      .Case<RankedTensorType, QuantizedTensorType>(
          [](auto tensor) { return tensor.getShape(); })
      .Default([](Type) { return ArrayRef<int64_t>(); });
}

bool llmir::llm::isQuantized(Type type) {
  return isa<QuantizedTensorType>(getWholeType(type));
}

int64_t llmir::llm::getNumShards(Type type) {
  auto sharded = dyn_cast<ShardedTensorType>(type);
  return sharded ? sharded.getNumShards() : 1;
}

int64_t llmir::llm::getShardDim(Type type) {
  auto sharded = dyn_cast<ShardedTensorType>(type);
  return sharded ? sharded.getShardDim() : -1;
}

/// Elements along `dim`, on the shard of `rank` where that is divided.
static int64_t getSize(Type type, int64_t dim, int64_t rank) {
  if (getShardDim(type) == dim)
    return cast<ShardedTensorType>(type).getShardSize(rank);
  return llmir::llm::getShape(type)[dim];
}

int64_t llmir::llm::getRows(Type type, int64_t rank) {
  return getShape(type).size() < 2 ? 1 : getSize(type, 0, rank);
}

int64_t llmir::llm::getColumns(Type type, int64_t rank) {
  return getSize(type, getShape(type).size() - 1, rank);
}

/// int8 with an f32 scale per group of a row.
static bool isInt8Rows(QuantizedTensorType type) {
  return type.getElementType().isF32() && type.getIsSymmetric() &&
         type.getQuantAxis() == 1 && type.getGroupSize() == kQuantGroup &&
         type.getNumBits() == 8;
}

bool llmir::llm::isActivationType(Type type) {
  ArrayRef<int64_t> shape = getShape(type);
  if (shape.size() != 2 || !ShapedType::isDynamic(shape[0]) ||
      ShapedType::isDynamic(shape[1]) || getShardDim(type) == 0)
    return false;
  Type whole = getWholeType(type);
  if (auto quantized = dyn_cast<QuantizedTensorType>(whole))
    return isInt8Rows(quantized);
  Type element = cast<RankedTensorType>(whole).getElementType();
  return element.isF32() || element.isInteger(32);
}

bool llmir::llm::isIdMatrix(Type type) {
  auto tensor = dyn_cast<RankedTensorType>(getWholeType(type));
  return isActivationType(type) && tensor &&
         tensor.getElementType().isInteger(32);
}

/// The block format of a matrix whose rows are quantized in groups.
static std::optional<Encoding> findBlockFormat(QuantizedTensorType type) {
  if (type.getShape().size() != 2 || type.getQuantAxis() != 1 ||
      !type.getElementType().isF16())
    return std::nullopt;
  for (int i = 0; i < kernels::kEncodingCount; ++i) {
    auto encoding = static_cast<Encoding>(i);
    const kernels::Format &format = kernels::FormatOf(encoding);
    if (format.group != 0 && format.group == type.getGroupSize() &&
        format.bits == type.getNumBits() &&
        format.minimum != type.getIsSymmetric())
      return encoding;
  }
  return std::nullopt;
}

bool llmir::llm::isWeightType(Type type) {
  ArrayRef<int64_t> shape = getShape(type);
  if (shape.empty() || shape.size() > 2 || ShapedType::isDynamicShape(shape))
    return false;
  Type whole = getWholeType(type);
  if (auto quantized = dyn_cast<QuantizedTensorType>(whole))
    return findBlockFormat(quantized).has_value();
  Type element = cast<RankedTensorType>(whole).getElementType();
  return element.isF32() || element.isF16() || element.isBF16();
}

int64_t llmir::llm::getWeightBytes(Type type) {
  std::optional<Encoding> encoding = kernels::FindEncoding(getEncoding(type));
  ArrayRef<int64_t> shape = getShape(type);
  int64_t rows = shape.size() < 2 ? 1 : shape.front();
  return rows * kernels::BlockRowBytes(*encoding, shape.back());
}

StringRef llmir::llm::getEncoding(Type weight) {
  if (!isWeightType(weight))
    return "";
  Type whole = getWholeType(weight);
  if (auto quantized = dyn_cast<QuantizedTensorType>(whole))
    return kernels::FormatOf(*findBlockFormat(quantized)).name;
  Type element = cast<RankedTensorType>(whole).getElementType();
  if (element.isF32())
    return "f32";
  return element.isF16() ? "f16" : "bf16";
}

Type llmir::llm::getWeightType(MLIRContext *context, StringRef encoding,
                               ArrayRef<int64_t> shape) {
  if (encoding == "f32")
    return RankedTensorType::get(shape, Float32Type::get(context));
  if (encoding == "f16")
    return RankedTensorType::get(shape, Float16Type::get(context));
  if (encoding == "bf16")
    return RankedTensorType::get(shape, BFloat16Type::get(context));
  const kernels::Format &format =
      kernels::FormatOf(*kernels::FindEncoding(encoding));
  return QuantizedTensorType::get(
      context, Float16Type::get(context), shape,
      /*isSymmetric=*/!format.minimum, /*isPerChannel=*/false,
      /*quantAxis=*/shape.size() - 1, format.group, format.bits);
}

Type llmir::llm::getActivationType(Type element, int64_t columns) {
  return RankedTensorType::get({ShapedType::kDynamic, columns}, element);
}

Type llmir::llm::getInt8ActivationType(MLIRContext *context, int64_t columns) {
  return QuantizedTensorType::get(
      context, Float32Type::get(context), {ShapedType::kDynamic, columns},
      /*isSymmetric=*/true, /*isPerChannel=*/false, /*quantAxis=*/1,
      /*groupSize=*/kQuantGroup, /*numBits=*/8);
}

Type llmir::llm::shardColumns(Type whole, ArrayRef<int64_t> columns) {
  if (columns.size() == 1)
    return whole;
  SmallVector<int64_t> offsets = {0};
  for (int64_t count : columns)
    offsets.push_back(offsets.back() + count);
  return ShardedTensorType::get(whole.getContext(), whole,
                                getShape(whole).size() - 1, columns.size(),
                                ShapedType::kDynamic, offsets);
}

Type llmir::llm::getDividedFloats(MLIRContext *context,
                                  ArrayRef<int64_t> columns) {
  return shardColumns(
      getActivationType(Float32Type::get(context), llvm::sum_of(columns)),
      columns);
}

Type llmir::llm::withColumnsOf(Type type, Type model) {
  Type whole = getWholeType(type);
  int64_t columns = getShape(model)[1];
  if (isQuantized(whole))
    whole = getInt8ActivationType(type.getContext(), columns);
  else
    whole = getActivationType(cast<RankedTensorType>(whole).getElementType(),
                              columns);
  auto sharded = dyn_cast<ShardedTensorType>(model);
  if (!sharded)
    return whole;
  return ShardedTensorType::get(type.getContext(), whole, sharded.getShardDim(),
                                sharded.getNumShards(), sharded.getShardIndex(),
                                sharded.getOffsets());
}
