//===- BitBudget.cpp - Spend bits where they save most loss ---------------===//

#include "planner/Quantization/BitBudget.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

using namespace llmir::quantization;

std::vector<size_t>
llmir::quantization::spendBits(const std::vector<std::vector<Offer>> &groups,
                               double budget) {
  // A knapsack of which each group takes one item. What an offer costs beyond
  // the group's cheapest is counted in steps: their greatest common divisor, or
  // where that makes too many a larger one, rounded up so that the budget
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
  int64_t divisor = 0;
  for (size_t g = 0; g < groups.size(); ++g)
    for (const Offer &offer : groups[g])
      divisor = std::gcd(divisor, std::llround(offer.bits - least[g]));
  double step = std::max(
      {room / kSteps, 1.0, std::min(room, static_cast<double>(divisor))});
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
  // Rounding to steps can keep a single type out that fits the budget.
  double best = loss[steps];
  std::set<int> types;
  for (const Offer &offer : groups.empty() ? std::vector<Offer>() : groups[0])
    types.insert(offer.type);
  for (int type : types) {
    std::vector<size_t> uniform;
    double bits = 0, sum = 0;
    for (const std::vector<Offer> &offers : groups) {
      auto found = std::ranges::find(offers, type, &Offer::type);
      if (found == offers.end())
        break;
      uniform.push_back(found - offers.begin());
      bits += found->bits;
      sum += found->loss;
    }
    if (uniform.size() == groups.size() && bits <= budget && sum < best) {
      best = sum;
      result = std::move(uniform);
    }
  }
  return result;
}
