// The engine of all replicas, on rank 0: a queue of requests becomes steps. Each turn is a few
// small actions, one per file: admit (admit.cc), give decodes their rows (decode.cc) and prompts
// theirs (prefill.cc) within the step's token budget, make room (preempt.cc), lay the step out
// (compose.cc), take the drawn ids (advance.cc), end what is complete (finish.cc), get prefixes out
// of other replicas' caches (fetch.cc), and keep cold ones in files (spill.cc).
//
// A replica has as many steps in flight as the plan says. A sequence that waits for the id that it
// draws is in no other step, so what they draw from is disjoint; a prompt's chunks may follow each
// other at once. Blocks come back when the last step that uses them has been taken.
//
// A sequence is its ids and how many of them are in the cache. The rest is computed in chunks; when
// nothing is left, the next id is drawn. So a decode is a chunk of one, and a sequence that lost
// its blocks just starts again with more ids.
//
// KV blocks are taken as sequences grow. Where one lacks blocks, the sequence that comes last
// (lower priority, later arrival) gives way: its blocks go to swap memory or are computed again
// later, whichever is predicted to take less time.
//
// One thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "executor/engine/ngram_index.h"
#include "executor/engine/step_runner.h"
#include "executor/engine/tenants.h"
#include "executor/recent_median.h"
#include "executor/request.h"
#include "executor/text_stream.h"
#include "kvpool/block_pool.h"
#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/tokenizer.h"

namespace llmir::executor {

struct EngineOptions {
  bool reuse_prefixes = true;  // finished sequences' blocks stay, to be found by others
  int32_t step_tokens = 0;     // prompt tokens of a step that also decodes; 0: by measured times
  int32_t swap_blocks = 0;     // places in each rank's swap memory
  int32_t spill_slots = 0;     // blocks that each rank's spill file has room for
  int32_t max_waiting = 0;     // requests that may wait; 0: any number
  int32_t draft_tokens = 0;    // guessed ids of a sequence that a step checks; 0: none
  kvpool::PrefixTreeOptions tree;
};

struct TokenEvent {
  size_t request;
  int32_t candidate;
  int32_t index;  // of the id in its answer
  int32_t id;
  std::string text;      // that can be shown now
  DrawDetails* details;  // null where they weren't asked for
};

struct EngineEvents {
  // A new id. Not for requests with best_of > n, whose answers are known at the end.
  std::function<void(const TokenEvent& event)> on_token;
  // All n answers of a request, the likeliest first where best_of > n.
  std::function<void(size_t request, std::vector<Completion>& completions)> on_finish;
  // The logits that id number `position` of the first answer is drawn from; asked for by setting
  // it.
  std::function<Status(size_t request, int32_t position, std::span<const float> logits)> on_logits;
  // What the job has lost and how it goes on: a replica, or a prefix that couldn't be fetched and
  // is computed instead.
  std::function<void(const Status& what)> on_loss;
};

struct EngineStatistics {
  uint64_t steps = 0;
  uint64_t prompt_tokens = 0;
  uint64_t generated_tokens = 0;
  // From one step's end to the next one's, or from its start where nothing else was under way: they
  // add up to the time that anything ran, however many steps were in flight.
  double prefill_seconds = 0;  // of steps with prefill rows
  double decode_seconds = 0;   // of steps with decodes only
  uint64_t decode_rows = 0;    // rows of those
  uint64_t decode_steps = 0;
  double decode_context = 0;   // sum over those rows of tokens attended to
  int32_t peak_blocks = 0;     // held at a time, all replicas
  uint64_t pinned_tokens = 0;  // of prefixes, computed before the first request
  double pin_seconds = 0;
  uint64_t prefix_hits = 0;    // admissions that found a cached prefix
  uint64_t reused_tokens = 0;  // in them, not computed again
  uint64_t lost_replicas = 0;
  uint64_t fetches = 0;         // prefixes that came out of another replica's cache
  uint64_t failed_fetches = 0;  // that didn't; they were computed
  uint64_t fetched_tokens = 0;
  uint64_t fetched_bytes = 0;   // of keys and values, all ranks
  double fetch_seconds = 0;     // from order to outcome, added up
  uint64_t spilled_blocks = 0;  // written to spill files
  uint64_t restores = 0;        // prefixes that came back from there
  uint64_t restored_tokens = 0;
  uint64_t evicted_blocks = 0;
  uint64_t recomputed = 0;         // preemptions whose blocks were dropped
  uint64_t swapped = 0;            // that moved to swap memory
  uint64_t recomputed_tokens = 0;  // that preempted sequences had in the cache and computed again
  uint64_t copied_blocks = 0;      // before writing into shared ones
  uint64_t drafted_tokens = 0;
  uint64_t accepted_tokens = 0;  // of them
  double allocated_tokens = 0;  // room in the blocks that running sequences hold, summed over steps
  double unused_tokens = 0;     // of it without a token
  int32_t held_blocks = 0;      // now; when nothing runs, those of pinned prefixes
  std::vector<float> scheduler_us;  // of the latest steps: all that the engine does between two
};

// The most KV blocks that a sequence of `tokens` tokens in the end holds at a time, besides those
// of the pinned prefix that it starts with (into Plan.prefixes; -1: none).
int32_t WorstBlocks(const plan::Plan& plan, int64_t tokens, int32_t prefix);

// Whether the plan can run this request at all: ids in the vocabulary, prompt within the context,
// blocks enough.
Status CheckRequest(const plan::Plan& plan, const Request& request);

class Engine {
 public:
  // `tokenizer`: null where the checkpoint has none. All outlive the engine.
  Engine(const plan::Plan& plan, StepRunner& runner, EngineOptions options,
         const checkpoint::Tokenizer* tokenizer, std::vector<int32_t> end_ids, EngineEvents events);
  ~Engine();

