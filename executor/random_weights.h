// Weights for plans that are made from a shape: numbers that follow from (seed, tensor, row,
// column) alone, so that every division among ranks and every thread gives the same model.
#pragma once

#include <cstdint>

#include "plan_schema/plan_facts.h"

namespace llmir::executor {

// Columns [columns.begin, columns.end) of row `row` of the whole tensor. A matrix's values are
// uniform with variance 1 / its columns, so that rows of variance 1 give rows of variance 1; a
// vector's (a norm's) lie within 1 +- 0.1. Any thread.
void RandomRow(uint64_t seed, const plan::Tensor& tensor, uint64_t row, plan::Extent columns,
               float* out);

}  // namespace llmir::executor
