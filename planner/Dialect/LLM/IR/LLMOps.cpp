//===- LLMOps.cpp - Verifiers of the llm dialect's operations -------------===//

#include "planner/Dialect/LLM/IR/LLMDialect.h"

#include "mlir/IR/Builders.h"

using namespace mlir;
using namespace llmir::llm;

#include "planner/Dialect/LLM/IR/LLMInterfaces.cpp.inc"

#define GET_OP_CLASSES
#include "planner/Dialect/LLM/IR/LLMOps.cpp.inc"

//===----------------------------------------------------------------------===//
// Shared checks
//===----------------------------------------------------------------------===//

/// The number of ranks that `types` are divided among: those that are sharded
/// must agree.
static FailureOr<int64_t> getRankCount(Operation *op, TypeRange types) {
  int64_t ranks = 1;
  for (Type type : types) {
    int64_t shards = getNumShards(type);
    if (shards == 1)
      continue;
    if (ranks != 1 && shards != ranks)
      return op->emitOpError()
             << "mixes tensors of " << ranks << " and " << shards << " shards";
    ranks = shards;
  }
  return ranks;
}

/// A matrix of activations whose columns on each rank are as `expected`.
static LogicalResult
verifyColumns(Operation *op, StringRef what, Type type, int64_t ranks,
              llvm::function_ref<int64_t(int64_t)> expected) {
  for (int64_t rank = 0; rank < ranks; ++rank) {
    int64_t columns = getColumns(type, rank);
    if (columns == expected(rank))
      continue;
    InFlightDiagnostic diagnostic = op->emitOpError()
                                    << what << " has " << columns << " columns";
    if (ranks > 1)
      diagnostic << " on rank " << rank;
    return diagnostic << ", expected " << expected(rank);
  }
  return success();
}

static LogicalResult verifySameColumns(Operation *op, StringRef what, Type type,
                                       Type model) {
  FailureOr<int64_t> ranks = getRankCount(op, {type, model});
  if (failed(ranks))
    return failure();
  return verifyColumns(op, what, type, *ranks,
                       [&](int64_t rank) { return getColumns(model, rank); });
}

static LogicalResult verifyMatrix(Operation *op, Type weight) {
  if (getShape(weight).size() == 2)
    return success();
  return op->emitOpError() << "the weight must be a matrix, got " << weight;
}

/// An operation that works on rows that every rank has all columns of.
static Division divideWholeRows(int64_t dim) {
  return dim == 0 ? Division::Rows : Division::Impossible;
}

Division llmir::llm::getDivision(Operation *op) {
  auto shardable = dyn_cast<ShardableOpInterface>(op);
  Division all = Division::Whole;
  for (OpOperand &operand : op->getOpOperands()) {
    Type type = operand.get().getType();
    if (getNumShards(type) == 1)
      continue;
    Division division = shardable
                            ? shardable.getDivision(operand, getShardDim(type))
                            : Division::Impossible;
    if (all != Division::Whole && division != all)
      return Division::Impossible;
    all = division;
  }
  return all;
}

//===----------------------------------------------------------------------===//
// Weights and the look-up of embeddings
//===----------------------------------------------------------------------===//

SmallVector<PieceAttr> WeightOp::getPieceList() {
  return llvm::map_to_vector(
      getPieces(), [](Attribute piece) { return cast<PieceAttr>(piece); });
}

LogicalResult WeightOp::verify() {
  SmallVector<PieceAttr> pieces = getPieceList();
  if (pieces.empty())
    return emitOpError() << "needs at least one piece";
  ArrayRef<int64_t> shape = getShape(getType());
  int64_t rows = 0;
  for (PieceAttr piece : pieces) {
    if (getShape(piece.getType()).size() != shape.size() ||
        getShape(piece.getType()).back() != shape.back())
      return emitOpError() << "piece '" << piece.getTensor() << "' of type "
                           << piece.getType() << " doesn't fit a weight of "
                           << shape.back() << " columns";
    if (piece.getAxis() != getAxis())
      return emitOpError() << "pieces are divided along different axes";
    rows += getRows(piece.getType());
  }
  if (rows != getRows(getWholeType(getType())))
    return emitOpError() << "pieces have " << rows << " rows, the weight has "
                         << getRows(getWholeType(getType()));
  if (pieces.size() > 1 && getAxis() == Axis::Columns)
    return emitOpError() << "weights divided by columns can't be joined by "
                         << "rows";
  if (getInterleaved() &&
      (pieces.size() != 2 ||
       getShape(pieces[0].getType()) != getShape(pieces[1].getType())))
    return emitOpError() << "only two pieces of equal shape can be interleaved";
  int64_t dim = getShardDim(getType());
  if (dim != -1 && dim != (getAxis() == Axis::Rows ? 0 : 1))
    return emitOpError() << "is sharded along dimension " << dim
                         << ", its pieces are divided by "
                         << stringifyAxis(getAxis());
  return success();
}

