// What the pool's operations take, at up to 10^6 blocks: nearly all kept in the prefix tree, as
// after hours of work.

#include <benchmark/benchmark.h>

#include <numeric>
#include <random>
#include <vector>

#include "kvpool/block_pool.h"

namespace llmir::kvpool {
namespace {

constexpr int32_t kBlockSize = 16;
constexpr int32_t kPathBlocks = 64;  // of each cached sequence: 1,024 tokens

std::vector<int32_t> Prompt(uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(kPathBlocks * kBlockSize);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % 50000);
  return ids;
}

// A pool whose blocks are all cached, in paths of kPathBlocks.
struct FullPool {
  BlockPool pool;
  int32_t paths;
  std::vector<BlockCopy> copies;

  explicit FullPool(int32_t blocks)
      : pool(blocks, kBlockSize, 64, 4096), paths(blocks / kPathBlocks) {
    for (int32_t path = 0; path < paths; ++path) Compute(static_cast<uint32_t>(path));
  }
  void Compute(uint32_t seed) {
    const std::vector<int32_t> ids = Prompt(seed);
    const SequenceId sequence = *pool.Create();
    if (!pool.Grow(sequence, static_cast<int32_t>(ids.size()), 0, &copies).ok()) std::abort();
    pool.Cache(sequence, ids, 1);
    pool.Release(sequence);
  }
};

// A prompt of 1,024 tokens that is cached: found, held, released.
void HitAndRelease(benchmark::State& state) {
  FullPool full(static_cast<int32_t>(state.range(0)));
  std::vector<std::vector<int32_t>> prompts;
  for (uint32_t i = 0; i < 64; ++i) {
    prompts.push_back(Prompt(i * 7919 % static_cast<uint32_t>(full.paths)));
  }
  std::vector<int32_t> path;
  size_t next = 0;
  for (auto _ : state) {
    path.clear();
    full.pool.Match(prompts[next++ % prompts.size()], 1, &path);
    const SequenceId sequence = *full.pool.Create();
    full.pool.Begin(sequence, path);
    full.pool.Release(sequence);
  }
  state.counters["blocks"] = static_cast<double>(path.size());
}
BENCHMARK(HitAndRelease)->Arg(1 << 10)->Arg(1 << 14)->Arg(1 << 17)->Arg(1000000);

// A prompt of 1,024 tokens that isn't: 64 blocks are evicted, filled and cached.
void MissEvictAndCache(benchmark::State& state) {
  FullPool full(static_cast<int32_t>(state.range(0)));
  std::vector<std::vector<int32_t>> prompts;
  for (uint32_t i = 0; i < 4096; ++i) prompts.push_back(Prompt(1000000 + i));
  std::vector<int32_t> path;
  size_t next = 0;
  for (auto _ : state) {
    // Other first tokens each time round.
    std::vector<int32_t>& ids = prompts[next % prompts.size()];
    ids[0] = static_cast<int32_t>(next++ / prompts.size());
    path.clear();
    full.pool.Match(ids, 1, &path);
    const SequenceId sequence = *full.pool.Create();
    full.pool.Begin(sequence, path);
    if (!full.pool.Grow(sequence, static_cast<int32_t>(ids.size()), 0, &full.copies).ok()) {
      state.SkipWithError("the pool is full");
    }
    full.pool.Cache(sequence, ids, 1);
    full.pool.Release(sequence);
  }
}
BENCHMARK(MissEvictAndCache)->Arg(1 << 10)->Arg(1 << 14)->Arg(1 << 17)->Arg(1000000);

// One more token for each of 64 sequences, in turns, without a tree.
void GrowByOneToken(benchmark::State& state) {
  BlockPool pool(static_cast<int32_t>(state.range(0)), kBlockSize, 64, 1 << 20);
  std::vector<SequenceId> sequences;
  for (int i = 0; i < 64; ++i) sequences.push_back(*pool.Create());
  std::vector<BlockCopy> copies;
  int32_t tokens = 0;
  const int32_t most = pool.total_blocks() / 64 * kBlockSize;
  for (auto _ : state) {
    if (tokens == most) {
      for (SequenceId& sequence : sequences) pool.Release(sequence);
      for (SequenceId& sequence : sequences) sequence = *pool.Create();
      tokens = 0;
    }
    ++tokens;
    for (const SequenceId sequence : sequences) {
      if (!pool.Grow(sequence, tokens, 0, &copies).ok()) state.SkipWithError("the pool is full");
    }
  }
  state.SetItemsProcessed(state.iterations() * 64);
}
BENCHMARK(GrowByOneToken)->Arg(1 << 14)->Arg(1000000);

// The page table of 64 sequences of 1,024 tokens.
void FillPageTable(benchmark::State& state) {
  BlockPool pool(64 * kPathBlocks, kBlockSize, 64, kPathBlocks);
  std::vector<SequenceId> sequences;
  std::vector<BlockCopy> copies;
  for (int i = 0; i < 64; ++i) {
    sequences.push_back(*pool.Create());
    if (!pool.Grow(sequences.back(), kPathBlocks * kBlockSize, 0, &copies).ok()) std::abort();
  }
  PageTable table;
  for (auto _ : state) pool.FillPageTable(sequences, &table);
}
BENCHMARK(FillPageTable);

}  // namespace
}  // namespace llmir::kvpool

BENCHMARK_MAIN();
