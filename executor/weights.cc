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

// A tensor's part on this rank, with addresses.
struct TensorView {
  const plan::Tensor* tensor;
  plan::TensorPart part;
  const std::byte* data;  // of the whole tensor
  uint64_t row_bytes;     // of the whole tensor's rows
  Encoding encoding;

  const std::byte* Row(uint64_t row) const {  // row of the part, at its first column
    return data + (part.rows.begin + row) * row_bytes +
           plan::RowBytes(tensor->dtype(), part.columns.begin);
  }
  uint64_t bytes() const {
    return part.rows.size() * plan::RowBytes(tensor->dtype(), part.columns.size());
  }
};

// Checks leaf `leaf` (of the tensor) against its hash.
Status CheckLeaf(const TensorView& view, uint32_t leaf, std::string_view path) {
  const plan::Tensor& tensor = *view.tensor;
  uint64_t hash;
  if (tensor.axis() == plan::Axis::columns) {
    const plan::Extent columns =
        plan::LeafExtent({leaf, leaf + 1}, tensor.leaf_size(), tensor.columns());
    const uint64_t offset = plan::RowBytes(tensor.dtype(), columns.begin);
    const uint64_t bytes = plan::RowBytes(tensor.dtype(), columns.size());
    Hasher64 hasher;
    for (uint64_t row = 0; row < tensor.rows(); ++row)
      hasher.Add(view.data + row * view.row_bytes + offset, bytes);
    hash = hasher.Finish();
  } else {
    const plan::Extent rows =
        tensor.axis() == plan::Axis::rows
            ? plan::LeafExtent({leaf, leaf + 1}, tensor.leaf_size(), tensor.rows())
            : plan::Extent{0, tensor.rows()};
    hash = Hash64(std::span(view.data + rows.begin * view.row_bytes, rows.size() * view.row_bytes));
  }
  const uint64_t expected = tensor.leaf_hashes()->Get(leaf);
  if (hash == expected) return Status();
  return DataLoss(
      "{}: tensor {}, leaf {} ({}): its bytes hash to {:016x}, the plan expects {:016x}; the file "
      "was changed or damaged "
      "after planning: restore it, or plan it again",
      path, tensor.name()->string_view(), leaf, plan::EnumNameUnit(tensor.unit()), hash, expected);
}

// A weight to be packed: where its rows come from, where it goes.
struct Job {
  size_t weight;  // into Plan.weights
  bool interleaved = false;
  std::vector<TensorView> pieces;
  std::byte* destination = nullptr;
};

// The up to 16 rows of panel `panel`. Of random weights they are made in `random`, [16][columns].
size_t PanelRowsOf(const Job& job, const PackedWeight& packed, int64_t panel,
                   std::optional<uint64_t> random_seed, float* random, std::span<SourceRow> rows) {
  size_t count = 0;
  const auto add = [&](const TensorView& piece, uint64_t row) {
    if (random_seed.has_value()) {
      float* values = random + count * packed.columns;
      RandomRow(*random_seed, *piece.tensor, piece.part.rows.begin + row, piece.part.columns,
                values);
      rows[count++] = {Encoding::kF32, reinterpret_cast<const std::byte*>(values)};
    } else {
      rows[count++] = {piece.encoding, piece.Row(row)};
    }
  };
  if (job.interleaved) {
    const TensorView& piece = job.pieces[panel % 2];
    const uint64_t first = static_cast<uint64_t>(panel / 2) * kPanelRows;
    for (uint64_t row = first; row < std::min(piece.part.rows.size(), first + kPanelRows); ++row) {
      add(piece, row);
    }
    return count;
  }
  uint64_t row = static_cast<uint64_t>(panel) * kPanelRows;
  const uint64_t end = std::min<uint64_t>(row + kPanelRows, packed.rows);
  uint64_t before = 0;
  for (const TensorView& piece : job.pieces) {
    const uint64_t size = piece.part.rows.size();
    for (; row < end && row < before + size; ++row) add(piece, row - before);
    before += size;
  }
  return count;
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

}  // namespace

