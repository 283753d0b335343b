// Linear kernels on the matrices of SmolLM2-135M, each held against what the machine gives at the
// same moment: decode (few tokens, all weights of the model pass from memory) against a loop that
// only reads the same bytes, prefill against a loop of multiply-adds or int8 dot products in
// registers.
//
//   linear_bench --benchmark_filter='decode/.*q4_1.*avx512'
//   LLMIR_BENCH_THREADS=1 linear_bench
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kernels/activations.h"
#include "kernels/linear.h"
#include "kernels/linear_share.h"
#include "kernels/vector.h"
#include "kernels/worker_pool.h"
#include "perf/bench/pages.h"
#include "perf/bound_loops.h"

namespace llmir::kernels {
namespace {

constexpr int64_t kLayers = 30;
constexpr int64_t kVocabulary = 49152;

struct Shape {
  const char* name;
  int64_t rows;
  int64_t columns;
  int64_t leaf_columns;
  bool silu_mul;
};
constexpr Shape kLayerShapes[] = {{"qkv", 960, 576, 0, false},
                                  {"o", 576, 576, 64, false},
                                  {"gate_up", 3072, 576, 0, true},
                                  {"down", 576, 1536, 64, false}};
constexpr Shape kHeadShape = {"head", kVocabulary, 576, 0, false};

int Threads() {
  if (const char* threads = std::getenv("LLMIR_BENCH_THREADS"))
    return std::max(1, std::atoi(threads));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

WorkerPool& Pool() {
  static WorkerPool pool(Threads());
  return pool;
}

const perf::BoundLoops& Loops(Isa isa) {
  if (isa == Isa::kAvx512) return perf::avx512::kLoops;
  if (isa == Isa::kAvx2) return perf::avx2::kLoops;
  return perf::portable::kLoops;
}

struct PlacedWeight {
  Shape shape;
  const LinearKernel* kernel;
  int64_t offset;
};

// The weights of a model, one after the other in one allocation, all with the values of one random
// panel per width.
class Weights {
 public:
  Weights(const LinearKernel& layer_kernel, const LinearKernel& head_kernel, int64_t layers,
          bool with_head) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      for (const Shape& shape : kLayerShapes) Place(shape, layer_kernel);
    }
    if (with_head) Place(kHeadShape, head_kernel);
    pages_ = std::make_unique<perf::Pages>(bytes_);
    Fill(576, layer_kernel);
    Fill(1536, layer_kernel);
    if (with_head) Fill(kHeadShape.columns, head_kernel);
  }
  const std::vector<PlacedWeight>& placed() const { return placed_; }
  const std::byte* data() const { return pages_->data(); }
  int64_t bytes() const { return bytes_; }

 private:
  void Place(const Shape& shape, const LinearKernel& kernel) {
    placed_.push_back({shape, &kernel, bytes_});
    bytes_ += shape.rows / kPanelRows * kernel.panel_bytes(shape.columns);
  }
  void Fill(int64_t columns, const LinearKernel& kernel) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 0.05f);
    std::vector<float> values(static_cast<size_t>(kPanelRows * columns));
    for (float& value : values) value = normal(random);
    std::vector<SourceRow> rows;
    for (int64_t r = 0; r < kPanelRows; ++r) {
      rows.push_back({Encoding::kF32, reinterpret_cast<const std::byte*>(&values[r * columns])});
    }
    const int64_t panel_bytes = kernel.panel_bytes(columns);
    perf::Pages panel(panel_bytes);
    std::vector<std::byte> scratch(static_cast<size_t>(kernel.pack_scratch_bytes(columns)));
    kernel.pack_panel(rows, columns, panel.data(), scratch.data());
    for (const PlacedWeight& weight : placed_) {
      if (weight.kernel != &kernel || weight.shape.columns != columns) continue;
      for (int64_t p = 0; p < weight.shape.rows / kPanelRows; ++p) {
        std::memcpy(pages_->data() + weight.offset + p * panel_bytes, panel.data(), panel_bytes);
      }
    }
  }

  std::vector<PlacedWeight> placed_;
  std::unique_ptr<perf::Pages> pages_;
  int64_t bytes_ = 0;
};

