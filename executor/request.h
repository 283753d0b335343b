// What a user asks for and what comes back: requests, their sampling options, completions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace llmir::executor {

// How the next id is drawn from a row of logits. Plain data: it travels in step descriptors.
struct SamplingOptions {
  float temperature = 0;  // 0: the most probable id (greedy)
  int32_t top_k = 0;      // keep the k most probable ids; 0: all
  float top_p =
      1;  // keep the smallest set of most probable ids whose probabilities sum to at least this
  float min_p = 0;    // keep ids at least this fraction as probable as the most probable one
  uint64_t seed = 0;  // noise is a function of (seed, position) alone
};

struct Request {
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t>
      force_ids;  // fed through the decode path instead of sampled ids; empty: none
  SamplingOptions sampling;
  int32_t max_tokens = 256;
  std::vector<std::string> stop;  // the answer ends before the first of these
  bool ignore_eos = false;        // end ids don't end the answer
  int32_t n = 1;                  // answers that are given
  int32_t best_of = 0;            // answers that are drawn, the n likeliest being given; 0: n
  std::string tenant;             // whose turn it takes, and who shares what it caches
  int32_t priority = 0;           // before all requests of lower ones
  // Ids of the answer that were drawn before, by this engine or another: it goes on after them.
  std::vector<int32_t> resume_ids;
  bool details = false;  // token events have their DrawDetails

  int32_t candidates() const { return best_of > n ? best_of : n; }
};

// The options of candidate number `candidate`: the first draws as a request for one does.
SamplingOptions CandidateSampling(const SamplingOptions& sampling, int32_t candidate);

enum class FinishReason : uint8_t { kStop, kLength, kCancelled };
const char* FinishReasonName(FinishReason reason);  // "stop", "length", "cancelled"

struct Completion {
  std::vector<int32_t> ids;  // generated; an end id that ended it is the last one
  std::string text;          // without special tokens, cut before a stop string
  FinishReason finish_reason = FinishReason::kCancelled;
  double logprob = 0;    // of all ids together, where details were asked for or needed
  double ttft_ms = 0;    // from submission to the first token
  double decode_ms = 0;  // from the first token to the last
  bool finished = false;
};

}  // namespace llmir::executor
