#include "executor/calibrate.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>
#include <vector>

#include "executor/calibrate_links.h"
#include "executor/commit.h"
#include "executor/cores.h"
#include "executor/memory_bandwidth.h"
#include "executor/output_files.h"
#include "executor/report.h"
#include "executor/sampler.h"
#include "kernels/activations.h"
#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/linear_share.h"
#include "kernels/vector.h"
#include "plan_schema/base/memory_map.h"
#include "plan_schema/plan_facts.h"

namespace llmir::executor {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;
using kernels::ShareOf;

constexpr int kCalibrationVersion = 2;
// Figures that don't settle, on a busy machine, share what is left of this time: of all threads'
// figures, and of those of one thread alone.
constexpr double kPatienceSeconds = 32;
constexpr double kAlonePatienceSeconds = 16;
constexpr int64_t kReadBytes = int64_t{32} << 20;  // of one pass of the memory's figure

// Matrices: what a layer's overhead is shows in the small one, what a row and column cost in the
// large one.
struct MatrixShape {
  int64_t rows;
  int64_t columns;
  int64_t leaf_columns;  // kernels/linear.h; 0: one leaf
};
constexpr MatrixShape kMatrices[] = {
    {1024, 512, 0}, {2048, 2048, 0}, {512, 1024, 64}, {2048, 2048, 64}};
constexpr int64_t kMatrixTokens[] = {1, 2, 4, 8, 32, 128};

struct HeadShape {
  int64_t head_dim;
  int64_t heads_per_kv;
  int64_t kv_heads;
};
constexpr HeadShape kHeads[] = {{64, 3, 3}, {128, 4, 2}};
constexpr int64_t kBlockSizes[] = {16, 32, 64, 128, 256};
// Sequences, tokens of each in the cache after the step, tokens of each in the step.
struct AttentionLoad {
  int64_t batch;
  int64_t context;
  int64_t tokens;
};
// Few contexts are whole extents of the cache: neither are these.
constexpr AttentionLoad kLoads[] = {{1, 56, 1},    {1, 440, 1},   {1, 1960, 1},  {8, 56, 1},
                                    {8, 440, 1},   {8, 1960, 1},  {32, 56, 1},   {32, 440, 1},
                                    {32, 1960, 1}, {1, 128, 128}, {1, 512, 128}, {1, 2048, 128}};
constexpr int64_t kLayers = 32;  // that lie side by side in an extent, as in a model
// From a layer to the one that is read next. Side by side the processor would fetch the next one
// ahead, which it doesn't in a step, where a layer's matrices come between: 8 sequences of 512
// tokens 62 GB/s, where memory gives 52, and 40 with others between (Zen 5, two threads).
constexpr int64_t kNextLayer = 101;

constexpr int64_t kVectorColumns[] = {576, 2048, 4096};
constexpr int64_t kVectorRows = 64;  // of each thread
constexpr int64_t kSampledIds = 32768;

constexpr std::pair<const char*, kernels::Activation> kActivations[] = {
    {"silu_mul_f32", kernels::Activation::kSilu},
    {"gelu_mul_f32", kernels::Activation::kGelu},
    {"gelu_tanh_mul_f32", kernels::Activation::kGeluTanh},
    {"relu_mul_f32", kernels::Activation::kRelu}};

// As bytes of any type of weight or cache: finite, not subnormal, so that no value slows a kernel.
constexpr int kFill = 0x3c;

struct KvTypeName {
  kernels::KvType type;
  const char* name;
  int64_t element_bytes;
  int64_t scale_bytes;  // of a token's key or value
};
constexpr KvTypeName kKvTypes[] = {{kernels::KvType::kF32, "f32", 4, 0},
                                   {kernels::KvType::kBF16, "bf16", 2, 0},
                                   {kernels::KvType::kI8, "i8", 1, 4},
                                   {kernels::KvType::kF8E4M3, "f8_e4m3", 1, 0}};

// How attention is computed. Only flash is measured for all heads and loads: it is what the others
// have to beat where they are chosen.
struct FormName {
  kernels::AttentionForm form;
  const char* name;
  bool fused;  // with the append
};
constexpr FormName kForms[] = {{kernels::AttentionForm::kFlash, "flash", false},
                               {kernels::AttentionForm::kFlash, "flash", true},
                               {kernels::AttentionForm::kFusedSoftmax, "fused_softmax", false},
                               {kernels::AttentionForm::kMasked, "masked", false},
                               {kernels::AttentionForm::kStandard, "standard", false}};
// Of one thread alone, beside the figures of all: enough to tell how many cores share the memory.
constexpr bool IsMeasuredAlone(const FormName& form, int64_t block_size) {
  return form.form == kernels::AttentionForm::kFlash && (block_size == 16 || block_size == 128);
}
constexpr bool IsMeasured(const FormName& form, const HeadShape& heads, const AttentionLoad& load) {
  if (form.fused) return load.tokens == 1;
  if (form.form == kernels::AttentionForm::kFlash) return true;
  return heads.head_dim == kHeads[0].head_dim && (load.batch == 8 || load.tokens > 1);
}

struct Figure {
  // The lower quartile: what other work on the machine lengthened says nothing about the kernel,
  // nor does the best of many, which found its bytes in a cache.
  double us;
  int repeats;
  double spread;  // from the lower quartile to the median, over the quartile
};

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

void AddFigure(Json& json, const Figure& figure, const char* name, double value) {
  json[name] = value;
  json["repeats"] = figure.repeats;
  json["spread"] = figure.spread;
}

// Bytes of memory to walk through so that what comes round again has left every cache. A cache
// doesn't drop what is oldest: of 8 times its size a twentieth was still there.
size_t ColdBytes() {
  constexpr size_t kLeast = size_t{1} << 30;
  constexpr size_t kMost = size_t{4} << 30;
  const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return std::clamp(32 * static_cast<size_t>(std::max(cache, 0L)), kLeast, kMost);
}

// The figures of one number of threads.
class Profile {
 public:
  // `alone`: one thread while the other cores rest; fewer figures.
  Profile(const Options& options, kernels::Isa isa, int threads, bool alone,
          const std::atomic<bool>& cancelled)
      : options_(options),
        isa_(isa),
        alone_(alone),
        patience_(alone ? kAlonePatienceSeconds : kPatienceSeconds),
        cancelled_(cancelled),
        pool_(threads, threads > AllowedCores()) {
    PinThreads(pool_, 0, 1, AllowedCores());
  }

