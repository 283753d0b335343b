#include "kvpool/block_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>

namespace llmir::kvpool {
namespace {

constexpr int32_t kBitsPerWord = 64;

template <typename... Args>
void Check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (condition) return;
  fmt::print(stderr, "BlockPool: {}\n", fmt::format(format, std::forward<Args>(args)...));
  std::abort();
}

// The first set bit of `bits` at or after `start`, searching round; there must be one.
int32_t FirstSetFrom(std::span<const uint64_t> bits, int32_t start) {
  size_t word = static_cast<size_t>(start / kBitsPerWord);
  uint64_t candidates = bits[word] & (~uint64_t{0} << (start % kBitsPerWord));
  while (candidates == 0) {
    word = word + 1 == bits.size() ? 0 : word + 1;
    candidates = bits[word];
  }
  return static_cast<int32_t>(word) * kBitsPerWord + std::countr_zero(candidates);
}

}  // namespace

BlockPool::BlockPool(int32_t blocks, int32_t block_size, int32_t max_sequences,
                     int32_t max_blocks_per_sequence, int32_t run)
    : total_(blocks),
      block_size_(block_size),
      max_blocks_per_sequence_(max_blocks_per_sequence),
      run_(run),
      free_count_(static_cast<size_t>(std::max(blocks, 0))) {
  Check(blocks >= 0 && block_size > 0 && max_sequences >= 0 && max_blocks_per_sequence >= 0 &&
            run >= 0,
        "{} blocks of {} tokens, {} sequences of at most {} blocks: a size is out of range", blocks,
        block_size, max_sequences, max_blocks_per_sequence);
  free_bits_.assign((static_cast<size_t>(blocks) + kBitsPerWord - 1) / kBitsPerWord, ~uint64_t{0});
  if (blocks % kBitsPerWord != 0) {
    free_bits_.back() = (uint64_t{1} << (blocks % kBitsPerWord)) - 1;
  }
  holders_.assign(static_cast<size_t>(blocks), 0);
  sequences_.resize(static_cast<size_t>(max_sequences));
  free_sequences_.reserve(sequences_.size());
  for (SequenceId id = max_sequences - 1; id >= 0; --id) {
    sequences_[static_cast<size_t>(id)].blocks.reserve(
        static_cast<size_t>(std::min(max_blocks_per_sequence, blocks)));
    free_sequences_.push_back(id);
  }
}

StatusOr<SequenceId> BlockPool::Create() {
  if (free_sequences_.empty()) {
    return ResourceExhausted("all {} sequence slots are taken; release a sequence first",
                             sequences_.size());
  }
  const SequenceId id = free_sequences_.back();
  free_sequences_.pop_back();
  sequences_[static_cast<size_t>(id)].live = true;
  return id;
}

const BlockPool::Sequence& BlockPool::Live(SequenceId sequence) const {
  Check(sequence >= 0 && static_cast<size_t>(sequence) < sequences_.size() &&
            sequences_[static_cast<size_t>(sequence)].live,
        "sequence {} is not live", sequence);
  return sequences_[static_cast<size_t>(sequence)];
}

int32_t BlockPool::Start(SequenceId sequence) const {
  if (run_ == 0) return 0;
  const int64_t later = static_cast<int64_t>(sequences_.size()) - sequence;
  return static_cast<int32_t>(std::max<int64_t>(0, total_ - later * run_));
}

Status BlockPool::Grow(SequenceId sequence, int32_t tokens, int32_t window) {
  Sequence& grown = Live(sequence);
  if (tokens < grown.tokens) {
    return InvalidArgument("sequence {} has {} tokens and cannot shrink to {}", sequence,
                           grown.tokens, tokens);
  }
  const int64_t needed = (int64_t{tokens} + block_size_ - 1) / block_size_;
  if (needed > max_blocks_per_sequence_) {
    return OutOfRange("sequence {}: {} tokens need {} blocks of {} tokens, at most {} are allowed",
                      sequence, tokens, needed, block_size_, max_blocks_per_sequence_);
  }
  if (window > 0 && grown.tokens + 1 > window) {
    const int32_t unread = (grown.tokens + 1 - window) / block_size_;
    for (; grown.given_back < unread; ++grown.given_back) {
      Drop(std::exchange(grown.blocks[static_cast<size_t>(grown.given_back)], -1));
    }
  }
  const size_t missing = static_cast<size_t>(needed) - grown.blocks.size();
  if (missing > free_count_) {
    return ResourceExhausted(
        "sequence {}: {} tokens need {} more blocks, {} of {} are free; release a sequence or give "
        "the pool more memory",
        sequence, tokens, missing, free_count_, total_);
  }
  for (size_t i = 0; i < missing; ++i) {
    // After its own last block a sequence is contiguous in memory. Blocks that it shares are
    // followed by those of their other holders.
    // What it has given back tells nothing.
    const int32_t last = grown.blocks.empty() ? -1 : grown.blocks.back();
    const bool begins = last < 0 || holders_[static_cast<size_t>(last)] > 1;
    const int32_t start = begins ? Start(sequence) : (last + 1) % total_;
    const int32_t block = FirstSetFrom(free_bits_, start);
    free_bits_[static_cast<size_t>(block / kBitsPerWord)] &=
        ~(uint64_t{1} << (block % kBitsPerWord));
    holders_[static_cast<size_t>(block)] = 1;
    grown.blocks.push_back(block);
  }
  free_count_ -= missing;
  grown.tokens = tokens;
  return Status();
}

