#include "plan_schema/sum_tree.h"

#include <algorithm>
#include <bit>

namespace llmir::plan {
namespace {

// Where a node of more than one leaf is divided.
uint32_t BorderOf(Leaves node) { return node.begin + std::bit_floor(node.count() - 1); }

void Cover(Leaves node, Leaves range, std::vector<Leaves>* nodes) {
  if (node.end <= range.begin || range.end <= node.begin || node.count() == 0) return;
  if (range.begin <= node.begin && node.end <= range.end) {
    nodes->push_back(node);
    return;
  }
  const uint32_t border = BorderOf(node);
  Cover({node.begin, border}, range, nodes);
  Cover({border, node.end}, range, nodes);
}

// Takes the nodes that make up `node` from the front of `rest`.
void Climb(Leaves node, std::span<const Leaves>* rest, std::vector<uint8_t>* sums) {
  if (rest->front().count() == node.count()) {
    *rest = rest->subspan(1);
    sums->push_back(0);
    return;
  }
  const uint32_t border = BorderOf(node);
  Climb({node.begin, border}, rest, sums);
  Climb({border, node.end}, rest, sums);
  ++sums->back();
}

}  // namespace

std::vector<Leaves> CoveringNodes(Leaves range, uint32_t total) {
  std::vector<Leaves> nodes;
  Cover({0, total}, range, &nodes);
  return nodes;
}

std::vector<uint8_t> SumsAfterNodes(std::span<const Leaves> nodes, uint32_t total) {
  std::vector<uint8_t> sums;
  if (!nodes.empty()) Climb({0, total}, &nodes, &sums);
  return sums;
}

StageTree TreeOf(const Model& model, const Stage& stage, Unit unit) {
  const uint32_t total = LeafCount(model, unit);
  StageTree tree;
  for (const Rank* rank : *stage.ranks()) {
    const std::vector<Leaves> own = CoveringNodes(RankLeaves(*rank, unit), total);
    tree.nodes_of.push_back(static_cast<uint8_t>(own.size()));
    tree.nodes.insert(tree.nodes.end(), own.begin(), own.end());
  }
  tree.sums_after = SumsAfterNodes(tree.nodes, total);
  return tree;
}

uint32_t MostNodes(const Model& model, const Stage& stage) {
  uint32_t most = 1;
  for (const Unit unit : {Unit::query_head, Unit::mlp_column}) {
    for (const Rank* rank : *stage.ranks()) {
      const auto nodes = CoveringNodes(RankLeaves(*rank, unit), LeafCount(model, unit));
      most = std::max(most, static_cast<uint32_t>(nodes.size()));
    }
  }
  return most;
}

}  // namespace llmir::plan