  // Queues it; returns its number, 0, 1, 2, ... RESOURCE_EXHAUSTED where too many wait.
  StatusOr<size_t> Submit(Request request);
  // Ends a request as kCancelled with the ids that it has; nothing where it has ended. Not from an
  // event.
  void Cancel(size_t request);
  // Computes the plan's pinned prefixes, once. CANCELLED when `cancelled` turns true meanwhile.
  Status Pin(const std::atomic<bool>& cancelled);
  // One turn, if there is anything to do: each replica starts a step or takes the result of one.
  // After an error the engine can't go on.
  Status Step();
  bool idle() const { return jobs_.empty() && in_flight_ == 0 && fetches_.empty() && spills_ == 0; }
  size_t jobs() const { return jobs_.size(); }

  // Pin, and steps until the queue is empty or `cancelled` turns true: then all ends as kCancelled.
  Status Run(const std::atomic<bool>& cancelled);

  const EngineStatistics& statistics();
  // Counts of blocks and sequences agree. For tests; aborts with a message.
  void CheckInvariants() const;

 private:
  // Fetches of one replica's blocks at a time.
  static constexpr int32_t kMostLeases = 4;
  using Clock = std::chrono::steady_clock;

  struct Job {  // a request and its answers
    size_t number;
    Request request;
    Tenant* tenant;
    std::vector<Completion> completions;  // by candidate
    int32_t unfinished;
    Clock::time_point submitted;
  };

  struct Replica;