  // Adds the figures to `json`.
  Status Run(Json& json);

 private:
  void Say(const std::string& what) const {
    if (!options_.quiet) {
      std::fprintf(stderr, "calibrating %s%s\n", what.c_str(), alone_ ? ", one thread" : "");
    }
  }
  bool Stopped() const { return cancelled_.load(std::memory_order_relaxed); }

  // Times `body` until the lower half of its times agree, or its part of the time left is over.
  template <typename Body>
  Figure Measure(Body&& body) {
    constexpr size_t kFewest = 7;
    constexpr size_t kAtLeast = 4;  // however long they take
    constexpr double kAgree = 1.03;
    const double limit = std::max(0.0, patience_ - Seconds(start_)) / std::max(1, figures_left_--);
    const auto start = Clock::now();
    body();
    std::vector<double> us;
    double quartile = 0;
    double median = 0;
    do {
      const auto before = Clock::now();
      body();
      us.push_back(Seconds(before) * 1e6);
      if (us.size() < kFewest && us.size() != kAtLeast) continue;
      const auto at = [&](size_t n) {
        const auto place = us.begin() + static_cast<ptrdiff_t>(n);
        std::nth_element(us.begin(), place, us.end());
        return *place;
      };
      quartile = at(us.size() / 4);
      median = at(us.size() / 2);
      if (us.size() >= kFewest && median < kAgree * quartile) break;
    } while ((Seconds(start) < limit || us.size() < kAtLeast) && !Stopped());
    return {quartile, static_cast<int>(us.size()), (median - quartile) / quartile};
  }

  // Of each name the kernel that a plan would get here.
  std::vector<const kernels::LinearKernel*> Kernels() const {
    std::vector<const kernels::LinearKernel*> found;
    for (const kernels::LinearKernel& kernel : kernels::LinearKernels()) {
      if (kernels::FindLinear(kernel.name, isa_) == &kernel) found.push_back(&kernel);
    }
    return found;
  }

