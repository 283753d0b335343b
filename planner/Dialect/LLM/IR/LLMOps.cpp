//===- LLMOps.cpp - Verifiers of the llm dialect's operations -------------===//

#include "planner/Dialect/LLM/IR/LLMDialect.h"

#include "mlir/IR/Builders.h"

using namespace mlir;
using namespace llmir::llm;

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

LogicalResult RMSNormOp::verify() {
  Type input = getInput().getType(), weight = getWeight().getType();
  if (getShape(weight).size() != 1)
    return emitOpError() << "the weight must be a vector, got " << weight;
  if (getNumShards(input) != 1)
    return emitOpError() << "needs whole rows, got " << input;
  if (failed(verifyColumns(*this, "the input", input, 1,
                           [&](int64_t) { return getColumns(weight); })))
    return failure();
  return verifySameColumns(*this, "the result", getType(), input);
}

LogicalResult SiluMulOp::verify() {
  if (getGate().getType() != getUp().getType() ||
      getType() != getUp().getType())
    return emitOpError() << "gate, up and result must have one type";
  return success();
}

LogicalResult AddOp::verify() {
  if (getLhs().getType() != getRhs().getType() ||
      getType() != getRhs().getType())
    return emitOpError() << "both sides and the result must have one type";
  return success();
}

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

//===----------------------------------------------------------------------===//
// Attention and the KV cache
//===----------------------------------------------------------------------===//

static LogicalResult verifyLayer(Operation *op, PagedKVCacheType cache,
                                 int64_t layer) {
  if (layer >= 0 && layer < cache.getNumLayers())
    return success();
  return op->emitOpError() << "layer " << layer << " of a cache of "
                           << cache.getNumLayers() << " layers";
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
  if (!kvHeads && shape[2] % cache.getNumHeads() != 0)
    return op->emitOpError() << shape[2] << " query heads can't share "
                             << cache.getNumHeads() << " KV heads evenly";
  return success();
}

LogicalResult RopeOp::verify() {
  if (getInput().getType() != getType())
    return emitOpError() << "input and result must have one type";
  if (getHeadDim() == 0 || getHeadDim() % 2 != 0 ||
      getColumns(getType()) % getHeadDim() != 0)
    return emitOpError() << getColumns(getType())
                         << " columns aren't heads of an even size "
                         << getHeadDim();
  return success();
}

LogicalResult AppendKVOp::verify() {
  PagedKVCacheType cache = getCache().getType();
  if (getNewCache().getType() != cache)
    return emitOpError() << "appends to " << cache << " but returns "
                         << getNewCache().getType();
  if (getKeys().getType() != getValues().getType())
    return emitOpError() << "keys " << getKeys().getType() << " and values "
                         << getValues().getType() << " differ";
  if (failed(verifyLayer(*this, cache, getLayer())))
    return failure();
  Type keys = getKeys().getType();
  if (!isActivationType(keys))
    return verifyHeads(*this, "keys", keys, cache, /*kvHeads=*/true);
  return verifyColumns(*this, "keys", keys, 1, [&](int64_t) {
    return cache.getNumHeads() * cache.getHeadDim();
  });
}

LogicalResult RopeAppendOp::verify() {
  PagedKVCacheType cache = getCache().getType();
  if (getNewCache().getType() != cache)
    return emitOpError() << "appends to " << cache << " but returns "
                         << getNewCache().getType();
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
  return verifyLayer(*this, cache, getLayer());
}

/// Rows of queries, or of queries, keys and values, that give rows of head
/// outputs.
static LogicalResult verifyHeadOutputs(Operation *op, Type query, Type result,
                                       int64_t headDim) {
  FailureOr<int64_t> ranks = getRankCount(op, {query, result});
  if (failed(ranks))
    return failure();
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
  return success();
}

LogicalResult AppendAttentionOp::verify() {
  PagedKVCacheType cache = getCache().getType();
  if (getNewCache().getType() != cache)
    return emitOpError() << "appends to " << cache << " but returns "
                         << getNewCache().getType();
  if (getAttention() && getAttention()->getForm() != AttentionForm::Flash)
    return emitOpError() << "appends and attends as flash only, got "
                         << stringifyAttentionForm(getAttention()->getForm());
  if (failed(verifyLayer(*this, cache, getLayer())))
    return failure();
  if (getQkv().getType() == getResult().getType())
    return emitOpError() << "needs keys and values beside the queries, got "
                         << getQkv().getType();
  return verifyHeadOutputs(*this, getQkv().getType(), getResult().getType(),
                           cache.getHeadDim());
}

LogicalResult PagedAttentionOp::verify() {
  PagedKVCacheType cache = getCache().getType();
  if (failed(verifyLayer(*this, cache, getLayer())))
    return failure();
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
  return verifyHeadOutputs(*this, query, result, cache.getHeadDim());
}

//===----------------------------------------------------------------------===//
// What leaves the model
//===----------------------------------------------------------------------===//

LogicalResult GatherRowsOp::verify() {
  if (getInput().getType() != getType())
    return emitOpError() << "input and result must have one type";
  return success();
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
      failed(verifyColumns(*this, "the parts", getParts().getType(), *ranks,
                           [](int64_t) { return 3; })))
    return failure();
  return verifyColumns(*this, "the logits", getLogits().getType(), *ranks,
                       [&](int64_t rank) { return getRows(weight, rank); });
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

/// A collective in place: whole rows in, the same rows out.
static LogicalResult verifyCollective(Operation *op) {
  Type type = op->getResult(0).getType();
  if (op->getOperand(0).getType() != type)
    return op->emitOpError() << "input and result must have one type";
  return verifyWholeRows(op, type);
}

LogicalResult AllReduceOp::verify() { return verifyCollective(*this); }
LogicalResult ReduceScatterOp::verify() { return verifyCollective(*this); }
LogicalResult AllGatherOp::verify() { return verifyCollective(*this); }
LogicalResult BroadcastOp::verify() { return verifyCollective(*this); }

LogicalResult AllReduceStartOp::verify() {
  return verifyWholeRows(*this, getInput().getType());
}
LogicalResult ReduceScatterStartOp::verify() {
  return verifyWholeRows(*this, getInput().getType());
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

//===----------------------------------------------------------------------===//
// Parts of the rows
//===----------------------------------------------------------------------===//

LogicalResult RowsOp::verify() {
  if (getInput().getType() != getType())
    return emitOpError() << "input and result must have one type";
  if (!llvm::is_contained({Rows::FirstHalf, Rows::SecondHalf, Rows::Share},
                          getPart()))
    return emitOpError() << "'" << stringifyRows(getPart())
                         << "' isn't a part of the rows: expected first_half, "
                         << "second_half or share";
  return success();
}

LogicalResult JoinRowsOp::verify() {
  if (getFirst().getType() != getType() || getSecond().getType() != getType())
    return emitOpError() << "both halves and the result must have one type";
  return success();
}