  struct Sequence {
    Job* job;  // null: cancelled, its blocks stay until the last step in flight with it is taken
    int32_t candidate;
    int32_t followers;         // candidates that fork from this one when its prompt is computed
    std::vector<int32_t> ids;  // prompt and answer; room for all
    TextStream text;
    SamplingOptions sampling;
    Replica* replica = nullptr;  // where it runs, or whose swap memory it is in
    kvpool::SequenceId id = -1;  // while it runs
    int32_t computed = 0;        // leading ids that the cache has when its steps have run
    int32_t flights = 0;         // steps in flight with rows of it, and its fetch
    bool fetching = false;       // its last computed ids are on their way from another replica
    bool draws = false;          // in one of them: nothing goes on before its id is there
    int32_t swapped_tokens = 0;  // the same in swap memory, from block swapped_from on
    int32_t swapped_from = 0;
    std::vector<int32_t> swapped{};  // its places
    int32_t recompute = 0;           // tokens that were in the cache when it was preempted
    int32_t overtaken = 0;           // times that a later one was admitted before it
    std::vector<int32_t> draft{};    // guessed ids in the step that draws
    int32_t draft_limit = 0;
    NgramIndex ngrams{};
    Clock::time_point first_token{};
    Clock::time_point last_token{};
    bool finished = false;
    std::vector<int32_t> taken{};  // ids of the last step
    std::vector<DrawDetails> taken_details{};

    int32_t prompt_tokens() const { return static_cast<int32_t>(job->request.prompt_ids.size()); }
    int32_t answer_tokens() const { return static_cast<int32_t>(ids.size()) - prompt_tokens(); }
    int32_t pending() const { return static_cast<int32_t>(ids.size()) - computed; }
    Completion& completion() { return job->completions[static_cast<size_t>(candidate)]; }
  };
  using SequencePointer = std::unique_ptr<Sequence>;
  // Who comes first: higher priority, then earlier arrival.
  struct Turn {
    int32_t priority;
    size_t number;
    int32_t candidate;
    bool operator==(const Turn&) const = default;
    auto operator<=>(const Turn& other) const {
      if (priority != other.priority) return other.priority <=> priority;
      if (number != other.number) return number <=> other.number;
      return candidate <=> other.candidate;
    }
  };
  static Turn TurnOf(const Sequence& sequence) {
    return {sequence.job->request.priority, sequence.job->number, sequence.candidate};
  }
  using Waiting = std::map<Turn, SequencePointer>;

  // A step, from its composition until its result is taken.
  struct Flight {
    explicit Flight(const StepCapacity& capacity) : descriptor(capacity) {}
    struct Entry {
      Sequence* sequence;
      int32_t rows;
      int32_t drafted;  // of them, for guessed ids
      int32_t draws;    // 0: there are more ids to compute
    };
    StepDescriptor descriptor;
    std::vector<Entry> entries;  // decodes first
    Clock::time_point started{};
    Clock::duration scheduled{};  // what the engine did for it
  };

  // Cached blocks on their way into a spill file.
  struct Spill {
    uint64_t ticket = 0;
    bool under_way = false;
    uint64_t next_step = 0;         // of the replica: not before
    bool over = false;              // nothing more can be written
    kvpool::SequenceId lease = -1;  // holds the blocks
    kvpool::SequenceId slots = -1;  // has their slots
    std::vector<int32_t> ids{};
    uint64_t salt = 0;
    int32_t blocks = 0;  // that are written
  };

  // What runs where the blocks of one pool are.
  struct Replica {
    Replica(const plan::Plan& plan, int number, const EngineOptions& options);
    Flight& composed() { return flights[(oldest + in_flight) % flights.size()]; }
    Flight& front() { return flights[oldest]; }
    int32_t rows_waiting() const;  // of running sequences, not in a step yet

    int number;
    kvpool::BlockPool pool;
    // The slots of the ranks' spill files, as a pool: its tree knows what is in them.
    std::unique_ptr<kvpool::BlockPool> spilled;
    Spill spill;
    std::vector<SequencePointer> running;  // in order of their turns
    std::vector<SequencePointer> left;     // cancelled, with steps in flight
    int32_t slots = 0;                     // running and left sequences and their followers
    int32_t fetching = 0;                  // of its sequences
    int32_t leases = 0;                    // that hold its blocks for fetches of other replicas
    std::vector<Flight> flights;           // a ring
    size_t oldest = 0;
    size_t in_flight = 0;
    uint64_t step_number = 0;
    std::vector<kvpool::BlockCopy> copies;  // for the next step
    std::vector<int32_t> free_swap;
    RecentMedian prefill_seconds;  // per token
    RecentMedian decode_seconds;   // per step
    RecentMedian copy_seconds;     // per block
    Clock::time_point taken{};     // when the last result was
    int32_t cost = 0;              // of the sequence that a place is sought for
    int32_t cached = 0;            // blocks of it, as ChooseReplicas found
    int32_t in_file = 0;           // the same in its spill file
  };

