//===- QuantizeModel.cpp - Types and values of a model's weights ----------===//

#include "planner/Quantization/QuantizeModel.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>

#include "planner/Quantization/BitBudget.h"
#include "planner/Quantization/DenseKernels.h"
#include "planner/Quantization/Quantizers.h"

using namespace llmir;
using namespace llmir::quantization;
using checkpoint::ActivationInput;
using checkpoint::Role;
using checkpoint::TensorInfo;
using kernels::Encoding;

namespace {

/// What a mix is made of.
constexpr Encoding kOffered[] = {
    Encoding::kQ3_1_64, Encoding::kQ3_0, Encoding::kQ3_1,    Encoding::kQ4_1_64,
    Encoding::kQ4_0,    Encoding::kQ4_1, Encoding::kQ5_1_64, Encoding::kQ5_0,
    Encoding::kQ5_1,    Encoding::kQ6_0, Encoding::kQ6_1_64, Encoding::kQ6_1,
    Encoding::kQ8_0,    Encoding::kBF16};

/// The rise of the loss, in nats per token, with the relative squared error of
/// a matrix's outputs: measured on SmolLM2-135M, all layers' matrices of a role
/// rounded at once (docs/quantization.md). Errors that are compensated lie in
/// other directions than those of rounding to the nearest, and weigh otherwise.
double getPrice(Role role, bool isCompensated) {
  switch (role) {
  case Role::kQuery:
    return isCompensated ? 0.116 : 0.10;
  case Role::kKey:
  case Role::kValue:
    return isCompensated ? 0.139 : 0.12;
  case Role::kAttentionOutput:
    return isCompensated ? 0.092 : 0.11;
  case Role::kGate:
    return isCompensated ? 0.17 : 0.15;
  case Role::kUp:
    return isCompensated ? 0.19 : 0.17;
  case Role::kDown:
    return isCompensated ? 0.25 : 0.49;
  case Role::kEmbedding: // looked up
  case Role::kHead:
    return 2.9;
  default:
    return 0;
  }
}

/// A matrix of a group.
struct Member {
  Role role;
  TensorInfo tensor;
  Encoding stored; // in the checkpoint
  // By AWQ; empty: 1.
  std::vector<float> columnScale, rowScale;
};

/// Matrices that share a type: they read the same, and are joined.
struct Group {
  std::string name;
  int64_t layer;
  std::vector<Member> members;
  const ActivationInput *input; // null: not measured, or only looked up
  int64_t columnLeaf;           // columns that no group of values may cross
  Curvature curvature;
  std::vector<float> scaledGram; // where columns were scaled
  int64_t weights = 0;
  int64_t columns = 0;
};

/// A group in one encoding.
struct Estimate {
  double bits = 0;
  double loss = 0;
  std::vector<double> errors; // relative, squared, of each member
  bool isExact = false;       // rounding to the nearest loses nothing
};

class ModelQuantizer {
public:
  ModelQuantizer(const checkpoint::Checkpoint &checkpoint,
                 const checkpoint::ActivationFile *activations,
                 const QuantizeOptions &options)
      : checkpoint(checkpoint), config(checkpoint.config()),
        activations(activations), options(options) {}

  StatusOr<QuantizedModel> run() {
    LLMIR_RETURN_IF_ERROR(checkActivations());
    LLMIR_RETURN_IF_ERROR(makeGroups());
    if (usesScales())
      findAllScales();
    if (usesCurvature())
      factorAll();
    LLMIR_ASSIGN_OR_RETURN(std::vector<Encoding> encodings, chooseEncodings());
    quantizeAll(encodings);
    return std::move(result);
  }

private:
  bool usesScales() const {
    return options.method == Method::Awq || options.method == Method::AwqGptq;
  }
  bool usesCurvature() const {
    return options.method == Method::Gptq || options.method == Method::AwqGptq;
  }
  double price(Role role) const { return getPrice(role, usesCurvature()); }
  void report(const std::string &text) {
    if (options.progress)
      options.progress(text);
  }

  Status checkActivations() {
    if (!activations) {
      if (options.bitsPerWeight || options.method != Method::RoundToNearest)
        return InvalidArgument("a budget of bits and calibrated methods need "
                               "--activations FILE, which llmir-exec "
                               "--collect-activations writes");
      return Status();
    }
    if (activations->facts.model_identity != checkpoint.identity())
      return InvalidArgument(
          "the activations were collected from another checkpoint ({}) than "
          "{}: collect them with a plan of this one",
          activations->facts.model, checkpoint.path());
    return Status();
  }