// Activations for every width in `weights`, room for outputs and the scratch of each thread.
class Step {
 public:
  Step(const Weights& weights, int64_t tokens) : weights_(weights), tokens_(tokens) {
    int64_t output_floats = 0;
    int64_t scratch = 0;
    for (const PlacedWeight& weight : weights.placed()) {
      const int64_t columns = weight.shape.columns;
      output_floats = std::max(output_floats, tokens * weight.shape.rows);
      scratch = std::max(scratch, weight.kernel->scratch_bytes(columns, tokens));
      std::unique_ptr<perf::Pages>& rows = activations_[columns];
      if (rows == nullptr) rows = MakeActivations(*weight.kernel, columns);
    }
    output_ = std::make_unique<perf::Pages>(output_floats * 4);
    for (int t = 0; t < Threads(); ++t) scratch_.push_back(std::make_unique<perf::Pages>(scratch));
  }

  void Run() {
    for (const PlacedWeight& weight : weights_.placed()) {
      Pool().Run([&](int thread) { RunShare(weight, thread); });
    }
  }

 private:
  static int64_t Stride(const LinearKernel& kernel, int64_t columns) {
    return ((kernel.int8_activations ? Q8RowBytes(columns) : columns * 4) + 63) / 64 * 64;
  }

  std::unique_ptr<perf::Pages> MakeActivations(const LinearKernel& kernel, int64_t columns) const {
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<size_t>(tokens_ * columns));
    for (float& value : values) value = normal(random);
    const int64_t stride = Stride(kernel, columns);
    auto rows = std::make_unique<perf::Pages>(tokens_ * stride);
    if (kernel.int8_activations) {
      FindVector(kernel.isa)
          .quantize(values.data(), columns, tokens_, columns, rows->data(), stride);
    } else {
      for (int64_t t = 0; t < tokens_; ++t) {
        std::memcpy(rows->data() + t * stride, &values[t * columns], columns * 4);
      }
    }
    return rows;
  }

  void RunShare(const PlacedWeight& weight, int thread) {
    const Shape& shape = weight.shape;
    LinearArgs args{};
    args.weights = weights_.data() + weight.offset;
    args.rows = shape.rows;
    args.columns = shape.columns;
    args.leaf_columns = shape.leaf_columns;
    args.activations = activations_.at(shape.columns)->data();
    args.activation_stride = Stride(*weight.kernel, shape.columns);
    args.tokens = tokens_;
    args.output = reinterpret_cast<float*>(output_->data());
    args.output_stride = shape.silu_mul ? shape.rows / 2 : shape.rows;
    args.silu_mul = shape.silu_mul;
    TakeShare(ShareOfLinear(shape.rows / kPanelRows, shape.silu_mul ? 2 : 1, tokens_, thread,
                            Pool().threads()),
              &args);
    args.scratch = scratch_[static_cast<size_t>(thread)]->data();
    weight.kernel->run(args);
  }

  const Weights& weights_;
  int64_t tokens_;
  std::map<int64_t, std::unique_ptr<perf::Pages>> activations_;  // by width
  std::unique_ptr<perf::Pages> output_;
  std::vector<std::unique_ptr<perf::Pages>> scratch_;
};

