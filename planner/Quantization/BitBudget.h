//===- BitBudget.h - Spend bits where they save most loss -------*- C++ -*-===//

#ifndef LLMIR_QUANTIZATION_BITBUDGET_H
#define LLMIR_QUANTIZATION_BITBUDGET_H

#include <cstddef>
#include <cstdint>
#include <vector>

namespace llmir::quantization {

/// One way to store a group of weights.
struct Offer {
  double bits = 0; // of the whole group, scales and minima included
  double loss = 0; // what the model's loss is expected to rise by
  int type = 0;    // the same in every group for one stored type
};

/// For each group the index of one of its offers, so that all bits together are
/// at most `budget` and the losses are least: exactly, where the offers differ
/// by multiples of 1/8192 of what can be spent or more, else to that step.
/// Never of more loss than one type for all groups that has it and fits the
/// budget. Empty if even the cheapest offers cost more.
std::vector<size_t> spendBits(const std::vector<std::vector<Offer>> &groups,
                              double budget);

} // namespace llmir::quantization

#endif // LLMIR_QUANTIZATION_BITBUDGET_H
