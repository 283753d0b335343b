// Fetching: a sequence starts in one replica, and another one has more of its ids in the cache. Its
// blocks come over while the replica goes on with others (kvpool/transfer_service.h), where that is
// predicted to take less time than to compute them. The source's blocks are held meanwhile by a
// sequence of their pool that has nothing else, a lease. Where a fetch fails, the ids are computed.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {
namespace {

// Bytes per second until a fetch was measured: a part of what memory gives, and a slow link. What
// is assumed too slow would never be tried.
constexpr double kAssumedNear = 5e9;
constexpr double kAssumedFar = 1e8;

}  // namespace

double Engine::ComputeSeconds(const Replica& replica, int32_t before, int32_t blocks) const {
  // Each block takes `growth_` of itself more for each one before it.
  const double contexts = blocks * (before + (blocks - 1) / 2.0);
  return PrefillSeconds(replica) * replica.pool.block_size() * (blocks + growth_ * contexts);
}

RecentMedian& Engine::FetchTimes(const Replica& source, const Replica& destination) {
  return runner_.transfers()->ShareHost(source.number, destination.number) ? near_fetch_seconds_
                                                                           : far_fetch_seconds_;
}

double Engine::FetchSeconds(const Replica& source, const Replica& destination) {
  const RecentMedian& measured = FetchTimes(source, destination);
  if (!measured.empty()) return measured.value();
  return block_bytes_ / (&measured == &near_fetch_seconds_ ? kAssumedNear : kAssumedFar);
}

Engine::Replica* Engine::ChooseSource(const Replica& destination, int32_t own) {
  if (replicas_.size() == 1 || !options_.reuse_prefixes || runner_.transfers() == nullptr) {
    return nullptr;
  }
  Replica* best = nullptr;
  double most = 0;  // seconds that it saves
  for (const auto& source : replicas_) {
    const int32_t blocks = source->cached - own;
    if (source.get() == &destination || blocks <= 0 || source->leases == kMostLeases) continue;
    // Without a measured or predicted time nothing is known of computing but that it is the slower.
    const double compute = ComputeSeconds(destination, own, blocks);
    const double saved =
        (compute > 0 ? compute : 1e3 * blocks) - blocks * FetchSeconds(*source, destination);
    if (saved <= most) continue;
    best = source.get();
    most = saved;
  }
  return best;
}

Status Engine::StartFetch(Sequence& sequence) {
  Replica& replica = *sequence.replica;
  kvpool::BlockPool& pool = replica.pool;
  const int32_t own = sequence.computed / pool.block_size();
  Replica* const source = ChooseSource(replica, own);
  if (source == nullptr) return Status();
  Match(sequence, *source);
  const int32_t blocks = static_cast<int32_t>(path_.size()) - own;
  if (blocks <= 0) return Status();
  const int32_t tokens = sequence.computed + blocks * pool.block_size();
  // Whole blocks follow whole blocks: nothing that others share is written to.
  const Status room = pool.Grow(sequence.id, tokens, /*window=*/0, &replica.copies);
  if (room.code() == StatusCode::kResourceExhausted) return Status();
  LLMIR_RETURN_IF_ERROR(room);
  LLMIR_ASSIGN_OR_RETURN(const kvpool::SequenceId lease, source->pool.Create());
  source->pool.Begin(lease, path_);
  const uint64_t ticket = tickets_++;
  const auto first = static_cast<size_t>(own);
  LLMIR_RETURN_IF_ERROR(runner_.transfers()->Order(ticket, source->number, replica.number,
                                                   std::span(path_).subspan(first),
                                                   pool.blocks(sequence.id).subspan(first)));
  fetches_.push_back({ticket, &sequence, source, lease, sequence.computed, blocks, Clock::now()});
  sequence.computed = tokens;
  sequence.fetching = true;
  ++sequence.flights;
  ++replica.fetching;
  ++source->leases;
  return Status();
}

bool Engine::TakeFetches() {
  kvpool::BlockTransfers* const transfers = runner_.transfers();
  if (transfers == nullptr) return false;
  bool any = false;
  int lost = 0;
  while (transfers->TakeLost(&lost)) {
    Lose(lost);
    any = true;
  }
  if (fetches_.empty()) return any;
  kvpool::TransferOutcome outcome;
  while (transfers->TakeOutcome(&outcome)) {
    const auto found = std::ranges::find(fetches_, outcome.ticket, &Fetch::ticket);
    if (found == fetches_.end()) continue;
    const Fetch fetch = *found;
    fetches_.erase(found);
    EndFetch(fetch, outcome);
    any = true;
  }
  return any;
}

void Engine::EndFetch(const Fetch& fetch, const kvpool::TransferOutcome& outcome) {
  fetch.source->pool.Release(fetch.lease);
  --fetch.source->leases;
  blocked_ = false;
  if (fetch.sequence == nullptr) return;
  Sequence& sequence = *fetch.sequence;
  Replica& replica = *sequence.replica;
  --replica.fetching;
  --sequence.flights;
  sequence.fetching = false;
  if (outcome.status.ok()) {
    const double seconds = std::chrono::duration<double>(Clock::now() - fetch.ordered).count();
    FetchTimes(*fetch.source, replica).Add(outcome.seconds / fetch.blocks);
    statistics_.fetch_seconds += seconds;
    statistics_.fetched_bytes += outcome.bytes;
    statistics_.fetched_tokens +=
        static_cast<uint64_t>(fetch.blocks) * static_cast<uint64_t>(replica.pool.block_size());
    ++statistics_.fetches;
  } else {
    ++statistics_.failed_fetches;
    if (events_.on_loss) {
      events_.on_loss(outcome.status.WithContext("a cached prefix is computed again"));
    }
    sequence.computed = fetch.own_tokens;
    replica.pool.Shrink(sequence.id, sequence.computed);
  }
  if (ForgetLeft(sequence)) return;
  if (outcome.status.ok()) {
    replica.pool.Cache(sequence.id,
                       std::span(sequence.ids).first(static_cast<size_t>(sequence.computed)),
                       sequence.job->tenant->salt);
  }
}

}  // namespace llmir::executor
