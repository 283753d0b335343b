// The figures that `llmir-exec --calibrate FILE` measured, and the times that follow from them.
// Times are microseconds, sizes bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "plan_schema/base/status.h"

namespace llmir::plan {

// An attention of `batch` sequences with `tokens` new tokens each, which have `context` tokens each
// after it.
struct AttentionShape {
  std::string kv = "bf16";     // element of K and V, as DTypeName writes it
  std::string form = "flash";  // as AttentionForm's names
  bool fused = false;          // appends in the same pass
  int64_t block_size = 16;
  int64_t head_dim = 64;
  int64_t heads_per_kv = 1;
  double kv_heads = 1;  // query heads / heads_per_kv: not whole where a rank has a part of a group
  double batch = 1;
  double context = 1;
  double tokens = 1;

  // Tokens that one of the new ones attends to, on average.
  double MeanAttended() const { return context - (tokens - 1) / 2; }
};

// Measured times, by a size that grows.
using Curve = std::vector<std::pair<double, double>>;

// What kernels take on one number of threads. Each time holds launch_us once.
class Profile {
 public:
  int64_t threads = 1;
  double memory_bytes_per_s = 1;  // read
  // What one more barrier of the rank's threads costs: each step ends in one.
  double barrier_us = 0;
  double launch_us = 0;  // starting the threads' work and seeing its end
  double rope_us_per_element = 0;
  double sample_us_per_id = 0;

  double MemoryUs(double bytes) const { return bytes / (memory_bytes_per_s * 1e-6); }

  // `tokens` rows through a matrix of rows x columns; `leaves`: sums over a tree of leaves
  // (kernels/linear.h), as where columns are divided. Between measured numbers of tokens times are
  // interpolated, beyond the last one they go on in proportion to the tokens; between measured
  // shapes, and beyond, they go on a line over the number of elements. Empty: the kernel wasn't
  // measured.
  std::optional<double> LinearUs(const std::string& kernel, double rows, double columns,
                                 double tokens, bool leaves = false) const;

  // Interpolated between measured contexts of the most similar measured shape, and in proportion to
  // sequences, tokens and heads. Empty: this KV type, form or block size wasn't measured.
  std::optional<double> AttentionUs(const AttentionShape& shape) const;
  // The same of what rotates and appends; by the tokens alone.
  std::optional<double> AppendUs(const AttentionShape& shape) const;

  // `rows` rows of `columns` elements through a kernel of kernels/vector.h, divided among the
  // threads.
  std::optional<double> VectorUs(const std::string& kernel, double columns, double rows) const;

  struct Linear {
    std::string kernel;
    int64_t rows, columns;
    int64_t leaf_columns;  // 0: one leaf
    Curve points;          // (tokens, us)
  };
  struct Attention {
    AttentionShape shape;
    double us;
    double append_us;  // 0: not measured
  };
  struct Vector {
    std::string kernel;
    int64_t columns;
    double us_per_row;  // of one thread, all being busy
  };
  std::vector<Linear> linears;
  std::vector<Attention> attentions;
  std::vector<Vector> vectors;
  // Only these block sizes were measured: others take the nearest one's figures.
  bool few_block_sizes = false;
};

// Immutable after Read; any thread may ask.
class Calibration {
 public:
  // Reads FILE. An error names the file, the field and what was expected.
  static StatusOr<Calibration> Read(const std::string& path);

  const std::string& file() const { return file_; }  // without its folder
  uint64_t hash() const { return hash_; }            // Hash64 of its bytes
  const Profile& all() const { return all_; }        // of all threads that were asked for
  // Of one thread while the other cores rest; all() where only that was measured.
  const Profile& alone() const { return alone_ ? *alone_ : all_; }
  // Attention by one of the two profiles. One thread alone is measured in the flash form only: of
  // others it is taken to be as much slower or faster than flash as with all threads.
  std::optional<double> AttentionUs(const Profile& profile, const AttentionShape& shape) const;
  double process_bytes() const { return process_bytes_; }  // resident, of a process without a plan

  // A collective or message (by StepKind's name without _start) of `bytes`, as the calibration
  // counts them (executor/calibrate_links.h), among `ranks`: of the nearest measured number of
  // ranks. Empty: not measured.
  std::optional<double> LinkUs(const std::string& operation, bool between_hosts, int64_t ranks,
                               double bytes) const;

 private:
  struct Link {
    std::string channel;
    int64_t ranks = 0;
    int64_t hosts = 1;
    std::vector<std::pair<std::string, Curve>> operations;  // by bytes
  };
  std::string file_;
  uint64_t hash_ = 0;
  double process_bytes_ = 0;
  Profile all_;
  std::optional<Profile> alone_;
  std::vector<Link> links_;
};

}  // namespace llmir::plan
