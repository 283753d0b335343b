//===- ImportCheckpoint.cpp - A checkpoint as a module --------------------===//

#include "planner/Frontend/ImportCheckpoint.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/Verifier.h"

#include "planner/Dialect/LLM/IR/LLMDialect.h"

using namespace mlir;
using namespace llmir;
using checkpoint::Role;

namespace {

/// Builds the layers of a Llama model one after the other.
class LlamaImporter {
public:
  LlamaImporter(MLIRContext *context, const checkpoint::Checkpoint &checkpoint,
                const CacheOptions &cache)
      : checkpoint(checkpoint), config(checkpoint.config()), cache(cache),
        builder(context) {}

  StatusOr<OwningOpRef<ModuleOp>> import() {
    OwningOpRef<ModuleOp> module = ModuleOp::create(builder.getUnknownLoc());
    (*module)->setAttr(
        "llm.model",
        llm::ModelAttr::get(builder.getContext(), config.layers, config.hidden,
                            config.query_heads, config.kv_heads,
                            config.head_dim, config.mlp_columns,
                            config.vocabulary, kMlpLeaf, kVocabularyLeaf));
    builder.setInsertionPointToEnd(module->getBody());
    Type indices =
        RankedTensorType::get({ShapedType::kDynamic}, builder.getI32Type());
    Type ids = llm::getActivationType(builder.getI32Type(), 1);
    Type logProbabilities = rows(1);
    // The fields of a step's descriptor: ids, positions, sequences, sampled
    // rows, targets.
    auto model = func::FuncOp::create(
        builder, module->getLoc(), "model",
        builder.getFunctionType(SmallVector<Type>(5, indices),
                                {ids, logProbabilities}));
    Block *body = model.addEntryBlock();
    builder.setInsertionPointToStart(body);
    positions = body->getArgument(1);
    sequences = body->getArgument(2);
    Value sampled = body->getArgument(3), targets = body->getArgument(4);

    kv = llm::CreatePagedCacheOp::create(
        builder, loc(),
        llm::PagedKVCacheType::get(
            builder.getContext(), cache.elementType, config.layers,
            config.kv_heads, config.head_dim, cache.blockSize, cache.context));
    LLMIR_ASSIGN_OR_RETURN(Value embedding, weight(Role::kEmbedding));
    Value x = llm::EmbeddingOp::create(builder, loc(), rows(config.hidden),
                                       body->getArgument(0), embedding);
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      LLMIR_ASSIGN_OR_RETURN(x, attention(x, layer));
      LLMIR_ASSIGN_OR_RETURN(x, mlp(x, layer));
    }

    // Ids for the sampled rows, log-probabilities for all: a program needs one
    // of the two, and MakePrograms removes the other.
    LLMIR_ASSIGN_OR_RETURN(Value outputNorm, weight(Role::kOutputNorm));
    Value head = embedding;
    if (!config.tied_head) {
      LLMIR_ASSIGN_OR_RETURN(head, weight(Role::kHead));
    }
    Value last =
        llm::GatherRowsOp::create(builder, loc(), x.getType(), x, sampled);
    Value logits = llm::LogitsOp::create(
        builder, loc(), rows(config.vocabulary), norm(last, outputNorm), head,
        /*softcap=*/FloatAttr());
    Value sample = llm::SampleOp::create(builder, loc(), ids, logits);
    auto score = llm::ScoreOp::create(
        builder, loc(), TypeRange{rows(3), rows(config.vocabulary)},
        norm(x, outputNorm), head, targets);
    Value merged = llm::ScoreMergeOp::create(builder, loc(), logProbabilities,
                                             score.getParts());
    func::ReturnOp::create(builder, loc(), ValueRange{sample, merged});
    if (failed(verify(*module)))
      return Internal("{}: the imported module isn't valid", checkpoint.path());
    return module;
  }

private:
  Location loc() { return builder.getUnknownLoc(); }
  Type rows(int64_t columns) {
    return llm::getActivationType(builder.getF32Type(), columns);
  }

  StatusOr<Value> attention(Value x, int64_t layer) {
    LLMIR_ASSIGN_OR_RETURN(Value gain, weight(Role::kAttentionNorm, layer));
    LLMIR_ASSIGN_OR_RETURN(Value queryWeight, weight(Role::kQuery, layer));
    LLMIR_ASSIGN_OR_RETURN(Value keyWeight, weight(Role::kKey, layer));
    LLMIR_ASSIGN_OR_RETURN(Value valueWeight, weight(Role::kValue, layer));
    LLMIR_ASSIGN_OR_RETURN(Value output, weight(Role::kAttentionOutput, layer));
    Value normed = norm(x, gain);
    Value query = rope(linear(normed, queryWeight));
    Value key = rope(linear(normed, keyWeight));
    Value value = linear(normed, valueWeight);
    auto append = llm::AppendKVOp::create(
        builder, loc(), TypeRange{kv.getType(), sequences.getType()}, kv, key,
        value, sequences, builder.getI64IntegerAttr(layer));
    kv = append.getNewCache();
    Value heads = llm::PagedAttentionOp::create(
        builder, loc(), query.getType(), query, kv, append.getIndices(),
        builder.getI64IntegerAttr(layer), attentionOf(layer));
    return add(x, linear(heads, output));
  }

  /// What the model asks of attention; null where that is nothing.
  llm::AttentionAttr attentionOf(int64_t layer) {
    int64_t window =
        config.attention_windows.empty() ? 0 : config.attention_windows[layer];
    if (window == 0 && config.attention_softcap == 0)
      return {};
    return llm::AttentionAttr::get(
        builder.getContext(), llm::AttentionForm::Flash, window,
        /*share_kv=*/true,
        config.attention_softcap == 0
            ? FloatAttr()
            : builder.getF32FloatAttr(config.attention_softcap));
  }

