// Attention of one layer: SmolLM2-135M's heads (9 query, 3 KV, head size 64) and a Llama-3-8B-like
// set (32, 8, 128), f32 and bf16 cache. Counters: GB/s of K and V read once per KV head (decode),
// GFLOP/s of the two products (prefill).
#include "kernels/attention.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/worker_pool.h"
#include "perf/bench/pages.h"

namespace llmir::kernels {
namespace {

struct Heads {
  int64_t query, kv, dim;
};
constexpr Heads kSmall{9, 3, 64};
constexpr Heads kLarge{32, 8, 128};
constexpr int64_t kBlockSize = 16;
constexpr int64_t kLayers = 30;  // of a cache too large for any cache of the processor

// Sequences of equal length with everything but their last `rows` tokens in the cache. run_bytes:
// of a head's slices in an extent; 0: blocks by themselves, in any order. `layers`: all of a cache,
// attended to in turns.
class Step {
 public:
  Step(Isa isa, Heads heads, KvType type, int64_t sequences, int64_t rows, int64_t context,
       int threads, int64_t run_bytes = 0, int64_t layers = 1)
      : kernels_(FindAttention(isa)), heads_(heads), pool_(threads) {
    const int64_t element = type == KvType::kF32 ? 4 : 2;
    const int64_t blocks = (context + kBlockSize - 1) / kBlockSize;
    const int64_t head_bytes = 2 * kBlockSize * heads.dim * element;
    const int64_t extent_blocks = static_cast<int64_t>(
        std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(run_bytes / (head_bytes / 2), 1))));
    const int64_t room = (sequences * blocks + extent_blocks - 1) / extent_blocks * extent_blocks;
    layers_ = layers;
    layer_bytes_ = extent_blocks * heads.kv * head_bytes;
    cache_bytes_ = sequences * blocks * heads.kv * head_bytes;
    const int64_t all_bytes = room * layers * heads.kv * head_bytes;
    cache_ = std::make_unique<perf::Pages>(all_bytes);
    std::mt19937 random(1);
    // Elements with small exponents of both types.
    for (int64_t i = 0; i + 2 <= all_bytes; i += 2) {
      const auto bits = static_cast<uint16_t>(0x3c00 | (random() & 0x80ff));
      std::memcpy(cache_->data() + i, &bits, 2);
    }
    indices_.resize(static_cast<size_t>(sequences * blocks));
    std::iota(indices_.begin(), indices_.end(), 0);
    if (run_bytes == 0) std::shuffle(indices_.begin(), indices_.end(), random);
    for (int64_t s = 0; s <= sequences; ++s) {
      query_indptr_.push_back(static_cast<int32_t>(s * rows));
      kv_indptr_.push_back(static_cast<int32_t>(s * blocks));
    }
    kv_tokens_.assign(static_cast<size_t>(sequences), static_cast<int32_t>(context));
    tokens_ = sequences * rows;
    const int64_t stride = (heads.query + 2 * heads.kv) * heads.dim;
    qkv_.resize(static_cast<size_t>(tokens_ * stride));
    for (float& x : qkv_) x = std::normal_distribution<float>()(random);
    output_.resize(static_cast<size_t>(tokens_ * heads.query * heads.dim));
    partials_.resize(
        static_cast<size_t>(AttentionPartialBytes(tokens_, heads.query, heads.dim, context)));
    scratch_bytes_ =
        (kernels_.scratch_bytes(heads.dim, AttentionForm::kFlash, context) + 63) / 64 * 64;
    scratch_.resize(static_cast<size_t>(scratch_bytes_ * threads + 64));
    const SequenceTable table{sequences, query_indptr_.data(), kv_indptr_.data(), indices_.data(),
                              kv_tokens_.data()};
    const KvLayer layer{cache_->data(),
                        layers * layer_bytes_,
                        head_bytes / 2,
                        extent_blocks,
                        kBlockSize,
                        heads.dim,
                        type};
    args_ = {qkv_.data(),
             stride,
             output_.data(),
             heads.query * heads.dim,
             heads.query,
             0,
             0,
             heads.query / heads.kv,
             1.0f / std::sqrt(static_cast<float>(heads.dim)),
             layer,
             table,
             partials_.data(),
             nullptr,
             0,
             threads};
  }

  void Attend() {
    pool_.Run([&](int thread) {
      AttentionArgs args = args_;
      args.kv.data += layer_ * layer_bytes_;
      args.thread = thread;
      auto base = reinterpret_cast<uintptr_t>(scratch_.data());
      args.scratch = scratch_.data() + ((base + 63) / 64 * 64 - base) + thread * scratch_bytes_;
      kernels_.attend(args);
      pool_.Barrier();
      kernels_.merge(args);
    });
    layer_ = (layer_ + 1) % layers_;
  }

