//===- AllocateBlocks.cpp - How many KV blocks a rank holds ---------------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

#include "plan_schema/plan_facts.h"
#include "planner/Target/Plan/PlanTypes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_ALLOCATEBLOCKS
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir;
using namespace llmir::llm;

namespace {

/// Block ids are 32-bit, and products of two such numbers can't wrap.
constexpr int64_t kMostBlocks = int64_t{1} << 28;

/// Tokens of the shared prefixes; one that begins with another shares that
/// one's blocks.
int64_t countPinnedTokens(ModuleOp module) {
  SmallVector<ArrayRef<int32_t>> prefixes;
  if (auto list = module->getAttrOfType<ArrayAttr>("llm.prefixes"))
    for (auto prefix : list.getAsRange<DictionaryAttr>())
      prefixes.push_back(prefix.getAs<DenseI32ArrayAttr>("ids"));
  int64_t tokens = 0;
  for (ArrayRef<int32_t> ids : prefixes) {
    size_t shared = 0;
    for (ArrayRef<int32_t> other : prefixes)
      if (other.size() < ids.size() && ids.take_front(other.size()) == other)
        shared = std::max(shared, other.size());
    tokens += ids.size() - shared;
  }
  return tokens;
}

/// Tokens that the layer which looks back furthest attends to; 0: all.
int64_t getWindow(ModuleOp module) {
  int64_t widest = 0;
  bool isBounded = true;
  module.walk([&](PagedAttentionOp op) {
    AttentionAttr attention = op.getAttentionAttr();
    int64_t window = attention ? attention.getWindow() : 0;
    isBounded &= window > 0;
    widest = std::max(widest, window);
  });
  return isBounded ? widest : 0;
}

struct AllocateBlocksPass
    : public llmir::llm::impl::AllocateBlocksBase<AllocateBlocksPass> {
  using AllocateBlocksBase::AllocateBlocksBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    PagedKVCacheType cache;
    int64_t blockBytes = 0; // of the rank with most heads and layers
    for (auto function : module.getOps<func::FuncOp>()) {
      auto stage = function->getAttrOfType<StageAttr>("llm.stage");
      function.walk([&](CreatePagedCacheOp op) { cache = op.getType(); });
      if (!stage || !cache)
        continue;
      int64_t layers = stage.getLayers()[1] - stage.getLayers()[0];
      for (int64_t rank = 0; rank < stage.getRanks(); ++rank) {
        auto [begin, end] = stage.getLeaves(Unit::KvHead, rank);
        blockBytes = std::max(blockBytes,
                              layers * (end - begin) * getKvHeadBytes(cache));
      }
    }
    if (blockBytes == 0) {
      module.emitError() << "needs stages with a paged cache";
      return signalPassFailure();
    }
    int64_t blockSize = cache.getBlockSize();
    // A sequence gives back what no layer attends to any more.
    int64_t window = getWindow(module);
    auto countHeld = [&](int64_t tokens) -> int64_t {
      return plan::SequenceBlocks(tokens, blockSize, window, prefillChunk);
    };
    auto countBlocks = [&](int64_t tokens) {
      return static_cast<int64_t>(llvm::divideCeil(tokens, blockSize));
    };

    int64_t pinned = countBlocks(countPinnedTokens(module));
    // A sequence that a rank must be able to hold, and those it is planned for.
    int64_t longest = countHeld(cache.getMaxSeqLen());
    int64_t sequences = maxBatch, typical = longest;
    std::string reason = fmt::format("{} sequences of --context {} tokens",
                                     sequences, cache.getMaxSeqLen());
    if (auto workload = module->getAttrOfType<DictionaryAttr>("llm.workload")) {
      int64_t tokens = 1;
      for (auto [prompt, answer] :
           llvm::zip(workload.getAs<DenseI64ArrayAttr>("prompt").asArrayRef(),
                     workload.getAs<DenseI64ArrayAttr>("answer").asArrayRef()))
        tokens = std::max(tokens, prompt + answer);
      tokens = std::min(tokens, cache.getMaxSeqLen());
      sequences = std::min<int64_t>(
          maxBatch, workload.getAs<IntegerAttr>("batch").getInt());
      typical = countHeld(tokens);
      reason = fmt::format("{} sequences of {} tokens, the workload's longest",
                           sequences, tokens);
    }
    int64_t blocks = std::max(sequences * typical, longest) + pinned;
    if (window > 0)
      reason += fmt::format(", of which {} tokens are kept", window);
    if (kvBlocks > 0) {
      blocks = kvBlocks;
      reason = "as given by --kv-blocks";
    } else if (kvMemory > 0) {
      blocks = kvMemory / blockBytes;
      reason = fmt::format("what fits into --kv-memory {}", int64_t(kvMemory));
    }
    if (blocks < longest + pinned) {
      module.emitError() << fmt::format(
          "{} KV blocks ({} bytes on the rank with most heads and layers), "
          "but one sequence of {} tokens needs {}{}: raise --kv-blocks or "
          "--kv-memory, or lower --context",
          blocks, blocks * blockBytes, cache.getMaxSeqLen(), longest,
          pinned > 0 ? fmt::format(" and shared prefixes {}", pinned) : "");
      return signalPassFailure();
    }
    if (blocks > kMostBlocks) {
      module.emitError() << blocks << " KV blocks, expected at most "
                         << kMostBlocks << ": lower --kv-blocks or --kv-memory";
      return signalPassFailure();
    }
    module->setAttr("llm.kv_blocks",
                    Builder(&getContext()).getI64IntegerAttr(blocks));

    // The pool starts sequence i at i times this (kvpool/block_pool.h).
    int64_t run = (blocks - pinned) / maxBatch;
    explain(
        module, getArgument(),
        fmt::format(
            "{} blocks per rank, at most {}: {}{}", blocks,
            formatBytes(static_cast<double>(blocks) * blockBytes), reason,
            pinned > 0 ? fmt::format(" and {} of shared prefixes", pinned)
                       : ""),
        fmt::format("each of {} sequences lies in one piece up to {} tokens",
                    int64_t(maxBatch), run * blockSize));
  }
};

} // namespace
