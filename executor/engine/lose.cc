// A replica that is lost: what it ran waits for a place in another one, with the ids that it has.
// An answer goes on where it was, as after any preemption.

#include <algorithm>
#include <thread>
#include <utility>

#include "executor/engine/engine.h"

namespace llmir::executor {

void Engine::Lose(int number) {
  const auto found =
      std::ranges::find(replicas_, number, [](const auto& replica) { return replica->number; });
  if (found == replicas_.end()) return;
  lost_.push_back(std::move(*found));
  replicas_.erase(found);
  Replica& replica = *lost_.back();
  runner_.Forget(number);
  in_flight_ -= replica.in_flight;
  replica.in_flight = 0;
  if (std::exchange(replica.spill.under_way, false)) --spills_;
  for (Fetch& fetch : fetches_) {
    if (fetch.sequence != nullptr && fetch.sequence->replica == &replica) fetch.sequence = nullptr;
  }
  const auto forget = [&](Sequence& sequence) {
    sequence.replica = nullptr;
    sequence.id = -1;
    sequence.recompute = sequence.computed;
    sequence.computed = 0;
    sequence.flights = 0;
    sequence.draws = sequence.fetching = false;
    sequence.draft.clear();
  };
  for (SequencePointer& sequence : replica.running) {
    forget(*sequence);
    if (!sequence->finished) Wait(std::move(sequence));
  }
  replica.running.clear();
  replica.left.clear();
  for (auto& [tenant, waiting] : waiting_) {
    for (auto& [turn, sequence] : waiting) {
      if (sequence->replica != &replica) continue;
      sequence->swapped.clear();
      forget(*sequence);
    }
  }
  blocked_ = false;
  ++statistics_.lost_replicas;
  if (events_.on_loss) {
    events_.on_loss(Unavailable("replica {} is lost; what it ran goes on in {} other{}", number,
                                replicas_.size(), replicas_.size() == 1 ? "" : "s"));
  }
}

Status Engine::TakeAnyStep() {
  for (int turn = 0;; ++turn) {
    for (const auto& replica : replicas_) {
      if (replica->in_flight == 0) continue;
      LLMIR_ASSIGN_OR_RETURN(const bool finished, runner_.IsFinished(replica->number));
      if (finished) return TakeStep(*replica);
    }
    if (TakeFetches()) return Status();
    // As Channel::Wait: a peer that is running needs microseconds, one that isn't needs this core.
    if (turn > 200) std::this_thread::yield();
  }
}

}  // namespace llmir::executor
