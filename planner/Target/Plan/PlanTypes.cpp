//===- PlanTypes.cpp - Types of the llm dialect in a plan's terms ---------===//

#include "planner/Target/Plan/PlanTypes.h"

#include "llvm/ADT/TypeSwitch.h"
#include <fmt/format.h>

#include "plan_schema/plan_facts.h"
#include "plan_schema/sum_tree.h"

using namespace mlir;
using namespace llmir;

plan::DType llmir::getPlanDType(Type type) {
  if (llm::isActivationType(type)) {
    if (llm::isQuantized(type))
      return plan::DType::q8_rows;
    return llm::isIdMatrix(type) ? plan::DType::i32 : plan::DType::f32;
  }
  StringRef encoding = llm::getEncoding(type);
  for (plan::DType dtype : plan::EnumValuesDType())
    if (encoding == plan::EnumNameDType(dtype))
      return dtype;
  return plan::DType::none;
}

std::string llmir::getLinearKernel(Type weight, bool bf16Activations) {
  return plan::LinearKernelName(getPlanDType(weight), bf16Activations);
}

int64_t llmir::getActivationRowBytes(Type type, int64_t rank) {
  return plan::RowBytes(getPlanDType(type), llm::getColumns(type, rank));
}

SmallVector<int64_t> llmir::getSummedNodes(Value value, llm::StageAttr stage) {
  SmallVector<int64_t> nodes;
  for (Operation *user : value.getUsers()) {
    if (!nodes.empty())
      break;
    if (auto view = dyn_cast<llm::RowsOp>(user))
      nodes = getSummedNodes(view.getResult(), stage);
    std::optional<llm::Unit> tree = llm::getSumTree(user);
    if (!tree)
      continue;
    const int64_t ranks = stage.getRanks();
    const auto total =
        static_cast<uint32_t>(stage.getLeaves(*tree, ranks - 1).second);
    for (int64_t rank = 0; rank < ranks; ++rank) {
      auto [begin, end] = stage.getLeaves(*tree, rank);
      nodes.push_back(
          plan::CoveringNodes(
              {static_cast<uint32_t>(begin), static_cast<uint32_t>(end)}, total)
              .size());
    }
  }
  return nodes;
}

plan::DType llmir::getKvDType(llm::PagedKVCacheType cache) {
  Type element = cache.getStoredKeyType();
  if (element.isF32())
    return plan::DType::f32;
  if (element.isInteger(8))
    return plan::DType::i8;
  if (isa<Float8E4M3FNType>(element))
    return plan::DType::f8_e4m3;
  return plan::DType::bf16;
}

int64_t llmir::getKvHeadBytes(llm::PagedKVCacheType cache) {
  return plan::KvHeadBytes(getKvDType(cache), cache.getBlockSize(),
                           cache.getHeadDim());
}

std::optional<plan::StepKind> llmir::getStepKind(Operation *op) {
  using namespace llm;
  using plan::StepKind;
  return llvm::TypeSwitch<Operation *, std::optional<StepKind>>(op)
      .Case([](EmbeddingOp) { return StepKind::embedding; })
      .Case([](RMSNormOp) { return StepKind::rms_norm; })
      .Case([](LayerNormOp) { return StepKind::layer_norm; })
      .Case<ActivationOp, SiluMulOp>([](auto) { return StepKind::activation; })
      .Case([](SoftcapOp) { return StepKind::softcap; })
      .Case([](DequantizeOp) { return StepKind::dequantize; })
      .Case([](QuantizeOp) { return StepKind::quantize; })
      .Case([](LinearOp) { return StepKind::linear; })
      .Case([](RopeAppendOp) { return StepKind::rope_append; })
      .Case([](PagedAttentionOp) { return StepKind::paged_attention; })
      .Case([](AppendAttentionOp) { return StepKind::append_attend; })
      .Case([](AddOp) { return StepKind::add; })
      .Case([](GatherRowsOp) { return StepKind::gather_rows; })
      .Case([](AllReduceOp) { return StepKind::all_reduce; })
      .Case([](AllReduceStartOp) { return StepKind::all_reduce_start; })
      .Case([](WaitOp) { return StepKind::wait; })
      .Case([](ReduceScatterOp) { return StepKind::reduce_scatter; })
      .Case([](ReduceScatterStartOp) { return StepKind::reduce_scatter_start; })
      .Case([](AllGatherOp) { return StepKind::all_gather; })
      .Case([](AllGatherStartOp) { return StepKind::all_gather_start; })
      .Case([](BroadcastOp) { return StepKind::broadcast; })
      .Case([](BroadcastStartOp) { return StepKind::broadcast_start; })
      .Case([](GatherStartOp) { return StepKind::gather_start; })
      .Case([](SendStartOp) { return StepKind::send_start; })
      .Case([](RecvStartOp) { return StepKind::recv_start; })
      .Case([](GatherOp) { return StepKind::gather; })
      .Case([](PrefetchOp) { return StepKind::prefetch; })
      .Case([](SendOp) { return StepKind::send; })
      .Case([](RecvOp) { return StepKind::recv; })
      .Case([](SampleOp) { return StepKind::sample; })
      .Case([](ScoreOp) { return StepKind::score; })
      .Case([](ScoreMergeOp) { return StepKind::score_merge; })
      .Default([](Operation *) { return std::nullopt; });
}