LogicalResult EmbeddingOp::verify() {
  Type weight = getWeight().getType();
  if (failed(verifyMatrix(*this, weight)))
    return failure();
  if (getShardDim(weight) == 1)
    return emitOpError() << "an embedding is divided by rows, not columns";
  return verifyColumns(*this, "the result", getType(), 1,
                       [&](int64_t) { return getColumns(weight); });
}

Division EmbeddingOp::getDivision(OpOperand &operand, int64_t dim) {
  return &operand == &getWeightMutable() && dim == 0 ? Division::Partial
                                                     : Division::Impossible;
}

//===----------------------------------------------------------------------===//
// Dense layers
//===----------------------------------------------------------------------===//

bool LinearOp::isPartial() { return getShardDim(getWeight().getType()) == 1; }

LogicalResult LinearOp::verify() {
  Type input = getInput().getType(), weight = getWeight().getType();
  if (failed(verifyMatrix(*this, weight)))
    return failure();
  FailureOr<int64_t> ranks = getRankCount(*this, {input, weight, getType()});
  if (failed(ranks))
    return failure();
  if (failed(
          verifyColumns(*this, "the input", input, *ranks, [&](int64_t rank) {
            return getColumns(weight, rank);
          })))
    return failure();
  if (isQuantized(input) && !isQuantized(weight))
    return emitOpError() << "int8 activations need a quantized weight, got "
                         << weight;
  if (getSiluMul() && getResidual())
    return emitOpError() << "has one epilogue: residual or silu_mul, not both";
  int64_t pieces = getSiluMul() ? 2 : 1;
  for (int64_t rank = 0; rank < *ranks; ++rank)
    if (getRows(weight, rank) % pieces != 0)
      return emitOpError() << "silu_mul needs two pieces of equal size";
  if (failed(verifyColumns(
          *this, "the result", getType(), *ranks,
          [&](int64_t rank) { return getRows(weight, rank) / pieces; })))
    return failure();
  if (!getResidual())
    return success();
  if (isPartial())
    return emitOpError() << "a partial sum can't take the residual: every rank "
                         << "would add it";
  if (getResidual().getType() != getType())
    return emitOpError() << "residual " << getResidual().getType()
                         << " and result " << getType() << " differ";
  return success();
}

Division LinearOp::getDivision(OpOperand &operand, int64_t dim) {
  if (&operand == &getWeightMutable())
    return dim == 0 ? Division::Columns : Division::Partial;
  if (dim == 0)
    return Division::Rows;
  return &operand == &getInputMutable() ? Division::Partial : Division::Columns;
}

void LinearOp::divideResults(ModelAttr, StageAttr stage) {
  Type weight = getWeight().getType();
  SmallVector<int64_t> columns;
  for (int64_t rank = 0; rank < stage.getRanks(); ++rank)
    columns.push_back(getRows(weight, rank) / (getSiluMul() ? 2 : 1));
  getResult().setType(getDividedFloats(getContext(), columns));
}

SmallVector<Value, 2> LinearOp::getInPlaceValues() {
  if (!getResidual())
    return {};
  return {getResidual()};
}

bool LinearOp::worksInPlace() { return false; }

/// Norms are over whole rows, and their weight is a vector.
static LogicalResult verifyNorm(Operation *op, Type input, Type weight,
                                Type result, const APFloat &epsilon) {
  if (getShape(weight).size() != 1)
    return op->emitOpError() << "the weight must be a vector, got " << weight;
  if (getNumShards(input) != 1)
    return op->emitOpError() << "needs whole rows, got " << input;
  if (epsilon.isNegative() || !epsilon.isFinite())
    return op->emitOpError() << "epsilon must not be negative";
  if (failed(verifyColumns(op, "the input", input, 1,
                           [&](int64_t) { return getColumns(weight); })))
    return failure();
  return verifySameColumns(op, "the result", result, input);
}

