// Paged attention over the KV cache, and the appending of keys and values to it.
//
// Orders, the same for prefill and decode, any batch and any number of threads: score = fma(q[d],
// k[d], s) for d ascending from 0, then * scale; keys are taken in tiles of kKvTile tokens at
// absolute multiples of it, one online softmax state (maximum m, sum l, accumulator o[d]) over the
// tiles of a split, splits being kKvSplit tokens at absolute multiples of it, each from the empty
// state; o = fma(p[j], v[j], o) for j ascending; within a tile the sum of p is taken over 16 lanes
// (token mod 16) and then folded 8, 4, 2, 1; splits are merged in ascending order. Masked tokens
// count as p = 0. A tile with the new maximum m' first scales o by c = exp(m - m'), and l = fma(l,
// c, sum of p). A merge with split s scales both sides to m' = max(m, m_s): o = fma(o_s, exp(m_s -
// m'), o * exp(m - m')), l likewise. At the end, output = o * (1 / l).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"

namespace llmir::kernels {

inline constexpr int64_t kKvTile = 64;
inline constexpr int64_t kKvSplit = 256;
inline constexpr int64_t kKvLanes = 16;  // tokens that lie side by side in K

enum class KvType : uint8_t { kF32, kBF16 };

// One layer of a rank's cache. A block holds, per KV head, K as [block_size / 16][head_dim][16
// tokens] and then V as [block_size][head_dim]. block_size is a power of two and a multiple of 16.
struct KvLayer {
  std::byte* data;      // this layer's first head in block 0
  int64_t block_bytes;  // from block to block
  int64_t head_bytes;   // from head to head: 2 * block_size * head_dim elements
  int64_t block_size;   // tokens
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
  const int32_t* kv_indices;    // block ids
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
};

// Bytes of split states for a step of `tokens` rows whose longest sequence has `max_kv_tokens`
// tokens in the cache.
int64_t AttentionPartialBytes(int64_t tokens, int64_t query_heads, int64_t head_dim,
                              int64_t max_kv_tokens);

struct AttentionKernels {
  Isa isa;
  // cos and sin of position * frequency in double precision, rounded to float, for rows [begin,
  // end).
  void (*rope_tables)(const int32_t* positions, const RopeArgs& rope, int64_t begin, int64_t end,
                      float* cosines, float* sines);
  void (*rope_append)(const RopeAppendArgs& args);
  // Two phases with a barrier of all threads between them; the second does nothing for rows with
  // one split.
  void (*attend)(const AttentionArgs& args);
  void (*merge)(const AttentionArgs& args);
  int64_t (*scratch_bytes)(int64_t head_dim, int64_t heads_per_kv);
};

const AttentionKernels& FindAttention(Isa isa);

}  // namespace llmir::kernels
