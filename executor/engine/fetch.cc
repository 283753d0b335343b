// Fetching: a sequence starts in one replica, and another one, or this one's spill file, has more
// of its ids than this one's cache. Those blocks come over while the replica goes on with others
// (kvpool/transfer_service.h), where that is predicted to take less time than to compute them. The
// source's blocks are held meanwhile by a sequence of their pool that has nothing else, a lease.
// Where a fetch fails, the ids are computed.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {
namespace {

// Bytes per second until a fetch was measured: a part of what memory gives, a slow link, a disk.
// What is assumed too slow would never be tried.
constexpr double kAssumedNear = 5e9;
constexpr double kAssumedFar = 1e8;
constexpr double kAssumedFile = 5e8;

}  // namespace

double Engine::ComputeSeconds(const Replica& replica, int32_t before, int32_t blocks) const {
  // Each block takes `growth_` of itself more for each one before it.
  const double contexts = blocks * (before + (blocks - 1) / 2.0);
  return PrefillSeconds(replica) * replica.pool.block_size() * (blocks + growth_ * contexts);
}

RecentMedian& Engine::FetchTimes(const Source& source, const Replica& destination) {
  if (source.restores) {
    return source.replica == &destination ? restore_seconds_ : other_restore_seconds_;
  }
  const bool near = runner_.transfers()->ShareHost(source.replica->number, destination.number);
  return near ? near_fetch_seconds_ : far_fetch_seconds_;
}

double Engine::FetchSeconds(const Source& source, const Replica& destination) {
  const RecentMedian& measured = FetchTimes(source, destination);
  if (!measured.empty()) return measured.value();
  return block_bytes_ / (&measured == &near_fetch_seconds_  ? kAssumedNear
                         : &measured == &far_fetch_seconds_ ? kAssumedFar
                                                            : kAssumedFile);
}

Engine::Source Engine::ChooseSource(Replica& destination, int32_t own) {
  Source best;
  if (!options_.reuse_prefixes || runner_.transfers() == nullptr) return best;
  double most = 0;  // seconds that it saves
  const auto weigh = [&](const Source& source) {
    if (source.blocks <= 0 || source.replica->leases == kMostLeases) return;
    // Without a measured or predicted time nothing is known of computing but that it is the slower.
    const double compute = ComputeSeconds(destination, own, source.blocks);
    const double saved = (compute > 0 ? compute : 1e3 * source.blocks) -
                         source.blocks * FetchSeconds(source, destination);
    if (saved <= most) return;
    best = source;
    most = saved;
  };
  // The own file first: of equals it needs no socket.
  if (destination.spilled != nullptr) weigh({&destination, true, destination.in_file - own});
  for (const auto& source : replicas_) {
    if (source.get() == &destination) continue;
    weigh({source.get(), false, source->cached - own});
    if (source->spilled != nullptr) weigh({source.get(), true, source->in_file - own});
  }
  return best;
}

bool Engine::CopiesFrom(Replica& replica, std::span<const int32_t> blocks) {
  const auto any = [&](std::span<const kvpool::BlockCopy> copies) {
    return std::ranges::any_of(copies, [&](const kvpool::BlockCopy& copy) {
      return std::ranges::find(blocks, copy.from) != blocks.end();
    });
  };
  bool found = any(replica.copies);
  for (size_t i = 0; i < replica.in_flight; ++i) {
    Flight& flight = replica.flights[(replica.oldest + i) % replica.flights.size()];
    found = found || any(flight.descriptor.copies());
  }
  return found;
}

Status Engine::StartFetch(Sequence& sequence) {
  Replica& replica = *sequence.replica;
  kvpool::BlockPool& pool = replica.pool;
  const int32_t own = sequence.computed / pool.block_size();
  const Source source = ChooseSource(replica, own);
  if (source.replica == nullptr) return Status();
  kvpool::BlockPool& from = source.restores ? *source.replica->spilled : source.replica->pool;
  path_.clear();
  from.Match(std::span(sequence.ids).first(sequence.ids.size() - 1), sequence.job->tenant->salt,
             &path_);
  const int32_t blocks = static_cast<int32_t>(path_.size()) - own;
  if (blocks <= 0) return Status();
  const int32_t tokens = sequence.computed + blocks * pool.block_size();
  // Whole blocks follow whole blocks: nothing that others share is written to.
  const Status room = pool.Grow(sequence.id, tokens, /*window=*/0, &replica.copies);
  if (room.code() == StatusCode::kResourceExhausted) return Status();
  LLMIR_RETURN_IF_ERROR(room);
  const std::span<const int32_t> to = pool.blocks(sequence.id).subspan(static_cast<size_t>(own));
  if (CopiesFrom(replica, to)) {
    pool.Shrink(sequence.id, sequence.computed);
    return Status();
  }
  LLMIR_ASSIGN_OR_RETURN(const kvpool::SequenceId lease, from.Create());
  from.Begin(lease, path_);
  const uint64_t ticket = tickets_++;
  const auto kind = source.restores ? kvpool::TransferKind::kRestore : kvpool::TransferKind::kFetch;
  LLMIR_RETURN_IF_ERROR(
      runner_.transfers()->Order({ticket, kind, source.replica->number, replica.number,
                                  std::span(path_).subspan(static_cast<size_t>(own)), to}));
  fetches_.push_back({ticket, &sequence, source.replica, source.restores, lease, sequence.computed,
                      blocks, Clock::now()});
  sequence.computed = tokens;
  sequence.fetching = true;
  ++sequence.flights;
  ++replica.fetching;
  ++source.replica->leases;
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
  kvpool::TransferOutcome outcome;
  while (transfers->TakeOutcome(&outcome)) {
    for (const auto& replica : replicas_) {
      if (!replica->spill.under_way || replica->spill.ticket != outcome.ticket) continue;
      EndSpill(*replica, outcome);
      any = true;
    }
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
  (fetch.restores ? *fetch.source->spilled : fetch.source->pool).Release(fetch.lease);
  --fetch.source->leases;
  blocked_ = false;
  if (fetch.sequence == nullptr) return;
  Sequence& sequence = *fetch.sequence;
  Replica& replica = *sequence.replica;
  --replica.fetching;
  --sequence.flights;
  sequence.fetching = false;
  if (outcome.status.ok()) {
    const auto tokens =
        static_cast<uint64_t>(fetch.blocks) * static_cast<uint64_t>(replica.pool.block_size());
    FetchTimes({fetch.source, fetch.restores, fetch.blocks}, replica)
        .Add(outcome.seconds / fetch.blocks);
    if (fetch.restores) {
      statistics_.restored_tokens += tokens;
      ++statistics_.restores;
    } else {
      statistics_.fetch_seconds +=
          std::chrono::duration<double>(Clock::now() - fetch.ordered).count();
      statistics_.fetched_bytes += outcome.bytes;
      statistics_.fetched_tokens += tokens;
      ++statistics_.fetches;
    }
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
