#include "kvpool/block_pool.h"

#include <algorithm>
#include <bit>

#include "kvpool/check.h"

namespace llmir::kvpool {
namespace {

constexpr int32_t kBitsPerWord = 64;

template <typename... Args>
void Check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  CheckIn("BlockPool", condition, format, std::forward<Args>(args)...);
}

size_t WordOf(int32_t bit) { return static_cast<size_t>(bit / kBitsPerWord); }
uint64_t MaskOf(int32_t bit) { return uint64_t{1} << (bit % kBitsPerWord); }

// The first set bit of `bits` at or after `start`, searching round; -1: all are zero.
int32_t FirstSetFrom(std::span<const uint64_t> bits, int32_t start) {
  size_t word = WordOf(start);
  uint64_t candidates = bits[word] & (~uint64_t{0} << (start % kBitsPerWord));
  for (size_t searched = 0; candidates == 0; ++searched) {
    if (searched == bits.size()) return -1;
    word = word + 1 == bits.size() ? 0 : word + 1;
    candidates = bits[word];
  }
  return static_cast<int32_t>(word) * kBitsPerWord + std::countr_zero(candidates);
}

}  // namespace

BlockPool::BlockPool(int32_t blocks, int32_t block_size, int32_t max_sequences,
                     int32_t max_blocks_per_sequence, int32_t run, PrefixTreeOptions tree)
    : total_(blocks),
      block_size_(block_size),
      max_blocks_per_sequence_(max_blocks_per_sequence),
      run_(run),
      free_count_(static_cast<size_t>(std::max(blocks, 0))),
      tree_(blocks, block_size, std::move(tree)) {
  Check(blocks >= 0 && block_size > 0 && max_sequences >= 0 && max_blocks_per_sequence >= 0 &&
            run >= 0,
        "{} blocks of {} tokens, {} sequences of at most {} blocks: a size is out of range", blocks,
        block_size, max_sequences, max_blocks_per_sequence);
  free_bits_.assign((static_cast<size_t>(blocks) + kBitsPerWord - 1) / kBitsPerWord, ~uint64_t{0});
  if (blocks % kBitsPerWord != 0) {
    free_bits_.back() = (uint64_t{1} << (blocks % kBitsPerWord)) - 1;
  }
  free_words_.assign((free_bits_.size() + kBitsPerWord - 1) / kBitsPerWord, 0);
  for (size_t word = 0; word < free_bits_.size(); ++word) {
    free_words_[word / kBitsPerWord] |= MaskOf(static_cast<int32_t>(word));
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

bool BlockPool::CopiesLast(const Sequence& sequence, int32_t tokens) const {
  if (tokens == sequence.tokens || sequence.tokens % block_size_ == 0) return false;
  const int32_t last = sequence.blocks.back();
  return last >= 0 && holders_[static_cast<size_t>(last)] > 1;
}

int32_t BlockPool::Missing(SequenceId sequence, int32_t tokens) const {
  const Sequence& grown = Live(sequence);
  return std::max(0, BlocksFor(tokens, block_size_) - static_cast<int32_t>(grown.blocks.size())) +
         (CopiesLast(grown, tokens) ? 1 : 0);
}

Status BlockPool::Grow(SequenceId sequence, int32_t tokens, int32_t window,
                       std::vector<BlockCopy>* copies) {
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
  const int32_t missing = Missing(sequence, tokens);
  if (missing > available_blocks()) {
    return ResourceExhausted(
        "sequence {}: {} tokens need {} more blocks, {} of {} are free; release a sequence or give "
        "the pool more memory",
        sequence, tokens, missing, available_blocks(), total_);
  }
  if (CopiesLast(grown, tokens)) {
    const int32_t shared = grown.blocks.back();
    const int32_t own = Take((shared + 1) % total_);
    copies->push_back({shared, own});
    Drop(shared);
    grown.blocks.back() = own;
  }
  while (static_cast<int64_t>(grown.blocks.size()) < needed) {
    // After its own last block a sequence is contiguous in memory. Blocks that it shares are
    // followed by those of their other holders.
    // What it has given back tells nothing.
    const int32_t last = grown.blocks.empty() ? -1 : grown.blocks.back();
    const bool begins = last < 0 || holders_[static_cast<size_t>(last)] > 1;
    grown.blocks.push_back(Take(begins ? Start(sequence) : (last + 1) % total_));
  }
  grown.tokens = tokens;
  return Status();
}

void BlockPool::Shrink(SequenceId sequence, int32_t tokens) {
  Sequence& shrunk = Live(sequence);
  const int32_t kept = BlocksFor(tokens, block_size_);
  Check(
      tokens <= shrunk.tokens && kept >= shrunk.given_back && tokens / block_size_ >= shrunk.cached,
      "sequence {} has {} tokens, {} blocks given back and {} cached; it can't shrink to {} tokens",
      sequence, shrunk.tokens, shrunk.given_back, shrunk.cached, tokens);
  while (static_cast<int32_t>(shrunk.blocks.size()) > kept) {
    Drop(shrunk.blocks.back());
    shrunk.blocks.pop_back();
  }
  shrunk.tokens = tokens;
}

void BlockPool::Begin(SequenceId sequence, std::span<const int32_t> path) {
  Sequence& beginning = Live(sequence);
  Check(beginning.tokens == 0, "sequence {} has {} tokens; only an empty one can begin", sequence,
        beginning.tokens);
  beginning.blocks.assign(path.begin(), path.end());
  beginning.tokens = static_cast<int32_t>(path.size()) * block_size_;
  beginning.cached = static_cast<int32_t>(path.size());
  for (const int32_t block : path) {
    Check(tree_.contains(block), "block {} is not in the prefix tree", block);
    Hold(block);
  }
}

void BlockPool::Fork(SequenceId sequence, SequenceId source) {
  Sequence& forked = Live(sequence);
  const Sequence& from = Live(source);
  Check(forked.tokens == 0, "sequence {} has {} tokens; only an empty one can begin", sequence,
        forked.tokens);
  forked.blocks.assign(from.blocks.begin(), from.blocks.end());
  forked.tokens = from.tokens;
  forked.given_back = from.given_back;
  forked.cached = from.cached;
  for (size_t i = static_cast<size_t>(forked.given_back); i < forked.blocks.size(); ++i) {
    Hold(forked.blocks[i]);
  }
}

void BlockPool::Cache(SequenceId sequence, std::span<const int32_t> ids, uint64_t salt) {
  Sequence& cached = Live(sequence);
  if (cached.given_back > 0) return;
  const int32_t full = std::min(cached.tokens, static_cast<int32_t>(ids.size())) / block_size_;
  for (; cached.cached < full; ++cached.cached) {
    const auto at = static_cast<size_t>(cached.cached);
    const int32_t block = cached.blocks[at];
    // A sequence that was forked from this one has cached it.
    if (tree_.contains(block)) continue;
    const int32_t parent = at == 0 ? -1 : cached.blocks[at - 1];
    const int32_t node = tree_.Insert(
        parent, salt,
        ids.subspan(at * static_cast<size_t>(block_size_), static_cast<size_t>(block_size_)),
        block);
    if (node == block) continue;
    Hold(node);
    cached.blocks[at] = node;
    Drop(block);
  }
}

int32_t BlockPool::Take(int32_t start) {
  int32_t block = -1;
  if (free_count_ > 0) {
    // In the word of `start`, else in the next word that has any.
    const uint64_t here = free_bits_[WordOf(start)] & (~uint64_t{0} << (start % kBitsPerWord));
    if (here != 0) {
      block = static_cast<int32_t>(WordOf(start)) * kBitsPerWord + std::countr_zero(here);
    } else {
      const auto next = static_cast<int32_t>((WordOf(start) + 1) % free_bits_.size());
      const int32_t word = FirstSetFrom(free_words_, next);
      block = word * kBitsPerWord + std::countr_zero(free_bits_[static_cast<size_t>(word)]);
    }
    free_bits_[WordOf(block)] &= ~MaskOf(block);
    if (free_bits_[WordOf(block)] == 0) {
      const auto word = static_cast<int32_t>(WordOf(block));
      free_words_[WordOf(word)] &= ~MaskOf(word);
    }
    --free_count_;
  } else {
    block = tree_.Evict();
    Check(block >= 0, "no block is free or idle");
    ++evicted_;
  }
  holders_[static_cast<size_t>(block)] = 1;
  return block;
}

void BlockPool::Free(int32_t block) {
  free_bits_[WordOf(block)] |= MaskOf(block);
  const auto word = static_cast<int32_t>(WordOf(block));
  free_words_[WordOf(word)] |= MaskOf(word);
  ++free_count_;
}

void BlockPool::Hold(int32_t block) {
  if (holders_[static_cast<size_t>(block)]++ == 0) tree_.SetHeld(block);
}

void BlockPool::Drop(int32_t block) {
  if (--holders_[static_cast<size_t>(block)] > 0) return;
  if (tree_.contains(block)) {
    tree_.SetIdle(block);
  } else {
    Free(block);
  }
}

void BlockPool::Release(SequenceId sequence) {
  Sequence& ended = Live(sequence);
  // From the end, so that each is a leaf when it becomes idle.
  for (size_t i = ended.blocks.size(); i > static_cast<size_t>(ended.given_back); --i) {
    Drop(ended.blocks[i - 1]);
  }
  ended.blocks.clear();
  ended.tokens = 0;
  ended.given_back = 0;
  ended.cached = 0;
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
  for (size_t word = 0; word < free_bits_.size(); ++word) {
    const bool marked = (free_words_[word / kBitsPerWord] >> (word % kBitsPerWord) & 1) != 0;
    Check(marked == (free_bits_[word] != 0), "word {} of free blocks is marked wrongly", word);
  }
  tree_.CheckInvariants();
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
    const bool is_free = (free_bits_[WordOf(block)] & MaskOf(block)) != 0;
    const bool is_kept = tree_.contains(block);
    Check(is_free == (found == 0 && !is_kept),
          "block {} is {}, {} the tree and held by {} sequences", block,
          is_free ? "free" : "not free", is_kept ? "in" : "not in", found);
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