std::string LinearKernelName(plan::DType weight) {
  return fmt::format("linear_{}_{}", plan::IsQuantized(weight) ? "q8" : "f32",
                     plan::DTypeName(weight));
}

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
  const auto start = std::chrono::steady_clock::now();
  const uint64_t storage_before = StorageBytesRead();
  Weights result;
  result.weights_.resize(plan.weights()->size());
  result.statistics_.random = random_seed.has_value();
  for (const plan::Tensor* tensor : *plan.tensors()) {
    const bool hashed = tensor->leaf_hashes() != nullptr && tensor->leaf_hashes()->size() > 0;
    if (hashed || random_seed.has_value()) continue;
    return Incompatible(
        "tensor {} has no hashes: the plan was made from a shape, not from a checkpoint, so there "
        "are no weights to load; run it with --random-weights, or plan a checkpoint",
        tensor->name()->string_view());
  }

  // Identity of the files: size, then header. What the header doesn't cover, the leaves do.
  std::vector<FileMap> files(plan.files()->size());
  for (size_t i = 0; i < files.size() && !random_seed.has_value(); ++i) {
    const plan::CheckpointFile& expected = *plan.files()->Get(static_cast<uint32_t>(i));
    const std::string path = CheckpointPath(plan, i, plan_folder, model);
    auto opened = FileMap::Open(path);
    if (!opened.ok()) {
      return Status(
          opened.status().code(),
          opened.status().message() +
              (expected.format() == plan::FileFormat::packed
                   ? "; llmir-plan --pack wrote it with the plan: put it back or plan again"
                   : "; the plan's weights are there: put the file back or name it with --model"));
    }
    files[i] = std::move(opened).value();
    if (files[i].size() != expected.bytes()) {
      return DataLoss(
          "{}: {} bytes, the plan was made from a file of {} bytes; use that file or plan this one",
          path, files[i].size(), expected.bytes());
    }
    const uint64_t hash = Hash64(files[i].bytes().first(expected.header_bytes()));
    if (hash != expected.header_hash()) {
      return DataLoss(
          "{}: header hash {:016x}, the plan was made from a file with {:016x}; use that file or "
          "plan this one",
          path, hash, expected.header_hash());
    }
  }

  // Sizes first: one map for all.
  std::vector<Job> jobs;
  uint64_t source_bytes = 0;
  uint64_t total_bytes = 0;
  int64_t scratch_bytes = 0;
  uint64_t most_columns = 0;
  for (const uint32_t index : *rank.weights()) {
    const plan::Weight& weight = *plan.weights()->Get(index);
    PackedWeight& packed = result.weights_[index];
    const plan::WeightShape shape = plan::RankWeightShape(plan, weight, rank);
    packed.rows = static_cast<int64_t>(shape.rows);
    packed.columns = static_cast<int64_t>(shape.columns);
    most_columns = std::max(most_columns, shape.columns);
    packed.leaf_columns = weight.leaf_columns();
    Job job{index, weight.interleave() == plan::Interleave::panels, {}, nullptr};
    for (const uint32_t piece : *weight.pieces()) {
      const plan::Tensor& tensor = *plan.tensors()->Get(piece);
      LLMIR_ASSIGN_OR_RETURN(const Encoding encoding, EncodingOf(tensor.dtype()));
      const std::byte* data =
          random_seed.has_value() ? nullptr : files[tensor.file()].bytes().data() + tensor.offset();
      job.pieces.push_back({&tensor, plan::RankTensorPart(tensor, rank), data,
                            plan::RowBytes(tensor.dtype(), tensor.columns()), encoding});
      source_bytes += job.pieces.back().bytes();
      if (tensor.axis() == plan::Axis::columns && !random_seed.has_value())
        result.statistics_.source_shared_bytes += tensor.bytes();
    }
    packed.first_row = static_cast<int64_t>(job.pieces.front().part.rows.begin);
    if (plan.tensors()->Get(weight.pieces()->Get(0))->rows() == 1) {
      packed.bytes = (shape.columns * sizeof(float) + 63) / 64 * 64;
    } else {
      const std::string name = LinearKernelName(weight.dtype());
      packed.kernel = kernels::FindLinear(name, isa);
      if (packed.kernel == nullptr)
        return Incompatible("{}: no kernel of this name for any ISA", name);
      packed.panels = job.interleaved ? 2 * ((packed.rows / 2 + kPanelRows - 1) / kPanelRows)
                                      : (packed.rows + kPanelRows - 1) / kPanelRows;
      packed.bytes =
          static_cast<uint64_t>(packed.panels * packed.kernel->panel_bytes(packed.columns));
      scratch_bytes = std::max(scratch_bytes, packed.kernel->pack_scratch_bytes(packed.columns));
    }
    total_bytes += packed.bytes;
    jobs.push_back(std::move(job));
  }
  LLMIR_ASSIGN_OR_RETURN(result.memory_, MemoryMap::Create(total_bytes, "packed weights"));
  uint64_t offset = 0;
  for (Job& job : jobs) {
    PackedWeight& packed = result.weights_[job.weight];
    job.destination = result.memory_.data() + offset;
    packed.data = job.destination;
    offset += packed.bytes;
  }

  // Weight by weight: check its leaves, pack its panels, let its source pages go.
  std::vector<MemoryMap> scratch(pool.threads());
  for (MemoryMap& map : scratch) {
    LLMIR_ASSIGN_OR_RETURN(
        map, MemoryMap::Create(static_cast<size_t>(scratch_bytes), "packing scratch"));
  }
  uint64_t done = 0;
  auto report = [&] {
    if (progress) progress(done, source_bytes);
  };
  if (!random_seed.has_value()) result.statistics_.source_bytes = source_bytes;
  std::vector<MemoryMap> random_rows(random_seed.has_value() ? pool.threads() : 0);
  for (MemoryMap& map : random_rows) {
    LLMIR_ASSIGN_OR_RETURN(
        map, MemoryMap::Create(kPanelRows * most_columns * sizeof(float), "random weights"));
  }
  for (const Job& job : jobs) {
    const PackedWeight& packed = result.weights_[job.weight];
    struct LeafTask {
      const TensorView* view;
      uint32_t leaf;
    };
    std::vector<LeafTask> leaves;
    for (const TensorView& view : job.pieces) {
      if (random_seed.has_value()) continue;
      const plan::Leaves range = view.tensor->axis() == plan::Axis::none
                                     ? plan::Leaves{0, 1}
                                     : plan::RankLeaves(rank, view.tensor->unit());
      for (uint32_t leaf = range.begin; leaf < range.end; ++leaf) leaves.push_back({&view, leaf});
    }
    LLMIR_RETURN_IF_ERROR(RunTasks(
        pool, leaves.size(),
        [&](size_t i, int) {
          const TensorView& view = *leaves[i].view;
          return CheckLeaf(view, leaves[i].leaf, files[view.tensor->file()].path());
        },
        report));

    if (packed.kernel == nullptr) {
      const TensorView& view = job.pieces.front();
      if (random_seed.has_value()) {
        RandomRow(*random_seed, *view.tensor, 0, view.part.columns,
                  reinterpret_cast<float*>(job.destination));
      } else if (view.tensor->dtype() == plan::DType::f32) {
        std::memcpy(job.destination, view.Row(0), packed.columns * sizeof(float));
      } else {
        // A panel of one row through the f32 kernel's packer converts any encoding; lane 0 of it is
        // the vector.
        const kernels::LinearKernel* f32 = kernels::FindLinear("linear_f32_f32", isa);
        LLMIR_ASSIGN_OR_RETURN(
            const MemoryMap panel,
            MemoryMap::Create(f32->panel_bytes(packed.columns), "packing scratch"));
        LLMIR_ASSIGN_OR_RETURN(
            const MemoryMap space,
            MemoryMap::Create(f32->pack_scratch_bytes(packed.columns), "packing scratch"));
        const SourceRow row{view.encoding, view.Row(0)};
        f32->pack_panel({&row, 1}, packed.columns, panel.data(), space.data());
        f32->unpack_row(panel.data(), 0, packed.columns, reinterpret_cast<float*>(job.destination));
      }
    } else {
      const int64_t panel_bytes = packed.kernel->panel_bytes(packed.columns);
      LLMIR_RETURN_IF_ERROR(RunTasks(
          pool, static_cast<size_t>(packed.panels),
          [&](size_t panel, int thread) {
            SourceRow rows[kPanelRows];
            float* random = random_rows.empty()
                                ? nullptr
                                : reinterpret_cast<float*>(random_rows[thread].data());
            const size_t count =
                PanelRowsOf(job, packed, static_cast<int64_t>(panel), random_seed, random, rows);
            packed.kernel->pack_panel({rows, count}, packed.columns,
                                      job.destination + panel * panel_bytes,
                                      scratch[thread].data());
            return Status();
          },
          report));
    }
    for (const TensorView& view : job.pieces) {
      if (!random_seed.has_value())
        files[view.tensor->file()].Release(view.tensor->offset(), view.tensor->bytes());
      done += view.bytes();
    }
    report();
  }
  result.statistics_.packed_bytes = total_bytes;
  result.statistics_.storage_bytes = StorageBytesRead() - storage_before;
  result.statistics_.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace llmir::executor