  Status Memory(Json& json);
  // Called between the groups of figures, and the best counts: what a shared host leaves of its
  // memory's bandwidth changes within seconds.
  Status ReadMemory(Json& json);
  // Reads memory, and gives the entries from `first` on, which were measured since it was read
  // last, the mean of both times.
  Status EndGroup(Json& entries, size_t first, Json& json);
  // What the times of entries would be with memory as it was at best: of a time, the share for
  // which memory was at its bound goes by it.
  static void ToBestMemory(double best, Json& entries);
  Status Linear(Json& json);
  Status LinearShape(const kernels::LinearKernel& kernel, const MatrixShape& shape, Json& json);
  Status Attention(Json& json);
  Status AttentionShape(const KvTypeName& type, const FormName& form, int64_t block_size,
                        const HeadShape& heads, const AttentionLoad& load, Json& json);
  Status Vector(Json& json);
  // What a step takes beside its kernels: the rotation tables, a draw.
  void StepParts(Json& json);

  const Options& options_;
  const kernels::Isa isa_;
  const bool alone_;
  const double patience_;
  const std::atomic<bool>& cancelled_;
  kernels::WorkerPool pool_;
  const Clock::time_point start_ = Clock::now();
  // The next `bytes` of it.
  std::span<const std::byte> Cold(int64_t bytes) {
    if (cold_at_ + bytes > static_cast<int64_t>(cold_.bytes())) cold_at_ = 0;
    const std::byte* start = cold_.data() + cold_at_;
    cold_at_ += bytes;
    return {start, static_cast<size_t>(bytes)};
  }