LogicalResult RMSNormOp::verify() {
  return verifyNorm(*this, getInput().getType(), getWeight().getType(),
                    getType(), getEpsilon());
}

Division RMSNormOp::getDivision(OpOperand &, int64_t dim) {
  return divideWholeRows(dim);
}

LogicalResult LayerNormOp::verify() {
  return verifyNorm(*this, getInput().getType(), getWeight().getType(),
                    getType(), getEpsilon());
}

Division LayerNormOp::getDivision(OpOperand &, int64_t dim) {
  return divideWholeRows(dim);
}

LogicalResult ActivationOp::verify() {
  if (getUp() && getUp().getType() != getType())
    return emitOpError() << "multiplies " << getType() << " with "
                         << getUp().getType();
  return success();
}

LogicalResult SoftcapOp::verify() {
  if (!getCap().isFinite() || getCap().isNegative() || getCap().isZero())
    return emitOpError() << "the cap must be positive";
  return success();
}

SmallVector<Value, 2> AddOp::getInPlaceValues() { return {getLhs(), getRhs()}; }

bool AddOp::worksInPlace() { return false; }

LogicalResult QuantizeOp::verify() {
  if (!isQuantized(getType()))
    return emitOpError() << "the result must be a quantized tensor, got "
                         << getType();
  Type input = getInput().getType();
  for (int64_t rank = 0; rank < getNumShards(input); ++rank)
    if (getColumns(input, rank) % kQuantGroup != 0)
      return emitOpError() << getColumns(input, rank)
                           << " columns aren't a multiple of " << kQuantGroup;
  return verifySameColumns(*this, "the result", getType(), input);
}

LogicalResult DequantizeOp::verify() {
  Type input = getInput().getType();
  if (!isQuantized(input))
    return emitOpError() << "the input must be a quantized tensor, got "
                         << input;
  return verifySameColumns(*this, "the result", getType(), input);
}

/// Input times transposed weight, on whole matrices.
static LogicalResult verifyProduct(Operation *op, Type input, Type weight,
                                   Type result) {
  for (Type type : {input, weight, result})
    if (getNumShards(type) != 1)
      return op->emitOpError()
             << "must be lowered before it's divided, got " << type;
  if (failed(verifyColumns(op, "the input", input, 1,
                           [&](int64_t) { return getColumns(weight); })))
    return failure();
  return verifyColumns(op, "the result", result, 1,
                       [&](int64_t) { return getShape(weight)[0]; });
}

LogicalResult QuantizedMatmulOp::verify() {
  return verifyProduct(*this, getInput().getType(), getWeight().getType(),
                       getType());
}

//===----------------------------------------------------------------------===//
// Attention and the KV cache
//===----------------------------------------------------------------------===//

LogicalResult llmir::llm::verifyCacheOperation(Operation *op) {
  auto cacheOp = cast<KVCacheOpInterface>(op);
  PagedKVCacheType cache = cacheOp.getCache().getType();
  if (cacheOp.appends() && cacheOp.getNewCache().getType() != cache)
    return op->emitOpError() << "appends to " << cache << " but returns "
                             << cacheOp.getNewCache().getType();
  if (cacheOp.getLayer() < static_cast<uint64_t>(cache.getNumLayers()))
    return success();
  return op->emitOpError() << "layer "
                           << static_cast<int64_t>(cacheOp.getLayer())
                           << " of a cache of " << cache.getNumLayers()
                           << " layers";
}

static LogicalResult verifySharing(Operation *op, int64_t queryHeads,
                                   int64_t kvHeads) {
  if (kvHeads > 0 && queryHeads % kvHeads == 0)
    return success();
  return op->emitOpError() << queryHeads << " query heads can't share "
                           << kvHeads << " KV heads evenly";
}

