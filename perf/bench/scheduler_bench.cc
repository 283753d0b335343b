// What the engine takes between two steps, by sequences of the batch: a whole turn with a runner
// that computes nothing. The 20 microseconds that a step at 64 sequences may take are of this.

#include <benchmark/benchmark.h>

#include <random>

#include "executor/engine/engine.h"
#include "plan_schema/plan_file.h"

namespace llmir::executor {
namespace {

class NoModel : public StepRunner {
 public:
  Status Start(int, StepDescriptor& step) override {
    ids_.resize(static_cast<size_t>(step.header().sampled));
    for (int32_t& id : ids_) id = static_cast<int32_t>(random_() % 50000);
    return Status();
  }
  StatusOr<bool> IsFinished(int) override { return true; }
  StatusOr<StepResult> Finish(int) override {
    StepResult result;
    result.ids = ids_;
    return result;
  }

 private:
  std::vector<int32_t> ids_;
  std::mt19937 random_{1};
};

plan::PlanFile MakePlan(uint32_t batch) {
  plan::PlanT plan;
  plan.version = std::make_unique<plan::VersionT>();
  plan.model = std::make_unique<plan::ModelT>();
  plan.model->vocabulary = 50000;
  plan.model->layers = 1;
  plan.kv = std::make_unique<plan::KvGeometryT>();
  plan.kv->block_size = 16;
  plan.kv->blocks = batch * 160;
  plan.kv->max_blocks_per_sequence = 128;
  plan.limits = std::make_unique<plan::LimitsT>();
  plan.limits->context = 2048;
  plan.limits->max_batch = batch;
  plan.limits->prefill_chunk = 128;
  plan.limits->max_tokens = 128 + batch;
  auto step = std::make_unique<plan::StepT>();
  step->ranks.push_back(std::make_unique<plan::StepRankT>());
  auto program = std::make_unique<plan::ProgramT>();
  program->steps.push_back(std::move(step));
  auto stage = std::make_unique<plan::StageT>();
  auto rank = std::make_unique<plan::RankT>();
  rank->memory = std::make_unique<plan::MemoryT>();
  stage->ranks.push_back(std::move(rank));
  stage->programs.push_back(std::move(program));
  plan.replicas.push_back(std::make_unique<plan::ReplicaT>());
  plan.replicas[0]->stages.push_back(std::move(stage));
  auto file = plan::PlanFile::FromBytes(plan::PlanFile::Serialize(plan), "bench");
  if (!file.ok()) std::abort();
  return std::move(file).value();
}

void Turn(benchmark::State& state) {
  const auto batch = static_cast<uint32_t>(state.range(0));
  const plan::PlanFile file = MakePlan(batch);
  NoModel model;
  EngineOptions options;
  options.draft_tokens = static_cast<int32_t>(state.range(1));
  Engine engine(file.plan(), model, options, nullptr, {}, {});
  std::mt19937 random(7);
  const auto refill = [&] {
    while (engine.jobs() < batch + 8) {
      Request request;
      for (uint32_t i = 0; i < 300 + random() % 400; ++i) {
        request.prompt_ids.push_back(static_cast<int32_t>(random() % 50000));
      }
      request.max_tokens = 200 + static_cast<int32_t>(random() % 400);
      if (!engine.Submit(std::move(request)).ok()) std::abort();
    }
  };
  for (auto _ : state) {
    state.PauseTiming();
    refill();
    state.ResumeTiming();
    if (!engine.Step().ok()) state.SkipWithError("the engine failed");
  }
  std::vector<float> times = engine.statistics().scheduler_us;
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                   times.end());
  state.counters["median_us"] = times[times.size() / 2];
}
BENCHMARK(Turn)
    ->ArgNames({"batch", "guesses"})
    ->Args({1, 0})
    ->Args({8, 0})
    ->Args({64, 0})
    ->Args({64, 4})
    ->Args({256, 0})
    ->Iterations(20000);

}  // namespace
}  // namespace llmir::executor

BENCHMARK_MAIN();