  // A prefix on its way from the cache of `source`, or out of its spill file, to the replica of
  // `sequence`.
  struct Fetch {
    uint64_t ticket;
    Sequence* sequence;  // null: its replica is lost
    Replica* source;
    bool restores;             // from the replica's own spill file
    kvpool::SequenceId lease;  // holds the source's blocks, or slots
    int32_t own_tokens;        // that the sequence has without it
    int32_t blocks;
    Clock::time_point ordered;
  };

  SequencePointer NewSequence(Job& job, int32_t candidate, int32_t followers);
  void Wait(SequencePointer sequence);
  Status Admit();
  // The waiting sequence whose turn it is; null: none waits.
  Waiting* ChooseTenant();
  Waiting::iterator ChooseSequence(Waiting& waiting);
  // Leaves in path_ what the replica has of its ids.
  void Match(const Sequence& sequence, Replica& replica);
  // The replicas where it may run, the best first.
  std::span<Replica* const> ChooseReplicas(const Sequence& sequence);
  bool Fits(const Sequence& sequence, const Replica& replica) const;
  bool IsFull(const Replica& replica) const;
  // The last running sequence that may give way to one of `priority`; running.size(): none.
  size_t Displaced(const Replica& replica, int32_t priority) const;
  Status Start(SequencePointer sequence, Replica& replica);
  // Out of what `destination` should get what it lacks of a sequence, having `own` blocks of it, by
  // Replica::cached and in_file.
  struct Source {
    Replica* replica = nullptr;  // null: nothing has more, or computing is sooner done
    bool restores = false;       // its spill file
    int32_t blocks = 0;
  };
  Source ChooseSource(Replica& destination, int32_t own);
  // Of blocks after `before` others, measured or as the plan predicts; 0: not known.
  double ComputeSeconds(const Replica& replica, int32_t before, int32_t blocks) const;
  // Of a block, measured or assumed.
  double FetchSeconds(const Source& source, const Replica& destination);
  RecentMedian& FetchTimes(const Source& source, const Replica& destination);
  // Whether a step in flight, or the next one, copies out of any of the blocks: what sequences that
  // were preempted had in them goes to swap memory no sooner.
  static bool CopiesFrom(Replica& replica, std::span<const int32_t> blocks);
  // Orders what another replica has of a sequence that has just been placed, if it is worth it.
  Status StartFetch(Sequence& sequence);
  // Takes the outcomes that have come, and notes what is lost; true if there was anything.
  bool TakeFetches();
  void EndFetch(const Fetch& fetch, const kvpool::TransferOutcome& outcome);
  // Writes cold blocks to the spill file where there is soon no free one, one path at a time.
  Status SpillCold(Replica& replica);
  void EndSpill(Replica& replica, const kvpool::TransferOutcome& outcome);
  // Its sequences wait again, with the ids that they have; its blocks are gone.
  void Lose(int replica);
  // Waits for the oldest step of any replica that has one, or for a loss.
  Status TakeAnyStep();
  // The step or fetch that was the last with a cancelled sequence is done: true if it was one.
  bool ForgetLeft(Sequence& sequence);
  // Starts a step of the replica if it may have one more and there is work for it.
  StatusOr<bool> StartStep(Replica& replica);
  // Waits for the replica's oldest step and takes its result.
  Status TakeStep(Replica& replica);
  // While a step computes in this process, the other replicas go on.
  Status Meanwhile();
  Status GiveDecodesTheirRows(Replica& replica);
  Status GivePromptsTheirRows(Replica& replica);
  int32_t PromptBudget(Replica& replica) const;
  // Sequences that a step should have, so that there is work for all that may be in flight.
  int32_t SequencesOfAStep(const Replica& replica) const;
  // Whether the step under composition has a place for the sequence and its draws.
  bool HasPlace(Replica& replica, const Sequence& sequence) const;
  // Draws that the step under composition may still have.
  int32_t FreeDraws(Replica& replica) const;
  // Draws that the step may have beyond those of its sequences' own ids.
  int32_t SpareDraws(const Replica& replica) const;
  void Draft(Sequence& sequence, int32_t most);
  // Makes room for `rows` more tokens of running[index] at the cost of those after it; the tokens
  // that it then has room for.
  StatusOr<int32_t> MakeRoom(Replica& replica, size_t index, int32_t rows);
  void Preempt(Replica& replica, size_t index);
  bool SwapOut(Sequence& sequence);
  Status SwapIn(Sequence& sequence);
  void DropSwapped(Sequence& sequence);
  double PrefillSeconds(const Replica& replica) const;  // per token, measured or as the plan
                                                        // predicts; 0: not known
  void Compose(Replica& replica);
  void Measure(Replica& replica, const StepResult& result);
  Status Advance(Replica& replica, const StepResult& result);
  Status Take(Sequence& sequence, const StepResult& result, size_t draw);
  bool IsComplete(const Sequence& sequence, int32_t id) const;
  void ForkFollowers(Sequence& leader, const StepResult& result, size_t draw);
  void Tell(Sequence& sequence);
  void Finish(Sequence& sequence, FinishReason reason);
  void GiveBack(Sequence& sequence);
  void EndJob(Job& job);
  void RemoveFinished();

