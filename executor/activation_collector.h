// What the linear steps of a run read, for `llmir-exec --collect-activations`
// (plan_schema/checkpoint/activation_file.h): sums per column and Gram matrices.
//
// For one rank whose weights read floats. Memory: 4 K^2 bytes for each input of K columns, and
// twice the largest step's input (bytes()). A step's part of a Gram matrix is summed by the f32
// linear kernel over the step's tokens and added to the total in f32.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/isa.h"
#include "kernels/worker_pool.h"
#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/activation_file.h"
#include "plan_schema/plan_generated.h"

namespace llmir::executor {

class ActivationCollector {
 public:
  struct Input;

  // INCOMPATIBLE for plans of several ranks and for weights that read int8 activations.
  static StatusOr<ActivationCollector> Create(const plan::Plan& plan, kernels::Isa isa,
                                              int threads);
  ActivationCollector(ActivationCollector&&) noexcept;
  ActivationCollector& operator=(ActivationCollector&&) noexcept;
  ~ActivationCollector();

  // The record for the input of `step`, a linear or score step; null for any other. Steps of
  // different programs that read the same values share a record.
  Input* Find(const plan::Step& step);

  // Adds `tokens` rows of floats, `stride` floats apart. All threads of `pool` call it, within Run,
  // with the same rows, and meet at the pool's barrier.
  void Add(Input& input, const float* rows, int64_t stride, int64_t tokens, int thread,
           kernels::WorkerPool& pool);
  // Counts ids that are looked up; one thread.
  void AddIds(std::span<const int32_t> ids);

  uint64_t bytes() const;

  // Writes what was added. An input that no token reached is an error.
  Status Write(const std::string& path, checkpoint::ActivationFacts facts) const;

 private:
  struct State;
  explicit ActivationCollector(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace llmir::executor
