// The paged KV cache's bookkeeping: which of a replica's blocks are free, which sequence holds
// which, in order, and which are kept in the prefix tree for sequences to come. A block can be
// shared by several sequences, which then only read it: one that would write into a block it shares
// takes a copy. Rank 0 of a replica alone decides; block ids are valid in the arena of every rank
// (same number of blocks). The bytes themselves live in a KvArena.
//
// Not thread-safe: used by the engine's thread. No allocation after construction, except when a
// page table or a list of copies grows. A sequence id that isn't live is a defect of the caller and
// aborts with a message.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kvpool/prefix_tree.h"
#include "plan_schema/base/status.h"

namespace llmir::kvpool {

using SequenceId = int32_t;  // slot in the pool, reused after Release

// Compressed sparse rows over sequences, as attention kernels read it.
struct PageTable {
  std::vector<int32_t> indptr;   // [sequences + 1], the first 0
  std::vector<int32_t> indices;  // [indptr.back()] block ids, in token order; -1: given back
  std::vector<int32_t>
      last_page_len;  // [sequences] tokens in the last block, 1..block_size; 0 without tokens
};

// The bytes of block `from` are to be copied to block `to` before the next step.
struct BlockCopy {
  int32_t from;
  int32_t to;
};

class BlockPool {
 public:
  // `blocks` blocks of `block_size` tokens; at most `max_sequences` sequences, each of at most
  // `max_blocks_per_sequence` blocks. The last sequence slot starts `run` blocks before the end,
  // the one before it `run` blocks before that, and so on: sequences of at most `run` blocks lie in
  // one piece. Slots for which no run is left, and all where `run` is 0, start at the lowest free
  // block.
  BlockPool(int32_t blocks, int32_t block_size, int32_t max_sequences,
            int32_t max_blocks_per_sequence, int32_t run = 0, PrefixTreeOptions tree = {});

  // A new, empty sequence. RESOURCE_EXHAUSTED when all slots are taken.
  StatusOr<SequenceId> Create();
  // Makes room for `tokens` tokens in all, taking blocks as needed, next to the sequence's last one
  // where free, else from the prefix tree. Where its last block has room left but others share it,
  // the sequence gets another one and `copies` an entry. With a window (tokens that a token attends
  // to, itself included; 0: all) it first gives back the blocks that no new token attends to: they
  // stay in the page table as -1, so that positions don't move. RESOURCE_EXHAUSTED (no block taken)
  // when there are not enough; OUT_OF_RANGE beyond max_blocks_per_sequence; INVALID_ARGUMENT when
  // the sequence has more tokens already.
  Status Grow(SequenceId sequence, int32_t tokens, int32_t window, std::vector<BlockCopy>* copies);
  // Blocks that Grow would take, one that it copies included.
  int32_t Missing(SequenceId sequence, int32_t tokens) const;
  // Forgets the last tokens, with the blocks that held only those; `tokens` remain.
  void Shrink(SequenceId sequence, int32_t tokens);
  // `sequence`, still empty, begins with these blocks, all full, as if it had computed their
  // tokens: a path from Match.
  void Begin(SequenceId sequence, std::span<const int32_t> path);
  // `sequence`, still empty, begins with all that `source` has: neither writes into what both hold.
  void Fork(SequenceId sequence, SequenceId source);
  // The longest prefix of `ids` that is cached for `salt`, as blocks; see PrefixTree::Match.
  void Match(std::span<const int32_t> ids, uint64_t salt, std::vector<int32_t>* path) const {
    tree_.Match(ids, salt, path);
  }
  // The sequence's full blocks, which hold the keys and values of `ids`, its tokens from the first
  // on, can be found by Match from now on, and stay when it is released until their room is needed.
  // Where an equal block is there already, the sequence goes on with that one. Not for what follows
  // a block that was given back.
  void Cache(SequenceId sequence, std::span<const int32_t> ids, uint64_t salt);
  // Gives its blocks back, those that nobody holds and the tree doesn't keep to be free, and ends
  // the sequence.
  void Release(SequenceId sequence);

  int32_t tokens(SequenceId sequence) const;
  std::span<const int32_t> blocks(SequenceId sequence) const;  // -1: given back
  // That Grow can take: free, or kept for nobody in particular.
  int32_t available_blocks() const { return free_blocks() + tree_.idle(); }
  int32_t free_blocks() const { return static_cast<int32_t>(free_count_); }
  // Sequences that hold the block.
  int32_t holders(int32_t block) const { return holders_[static_cast<size_t>(block)]; }
  PrefixTree& tree() { return tree_; }
  const PrefixTree& tree() const { return tree_; }
  uint64_t evicted_blocks() const { return evicted_; }
  int32_t total_blocks() const { return total_; }
  int32_t block_size() const { return block_size_; }
  static int32_t BlocksFor(int32_t tokens, int32_t block_size) {
    return (tokens + block_size - 1) / block_size;
  }

  // The page table of `sequences` in this order, into `table` (its vectors are reused).
  void FillPageTable(std::span<const SequenceId> sequences, PageTable* table) const;

  // Every block is free, in the tree, or held by as many sequences as are counted, by each once.
  // For tests; aborts with a message otherwise.
  void CheckInvariants() const;

 private:
  struct Sequence {
    bool live = false;
    int32_t tokens = 0;
    int32_t given_back = 0;  // leading blocks
    int32_t cached = 0;      // leading blocks that are in the tree
    std::vector<int32_t> blocks;
  };
  const Sequence& Live(SequenceId sequence) const;
  Sequence& Live(SequenceId sequence) {
    return const_cast<Sequence&>(std::as_const(*this).Live(sequence));
  }
  void Hold(int32_t block);
  void Drop(int32_t block);     // by one of its holders
  int32_t Take(int32_t start);  // a free block at or after `start`, or an evicted one
  void Free(int32_t block);
  bool CopiesLast(const Sequence& sequence, int32_t tokens) const;
  // Where a sequence takes its first block of its own, if it is free.
  int32_t Start(SequenceId sequence) const;
  int32_t total_;
  int32_t block_size_;
  int32_t max_blocks_per_sequence_;
  int32_t run_;
  size_t free_count_;
  std::vector<uint64_t> free_bits_;   // bit per block, 1 = free
  std::vector<uint64_t> free_words_;  // bit per word of free_bits_, 1 = not all zero
  std::vector<int32_t> holders_;      // [blocks] sequences that hold it
  std::vector<Sequence> sequences_;
  std::vector<SequenceId> free_sequences_;
  PrefixTree tree_;
  uint64_t evicted_ = 0;
};

}  // namespace llmir::kvpool
