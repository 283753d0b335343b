//===- QuantizeModel.h - Types and values of a model's weights --*- C++ -*-===//
//
// Chooses how each matrix of a checkpoint is stored, from what it reads on a
// calibration text, and makes its values.
//
//===----------------------------------------------------------------------===//

#ifndef LLMIR_QUANTIZATION_QUANTIZEMODEL_H
#define LLMIR_QUANTIZATION_QUANTIZEMODEL_H

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/block_formats.h"
#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/activation_file.h"
#include "plan_schema/checkpoint/checkpoint.h"

namespace llmir::quantization {

enum class Method { RoundToNearest, Awq, Gptq, AwqGptq };

/// rtn, awq, gptq, awq+gptq; nothing for another name.
std::optional<Method> findMethod(const std::string &name);

struct QuantizeOptions {
  /// Bits per weight to spend over all matrices; nothing: `encoding` for all.
  std::optional<double> bitsPerWeight;
  kernels::Encoding encoding = kernels::Encoding::kQ4_1;
  std::vector<kernels::Encoding> offered; // of which a mix may be made; empty:
                                          // all but f32 and f16
  Method method = Method::RoundToNearest;
  int64_t mlpLeaf = 64; // columns that no group may cross
  int threads = 2;
  /// Called now and then with a sentence on how far it is.
  std::function<void(const std::string &)> progress;
};

/// How one matrix is stored.
struct WeightChoice {
  std::string tensor;
  kernels::Encoding encoding;
  std::string method; // "" if to the nearest
  /// Root of (squared error / squares) of the outputs on the calibration text.
  double error = 0;
};

struct QuantizedModel {
  std::vector<WeightChoice> choices;
  /// Tensors whose values a checkpoint doesn't give: all not rounded to the
  /// nearest, and norms into which factors were folded.
  std::vector<checkpoint::TensorValues> packed;
  double bitsPerWeight = 0;
  double expectedLoss = 0; // rise of the loss in nats per token
  std::string summary;     // the mix, for people
};

/// `activations`: null only for one encoding to the nearest. An impossible
/// budget is INVALID_ARGUMENT and names what is possible.
StatusOr<QuantizedModel>
quantizeModel(const checkpoint::Checkpoint &checkpoint,
              const checkpoint::ActivationFile *activations,
              const QuantizeOptions &options);

} // namespace llmir::quantization

#endif // LLMIR_QUANTIZATION_QUANTIZEMODEL_H