  //===--------------------------------------------------------------------===//
  // Groups
  //===--------------------------------------------------------------------===//

  Status makeGroups() {
    LLMIR_RETURN_IF_ERROR(addGroup("embedding", -1, {Role::kEmbedding}, 0));
    if (!config.tied_head)
      LLMIR_RETURN_IF_ERROR(addGroup("head", -1, {Role::kHead}, 0));
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      LLMIR_RETURN_IF_ERROR(
          addGroup("qkv", layer, {Role::kQuery, Role::kKey, Role::kValue}, 0));
      LLMIR_RETURN_IF_ERROR(
          addGroup("o", layer, {Role::kAttentionOutput}, config.head_dim));
      LLMIR_RETURN_IF_ERROR(
          addGroup("gate_up", layer, {Role::kGate, Role::kUp}, 0));
      LLMIR_RETURN_IF_ERROR(
          addGroup("down", layer, {Role::kDown}, options.mlpLeaf));
    }
    return Status();
  }

  Status addGroup(const std::string &name, int64_t layer,
                  std::initializer_list<Role> roles, int64_t columnLeaf) {
    Group group{layer < 0 ? name : fmt::format("layers.{}.{}", layer, name),
                layer,
                {},
                nullptr,
                columnLeaf,
                {},
                {}};
    for (Role role : roles) {
      LLMIR_ASSIGN_OR_RETURN(TensorInfo tensor, checkpoint.Find(role, layer));
      group.weights += tensor.rows * tensor.columns;
      group.columns = tensor.columns;
      LLMIR_ASSIGN_OR_RETURN(Encoding stored, getEncoding(tensor));
      group.members.push_back({role, tensor, stored, {}, {}});
    }
    bool isOnlyLookedUp =
        roles.begin()[0] == Role::kEmbedding && !config.tied_head;
    if (activations && !isOnlyLookedUp) {
      group.input = activations->Find(group.members.front().tensor.name);
      if (!group.input || group.input->columns != group.columns)
        return InvalidArgument(
            "the activations say nothing about tensor {}: collect them again",
            group.members.front().tensor.name);
      group.curvature = {group.columns, group.input->gram, {}};
    }
    if (activations && roles.begin()[0] == Role::kEmbedding &&
        activations->embedding_uses.size() !=
            static_cast<size_t>(config.vocabulary))
      return InvalidArgument("the activations count uses of {} ids, the model "
                             "has {}: collect them again",
                             activations->embedding_uses.size(),
                             config.vocabulary);
    groups.push_back(std::move(group));
    return Status();
  }

  static StatusOr<Encoding> getEncoding(const TensorInfo &tensor) {
    std::string_view name = checkpoint::Traits(tensor.type).name;
    if (auto encoding = kernels::FindEncoding(name))
      return *encoding;
    return Incompatible("tensor {}: type {} can't be decoded", tensor.name,
                        name);
  }

  static bool fits(const Group &group, Encoding encoding) {
    int values = kernels::FormatOf(encoding).group;
    return values == 0 ||
           (group.columns % values == 0 && group.columnLeaf % values == 0);
  }

  /// `encoding`, or what gives way to the group's columns, as in
  /// llm-choose-precision: groups of 64 to groups of 32, those to bf16.
  static Encoding fit(const Group &group, Encoding encoding) {
    std::string_view name = kernels::FormatOf(encoding).name;
    if (!fits(group, encoding) && name.ends_with("_64"))
      encoding = *kernels::FindEncoding(name.substr(0, name.size() - 3));
    return fits(group, encoding) ? encoding : Encoding::kBF16;
  }

  /// Every `step`-th row from `begin` to `end`, scaled.
  Matrix load(const Member &member, int64_t begin, int64_t end,
              int64_t step = 1) const {
    const int64_t columns = member.tensor.columns;
    const int64_t rowBytes = checkpoint::RowBytes(member.tensor.type, columns);
    const std::byte *bytes = checkpoint.Bytes(member.tensor).data();
    Matrix matrix{(end - begin + step - 1) / step, columns, {}};
    matrix.values.resize(matrix.rows * columns);
    for (int64_t r = 0; r < matrix.rows; ++r) {
      float *row = matrix.row(r);
      int64_t source = begin + r * step;
      kernels::DecodeRow(member.stored, bytes + source * rowBytes, columns,
                         row);
      if (!member.rowScale.empty())
        for (int64_t c = 0; c < columns; ++c)
          row[c] *= member.rowScale[source];
      if (!member.columnScale.empty())
        for (int64_t c = 0; c < columns; ++c)
          row[c] *= member.columnScale[c];
    }
    return matrix;
  }

