// A program bound to one rank: every step's kernel, buffers, weights and channel resolved at load,
// so that running it is a walk over an array. It allocates nothing, takes no lock and looks nothing
// up.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/channel.h"
#include "executor/activation_collector.h"
#include "executor/sampler.h"
#include "executor/step_descriptor.h"
#include "executor/weights.h"
#include "kernels/attention.h"
#include "kernels/vector.h"
#include "kernels/worker_pool.h"
#include "plan_schema/base/status.h"
#include "plan_schema/plan_generated.h"

namespace llmir::executor {

// What a rank binds its programs to. Outlives them.
struct RankResources {
  const plan::Plan* plan;
  const plan::Stage* stage;
  int stage_rank;  // index in stage->ranks
  const plan::Rank* rank;
  kernels::Isa isa;
  kernels::WorkerPool* pool;
  const Weights* weights;
  std::byte* kv_data;                  // the rank's KV blocks
  std::vector<std::byte*> arenas;      // by the plan's arena index
  std::vector<comm::Channel*> groups;  // by Plan.groups index; null where this rank isn't a member
  comm::Channel* messages;             // all ranks of the job, for send and recv
  Sampler* sampler;                    // on the rank that samples
  ActivationCollector* collector;      // sees what linear steps read; null: nobody asks
};

// Durations of one step over the run: exact count and sum, and a sample of the latest for
// quantiles.
struct StepTimes {
  static constexpr int kKept = 512;
  uint64_t count = 0;
  double total_us = 0;
  float kept_us[kKept];
  void Add(float us) {
    kept_us[count % kKept] = us;
    ++count;
    total_us += us;
  }
};

class Program {
 public:
  struct State;  // defined in program.cc, for the step functions there

  // Resolves all steps of `program`. Errors name step and operand.
  static StatusOr<std::unique_ptr<Program>> Create(const plan::Program& program,
                                                   RankResources* resources);
  ~Program();

  // Runs one step; called by the rank's main thread, which is thread 0 of the pool. It calls
  // `meanwhile`, where there is one, between two operations.
  Status Run(StepDescriptor& descriptor, const std::function<Status()>& meanwhile);

  plan::ProgramKind kind() const;
  uint32_t max_tokens() const;

  // On the rank that samples or merges scores, after Run:
  std::span<const int32_t> sampled_ids() const;              // one per sampled row
  std::span<const float> logits(int32_t sampled_row) const;  // whole vocabulary
  std::span<const float> logprobs() const;                   // one per token of a score step

  // For the report.
  void set_timing(bool on);
  struct StepReport {
    std::string name, kind;
    int32_t layer;
    bool communication;
    double flops_per_token;  // planned
    const StepTimes* times;
    uint64_t message_bytes;  // over the run
  };
  std::vector<StepReport> report() const;
  // By step of the report: when this rank came there, and whom it met. Without timing, or of a step
  // that doesn't communicate, `channel` is null.
  struct Arrivals {
    plan::StepKind kind{};
    int start = -1;  // of a wait: the step that posted what it waits for, in the report
    comm::Channel* channel = nullptr;
    std::span<const int> peers;  // of a message
    int32_t tag = 0;
    const StepTimes* times = nullptr;
    std::span<const double> entered;  // seconds of the steady clock, beside times->kept_us
  };
  std::vector<Arrivals> arrivals() const;
  uint64_t runs() const;
  uint64_t tokens() const;

 private:
  explicit Program(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace llmir::executor