/// [batch, tokens, heads, headDim].
static LogicalResult verifyHeads(Operation *op, StringRef what, Type type,
                                 PagedKVCacheType cache, bool kvHeads) {
  ArrayRef<int64_t> shape = getShape(type);
  if (shape.size() != 4)
    return op->emitOpError() << what << " must be [batch, tokens, heads, "
                             << "headDim] or a matrix of rows, got " << type;
  if (shape[3] != cache.getHeadDim())
    return op->emitOpError() << what << " has heads of size " << shape[3]
                             << ", the cache of " << cache.getHeadDim();
  if (kvHeads && shape[2] != cache.getNumHeads())
    return op->emitOpError() << what << " has " << shape[2]
                             << " heads, the cache has " << cache.getNumHeads();
  return kvHeads ? success() : verifySharing(op, shape[2], cache.getNumHeads());
}

/// Keys or values of one row per token, or [batch, tokens, heads, headDim].
static LogicalResult verifyKeys(Operation *op, StringRef what, Type type,
                                PagedKVCacheType cache) {
  if (!isActivationType(type))
    return verifyHeads(op, what, type, cache, /*kvHeads=*/true);
  return verifyColumns(op, what, type, 1, [&](int64_t) {
    return cache.getNumHeads() * cache.getHeadDim();
  });
}

LogicalResult AttentionOp::verify() {
  Type query = getQuery().getType(), keys = getKeys().getType();
  ArrayRef<int64_t> shape = getShape(query);
  if (shape.size() == 4) {
    if (getShape(keys).size() != 4 || getShape(keys)[3] != shape[3])
      return emitOpError() << "queries " << query << " and keys " << keys
                           << " have heads of different sizes";
    return verifySharing(*this, shape[2], getShape(keys)[2]);
  }
  for (Type type : {query, keys})
    if (!isActivationType(type) || isQuantized(type) || isIdMatrix(type) ||
        getNumShards(type) != 1)
      return emitOpError() << "queries, keys and values must be [batch, "
                           << "tokens, heads, headDim] or matrices of float "
                           << "rows, got " << type;
  int64_t headDim = getHeadSize();
  if (headDim <= 0)
    return emitOpError() << "rows of heads need 'head_dim'";
  for (Type type : {query, keys})
    if (getColumns(type) % headDim != 0)
      return emitOpError() << getColumns(type) << " columns aren't heads of "
                           << "size " << headDim;
  return verifySharing(*this, getColumns(query) / headDim,
                       getColumns(keys) / headDim);
}

LogicalResult LookupKVOp::verify() {
  if (getKeys().getType() != getValues().getType())
    return emitOpError() << "keys " << getKeys().getType() << " and values "
                         << getValues().getType() << " differ";
  return verifyKeys(*this, "keys", getKeys().getType(), getCache().getType());
}

LogicalResult RopeOp::verify() {
  if (getHeadDim() == 0 || getHeadDim() % 2 != 0 ||
      getColumns(getType()) % getHeadDim() != 0)
    return emitOpError() << getColumns(getType())
                         << " columns aren't heads of an even size "
                         << getHeadDim();
  return success();
}

LogicalResult AppendKVOp::verify() {
  if (getKeys().getType() != getValues().getType())
    return emitOpError() << "keys " << getKeys().getType() << " and values "
                         << getValues().getType() << " differ";
  return verifyKeys(*this, "keys", getKeys().getType(), getCache().getType());
}

LogicalResult RopeAppendOp::verify() {
  PagedKVCacheType cache = getCache().getType();
  Type qkv = getQkv().getType();
  if (getResult().getType() != qkv)
    return emitOpError() << "rewrites " << qkv << " but returns "
                         << getResult().getType();
  for (int64_t rank = 0; rank < getNumShards(qkv); ++rank) {
    int64_t columns = getColumns(qkv, rank);
    if (columns % cache.getHeadDim() != 0 || columns < 3 * cache.getHeadDim())
      return emitOpError() << columns << " columns aren't queries, keys and "
                           << "values of heads of size " << cache.getHeadDim();
  }
  // Shards repeat KV heads where a border splits a group.
  if (getNumShards(qkv) > 1)
    return success();
  return verifySharing(
      *this, getColumns(qkv) / cache.getHeadDim() - 2 * cache.getNumHeads(),
      cache.getNumHeads());
}

Division RopeAppendOp::getDivision(OpOperand &operand, int64_t dim) {
  return &operand == &getQkvMutable() && dim == 1 ? Division::Columns
                                                  : Division::Impossible;
}

SmallVector<Value, 2> RopeAppendOp::getInPlaceValues() { return {getQkv()}; }

