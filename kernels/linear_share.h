// How threads share the product of a matrix and the rows of many tokens.
#pragma once

#include <cstdint>

#include "kernels/linear.h"
#include "kernels/worker_pool.h"

namespace llmir::kernels {

struct LinearShare {
  Share panels;
  Share tokens;
};

// From so many tokens of each thread on it takes tokens of its own and all panels. Norms and
// quantization divide rows too, so a thread finds in its own cache what it reads, adds to and
// writes; of a range of panels half of that is in another core's. 512 tokens of SmolLM2 on two
// threads of a Zen 5: o takes 24 % less time in q8_0, 14 in bf16 activations, 2 in f16, down 14, 7
// and 1, qkv and gate_up 0 to 2. With 48 to 96 tokens of each thread there is no difference.
inline constexpr int64_t kTokensToDivide = 64;

// Fewer tokens share the matrix, in multiples of `grain` panels: each of its bytes is read once.
constexpr LinearShare ShareOfLinear(int64_t panels, int64_t grain, int64_t tokens, int thread,
                                    int threads) {
  if (tokens >= kTokensToDivide * threads) {
    return {{0, panels}, ShareOf(tokens, 1, thread, threads)};
  }
  return {ShareOf(panels, grain, thread, threads), {0, tokens}};
}

// Makes the tokens and panels of `args` those of a share.
inline void TakeShare(const LinearShare& share, LinearArgs* args) {
  args->activations += share.tokens.begin * args->activation_stride;
  args->output += share.tokens.begin * args->output_stride;
  if (args->residual != nullptr) args->residual += share.tokens.begin * args->residual_stride;
  args->tokens = share.tokens.end - share.tokens.begin;
  args->panel_begin = share.panels.begin;
  args->panel_end = share.panels.end;
}

}  // namespace llmir::kernels
