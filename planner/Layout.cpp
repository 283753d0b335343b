//===- Layout.cpp - Stages and ranks for a number of ranks ----------------===//

#include "planner/Layout.h"

#include <algorithm>
#include <cmath>

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/MathExtras.h"

#include "planner/Frontend/ImportCheckpoint.h"

using namespace llmir;
using checkpoint::Role;

namespace {

/// Where nothing was measured: bytes that memory delivers in a microsecond, and
/// what a barrier takes.
constexpr double kBytesPerUs = 10000;
constexpr double kBarrierUs = 5;

/// Bytes that a stored tensor takes once packed by --weights.
double getPackedBytes(const checkpoint::TensorInfo &tensor,
                      llvm::StringRef weights) {
  double elements = static_cast<double>(tensor.rows) * tensor.columns;
  if (tensor.rows == 1)
    return elements * sizeof(float);
  if (weights == "f32")
    return elements * 4;
  if (weights == "bf16")
    return elements * 2;
  if (weights == "q8")
    return elements * 34 / 32;
  if (weights == "q4")
    return elements * 20 / 32;
  double bits;
  if (weights.consume_front("auto:") && weights.consume_back("bpw") &&
      !weights.getAsDouble(bits))
    return elements * bits / 8;
  return tensor.bytes;
}

/// Bytes of weights by what divides them.
struct ModelBytes {
  double heads = 0, kvHeads = 0, mlp = 0, whole = 0; // of a layer, mean
  double embedding = 0, head = 0, embeddingRow = 0;
};

class LayoutCosts {
public:
  LayoutCosts(const checkpoint::ModelConfig &config, const ModelBytes &bytes,
              const plan::Calibration *calibration)
      : config(config), bytes(bytes) {
    if (calibration) {
      usPerByte = calibration->all().MemoryUs(1);
      barrierUs = std::max(calibration->all().barrier_us, 0.1);
    }
  }

  Layout weigh(const std::vector<int64_t> &tp) const {
    Layout layout;
    layout.tp = tp;
    double ranks = 0, alone = config.layers * getLayerBytes(1) +
                              bytes.embeddingRow + getHeadBytes(1);
    for (int64_t count : tp)
      ranks += count;
    for (size_t stage = 0; stage < tp.size(); ++stage) {
      int64_t count = tp[stage];
      // llm-split-stages gives layers to stages by their ranks.
      double layers = config.layers * count / ranks;
      double read = layers * getLayerBytes(count);
      double kept = std::ceil(layers) * getLayerBytes(count);
      double us = layers * 2 * getMeetUs(count);
      if (stage == 0) {
        read += bytes.embeddingRow;
        kept += bytes.embedding * getVocabularyShare(count);
        us += getMeetUs(count);
      }
      if (stage + 1 == tp.size()) {
        read += getHeadBytes(count);
        us += getMeetUs(count);
        // A tied head is there already where there is one stage.
        if (!config.tied_head || tp.size() > 1)
          kept += getHeadBytes(count);
      } else {
        us += 2 * barrierUs; // rows go to the next stage
      }
      layout.bytesPerToken += read;
      layout.usPerToken += us + read * usPerByte;
      layout.largestRank = std::max(layout.largestRank, kept);
    }
    layout.efficiency = alone / (layout.bytesPerToken * ranks);
    return layout;
  }

private:
  static double getShare(int64_t leaves, int64_t ranks) {
    return static_cast<double>(llvm::divideCeil(leaves, ranks)) / leaves;
  }
  double getVocabularyShare(int64_t ranks) const {
    return getShare(llvm::divideCeil(config.vocabulary, kVocabularyLeaf),
                    ranks);
  }
  double getHeadBytes(int64_t ranks) const {
    return bytes.head * getVocabularyShare(ranks);
  }

  /// What the rank with most of it reads of a layer.
  double getLayerBytes(int64_t ranks) const {
    int64_t most = llvm::divideCeil(config.query_heads, ranks);
    int64_t group = config.query_heads / config.kv_heads;
    // A rank's query heads may begin and end inside of groups.
    int64_t kvHeads = 0, begin = 0;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      int64_t end = begin + config.query_heads / ranks +
                    (rank < config.query_heads % ranks ? 1 : 0);
      kvHeads = std::max<int64_t>(kvHeads,
                                  llvm::divideCeil(end, group) - begin / group);
      begin = end;
    }
    return bytes.heads * most / config.query_heads +
           bytes.kvHeads * kvHeads / config.kv_heads +
           bytes.mlp *
               getShare(llvm::divideCeil(config.mlp_columns, kMlpLeaf), ranks) +
           bytes.whole;
  }