  MemoryMap cold_;         // weights and caches, far more than the caches of the processor hold
  int64_t cold_at_ = 0;    // what comes next
  double memory_now_ = 0;  // bytes per second, when it was read last
  int figures_left_ = 0;
};

Status Profile::ReadMemory(Json& json) {
  memory_now_ = 0;
  for (const size_t streams : kReadStreams) {
    uint64_t sum = 0;
    const Figure read = Measure([&] { sum += ReadOnce(pool_, Cold(kReadBytes), streams); });
    if (sum == 0) return Internal("memory: what was written isn't there");
    const double rate = kReadBytes / read.us * 1e6;
    memory_now_ = std::max(memory_now_, rate);
    if (rate <= json.value("memory_bytes_per_s", 0.0)) continue;
    json["memory_bytes_per_s"] = rate;
    AddFigure(json["memory"], read, "bytes_per_s", rate);
  }
  return Status();
}

Status Profile::EndGroup(Json& entries, size_t first, Json& json) {
  if (first == entries.size()) return Status();
  const double before = memory_now_;
  LLMIR_RETURN_IF_ERROR(ReadMemory(json));
  for (size_t i = first; i < entries.size(); ++i) {
    entries[i]["memory_bytes_per_s"] = (before + memory_now_) / 2;
  }
  return Status();
}

void Profile::ToBestMemory(double best, Json& entries) {
  for (Json& entry : entries) {
    const double then = entry["memory_bytes_per_s"];
    const auto correct = [&](Json& row) {
      const double us = row["us"];
      const double share = std::min(1.0, entry["bytes"].get<double>() / us * 1e6 / then);
      row["us"] = us * (1 - share + share * std::min(1.0, then / best));
    };
    Json& tokens = entry["tokens"];  // a matrix has a row for each number of them
    if (tokens.is_array()) {
      for (Json& row : tokens) correct(row);
    } else {
      correct(entry);
    }
  }
}

Status Profile::Memory(Json& json) {
  Say("memory and barriers");
  LLMIR_ASSIGN_OR_RETURN(cold_, MemoryMap::Create(ColdBytes(), "calibration"));
  pool_.Run([&](int thread) {
    const auto share = ShareOf(static_cast<int64_t>(cold_.bytes()), 4096, thread, pool_.threads());
    std::memset(cold_.data() + share.begin, kFill, static_cast<size_t>(share.end - share.begin));
  });
  LLMIR_RETURN_IF_ERROR(ReadMemory(json));
  constexpr int kBarriers = 2000;
  const Figure barrier = Measure([&] {
    pool_.Run([&](int) {
      for (int i = 0; i < kBarriers; ++i) pool_.Barrier();
    });
  });
  AddFigure(json["barrier"], barrier, "us", barrier.us / kBarriers);
  json["barrier_us"] = json["barrier"]["us"];
  // What every figure below contains: the start of the threads' work and its end.
  const Figure launch = Measure([&] { pool_.Run([](int) {}); });
  json["launch_us"] = launch.us;
  return Status();
}

Status Profile::LinearShape(const kernels::LinearKernel& kernel, const MatrixShape& shape,
                            Json& json) {
  const int64_t panels = shape.rows / kernels::kPanelRows;
  const int64_t weight_bytes = panels * kernel.panel_bytes(shape.columns);
  const int64_t most = *std::max_element(std::begin(kMatrixTokens), std::end(kMatrixTokens));
  const int64_t stride =
      kernel.int8_activations ? kernels::Q8RowBytes(shape.columns) : shape.columns * 4;
  const auto aligned = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  const int64_t scratch = aligned(kernel.scratch_bytes(shape.columns, most));
  LLMIR_ASSIGN_OR_RETURN(const MemoryMap x,
                         MemoryMap::Create(static_cast<size_t>(most * aligned(stride)), "rows"));
  LLMIR_ASSIGN_OR_RETURN(const MemoryMap y,
                         MemoryMap::Create(static_cast<size_t>(most * shape.rows) * 4, "rows"));
  LLMIR_ASSIGN_OR_RETURN(
      const MemoryMap space,
      MemoryMap::Create(static_cast<size_t>(scratch * pool_.threads()), "kernel scratch"));
  std::memset(x.data(), kFill, x.bytes());

  Json entry;
  entry["kernel"] = kernel.name;
  entry["rows"] = shape.rows;
  entry["columns"] = shape.columns;
  if (shape.leaf_columns > 0) entry["leaf_columns"] = shape.leaf_columns;
  entry["bytes"] = weight_bytes;
  for (const int64_t tokens : kMatrixTokens) {
    if (Stopped()) return Status();
    kernels::LinearArgs args{};
    args.rows = shape.rows;
    args.columns = shape.columns;
    args.leaf_columns = shape.leaf_columns;
    args.activations = x.data();
    args.activation_stride = aligned(stride);
    args.tokens = tokens;
    args.output = reinterpret_cast<float*>(y.data());
    args.output_stride = shape.rows;
    const Figure figure = Measure([&] {
      args.weights = Cold(weight_bytes).data();
      pool_.Run([&](int thread) {
        kernels::LinearArgs own = args;
        TakeShare(kernels::ShareOfLinear(panels, 1, tokens, thread, pool_.threads()), &own);
        own.scratch = space.data() + thread * scratch;
        if (own.panel_begin < own.panel_end) kernel.run(own);
      });
    });
    Json& row = entry["tokens"].emplace_back();
    row["tokens"] = tokens;
    AddFigure(row, figure, "us", figure.us);
  }
  json.push_back(std::move(entry));
  return Status();
}

Status Profile::Linear(Json& json) {
  Json& entries = json["linear"] = Json::array();
  for (const kernels::LinearKernel* kernel : Kernels()) {
    Say(kernel->name);
    const size_t first = entries.size();
    for (const MatrixShape& shape : kMatrices) {
      LLMIR_RETURN_IF_ERROR(LinearShape(*kernel, shape, entries));
    }
    LLMIR_RETURN_IF_ERROR(EndGroup(entries, first, json));
  }
  return Status();
}

Status Profile::AttentionShape(const KvTypeName& type, const FormName& form, int64_t block_size,
                               const HeadShape& heads, const AttentionLoad& load, Json& json) {
  const kernels::AttentionKernels& attention = kernels::FindAttention(isa_);
  const int64_t query_heads = heads.kv_heads * heads.heads_per_kv;
  const int64_t head_bytes =
      2 * block_size * (heads.head_dim * type.element_bytes + type.scale_bytes);
  const int64_t layer_bytes = heads.kv_heads * head_bytes;
  const int64_t sequence_blocks = (load.context + block_size - 1) / block_size;
  const int64_t blocks = load.batch * sequence_blocks;
  const auto cold_bytes = static_cast<int64_t>(cold_.bytes());
  const int64_t extent_blocks =
      plan::KvExtentBlocks(static_cast<uint64_t>(head_bytes), static_cast<uint64_t>(blocks));
  const int64_t room = (blocks + extent_blocks - 1) / extent_blocks * extent_blocks;
  const int64_t layers = std::min(kLayers, cold_bytes / (room * layer_bytes));
  const int64_t cache_bytes = layers * room * layer_bytes;

  // The sequences' blocks follow each other, as the pool gives them out.
  std::vector<int32_t> query_indptr, kv_indptr;
  std::vector<int32_t> kv_indices(static_cast<size_t>(blocks));
  std::iota(kv_indices.begin(), kv_indices.end(), 0);
  for (int64_t s = 0; s <= load.batch; ++s) {
    query_indptr.push_back(static_cast<int32_t>(s * load.tokens));
    kv_indptr.push_back(static_cast<int32_t>(s * sequence_blocks));
  }
  const std::vector<int32_t> kv_tokens(static_cast<size_t>(load.batch),
                                       static_cast<int32_t>(load.context));
  const kernels::SequenceTable table{load.batch, query_indptr.data(), kv_indptr.data(),
                                     kv_indices.data(), kv_tokens.data()};

  const int64_t tokens = load.batch * load.tokens;
  const int64_t stride = (query_heads + 2 * heads.kv_heads) * heads.head_dim;
  const std::vector<float> cosines(static_cast<size_t>(tokens * heads.head_dim / 2), 1.0f);
  const std::vector<float> sines(cosines.size(), 0.0f);
  std::vector<float> qkv(static_cast<size_t>(tokens * stride), 0.01f);
  std::vector<float> output(static_cast<size_t>(tokens * query_heads * heads.head_dim));
  LLMIR_ASSIGN_OR_RETURN(const MemoryMap partials,
                         MemoryMap::Create(static_cast<size_t>(kernels::AttentionPartialBytes(
                                               tokens, query_heads, heads.head_dim, load.context)),
                                           "attention partials"));
  const int64_t scratch =
      (attention.scratch_bytes(heads.head_dim, form.form, load.context) + 63) / 64 * 64;
  LLMIR_ASSIGN_OR_RETURN(
      const MemoryMap space,
      MemoryMap::Create(static_cast<size_t>(scratch * pool_.threads()), "kernel scratch"));

  kernels::KvLayer layer{nullptr,        layers * extent_blocks * layer_bytes,
                         head_bytes / 2, extent_blocks,
                         block_size,     heads.head_dim,
                         type.type};
  // Layer by layer of one cache, then of the next: what comes round again is cold.
  int64_t turn = 0;
  int64_t turns = cold_bytes / cache_bytes * layers;
  if (turns % kNextLayer == 0) --turns;  // all are visited
  const auto next_layer = [&] {
    layer.data =
        cold_.data() + turn / layers * cache_bytes + turn % layers * extent_blocks * layer_bytes;
    turn = (turn + kNextLayer) % turns;
  };
  const auto append_args = [&](int thread) {
    const auto share = ShareOf(tokens, 1, thread, pool_.threads());
    return kernels::RopeAppendArgs{
        qkv.data(),     stride,       query_heads, heads.kv_heads, {nullptr, heads.head_dim, false},
        cosines.data(), sines.data(), layer,       table,          share.begin,
        share.end};
  };
  const auto attention_args = [&](int thread) {
    kernels::AttentionArgs args{};
    args.q = qkv.data();
    args.q_stride = stride;
    args.output = output.data();
    args.output_stride = query_heads * heads.head_dim;
    args.query_heads = query_heads;
    args.heads_per_kv = heads.heads_per_kv;
    args.scale = 1.0f / std::sqrt(static_cast<float>(heads.head_dim));
    args.kv = layer;
    args.table = table;
    args.partials = partials.data();
    args.scratch = space.data() + thread * scratch;
    args.thread = thread;
    args.threads = pool_.threads();
    args.form = form.form;
    return args;
  };
  const Figure figure = Measure([&] {
    next_layer();
    pool_.Run([&](int thread) {
      const kernels::AttentionArgs args = attention_args(thread);
      if (form.fused) {
        attention.append_attend(append_args(thread), args);
      } else {
        attention.attend(args);
      }
      pool_.Barrier();
      attention.merge(args);
    });
  });
  Json& entry = json.emplace_back();
  entry["kv"] = type.name;
  entry["form"] = form.name;
  entry["block_size"] = block_size;
  entry["head_dim"] = heads.head_dim;
  entry["heads_per_kv"] = heads.heads_per_kv;
  entry["kv_heads"] = heads.kv_heads;
  entry["fused"] = form.fused;
  entry["batch"] = load.batch;
  entry["context"] = load.context;
  entry["tokens"] = load.tokens;
  entry["bytes"] = blocks * layer_bytes;
  AddFigure(entry, figure, "us", figure.us);
  if (form.fused) return Status();
  const Figure append = Measure([&] {
    next_layer();
    pool_.Run([&](int thread) { attention.rope_append(append_args(thread)); });
  });
  entry["append_us"] = append.us;
  return Status();
}

Status Profile::Attention(Json& json) {
  Json& entries = json["attention"] = Json::array();
  for (const KvTypeName& type : kKvTypes) {
    Say(fmt::format("attention over {} keys and values", type.name));
    for (const FormName& form : kForms) {
      const size_t first = entries.size();
      for (const HeadShape& heads : kHeads) {
        for (const int64_t block_size : kBlockSizes) {
          for (const AttentionLoad& load : kLoads) {
            if (Stopped()) return Status();
            if (!IsMeasured(form, heads, load)) continue;
            if (alone_ && !IsMeasuredAlone(form, block_size)) continue;
            LLMIR_RETURN_IF_ERROR(AttentionShape(type, form, block_size, heads, load, entries));
          }
        }
      }
      LLMIR_RETURN_IF_ERROR(EndGroup(entries, first, json));
    }
  }
  return Status();
}

Status Profile::Vector(Json& json) {
  Say("norms, sums and quantization");
  const kernels::VectorKernels& vector = kernels::FindVector(isa_);
  for (const int64_t columns : kVectorColumns) {
    // Each thread has rows of its own, hot in its cache, as the step before leaves them.
    const auto floats = static_cast<size_t>(kVectorRows * columns);
    LLMIR_ASSIGN_OR_RETURN(const MemoryMap space,
                           MemoryMap::Create(3 * floats * sizeof(float) * pool_.threads(), "rows"));
    std::memset(space.data(), kFill, space.bytes());
    const auto time = [&](const char* kernel, auto&& run) {
      const Figure figure = Measure([&] {
        pool_.Run([&](int thread) {
          float* x = reinterpret_cast<float*>(space.data()) + 3 * floats * thread;
          run(x, x + floats, x + 2 * floats);
        });
      });
      Json& entry = json.emplace_back();
      entry["kernel"] = kernel;
      entry["columns"] = columns;
      AddFigure(entry, figure, "us_per_row", figure.us / kVectorRows);
    };
    const auto bytes = [](float* row) { return reinterpret_cast<std::byte*>(row); };
    time("rms_norm_f32", [&](float* x, float* weight, float* out) {
      vector.rms_norm(x, columns, weight, 1e-5f, kVectorRows, columns, out, columns);
    });
    time("rms_norm_q8", [&](float* x, float* weight, float* out) {
      vector.rms_norm_q8(x, columns, weight, 1e-5f, kVectorRows, columns, bytes(out), columns * 4);
    });
    time("quantize_q8", [&](float* x, float*, float* out) {
      vector.quantize(x, columns, kVectorRows, columns, bytes(out), columns * 4);
    });
    time("dequantize_q8", [&](float* x, float*, float* out) {
      vector.dequantize(bytes(x), columns * 4, kVectorRows, columns, out, columns);
    });
    time("add_f32",
         [&](float* x, float* b, float* out) { vector.add(x, b, kVectorRows * columns, out); });
    time("layer_norm_f32", [&](float* x, float* weight, float* out) {
      vector.layer_norm(x, columns, weight, 1e-5f, kVectorRows, columns, out, columns);
    });
    time("softcap_f32", [&](float* x, float*, float* out) {
      vector.softcap(x, 30.0f, kVectorRows * columns, out);
    });
    for (const auto& [name, activation] : kActivations) {
      time(name, [&](float* gate, float* up, float* out) {
        vector.activate(activation, gate, up, kVectorRows * columns, out);
      });
    }
  }
  return Status();
}

void Profile::StepParts(Json& json) {
  const kernels::AttentionKernels& attention = kernels::FindAttention(isa_);
  constexpr int64_t kRotated = 64;  // of a head
  std::vector<int32_t> positions(static_cast<size_t>(kVectorRows));
  std::iota(positions.begin(), positions.end(), 1000);
  const std::vector<float> frequencies(kRotated / 2, 0.01f);
  std::vector<float> cosines(static_cast<size_t>(kVectorRows) * kRotated / 2), sines(cosines);
  const kernels::RopeArgs rope{frequencies.data(), kRotated, false};
  const Figure tables = Measure([&] {
    attention.rope_tables(positions.data(), rope, 0, kVectorRows, cosines.data(), sines.data());
  });
  json["rope_us_per_element"] = tables.us / static_cast<double>(cosines.size());
  Sampler sampler(kSampledIds, kernels::FindVector(isa_));
  std::vector<float> logits(static_cast<size_t>(kSampledIds), 0.5f);
  int32_t drawn = 0;
  const Figure draw = Measure([&] {
    logits[static_cast<size_t>(drawn)] += 1;
    drawn = sampler.Sample(logits, SamplingOptions(), drawn);
  });
  json["sample_us_per_id"] = draw.us / static_cast<double>(kSampledIds);
}

Status Profile::Run(Json& json) {
  json["threads"] = pool_.threads();
  constexpr int kVectorKernels = 6 + static_cast<int>(std::size(kActivations));
  int attention_figures = 0;
  for (const FormName& form : kForms) {
    for (const HeadShape& heads : kHeads) {
      for (const AttentionLoad& load : kLoads) {
        for (const int64_t block_size : kBlockSizes) {
          if (!IsMeasured(form, heads, load)) continue;
          if (alone_ && !IsMeasuredAlone(form, block_size)) continue;
          attention_figures += form.fused ? 1 : 2;
        }
      }
    }
  }
  figures_left_ =
      6 + static_cast<int>(std::size(kReadStreams) * std::size(kKvTypes) * std::size(kForms)) +
      static_cast<int>(Kernels().size() * (std::size(kMatrices) * std::size(kMatrixTokens) + 1)) +
      attention_figures * static_cast<int>(std::size(kKvTypes)) +
      kVectorKernels * static_cast<int>(std::size(kVectorColumns));
  LLMIR_RETURN_IF_ERROR(Memory(json));
  LLMIR_RETURN_IF_ERROR(Linear(json));
  LLMIR_RETURN_IF_ERROR(Attention(json));
  LLMIR_RETURN_IF_ERROR(Vector(json["vector"] = Json::array()));
  StepParts(json);
  LLMIR_RETURN_IF_ERROR(ReadMemory(json));
  if (Stopped()) return Cancelled("stopped by a signal; nothing was written");
  ToBestMemory(json["memory_bytes_per_s"], json["linear"]);
  ToBestMemory(json["memory_bytes_per_s"], json["attention"]);
  return Status();
}

// Known now rather than after a minute of measuring.
Status CheckWritable(const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  // Not `= "."`: GCC 12 warns of an overlap that isn't there.
  if (folder.empty()) folder = std::string(".");
  LLMIR_RETURN_IF_ERROR(CreateFolder(folder));
  if (access(folder.c_str(), W_OK) != 0) {
    return InvalidArgument("{}: cannot be written: {}", path, std::strerror(errno));
  }
  return Status();
}

// Rank 0's part: everything but the messages between ranks.
StatusOr<Json> MeasureHost(const Options& options, kernels::Isa isa,
                           const std::atomic<bool>& cancelled) {
  const int cores = AllowedCores();
  const int threads = options.threads > 0 ? options.threads : cores;
  Json json;
  json["version"] = kCalibrationVersion;
  json["machine"] = {{"cpu", ProcessorName()}, {"isa", kernels::IsaName(isa)}, {"cores", cores}};
  json["commit"] = kCommit;
  json["command"] = options.command;
  // For process_bytes: what is private before anything was loaded, and at last what of the
  // program's files a run comes by.
  const uint64_t private_bytes = PeakResidentBytes() - ResidentFileBytes();
  {
    const KeptCores kept;
    LLMIR_RETURN_IF_ERROR(Profile(options, isa, threads, /*alone=*/false, cancelled).Run(json));
  }
  if (threads > 1) {
    const KeptCores kept;
    LLMIR_RETURN_IF_ERROR(Profile(options, isa, 1, /*alone=*/true, cancelled).Run(json["alone"]));
  }
  if (!options.quiet) std::fprintf(stderr, "calibrating messages within the host\n");
  LLMIR_ASSIGN_OR_RETURN(json["links"], MeasureHostLinks(cores, cancelled));
  json["process_bytes"] = private_bytes + ResidentFileBytes();
  return json;
}

// Among the ranks of the job: over MPI, as between hosts.
StatusOr<Json> MeasureJobLinks(comm::World& world, const std::atomic<bool>& cancelled) {
  std::vector<int> all(static_cast<size_t>(world.size()));
  std::iota(all.begin(), all.end(), 0);
  constexpr size_t kMostBytes = size_t{2} << 20;
  LLMIR_ASSIGN_OR_RETURN(const auto channel,
                         world.CreateChannel(all, kMostBytes, comm::Backend::kMpi));
  // The ranks of other hosts than the first: each host has one that is its first.
  float hosts = world.local_rank() == 0 ? 1.0f : 0.0f;
  LLMIR_RETURN_IF_ERROR(channel->AllReduce(&hosts, 1));
  LLMIR_ASSIGN_OR_RETURN(Json operations, MeasureChannel(*channel, cancelled));
  return Json{{"channel", "mpi"},
              {"ranks", world.size()},
              {"hosts", static_cast<int>(hosts)},
              {"operations", std::move(operations)}};
}

}  // namespace