  StatusOr<Value> mlp(Value x, int64_t layer) {
    LLMIR_ASSIGN_OR_RETURN(Value gain, weight(Role::kMlpNorm, layer));
    LLMIR_ASSIGN_OR_RETURN(Value gateWeight, weight(Role::kGate, layer));
    LLMIR_ASSIGN_OR_RETURN(Value upWeight, weight(Role::kUp, layer));
    LLMIR_ASSIGN_OR_RETURN(Value down, weight(Role::kDown, layer));
    Value normed = norm(x, gain);
    Value gate = linear(normed, gateWeight);
    Value up = linear(normed, upWeight);
    Value hidden =
        llm::SiluMulOp::create(builder, loc(), gate.getType(), gate, up);
    return add(x, linear(hidden, down));
  }

  Value norm(Value x, Value gain) {
    return llm::RMSNormOp::create(builder, loc(), x.getType(), x, gain,
                                  builder.getF32FloatAttr(config.norm_epsilon));
  }
  Value linear(Value x, Value matrix) {
    return llm::LinearOp::create(builder, loc(),
                                 rows(llm::getRows(matrix.getType())), x,
                                 matrix, /*residual=*/Value(),
                                 /*silu_mul=*/false);
  }
  Value rope(Value x) {
    return llm::RopeOp::create(builder, loc(), x.getType(), x, positions,
                               builder.getI64IntegerAttr(config.head_dim));
  }
  Value add(Value x, Value y) {
    return llm::AddOp::create(builder, loc(), x.getType(), x, y);
  }

  StatusOr<Value> weight(Role role, int64_t layer = -1) {
    LLMIR_ASSIGN_OR_RETURN(checkpoint::TensorInfo tensor,
                           checkpoint.Find(role, layer));
    auto [name, unit, axis] = describe(role);
    int64_t leaf = getLeaf(unit);
    const checkpoint::SourceTypeTraits &traits = Traits(tensor.type);
    if (axis == llm::Axis::Columns && leaf % traits.block_values != 0)
      return Incompatible(
          "{}: tensor {} of type {}: its leaves of {} columns would cut blocks "
          "of {} values; convert it to bf16 or f16",
          checkpoint.path(), tensor.name, traits.name, leaf,
          traits.block_values);
    SmallVector<int64_t, 2> shape = {tensor.rows, tensor.columns};
    if (unit == llm::Unit::Whole)
      shape = {tensor.columns};
    Type type = llm::getWeightType(builder.getContext(), traits.name, shape);
    auto piece = llm::PieceAttr::get(builder.getContext(), tensor.name, type,
                                     unit, axis, leaf);
    std::string fullName =
        layer < 0 ? name : fmt::format("layers.{}.{}", layer, name);
    return Value(llm::WeightOp::create(
        builder, loc(), type, builder.getStringAttr(fullName),
        layer < 0 ? IntegerAttr() : builder.getI64IntegerAttr(layer),
        builder.getArrayAttr({piece}), UnitAttr()));
  }

  int64_t getLeaf(llm::Unit unit) {
    switch (unit) {
    case llm::Unit::Whole:
      return 0;
    case llm::Unit::QueryHead:
    case llm::Unit::KvHead:
      return config.head_dim;
    case llm::Unit::MlpColumn:
      return kMlpLeaf;
    case llm::Unit::Vocabulary:
      return kVocabularyLeaf;
    }
    llvm_unreachable("unknown unit");
  }

  struct Description {
    std::string name; // in the layer
    llm::Unit unit;
    llm::Axis axis;
  };
  /// What divides a tensor of this role: ARCHITECTURE.md, "Leaves".
  static Description describe(Role role) {
    using llm::Axis;
    using llm::Unit;
    switch (role) {
    case Role::kEmbedding:
      return {"embedding", Unit::Vocabulary, Axis::Rows};
    case Role::kAttentionNorm:
      return {"attention_norm", Unit::Whole, Axis::None};
    case Role::kQuery:
      return {"q", Unit::QueryHead, Axis::Rows};
    case Role::kKey:
      return {"k", Unit::KvHead, Axis::Rows};
    case Role::kValue:
      return {"v", Unit::KvHead, Axis::Rows};
    case Role::kAttentionOutput:
      return {"o", Unit::QueryHead, Axis::Columns};
    case Role::kMlpNorm:
      return {"mlp_norm", Unit::Whole, Axis::None};
    case Role::kGate:
      return {"gate", Unit::MlpColumn, Axis::Rows};
    case Role::kUp:
      return {"up", Unit::MlpColumn, Axis::Rows};
    case Role::kDown:
      return {"down", Unit::MlpColumn, Axis::Columns};
    case Role::kOutputNorm:
      return {"output_norm", Unit::Whole, Axis::None};
    case Role::kHead:
      return {"head", Unit::Vocabulary, Axis::Rows};
    }
    llvm_unreachable("unknown role");
  }

  const checkpoint::Checkpoint &checkpoint;
  const checkpoint::ModelConfig &config;
  const CacheOptions &cache;
  OpBuilder builder;
  Value positions, sequences, kv;
};

} // namespace

StatusOr<OwningOpRef<ModuleOp>>
llmir::importCheckpoint(MLIRContext *context,
                        const checkpoint::Checkpoint &checkpoint,
                        const CacheOptions &cache) {
  return LlamaImporter(context, checkpoint, cache).import();
}
