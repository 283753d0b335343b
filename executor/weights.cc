#include "executor/weights.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>

#include "executor/random_weights.h"
#include "plan_schema/base/hash.h"
#include "plan_schema/checkpoint/packed_file.h"
#include "plan_schema/plan_facts.h"

namespace llmir::executor {
namespace {

using kernels::Encoding;
using kernels::kPanelRows;
using kernels::SourceRow;

StatusOr<Encoding> EncodingOf(plan::DType dtype) {
  const std::optional<Encoding> encoding = kernels::FindEncoding(plan::DTypeName(dtype));
  if (!encoding) return Incompatible("dtype {} is not a weight's", plan::DTypeName(dtype));
  return *encoding;
}

uint64_t StorageBytesRead() {
  std::FILE* file = std::fopen("/proc/self/io", "re");
  if (file == nullptr) return 0;
  char line[128];
  unsigned long long bytes = 0;
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::sscanf(line, "read_bytes: %llu", &bytes) == 1) break;
  }
  std::fclose(file);
  return bytes;
}

// Where a weight's bytes come from. kPanels are packed again, kGathered copied as they are: of a
// part of the columns, each of the file's panels has a few KiB, between which the processor's
// prefetch reads what nobody needs (a 1.1B model on two ranks decoded at 0.91 of one with two
// threads, side by side at 1.00).
enum class Source { kRandom, kCheckpoint, kPanels, kGathered, kInPlace };

bool IsOfPanels(Source source) { return source >= Source::kPanels; }

// A tensor's part on this rank, with addresses. Where its source is panels, `stored` says what the
// file's are.
struct Piece {
  const plan::Tensor* tensor;
  plan::TensorPart part;
  Encoding encoding;
  uint32_t file = 0;                // into Plan.files
  uint64_t offset = 0;              // of the tensor, or of its first panel
  const std::byte* data = nullptr;  // the same in memory
  uint64_t row_bytes = 0;           // of the whole tensor's rows, as stored
  const plan::PackedPiece* packed = nullptr;
  const kernels::LinearKernel* stored = nullptr;
  uint64_t stride = 0;  // from panel to panel in the file

  uint64_t source_bytes() const {
    return part.rows.size() * plan::RowBytes(tensor->dtype(), part.columns.size());
  }
  // Which bytes of the file's panels hold these rows and columns.
  kernels::PanelPart Panels(plan::Extent rows, plan::Extent columns) const {
    return kernels::PanelPartOf(*stored, static_cast<int64_t>(tensor->columns()),
                                static_cast<int64_t>(rows.begin), static_cast<int64_t>(rows.end),
                                static_cast<int64_t>(columns.begin),
                                static_cast<int64_t>(columns.end));
  }
};

// A weight to be loaded: where its rows come from, where it goes.
struct Job {
  size_t weight;  // into Plan.weights
  Source source;
  bool interleaved = false;
  std::vector<Piece> pieces;
  std::byte* destination = nullptr;  // null: in place
};

plan::Leaves LeavesOf(const plan::Tensor& tensor, const plan::Rank& rank) {
  return tensor.axis() == plan::Axis::none ? plan::Leaves{0, 1}
                                           : plan::RankLeaves(rank, tensor.unit());
}

// Rows and columns of one leaf.
plan::TensorPart LeafPart(const plan::Tensor& tensor, uint32_t leaf) {
  plan::TensorPart part{{0, tensor.rows()}, {0, tensor.columns()}};
  if (tensor.axis() == plan::Axis::rows)
    part.rows = plan::LeafExtent({leaf, leaf + 1}, tensor.leaf_size(), tensor.rows());
  if (tensor.axis() == plan::Axis::columns)
    part.columns = plan::LeafExtent({leaf, leaf + 1}, tensor.leaf_size(), tensor.columns());
  return part;
}

Status CompareHash(const plan::Tensor& tensor, uint32_t leaf, std::string_view path, uint64_t hash,
                   uint64_t expected) {
  if (hash == expected) return Status();
  return DataLoss(
      "{}: tensor {}, leaf {} ({}): its bytes hash to {:016x}, the plan expects {:016x}; the file "
      "was changed or damaged "
      "after planning: restore it, or plan it again",
      path, tensor.name()->string_view(), leaf, plan::EnumNameUnit(tensor.unit()), hash, expected);
}

