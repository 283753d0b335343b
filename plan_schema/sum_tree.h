// The tree in which the leaves of a matrix that is cut along its columns are summed
// (kernels/linear.h), as far as ranks share it: a node of L > 1 leaves is the sum of a node of the
// first m and a node of the others, m being the largest power of two below L. A rank that holds a
// range of the leaves makes the nodes that cover the range; who has all ranks' nodes adds them up
// to the root, to the bits that one rank with all leaves gets. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_generated.h"

namespace llmir::plan {

// The fewest nodes of the tree over `total` leaves that cover `range` (within [0, total]), in
// ascending order. Empty for an empty range.
std::vector<Leaves> CoveringNodes(Leaves range, uint32_t total);

// How nodes that cover all of the tree's `total` leaves, in ascending order, become its root: after
// node i has been put on a stack, the uppermost two are replaced by their sum (lower + upper) as
// often as the i-th number says. At the end the root alone is left.
std::vector<uint8_t> SumsAfterNodes(std::span<const Leaves> nodes, uint32_t total);

// Of the ranks of a stage, for the leaves of `unit`.
struct StageTree {
  std::vector<Leaves> nodes;        // of all ranks, in rank order
  std::vector<uint8_t> nodes_of;    // per rank: how many are its own
  std::vector<uint8_t> sums_after;  // per node
};
StageTree TreeOf(const Model& model, const Stage& stage, Unit unit);

// The number of nodes of the rank that has most: as many times the rows' bytes it contributes to a
// sum over the tree.
uint32_t MostNodes(const Model& model, const Stage& stage);

}  // namespace llmir::plan