// Rank 0 measures its host while the others sleep; then all exchange messages.
Status Calibrate(comm::World& world, const Options& options, const std::atomic<bool>& cancelled) {
  const auto start = Clock::now();
  std::unique_ptr<comm::Channel> turn;
  if (world.size() > 1) {
    std::vector<int> all(static_cast<size_t>(world.size()));
    std::iota(all.begin(), all.end(), 0);
    LLMIR_ASSIGN_OR_RETURN(turn, world.CreateChannel(all, sizeof(int32_t)));
  }
  Json json;
  Status status;
  int32_t go_on = 0;
  if (world.rank() == 0) {
    status = CheckWritable(options.calibrate);
    if (status.ok()) {
      auto isa = ChooseIsa();
      auto measured =
          isa.ok() ? MeasureHost(options, *isa, cancelled) : StatusOr<Json>(isa.status());
      status = measured.status();
      if (measured.ok()) json = std::move(measured).value();
    }
    go_on = status.ok() ? 1 : 0;
  }
  if (turn == nullptr) {
    LLMIR_RETURN_IF_ERROR(status);
  } else {
    LLMIR_ASSIGN_OR_RETURN(const comm::Request request,
                           turn->StartBroadcast(&go_on, sizeof go_on, 0));
    LLMIR_RETURN_IF_ERROR(turn->WaitIdle(request));
    LLMIR_RETURN_IF_ERROR(world.Agree(status));
    auto links = MeasureJobLinks(world, cancelled);
    LLMIR_RETURN_IF_ERROR(world.Agree(links.status()));
    if (world.rank() == 0) json["links"].push_back(std::move(links).value());
  }
  if (world.rank() == 0) {
    json["seconds"] = Seconds(start);
    status = WriteWholeFile(options.calibrate, json.dump(1) + '\n');
  }
  return turn == nullptr ? status : world.Agree(status);
}

}  // namespace llmir::executor