// Checks leaf `leaf` of a checkpoint's tensor against its hash.
Status CheckRows(const Piece& piece, uint32_t leaf, std::string_view path) {
  const plan::Tensor& tensor = *piece.tensor;
  const plan::TensorPart part = LeafPart(tensor, leaf);
  uint64_t hash;
  if (tensor.axis() == plan::Axis::columns) {
    const uint64_t offset = plan::RowBytes(tensor.dtype(), part.columns.begin);
    const uint64_t bytes = plan::RowBytes(tensor.dtype(), part.columns.size());
    Hasher64 hasher;
    for (uint64_t row = 0; row < tensor.rows(); ++row)
      hasher.Add(piece.data + row * piece.row_bytes + offset, bytes);
    hash = hasher.Finish();
  } else {
    hash = Hash64(std::span(piece.data + part.rows.begin * piece.row_bytes,
                            part.rows.size() * piece.row_bytes));
  }
  return CompareHash(tensor, leaf, path, hash, tensor.leaf_hashes()->Get(leaf));
}

// Checks leaves [begin, end) of packed panels, in one pass over the panels.
Status CheckPanels(const Piece& piece, uint32_t begin, uint32_t end, std::string_view path) {
  std::vector<checkpoint::PanelBytes> leaves;
  uint64_t first_panel = 0;
  uint64_t panels = 1;
  for (uint32_t leaf = begin; leaf < end; ++leaf) {
    if (piece.stored == nullptr) {
      leaves.push_back({0, piece.stride});
      continue;
    }
    const plan::TensorPart extent = LeafPart(*piece.tensor, leaf);
    const kernels::PanelPart part = piece.Panels(extent.rows, extent.columns);
    first_panel = static_cast<uint64_t>(part.panel_begin);
    panels = static_cast<uint64_t>(part.panel_end - part.panel_begin);
    leaves.push_back(
        {static_cast<uint64_t>(part.byte_begin), static_cast<uint64_t>(part.byte_end)});
  }
  std::vector<uint64_t> hashes(leaves.size());
  checkpoint::HashPanels(piece.data + first_panel * piece.stride, piece.stride, panels, leaves,
                         hashes);
  for (uint32_t leaf = begin; leaf < end; ++leaf) {
    LLMIR_RETURN_IF_ERROR(CompareHash(*piece.tensor, leaf, path, hashes[leaf - begin],
                                      piece.packed->leaf_hashes()->Get(leaf)));
  }
  return Status();
}

// Calls fill(piece, row of its part) for the up to 16 rows of panel `panel`, in order.
template <typename Fill>
void ForEachRowOfPanel(const Job& job, const PackedWeight& packed, int64_t panel,
                       const Fill& fill) {
  if (job.interleaved) {
    const Piece& piece = job.pieces[panel % 2];
    const uint64_t first = static_cast<uint64_t>(panel / 2) * kPanelRows;
    for (uint64_t row = first; row < std::min(piece.part.rows.size(), first + kPanelRows); ++row)
      fill(piece, row);
    return;
  }
  uint64_t row = static_cast<uint64_t>(panel) * kPanelRows;
  const uint64_t end = std::min<uint64_t>(row + kPanelRows, packed.rows);
  uint64_t before = 0;
  for (const Piece& piece : job.pieces) {
    const uint64_t size = piece.part.rows.size();
    for (; row < end && row < before + size; ++row) fill(piece, row - before);
    before += size;
  }
}

// Runs `tasks` tasks over the pool's threads, calling `between` on thread 0 now and then; the first
// error wins.
template <typename Task, typename Between>
Status RunTasks(kernels::WorkerPool& pool, size_t tasks, const Task& task, const Between& between) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  Status error;
  std::atomic<bool> failed{false};
  pool.Run([&](int thread) {
    size_t i;
    while (!failed.load(std::memory_order_relaxed) && (i = next.fetch_add(1)) < tasks) {
      if (Status status = task(i, thread); !status.ok()) {
        std::lock_guard lock(mutex);
        if (error.ok()) error = status;
        failed = true;
      }
      if (thread == 0) between();
    }
  });
  return error;
}

// The time since it was made or last asked.
class Stopwatch {
 public:
  double Lap() {
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - since_).count();
    since_ = now;
    return seconds;
  }

 private:
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
};

// Weights::Load, step by step.
class Loader {
 public:
  Loader(const plan::Plan& plan, const plan::Rank& rank, std::optional<uint64_t> random_seed,
         kernels::Isa isa, kernels::WorkerPool& pool, const LoadProgress& progress)
      : plan_(plan),
        rank_(rank),
        random_seed_(random_seed),
        isa_(isa),
        pool_(pool),
        progress_(progress),
        weights_(plan.weights()->size()),
        files_(plan.files()->size()) {
    statistics_.random = random_seed.has_value();
  }

