// Paged attention over the KV cache, and the appending of keys and values to it.
//
// Orders, the same for prefill and decode, any batch and any number of threads, whichever heads
// share a read: score = fma(q[d], k[d], s) for d ascending from 0, times the key's scale where the
// cache has scales, then * scale, then softcap * tanh(score / softcap) where there is a softcap.
//
// Flash: keys are taken in tiles of kKvTile tokens at absolute multiples of it, one online softmax
// state (maximum m, sum l, accumulator o[d]) over the tiles of a split, splits being kKvSplit
// tokens at absolute multiples of it, each from the empty state; o = fma(p[j], v[j], o) for j
// ascending; within a tile the sum of p is taken over 16 lanes (token mod 16) and then folded 8, 4,
// 2, 1; splits are merged in ascending order. Masked tokens count as p = 0, and tiles and splits of
// masked tokens alone aren't there. A tile with the new maximum m' first scales o by c = exp(m -
// m'), and l = fma(l, c, sum of p). A merge with split s scales both sides to m' = max(m, m_s): o =
// fma(o_s, exp(m_s - m'), o * exp(m - m')), l likewise. At the end, output = o * (1 / l).
//
// Fused softmax and masked: m is the maximum of the whole row, l the sum of p = exp(score - m) over
// 16 lanes (token mod 16), then folded; o = fma(p[j], v[j], o) for j ascending over the whole row;
// output = o * (1 / l). Standard: the same, but p becomes p / l before it meets the values.
//
// Where the cache has scales, p[j] is multiplied by the value's scale after it went into l. A
// window only masks: it moves no tile and no split.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"

