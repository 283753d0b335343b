//===- SharePrefixes.cpp - Tokens that many prompts start with ------------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

#include <map>

#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringExtras.h"

namespace llmir::llm {
#define GEN_PASS_DEF_SHAREPREFIXES
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

using Ids = std::vector<int32_t>;

struct Prefix {
  std::string name;
  double share; // of the requests
};

/// Finds the blocks that sample prompts start with in common.
class PrefixSearch {
public:
  PrefixSearch(int64_t blockSize, double minShare, size_t prompts)
      : blockSize(blockSize), minShare(minShare), prompts(prompts) {}

  /// `group` are the prompts that agree in their first `blocks` blocks. A
  /// prefix ends where its prompts part ways.
  void search(ArrayRef<ArrayRef<int32_t>> group, int64_t blocks,
              std::map<Ids, Prefix> &found) {
    llvm::MapVector<StringRef, SmallVector<ArrayRef<int32_t>>> byNext;
    for (ArrayRef<int32_t> prompt : group) {
      // A prompt's last token is always computed: its result is sampled.
      int64_t whole = (static_cast<int64_t>(prompt.size()) - 1) / blockSize;
      if (whole > blocks)
        byNext[getBytes(prompt.slice(blocks * blockSize, blockSize))].push_back(
            prompt);
    }
    bool goesOn = false;
    for (auto &[bytes, next] : byNext) {
      goesOn |= next.size() == group.size();
      if (next.size() >= 2 && getShare(next.size()) >= minShare)
        search(next, blocks + 1, found);
    }
    if (blocks == 0 || goesOn)
      return;
    Ids ids(group.front().begin(), group.front().begin() + blocks * blockSize);
    found.try_emplace(ids, Prefix{fmt::format("found in {} of {} prompts",
                                              group.size(), prompts),
                                  getShare(group.size())});
  }

private:
  double getShare(size_t count) const {
    return static_cast<double>(count) / prompts;
  }
  static StringRef getBytes(ArrayRef<int32_t> ids) {
    return {reinterpret_cast<const char *>(ids.data()), ids.size() * 4};
  }

  int64_t blockSize;
  double minShare;
  size_t prompts;
};

struct SharePrefixesPass
    : public llmir::llm::impl::SharePrefixesBase<SharePrefixesPass> {
  using SharePrefixesBase::SharePrefixesBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto workload = module->getAttrOfType<DictionaryAttr>("llm.workload");
    PagedKVCacheType cache;
    module.walk([&](CreatePagedCacheOp op) { cache = op.getType(); });
    if (!workload || !cache)
      return;
    int64_t blockSize = cache.getBlockSize();

    // By their ids: a prefix comes before those that start with it.
    std::map<Ids, Prefix> prefixes;
    SmallVector<std::string> tooShort;
    for (auto declared :
         workload.getAs<ArrayAttr>("prefixes").getAsRange<DictionaryAttr>()) {
      ArrayRef<int32_t> ids = declared.getAs<DenseI32ArrayAttr>("ids");
      std::string name = declared.getAs<StringAttr>("name").str();
      // Of a sequence at least one token is its own.
      int64_t tokens = std::min<int64_t>(ids.size(), cache.getMaxSeqLen() - 1);
      ids = ids.take_front(tokens / blockSize * blockSize);
      if (ids.empty()) {
        tooShort.push_back(name);
        continue;
      }
      prefixes[Ids(ids.begin(), ids.end())] = {
          name, declared.getAs<FloatAttr>("share").getValueAsDouble()};
    }
    SmallVector<ArrayRef<int32_t>> prompts;
    for (auto ids :
         workload.getAs<ArrayAttr>("prompts").getAsRange<DenseI32ArrayAttr>())
      prompts.push_back(ids);
    PrefixSearch(blockSize, minShare, prompts.size())
        .search(prompts, 0, prefixes);

    record(module, blockSize, prefixes, tooShort);
  }

private:
  void record(ModuleOp module, int64_t blockSize,
              const std::map<Ids, Prefix> &prefixes,
              ArrayRef<std::string> tooShort) {
    Builder builder(&getContext());
    SmallVector<Attribute> list;
    double saved = 0;
    int64_t tokens = 0; // beginnings that another one has, once
    for (auto &[ids, prefix] : prefixes) {
      list.push_back(builder.getDictionaryAttr(
          {builder.getNamedAttr("name", builder.getStringAttr(prefix.name)),
           builder.getNamedAttr("ids", builder.getDenseI32ArrayAttr(ids)),
           builder.getNamedAttr("share",
                                builder.getF64FloatAttr(prefix.share))}));
      // Requests that start with it start with its beginnings, too.
      size_t counted = 0;
      for (auto &[other, unused] : prefixes)
        if (other != ids && startsWith(ids, other))
          counted = std::max(counted, other.size());
      saved += prefix.share * (ids.size() - counted);
      tokens += ids.size() - counted;
    }
    if (!list.empty())
      module->setAttr("llm.prefixes", builder.getArrayAttr(list));
    std::string text =
        fmt::format("{} prefixes are computed once and shared, {} blocks",
                    list.size(), tokens / blockSize);
    if (!tooShort.empty())
      text += fmt::format("; shorter than a block of {}: {}", blockSize,
                          llvm::join(tooShort, ", "));
    explain(module, getArgument(), text,
            list.empty() ? ""
                         : fmt::format("{:.0f} prompt tokens fewer to compute "
                                       "per request",
                                       saved));
  }

  static bool startsWith(const Ids &ids, const Ids &start) {
    return start.size() <= ids.size() &&
           std::equal(start.begin(), start.end(), ids.begin());
  }
};

} // namespace