/// Rows of queries, or of queries, keys and values, that give rows of head
/// outputs.
static LogicalResult verifyHeadOutputs(Operation *op, Type query, Type result,
                                       PagedKVCacheType cache) {
  FailureOr<int64_t> ranks = getRankCount(op, {query, result});
  if (failed(ranks))
    return failure();
  int64_t headDim = cache.getHeadDim();
  for (int64_t rank = 0; rank < *ranks; ++rank) {
    int64_t columns = getColumns(result, rank);
    // Queries alone, or keys and values of equally many heads behind them.
    int64_t rest = getColumns(query, rank) - columns;
    if (columns == 0 || columns % headDim != 0 || rest < 0 ||
        rest % (2 * headDim) != 0)
      return op->emitOpError() << "queries of " << getColumns(query, rank)
                               << " columns can't give " << columns
                               << " columns of heads of size " << headDim;
  }
  return verifySharing(op, getShape(result)[1] / headDim, cache.getNumHeads());
}

/// Columns of this rank's query heads.
static Type getDividedHeadOutputs(MLIRContext *context, ModelAttr model,
                                  StageAttr stage) {
  SmallVector<int64_t> columns;
  for (int64_t rank = 0; rank < stage.getRanks(); ++rank) {
    auto [begin, end] = stage.getLeaves(Unit::QueryHead, rank);
    columns.push_back((end - begin) * model.getHeadDim());
  }
  return getDividedFloats(context, columns);
}

LogicalResult PagedAttentionOp::verify() {
  PagedKVCacheType cache = getCache().getType();
  Type query = getQuery().getType(), result = getType();
  if (!isActivationType(query)) {
    if (query != result)
      return emitOpError() << "query " << query << " and result " << result
                           << " differ";
    return verifyHeads(*this, "the query", query, cache, /*kvHeads=*/false);
  }
  if (!isActivationType(result) || isQuantized(query) || isQuantized(result))
    return emitOpError() << "a matrix of queries needs a float matrix of head "
                         << "outputs, got " << result;
  return verifyHeadOutputs(*this, query, result, cache);
}

Division PagedAttentionOp::getDivision(OpOperand &operand, int64_t dim) {
  return &operand == &getQueryMutable() && dim == 1 ? Division::Columns
                                                    : Division::Impossible;
}

void PagedAttentionOp::divideResults(ModelAttr model, StageAttr stage) {
  getResult().setType(getDividedHeadOutputs(getContext(), model, stage));
}

LogicalResult AppendAttentionOp::verify() {
  if (getAttention() && getAttention()->getForm() != AttentionForm::Flash)
    return emitOpError() << "appends and attends as flash only, got "
                         << stringifyAttentionForm(getAttention()->getForm());
  if (getQkv().getType() == getResult().getType())
    return emitOpError() << "needs keys and values beside the queries, got "
                         << getQkv().getType();
  return verifyHeadOutputs(*this, getQkv().getType(), getResult().getType(),
                           getCache().getType());
}

Division AppendAttentionOp::getDivision(OpOperand &operand, int64_t dim) {
  return &operand == &getQkvMutable() && dim == 1 ? Division::Columns
                                                  : Division::Impossible;
}

void AppendAttentionOp::divideResults(ModelAttr model, StageAttr stage) {
  getResult().setType(getDividedHeadOutputs(getContext(), model, stage));
}

//===----------------------------------------------------------------------===//
// What leaves the model
//===----------------------------------------------------------------------===//

/// Other rows than the operand's: parts of these aren't parts of those.
Division GatherRowsOp::getDivision(OpOperand &, int64_t dim) {
  return dim == 1 ? Division::Columns : Division::Impossible;
}

LogicalResult LogitsOp::verify() {
  Type weight = getWeight().getType();
  if (failed(verifyMatrix(*this, weight)))
    return failure();
  if (getSoftcap() && (!getSoftcap()->isFinite() ||
                       getSoftcap()->isNegative() || getSoftcap()->isZero()))
    return emitOpError() << "the cap must be positive";
  return verifyProduct(*this, getInput().getType(), weight, getType());
}

/// One column per row on those ranks that have an input, none on the others.
static LogicalResult verifyOneColumn(Operation *op, Type type, Type input) {
  FailureOr<int64_t> ranks = getRankCount(op, {type, input});
  if (failed(ranks))
    return failure();
  return verifyColumns(op, "the result", type, *ranks, [&](int64_t rank) {
    return getColumns(input, rank) > 0 ? 1 : 0;
  });
}