  Status CheckHashesAreThere() const;
  // What each weight is made of, and from where.
  Status PlanJobs();
  Status OpenFiles(const std::string& plan_folder, const std::string& model);
  Status PlaceWeights();
  Status MapPanels();
  Status PackWeights();

  std::vector<PackedWeight>& weights() { return weights_; }
  std::vector<FileMap>& files() { return files_; }
  MemoryMap& memory() { return memory_; }
  LoadStatistics& statistics() { return statistics_; }

 private:
  StatusOr<Source> ChooseSource(const plan::Weight& weight, std::vector<Piece>& pieces,
                                const PackedWeight& packed);
  void Repack(std::string reason);
  Status CheckPanelsFit(const Job& job) const;
  void UseInPlace(const Job& job, PackedWeight& packed);
  Status Pack(const Job& job, const PackedWeight& packed);
  Status PackVector(const Job& job, const PackedWeight& packed);
  Status PackMatrix(const Job& job, const PackedWeight& packed);
  Status GatherPanels(const Job& job, const PackedWeight& packed);
  Status ReadAndCheck(const std::vector<const Job*>& jobs, double* read_seconds);
  void Report() const {
    if (progress_) progress_(done_, statistics_.source_bytes);
  }

  const plan::Plan& plan_;
  const plan::Rank& rank_;
  const std::optional<uint64_t> random_seed_;
  const kernels::Isa isa_;
  kernels::WorkerPool& pool_;
  const LoadProgress& progress_;
  std::vector<PackedWeight> weights_;
  std::vector<FileMap> files_;
  std::vector<Job> jobs_;
  MemoryMap memory_;
  std::vector<MemoryMap> scratch_;  // per thread: pack_scratch_bytes, then 16 rows
  uint64_t row_bytes_ = 0;          // of a row of scratch_
  int64_t pack_scratch_bytes_ = 0;
  uint64_t done_ = 0;
  LoadStatistics statistics_;
};

Status Loader::CheckHashesAreThere() const {
  if (random_seed_.has_value()) return Status();
  for (const plan::Tensor* tensor : *plan_.tensors()) {
    const bool hashed = tensor->leaf_hashes() != nullptr && tensor->leaf_hashes()->size() > 0;
    if (hashed || !plan::HasRows(*tensor)) continue;
    return Incompatible(
        "tensor {} has no hashes: the plan was made from a shape, not from a checkpoint, so there "
        "are no weights to load; run it with --random-weights, or plan a checkpoint",
        tensor->name()->string_view());
  }
  return Status();
}

void Loader::Repack(std::string reason) {
  if (statistics_.repacked_weights++ == 0) statistics_.repacked_reason = std::move(reason);
}

