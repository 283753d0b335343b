// The engine of a replica, on its rank 0: a queue of requests becomes steps. Each turn is a few
// small actions, one per file: admit (admit.cc), compose a step of decodes and prefill chunks
// (compose.cc), take the drawn ids (advance.cc).
//
// One thread. A request holds its worst case of KV blocks from admission on, so a running request
// never lacks one.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "executor/rank.h"
#include "executor/request.h"
#include "executor/text_stream.h"
#include "kvpool/block_pool.h"
#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/tokenizer.h"

namespace llmir::executor {

struct EngineEvents {
  // A new id of request `request`, with the text that can be shown.
  std::function<void(size_t request, int32_t id, const std::string& text)> on_token;
  std::function<void(size_t request, const Completion& completion)> on_finish;
  // The logits that id number `position` of the answer is drawn from; asked for by setting it.
  std::function<Status(size_t request, int32_t position, std::span<const float> logits)> on_logits;
};

struct EngineStatistics {
  uint64_t steps = 0;
  uint64_t prompt_tokens = 0;
  uint64_t generated_tokens = 0;
  double prefill_seconds = 0;  // of steps with prefill rows
  double decode_seconds = 0;   // of steps with decodes only
  uint64_t decode_rows = 0;    // rows of those
  uint64_t decode_steps = 0;
  double decode_context = 0;  // sum over those rows of tokens attended to
  int32_t peak_blocks = 0;
  uint64_t pinned_tokens = 0;  // of prefixes, computed before the first request
  double pin_seconds = 0;
  uint64_t prefix_hits = 0;    // requests that began with a pinned prefix
  uint64_t reused_tokens = 0;  // of their prompts, not computed again
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
  Engine(Rank& rank, const checkpoint::Tokenizer* tokenizer, std::vector<int32_t> end_ids,
         EngineEvents events);

  // Queues it; returns its number, 0, 1, 2, ...
  StatusOr<size_t> Submit(Request request);
  // Until the queue is empty, or `cancelled` turns true: then what runs ends as kCancelled.
  Status Run(const std::atomic<bool>& cancelled);

  const EngineStatistics& statistics() const { return statistics_; }

 private:
  using Clock = std::chrono::steady_clock;

  struct Sequence {
    size_t number;
    Request request;
    kvpool::SequenceId id = -1;
    int32_t prefix = -1;       // into Plan.prefixes: what its prompt starts with
    int32_t worst_blocks = 0;  // besides the prefix's
    int32_t prefilled = 0;     // prompt tokens in the cache
    int32_t step_tokens = 0;   // rows in the step under way
    int32_t next_id = 0;       // fed by the next decode
    Completion completion;
    TextStream text;
    Clock::time_point submitted, first_token, last_token;

    bool prefilling() const { return prefilled < static_cast<int32_t>(request.prompt_ids.size()); }
    // Tokens in the cache when the last id has been drawn.
    int32_t worst_tokens() const {
      return static_cast<int32_t>(request.prompt_ids.size()) + request.max_tokens - 1;
    }
  };

  Status Pin(const std::atomic<bool>& cancelled);
  // `sequence`, still empty, begins with the pinned prefix (-1: none); returns its tokens.
  StatusOr<int32_t> SharePinned(kvpool::SequenceId sequence, int32_t prefix);
  Status Admit();
  Status Compose();
  Status Advance(const StepResult& result);
  void Take(Sequence& sequence, int32_t id);
  void Finish(Sequence& sequence, FinishReason reason);

  Rank& rank_;
  const checkpoint::Tokenizer* tokenizer_;
  std::vector<int32_t> end_ids_;
  EngineEvents events_;
  const plan::Limits& limits_;
  kvpool::BlockPool pool_;
  kvpool::PageTable page_table_;
  std::vector<kvpool::BlockCopy> copies_;
  StepDescriptor descriptor_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
  std::vector<kvpool::SequenceId> pinned_;  // by Plan.prefixes index, once computed
  std::vector<Sequence*> step_;             // sequences of the step under way, decodes first
  std::vector<kvpool::SequenceId> step_ids_;
  int32_t window_;  // tokens that a sequence's cache must keep; 0: all
  int32_t reserved_blocks_ = 0;
  size_t submitted_ = 0;
  uint64_t step_number_ = 0;
  EngineStatistics statistics_;
};

}  // namespace llmir::executor