// With one thread its CPU time, which other processes of the machine don't lengthen; else time on
// the wall.
double Now() {
  if (Threads() > 1) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

double Seconds(const auto& body) {
  const double begin = Now();
  body();
  return Now() - begin;
}

// Bytes per second at which all threads read `bytes` in 4 streams each.
double ReadRate(const perf::BoundLoops& loops, const std::byte* data, int64_t bytes) {
  std::vector<uint64_t> sinks(static_cast<size_t>(Pool().threads()));
  const double seconds = Seconds([&] {
    Pool().Run([&](int thread) {
      const Share share = ShareOf(bytes, 4 * 64, thread, Pool().threads());
      const int64_t length = (share.end - share.begin) / 256 * 256;
      sinks[static_cast<size_t>(thread)] =
          loops.read(data + share.begin, static_cast<size_t>(length), 4);
    });
  });
  benchmark::DoNotOptimize(sinks.data());
  return static_cast<double>(bytes) / seconds;
}

// Operations per second of all threads in registers, of the kind that the kernel does.
double OperationRate(const LinearKernel& kernel) {
  const perf::BoundLoops& loops = Loops(kernel.isa);
  std::vector<double> operations(static_cast<size_t>(Pool().threads()));
  const double seconds = Seconds([&] {
    Pool().Run([&](int thread) {
      float float_sink = 0;
      int32_t int_sink = 0;
      constexpr int64_t kIterations = 200000;
      operations[static_cast<size_t>(thread)] =
          kernel.int8_activations   ? loops.int8_dot(kIterations, &int_sink)
          : kernel.bf16_activations ? loops.bf16_dot(kIterations, &float_sink)
                                    : loops.multiply_add(kIterations, &float_sink);
      benchmark::DoNotOptimize(float_sink);
      benchmark::DoNotOptimize(int_sink);
    });
  });
  double total = 0;
  for (const double value : operations) total += value;
  return total / seconds;
}

// Steps and the bound in turn, so that what else the machine does hits both. Counters: `name`, the
// best rate of a step; bound_`name`, the bound's best; of_bound, the median over the steps of their
// rate over that of the bound before and after them. Returns a step's least seconds.
double MeasureInTurn(benchmark::State& state, const char* name, double work, const auto& step,
                     const auto& bound_rate) {
  double best = 1e9;
  double bound = 0;
  std::vector<double> ratios;
  bound_rate();  // the first touches its memory
  double before = bound_rate();
  for (auto _ : state) {
    const double seconds = Seconds(step);
    state.PauseTiming();
    const double after = bound_rate();
    ratios.push_back(work / seconds / ((before + after) / 2));
    best = std::min(best, seconds);
    bound = std::max({bound, before, after});
    before = after;
    state.ResumeTiming();
  }
  const auto middle = ratios.begin() + static_cast<ptrdiff_t>(ratios.size() / 2);
  std::nth_element(ratios.begin(), middle, ratios.end());
  state.counters[name] = work / best * 1e-9;
  state.counters[std::string("bound_") + name] = bound * 1e-9;
  state.counters["of_bound"] = *middle;
  return best;
}

// One pass over all weights of the model, as in a decode step of `tokens` sequences.
void Decode(benchmark::State& state, const LinearKernel& kernel, int64_t tokens) {
  const LinearKernel& head =
      kernel.int8_activations ? *FindLinear("linear_q8_q8_0", kernel.isa) : kernel;
  const Weights weights(kernel, head, kLayers, true);
  Step step(weights, tokens);
  const double best = MeasureInTurn(
      state, "GB/s", static_cast<double>(weights.bytes()), [&] { step.Run(); },
      [&] { return ReadRate(Loops(kernel.isa), weights.data(), weights.bytes()); });
  state.counters["MB"] = static_cast<double>(weights.bytes()) * 1e-6;
  state.counters["tokens/s"] = static_cast<double>(tokens) / best;
}

// Two layers for many tokens.
void Prefill(benchmark::State& state, const LinearKernel& kernel, int64_t tokens) {
  const Weights weights(kernel, kernel, 2, false);
  Step step(weights, tokens);
  double operations = 0;
  for (const PlacedWeight& weight : weights.placed()) {
    operations += 2.0 * static_cast<double>(weight.shape.rows * weight.shape.columns * tokens);
  }
  MeasureInTurn(
      state, "GOP/s", operations, [&] { step.Run(); }, [&] { return OperationRate(kernel); });
}

void RegisterAll() {
  for (const LinearKernel& kernel : LinearKernels()) {
    if (!IsaAvailable(kernel.isa)) continue;
    const std::string name = std::string(kernel.name) + "__" + IsaName(kernel.isa);
    for (const int64_t tokens : {1, 2, 4, 8, 16}) {
      benchmark::RegisterBenchmark(("decode/" + name + "/" + std::to_string(tokens)).c_str(),
                                   Decode, kernel, tokens)
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
    }
    for (const int64_t tokens : {64, 512}) {
      benchmark::RegisterBenchmark(("prefill/" + name + "/" + std::to_string(tokens)).c_str(),
                                   Prefill, kernel, tokens)
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
    }
  }
}

}  // namespace
}  // namespace llmir::kernels

int main(int argc, char** argv) {
  llmir::kernels::RegisterAll();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