// Packed panels are used in place if they can be; else they are packed again, from themselves if
// their layout is known.
StatusOr<Source> Loader::ChooseSource(const plan::Weight& weight, std::vector<Piece>& pieces,
                                      const PackedWeight& packed) {
  if (random_seed_.has_value()) return Source::kRandom;
  if (weight.packed() == nullptr || weight.packed()->size() == 0) return Source::kCheckpoint;
  const std::string_view name = weight.name()->string_view();
  bool in_place = true;
  std::string reason;
  for (size_t i = 0; i < pieces.size(); ++i) {
    Piece& piece = pieces[i];
    const plan::PackedPiece& place = *weight.packed()->Get(static_cast<uint32_t>(i));
    const uint32_t layout = place.layout();
    if (packed.kernel == nullptr) {  // a vector
      piece.stride = piece.tensor->columns() * sizeof(float);
    } else {
      const kernels::LinearKernel* stored =
          layout == packed.kernel->layout ? packed.kernel : kernels::FindLinearByLayout(layout);
      if (stored == nullptr || stored->weight != packed.kernel->weight) {
        for (const Piece& other : pieces) {
          if (plan::HasRows(*other.tensor)) continue;
          return Incompatible(
              "weight {}: packed in layout {}, which this LLMIR doesn't know, and its values are "
              "nowhere else; run it with the LLMIR that packed it, or plan again",
              name, layout);
        }
        Repack(
            fmt::format("weight {}: layout {} isn't known here, it is packed from the checkpoint",
                        name, layout));
        return Source::kCheckpoint;
      }
      piece.stored = stored;
      const uint64_t panel_bytes =
          static_cast<uint64_t>(stored->panel_bytes(static_cast<int64_t>(piece.tensor->columns())));
      const bool alternates = weight.interleave() == plan::Interleave::panels;
      piece.stride = panel_bytes * (alternates ? 2 : 1);
      if (alternates && i == 1 && place.offset() != pieces[0].offset + panel_bytes) {
        return InvalidArgument("weight {}: packed[1].offset: {}, expected {}, a panel after [0]",
                               name, place.offset(), pieces[0].offset + panel_bytes);
      }
      const plan::TensorPart& part = piece.part;
      if (stored != packed.kernel) {
        in_place = false;
        reason = fmt::format("weight {}: packed in layout {}, {} reads layout {}", name, layout,
                             kernels::IsaName(isa_), packed.kernel->layout);
      } else if (part.rows.begin % kPanelRows != 0 ||
                 part.columns.begin % static_cast<uint64_t>(stored->column_step) != 0) {
        in_place = false;
        reason = fmt::format("weight {}: this rank's part begins within a panel's {}", name,
                             part.rows.begin % kPanelRows != 0 ? "rows" : "pair of groups");
      }
    }
    piece.packed = &place;
    piece.file = place.file();
    piece.offset = place.offset();
  }
  if (!in_place) {
    Repack(std::move(reason));
    return Source::kPanels;
  }
  if (packed.kernel != nullptr && weight.axis() == plan::Axis::columns) {
    const Piece& piece = pieces.front();
    const kernels::PanelPart part = piece.Panels(piece.part.rows, piece.part.columns);
    if (piece.part.columns.size() < piece.tensor->columns() &&
        part.byte_end - part.byte_begin == packed.kernel->panel_bytes(packed.columns)) {
      return Source::kGathered;
    }
  }
  return Source::kInPlace;
}

Status Loader::PlanJobs() {
  for (const uint32_t index : *rank_.weights()) {
    const plan::Weight& weight = *plan_.weights()->Get(index);
    PackedWeight& packed = weights_[index];
    const plan::WeightShape shape = plan::RankWeightShape(plan_, weight, rank_);
    packed.rows = static_cast<int64_t>(shape.rows);
    packed.columns = static_cast<int64_t>(shape.columns);
    packed.leaf_columns = weight.leaf_columns();
    Job job{index, Source::kRandom, weight.interleave() == plan::Interleave::panels, {}, nullptr};
    for (const uint32_t number : *weight.pieces()) {
      const plan::Tensor& tensor = *plan_.tensors()->Get(number);
      LLMIR_ASSIGN_OR_RETURN(const Encoding encoding, EncodingOf(tensor.dtype()));
      Piece piece{&tensor, plan::RankTensorPart(tensor, rank_), encoding};
      piece.file = tensor.file();
      piece.offset = tensor.offset();
      piece.row_bytes = plan::RowBytes(tensor.dtype(), tensor.columns());
      job.pieces.push_back(piece);
    }
    packed.first_row = static_cast<int64_t>(job.pieces.front().part.rows.begin);
    if (job.pieces.front().tensor->rows() > 1) {
      const std::string name = plan::LinearKernelName(weight.dtype(), plan_.bf16_activations());
      packed.kernel = kernels::FindLinear(name, isa_);
      if (packed.kernel == nullptr)
        return Incompatible("{}: no kernel of this name for any ISA", name);
    }
    LLMIR_ASSIGN_OR_RETURN(job.source, ChooseSource(weight, job.pieces, packed));
    for (const Piece& piece : job.pieces) {
      if (job.source == Source::kCheckpoint) {
        statistics_.source_bytes += piece.source_bytes();
        if (piece.tensor->axis() == plan::Axis::columns)
          statistics_.source_shared_bytes += piece.tensor->bytes();
      }
    }
    jobs_.push_back(std::move(job));
  }
  return Status();
}