LogicalResult SampleOp::verify() {
  return verifyOneColumn(*this, getType(), getLogits().getType());
}

/// What is over all columns of a row, on the first rank.
static Division divideLast(int64_t dim) {
  return dim == 0 ? Division::Rows : Division::Gathered;
}

Division SampleOp::getDivision(OpOperand &, int64_t dim) {
  return divideLast(dim);
}

LogicalResult ScoreOp::verify() {
  Type input = getInput().getType(), weight = getWeight().getType();
  if (failed(verifyMatrix(*this, weight)))
    return failure();
  if (getShardDim(weight) == 1)
    return emitOpError() << "a head is divided by rows, not columns";
  FailureOr<int64_t> ranks = getRankCount(
      *this, {weight, getParts().getType(), getLogits().getType()});
  if (failed(ranks))
    return failure();
  if (failed(verifyColumns(*this, "the input", input, 1,
                           [&](int64_t) { return getColumns(weight); })) ||
      failed(verifyColumns(
          *this, "the parts", getParts().getType(), *ranks, [&](int64_t rank) {
            int64_t columns = getColumns(getParts().getType(), rank);
            return getByLeaf() && columns % 3 == 0 ? columns : 3;
          })))
    return failure();
  return verifyColumns(*this, "the logits", getLogits().getType(), *ranks,
                       [&](int64_t rank) { return getRows(weight, rank); });
}

Division ScoreOp::getDivision(OpOperand &operand, int64_t dim) {
  if (&operand == &getWeightMutable())
    return dim == 0 ? Division::Columns : Division::Impossible;
  return divideWholeRows(dim);
}

void ScoreOp::divideResults(ModelAttr, StageAttr stage) {
  SmallVector<int64_t> parts, logits;
  for (int64_t rank = 0; rank < stage.getRanks(); ++rank) {
    auto [begin, end] = stage.getLeaves(Unit::Vocabulary, rank);
    parts.push_back(getByLeaf() ? 3 * (end - begin) : 3);
    logits.push_back(getRows(getWeight().getType(), rank));
  }
  getParts().setType(getDividedFloats(getContext(), parts));
  getLogits().setType(getDividedFloats(getContext(), logits));
}

Division ScoreMergeOp::getDivision(OpOperand &, int64_t dim) {
  return divideLast(dim);
}

LogicalResult ScoreMergeOp::verify() {
  Type parts = getParts().getType();
  for (int64_t rank = 0; rank < getNumShards(parts); ++rank)
    if (getColumns(parts, rank) % 3 != 0)
      return emitOpError() << "parts come in threes, got "
                           << getColumns(parts, rank) << " columns";
  return verifyOneColumn(*this, getType(), parts);
}

//===----------------------------------------------------------------------===//
// Communication
//===----------------------------------------------------------------------===//

/// Collectives in place need whole rows on every rank.
static LogicalResult verifyWholeRows(Operation *op, Type type) {
  if (getNumShards(type) != 1)
    return op->emitOpError() << "needs whole rows, got " << type;
  return success();
}

/// Of a sum over ranks. Only heads and MLP columns divide columns of weights.
static LogicalResult verifySum(Operation *op, Type type,
                               std::optional<Unit> tree) {
  if (tree && *tree != Unit::QueryHead && *tree != Unit::MlpColumn)
    return op->emitOpError()
           << "no matrix is cut along its columns by " << stringifyUnit(*tree)
           << ": expected a tree of query_head or mlp_column";
  return verifyWholeRows(op, type);
}

LogicalResult AllReduceOp::verify() {
  return verifySum(*this, getType(), getTree());
}
LogicalResult ReduceScatterOp::verify() {
  return verifySum(*this, getType(), getTree());
}
LogicalResult AllGatherOp::verify() {
  return verifyWholeRows(*this, getType());
}
LogicalResult BroadcastOp::verify() {
  return verifyWholeRows(*this, getType());
}

SmallVector<Value, 2> AllReduceOp::getInPlaceValues() { return {getInput()}; }
SmallVector<Value, 2> BroadcastOp::getInPlaceValues() { return {getInput()}; }

