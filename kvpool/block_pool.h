// The paged KV cache's bookkeeping: which of a replica's blocks are free, and which sequence holds
// which, in order. A block can be shared by several sequences, which then only read it. Rank 0 of a
// replica alone decides; block ids are valid in the arena of every rank (same number of blocks).
// The bytes themselves live in a KvArena.
//
// Not thread-safe: used by the engine's thread. No allocation after construction, except when a
// page table grows. A sequence id that isn't live is a defect of the caller and aborts with a
// message.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

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

class BlockPool {
 public:
  // `blocks` blocks of `block_size` tokens; at most `max_sequences` sequences, each of at most
  // `max_blocks_per_sequence` blocks. The last sequence slot starts `run` blocks before the end,
  // the one before it `run` blocks before that, and so on: sequences of at most `run` blocks lie in
  // one piece. Slots for which no run is left, and all where `run` is 0, start at the lowest free
  // block.
  BlockPool(int32_t blocks, int32_t block_size, int32_t max_sequences,
            int32_t max_blocks_per_sequence, int32_t run = 0);

  // A new, empty sequence. RESOURCE_EXHAUSTED when all slots are taken.
  StatusOr<SequenceId> Create();
  // Makes room for `tokens` tokens in all, taking blocks as needed, next to the sequence's last one
  // where free. With a window (tokens that a token attends to, itself included; 0: all) it first
  // gives back the blocks that no new token attends to: they stay in the page table as -1, so that
  // positions don't move. RESOURCE_EXHAUSTED (no block taken) when there are not enough;
  // OUT_OF_RANGE beyond max_blocks_per_sequence; INVALID_ARGUMENT when the sequence has more tokens
  // already.
  Status Grow(SequenceId sequence, int32_t tokens, int32_t window = 0);
  // `sequence`, still empty, begins with the first `blocks` blocks of `holder`, all full, as if it
  // had computed their tokens: both hold them from now on, and neither's Release frees them for the
  // other. INVALID_ARGUMENT (nothing changed) when it isn't empty, or the holder has fewer or has
  // given some back.
  Status Share(SequenceId sequence, SequenceId holder, int32_t blocks);
  // Gives its blocks back, those that no other sequence holds to be free, and ends the sequence.
  void Release(SequenceId sequence);

  int32_t tokens(SequenceId sequence) const;
  std::span<const int32_t> blocks(SequenceId sequence) const;  // -1: given back
  int32_t free_blocks() const { return static_cast<int32_t>(free_count_); }
  int32_t total_blocks() const { return total_; }
  int32_t block_size() const { return block_size_; }
  static int32_t BlocksFor(int32_t tokens, int32_t block_size) {
    return (tokens + block_size - 1) / block_size;
  }

  // The page table of `sequences` in this order, into `table` (its vectors are reused).
  void FillPageTable(std::span<const SequenceId> sequences, PageTable* table) const;

  // Every block is free or held by as many sequences as are counted, by each once. For tests;
  // aborts with a message otherwise.
  void CheckInvariants() const;

 private:
  struct Sequence {
    bool live = false;
    int32_t tokens = 0;
    int32_t given_back = 0;  // leading blocks
    std::vector<int32_t> blocks;
  };
  const Sequence& Live(SequenceId sequence) const;
  Sequence& Live(SequenceId sequence) {
    return const_cast<Sequence&>(std::as_const(*this).Live(sequence));
  }
  void Drop(int32_t block);  // by one of its holders
  // Where a sequence takes its first block of its own, if it is free.
  int32_t Start(SequenceId sequence) const;
  int32_t total_;
  int32_t block_size_;
  int32_t max_blocks_per_sequence_;
  int32_t run_;
  size_t free_count_;
  std::vector<uint64_t> free_bits_;  // bit per block, 1 = free
  std::vector<int32_t> holders_;     // [blocks] sequences that hold it
  std::vector<Sequence> sequences_;
  std::vector<SequenceId> free_sequences_;
};

}  // namespace llmir::kvpool
