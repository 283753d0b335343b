// Programs of small plans with random weights, run by ranks as threads: what steps compute, against
// the same program without them or in double precision.
#include "executor/program.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <thread>

#include "comm/world.h"
#include "kvpool/kv_arena.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_file.h"
#include "plan_schema/plan_verifier.h"
#include "tests/unit/plan_schema/plan_builder.h"

namespace llmir::executor {
namespace {

using plan::PlanT;
using plan::ProgramKind;
using plan::ProgramT;
using plan::StepKind;
using plan::StepT;

// The kernel that the executor has for a step of the builder's plans.
std::string KernelOf(const PlanT& plan, const ProgramT& program, const StepT& step) {
  switch (step.kind) {
    case StepKind::embedding:
    case StepKind::linear:
    case StepKind::score:
      return plan::LinearKernelName(plan.weights[step.weight]->dtype, plan.bf16_activations);
    case StepKind::rms_norm:
      return program.buffers[step.outputs[0]]->dtype == plan::DType::q8_rows ? "rms_norm_q8"
                                                                             : "rms_norm_f32";
    case StepKind::quantize:
      return "quantize_q8";
    case StepKind::dequantize:
      return "dequantize_q8";
    case StepKind::activation:
      return std::string(plan::EnumNameActivation(step.activation)) +
             (step.inputs.size() == 2 ? "_mul_f32" : "_f32");
    case StepKind::add:
    case StepKind::gather_rows:
    case StepKind::sample:
    case StepKind::score_merge:
    case StepKind::rope_append:
    case StepKind::paged_attention:
    case StepKind::layer_norm:
    case StepKind::softcap:
      return std::string(plan::EnumNameStepKind(step.kind)) + "_f32";
    default:
      return "";
  }
}

void NameKernels(PlanT& plan) {
  plan.kernels.clear();
  for (auto& stage : plan.replicas[0]->stages) {
    for (auto& program : stage->programs) {
      for (auto& step : program->steps) {
        const std::string name = KernelOf(plan, *program, *step);
        step->kernel = -1;
        if (name.empty()) continue;
        step->kernel = static_cast<int>(plan.kernels.size());
        plan.kernels.push_back(name);
      }
    }
  }
}

// One rank's part of a step that computes `ids` from an empty cache and samples after the last.
Status RunRank(const plan::Plan& plan, int world_rank, const std::vector<int32_t>& ids,
               std::vector<comm::Channel*> groups, comm::Channel* messages,
               std::vector<float>* logits) {
  RankResources resources{};
  resources.plan = &plan;
  for (const plan::Stage* stage : *plan.replicas()->Get(0)->stages()) {
    for (uint32_t r = 0; r < stage->ranks()->size(); ++r) {
      if (static_cast<int>(stage->ranks()->Get(r)->world_rank()) != world_rank) continue;
      resources.stage = stage;
      resources.stage_rank = static_cast<int>(r);
      resources.rank = stage->ranks()->Get(r);
    }
  }
  resources.isa = kernels::DetectIsa();
  kernels::WorkerPool pool(2, /*oversubscribed=*/true);
  resources.pool = &pool;
  LLMIR_ASSIGN_OR_RETURN(const Weights weights, Weights::Load(plan, *resources.rank, "", "", 7,
                                                              resources.isa, pool, nullptr));
  resources.weights = &weights;
  LLMIR_ASSIGN_OR_RETURN(
      const kvpool::KvArena kv,
      kvpool::KvArena::Create({plan.kv()->blocks(), 1, resources.rank->memory()->kv_block(),
                               plan.kv()->extent_blocks(), resources.rank->kv_offset()}));
  resources.kv_data = kv.data();
  resources.arenas = {kv.front()};
  resources.groups = std::move(groups);
  resources.messages = messages;
  Sampler sampler(plan.model()->vocabulary(), kernels::FindVector(resources.isa));
  resources.sampler = &sampler;

  const plan::Program* mixed = nullptr;
  for (const plan::Program* program : *resources.stage->programs()) {
    if (program->kind() == ProgramKind::mixed) mixed = program;
  }
  LLMIR_ASSIGN_OR_RETURN(const std::unique_ptr<Program> program,
                         Program::Create(*mixed, &resources));
  const auto tokens = static_cast<int32_t>(ids.size());
  const auto blocks = static_cast<int32_t>((ids.size() - 1) / plan.kv()->block_size() + 1);
  StepDescriptor step(CapacityOf(plan));
  step.Resize(ProgramKind::mixed, tokens, 1, 1, blocks);
  std::copy(ids.begin(), ids.end(), step.token_ids().begin());
  std::iota(step.positions().begin(), step.positions().end(), 0);
  std::iota(step.kv_indices().begin(), step.kv_indices().end(), 0);
  step.query_indptr()[0] = step.kv_indptr()[0] = 0;
  step.query_indptr()[1] = step.kv_tokens()[0] = tokens;
  step.kv_indptr()[1] = blocks;
  step.sampled_rows()[0] = tokens - 1;
  step.sampled_positions()[0] = tokens;
  step.sampling()[0] = {};
  // Twice: what a step leaves behind must not disturb the next.
  LLMIR_RETURN_IF_ERROR(program->Run(step, nullptr));
  LLMIR_RETURN_IF_ERROR(program->Run(step, nullptr));
  const auto& stages = *plan.replicas()->Get(0)->stages();
  if (resources.stage == stages.Get(stages.size() - 1) && resources.stage_rank == 0) {
    const auto row = program->logits(0);
    logits->assign(row.begin(), row.end());
  }
  return Status();
}

std::vector<float> LogitsOf(PlanT& built, const std::vector<int32_t>& ids) {
  NameKernels(built);
  const auto file = plan::PlanFile::FromBytes(plan::PlanFile::Serialize(built), "test");
  EXPECT_TRUE(file.ok()) << file.status().ToString();
  if (!file.ok()) return {};
  const plan::Plan& plan = file->plan();
  const Status verified = plan::VerifyPlan(plan);
  EXPECT_TRUE(verified.ok()) << verified.ToString();
  if (!verified.ok()) return {};

  constexpr size_t kMaxBytes = 1 << 20;
  const uint32_t ranks = plan::WorldSize(plan);
  std::vector<std::vector<std::unique_ptr<comm::Channel>>> channels;
  std::vector<std::vector<comm::Channel*>> groups(
      ranks, std::vector<comm::Channel*>(plan.groups()->size(), nullptr));
  for (uint32_t g = 0; g < plan.groups()->size(); ++g) {
    const auto& members = *plan.groups()->Get(g)->ranks();
    channels.push_back(comm::CreateLoopbackChannels(static_cast<int>(members.size()), kMaxBytes));
    for (uint32_t i = 0; i < members.size(); ++i) {
      groups[members.Get(i)][g] = channels.back()[i].get();
    }
  }
  const auto pipeline = comm::CreateLoopbackChannels(static_cast<int>(ranks), kMaxBytes);
  std::vector<Status> statuses(ranks);
  std::vector<float> logits;
  {
    std::vector<std::jthread> threads;
    for (uint32_t r = 0; r < ranks; ++r) {
      threads.emplace_back([&, r] {
        statuses[r] =
            RunRank(plan, static_cast<int>(r), ids, groups[r], pipeline[r].get(), &logits);
      });
    }
  }
  for (const Status& status : statuses) EXPECT_TRUE(status.ok()) << status.ToString();
  return logits;
}

const std::vector<int32_t> kIds = {3, 141, 59, 26, 53, 58, 97, 93, 23, 84};

double RelativeError(const std::vector<float>& got, const std::vector<float>& want) {
  EXPECT_EQ(got.size(), want.size());
  double error = 0, square = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(got[i] - want[i], 2);
    square += std::pow(want[i], 2);
  }
  return std::sqrt(error / square);
}

// A step before the sampling one, over the whole logits on the first rank.
StepT& AddBeforeSample(PlanT& plan, StepKind kind, size_t inputs) {
  plan.required_features |= static_cast<uint64_t>(plan::Feature::other_layers);
  ProgramT& program =
      plan::FindProgram(plan, ProgramKind::mixed, plan.replicas[0]->stages.size() - 1);
  StepT& sample = plan::FindStep(program, StepKind::sample);
  const uint32_t logits = sample.inputs[0];
  auto step = std::make_unique<StepT>(sample);
  step->kind = kind;
  step->name = plan::EnumNameStepKind(kind);
  step->inputs.assign(inputs, logits);
  step->outputs = {logits};
  program.steps.insert(program.steps.end() - 1, std::move(step));
  program.buffers[logits]->last_step = static_cast<uint32_t>(program.steps.size() - 1);
  program.buffers[program.steps.back()->outputs[0]]->first_step =
      program.buffers[program.steps.back()->outputs[0]]->last_step =
          static_cast<uint32_t>(program.steps.size() - 1);
  return **(program.steps.end() - 2);
}

TEST(ProgramTest, RandomWeightsAreTheSameModelForEveryDivision) {
  const auto one = LogitsOf(*plan::BuildPlan({.quantized = false}), kIds);
  double square = 0;
  for (const float x : one) square += x * x;
  EXPECT_NEAR(std::sqrt(square / static_cast<double>(one.size())), 1, 0.5);
  for (const plan::PlanShape& shape :
       {plan::PlanShape{.ranks = {2}, .quantized = false},
        plan::PlanShape{.ranks = {3}, .overlap = true, .quantized = false},
        plan::PlanShape{.ranks = {1, 2}, .quantized = false}}) {
    EXPECT_LT(RelativeError(LogitsOf(*plan::BuildPlan(shape), kIds), one), 1e-5);
  }
}

TEST(ProgramTest, SoftcapAndActivationsAreThoseOfDoublePrecision) {
  const auto base = LogitsOf(*plan::BuildPlan({}), kIds);
  const auto check = [&](PlanT& plan, auto&& expected) {
    const auto got = LogitsOf(plan, kIds);
    ASSERT_EQ(got.size(), base.size());
    for (size_t i = 0; i < got.size(); ++i) {
      const double want = expected(static_cast<double>(base[i]));
      EXPECT_NEAR(got[i], want, 1e-5 * std::abs(want) + 1e-7) << i;
    }
  };
  auto capped = plan::BuildPlan({});
  AddBeforeSample(*capped, StepKind::softcap, 1).softcap = 1.5f;
  check(*capped, [](double x) { return 1.5 * std::tanh(x / 1.5); });
  auto gelu = plan::BuildPlan({});
  AddBeforeSample(*gelu, StepKind::activation, 1).activation = plan::Activation::gelu;
  check(*gelu, [](double x) { return 0.5 * x * std::erfc(-x / M_SQRT2); });
  auto gated = plan::BuildPlan({});
  AddBeforeSample(*gated, StepKind::activation, 2).activation = plan::Activation::relu;
  check(*gated, [](double x) { return std::max(x, 0.0) * x; });
  auto silu = plan::BuildPlan({});
  AddBeforeSample(*silu, StepKind::activation, 1).activation = plan::Activation::silu;
  check(*silu, [](double x) { return x / (1 + std::exp(-x)); });
  auto tanh = plan::BuildPlan({});
  AddBeforeSample(*tanh, StepKind::activation, 1).activation = plan::Activation::gelu_tanh;
  check(*tanh, [](double x) {
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  });
}

// Quantized once more, what a q8 row gives back is the same row: its largest value is 127 times the
// scale.
TEST(ProgramTest, DequantizedRowsQuantizeToThemselves) {
  const auto base = LogitsOf(*plan::BuildPlan({.layers = 1}), kIds);
  auto built = plan::BuildPlan({.layers = 1});
  built->required_features |= static_cast<uint64_t>(plan::Feature::other_layers);
  ProgramT& program = plan::FindProgram(*built, ProgramKind::mixed);
  const StepT quantize = plan::FindStep(program, StepKind::quantize);
  size_t at = 0;
  while (program.steps[at]->kind != StepKind::quantize) ++at;
  auto again = std::make_unique<StepT>(quantize);
  auto back = std::make_unique<StepT>(quantize);
  back->kind = StepKind::dequantize;
  std::swap(back->inputs, back->outputs);
  program.steps.insert(program.steps.begin() + static_cast<std::ptrdiff_t>(at) + 1,
                       std::move(again));
  program.steps.insert(program.steps.begin() + static_cast<std::ptrdiff_t>(at) + 1,
                       std::move(back));
  for (auto& buffer : program.buffers) {  // apart in the arena, so all may live throughout
    buffer->first_step = 0;
    buffer->last_step = static_cast<uint32_t>(program.steps.size() - 1);
  }
  const auto got = LogitsOf(*built, kIds);
  ASSERT_EQ(got.size(), base.size());
  EXPECT_EQ(std::memcmp(got.data(), base.data(), got.size() * sizeof(float)), 0);
}

// Both norms of a row without mean are the same: centring is what sets layer_norm apart, so a model
// with all norms exchanged gives other logits, and the same ones for every division.
TEST(ProgramTest, LayerNormRunsOnEveryDivision) {
  const auto exchanged = [](plan::PlanShape shape) {
    shape.quantized = false;
    auto built = plan::BuildPlan(shape);
    built->required_features |= static_cast<uint64_t>(plan::Feature::other_layers);
    for (auto& stage : built->replicas[0]->stages) {
      for (auto& program : stage->programs) {
        for (auto& step : program->steps) {
          if (step->kind == StepKind::rms_norm) step->kind = StepKind::layer_norm;
        }
      }
    }
    return LogitsOf(*built, kIds);
  };
  const auto one = exchanged({});
  EXPECT_LT(RelativeError(exchanged({.ranks = {2}}), one), 1e-5);
  EXPECT_GT(RelativeError(LogitsOf(*plan::BuildPlan({.quantized = false}), kIds), one), 1e-3);
}

// Every step that can be split is, with its wait right behind it: the same bits.
TEST(ProgramTest, SplitStepsGiveTheSameBits) {
  for (const plan::PlanShape& shape :
       {plan::PlanShape{.ranks = {1, 1}}, plan::PlanShape{.ranks = {2, 2}},
        plan::PlanShape{.ranks = {3, 1, 2}, .layers = 3}}) {
    const auto base = LogitsOf(*plan::BuildPlan(shape), kIds);
    auto built = plan::BuildPlan(shape);
    built->required_features |= static_cast<uint64_t>(plan::Feature::split_collectives);
    int split = 0;
    for (auto& stage : built->replicas[0]->stages) {
      ProgramT& program = *stage->programs[0];
      ASSERT_EQ(program.kind, ProgramKind::mixed);
      for (size_t i = 0; i < program.steps.size(); ++i) {
        StepT& step = *program.steps[i];
        switch (step.kind) {
          case StepKind::send:
            step.kind = StepKind::send_start;
            break;
          case StepKind::recv:
            step.kind = StepKind::recv_start;
            break;
          case StepKind::gather:
            step.kind = StepKind::gather_start;
            break;
          default:
            continue;
        }
        ++split;
        step.signals = static_cast<int>(program.events);
        auto wait = std::make_unique<StepT>(step);
        wait->kind = StepKind::wait;
        wait->inputs.clear();
        wait->outputs.clear();
        wait->signals = wait->group = -1;
        wait->waits = {program.events++};
        program.steps.insert(program.steps.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                             std::move(wait));
      }
      for (auto& buffer : program.buffers) {
        buffer->first_step = 0;
        buffer->last_step = static_cast<uint32_t>(program.steps.size() - 1);
      }
    }
    EXPECT_GE(split, 2);
    const auto got = LogitsOf(*built, kIds);
    ASSERT_EQ(got.size(), base.size());
    EXPECT_EQ(std::memcmp(got.data(), base.data(), got.size() * sizeof(float)), 0);
  }
}

// What the first rank computed, sent to the others over what they computed themselves: the same
// bits, since residuals are equal on all ranks. Both forms, on the first and second half of the
// program.
TEST(ProgramTest, BroadcastResidualsAreThoseOfTheFirstRank) {
  const plan::PlanShape shape{.ranks = {3}};
  const auto base = LogitsOf(*plan::BuildPlan(shape), kIds);
  for (const bool started : {false, true}) {
    auto built = plan::BuildPlan(shape);
    built->required_features |= static_cast<uint64_t>(plan::Feature::split_collectives);
    ProgramT& program = plan::FindProgram(*built, ProgramKind::mixed);
    const StepT add = plan::FindStep(program, StepKind::add);
    // On all ranks but the first the sum is left out, so that a broadcast which did nothing shows.
    StepT& first = plan::FindStep(program, StepKind::add);
    for (size_t r = 1; r < first.ranks.size(); ++r) first.ranks[r]->skip = true;
    size_t at = 0;
    while (program.steps[at].get() != &first) ++at;
    auto step = std::make_unique<StepT>(add);
    step->kind = started ? StepKind::broadcast_start : StepKind::broadcast;
    step->inputs = {add.outputs[0]};
    step->outputs = {};
    step->group = static_cast<int>(built->replicas[0]->stages[0]->group);
    for (auto& rank : step->ranks) rank->skip = false;
    auto wait = std::make_unique<StepT>(*step);
    if (started) {
      step->signals = static_cast<int>(program.events);
      wait->kind = StepKind::wait;
      wait->inputs.clear();
      wait->group = -1;
      wait->waits = {program.events++};
      program.steps.insert(program.steps.begin() + static_cast<std::ptrdiff_t>(at) + 1,
                           std::move(wait));
    }
    program.steps.insert(program.steps.begin() + static_cast<std::ptrdiff_t>(at) + 1,
                         std::move(step));
    for (auto& buffer : program.buffers) {
      buffer->first_step = 0;
      buffer->last_step = static_cast<uint32_t>(program.steps.size() - 1);
    }
    const auto got = LogitsOf(*built, kIds);
    ASSERT_EQ(got.size(), base.size());
    EXPECT_EQ(std::memcmp(got.data(), base.data(), got.size() * sizeof(float)), 0);
  }
}

}  // namespace
}  // namespace llmir::executor