namespace llmir::kernels {

inline constexpr int64_t kKvTile = 64;
inline constexpr int64_t kKvSplit = 256;
inline constexpr int64_t kKvLanes = 16;  // tokens that lie side by side in K

// How keys and values are stored; float rows become them rounded to nearest even.
//   kF8E4M3: OCP FP8, saturating at 448.
//   kI8: times a scale per token and KV head, max |x| / 127 of the token's head row, so that later
//   tokens never change earlier ones. A row with a NaN or an infinity gets the scale NaN.
enum class KvType : uint8_t { kF32, kBF16, kI8, kF8E4M3 };

// How a row of attention is computed. All give the same values up to the order of sums, above.
//   kFlash: tile by tile with an online softmax; tiles that are masked for a row are skipped.
//   kFusedSoftmax: all scores of a row, then one pass over them, then the values.
//   kMasked: the same over whole KV blocks: a mask makes p of the tokens that the row doesn't
//   attend to 0, and blocks that are masked altogether are skipped. kStandard: scores, scale, mask,
//   maximum, exponential, sum, division and values each in a pass over all tokens of the sequence,
//   and each query head by itself: what the others are compared with.
enum class AttentionForm : uint8_t { kFlash, kFusedSoftmax, kMasked, kStandard };

// One layer of a rank's cache. A slice is a KV head's keys, or its values, of a block: K as
// [block_size / 16][head_dim][16 tokens], V as [block_size][head_dim], and for int8 their scales
// behind them, [block_size] floats. Slices of successive blocks lie side by side within an extent:
// [layer][KV head][K, V][extent_blocks][slice]. What is read is then in runs of an extent's blocks:
// of the 53 GB/s that two threads of a Zen 5 read in long streams, pieces of 4 KiB get 36, runs of
// 32 KiB 42, of 64 KiB 46. block_size is a power of two and a multiple of 16, extent_blocks a power
// of two.
struct KvLayer {
  std::byte* data;       // this layer's first head's keys in block 0
  int64_t extent_bytes;  // from extent to extent
  int64_t slice_bytes;   // from block to block within an extent
  int64_t
      extent_blocks;   // from K to V of a head extent_blocks * slice_bytes, to the next twice that
  int64_t block_size;  // tokens
  int64_t head_dim;
  KvType type;
};

// The sequences of a step (the CSR view of kvpool's page table). Row i of the step's tokens belongs
// to the sequence s with query_indptr[s] <= i < query_indptr[s + 1]; its position is kv_tokens[s] -
// (query_indptr[s + 1] - i).
struct SequenceTable {
  int64_t sequences;
  const int32_t* query_indptr;  // [sequences + 1] token rows
  const int32_t* kv_indptr;     // [sequences + 1] into kv_indices
  const int32_t* kv_indices;    // block ids; -1: given back, out of every window
  const int32_t* kv_tokens;     // [sequences] tokens in the cache after this step's append
};

struct RopeArgs {
  const float* frequencies;  // [rope_dim / 2] radians per position
  int64_t rope_dim;
  bool interleaved;  // pairs (2i, 2i + 1), else (i, i + rope_dim / 2)
};

// qkv rows: [query_heads * head_dim | kv_heads * head_dim (k) | kv_heads * head_dim (v)] floats,
// this rank's heads.
struct RopeAppendArgs {
  float* qkv;
  int64_t qkv_stride;  // floats
  int64_t query_heads;
  int64_t kv_heads;
  RopeArgs rope;
  const float* cosines;  // [tokens][rope_dim / 2], from rope_tables()
  const float* sines;
  KvLayer kv;
  SequenceTable table;
  int64_t token_begin;  // this call's share of the rows
  int64_t token_end;
};

struct AttentionArgs {
  const float* q;  // rows of query_heads * head_dim floats, rotated
  int64_t q_stride;
  float* output;  // rows of query_heads * head_dim floats
  int64_t output_stride;
  int64_t query_heads;       // this rank's
  int64_t first_query_head;  // in the model
  int64_t first_kv_head;  // in the model; local KV head = (first_query_head + h) / heads_per_kv -
                          // first_kv_head
  int64_t heads_per_kv;   // query heads per KV head of the model
  float scale;            // 1 / sqrt(head_dim)
  KvLayer kv;
  SequenceTable table;
  std::byte* partials;  // shared by the threads: AttentionPartialBytes()
  std::byte* scratch;   // this thread's: scratch_bytes()
  int64_t thread;       // this call's share: thread of threads
  int64_t threads;
  int64_t window = 0;  // tokens that a token attends to, itself included; 0: all
  AttentionForm form = AttentionForm::kFlash;
  bool share_kv = true;  // query heads of a KV head read it once
  float softcap = 0;     // 0: none
};

// Bytes of split states for a step of `tokens` rows whose longest sequence has `max_kv_tokens`
// tokens in the cache.
int64_t AttentionPartialBytes(int64_t tokens, int64_t query_heads, int64_t head_dim,
                              int64_t max_kv_tokens, int64_t window = 0);

struct AttentionKernels {
  Isa isa;
  // cos and sin of position * frequency in double precision, rounded to float, for rows [begin,
  // end).
  void (*rope_tables)(const int32_t* positions, const RopeArgs& rope, int64_t begin, int64_t end,
                      float* cosines, float* sines);
  void (*rope_append)(const RopeAppendArgs& args);
  // Two phases with a barrier of all threads between them; the second does nothing for rows with
  // one split, and for forms other than flash.
  void (*attend)(const AttentionArgs& args);
  void (*merge)(const AttentionArgs& args);
  // rope_append and attend (flash) of steps with one token per sequence, in one pass and to the
  // same bits: the new token's key and value are attended to as they are written, not read back.
  // `attention.q` are the rows of `append.qkv`, which are left unrotated; its share of the work is
  // `attention.thread`'s. merge must follow as after attend.
  void (*append_attend)(const RopeAppendArgs& append, const AttentionArgs& attention);
  // Of a thread, for a step whose longest sequence has `max_kv_tokens` tokens in the cache.
  int64_t (*scratch_bytes)(int64_t head_dim, AttentionForm form, int64_t max_kv_tokens);
};

const AttentionKernels& FindAttention(Isa isa);

}  // namespace llmir::kernels
