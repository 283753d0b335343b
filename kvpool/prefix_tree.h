// A radix tree over token ids: which cached block holds the keys and values of which tokens after
// which others. A node is one full block; the path from a root to it spells all tokens before it.
// So a prefix that was computed once is found again, block by block, by every sequence that begins
// with it.
//
// A child is looked up by its chained key, a hash of its parent's key, its salt and its tokens; it
// is a hit only where parent, salt and tokens themselves are equal. Each tenant has a salt of its
// own and sees its own nodes, and those of kSharedSalt, which all may share; a shared node may have
// anyone's children, a tenant's only that tenant's.
//
// Nodes are numbered by the block that they are: every array is made once, and no operation
// allocates. A node is held while a sequence has its block (the pool counts them and says so), else
// idle; an idle one is loose when none below it is held, and stranded otherwise, which happens
// where a sequence gives back what its window has passed. Loose leaves are evicted, the least
// recently used first; one that takes longer to compute again stays longer. Only when there are
// none a stranded node goes, and what hangs from it isn't found any more.
//
// Not thread-safe: the pool's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace llmir::kvpool {

inline constexpr uint64_t kSharedSalt = 0;  // of what every tenant may share

struct PrefixTreeOptions {
  // Seconds since any moment. Empty: the steady clock.
  std::function<double()> now;
  // Seconds that an unused block stays longer per second that it takes to compute it again.
  double patience = 100;
};

class PrefixTree {
 public:
  // Room for `blocks` blocks of `block_size` tokens.
  PrefixTree(int32_t blocks, int32_t block_size, PrefixTreeOptions options);

  // What it takes to compute a block again: `seconds` for one without context, and `growth` of that
  // more for each block before it. Counts for nodes that become leaves, or unused, from now on.
  void SetRecomputeCost(double seconds, double growth);

  // Appends to `path` the blocks of the longest cached prefix of `ids`, in order; whole blocks
  // only.
  void Match(std::span<const int32_t> ids, uint64_t salt, std::vector<int32_t>* path) const;

  // `block`, held, becomes the child of `parent` (-1: of the root) with these [block_size] tokens.
  // Returns the node that stands for them: `block`, or the one that was there already, and then
  // `block` stays outside.
  int32_t Insert(int32_t parent, uint64_t salt, std::span<const int32_t> tokens, int32_t block);

  // A node's block is held by a sequence again, or by none any more.
  void SetHeld(int32_t block);
  void SetIdle(int32_t block);

  // Removes the idle node that is worth least, of the loose leaves where there are any, and returns
  // its block; -1: all are held.
  int32_t Evict();

  // Appends to `leaves` some of those that Evict would take first, at most `most`.
  void Coldest(size_t most, std::vector<int32_t>* leaves) const;
  // Appends to `path` the blocks from the root to `block`; false where one of them was evicted.
  bool PathTo(int32_t block, std::vector<int32_t>* path) const;
  uint64_t salt(int32_t block) const { return At(block).salt; }

  bool contains(int32_t block) const { return nodes_[static_cast<size_t>(block)].present; }
  int32_t size() const { return size_; }  // nodes
  int32_t idle() const { return idle_; }  // of them those that Evict can take
  std::span<const int32_t> tokens(int32_t block) const {
    return {tokens_.get() + static_cast<size_t>(block) * static_cast<size_t>(block_size_),
            static_cast<size_t>(block_size_)};
  }

  // Links, counts, keys, order of eviction. For tests; aborts with a message.
  void CheckInvariants() const;

 private:
  struct Node {
    uint64_t key = 0;
    uint64_t salt = 0;
    double last_use = 0;
    double worth = 0;  // the order of eviction, while in the heap
    int32_t parent = -1;
    uint32_t generation = 0;  // of the block: another one for each node that it becomes
    uint32_t parent_generation = 0;
    int32_t next = -1;  // in its bucket
    int32_t depth = 0;  // blocks before it
    int32_t children = 0;
    int32_t tight = 0;     // children that aren't loose
    int32_t heap_at = -1;  // place in the heap; -1: not in it
    int32_t before = -1;   // neighbours in the list of stranded nodes
    int32_t after = -1;
    bool present = false;
    bool held = false;
    bool loose() const { return !held && tight == 0; }
    bool stranded() const { return !held && tight > 0; }
  };

  Node& At(int32_t block) { return nodes_[static_cast<size_t>(block)]; }
  const Node& At(int32_t block) const { return nodes_[static_cast<size_t>(block)]; }
  // The node that it hangs from; null for a root's child, and where that one was evicted.
  Node* Above(const Node& node) {
    return node.parent >= 0 && At(node.parent).generation == node.parent_generation
               ? &At(node.parent)
               : nullptr;
  }
  uint64_t KeyOf(int32_t parent, uint64_t salt, const int32_t* tokens) const;
  int32_t Find(int32_t parent, uint64_t salt, const int32_t* tokens, uint64_t key) const;
  size_t Bucket(uint64_t key) const { return static_cast<size_t>(key) & (buckets_.size() - 1); }
  void BecomeLoose(int32_t block);
  void BecomeTight(int32_t block);
  void Unlink(int32_t block);  // from its bucket, its parent and the tree
  void Strand(int32_t block);  // into the list of stranded nodes
  void Unstrand(int32_t block);
  void Push(int32_t block);
  void Remove(int32_t block);  // from the heap
  void Place(size_t at, int32_t block);
  void SiftUp(size_t at);
  void SiftDown(size_t at);
  bool Before(int32_t a, int32_t b) const;

  int32_t block_size_;
  std::function<double()> now_;
  double patience_;
  double seconds_ = 0;
  double growth_ = 0;
  int32_t size_ = 0;
  int32_t idle_ = 0;
  int32_t first_stranded_ = -1;  // the one that was stranded first
  int32_t last_stranded_ = -1;
  std::vector<Node> nodes_;            // by block
  std::unique_ptr<int32_t[]> tokens_;  // [blocks][block_size], untouched until used
  std::vector<int32_t> buckets_;       // first node by low bits of the key; -1: none
  std::vector<int32_t> heap_;          // loose leaves, the one worth least first
};

}  // namespace llmir::kvpool