// Identity of the files: size, then header. What the header doesn't cover, the leaves do.
Status Loader::OpenFiles(const std::string& plan_folder, const std::string& model) {
  for (const Job& job : jobs_) {
    for (const Piece& piece : job.pieces) {
      FileMap& file = files_[piece.file];
      if (job.source == Source::kRandom || file.size() > 0) continue;
      const plan::CheckpointFile& expected = *plan_.files()->Get(piece.file);
      const bool is_packed = expected.format() == plan::FileFormat::packed;
      const std::string path = CheckpointPath(plan_, piece.file, plan_folder, model);
      auto opened = FileMap::Open(path);
      if (!opened.ok()) {
        return Status(
            opened.status().code(),
            opened.status().message() +
                (is_packed ? "; llmir-plan --pack wrote it with the plan: put it back or plan again"
                           : "; the plan's weights are there: put the file back or name it with "
                             "--model"));
      }
      file = std::move(opened).value();
      // Older packed files hold rows, and are read as checkpoints are.
      if (is_packed && job.source != Source::kCheckpoint)
        LLMIR_RETURN_IF_ERROR(checkpoint::CheckPackedVersion(file.bytes(), path));
      if (file.size() != expected.bytes()) {
        return DataLoss(
            "{}: {} bytes, the plan was made from a file of {} bytes; use that file or plan this "
            "one",
            path, file.size(), expected.bytes());
      }
      const uint64_t hash = Hash64(file.bytes().first(expected.header_bytes()));
      if (hash != expected.header_hash()) {
        return DataLoss(
            "{}: header hash {:016x}, the plan was made from a file with {:016x}; use that file or "
            "plan this one",
            path, hash, expected.header_hash());
      }
    }
  }
  return Status();
}

// The plan's verifier doesn't know layouts, so it can't say how far their panels reach.
Status Loader::CheckPanelsFit(const Job& job) const {
  for (const Piece& piece : job.pieces) {
    const uint64_t panel_bytes = piece.stored == nullptr
                                     ? piece.stride
                                     : static_cast<uint64_t>(piece.stored->panel_bytes(
                                           static_cast<int64_t>(piece.tensor->columns())));
    const uint64_t panels =
        piece.stored == nullptr ? 1 : (piece.tensor->rows() + kPanelRows - 1) / kPanelRows;
    const uint64_t size = files_[piece.file].size();
    if (piece.offset > size || panel_bytes > size - piece.offset ||
        (panels - 1) > (size - piece.offset - panel_bytes) / piece.stride) {
      return DataLoss("{}: tensor {}: {} panels from byte {}, {} bytes apart, but the file has {}",
                      files_[piece.file].path(), piece.tensor->name()->string_view(), panels,
                      piece.offset, piece.stride, size);
    }
  }
  return Status();
}

void Loader::UseInPlace(const Job& job, PackedWeight& packed) {
  packed.panels = 0;
  if (packed.kernel == nullptr) {
    packed.data = job.pieces.front().data;
    packed.bytes = job.pieces.front().stride;
    return;
  }
  const int64_t pieces = job.interleaved ? 2 : 1;
  packed.panel_stride = static_cast<int64_t>(job.pieces.front().stride) / pieces;
  packed.bytes = 0;
  int64_t first_row = 0;
  for (const Piece& piece : job.pieces) {
    const kernels::PanelPart part = piece.Panels(piece.part.rows, piece.part.columns);
    const int64_t panels = (part.panel_end - part.panel_begin) * pieces;
    const std::byte* data =
        piece.data + part.panel_begin * static_cast<int64_t>(piece.stride) + part.byte_begin;
    const auto rows = static_cast<int64_t>(piece.part.rows.size()) * pieces;
    packed.bytes += static_cast<uint64_t>(panels * (part.byte_end - part.byte_begin));
    PanelRun* last = packed.runs.empty() ? nullptr : &packed.runs.back();
    if (last != nullptr && last->rows % kPanelRows == 0 &&
        last->data + last->panels * packed.panel_stride == data) {
      last->panels += panels;
      last->rows += rows;
    } else if (panels > 0) {
      packed.runs.push_back({data, packed.panels, panels, first_row, rows});
    }
    packed.panels += panels;
    first_row += rows;
    if (job.interleaved) break;  // the other piece's panels are between these
  }
  packed.data = packed.runs.empty() ? nullptr : packed.runs.front().data;
}

