// Vector kernels at SmolLM2-135M's sizes, and what a step and a barrier of the worker pool cost.
#include "kernels/vector.h"

#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "kernels/activations.h"
#include "kernels/worker_pool.h"

namespace llmir::kernels {
namespace {

std::vector<float> Values(int64_t count) {
  std::mt19937 random(1);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& x : values) x = std::normal_distribution<float>()(random);
  return values;
}

void RmsNorm(benchmark::State& state, Isa isa) {
  const int64_t columns = state.range(0);
  const std::vector<float> x = Values(columns), weight = Values(columns);
  std::vector<float> out(x.size());
  for (auto _ : state) {
    FindVector(isa).rms_norm(x.data(), columns, weight.data(), 1e-5f, 1, columns, out.data(),
                             columns);
    benchmark::ClobberMemory();
  }
}

void RmsNormQ8(benchmark::State& state, Isa isa) {
  const int64_t columns = state.range(0);
  const std::vector<float> x = Values(columns), weight = Values(columns);
  std::vector<std::byte> out(static_cast<size_t>(Q8RowBytes(columns)));
  for (auto _ : state) {
    FindVector(isa).rms_norm_q8(x.data(), columns, weight.data(), 1e-5f, 1, columns, out.data(), 0);
    benchmark::ClobberMemory();
  }
}

void Quantize(benchmark::State& state, Isa isa) {
  const int64_t columns = state.range(0);
  const std::vector<float> x = Values(columns);
  std::vector<std::byte> out(static_cast<size_t>(Q8RowBytes(columns)));
  for (auto _ : state) {
    FindVector(isa).quantize(x.data(), columns, 1, columns, out.data(), 0);
    benchmark::ClobberMemory();
  }
}

void Argmax(benchmark::State& state, Isa isa) {
  const std::vector<float> x = Values(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(FindVector(isa).argmax(x.data(), state.range(0)));
}

void Score(benchmark::State& state, Isa isa) {
  const std::vector<float> x = Values(state.range(0));
  for (auto _ : state) {
    benchmark::DoNotOptimize(FindVector(isa).score_part(x.data(), state.range(0), 7));
  }
}

void PoolRun(benchmark::State& state) {
  WorkerPool pool(static_cast<int>(state.range(0)));
  for (auto _ : state) pool.Run([](int) {});
}
BENCHMARK(PoolRun)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();

void PoolBarrier(benchmark::State& state) {
  WorkerPool pool(static_cast<int>(state.range(0)));
  constexpr int kBarriers = 1000;
  for (auto _ : state) {
    pool.Run([&](int) {
      for (int i = 0; i < kBarriers; ++i) pool.Barrier();
    });
  }
  state.SetItemsProcessed(state.iterations() * kBarriers);
}
BENCHMARK(PoolBarrier)->ArgName("threads")->Arg(2)->UseRealTime();

void Register() {
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (!IsaAvailable(isa)) continue;
    const auto add = [&](const char* name, void (*run)(benchmark::State&, Isa), int64_t count) {
      benchmark::RegisterBenchmark((std::string(name) + "/" + IsaName(isa)).c_str(), run, isa)
          ->Arg(count);
    };
    add("rms_norm", RmsNorm, 576);
    add("rms_norm_q8", RmsNormQ8, 576);
    add("quantize", Quantize, 1536);
    add("argmax", Argmax, 49152);
    add("score_part", Score, 49152);
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