  const plan::Plan& plan_;
  StepRunner& runner_;
  EngineOptions options_;
  const checkpoint::Tokenizer* tokenizer_;
  std::vector<int32_t> end_ids_;
  EngineEvents events_;
  const plan::Limits& limits_;
  StepCapacity capacity_;
  int32_t most_running_;  // sequences of a replica at a time
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::vector<std::unique_ptr<Replica>> lost_;
  std::vector<Replica*> candidates_;
  Replica* computing_ = nullptr;  // whose Start is under way
  size_t in_flight_ = 0;          // steps, of all replicas
  std::vector<Fetch> fetches_;
  int32_t spills_ = 0;  // under way
  uint64_t tickets_ = 0;
  RecentMedian near_fetch_seconds_;  // per block, within a host
  RecentMedian far_fetch_seconds_;
  RecentMedian restore_seconds_;        // from the replica's own spill file
  RecentMedian other_restore_seconds_;  // from another's
  Clock::duration admission_{};         // of this turn
  bool pinned_ = false;
  kvpool::PageTable page_table_;
  std::vector<kvpool::SequenceId> step_ids_;
  std::map<size_t, Job> jobs_;
  Tenants tenants_;
  std::map<const Tenant*, Waiting> waiting_;
  size_t waiting_count_ = 0;
  bool blocked_ = false;          // nothing has changed since admission failed
  bool retry_ = false;            // but what may be displaced was in flight
  std::vector<Sequence*> drawn_;  // of the step that is being taken: those with new ids
  std::vector<int32_t> path_;
  int32_t window_;  // tokens that a sequence's cache must keep; 0: all
  size_t submitted_ = 0;
  double predicted_prefill_ = 0;  // seconds per token, from the plan
  double block_bytes_ = 0;        // all ranks of a replica
  double growth_ = 0;             // of a block's computation with each block before it
  Clock::time_point taken_{};     // when the last result was, of any replica
  size_t scheduled_ = 0;
  bool any_finished_ = false;
  std::vector<size_t> ended_;  // jobs that are complete, to be told of
  EngineStatistics statistics_;
};

}  // namespace llmir::executor