  //===--------------------------------------------------------------------===//
  // Factors of columns (AWQ), folded into what makes them
  //===--------------------------------------------------------------------===//

  void findAllScales() {
    // o before qkv and down before gate_up: their factors are folded into rows
    // that the second search then sees.
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      report(fmt::format("scales of layer {} of {}", layer + 1, config.layers));
      Group &qkv = *findGroup(layer, Role::kQuery);
      Group &o = *findGroup(layer, Role::kAttentionOutput);
      Group &gateUp = *findGroup(layer, Role::kGate);
      Group &down = *findGroup(layer, Role::kDown);
      // Query heads of one KV head read the same value rows.
      std::vector<int32_t> valueRow(o.columns);
      int64_t headsPerKv = config.query_heads / config.kv_heads;
      for (int64_t c = 0; c < o.columns; ++c)
        valueRow[c] = static_cast<int32_t>(c / config.head_dim / headsPerKv *
                                               config.head_dim +
                                           c % config.head_dim);
      std::vector<float> scale = scaleColumns(o, valueRow);
      std::vector<float> &rows = qkv.members.back().rowScale;
      rows.assign(qkv.members.back().tensor.rows, 1.0f);
      for (int64_t c = 0; c < o.columns; ++c)
        rows[valueRow[c]] = 1 / scale[c];
      foldIntoNorm(Role::kAttentionNorm, layer, scaleColumns(qkv, {}));

      std::vector<float> &upRows = gateUp.members.back().rowScale;
      upRows = scaleColumns(down, {});
      for (float &value : upRows)
        value = 1 / value;
      foldIntoNorm(Role::kMlpNorm, layer, scaleColumns(gateUp, {}));
    }
  }

  Group *findGroup(int64_t layer, Role role) {
    for (Group &group : groups)
      if (group.layer == layer && group.members.front().role == role)
        return &group;
    return nullptr;
  }

  std::vector<float> scaleColumns(Group &group,
                                  const std::vector<int32_t> &tie) {
    std::vector<Matrix> matrices;
    std::vector<const Matrix *> pointers;
    for (const Member &member : group.members)
      matrices.push_back(load(member, 0, member.tensor.rows));
    for (const Matrix &matrix : matrices)
      pointers.push_back(&matrix);
    std::vector<float> scale =
        findScales(options.encoding, pointers, group.input->mean_abs, tie,
                   group.curvature, options.threads);
    for (Member &member : group.members)
      member.columnScale = scale;
    group.scaledGram.assign(group.input->gram.begin(), group.input->gram.end());
    for (int64_t i = 0; i < group.columns; ++i)
      for (int64_t j = 0; j < group.columns; ++j)
        group.scaledGram[i * group.columns + j] /= scale[i] * scale[j];
    group.curvature.gram = group.scaledGram;
    return scale;
  }

  void foldIntoNorm(Role role, int64_t layer, const std::vector<float> &scale) {
    TensorInfo tensor = *checkpoint.Find(role, layer);
    Encoding stored = *getEncoding(tensor);
    std::vector<float> values(tensor.columns);
    kernels::DecodeRow(stored, checkpoint.Bytes(tensor).data(), tensor.columns,
                       values.data());
    for (int64_t c = 0; c < tensor.columns; ++c)
      values[c] /= scale[c];
    checkpoint::TensorValues packed{
        tensor.name, checkpoint::SourceType::kF32, 1, tensor.columns, {}};
    packed.bytes.resize(values.size() * sizeof(float));
    std::memcpy(packed.bytes.data(), values.data(), packed.bytes.size());
    result.packed.push_back(std::move(packed));
  }

  //===--------------------------------------------------------------------===//
  // What each encoding would cost
  //===--------------------------------------------------------------------===//

  void factorAll() {
    std::atomic<size_t> done{0};
    std::mutex mutex;
    parallelFor(options.threads, groups.size(), [&](int64_t g) {
      Group &group = groups[g];
      if (group.input)
        group.curvature = makeCurvature(group.curvature.gram, group.columns,
                                        getLookupRidge(group));
      size_t count = ++done;
      std::lock_guard lock(mutex);
      report(fmt::format("Gram matrices factored: {} of {}", count,
                         groups.size()));
    });
  }

  /// A table that is also the head is read in two ways. Its loss is the sum of
  /// two quadratic forms of its error: the head's Gram matrix, and this
  /// multiple of the identity for the rows that are looked up.
  double getLookupRidge(const Group &group) const {
    const Member &member = group.members.front();
    if (member.role != Role::kEmbedding)
      return 0;
    constexpr int64_t kStep = 65;
    Matrix sample = load(member, 0, member.tensor.rows, kStep);
    Matrix nothing{sample.rows, sample.columns,
                   std::vector<float>(sample.values.size())};
    double squares = 0;
    for (float value : sample.values)
      squares += static_cast<double>(value) * value;
    return price(Role::kEmbedding) / price(Role::kHead) *
           outputError(sample, nothing, group.curvature) / squares;
  }

  /// Blocks of `matrix` by the method asked for, or to the nearest where that
  /// is exact or nothing is known of the inputs.
  void quantize(Encoding encoding, const Matrix &matrix,
                const Curvature &curvature, std::byte *blocks) const {
    if (usesCurvature() && !curvature.factor.empty() &&
        kernels::FormatOf(encoding).group != 0)
      compensate(encoding, matrix, 0, matrix.rows, curvature, blocks);
    else
      roundToNearest(encoding, matrix, 0, matrix.rows, blocks);
  }

  Estimate estimate(const Group &group, Encoding encoding) const {
    // Rows are alike enough for a sample of them to tell; a mix is chosen by
    // means over the layers, which are so many samples.
    const int64_t sampledRows =
        usesAverages() ? std::clamp<int64_t>(1024 / config.layers, 32, 128)
                       : 128;
    Estimate estimate;
    estimate.isExact = true;
    for (const Member &member : group.members) {
      const int64_t rows = member.tensor.rows;
      estimate.bits += 8.0 * static_cast<double>(rows) *
                       kernels::BlockRowBytes(encoding, group.columns);
      bool isTable = member.role == Role::kEmbedding;
      // Odd, so that heads and other powers of two are met at every place.
      int64_t step =
          std::max<int64_t>(1, rows / (isTable ? 1024 : sampledRows)) | 1;
      Matrix sample = load(member, 0, rows, step);
      std::vector<std::byte> blocks(
          sample.rows * kernels::BlockRowBytes(encoding, group.columns));
      roundToNearest(encoding, sample, 0, sample.rows, blocks.data());
      Matrix rounded =
          decode(encoding, sample.rows, group.columns, blocks.data());
      bool isExact = rounded.values == sample.values;
      estimate.isExact &= isExact;
      if (!isExact && usesCurvature() && !group.curvature.factor.empty()) {
        quantize(encoding, sample, group.curvature, blocks.data());
        rounded = decode(encoding, sample.rows, group.columns, blocks.data());
      }
      double error = 0;
      if (isTable) {
        double lookup = getLookupError(sample, rounded, step);
        error = lookup;
        estimate.loss += price(Role::kEmbedding) * lookup;
      }
      if (group.input) {
        Matrix nothing{sample.rows, sample.columns,
                       std::vector<float>(sample.values.size())};
        error = isExact ? 0
                        : outputError(sample, rounded, group.curvature) /
                              outputError(sample, nothing, group.curvature);
        Role reader = isTable ? Role::kHead : member.role;
        estimate.loss += price(reader) * error;
      }
      estimate.errors.push_back(error);
    }
    return estimate;
  }

  /// Squared error over squares of rows that are looked up, each as often as
  /// its id was met, and once more.
  double getLookupError(const Matrix &rows, const Matrix &rounded,
                        int64_t step) const {
    double error = 0, squares = 0;
    for (int64_t r = 0; r < rows.rows; ++r) {
      double uses =
          1 + (activations ? activations->embedding_uses[r * step] : 0.0f);
      for (int64_t c = 0; c < rows.columns; ++c) {
        double value = rows.row(r)[c], difference = value - rounded.row(r)[c];
        error += uses * difference * difference;
        squares += uses * value * value;
      }
    }
    return squares > 0 ? error / squares : 0;
  }

  //===--------------------------------------------------------------------===//
  // The choice
  //===--------------------------------------------------------------------===//

  StatusOr<std::vector<Encoding>> chooseEncodings() {
    std::vector<std::vector<Encoding>> encodings(groups.size());
    std::vector<std::pair<size_t, size_t>> tasks;
    for (auto [g, group] : enumerateGroups()) {
      if (options.bitsPerWeight) {
        for (Encoding encoding : kOffered)
          if (fits(*group, encoding) && isOffered(encoding))
            encodings[g].push_back(encoding);
        if (encodings[g].empty())
          encodings[g].push_back(Encoding::kBF16);
      } else {
        encodings[g].push_back(fit(*group, options.encoding));
      }
      for (size_t i = 0; i < encodings[g].size(); ++i)
        tasks.emplace_back(g, i);
    }
    estimates.resize(groups.size());
    for (size_t g = 0; g < groups.size(); ++g)
      estimates[g].resize(encodings[g].size());
    std::atomic<size_t> done{0};
    std::mutex mutex;
    if (activations)
      parallelFor(options.threads, tasks.size(), [&](int64_t t) {
        auto [g, i] = tasks[t];
        estimates[g][i] = estimate(groups[g], encodings[g][i]);
        size_t count = ++done;
        std::lock_guard lock(mutex);
        report(fmt::format("errors measured: {} of {}", count, tasks.size()));
      });

    if (usesAverages())
      averageLosses(encodings);

    double weights = 0;
    for (const Group &group : groups)
      weights += static_cast<double>(group.weights);
    std::vector<size_t> chosen(groups.size(), 0);
    if (options.bitsPerWeight) {
      std::vector<std::vector<Offer>> offers(groups.size());
      double least = 0;
      for (size_t g = 0; g < groups.size(); ++g) {
        double cheapest = std::numeric_limits<double>::infinity();
        for (const Estimate &e : estimates[g]) {
          offers[g].push_back(
              {e.bits, e.loss,
               static_cast<int>(encodings[g][&e - &estimates[g][0]])});
          cheapest = std::min(cheapest, e.bits);
        }
        least += cheapest;
      }
      chosen = spendBits(offers, *options.bitsPerWeight * weights);
      if (chosen.empty())
        return InvalidArgument(
            "{} bits per weight: the fewest that this model's matrices can "
            "take are {:.3f}",
            *options.bitsPerWeight, least / weights);
    }
    std::vector<Encoding> picked;
    double bits = 0;
    for (size_t g = 0; g < groups.size(); ++g) {
      picked.push_back(encodings[g][chosen[g]]);
      picks.push_back(activations ? estimates[g][chosen[g]] : Estimate());
      result.expectedLoss += picks.back().loss;
      bits += 8.0 * static_cast<double>(groups[g].weights / groups[g].columns) *
              kernels::BlockRowBytes(picked.back(), groups[g].columns);
    }
    result.bitsPerWeight = bits / weights;
    summarize(picked, weights);
    return picked;
  }

  /// Compensated errors are measured on the text that they were fitted to:
  /// which layer of a role has the least says nothing about which one the model
  /// feels least on another text, and choosing by it picks those that are
  /// underrated most. Errors of rounding to the nearest aren't fitted, and do
  /// tell (docs/quantization.md).
  bool usesAverages() const {
    return options.bitsPerWeight.has_value() && usesCurvature();
  }

  /// Gives the groups of all layers that read the same the mean of their losses
  /// in an encoding, of those that it doesn't hold exactly.
  void averageLosses(const std::vector<std::vector<Encoding>> &encodings) {
    std::map<std::pair<Role, Encoding>, std::vector<Estimate *>> alike;
    for (size_t g = 0; g < groups.size(); ++g)
      for (size_t i = 0; i < encodings[g].size(); ++i)
        if (!estimates[g][i].isExact)
          alike[{groups[g].members.front().role, encodings[g][i]}].push_back(
              &estimates[g][i]);
    for (auto &[key, members] : alike) {
      double sum = 0;
      for (const Estimate *estimate : members)
        sum += estimate->loss;
      for (Estimate *estimate : members)
        estimate->loss = sum / static_cast<double>(members.size());
    }
  }

  bool isOffered(Encoding encoding) const {
    return options.offered.empty() ||
           std::ranges::find(options.offered, encoding) !=
               options.offered.end();
  }

  std::vector<std::pair<size_t, const Group *>> enumerateGroups() const {
    std::vector<std::pair<size_t, const Group *>> all;
    for (size_t g = 0; g < groups.size(); ++g)
      all.emplace_back(g, &groups[g]);
    return all;
  }

  void summarize(const std::vector<Encoding> &picked, double weights) {
    // By what is read, cheapest encoding first: "down: 12 q4_1_64, 18 q4_1".
    std::map<std::string, std::map<std::string, int>> counts;
    std::map<std::string, double> share;
    for (size_t g = 0; g < groups.size(); ++g) {
      const std::string &name = groups[g].name;
      std::string encoding = kernels::FormatOf(picked[g]).name;
      ++counts[name.substr(name.rfind('.') + 1)][encoding];
      share[encoding] += static_cast<double>(groups[g].weights) / weights;
    }
    for (auto &[name, encodings] : counts) {
      result.summary += (result.summary.empty() ? "" : "; ") + name + ":";
      const char *separator = " ";
      for (auto &[encoding, count] : encodings) {
        result.summary += fmt::format("{}{} {}", separator, count, encoding);
        separator = ", ";
      }
    }
    std::string shares;
    for (auto &[encoding, part] : share)
      shares += fmt::format("{}{:.1f} % {}", shares.empty() ? "" : ", ",
                            100 * part, encoding);
    result.summary += "; of all weights " + shares;
  }

  //===--------------------------------------------------------------------===//
  // The values
  //===--------------------------------------------------------------------===//

  void quantizeAll(const std::vector<Encoding> &encodings) {
    constexpr int64_t kRowsOfTask = 512;
    struct Task {
      const Group *group;
      const Member *member;
      Encoding encoding;
      size_t packed;
      int64_t begin, end;
    };
    std::vector<Task> tasks;
    for (auto [g, group] : enumerateGroups()) {
      for (auto [m, member] : enumerateMembers(*group)) {
        bool isScaled =
            !member->columnScale.empty() || !member->rowScale.empty();
        bool isCompensated =
            usesCurvature() && !group->curvature.factor.empty() &&
            !picks[g].isExact && kernels::FormatOf(encodings[g]).group != 0;
        std::string method = isScaled && isCompensated ? "awq+gptq"
                             : isScaled                ? "awq"
                             : isCompensated           ? "gptq"
                                                       : "";
        double error = picks[g].errors.empty() ? 0 : picks[g].errors[m];
        result.choices.push_back({member->tensor.name, encodings[g], method,
                                  std::sqrt(std::max(0.0, error))});
        if (method.empty())
          continue; // the checkpoint gives it
        checkpoint::TensorValues packed{
            member->tensor.name,
            *checkpoint::FindSourceType(kernels::FormatOf(encodings[g]).name),
            member->tensor.rows,
            member->tensor.columns,
            {}};
        packed.bytes.resize(
            packed.rows * kernels::BlockRowBytes(encodings[g], packed.columns));
        result.packed.push_back(std::move(packed));
        for (int64_t row = 0; row < member->tensor.rows; row += kRowsOfTask)
          tasks.push_back({group, member, encodings[g],
                           result.packed.size() - 1, row,
                           std::min(member->tensor.rows, row + kRowsOfTask)});
      }
    }
    std::atomic<size_t> done{0};
    std::mutex mutex;
    parallelFor(options.threads, tasks.size(), [&](int64_t t) {
      const Task &task = tasks[t];
      Matrix rows = load(*task.member, task.begin, task.end);
      quantize(task.encoding, rows, task.group->curvature,
               result.packed[task.packed].bytes.data() +
                   task.begin *
                       kernels::BlockRowBytes(task.encoding, rows.columns));
      size_t count = ++done;
      std::lock_guard lock(mutex);
      report(fmt::format("quantized: {} of {} parts", count, tasks.size()));
    });
  }

  static std::vector<std::pair<size_t, const Member *>>
  enumerateMembers(const Group &group) {
    std::vector<std::pair<size_t, const Member *>> all;
    for (size_t m = 0; m < group.members.size(); ++m)
      all.emplace_back(m, &group.members[m]);
    return all;
  }

  const checkpoint::Checkpoint &checkpoint;
  const checkpoint::ModelConfig &config;
  const checkpoint::ActivationFile *activations;
  const QuantizeOptions &options;
  std::vector<Group> groups;
  std::vector<std::vector<Estimate>> estimates; // per group and encoding
  std::vector<Estimate> picks;                  // per group
  QuantizedModel result;
};

} // namespace

std::optional<Method> quantization::findMethod(const std::string &name) {
  if (name == "rtn")
    return Method::RoundToNearest;
  if (name == "awq")
    return Method::Awq;
  if (name == "gptq")
    return Method::Gptq;
  if (name == "awq+gptq")
    return Method::AwqGptq;
  return std::nullopt;
}

StatusOr<QuantizedModel>
quantization::quantizeModel(const checkpoint::Checkpoint &checkpoint,
                            const checkpoint::ActivationFile *activations,
                            const QuantizeOptions &options) {
  return ModelQuantizer(checkpoint, activations, options).run();
}