// Sizes first: one map for all that isn't in place.
Status Loader::PlaceWeights() {
  uint64_t total_bytes = 0;
  for (Job& job : jobs_) {
    PackedWeight& packed = weights_[job.weight];
    for (Piece& piece : job.pieces) {
      if (job.source != Source::kRandom)
        piece.data = files_[piece.file].bytes().data() + piece.offset;
    }
    if (IsOfPanels(job.source)) LLMIR_RETURN_IF_ERROR(CheckPanelsFit(job));
    if (job.source == Source::kInPlace) {
      UseInPlace(job, packed);
      statistics_.mapped_bytes += packed.bytes;
    } else if (packed.kernel == nullptr) {
      packed.bytes = (static_cast<uint64_t>(packed.columns) * sizeof(float) + 63) / 64 * 64;
    } else {
      packed.panels = job.interleaved ? 2 * ((packed.rows / 2 + kPanelRows - 1) / kPanelRows)
                                      : (packed.rows + kPanelRows - 1) / kPanelRows;
      packed.panel_stride = packed.kernel->panel_bytes(packed.columns);
      packed.bytes = static_cast<uint64_t>(packed.panels * packed.panel_stride);
      pack_scratch_bytes_ =
          std::max(pack_scratch_bytes_, packed.kernel->pack_scratch_bytes(packed.columns));
      if (job.source == Source::kGathered) statistics_.gathered_bytes += packed.bytes;
      for (const Piece& piece : job.pieces) {
        if (job.source == Source::kRandom)
          row_bytes_ = std::max<uint64_t>(row_bytes_, packed.columns * sizeof(float));
        if (job.source == Source::kPanels) {
          row_bytes_ =
              std::max(row_bytes_,
                       static_cast<uint64_t>(kernels::BlockRowBytes(
                           piece.stored->weight, static_cast<int64_t>(piece.tensor->columns()))));
        }
      }
    }
    if (IsOfPanels(job.source)) {
      for (const Piece& piece : job.pieces) {
        if (piece.stored == nullptr) {
          statistics_.source_bytes += piece.stride;
          continue;
        }
        const kernels::PanelPart part = piece.Panels(piece.part.rows, piece.part.columns);
        statistics_.source_bytes += static_cast<uint64_t>((part.panel_end - part.panel_begin) *
                                                          (part.byte_end - part.byte_begin));
      }
    }
    statistics_.packed_bytes += packed.bytes;
    if (job.source != Source::kInPlace) total_bytes += packed.bytes;
  }
  LLMIR_ASSIGN_OR_RETURN(memory_, MemoryMap::Create(total_bytes, "packed weights"));
  uint64_t offset = 0;
  for (Job& job : jobs_) {
    if (job.source == Source::kInPlace) continue;
    PackedWeight& packed = weights_[job.weight];
    job.destination = memory_.data() + offset;
    packed.data = job.destination;
    if (packed.kernel != nullptr)
      packed.runs.push_back({job.destination, 0, packed.panels, 0, packed.rows});
    offset += packed.bytes;
  }
  return Status();
}

// Brings the jobs' source bytes into the address space, then compares the hash of every leaf.
Status Loader::ReadAndCheck(const std::vector<const Job*>& jobs, double* read_seconds) {
  struct Range {
    const FileMap* file;
    uint64_t begin, end;
  };
  struct Check {
    const Piece* piece;
    uint32_t begin, end;  // leaves
  };
  std::vector<Range> ranges;
  std::vector<Check> checks;
  constexpr uint64_t kRangeBytes = 8 << 20;
  const auto add_range = [&](const Piece& piece, uint64_t begin, uint64_t end) {
    // Pieces lie one after the other: longer ranges, fewer calls.
    const FileMap* file = &files_[piece.file];
    constexpr uint64_t kGap = 4096;
    if (!ranges.empty() && ranges.back().file == file && ranges.back().end <= begin &&
        begin - ranges.back().end < kGap && end - ranges.back().begin <= kRangeBytes) {
      ranges.back().end = end;
      return;
    }
    for (; begin < end; begin += kRangeBytes)
      ranges.push_back({file, begin, std::min(end, begin + kRangeBytes)});
  };
  for (const Job* job : jobs) {
    for (const Piece& piece : job->pieces) {
      const plan::Leaves leaves = LeavesOf(*piece.tensor, rank_);
      if (leaves.count() == 0) continue;
      uint32_t step = 1;
      if (piece.packed == nullptr) {
        const uint64_t begin = piece.offset + piece.part.rows.begin * piece.row_bytes;
        add_range(piece, begin, begin + piece.part.rows.size() * piece.row_bytes);
      } else if (piece.stored == nullptr) {
        add_range(piece, piece.offset, piece.offset + piece.stride);
      } else {
        const kernels::PanelPart part = piece.Panels(piece.part.rows, piece.part.columns);
        const auto panel_begin = static_cast<uint64_t>(part.panel_begin);
        const auto panel_end = static_cast<uint64_t>(part.panel_end);
        // Of interleaved pieces the first brings both. Of a part of the columns, each panel's bytes
        // come as they are hashed.
        const bool whole = piece.part.columns.size() == piece.tensor->columns();
        if (whole && (!job->interleaved || &piece == job->pieces.data())) {
          add_range(piece, piece.offset + panel_begin * piece.stride,
                    piece.offset + panel_end * piece.stride);
        }
        // Leaves by columns are hashed together: alone, each is a few lines of every panel.
        if (piece.tensor->axis() == plan::Axis::columns) {
          const auto parts = static_cast<uint32_t>(2 * pool_.threads());
          step = std::max(1u, (leaves.count() + parts - 1) / parts);
        }
      }
      for (uint32_t leaf = leaves.begin; leaf < leaves.end; leaf += step)
        checks.push_back({&piece, leaf, std::min(leaves.end, leaf + step)});
    }
  }
  Stopwatch watch;
  LLMIR_RETURN_IF_ERROR(RunTasks(
      pool_, ranges.size(),
      [&](size_t i, int) {
        ranges[i].file->Populate(ranges[i].begin, ranges[i].end - ranges[i].begin);
        return Status();
      },
      [&] { Report(); }));
  *read_seconds += watch.Lap();
  LLMIR_RETURN_IF_ERROR(RunTasks(
      pool_, checks.size(),
      [&](size_t i, int) {
        const Check& check = checks[i];
        const std::string& path = files_[check.piece->file].path();
        return check.piece->packed == nullptr
                   ? CheckRows(*check.piece, check.begin, path)
                   : CheckPanels(*check.piece, check.begin, check.end, path);
      },
      [&] { Report(); }));
  statistics_.hash_seconds += watch.Lap();
  return Status();
}

