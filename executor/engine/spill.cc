// Spilling: before cached blocks that nobody holds must make room, they are written to a file, so
// that a prompt finds them there later (fetch.cc). A path is written from its root on, as a prefix
// is found from its first token on; the blocks are held meanwhile. What the file has no room for
// goes as in memory, least recently used first.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {
namespace {

constexpr int32_t kFreePart = 8;  // spills while fewer than 1 / 8 of the blocks are free
// Looks for something to write only so often: where the file is smaller than what is cached, there
// is always something, also when nothing runs.
constexpr uint64_t kStepsBetween = 4;
constexpr size_t kLeavesLookedAt = 4;  // at a time
constexpr int32_t kMostBlocksAtOnce = 64;

}  // namespace

Status Engine::SpillCold(Replica& replica) {
  kvpool::BlockPool& pool = replica.pool;
  Spill& spill = replica.spill;
  if (replica.spilled == nullptr || spill.under_way || spill.over ||
      replica.step_number < spill.next_step ||
      pool.free_blocks() * kFreePart >= pool.total_blocks()) {
    return Status();
  }
  spill.next_step = replica.step_number + kStepsBetween;
  std::vector<int32_t> leaves;
  pool.tree().Coldest(kLeavesLookedAt, &leaves);
  for (const int32_t leaf : leaves) {
    std::vector<int32_t> path;
    if (!pool.tree().PathTo(leaf, &path)) continue;
    spill.ids.clear();
    for (const int32_t block : path) {
      const std::span<const int32_t> tokens = pool.tree().tokens(block);
      spill.ids.insert(spill.ids.end(), tokens.begin(), tokens.end());
    }
    spill.salt = pool.tree().salt(leaf);
    std::vector<int32_t> known;
    replica.spilled->Match(spill.ids, spill.salt, &known);
    const auto own = static_cast<int32_t>(known.size());
    spill.blocks = std::min(static_cast<int32_t>(path.size()) - own, kMostBlocksAtOnce);
    if (spill.blocks <= 0) continue;
    const int32_t tokens = (own + spill.blocks) * pool.block_size();
    path.resize(known.size() + static_cast<size_t>(spill.blocks));
    spill.ids.resize(static_cast<size_t>(tokens));
    LLMIR_ASSIGN_OR_RETURN(spill.slots, replica.spilled->Create());
    replica.spilled->Begin(spill.slots, known);
    std::vector<kvpool::BlockCopy> copies;
    const Status room = replica.spilled->Grow(spill.slots, tokens, /*window=*/0, &copies);
    if (!room.ok()) {
      replica.spilled->Release(spill.slots);
      continue;
    }
    LLMIR_ASSIGN_OR_RETURN(spill.lease, pool.Create());
    pool.Begin(spill.lease, path);
    spill.ticket = tickets_++;
    spill.under_way = true;
    ++spills_;
    return runner_.transfers()->Order({spill.ticket, kvpool::TransferKind::kSpill, replica.number,
                                       replica.number, std::span(path).subspan(known.size()),
                                       replica.spilled->blocks(spill.slots).subspan(known.size())});
  }
  return Status();
}

void Engine::EndSpill(Replica& replica, const kvpool::TransferOutcome& outcome) {
  Spill& spill = replica.spill;
  spill.under_way = false;
  --spills_;
  blocked_ = false;
  replica.pool.Release(spill.lease);
  if (outcome.status.ok()) {
    replica.spilled->Cache(spill.slots, spill.ids, spill.salt);
    statistics_.spilled_blocks += static_cast<uint64_t>(spill.blocks);
  }
  replica.spilled->Release(spill.slots);
  if (outcome.status.ok()) return;
  // A full disk stays full: what is in the file stays, nothing is added.
  spill.over = true;
  if (events_.on_loss) {
    events_.on_loss(outcome.status.WithContext(
        fmt::format("replica {} spills nothing any more", replica.number)));
  }
}

}  // namespace llmir::executor
