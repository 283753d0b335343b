#include "kvpool/prefix_tree.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>

#include "kvpool/check.h"
#include "plan_schema/base/hash.h"

namespace llmir::kvpool {
namespace {

constexpr uint64_t kRootKey = 0x9e3779b97f4a7c15ULL;

template <typename... Args>
void Check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  CheckIn("PrefixTree", condition, format, std::forward<Args>(args)...);
}

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

PrefixTree::PrefixTree(int32_t blocks, int32_t block_size, PrefixTreeOptions options)
    : block_size_(block_size),
      now_(options.now ? std::move(options.now) : SteadySeconds),
      patience_(options.patience) {
  const auto count = static_cast<size_t>(std::max(blocks, 0));
  nodes_.resize(count);
  tokens_ = std::make_unique_for_overwrite<int32_t[]>(count * static_cast<size_t>(block_size));
  buckets_.assign(std::bit_ceil(std::max<size_t>(count, 1)), -1);
  heap_.reserve(count);
}

void PrefixTree::SetRecomputeCost(double seconds, double growth) {
  seconds_ = seconds;
  growth_ = growth;
}

uint64_t PrefixTree::KeyOf(int32_t parent, uint64_t salt, const int32_t* tokens) const {
  const uint64_t before = parent < 0 ? kRootKey : At(parent).key;
  return Hash64(std::as_bytes(std::span(tokens, static_cast<size_t>(block_size_))),
                before ^ (salt * 0xd6e8feb86659fd93ULL));
}

int32_t PrefixTree::Find(int32_t parent, uint64_t salt, const int32_t* tokens, uint64_t key) const {
  for (int32_t block = buckets_[Bucket(key)]; block >= 0; block = At(block).next) {
    const Node& node = At(block);
    if (node.key == key && node.parent == parent && node.salt == salt &&
        (parent < 0 || node.parent_generation == At(parent).generation) &&
        std::ranges::equal(this->tokens(block),
                           std::span(tokens, static_cast<size_t>(block_size_)))) {
      return block;
    }
  }
  return -1;
}

void PrefixTree::Match(std::span<const int32_t> ids, uint64_t salt,
                       std::vector<int32_t>* path) const {
  int32_t node = -1;
  const auto step = static_cast<size_t>(block_size_);
  for (size_t at = 0; at + step <= ids.size(); at += step) {
    const int32_t* tokens = ids.data() + at;
    int32_t child = Find(node, salt, tokens, KeyOf(node, salt, tokens));
    if (child < 0 && salt != kSharedSalt && (node < 0 || At(node).salt == kSharedSalt)) {
      child = Find(node, kSharedSalt, tokens, KeyOf(node, kSharedSalt, tokens));
    }
    if (child < 0) return;
    path->push_back(child);
    node = child;
  }
}

int32_t PrefixTree::Insert(int32_t parent, uint64_t salt, std::span<const int32_t> tokens,
                           int32_t block) {
  Check(parent < 0 || At(parent).present, "block {}: its parent {} isn't in the tree", block,
        parent);
  Check(parent < 0 || At(parent).salt == salt || At(parent).salt == kSharedSalt,
        "block {}: its parent {} is another tenant's", block, parent);
  Check(!At(block).present, "block {} is in the tree already", block);
  const uint64_t key = KeyOf(parent, salt, tokens.data());
  int32_t known = Find(parent, salt, tokens.data(), key);
  if (known < 0 && salt != kSharedSalt && (parent < 0 || At(parent).salt == kSharedSalt)) {
    known = Find(parent, kSharedSalt, tokens.data(), KeyOf(parent, kSharedSalt, tokens.data()));
  }
  if (known >= 0) return known;
  std::ranges::copy(tokens, tokens_.get() + static_cast<size_t>(block) * tokens.size());
  Node& node = At(block);
  const uint32_t generation = node.generation;
  node = Node();
  node.generation = generation;
  node.key = key;
  node.salt = salt;
  node.last_use = now_();
  node.parent = parent;
  node.present = true;
  node.held = true;
  node.next = std::exchange(buckets_[Bucket(key)], block);
  ++size_;
  if (parent >= 0) {
    Node& above = At(parent);
    node.parent_generation = above.generation;
    node.depth = above.depth + 1;
    const bool was_loose = above.loose();
    ++above.children;
    ++above.tight;
    if (was_loose) BecomeTight(parent);
  }
  return block;
}

void PrefixTree::SetHeld(int32_t block) {
  Node& node = At(block);
  Check(node.present && !node.held, "block {} isn't in the tree, or held already", block);
  node.last_use = now_();
  const bool was_loose = node.loose();
  if (!was_loose) Unstrand(block);
  node.held = true;
  --idle_;
  if (was_loose) BecomeTight(block);
}

void PrefixTree::SetIdle(int32_t block) {
  Node& node = At(block);
  Check(node.present && node.held, "block {} isn't in the tree, or not held", block);
  node.last_use = now_();
  node.held = false;
  ++idle_;
  if (node.tight == 0) {
    BecomeLoose(block);
  } else {
    Strand(block);
  }
}

// Each of the two walks up while the change reaches further: sequences take and leave paths whole,
// so that it almost never does.
void PrefixTree::BecomeLoose(int32_t block) {
  for (;;) {
    Node& node = At(block);
    if (node.children == 0) Push(block);
    Node* above = Above(node);
    if (above == nullptr) return;
    const bool was_stranded = above->stranded();
    --above->tight;
    if (!above->loose()) return;
    if (was_stranded) Unstrand(node.parent);
    block = node.parent;
  }
}

void PrefixTree::BecomeTight(int32_t block) {
  for (;;) {
    Node& node = At(block);
    if (node.heap_at >= 0) Remove(block);
    if (!node.held) Strand(block);
    Node* above = Above(node);
    if (above == nullptr) return;
    const bool was_loose = above->loose();
    ++above->tight;
    if (!was_loose) return;
    block = node.parent;
  }
}

void PrefixTree::Strand(int32_t block) {
  Node& node = At(block);
  node.before = last_stranded_;
  node.after = -1;
  (last_stranded_ >= 0 ? At(last_stranded_).after : first_stranded_) = block;
  last_stranded_ = block;
}

void PrefixTree::Unstrand(int32_t block) {
  const Node& node = At(block);
  (node.before >= 0 ? At(node.before).after : first_stranded_) = node.after;
  (node.after >= 0 ? At(node.after).before : last_stranded_) = node.before;
}

int32_t PrefixTree::Evict() {
  int32_t block = -1;
  if (!heap_.empty()) {
    block = heap_.front();
    Remove(block);
    Unlink(block);
  } else if (first_stranded_ >= 0) {
    block = first_stranded_;
    Unstrand(block);
    // To those above it, what lies below doesn't count any more.
    if (Node* above = Above(At(block)); above != nullptr) {
      const bool was_stranded = above->stranded();
      --above->tight;
      if (above->loose()) {
        if (was_stranded) Unstrand(At(block).parent);
        BecomeLoose(At(block).parent);
      }
    }
    Unlink(block);
  }
  return block;
}

void PrefixTree::Coldest(size_t most, std::vector<int32_t>* leaves) const {
  // The heap's first levels: the least of all comes first, the others are near it.
  const size_t count = std::min(most, heap_.size());
  leaves->insert(leaves->end(), heap_.begin(), heap_.begin() + static_cast<std::ptrdiff_t>(count));
}

bool PrefixTree::PathTo(int32_t block, std::vector<int32_t>* path) const {
  const size_t first = path->size();
  for (int32_t at = block;;) {
    path->push_back(at);
    const Node& node = At(at);
    if (node.parent < 0) break;
    if (At(node.parent).generation != node.parent_generation) return false;
    at = node.parent;
  }
  std::reverse(path->begin() + static_cast<std::ptrdiff_t>(first), path->end());
  return true;
}

void PrefixTree::Unlink(int32_t block) {
  Node& node = At(block);
  int32_t* link = &buckets_[Bucket(node.key)];
  while (*link != block) link = &At(*link).next;
  *link = node.next;
  if (Node* above = Above(node); above != nullptr) {
    --above->children;
    if (above->children == 0 && above->loose()) Push(node.parent);
  }
  node.present = false;
  ++node.generation;
  --size_;
  --idle_;
}

bool PrefixTree::Before(int32_t a, int32_t b) const {
  const Node& x = At(a);
  const Node& y = At(b);
  // Of equals the deeper one: what more prefixes go through stays.
  if (x.worth != y.worth) return x.worth < y.worth;
  if (x.depth != y.depth) return x.depth > y.depth;
  return a < b;
}

void PrefixTree::Push(int32_t block) {
  Node& node = At(block);
  node.worth = node.last_use + patience_ * seconds_ * (1 + growth_ * node.depth);
  heap_.push_back(block);
  SiftUp(heap_.size() - 1);
}

void PrefixTree::Remove(int32_t block) {
  const auto at = static_cast<size_t>(std::exchange(At(block).heap_at, -1));
  const int32_t last = heap_.back();
  heap_.pop_back();
  if (last == block) return;
  Place(at, last);
  SiftUp(at);
  SiftDown(static_cast<size_t>(At(last).heap_at));
}

void PrefixTree::Place(size_t at, int32_t block) {
  heap_[at] = block;
  At(block).heap_at = static_cast<int32_t>(at);
}

void PrefixTree::SiftUp(size_t at) {
  const int32_t block = heap_[at];
  for (; at > 0; at = (at - 1) / 2) {
    const int32_t above = heap_[(at - 1) / 2];
    if (!Before(block, above)) break;
    Place(at, above);
  }
  Place(at, block);
}

void PrefixTree::SiftDown(size_t at) {
  const int32_t block = heap_[at];
  for (;;) {
    size_t child = 2 * at + 1;
    if (child >= heap_.size()) break;
    if (child + 1 < heap_.size() && Before(heap_[child + 1], heap_[child])) ++child;
    if (!Before(heap_[child], block)) break;
    Place(at, heap_[child]);
    at = child;
  }
  Place(at, block);
}

void PrefixTree::CheckInvariants() const {
  std::vector<int32_t> children(nodes_.size(), 0);
  std::vector<int32_t> tight(nodes_.size(), 0);
  int32_t size = 0;
  int32_t idle = 0;
  size_t in_heap = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    const auto block = static_cast<int32_t>(i);
    Check(node.present || node.heap_at < 0, "evicted block {} is in the heap", block);
    if (!node.present) continue;
    ++size;
    idle += !node.held;
    if (node.parent >= 0) {
      const Node& above = At(node.parent);
      if (above.generation != node.parent_generation) continue;  // can't be found any more
      Check(above.present, "block {}: its parent {} was evicted", block, node.parent);
      Check(node.depth == above.depth + 1, "block {} is at depth {}, its parent at {}", block,
            node.depth, above.depth);
      Check(above.salt == kSharedSalt || above.salt == node.salt,
            "block {} hangs from another tenant's", block);
      ++children[static_cast<size_t>(node.parent)];
      tight[static_cast<size_t>(node.parent)] += !node.loose();
    }
    Check(node.key == KeyOf(node.parent, node.salt, tokens(block).data()),
          "block {}: its key isn't that of its tokens", block);
    Check(Find(node.parent, node.salt, tokens(block).data(), node.key) == block,
          "block {} isn't found under its key, or is there twice", block);
  }
  int32_t stranded = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    if (!node.present) continue;
    Check(node.children == children[i] && node.tight == tight[i],
          "block {} has {} children, {} of them tight; counted are {} and {}", i, children[i],
          tight[i], node.children, node.tight);
    const bool evictable = node.loose() && node.children == 0;
    in_heap += evictable;
    stranded += node.stranded();
    Check(evictable == (node.heap_at >= 0), "block {} is {} loose leaf, but {} the heap", i,
          evictable ? "a" : "no", node.heap_at >= 0 ? "in" : "not in");
    if (node.heap_at > 0) {
      const int32_t above = heap_[static_cast<size_t>(node.heap_at - 1) / 2];
      Check(!Before(static_cast<int32_t>(i), above), "block {} lies below {} in the heap", i,
            above);
    }
  }
  for (int32_t block = first_stranded_; block >= 0; block = At(block).after) {
    Check(At(block).present && At(block).stranded() && --stranded >= 0,
          "block {} is listed as stranded, but it isn't, or is listed twice", block);
  }
  Check(stranded == 0, "{} stranded blocks aren't listed", stranded);
  Check(size == size_ && idle == idle_ && in_heap == heap_.size(),
        "{} nodes, {} idle, {} in the heap; counted are {}, {}, {}", size, idle, in_heap, size_,
        idle_, heap_.size());
}

}  // namespace llmir::kvpool
