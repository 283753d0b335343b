// Draws an id from a row of logits. The noise is a counter-based random number of (seed, position),
// so a draw depends on the request alone: not on the batch it ran in, nor on what was drawn before.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "executor/request.h"
#include "kernels/vector.h"

namespace llmir::executor {

// A uniform number in [0, 1) with 53 bits, a pure function of its arguments (SplitMix64's finalizer
// over both).
double CounterUniform(uint64_t seed, uint64_t position);

class Sampler {
 public:
  // Room for `vocabulary` candidates; Sample allocates nothing.
  Sampler(int64_t vocabulary, const kernels::VectorKernels& kernels);

  // The id drawn from `logits` [vocabulary] for `position`. Order of filters: temperature, top-k,
  // top-p, min-p. Ties in logits are broken by the lower id, everywhere.
  int32_t Sample(std::span<const float> logits, const SamplingOptions& options, int64_t position);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  const kernels::VectorKernels& kernels_;
  std::vector<Candidate> candidates_;
  std::vector<double> weights_;
};

}  // namespace llmir::executor
