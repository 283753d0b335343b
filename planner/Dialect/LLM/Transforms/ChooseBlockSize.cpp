//===- ChooseBlockSize.cpp - How many tokens a KV block holds -------------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

#include "plan_schema/cost/calibration.h"
#include "plan_schema/plan_facts.h"
#include "planner/Target/Plan/PlanTypes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_CHOOSEBLOCKSIZE
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir;
using namespace llmir::llm;
using llmir::plan::AttentionShape;
using llmir::plan::Calibration;

namespace {

/// Sizes that are compared, tokens.
constexpr int64_t kCandidates[] = {16, 32, 64, 128, 256};
/// What stands for the memory bandwidth where nothing was measured.
constexpr double kDefaultBytesPerUs = 10000;

struct Alternative {
  int64_t blockSize;
  double wastedBytes; // per sequence, all ranks
  std::optional<double> attentionUs;
  double cost;
};

struct ChooseBlockSizePass
    : public llmir::llm::impl::ChooseBlockSizeBase<ChooseBlockSizePass> {
  using ChooseBlockSizeBase::ChooseBlockSizeBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    PagedKVCacheType cache = getCacheType(module);
    if (!cache)
      return;
    auto workload = module->getAttrOfType<DictionaryAttr>("llm.workload");
    if (blockSize > 0) {
      setBlockSize(module, blockSize);
      explain(module, getArgument(),
              fmt::format("blocks of {} tokens, as given", int64_t(blockSize)));
      return;
    }
    if (!workload) {
      explain(module, getArgument(),
              fmt::format("blocks of {} tokens, the smallest: there is no "
                          "workload to choose by",
                          cache.getBlockSize()));
      return;
    }
    std::optional<Calibration> measured;
    if (!calibration.empty()) {
      StatusOr<Calibration> read = Calibration::Read(calibration);
      if (!read.ok()) {
        module.emitError() << read.status().message();
        return signalPassFailure();
      }
      measured = std::move(read).value();
    }
    choose(module, cache, workload, measured);
  }

private:
  void choose(ModuleOp module, PagedKVCacheType cache, DictionaryAttr workload,
              const std::optional<Calibration> &measured) {
    double rate = wasteRate > 0 ? wasteRate
                  : measured    ? 1 / measured->all().MemoryUs(1)
                                : kDefaultBytesPerUs;
    SmallVector<Alternative> all;
    for (int64_t size : kCandidates)
      if (size == kCandidates[0] || size <= cache.getMaxSeqLen())
        all.push_back(weigh(cache, workload, measured, rate, size));
    // Where some sizes were measured, the others can't be compared with them.
    if (llvm::any_of(all, [](auto &a) { return a.attentionUs.has_value(); }))
      llvm::erase_if(all, [](auto &a) { return !a.attentionUs; });
    const Alternative &best = *llvm::min_element(
        all, [](auto &a, auto &b) { return a.cost < b.cost; });

    setBlockSize(module, best.blockSize);
    Builder builder(module.getContext());
    SmallVector<Attribute> list;
    std::string others;
    for (const Alternative &alternative : all) {
      auto number = [&](StringRef name, double value) {
        return builder.getNamedAttr(name, builder.getF64FloatAttr(value));
      };
      list.push_back(builder.getDictionaryAttr(
          {builder.getNamedAttr(
               "block_size", builder.getI64IntegerAttr(alternative.blockSize)),
           number("wasted_bytes", alternative.wastedBytes),
           number("attention_us", alternative.attentionUs.value_or(0)),
           number("cost", alternative.cost)}));
      if (&alternative != &best)
        others += fmt::format("{}{}: {:.1f} us", others.empty() ? "" : ", ",
                              alternative.blockSize, alternative.cost);
    }
    module->setAttr("llm.block_sizes", builder.getArrayAttr(list));
    explain(module, getArgument(),
            fmt::format(
                "blocks of {} tokens: {:.1f} us per step, of which attention "
                "{}; a sequence wastes {}, and {:.0f} wasted bytes count as "
                "1 us",
                best.blockSize, best.cost,
                best.attentionUs ? fmt::format("{:.1f} us", *best.attentionUs)
                                 : "wasn't measured",
                formatBytes(best.wastedBytes), rate),
            others.empty() ? "" : "instead of " + others);
  }

  Alternative weigh(PagedKVCacheType cache, DictionaryAttr workload,
                    const std::optional<Calibration> &measured, double rate,
                    int64_t size) {
    ArrayRef<int64_t> prompts = workload.getAs<DenseI64ArrayAttr>("prompt");
    ArrayRef<int64_t> answers = workload.getAs<DenseI64ArrayAttr>("answer");
    double batch = workload.getAs<IntegerAttr>("batch").getInt();
    double wastedTokens = 0, tokens = 0;
    for (auto [prompt, answer] : llvm::zip(prompts, answers)) {
      int64_t length = std::min(prompt + answer, cache.getMaxSeqLen());
      wastedTokens += llvm::alignTo(length, size) - length;
      // A decode step finds the prompt and, on average, half of the answer.
      tokens += length - answer / 2.0;
    }
    PagedKVCacheType sized = withBlockSize(cache, size);
    Alternative result{size, 0, std::nullopt, 0};
    result.wastedBytes = wastedTokens / prompts.size() * cache.getNumLayers() *
                         cache.getNumHeads() * getKvHeadBytes(sized) / size;
    if (measured) {
      auto model = getOperation()->getAttrOfType<ModelAttr>("llm.model");
      AttentionShape shape;
      shape.kv = plan::DTypeName(getKvDType(cache));
      shape.block_size = size;
      shape.head_dim = cache.getHeadDim();
      shape.heads_per_kv = model ? model.getHeadsPerKv() : 1;
      shape.kv_heads = llvm::divideCeil(cache.getNumHeads(), ranks);
      shape.batch = batch;
      shape.context = std::max(1.0, tokens / prompts.size());
      result.attentionUs = measured->all().AttentionUs(shape);
      if (result.attentionUs)
        *result.attentionUs *= llvm::divideCeil(cache.getNumLayers(), stages);
    }
    result.cost = result.attentionUs.value_or(0) +
                  result.wastedBytes * batch / (ranks * stages) / rate;
    return result;
  }

  static PagedKVCacheType getCacheType(ModuleOp module) {
    PagedKVCacheType type;
    module.walk([&](CreatePagedCacheOp cache) { type = cache.getType(); });
    return type;
  }

  static PagedKVCacheType withBlockSize(PagedKVCacheType cache, int64_t size) {
    return PagedKVCacheType::get(
        cache.getContext(), cache.getElementType(), cache.getNumLayers(),
        cache.getNumHeads(), cache.getHeadDim(), size, cache.getMaxSeqLen());
  }

  /// Caches are only ever results of operations of one function.
  static void setBlockSize(ModuleOp module, int64_t size) {
    module.walk([&](Operation *op) {
      for (Value result : op->getResults())
        if (auto cache = dyn_cast<PagedKVCacheType>(result.getType()))
          result.setType(withBlockSize(cache, size));
    });
  }
};

} // namespace