Status BlockPool::Share(SequenceId sequence, SequenceId holder, int32_t blocks) {
  Sequence& sharing = Live(sequence);
  const Sequence& held = Live(holder);
  if (sharing.tokens > 0) {
    return InvalidArgument("sequence {} has {} tokens; only an empty one can begin with another's",
                           sequence, sharing.tokens);
  }
  if (held.given_back > 0) {
    return InvalidArgument("sequence {} has given its first {} blocks back", holder,
                           held.given_back);
  }
  if (blocks < 0 || blocks > held.tokens / block_size_) {
    return InvalidArgument("sequence {} has {} full blocks of {} tokens, of which {} are asked for",
                           holder, held.tokens / block_size_, block_size_, blocks);
  }
  sharing.blocks.assign(held.blocks.begin(), held.blocks.begin() + blocks);
  sharing.tokens = blocks * block_size_;
  for (const int32_t block : sharing.blocks) ++holders_[static_cast<size_t>(block)];
  return Status();
}

void BlockPool::Drop(int32_t block) {
  if (--holders_[static_cast<size_t>(block)] > 0) return;
  free_bits_[static_cast<size_t>(block / kBitsPerWord)] |= uint64_t{1} << (block % kBitsPerWord);
  ++free_count_;
}

void BlockPool::Release(SequenceId sequence) {
  Sequence& ended = Live(sequence);
  for (size_t i = static_cast<size_t>(ended.given_back); i < ended.blocks.size(); ++i) {
    Drop(ended.blocks[i]);
  }
  ended.blocks.clear();
  ended.tokens = 0;
  ended.given_back = 0;
  ended.live = false;
  free_sequences_.push_back(sequence);
}

int32_t BlockPool::tokens(SequenceId sequence) const { return Live(sequence).tokens; }

std::span<const int32_t> BlockPool::blocks(SequenceId sequence) const {
  return Live(sequence).blocks;
}

void BlockPool::FillPageTable(std::span<const SequenceId> sequences, PageTable* table) const {
  table->indptr.assign(1, 0);
  table->indices.clear();
  table->last_page_len.clear();
  for (const SequenceId id : sequences) {
    const Sequence& sequence = Live(id);
    table->indices.insert(table->indices.end(), sequence.blocks.begin(), sequence.blocks.end());
    table->indptr.push_back(static_cast<int32_t>(table->indices.size()));
    table->last_page_len.push_back(sequence.tokens == 0 ? 0
                                                        : (sequence.tokens - 1) % block_size_ + 1);
  }
}

void BlockPool::CheckInvariants() const {
  std::vector<int32_t> holders(static_cast<size_t>(total_), 0);
  size_t free = 0;
  for (const uint64_t word : free_bits_) free += static_cast<size_t>(std::popcount(word));
  Check(free == free_count_, "{} blocks are marked free, but {} are counted", free, free_count_);
  size_t live = 0;
  for (size_t id = 0; id < sequences_.size(); ++id) {
    const Sequence& sequence = sequences_[id];
    live += sequence.live;
    Check(sequence.live || (sequence.blocks.empty() && sequence.tokens == 0),
          "released sequence {} still holds {} blocks and {} tokens", id, sequence.blocks.size(),
          sequence.tokens);
    Check(static_cast<int32_t>(sequence.blocks.size()) == BlocksFor(sequence.tokens, block_size_),
          "sequence {} holds {} blocks of {} tokens for {} tokens", id, sequence.blocks.size(),
          block_size_, sequence.tokens);
    const auto given_back = static_cast<size_t>(sequence.given_back);
    Check(given_back <= sequence.blocks.size() &&
              std::count(sequence.blocks.begin(), sequence.blocks.end(), -1) == sequence.given_back,
          "sequence {} has given {} of {} blocks back, but not as many are marked", id, given_back,
          sequence.blocks.size());
    std::vector<int32_t> own(sequence.blocks.begin() + sequence.given_back, sequence.blocks.end());
    std::sort(own.begin(), own.end());
    Check(std::adjacent_find(own.begin(), own.end()) == own.end(),
          "sequence {} holds a block twice", id);
    for (const int32_t block : own) {
      Check(block >= 0 && block < total_, "sequence {} holds block {}, but there are {}", id, block,
            total_);
      ++holders[static_cast<size_t>(block)];
    }
  }
  for (int32_t block = 0; block < total_; ++block) {
    const int32_t counted = holders_[static_cast<size_t>(block)];
    const int32_t found = holders[static_cast<size_t>(block)];
    Check(counted == found, "block {} is held by {} sequences, but {} are counted", block, found,
          counted);
    const bool is_free =
        (free_bits_[static_cast<size_t>(block / kBitsPerWord)] >> (block % kBitsPerWord) & 1) != 0;
    Check(is_free == (found == 0), "block {} is {} and held by {} sequences", block,
          is_free ? "free" : "not free", found);
  }
  std::vector<bool> listed(sequences_.size(), false);
  for (const SequenceId id : free_sequences_) {
    Check(id >= 0 && static_cast<size_t>(id) < sequences_.size() &&
              !sequences_[static_cast<size_t>(id)].live && !listed[static_cast<size_t>(id)],
          "slot {} is listed as free, but is live or listed twice", id);
    listed[static_cast<size_t>(id)] = true;
  }
  Check(live + free_sequences_.size() == sequences_.size(), "{} live and {} free slots, not {}",
        live, free_sequences_.size(), sequences_.size());
}

}  // namespace llmir::kvpool