  /// Ranks hand their parts on in as many rounds as it takes to double.
  double getMeetUs(int64_t ranks) const {
    return ranks > 1 ? 2 * barrierUs * llvm::Log2_64_Ceil(ranks) : 0;
  }

  const checkpoint::ModelConfig &config;
  const ModelBytes &bytes;
  double usPerByte = 1 / kBytesPerUs;
  double barrierUs = kBarrierUs;
};

StatusOr<ModelBytes> getModelBytes(const checkpoint::Checkpoint &checkpoint,
                                   const std::string &weights) {
  ModelBytes bytes;
  auto add = [&](Role role, int64_t layer, double &sum) -> Status {
    LLMIR_ASSIGN_OR_RETURN(checkpoint::TensorInfo tensor,
                           checkpoint.Find(role, layer));
    sum += getPackedBytes(tensor, weights);
    return Status();
  };
  int64_t layers = checkpoint.config().layers;
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (Role role : {Role::kQuery, Role::kAttentionOutput})
      LLMIR_RETURN_IF_ERROR(add(role, layer, bytes.heads));
    for (Role role : {Role::kKey, Role::kValue})
      LLMIR_RETURN_IF_ERROR(add(role, layer, bytes.kvHeads));
    for (Role role : {Role::kGate, Role::kUp, Role::kDown})
      LLMIR_RETURN_IF_ERROR(add(role, layer, bytes.mlp));
    for (Role role : {Role::kAttentionNorm, Role::kMlpNorm})
      LLMIR_RETURN_IF_ERROR(add(role, layer, bytes.whole));
  }
  for (double *sum : {&bytes.heads, &bytes.kvHeads, &bytes.mlp, &bytes.whole})
    *sum /= layers;
  LLMIR_RETURN_IF_ERROR(add(Role::kEmbedding, -1, bytes.embedding));
  LLMIR_RETURN_IF_ERROR(add(Role::kHead, -1, bytes.head));
  bytes.embeddingRow = bytes.embedding / checkpoint.config().vocabulary;
  return bytes;
}

} // namespace

int64_t llmir::getLargestTp(const checkpoint::ModelConfig &config) {
  return std::min<int64_t>(
      {config.query_heads,
       static_cast<int64_t>(llvm::divideCeil(config.mlp_columns, kMlpLeaf)),
       static_cast<int64_t>(
           llvm::divideCeil(config.vocabulary, kVocabularyLeaf))});
}

StatusOr<std::vector<Layout>>
llmir::listLayouts(const checkpoint::Checkpoint &checkpoint,
                   const LayoutRequest &request) {
  const checkpoint::ModelConfig &config = checkpoint.config();
  int64_t largestTp = getLargestTp(config);
  if (request.ranks < 1 || request.ranks > config.layers * largestTp)
    return ResourceExhausted(
        "--ranks {}: expected 1 to {}: the model has {} layers, and at most {} "
        "ranks can divide one",
        request.ranks, config.layers * largestTp, config.layers, largestTp);
  LLMIR_ASSIGN_OR_RETURN(ModelBytes bytes,
                         getModelBytes(checkpoint, request.weights));
  LayoutCosts costs(config, bytes, request.calibration);
  std::vector<Layout> layouts;
  double least = 0; // memory that would do
  for (int64_t stages = 1; stages <= std::min(request.ranks, config.layers);
       ++stages) {
    int64_t ranks = request.ranks / stages, more = request.ranks % stages;
    if (ranks + (more > 0) > largestTp)
      continue;
    std::vector<int64_t> tp(stages, ranks);
    for (int64_t stage = stages - more; stage < stages; ++stage)
      ++tp[stage];
    Layout layout = costs.weigh(tp);
    least =
        least == 0 ? layout.largestRank : std::min(least, layout.largestRank);
    if (request.rankMemory == 0 || layout.largestRank <= request.rankMemory)
      layouts.push_back(std::move(layout));
  }
  if (layouts.empty())
    return ResourceExhausted(
        "--ranks {}: the weights take at least {:.0f} bytes on one of them, "
        "--rank-memory allows {}: use more ranks or fewer bits",
        request.ranks, least, request.rankMemory);
  llvm::stable_sort(layouts, [](const Layout &a, const Layout &b) {
    return a.usPerToken < b.usPerToken;
  });
  return layouts;
}

StatusOr<Layout> llmir::chooseLayout(const checkpoint::Checkpoint &checkpoint,
                                     const LayoutRequest &request) {
  LLMIR_ASSIGN_OR_RETURN(std::vector<Layout> layouts,
                         listLayouts(checkpoint, request));
  return layouts.front();
}