LogicalResult AllReduceStartOp::verify() {
  return verifySum(*this, getInput().getType(), getTree());
}
LogicalResult ReduceScatterStartOp::verify() {
  return verifySum(*this, getInput().getType(), getTree());
}
LogicalResult AllGatherStartOp::verify() {
  return verifyWholeRows(*this, getInput().getType());
}
LogicalResult BroadcastStartOp::verify() {
  return verifyWholeRows(*this, getInput().getType());
}

/// All columns of `input` on the first rank, none on the others.
static LogicalResult verifyGathered(Operation *op, Type input, Type result) {
  FailureOr<int64_t> ranks = getRankCount(op, {input, result});
  if (failed(ranks))
    return failure();
  int64_t all = 0;
  for (int64_t rank = 0; rank < *ranks; ++rank)
    all += getColumns(input, rank);
  return verifyColumns(op, "the result", result, *ranks,
                       [&](int64_t rank) { return rank == 0 ? all : 0; });
}

LogicalResult GatherOp::verify() {
  return verifyGathered(*this, getInput().getType(), getType());
}

LogicalResult WaitOp::verify() {
  Operation *start = getToken().getDefiningOp();
  if (!start || !isStart(start))
    return emitOpError() << "waits for a token that no started operation gave";
  if (!getToken().hasOneUse())
    return emitOpError() << "a token can be waited for once";
  if (isa<SendStartOp>(start)) {
    if (getResult())
      return emitOpError() << "a send gives nothing, this returns "
                           << getResult().getType();
    return success();
  }
  if (!getResult())
    return emitOpError() << "must return what " << start->getName() << " gives";
  Type type = getResult().getType();
  if (isa<RecvStartOp>(start))
    return success();
  Type input = start->getOperand(0).getType();
  if (isa<GatherStartOp>(start))
    return verifyGathered(*this, input, type);
  if (input != type)
    return emitOpError() << "started with " << input << ", returns " << type;
  return success();
}

LogicalResult PrefetchOp::verify() {
  return verifyMatrix(*this, getWeight().getType());
}

SmallVector<Value, 2> WaitOp::getInPlaceValues() {
  Operation *start = getToken().getDefiningOp();
  if (isa<GatherStartOp, SendStartOp, RecvStartOp>(start))
    return {};
  return {start->getOperand(0)};
}

bool WaitOp::worksInPlace() { return !getInPlaceValues().empty(); }

bool WaitOp::isCollective() {
  auto start = cast<CommunicationOpInterface>(getToken().getDefiningOp());
  return start.isCollective();
}

Value WaitOp::getMessage() { return {}; }

bool SendOp::isCollective() { return false; }
bool SendStartOp::isCollective() { return false; }
bool RecvOp::isCollective() { return false; }
bool RecvStartOp::isCollective() { return false; }
Value RecvOp::getMessage() { return getResult(); }
/// The rows that its wait gives.
Value RecvStartOp::getMessage() {
  for (Operation *user : getToken().getUsers())
    return user->getResult(0);
  return {};
}

std::optional<Unit> llmir::llm::getSumTree(Operation *op) {
  return llvm::TypeSwitch<Operation *, std::optional<Unit>>(op)
      .Case<AllReduceOp, AllReduceStartOp, ReduceScatterOp,
            ReduceScatterStartOp>([](auto sum) { return sum.getTree(); })
      .Default([](Operation *) { return std::nullopt; });
}

bool llmir::llm::canLoseBits(Operation *op) {
  if (isa<RecvOp, RecvStartOp>(op))
    return true; // rows from stage to stage are f32
  return isa<AllReduceOp, AllReduceStartOp, ReduceScatterOp,
             ReduceScatterStartOp, AllGatherOp, AllGatherStartOp, SendOp,
             SendStartOp>(op) &&
         !getSumTree(op) && !isQuantized(op->getOperand(0).getType()) &&
         !isIdMatrix(op->getOperand(0).getType());
}

//===----------------------------------------------------------------------===//
// Parts of the rows
//===----------------------------------------------------------------------===//

LogicalResult RowsOp::verify() {
  if (!llvm::is_contained({Rows::FirstHalf, Rows::SecondHalf, Rows::Share},
                          getPart()))
    return emitOpError() << "'" << stringifyRows(getPart())
                         << "' isn't a part of the rows: expected first_half, "
                         << "second_half or share";
  return success();
}
