//===- Calibration.h - What this machine's kernels cost ---------*- C++ -*-===//
//
// The figures that `llmir-exec --calibrate FILE` measured, and the times that
// follow from them. All times are microseconds of one rank with the measured
// number of threads.
//
//===----------------------------------------------------------------------===//

#ifndef LLMIR_CALIBRATION_H
#define LLMIR_CALIBRATION_H

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "plan_schema/base/status.h"

namespace llmir {

/// An attention of `batch` sequences with `tokens` new tokens each, over
/// `context` tokens each, for `kvHeads` KV heads.
struct AttentionShape {
  std::string kv = "bf16";    // element of K and V, as DTypeName writes it
  std::string form = "flash"; // as AttentionForm's names
  bool fused = false;         // appends in the same pass
  int64_t blockSize = 16;
  int64_t headDim = 64;
  int64_t headsPerKv = 1;
  int64_t kvHeads = 1;
  double batch = 1;
  double context = 1;
  double tokens = 1;
};

/// Immutable after read; any thread may ask.
class Calibration {
public:
  /// Reads FILE. An error names the file, the field and what was expected.
  static StatusOr<Calibration> read(const std::string &path);

  const std::string &getFile() const { return file; } // without its folder
  uint64_t getHash() const { return hash; }           // Hash64 of its bytes
  int64_t getThreads() const { return threads; }
  /// What one more barrier of the rank's threads costs: each step ends in one.
  double getBarrierUs() const { return barrierUs; }
  double getMemoryUs(double bytes) const {
    return bytes / (memoryBytesPerSecond * 1e-6);
  }

  /// `tokens` rows through a matrix of rows x columns. Between measured numbers
  /// of tokens times are interpolated, beyond the last one they go on in
  /// proportion to the tokens; shapes that weren't measured take the time of
  /// those with nearest numbers of elements, in proportion. Empty: the kernel
  /// wasn't measured.
  std::optional<double> getLinearUs(const std::string &kernel, double rows,
                                    double columns, double tokens) const;

  /// Interpolated between measured contexts of the most similar measured shape,
  /// and in proportion to sequences, tokens and heads. Empty: this KV type,
  /// form or block size wasn't measured.
  std::optional<double> getAttentionUs(const AttentionShape &shape) const;

  /// `rows` rows of `columns` elements through a kernel of kernels/vector.h,
  /// divided among the threads.
  std::optional<double> getVectorUs(const std::string &kernel, double columns,
                                    double rows) const;

  struct Linear {
    std::string kernel;
    int64_t rows, columns;
    std::vector<std::pair<double, double>> points; // (tokens, us), by tokens
  };
  struct Attention {
    AttentionShape shape;
    double us;
  };
  struct Vector {
    std::string kernel;
    int64_t columns;
    double usPerRow; // of one thread, all being busy
  };

private:
  std::string file;
  uint64_t hash = 0;
  int64_t threads = 1;
  double memoryBytesPerSecond = 1;
  double barrierUs = 0;
  std::vector<Linear> linears;
  std::vector<Attention> attentions;
  std::vector<Vector> vectors;
};

} // namespace llmir

#endif // LLMIR_CALIBRATION_H
