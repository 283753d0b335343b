//===- StepCosts.cpp - What a step costs a rank ---------------------------===//

#include "planner/Target/Plan/StepCosts.h"

#include "llvm/ADT/TypeSwitch.h"

#include "plan_schema/plan_facts.h"
#include "planner/Target/Plan/PlanTypes.h"

using namespace mlir;
using namespace llmir;
using namespace llmir::llm;

int64_t llmir::getReadWeightBytes(Operation *op, int64_t rank) {
  if (isa<EmbeddingOp, PrefetchOp>(op))
    return 0;
  for (Value operand : op->getOperands()) {
    auto weight = operand.getDefiningOp<WeightOp>();
    if (!weight)
      continue;
    Type type = weight.getType();
    if (rank < 0)
      return getWeightBytes(type);
    return getRows(type, rank) *
           plan::RowBytes(getPlanDType(type), getColumns(type, rank));
  }
  return 0;
}

/// Bytes per row that `rank` passes on, or gets where it only gets.
static double getMessageBytes(CommunicationOpInterface op, StageAttr stage,
                              int64_t rank) {
  Value message = op.getMessage();
  if (!message)
    return 0;
  double bytes = getActivationRowBytes(message.getType(), rank);
  if (llm::getSumTree(op))
    if (SmallVector<int64_t> nodes = getSummedNodes(message, stage);
        !nodes.empty())
      bytes *= nodes[rank];
  double ranks = stage.getRanks();
  return llvm::TypeSwitch<Operation *, double>(op)
      // A share for each other rank, or this rank's share to each.
      .Case<ReduceScatterOp, ReduceScatterStartOp, AllGatherOp,
            AllGatherStartOp>([&](auto) { return bytes * (ranks - 1) / ranks; })
      .Case<BroadcastOp, BroadcastStartOp>(
          [&](auto) { return rank == 0 ? bytes : 0; })
      // The first rank gets what the others send.
      .Case<GatherOp, GatherStartOp>([&](auto) {
        double others = 0;
        for (int64_t other = 1; other < stage.getRanks(); ++other)
          others += getActivationRowBytes(message.getType(), other);
        return rank == 0 ? others : bytes;
      })
      .Default([&](Operation *) { return bytes; });
}

plan::CostT llmir::getStepCost(Operation *op, StageAttr stage, ModelAttr model,
                               int64_t rank) {
  plan::CostT cost;
  cost.bytes = getReadWeightBytes(op, rank);
  for (Type type : op->getOperandTypes())
    if (isActivationType(type))
      cost.bytes_per_token += getActivationRowBytes(type, rank);
  for (Type type : op->getResultTypes())
    if (isActivationType(type))
      cost.bytes_per_token += getActivationRowBytes(type, rank);

  auto heads = [&](Unit unit) {
    auto [begin, end] = stage.getLeaves(unit, rank);
    return end - begin;
  };
  // Bytes of keys and values of one token in one layer, on this rank.
  auto tokenBytes = [&](PagedKVCacheType cache) {
    return static_cast<double>(heads(Unit::KvHead)) * getKvHeadBytes(cache) /
           cache.getBlockSize();
  };
  auto columns = [&](Value value) {
    return static_cast<double>(getColumns(value.getType(), rank));
  };
  llvm::TypeSwitch<Operation *>(op)
      .Case([&](EmbeddingOp embedding) {
        cost.bytes_per_token += plan::RowBytes(
            getPlanDType(embedding.getWeight().getType()),
            static_cast<uint64_t>(columns(embedding.getWeight())));
      })
      .Case([&](RMSNormOp norm) {
        cost.flops_per_token = 4 * columns(norm.getInput());
      })
      .Case([&](QuantizeOp quantize) {
        cost.flops_per_token = 2 * columns(quantize.getInput());
      })
      .Case([&](LinearOp linear) {
        Type weight = linear.getWeight().getType();
        cost.flops_per_token =
            2.0 * getRows(weight, rank) * getColumns(weight, rank);
      })
      .Case([&](ScoreOp score) {
        Type weight = score.getWeight().getType();
        cost.flops_per_token =
            (2.0 * getColumns(weight, rank) + 3) * getRows(weight, rank);
      })
      .Case([&](RopeAppendOp append) {
        cost.bytes_per_token += tokenBytes(append.getCache().getType());
        cost.flops_per_token = 3.0 *
                               (heads(Unit::QueryHead) + heads(Unit::KvHead)) *
                               model.getHeadDim();
      })
      .Case([&](PagedAttentionOp attention) {
        cost.bytes_per_context = tokenBytes(attention.getCache().getType());
        cost.flops_per_context =
            4.0 * heads(Unit::QueryHead) * model.getHeadDim();
      })
      .Case([&](AppendAttentionOp both) {
        double bytes = tokenBytes(both.getCache().getType());
        cost.bytes_per_token += bytes;
        cost.bytes_per_context = bytes;
        cost.flops_per_token = 3.0 *
                               (heads(Unit::QueryHead) + heads(Unit::KvHead)) *
                               model.getHeadDim();
        cost.flops_per_context =
            4.0 * heads(Unit::QueryHead) * model.getHeadDim();
      })
      .Case([&](AddOp add) { cost.flops_per_token = columns(add.getLhs()); })
      .Case([&](SampleOp sample) {
        cost.flops_per_token = columns(sample.getLogits());
      })
      .Case<LayerNormOp>([&](auto norm) {
        cost.flops_per_token = 6 * columns(norm.getInput());
      })
      .Case<ActivationOp, SiluMulOp>([&](auto activation) {
        cost.flops_per_token = 5 * columns(activation.getGate());
      })
      .Case<SoftcapOp>([&](auto softcap) {
        cost.flops_per_token = 4 * columns(softcap.getInput());
      })
      .Case<DequantizeOp>([&](auto dequantize) {
        cost.flops_per_token = columns(dequantize.getInput());
      });
  if (auto message = dyn_cast<CommunicationOpInterface>(op)) {
    cost.bytes_per_token = 0;
    cost.message_bytes_per_token = getMessageBytes(message, stage, rank);
  }
  return cost;
}