Status Loader::MapPanels() {
  std::vector<const Job*> jobs;
  for (const Job& job : jobs_) {
    if (job.source == Source::kInPlace) jobs.push_back(&job);
  }
  LLMIR_RETURN_IF_ERROR(ReadAndCheck(jobs, &statistics_.map_seconds));
  done_ += statistics_.mapped_bytes;
  Report();
  return Status();
}

Status Loader::PackVector(const Job& job, const PackedWeight& packed) {
  const Piece& piece = job.pieces.front();
  auto* to = reinterpret_cast<float*>(job.destination);
  if (job.source == Source::kRandom) {
    RandomRow(*random_seed_, *piece.tensor, 0, piece.part.columns, to);
  } else {
    kernels::DecodeRow(piece.encoding, piece.data, packed.columns, to);
  }
  return Status();
}

// Columns are cut where panels are whole lines: a part of a panel is a panel.
Status Loader::GatherPanels(const Job& job, const PackedWeight& packed) {
  const Piece& piece = job.pieces.front();
  const kernels::PanelPart part = piece.Panels(piece.part.rows, piece.part.columns);
  return RunTasks(
      pool_, static_cast<size_t>(packed.panels),
      [&](size_t panel, int) {
        const auto from = static_cast<uint64_t>(part.panel_begin) + panel;
        std::memcpy(job.destination + panel * static_cast<size_t>(packed.panel_stride),
                    piece.data + from * piece.stride + part.byte_begin,
                    static_cast<size_t>(packed.panel_stride));
        return Status();
      },
      [&] { Report(); });
}

Status Loader::PackMatrix(const Job& job, const PackedWeight& packed) {
  return RunTasks(
      pool_, static_cast<size_t>(packed.panels),
      [&](size_t panel, int thread) {
        SourceRow rows[kPanelRows];
        size_t count = 0;
        std::byte* scratch = scratch_[thread].data();
        const auto fill = [&](const Piece& piece, uint64_t row) {
          const uint64_t whole = piece.part.rows.begin + row;
          std::byte* made = scratch + pack_scratch_bytes_ + count * row_bytes_;
          if (job.source == Source::kCheckpoint) {
            rows[count++] = {piece.encoding,
                             piece.data + whole * piece.row_bytes +
                                 plan::RowBytes(piece.tensor->dtype(), piece.part.columns.begin)};
          } else if (job.source == Source::kRandom) {
            RandomRow(*random_seed_, *piece.tensor, whole, piece.part.columns,
                      reinterpret_cast<float*>(made));
            rows[count++] = {Encoding::kF32, made};
          } else {
            const Encoding encoding = piece.stored->weight;
            piece.stored->restore_row(piece.data + whole / kPanelRows * piece.stride,
                                      static_cast<int64_t>(whole % kPanelRows),
                                      static_cast<int64_t>(piece.tensor->columns()), made);
            rows[count++] = {encoding,
                             made + kernels::BlockRowBytes(
                                        encoding, static_cast<int64_t>(piece.part.columns.begin))};
          }
        };
        ForEachRowOfPanel(job, packed, static_cast<int64_t>(panel), fill);
        packed.kernel->pack_panel({rows, count}, packed.columns,
                                  job.destination + panel * packed.panel_stride, scratch);
        return Status();
      },
      [&] { Report(); });
}

