// A rank's weights: its part of the checkpoint, checked against the plan leaf by leaf and packed
// for its kernels.
//
// Made once at load by the rank's main thread (with its worker pool); read-only afterwards, by all
// threads.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "executor/memory_map.h"
#include "kernels/isa.h"
#include "kernels/linear.h"
#include "kernels/worker_pool.h"
#include "plan_schema/base/file_map.h"
#include "plan_schema/base/status.h"
#include "plan_schema/plan_generated.h"

namespace llmir::executor {

// One weight as steps read it.
struct PackedWeight {
  const kernels::LinearKernel* kernel = nullptr;  // null: a vector of floats (norms)
  const std::byte* data = nullptr;
  int64_t rows = 0;  // on this rank; of an interleaved weight 2 x the rows of one piece
  int64_t columns = 0;
  int64_t panels = 0;
  int64_t leaf_columns = 0;
  int64_t first_row = 0;  // row of the whole matrix that local row 0 is (embedding look-ups)
  uint64_t bytes = 0;     // packed

  const float* vector() const { return reinterpret_cast<const float*>(data); }
};

struct LoadStatistics {
  uint64_t source_bytes = 0;  // checkpoint bytes of this rank's leaves: read, checked and packed
  uint64_t source_shared_bytes =
      0;  // whole tensors cut by columns: every rank of a host reads the same pages
  uint64_t storage_bytes =
      0;  // fetched from the storage layer meanwhile (/proc/self/io); 0 from a warm page cache
  uint64_t packed_bytes = 0;
  double seconds = 0;
  bool random = false;  // no checkpoint was read
};

// Called now and then by the main thread while loading, with source bytes done and in all (of
// random weights: those that a checkpoint would have).
using LoadProgress = std::function<void(uint64_t done, uint64_t total)>;

class Weights {
 public:
  // Maps the plan's checkpoint files: relative to `plan_folder`, or `model` (a file, or a folder
  // holding the names) if not empty. Checks sizes and header hashes. Then packs what `rank` lists.
  // With `random_seed` no file is touched and the weights are random (random_weights.h).
  // INCOMPATIBLE without it for a plan that was made from a shape.
  static StatusOr<Weights> Load(const plan::Plan& plan, const plan::Rank& rank,
                                const std::string& plan_folder, const std::string& model,
                                std::optional<uint64_t> random_seed, kernels::Isa isa,
                                kernels::WorkerPool& pool, const LoadProgress& progress);

  const PackedWeight& weight(size_t index) const { return weights_[index]; }
  const LoadStatistics& statistics() const { return statistics_; }

 private:
  MemoryMap memory_;
  std::vector<PackedWeight> weights_;  // by Plan.weights index; those of other ranks are empty
  LoadStatistics statistics_;
};

// The kernel name under which a weight of this type is packed, "linear_q8_q4_1".
std::string LinearKernelName(plan::DType weight);

// Where file `index` of the plan is looked for.
std::string CheckpointPath(const plan::Plan& plan, size_t index, const std::string& plan_folder,
                           const std::string& model);

}  // namespace llmir::executor
