// The simulator on plans of a few ranks with made-up costs, against times that are counted by hand.
#include "plan_schema/simulator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "plan_schema/cost/forecast.h"
#include "plan_schema/plan_file.h"
#include "tests/unit/plan_schema/plan_builder.h"

namespace llmir::plan {
namespace {

using testing::HasSubstr;

// Each matrix costs `linear_us` on its rank, every collective and message `transfer_us`.
class MadeUpCosts : public CostSource {
 public:
  double ComputeUs(const StepPlace& place, const EngineStep&) const override {
    return place.step.kind() == StepKind::linear
               ? linear_us(place.stage.ranks()->Get(place.rank)->world_rank())
               : 0;
  }
  TransferCost Collective(StepKind, const std::vector<uint32_t>& ranks, double,
                          double) const override {
    return ranks.size() > 1 ? transfer : TransferCost{};
  }
  TransferCost Message(uint32_t, uint32_t, double, double) const override { return transfer; }
  double BeforeUs(uint32_t, const Stage&, const EngineStep&) const override { return 0; }
  double AfterUs(const EngineStep&) const override { return 0; }
  int NodeOf(uint32_t world_rank) const override { return static_cast<int>(world_rank) / per_node; }
  double SharedLinkBytesPerS() const override { return 0; }

  std::function<double(uint32_t)> linear_us = [](uint32_t) { return 10.0; };
  TransferCost transfer;
  int per_node = 1;
};

class SimulatorTest : public testing::Test {
 protected:
  const Plan& Build(const PlanShape& shape) {
    file_ = PlanFile::FromBytes(PlanFile::Serialize(*BuildPlan(shape)), "built").value();
    return file_->plan();
  }
  static int Count(const Plan& plan, uint32_t stage, StepKind kind) {
    int count = 0;
    for (const Program* program : *plan.replicas()->Get(0)->stages()->Get(stage)->programs()) {
      if (program->kind() != ProgramKind::decode) continue;
      for (const Step* step : *program->steps()) count += step->kind() == kind;
    }
    return count;
  }
  std::optional<PlanFile> file_;
  MadeUpCosts costs_;
  const EngineStep decode_{ProgramKind::decode, 1, 1, 1, 10};
};

TEST_F(SimulatorTest, OneRankTakesTheSumOfItsSteps) {
  const Plan& plan = Build({});
  const auto simulation = Simulate(plan, {decode_, decode_}, 1, costs_);
  ASSERT_TRUE(simulation.ok()) << simulation.status().ToString();
  const double linear = 10.0 * Count(plan, 0, StepKind::linear);
  EXPECT_GT(linear, 0);
  EXPECT_DOUBLE_EQ(simulation->step_us[0], linear);
  EXPECT_DOUBLE_EQ(simulation->end_us[1], 2 * linear);
  EXPECT_DOUBLE_EQ(simulation->ranks[0].compute_us, 2 * linear);
  EXPECT_DOUBLE_EQ(simulation->ranks[0].wait_us + simulation->ranks[0].bubble_us, 0);
}

TEST_F(SimulatorTest, TheFasterRankOfAStageWaits) {
  const Plan& plan = Build({.ranks = {2}});
  costs_.linear_us = [](uint32_t rank) { return rank == 0 ? 10.0 : 25.0; };
  costs_.transfer = {3, 3};
  const auto simulation = Simulate(plan, {decode_}, 1, costs_);
  ASSERT_TRUE(simulation.ok()) << simulation.status().ToString();
  const int linears = Count(plan, 0, StepKind::linear);
  const int sums = Count(plan, 0, StepKind::all_reduce) + Count(plan, 0, StepKind::gather);
  ASSERT_GT(sums, 0);
  EXPECT_DOUBLE_EQ(simulation->step_us[0], 25.0 * linears + 3.0 * sums);
  EXPECT_DOUBLE_EQ(simulation->ranks[0].wait_us, 15.0 * linears);
  EXPECT_DOUBLE_EQ(simulation->ranks[1].wait_us, 0);
  EXPECT_DOUBLE_EQ(simulation->ranks[1].transfer_us, 3.0 * sums);
  // Two nodes: each sum passes the rows on in both directions, the logits go to the first.
  EXPECT_GT((simulation->link_bytes.at({0, 1})), 0);
  EXPECT_GT((simulation->link_bytes.at({1, 0})), simulation->link_bytes.at({0, 1}));
}

TEST_F(SimulatorTest, WhatAStartedSumNeedsNoProcessorForPassesBesideOtherWork) {
  costs_.transfer = {8, 2};
  const Plan& split = Build({.ranks = {2}, .overlap = true, .halves = true});
  const auto hidden = Simulate(split, {{ProgramKind::mixed, 4, 1, 1, 4}}, 1, costs_);
  ASSERT_TRUE(hidden.ok()) << hidden.status().ToString();
  costs_.transfer = {8, 8};
  const auto shown = Simulate(split, {{ProgramKind::mixed, 4, 1, 1, 4}}, 1, costs_);
  ASSERT_TRUE(shown.ok());
  EXPECT_LT(hidden->step_us[0], shown->step_us[0]);
  costs_.transfer = {};
  const auto free = Simulate(split, {{ProgramKind::mixed, 4, 1, 1, 4}}, 1, costs_);
  ASSERT_TRUE(free.ok());
  EXPECT_GT(hidden->step_us[0], free->step_us[0]);
}

TEST_F(SimulatorTest, StepsInFlightFillThePipeline) {
  const Plan& plan = Build({.ranks = {1, 1}});
  costs_.transfer = {4, 0};
  const double first = 10.0 * Count(plan, 0, StepKind::linear);
  const double second = 10.0 * Count(plan, 1, StepKind::linear);
  const std::vector<EngineStep> runs(6, decode_);
  const auto one = Simulate(plan, runs, 1, costs_);
  ASSERT_TRUE(one.ok()) << one.status().ToString();
  // Rows to the second stage, ids back to the first.
  EXPECT_DOUBLE_EQ(one->step_us[0], first + 4 + second + 4);
  EXPECT_DOUBLE_EQ(one->end_us[5], 6 * (first + second + 8));
  const auto two = Simulate(plan, runs, 2, costs_);
  ASSERT_TRUE(two.ok());
  EXPECT_DOUBLE_EQ(two->end_us[0], first + second + 8);
  EXPECT_LT(two->end_us[5], 0.8 * one->end_us[5]);
  EXPECT_GE(two->end_us[5], 6 * std::max(first, second));
  EXPECT_LT(two->ranks[0].bubble_us, one->ranks[0].bubble_us);
}

TEST_F(SimulatorTest, EveryRankOfAnyLayoutComesToItsEnd) {
  for (const PlanShape& shape :
       {PlanShape{.ranks = {2, 1}}, PlanShape{.ranks = {1, 2}}, PlanShape{.ranks = {2, 2}},
        PlanShape{.ranks = {2}, .overlap = true}, PlanShape{.ranks = {2}, .scatter = true},
        PlanShape{.ranks = {2, 2}, .overlap = true, .scatter = true}}) {
    const Plan& plan = Build(shape);
    costs_.transfer = {1, 0.5};
    const auto simulation =
        Simulate(plan, {{ProgramKind::mixed, 3, 1, 1, 3}, decode_, decode_}, 2, costs_);
    ASSERT_TRUE(simulation.ok()) << simulation.status().ToString();
    for (const SimulatedRank& rank : simulation->ranks) {
      EXPECT_LE(rank.compute_us + rank.transfer_us + rank.wait_us + rank.bubble_us,
                simulation->end_us.back() + 1e-6);
    }
    EXPECT_FALSE(simulation->steps.empty());
  }
}

TEST_F(SimulatorTest, WhatThePlanDoesNotHaveIsRefused) {
  const Plan& plan = Build({});
  EXPECT_THAT(Simulate(plan, {{ProgramKind::decode, 5000, 1, 1, 1}}, 1, costs_).status().message(),
              HasSubstr("a step of 5000 tokens of program decode: expected 1 to"));
}

Cluster Host(int cores) {
  Cluster cluster;
  cluster.name = "host";
  Node& node = cluster.nodes.emplace_back();
  node.name = "host";
  node.cores = cores;
  node.device = {1e9, 1e9, 1e12, 1e12, 0};
  node.link = {1, 0, 1e9};
  return cluster;
}

TEST_F(SimulatorTest, WithoutACalibrationBytesOverBandwidthCount) {
  const Plan& plan = Build({});
  const Cluster cluster = Host(2);
  const CostModel costs(plan, &cluster, nullptr, {});
  const auto forecast = MakeForecast(plan, costs, {1, 4, 4, 8});
  ASSERT_TRUE(forecast.ok()) << forecast.status().ToString();
  double bytes = 0;
  for (const Program* program : *plan.replicas()->Get(0)->stages()->Get(0)->programs()) {
    if (program->kind() != ProgramKind::decode) continue;
    for (const Step* step : *program->steps()) {
      const Cost* cost = step->ranks()->Get(0)->cost();
      if (cost == nullptr) continue;
      bytes += cost->bytes() + cost->bytes_per_token() + cost->bytes_per_context() * 8;
    }
  }
  EXPECT_NEAR(forecast->token_us, bytes / 1e9 * 1e6, 1e-6 * bytes);
  EXPECT_DOUBLE_EQ(forecast->decode_per_s, 1e6 / forecast->token_us);
}

TEST_F(SimulatorTest, MoreRanksThanCoresShareThem) {
  const Plan& plan = Build({.ranks = {2}});
  const Cluster one = Host(1), two = Host(2);
  const CostModel shared(plan, &one, nullptr, {}), own(plan, &two, nullptr, {});
  EXPECT_TRUE(shared.Oversubscribed());
  EXPECT_FALSE(own.Oversubscribed());
  const auto slow = MakeForecast(plan, shared, {1, 4, 4, 8});
  const auto fast = MakeForecast(plan, own, {1, 4, 4, 8});
  ASSERT_TRUE(slow.ok() && fast.ok());
  EXPECT_GT(slow->token_us, fast->token_us);
}

TEST_F(SimulatorTest, TooLittleMemoryIsSaidWithTheNode) {
  const Plan& plan = Build({});
  Cluster cluster = Host(2);
  EXPECT_TRUE(CostModel(plan, &cluster, nullptr, {}).CheckMemory().ok());
  cluster.nodes[0].device.memory_bytes = 1000;
  EXPECT_THAT(CostModel(plan, &cluster, nullptr, {}).CheckMemory().message(),
              HasSubstr("host has 0.0 GB of memory"));
}

TEST_F(SimulatorTest, ALoadBeyondThePlansLimitsIsRefused) {
  const Plan& plan = Build({});
  const Cluster cluster = Host(2);
  const CostModel costs(plan, &cluster, nullptr, {});
  EXPECT_THAT(MakeForecast(plan, costs, {1000, 4, 4, 8}).status().message(),
              HasSubstr("a batch of 1000"));
  EXPECT_THAT(MakeForecast(plan, costs, {1, 100000, 4, 8}).status().message(),
              HasSubstr("a prompt of 100000"));
}

}  // namespace
}  // namespace llmir::plan