// Weight by weight: check its leaves, pack its panels, let its source pages go.
Status Loader::PackWeights() {
  scratch_.resize(pool_.threads());
  for (MemoryMap& map : scratch_) {
    LLMIR_ASSIGN_OR_RETURN(
        map, MemoryMap::Create(static_cast<size_t>(pack_scratch_bytes_) + kPanelRows * row_bytes_,
                               "packing scratch"));
  }
  // The largest first: a weight's source and all that is packed so far are in memory together, and
  // at the end, when most is packed, little should come on top.
  std::vector<const Job*> order;
  for (const Job& job : jobs_) {
    if (job.source != Source::kInPlace) order.push_back(&job);
  }
  std::ranges::stable_sort(order, std::ranges::greater(),
                           [&](const Job* job) { return weights_[job->weight].bytes; });
  for (const Job* next : order) {
    const Job& job = *next;
    const PackedWeight& packed = weights_[job.weight];
    if (job.source != Source::kRandom)
      LLMIR_RETURN_IF_ERROR(ReadAndCheck({&job}, &statistics_.read_seconds));
    Stopwatch watch;
    LLMIR_RETURN_IF_ERROR(packed.kernel == nullptr          ? PackVector(job, packed)
                          : job.source == Source::kGathered ? GatherPanels(job, packed)
                                                            : PackMatrix(job, packed));
    statistics_.pack_seconds += watch.Lap();
    for (const Piece& piece : job.pieces) {
      if (job.source == Source::kCheckpoint)
        files_[piece.file].Release(piece.offset, piece.tensor->bytes());
      if (job.source == Source::kPanels || job.source == Source::kGathered) {
        files_[piece.file].Release(
            piece.offset, (piece.tensor->rows() + kPanelRows - 1) / kPanelRows * piece.stride);
      }
      if (job.source == Source::kCheckpoint) done_ += piece.source_bytes();
      if (job.source == Source::kGathered) done_ += packed.bytes;
    }
    Report();
  }
  return Status();
}

}  // namespace

std::string CheckpointPath(const plan::Plan& plan, size_t index, const std::string& plan_folder,
                           const std::string& model) {
  namespace fs = std::filesystem;
  const plan::CheckpointFile& file = *plan.files()->Get(static_cast<uint32_t>(index));
  const fs::path recorded = file.path()->str();
  // What was packed for a plan stays with it, wherever the checkpoint is.
  if (model.empty() || file.format() == plan::FileFormat::packed)
    return (recorded.is_absolute() ? recorded : fs::path(plan_folder) / recorded)
        .lexically_normal();
  if (fs::is_directory(model)) return (fs::path(model) / recorded.filename()).string();
  return model;
}

StatusOr<Weights> Weights::Load(const plan::Plan& plan, const plan::Rank& rank,
                                const std::string& plan_folder, const std::string& model,
                                std::optional<uint64_t> random_seed, kernels::Isa isa,
                                kernels::WorkerPool& pool, const LoadProgress& progress) {
  Stopwatch watch;
  const uint64_t storage_before = StorageBytesRead();
  Loader loader(plan, rank, random_seed, isa, pool, progress);
  LLMIR_RETURN_IF_ERROR(loader.CheckHashesAreThere());
  LLMIR_RETURN_IF_ERROR(loader.PlanJobs());
  LLMIR_RETURN_IF_ERROR(loader.OpenFiles(plan_folder, model));
  LLMIR_RETURN_IF_ERROR(loader.PlaceWeights());
  LLMIR_RETURN_IF_ERROR(loader.MapPanels());
  LLMIR_RETURN_IF_ERROR(loader.PackWeights());
  Weights result;
  result.weights_ = std::move(loader.weights());
  result.memory_ = std::move(loader.memory());
  if (loader.statistics().mapped_bytes > 0) result.files_ = std::move(loader.files());
  result.statistics_ = std::move(loader.statistics());
  result.statistics_.storage_bytes = StorageBytesRead() - storage_before;
  result.statistics_.seconds = watch.Lap();
  return result;
}

}  // namespace llmir::executor