  void Append() {
    kernels_.rope_append({qkv_.data(),
                          args_.q_stride,
                          heads_.query,
                          heads_.kv,
                          {nullptr, 0, false},
                          nullptr,
                          nullptr,
                          args_.kv,
                          args_.table,
                          0,
                          tokens_});
  }

  int64_t cache_bytes() const { return cache_bytes_; }

 private:
  const AttentionKernels& kernels_;
  Heads heads_;
  WorkerPool pool_;
  int64_t tokens_ = 0, scratch_bytes_ = 0, layers_ = 1, layer_ = 0, layer_bytes_ = 0;
  int64_t cache_bytes_;
  std::unique_ptr<perf::Pages> cache_;
  std::vector<std::byte> partials_, scratch_;
  std::vector<int32_t> query_indptr_, kv_indptr_, indices_, kv_tokens_;
  std::vector<float> qkv_, output_;
  AttentionArgs args_{};
};

void Decode(benchmark::State& state, Isa isa, Heads heads, KvType type) {
  Step step(isa, heads, type, state.range(1), 1, state.range(0), static_cast<int>(state.range(2)));
  for (auto _ : state) step.Attend();
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(step.cache_bytes()) * static_cast<double>(state.iterations()) / 1e9,
      benchmark::Counter::kIsRate);
}

// From memory.
void ColdDecode(benchmark::State& state, Isa isa, Heads heads, KvType type) {
  Step step(isa, heads, type, state.range(1), 1, state.range(0), static_cast<int>(state.range(2)),
            state.range(3) << 10, kLayers);
  for (auto _ : state) step.Attend();
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(step.cache_bytes()) * static_cast<double>(state.iterations()) / 1e9,
      benchmark::Counter::kIsRate);
}

void Prefill(benchmark::State& state, Isa isa, Heads heads, KvType type) {
  const int64_t rows = state.range(0), before = state.range(1);
  Step step(isa, heads, type, 1, rows, before + rows, static_cast<int>(state.range(2)));
  for (auto _ : state) step.Attend();
  const double pairs = static_cast<double>(rows) *
                       (static_cast<double>(before) + 0.5 * static_cast<double>(rows + 1));
  state.counters["GFLOP/s"] =
      benchmark::Counter(4.0 * pairs * static_cast<double>(heads.query * heads.dim) *
                             static_cast<double>(state.iterations()) / 1e9,
                         benchmark::Counter::kIsRate);
}

void Append(benchmark::State& state, Isa isa, Heads heads, KvType type) {
  Step step(isa, heads, type, 1, state.range(0), state.range(0) + 100, 1);
  for (auto _ : state) step.Append();
}

void Register() {
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (!IsaAvailable(isa)) continue;
    for (const auto& [heads_name, heads] : {std::pair{"9x3x64", kSmall}, {"32x8x128", kLarge}}) {
      for (const auto& [type_name, type] :
           {std::pair{"f32", KvType::kF32}, {"bf16", KvType::kBF16}}) {
        const std::string suffix =
            std::string("/") + IsaName(isa) + "/" + heads_name + "/" + type_name;
        benchmark::RegisterBenchmark(("decode" + suffix).c_str(), Decode, isa, heads, type)
            ->ArgNames({"context", "sequences", "threads"})
            ->Args({200, 1, 1})
            ->Args({1000, 1, 1})
            ->Args({1000, 1, 2})
            ->Args({4000, 1, 1})
            ->Args({500, 16, 2})
            ->UseRealTime();
        benchmark::RegisterBenchmark(("cold_decode" + suffix).c_str(), ColdDecode, isa, heads, type)
            ->ArgNames({"context", "sequences", "threads", "run_kib"})
            ->ArgsProduct({{4096}, {1, 4}, {1, 2}, {0, 32, 64, 128, 256}})
            ->UseRealTime();
        benchmark::RegisterBenchmark(("prefill" + suffix).c_str(), Prefill, isa, heads, type)
            ->ArgNames({"rows", "before", "threads"})
            ->Args({128, 0, 1})
            ->Args({512, 0, 1})
            ->Args({512, 0, 2})
            ->Args({128, 1000, 1})
            ->UseRealTime();
        benchmark::RegisterBenchmark(("append" + suffix).c_str(), Append, isa, heads, type)
            ->ArgName("rows")
            ->Arg(1)
            ->Arg(128);
      }
    }
  }
}

}  // namespace
}  // namespace llmir::kernels

int main(int argc, char** argv) {
  llmir::kernels::Register();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
