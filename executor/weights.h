// A rank's weights: its part of the checkpoint, checked against the plan leaf by leaf and packed
// for its kernels; or of a packed file, mapped and read where it lies.
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

#include "kernels/isa.h"
#include "kernels/linear.h"
#include "kernels/worker_pool.h"
#include "plan_schema/base/file_map.h"
#include "plan_schema/base/memory_map.h"
#include "plan_schema/base/status.h"
#include "plan_schema/plan_generated.h"

namespace llmir::executor {

// Panels that follow each other in memory, panel_stride apart. Where pieces lie apart in a packed
// file, each is a run.
struct PanelRun {
  const std::byte* data;  // 64-byte aligned
  int64_t first_panel;    // of the weight's panels on this rank
  int64_t panels;
  int64_t first_row;  // of the weight's rows on this rank
  int64_t rows;
};

// One weight as steps read it.
struct PackedWeight {
  const kernels::LinearKernel* kernel = nullptr;  // null: a vector of floats (norms)
  const std::byte* data = nullptr;                // of the vector, or of the first run
  std::vector<PanelRun> runs;
  int64_t panel_stride = 0;
  int64_t rows = 0;  // on this rank; of an interleaved weight 2 x the rows of one piece
  int64_t columns = 0;
  int64_t panels = 0;
  int64_t leaf_columns = 0;
  int64_t first_row = 0;  // row of the whole matrix that local row 0 is (embedding look-ups)
  uint64_t bytes = 0;     // packed

  const float* vector() const { return reinterpret_cast<const float*>(data); }
};

struct LoadStatistics {
  // Bytes of this rank's leaves in the checkpoint or the packed file: read, checked, and packed or
  // used in place.
  uint64_t source_bytes = 0;
  // Whole tensors of the checkpoint that are cut by columns: every rank of a host reads the same
  // pages.
  uint64_t source_shared_bytes = 0;
  // Fetched from the storage layer meanwhile (/proc/self/io); 0 from a warm page cache.
  uint64_t storage_bytes = 0;
  uint64_t packed_bytes = 0;    // as the kernels read them, wherever they lie
  uint64_t mapped_bytes = 0;    // of these, used where they lie in a packed file
  uint64_t gathered_bytes = 0;  // of packed files, copied side by side: parts of columns
  double seconds = 0;
  // Of these: bringing the checkpoint's pages into the address space, the same of the packed file,
  // hashing, packing.
  double read_seconds = 0;
  double map_seconds = 0;
  double hash_seconds = 0;
  double pack_seconds = 0;
  bool random = false;  // no checkpoint was read
  // Weights of a packed file that were packed again, and why the first was.
  int repacked_weights = 0;
  std::string repacked_reason;
};

// Called now and then by the main thread while loading, with source bytes done and in all (of
// random weights: those that a checkpoint would have).
using LoadProgress = std::function<void(uint64_t done, uint64_t total)>;

class Weights {
 public:
  // Maps those of the plan's files that `rank`'s weights are in: relative to `plan_folder`;
  // checkpoints in `model` (a file, or a folder holding the names) if that isn't empty. Checks
  // sizes and header hashes, and the hash of every leaf before it is used. Weights of a packed file
  // stay where they are if their panels are those of `isa`'s kernels and the rank's part begins
  // with whole panels and lines; other known panels are packed again from the file, unknown ones
  // from the checkpoint. With `random_seed` no file is touched and the weights are random
  // (random_weights.h). INCOMPATIBLE without it for a plan that was made from a shape.
  static StatusOr<Weights> Load(const plan::Plan& plan, const plan::Rank& rank,
                                const std::string& plan_folder, const std::string& model,
                                std::optional<uint64_t> random_seed, kernels::Isa isa,
                                kernels::WorkerPool& pool, const LoadProgress& progress);

  const PackedWeight& weight(size_t index) const { return weights_[index]; }
  const LoadStatistics& statistics() const { return statistics_; }

 private:
  MemoryMap memory_;
  std::vector<FileMap> files_;         // the packed ones, by Plan.files index
  std::vector<PackedWeight> weights_;  // by Plan.weights index; those of other ranks are empty
  LoadStatistics statistics_;
};

// Where file `index` of the plan is looked for.
std::string CheckpointPath(const plan::Plan& plan, size_t index, const std::string& plan_folder,
                           const std::string& model);

}  // namespace llmir::executor
