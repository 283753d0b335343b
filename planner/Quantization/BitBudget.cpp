//===- BitBudget.cpp - Spend bits where they save most loss ---------------===//

#include "planner/Quantization/BitBudget.h"

#include <algorithm>
#include <cmath>
#include <limits>

using namespace llmir::quantization;

std::vector<size_t>
llmir::quantization::spendBits(const std::vector<std::vector<Offer>> &groups,
                               double budget) {
  // A knapsack of which each group takes one item. What an offer costs beyond
  // the group's cheapest is counted in steps, rounded up, so that the budget
  // holds.
  constexpr int64_t kSteps = 8192;
  double cheapest = 0;
  std::vector<double> least;
  for (const std::vector<Offer> &offers : groups) {
    double bits = std::numeric_limits<double>::infinity();
    for (const Offer &offer : offers)
      bits = std::min(bits, offer.bits);
    least.push_back(bits);
    cheapest += bits;
  }
  double room = budget - cheapest;
  if (!(room >= 0))
    return {};
  double step = std::max(room / kSteps, 1.0);
  int64_t steps = static_cast<int64_t>(room / step);

  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::vector<double> loss(steps + 1, 0.0), next(steps + 1);
  std::vector<std::vector<uint8_t>> chosen(groups.size());
  for (size_t g = 0; g < groups.size(); ++g) {
    std::fill(next.begin(), next.end(), kNever);
    chosen[g].resize(steps + 1);
    for (size_t i = 0; i < groups[g].size(); ++i) {
      const Offer &offer = groups[g][i];
      double extra = std::ceil((offer.bits - least[g]) / step);
      if (extra > static_cast<double>(steps))
        continue;
      for (int64_t s = static_cast<int64_t>(extra); s <= steps; ++s) {
        double sum = loss[s - static_cast<int64_t>(extra)] + offer.loss;
        if (sum < next[s]) {
          next[s] = sum;
          chosen[g][s] = static_cast<uint8_t>(i);
        }
      }
    }
    loss.swap(next);
  }
  // loss[s] is the least with at most s steps: walk back from all of them.
  std::vector<size_t> result(groups.size());
  int64_t s = steps;
  for (size_t g = groups.size(); g-- > 0;) {
    result[g] = chosen[g][s];
    s -= static_cast<int64_t>(
        std::ceil((groups[g][result[g]].bits - least[g]) / step));
  }
  return result;
}
