#include "executor/sampler.h"

#include <algorithm>
#include <cmath>

namespace llmir::executor {
namespace {

uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

double CounterUniform(uint64_t seed, uint64_t position) {
  return static_cast<double>(Mix(Mix(seed) ^ position) >> 11) * 0x1.0p-53;
}

Sampler::Sampler(int64_t vocabulary, const kernels::VectorKernels& kernels) : kernels_(kernels) {
  candidates_.reserve(static_cast<size_t>(vocabulary));
  weights_.reserve(static_cast<size_t>(vocabulary));
}

int32_t Sampler::Sample(std::span<const float> logits, const SamplingOptions& options,
                        int64_t position) {
  const int64_t best = kernels_.argmax(logits.data(), static_cast<int64_t>(logits.size()));
  if (options.temperature <= 0 || best < 0) return static_cast<int32_t>(std::max<int64_t>(best, 0));

  // A heap gives the candidates in falling order one by one: top-k and top-p stop long before the
  // vocabulary's end.
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isnan(logits[i])) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
  const auto less = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit < b.logit : a.id > b.id;
  };
  const double inverse = 1.0 / options.temperature;
  const double maximum = logits[best];
  double total = 0;
  const bool keep_all = options.top_k <= 0 && options.top_p >= 1 && options.min_p <= 0;
  if (!keep_all) std::make_heap(candidates_.begin(), candidates_.end(), less);

  // Probabilities for top-p are those after temperature and top-k.
  size_t kept = 0;
  weights_.clear();
  const size_t limit =
      options.top_k > 0 ? std::min<size_t>(options.top_k, candidates_.size()) : candidates_.size();
  if (keep_all) {
    for (const Candidate& c : candidates_) {
      weights_.push_back(std::exp((c.logit - maximum) * inverse));
      total += weights_.back();
    }
    kept = candidates_.size();
  } else {
    double mass = 0;  // of the ids that top-k keeps
    if (options.top_p < 1 && options.top_k <= 0) {
      for (const Candidate& c : candidates_) mass += std::exp((c.logit - maximum) * inverse);
    }
    auto end = candidates_.end();
    for (; kept < limit; ++kept) {
      std::pop_heap(candidates_.begin(), end, less);
      --end;
      const double weight = std::exp((end->logit - maximum) * inverse);
      // Without top-p, min-p can end the search; with it, top-p's mass comes first.
      if (kept > 0 && options.top_p >= 1 && weight < options.min_p) break;
      if (kept > 0 && options.top_k <= 0 && options.top_p < 1 && total >= options.top_p * mass)
        break;
      weights_.push_back(weight);
      total += weight;
    }
    // The heap's pops left the kept ones at the end of the vector, best last.
    std::reverse(candidates_.begin(), candidates_.end());
    if (options.top_p < 1 && options.top_k > 0) {
      const double mass_k = total;
      double sum = 0;
      size_t keep = 0;
      while (keep < kept && (keep == 0 || sum < options.top_p * mass_k)) sum += weights_[keep++];
      kept = keep;
      total = sum;
    }
    while (kept > 1 && weights_[kept - 1] < options.min_p) total -= weights_[--kept];
  }

  double point = CounterUniform(options.seed, static_cast<uint64_t>(position)) * total;
  for (size_t i = 0; i < kept; ++i) {
    point -= weights_[i];
    if (point < 0) return candidates_[i].id;
  }
  return candidates_[kept - 1].id;
}

}  // namespace llmir::executor
