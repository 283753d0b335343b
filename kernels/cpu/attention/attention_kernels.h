// The kernels of kernels/attention.h as templates over a Simd family; each attention_<family>.cc
// instantiates one.
//
// A query row is one token's one head. The rows of a sequence that share a KV head are numbered
// token-major, so that neighbours have like causal limits, and are taken in blocks; a block goes
// through a split tile by tile, and each tile of K and V, read once, serves all rows of the block,
// a few at a time in registers. Rows of one token, as in decode, go through all keys of a split,
// then the softmax, then all values: nothing waits for a tile's softmax, and memory is read in long
// runs. Every row does its own arithmetic in its own order: which rows
// share a block, or a thread, changes nothing in its bits. The forms other than flash keep the
// scores of a few whole rows instead of states, and share the products' loops.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/attention.h"
#include "kernels/cpu/vector_math.h"

namespace llmir::kernels {

extern const AttentionKernels kAttentionPortable;
extern const AttentionKernels kAttentionAvx2;
extern const AttentionKernels kAttentionAvx512;

// The same for all families (attention.cc).
void RopeTables(const int32_t* positions, const RopeArgs& rope, int64_t begin, int64_t end,
                float* cosines, float* sines);

// A split state in `partials`: o[head_dim], m, l, and padding to 32 bytes.
constexpr int64_t kPartialExtra = 8;

struct F8 {
  uint8_t bits;  // OCP FP8 E4M3
};

template <typename S>
struct AttentionImpl {
  using F = typename S::F;

  static constexpr int kBlockRows = 24;  // share a tile from the nearest cache
  static constexpr int kMicroRows = S::kRegisters < 8 ? 2 : 6;  // share a load in registers
  static constexpr int kSplitRows = 2 * kMicroRows;  // of one token, that take a split in one go
  static constexpr int kTileGroups = kKvTile / kKvLanes;
  static constexpr int kSplitGroups = kKvSplit / kKvLanes;

  static constexpr int64_t RoundUp16(int64_t n) { return (n + 15) / 16 * 16; }
  static constexpr int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
  static constexpr int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

  // Sixteen-lane columns that `rows` rows can accumulate at once: rows * columns sums, one column
  // and one broadcast. With fewer sums than about ten registers the loops wait for their latency.
  static constexpr int Columns(int rows) {
    for (int columns = 4; columns > 1; columns /= 2) {
      if (rows * columns + 2 <= S::kRegisters) return columns;
    }
    return 1;
  }

  // Between columns: where the broadcasts of all rows don't fit beside the sums, each column loads
  // them anew. GCC would keep them, and one of the sums in memory, which costs the sum's latency.
  template <int R, int C>
  static LLMIR_INLINE void ForgetBroadcasts() {
    if constexpr (R * C + R + 1 > S::kRegisters) asm volatile("" ::: "memory");
  }

  // Sixteen lanes, or the first `lanes` of them: whole ones need no mask.
  static LLMIR_INLINE F LoadLanes(const float* p, int64_t lanes) {
    return lanes >= 16 ? S::Load(p) : S::LoadPartial(p, lanes);
  }
  static LLMIR_INLINE void StoreLanes(float* p, int64_t lanes, F x) {
    if (lanes >= 16) return S::Store(p, x);
    S::StorePartial(p, lanes, x);
  }

  // ---- elements of the cache --------------------------------------------------------------------

  // Types of elements: float, bfloat16 as uint16_t, int8 with scales, F8.
  template <typename Kv, typename Unused = void>
  struct Traits {
    static constexpr bool kScaled = false;
  };
  template <typename Unused>
  struct Traits<int8_t, Unused> {
    static constexpr bool kScaled = true;
  };

  static LLMIR_INLINE F LoadKv(const float* p) { return S::Load(p); }
  static LLMIR_INLINE F LoadKv(const uint16_t* p) { return S::LoadBF16(p); }
  static LLMIR_INLINE F LoadKv(const int8_t* p) { return S::LoadI8(p); }
  static LLMIR_INLINE F LoadKv(const F8* p) {
    return S::LoadF8(reinterpret_cast<const uint8_t*>(p));
  }
  static LLMIR_INLINE F LoadKvPartial(const float* p, int64_t count) {
    return S::LoadPartial(p, count);
  }
  static LLMIR_INLINE F LoadKvPartial(const uint16_t* p, int64_t count) {
    return S::LoadBF16Partial(p, count);
  }
  template <typename Kv>
  static LLMIR_INLINE F LoadKvPartial(const Kv* p, int64_t count) {
    Kv copy[16] = {};
    std::memcpy(copy, p, static_cast<size_t>(count) * sizeof(Kv));
    return LoadKv(copy);
  }

  // Lanes of a column, while sums over it are made, may be in another order than in memory.
  template <typename Kv>
  static LLMIR_INLINE F LoadColumn(const Kv* p) {
    if constexpr (std::is_same_v<Kv, uint16_t>) return S::LoadBF16Pairs(p);
    return LoadKv(p);
  }
  template <typename Kv>
  static LLMIR_INLINE F FromColumn(F x) {
    return std::is_same_v<Kv, uint16_t> ? S::FromPairs(x) : x;
  }
  template <typename Kv>
  static LLMIR_INLINE F ToColumn(F x) {
    return std::is_same_v<Kv, uint16_t> ? S::ToPairs(x) : x;
  }

  // Rounds x * inverse to the cache's type; `inverse` is 1 but for int8. Returns what is stored, as
  // a float.
  static LLMIR_INLINE float RoundStore(float x, float, float* out) { return *out = x; }
  static LLMIR_INLINE float RoundStore(float x, float, uint16_t* out) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    *out = static_cast<uint16_t>(nan ? bits >> 16 | 0x40u : rounded);
    bits = static_cast<uint32_t>(*out) << 16;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  static LLMIR_INLINE float RoundStore(float x, float inverse, int8_t* out) {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer, ties to even.
    const float rounded = (x * inverse + 12582912.0f) - 12582912.0f;
    *out = static_cast<int8_t>(rounded);
    return rounded;
  }
  static LLMIR_INLINE float RoundStore(float x, float, F8* out) {
    constexpr uint32_t kLargest = 0x7e;  // 448
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t sign = bits >> 24 & 0x80u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t result;
    if (magnitude > 0x7f800000u) {
      result = 0x7f;
    } else if (magnitude >= 0x43e00000u) {  // 448
      result = kLargest;
    } else if (magnitude >= 0x3c800000u) {  // 2^-6, the least normal value
      result = ((magnitude + 0x7ffffu + (magnitude >> 20 & 1)) >> 20) - (120u << 3);
    } else {
      // Floats from 2^14 to 2^15 are 2^-9 apart, the spacing of subnormal values.
      float shifted;
      std::memcpy(&shifted, &magnitude, 4);
      shifted += 16384.0f;
      std::memcpy(&result, &shifted, 4);
      result -= 0x46800000u;
    }
    out->bits = static_cast<uint8_t>(sign | result);
    float value = static_cast<float>(result) * 0x1p-9f;
    if (result >= 8) {
      bits = result == 0x7f ? 0x7fffe000u : (result << 20) + (120u << 23);
      std::memcpy(&value, &bits, 4);
    }
    return sign != 0 ? -value : value;
  }
  // The same for `lanes` lanes.
  static LLMIR_INLINE F RoundStoreLanes(F x, float, int64_t lanes, float* out) {
    StoreLanes(out, lanes, x);
    return x;
  }
  static LLMIR_INLINE F RoundStoreLanes(F x, float, int64_t lanes, uint16_t* out) {
    if (lanes >= 16) return S::RoundStoreBF16(out, x);
    uint16_t stored[16];
    x = S::RoundStoreBF16(stored, x);
    std::memcpy(out, stored, static_cast<size_t>(lanes) * sizeof(uint16_t));
    return x;
  }
  template <typename Kv>
  static LLMIR_INLINE F RoundStoreLanes(F x, float inverse, int64_t lanes, Kv* out) {
    float values[16];
    S::Store(values, x);
    for (int64_t i = 0; i < lanes; ++i) values[i] = RoundStore(values[i], inverse, out + i);
    return S::Load(values);
  }

  // Rounded as RoundStore does, not stored.
  static LLMIR_INLINE F RoundLanes(F x, float, const float*) { return x; }
  static LLMIR_INLINE F RoundLanes(F x, float, const uint16_t*) { return S::RoundBF16(x); }
  template <typename Kv>
  static LLMIR_INLINE F RoundLanes(F x, float inverse, const Kv*) {
    Kv stored[16];
    return RoundStoreLanes(x, inverse, 16, stored);
  }
  // Calls visit(Lane<i>) for i = 0 ... 15.
  template <int i>
  struct Lane {
    static constexpr int kIndex = i;
  };
  template <int i = 0, typename Visit>
  static LLMIR_INLINE void ForLanes(Visit& visit) {
    if constexpr (i < 16) {
      visit(Lane<i>{});
      ForLanes<i + 1>(visit);
    }
  }
  // Stores `lanes` rounded values of a key, at k[0], k[kKvLanes], ...
  template <typename Kv>
  static LLMIR_INLINE void StoreKeys(F rounded, int64_t lanes, Kv* k) {
    if constexpr (sizeof(Kv) > 1) {
      if (lanes >= 16) {
        const auto store = [&](auto lane) __attribute__((always_inline)) {
          constexpr int i = decltype(lane)::kIndex;
          S::template StoreLane<i>(k + i * kKvLanes, rounded);
        };
        ForLanes(store);
        return;
      }
    }
    float values[16];
    S::Store(values, rounded);
    // What is rounded already rounds to itself.
    for (int64_t i = 0; i < lanes; ++i) RoundStore(values[i], 1.0f, k + i * kKvLanes);
  }

  // Of one head of a block.
  template <typename Kv>
  static LLMIR_INLINE Kv* KeysOf(const KvLayer& kv, int64_t block, int64_t head) {
    const int64_t extent = block >> __builtin_ctzll(static_cast<uint64_t>(kv.extent_blocks));
    const int64_t slice = 2 * head * kv.extent_blocks + (block & (kv.extent_blocks - 1));
    return reinterpret_cast<Kv*>(kv.data + extent * kv.extent_bytes + slice * kv.slice_bytes);
  }
  template <typename Kv>
  static LLMIR_INLINE Kv* ValuesOf(const KvLayer& kv, Kv* keys) {
    return reinterpret_cast<Kv*>(reinterpret_cast<std::byte*>(keys) +
                                 kv.extent_blocks * kv.slice_bytes);
  }
  // Behind the keys, or the values: [block_size].
  static LLMIR_INLINE float* ScalesOf(const KvLayer& kv, int8_t* slice) {
    return reinterpret_cast<float*>(slice + kv.block_size * kv.head_dim);
  }

  // Where the groups of lanes of a tile lie.
  template <typename Kv>
  struct Groups {
    Kv* k[kTileGroups];            // [head_dim][kKvLanes]
    Kv* v[kTileGroups];            // [kKvLanes][head_dim]
    float* k_scales[kTileGroups];  // [kKvLanes], of int8 alone
    float* v_scales[kTileGroups];
  };
  // Fills in the groups of the tile at `tile` with tokens of [begin, end).
  template <typename Kv>
  static LLMIR_INLINE void Locate(const KvLayer& kv, const int32_t* blocks, int64_t kv_head,
                                  int64_t tile, int64_t begin, int64_t end, Groups<Kv>& groups) {
    for (int g = 0; g < kTileGroups; ++g) {
      const int64_t token = tile + g * kKvLanes;
      if (token + kKvLanes <= begin) continue;
      if (token >= end) break;
      const int64_t slot = token % kv.block_size;
      Kv* keys = KeysOf<Kv>(kv, blocks[token / kv.block_size], kv_head);
      Kv* values = ValuesOf(kv, keys);
      groups.k[g] = keys + slot * kv.head_dim;
      groups.v[g] = values + slot * kv.head_dim;
      if constexpr (Traits<Kv>::kScaled) {
        groups.k_scales[g] = ScalesOf(kv, keys) + slot;
        groups.v_scales[g] = ScalesOf(kv, values) + slot;
      }
    }
  }

  // The token that a fused step appends, of one KV head.
  struct NewToken {
    // Rounded as the cache holds them, the key rotated before. The value is in the cache already.
    const float* key;
    const float* value;
  };

  // ---- sharing of the work ----------------------------------------------------------------------

  // A thread's interval of the line along which the costs of all work lie end to end. An item
  // belongs to the thread in whose interval it starts.
  struct CostShare {
    int64_t begin;
    int64_t end;
    CostShare(int64_t total, int64_t thread, int64_t threads)
        : begin(total * thread / threads), end(total * (thread + 1) / threads) {}
    // Of `count` items of `cost` each, the first starting at `start`: how many start before
    // `position`.
    static int64_t Before(int64_t position, int64_t start, int64_t cost, int64_t count) {
      return Max(0, Min(count, (position - start + cost - 1) / cost));
    }
  };

  // The rows of one sequence that read one KV head, over one split.
  struct Unit {
    int64_t first_token;     // row of the step
    int64_t first_position;  // of that token
    int64_t kv_tokens;       // of the sequence
    int64_t kv_head;         // local
    int64_t first_head;      // local query head
    int64_t heads;
    int64_t row_begin;  // rows of this block: (token - first_token) * heads + (head - first_head)
    int64_t row_end;
    int64_t split;
    int64_t first_split;  // of the sequence
    int64_t splits;       // of the sequence
    const int32_t* blocks;
    int64_t partial_base;  // split states of the sequences before this one
  };

  // The first token that the one at `position` attends to.
  static LLMIR_INLINE int64_t WindowBegin(const AttentionArgs& args, int64_t position) {
    return args.window > 0 ? Max(0, position + 1 - args.window) : 0;
  }
  static LLMIR_INLINE int64_t SplitTokens(const AttentionArgs& args) {
    return args.form == AttentionForm::kFlash ? kKvSplit : int64_t{1} << 40;
  }

  // Calls visit(unit, cost of one row) for every unit of the step, in one order for all threads.
  template <typename Visit>
  static LLMIR_INLINE void ForEachUnit(const AttentionArgs& args, int64_t block_rows, Visit visit) {
    // The work around a tile (softmax, loads and stores of the state) in units of the work for one
    // token.
    constexpr int64_t kRowOverhead = 16;
    const int64_t split_tokens = SplitTokens(args);
    const bool share = args.share_kv && args.form != AttentionForm::kStandard;
    int64_t partial_base = 0;
    for (int64_t s = 0; s < args.table.sequences; ++s) {
      Unit unit;
      unit.first_token = args.table.query_indptr[s];
      const int64_t tokens = args.table.query_indptr[s + 1] - unit.first_token;
      if (tokens == 0) continue;
      unit.kv_tokens = args.table.kv_tokens[s];
      unit.first_position = unit.kv_tokens - tokens;
      unit.first_split = WindowBegin(args, unit.first_position) / split_tokens;
      unit.splits = (unit.kv_tokens - 1) / split_tokens + 1 - unit.first_split;
      unit.blocks = args.table.kv_indices + args.table.kv_indptr[s];
      unit.partial_base = partial_base;
      partial_base += tokens * args.query_heads * unit.splits;
      for (unit.first_head = 0; unit.first_head < args.query_heads; unit.first_head += unit.heads) {
        const int64_t model_head = args.first_query_head + unit.first_head;
        const int64_t model_kv_head = model_head / args.heads_per_kv;
        unit.kv_head = model_kv_head - args.first_kv_head;
        unit.heads = share ? Min((model_kv_head + 1) * args.heads_per_kv - model_head,
                                 args.query_heads - unit.first_head)
                           : 1;
        for (unit.split = unit.first_split; unit.split < unit.first_split + unit.splits;
             ++unit.split) {
          const int64_t split_begin = unit.split * split_tokens;
          const int64_t split_end = split_begin + split_tokens;
          const int64_t first = Max(0, split_begin - unit.first_position);
          const int64_t end = args.window > 0
                                  ? Min(tokens, split_end + args.window - 1 - unit.first_position)
                                  : tokens;
          for (unit.row_begin = first * unit.heads; unit.row_begin < end * unit.heads;
               unit.row_begin = unit.row_end) {
            unit.row_end = unit.row_begin + Min(block_rows, end * unit.heads - unit.row_begin);
            const int64_t last = unit.first_position + (unit.row_end - 1) / unit.heads;
            const int64_t begin =
                WindowBegin(args, unit.first_position + unit.row_begin / unit.heads);
            const int64_t length = Min(last + 1, split_end) - Max(begin, split_begin);
            visit(unit, RoundUp16(length) + kRowOverhead);
          }
        }
      }
    }
  }

  // ---- the two products -------------------------------------------------------------------------

  // Runs of a head are shorter than what the processor's own prefetch needs to catch up: each load
  // brings what lies a tile ahead in the order of reading, line after line of it, whatever order
  // the loads have (K's go through four groups at once, which as prefetches cost a tenth). Two
  // tiles ahead the same; into the second level instead of the first, 28 instead of 31 GB/s on one
  // thread of a Zen 5 (12 without); all lines of a tile at once would wait for each other.
  static LLMIR_INLINE void FetchNext(const void* p) { __builtin_prefetch(p, 0, 3); }

  // scores[r][16 g + lane] = sum over d of q[r][d] * k[g][d][lane]. next_k: groups to be fetched.
  template <int R, int C, typename Kv>
  static LLMIR_INLINE void ScoreGroups(const float* const* q, Kv* const* k, Kv* const* next_k,
                                       int64_t head_dim, float* scores, int64_t stride) {
    F sum[R][C];
    const float* query[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      query[r] = q[r];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sum[r][c] = S::Zero();
    }
    const Kv* keys_of[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) keys_of[c] = k[c];
    const auto step = [&](int64_t d, const char* fetch) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        if (fetch != nullptr) FetchNext(fetch + c * 64);
        const F keys = LoadColumn(keys_of[c] + d * kKvLanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r][c] = S::Fma(S::Set(query[r][d]), keys, sum[r][c]);
        ForgetBroadcasts<R, C>();
      }
    };
    constexpr int kLine = 64 / (kKvLanes * sizeof(Kv));
    const int64_t lines = head_dim / kLine / C;
    int64_t d = 0;
    for (int c = 0; c < C; ++c) {
      const auto* fetch = reinterpret_cast<const char*>(next_k[c]);
      for (int64_t line = 0; line < lines; ++line, fetch += C * 64, d += kLine) {
#pragma GCC unroll 4
        for (int i = 0; i < kLine; ++i) step(d + i, i == 0 ? fetch : nullptr);
      }
    }
    for (; d < head_dim; ++d) step(d, nullptr);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        S::Store(scores + r * stride + c * kKvLanes, FromColumn<Kv>(sum[r][c]));
      }
    }
  }

  // The same for the group of a new token, whose key is stored at `lane`: of the group only the
  // lanes before it are read, none where it is the first.
  template <int R, typename Kv>
  static LLMIR_INLINE void ScoreNewToken(const float* const* q, Kv* k, int64_t lane,
                                         const NewToken& new_token, int64_t head_dim, float* scores,
                                         int64_t stride) {
    // Copies that no store of a vector can have changed: they stay in registers.
    const NewToken token = new_token;
    // Rows whose queries stay in registers for 16 of d, beside the sums, the key, the mask and the
    // column; the others' are loaded one by one.
    constexpr int kHeld =
        S::kRegisters > R + 3 ? (S::kRegisters - R - 3 < R ? S::kRegisters - R - 3 : R) : 0;
    F sum[R];
    const float* query[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      sum[r] = S::Zero();
      query[r] = q[r];
    }
    const auto step = [&](int64_t d, F keys) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sum[r] = S::Fma(S::Set(query[r][d]), keys, sum[r]);
    };
    // kFirst: of the group, not even the lanes before are read.
    const auto add = [&]<bool kFirst>() __attribute__((always_inline)) {
      const auto before = S::FirstLanes(lane);
      int64_t d = 0;
      for (; d + 16 <= head_dim; d += 16) {
        const F rounded = S::Load(token.key + d);
        F queries[R];
#pragma GCC unroll 8
        for (int r = 0; r < kHeld; ++r) queries[r] = S::Load(query[r] + d);
        const auto add_lane = [&](auto index) __attribute__((always_inline)) {
          constexpr int i = decltype(index)::kIndex;
          F keys = S::template Broadcast<i>(rounded);
          if constexpr (!kFirst) keys = S::Select(before, LoadKv(k + (d + i) * kKvLanes), keys);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) {
            const F q = r < kHeld ? S::template Broadcast<i>(queries[r]) : S::Set(query[r][d + i]);
            sum[r] = S::Fma(q, keys, sum[r]);
          }
        };
        ForLanes(add_lane);
        // After the loads: a load that spans a store still under way would wait for it.
        StoreKeys(rounded, 16, k + d * kKvLanes + lane);
      }
      for (; d < head_dim; ++d) {
        Kv* group = k + d * kKvLanes;
        const F keys = kFirst ? S::Zero() : LoadKv(group);
        RoundStore(token.key[d], 1.0f, group + lane);
        step(d, S::Select(before, keys, S::Set(token.key[d])));
      }
    };
    if (lane == 0) {
      add.template operator()<true>();
    } else {
      add.template operator()<false>();
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) S::Store(scores + r * stride, sum[r]);
  }

  // Scores of groups [begin, end) of a tile, the last of them a new token's where there is one.
  template <int R, bool kNew, typename Kv>
  static LLMIR_INLINE void Scores(const float* const* q, Kv* const* k, Kv* const* next,
                                  int64_t begin, int64_t end, int64_t lane, const NewToken* token,
                                  int64_t head_dim, float* scores, int64_t stride) {
    constexpr int kColumns = Columns(R);
    const int64_t old_end = kNew ? end - 1 : end;
    int64_t g = begin;
    for (; g + kColumns <= old_end; g += kColumns) {
      ScoreGroups<R, kColumns>(q, k + g, next + g, head_dim, scores + g * kKvLanes, stride);
    }
    if constexpr (kColumns > 2) {
      for (; g + 2 <= old_end; g += 2) {
        ScoreGroups<R, 2>(q, k + g, next + g, head_dim, scores + g * kKvLanes, stride);
      }
    }
    if constexpr (kColumns > 1) {
      for (; g < old_end; ++g) {
        ScoreGroups<R, 1>(q, k + g, next + g, head_dim, scores + g * kKvLanes, stride);
      }
    }
    if constexpr (kNew) {
      ScoreNewToken<R>(q, k[g], lane, *token, head_dim, scores + g * kKvLanes, stride);
    }
  }

  // Per tile with tokens of [begin, end): o[r][16 c + lane] = o * corrections[tile][r], then +=
  // p[r][j] * v[j] for its j. Groups and tiles are counted from j = 0. kPartial: of the one column,
  // only lanes within head_dim exist.
  template <int R, int C, bool kPartial, typename Kv>
  static LLMIR_INLINE void AccumulateColumns(const float* p, int64_t p_stride, Kv* const* v,
                                             Kv* const* next, int64_t column, int64_t head_dim,
                                             int64_t begin, int64_t end,
                                             const float (*corrections)[16], float* o,
                                             int64_t o_stride) {
    F sum[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        sum[r][c] = ToColumn<Kv>(S::Load(o + r * o_stride + column + 16 * c));
      }
    }
    const auto correct = [&](int64_t tile) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const F factor = S::Set(corrections[tile][r]);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sum[r][c] = S::Mul(sum[r][c], factor);
      }
    };
    const auto add = [&](int64_t j, int c, F values) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        sum[r][c] = S::Fma(S::Set(p[r * p_stride + j]), values, sum[r][c]);
      }
      ForgetBroadcasts<R, C>();
    };
    int64_t corrected = -1;
    for (int64_t j = begin; j < end;) {
      if (j / kKvTile != corrected) correct(corrected = j / kKvTile);
      const int64_t group_end = Min(end, (j / kKvLanes + 1) * kKvLanes);
      const Kv* row = v[j / kKvLanes] + j % kKvLanes * head_dim + column;
      const Kv* next_row = next[j / kKvLanes] + j % kKvLanes * head_dim + column;
      for (; j < group_end; ++j, row += head_dim, next_row += head_dim) {
        if constexpr (kPartial) {
          add(j, 0, ToColumn<Kv>(LoadKvPartial(row, head_dim - column)));
        } else {
#pragma GCC unroll 4
          for (int c = 0; c < C; ++c) {
            if (c % (64 / (16 * sizeof(Kv))) == 0) FetchNext(next_row + 16 * c);
            add(j, c, LoadColumn(row + 16 * c));
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        S::Store(o + r * o_stride + column + 16 * c, FromColumn<Kv>(sum[r][c]));
      }
    }
  }

  // A function of its own: its loops have the registers, whoever calls it.
  template <int R, typename Kv>
  static __attribute__((noinline)) void Accumulate(const float* p, int64_t p_stride, Kv* const* v,
                                                   Kv* const* next, int64_t head_dim, int64_t begin,
                                                   int64_t end, const float (*corrections)[16],
                                                   float* o, int64_t o_stride) {
    constexpr int kColumns = Columns(R);
    int64_t column = 0;
    for (; column + 16 * kColumns <= head_dim; column += 16 * kColumns) {
      AccumulateColumns<R, kColumns, false>(p, p_stride, v, next, column, head_dim, begin, end,
                                            corrections, o, o_stride);
    }
    for (; column + 16 <= head_dim; column += 16) {
      AccumulateColumns<R, 1, false>(p, p_stride, v, next, column, head_dim, begin, end,
                                     corrections, o, o_stride);
    }
    if (column < head_dim) {
      AccumulateColumns<R, 1, true>(p, p_stride, v, next, column, head_dim, begin, end, corrections,
                                    o, o_stride);
    }
  }
  // The same with the last of tokens [begin, end) a new one: o[r] = fma(p[r][end - 1], its value,
  // o[r]), after a correction where it is the first of its tile. By itself: within the loops above
  // it would take registers from them.
  template <int R, typename Kv>
  static LLMIR_INLINE void AccumulateWithNew(const float* p, int64_t p_stride, Kv* const* v,
                                             Kv* const* next, int64_t head_dim, int64_t begin,
                                             int64_t end, const float (*corrections)[16],
                                             const NewToken& token, float* o, int64_t o_stride) {
    const int64_t last = end - 1;
    Accumulate<R>(p, p_stride, v, next, head_dim, begin, last, corrections, o, o_stride);
    const bool first = last == begin || last % kKvTile == 0;
    for (int64_t column = 0; column < head_dim; column += 16) {
      const F value = LoadLanes(token.value + column, head_dim - column);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        float* sum = o + r * o_stride + column;
        F x = S::Load(sum);
        if (first) x = S::Mul(x, S::Set(corrections[last / kKvTile][r]));
        S::Store(sum, S::Fma(S::Set(p[r * p_stride + last]), value, x));
      }
    }
  }

  // 16 scores as they go into the softmax, those outside [from, to) made -infinity: lanes beyond a
  // row's tokens hold whatever the cache held, so they are replaced, never computed with.
  template <typename Kv>
  static LLMIR_INLINE F Prepare(const AttentionArgs& args, const float* row, const float* scales,
                                int64_t from, int64_t to) {
    F score = S::Load(row);
    if constexpr (Traits<Kv>::kScaled) score = S::Mul(score, S::Load(scales));
    score = S::Mul(score, S::Set(args.scale));
    if (args.softcap > 0) {
      const F cap = S::Set(args.softcap);
      score = S::Mul(Tanh<S>(S::Div(score, cap)), cap);
    }
    const F lowest = S::Set(-__builtin_inff());
    score = S::Select(S::FirstLanes(Max(to, 0)), score, lowest);
    return from > 0 ? S::Select(S::FirstLanes(from), lowest, score) : score;
  }
  // 16 p of the lanes in [from, to) for the values, from those for the sum.
  template <typename Kv>
  static LLMIR_INLINE F WithValueScales(F p, const float* scales, int64_t from, int64_t to) {
    if constexpr (Traits<Kv>::kScaled) {
      p = S::Select(S::FirstLanes(Max(to, 0)), S::Mul(p, S::Load(scales)), S::Zero());
      return from > 0 ? S::Select(S::FirstLanes(from), S::Zero(), p) : p;
    }
    return p;
  }

  // ---- flash ------------------------------------------------------------------------------------

  // The rows of a block and their states.
  struct Block {
    int64_t rows;
    int64_t begin[kBlockRows];  // the row attends to tokens [begin, limit) of the split
    int64_t limit[kBlockRows];
    const float* q[kBlockRows];
    float m[kBlockRows];
    float l[kBlockRows];
    float* o;  // [kBlockRows][o_stride]
    int64_t o_stride;
    // Scores, then probabilities: [kMicroRows][kKvTile], or [kSplitRows][kKvSplit] of one token's
    // rows.
    float* p;
  };

  // What is read after a computation that reads nothing: each call brings the next two lines, lest
  // memory rest meanwhile.
  template <typename Kv>
  struct Ahead {
    Kv* const* groups;  // of 16 tokens; null: nothing
    int64_t group_bytes;
    int64_t at = 0;
    LLMIR_INLINE void Fetch() {
      if (groups == nullptr) return;
      const auto* line = reinterpret_cast<const char*>(*groups) + at;
      FetchNext(line);
      FetchNext(line + 64);
      at += 128;
      if (at < group_bytes) return;
      at = 0;
      ++groups;
    }
  };

  // From the scores of R rows of the block from row `first`, which attend to [from, count) of
  // `tiles` tiles (`p` and the scales are those of the first of them, each row attends to tokens of
  // each): the probabilities in place, the corrections of the tiles, and the rows' new m and l.
  // Tile by tile these are a chain of two folds and an exponential; all tiles of a step at once, so
  // that those of one don't wait for those of the other.
  template <int R, typename Kv>
  static __attribute__((noinline)) void Softmax(const AttentionArgs& args, Block& block,
                                                int64_t first, int64_t tiles, const int64_t* from,
                                                const int64_t* count, const float* const* k_scales,
                                                const float* const* v_scales, float* p,
                                                int64_t stride, float (*corrections)[16],
                                                Ahead<Kv> ahead) {
    constexpr int kTiles = kKvSplit / kKvTile;
    float maxima[kTiles][R];
    const auto tile_begin = [&](int r, int64_t tile) {
      return Max(from[r], tile * kKvTile) / kKvLanes * kKvLanes;
    };
    const auto tile_end = [&](int r, int64_t tile) { return Min(count[r], (tile + 1) * kKvTile); };
    for (int64_t tile = 0; tile < tiles; ++tile) {
      for (int r = 0; r < R; ++r) {
        float* row = p + r * stride;
        F maximum = S::Set(-__builtin_inff());
        for (int64_t i = tile_begin(r, tile); i < tile_end(r, tile); i += kKvLanes) {
          const F score =
              Prepare<Kv>(args, row + i, k_scales[i / kKvLanes], from[r] - i, count[r] - i);
          S::Store(row + i, score);
          maximum = S::Max(score, maximum);
        }
        maxima[tile][r] = S::FoldMax(maximum);
      }
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      for (int r = 0; r < R; ++r) {
        float& m = block.m[first + r];
        const float next = m > maxima[tile][r] ? m : maxima[tile][r];
        corrections[tile][r] = m - next;
        maxima[tile][r] = m = next;
      }
      S::Store(corrections[tile], Exp<S>(S::Load(corrections[tile])));
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      for (int r = 0; r < R; ++r) {
        float* row = p + r * stride;
        const F m = S::Set(maxima[tile][r]);
        F sum = S::Zero();
        for (int64_t i = tile_begin(r, tile); i < tile_end(r, tile); i += kKvLanes) {
          ahead.Fetch();
          F e = S::Select(S::FirstLanes(count[r] - i), Exp<S>(S::Sub(S::Load(row + i), m)),
                          S::Zero());
          if (from[r] > i) e = S::Select(S::FirstLanes(from[r] - i), S::Zero(), e);
          sum = S::Add(sum, e);
          S::Store(row + i,
                   WithValueScales<Kv>(e, v_scales[i / kKvLanes], from[r] - i, count[r] - i));
        }
        float& l = block.l[first + r];
        l = __builtin_fmaf(l, corrections[tile][r], S::FoldAdd(sum));
      }
    }
  }

  // One tile for R rows of the block from row `first`, all of which attend to tokens of it. kNew:
  // the last of them is `token`, which is stored.
  template <int R, bool kNew, typename Kv>
  static void Tile(const AttentionArgs& args, Block& block, int64_t first, int64_t tile_begin,
                   const Groups<Kv>& groups, const Groups<Kv>& next_tile, const NewToken* token) {
    const int64_t head_dim = args.kv.head_dim;
    int64_t from[R];  // tokens [from, count) of the tile that the row attends to; both ascending
    int64_t count[R];
    for (int r = 0; r < R; ++r) {
      from[r] = Max(block.begin[first + r] - tile_begin, 0);
      count[r] = Min(block.limit[first + r] - tile_begin, kKvTile);
    }
    float* p = block.p;
    Scores<R, kNew>(block.q + first, groups.k, next_tile.k, from[0] / kKvLanes,
                    (count[R - 1] + kKvLanes - 1) / kKvLanes, (count[R - 1] - 1) % kKvLanes, token,
                    head_dim, p, kKvTile);
    float corrections[1][16] = {};
    Softmax<R, Kv>(args, block, first, 1, from, count, groups.k_scales, groups.v_scales, p, kKvTile,
                   corrections, {});

    float* o = block.o + first * block.o_stride;
    if constexpr (kNew) {
      AccumulateWithNew<R>(p, kKvTile, groups.v, next_tile.v, head_dim, from[0], count[0],
                           corrections, *token, o, block.o_stride);
      return;
    }
    // What all R rows attend to, shared; what a row alone attends to before and after that, alone.
    const int64_t begin = from[R - 1];
    const int64_t end = Max(begin, count[0]);
    if (from[0] == begin && count[R - 1] == end) {
      Accumulate<R>(p, kKvTile, groups.v, next_tile.v, head_dim, begin, end, corrections, o,
                    block.o_stride);
      return;
    }
    const auto alone = [&](int r, int64_t row_begin, int64_t row_end) {
      if (row_begin >= row_end) return;
      const float correction[1][16] = {{corrections[0][r]}};
      Accumulate<1>(p + r * kKvTile, kKvTile, groups.v, next_tile.v, head_dim, row_begin, row_end,
                    correction, o + r * block.o_stride, block.o_stride);
      corrections[0][r] = 1.0f;
    };
    for (int r = 0; r < R; ++r) alone(r, from[r], Min(begin, count[r]));
    if (begin < count[0]) {
      Accumulate<R>(p, kKvTile, groups.v, next_tile.v, head_dim, begin, end, corrections, o,
                    block.o_stride);
      for (int r = 0; r < R; ++r) corrections[0][r] = 1.0f;
    }
    for (int r = 0; r < R; ++r) alone(r, end, count[r]);
  }

  // Calls visit.operator()<R>() for R = rows, or `Most` if they are more.
  template <int Most, typename Visit>
  static LLMIR_INLINE void ForRows(int64_t rows, Visit& visit) {
    if constexpr (Most > 1) {
      if (rows < Most) return ForRows<Most - 1>(rows, visit);
    }
    visit.template operator()<Most>();
  }

  // What rows of one token attend to of a split. Tokens, groups and tiles are counted from `base`,
  // the first tile's first token.
  template <typename Kv>
  struct Split {
    int64_t base;
    int64_t begin;  // tokens [begin, end)
    int64_t end;
    int64_t tiles;
    // The groups of K, those of V, and the tile that is read next: what lies a tile ahead of any of
    // them is to be fetched.
    Kv* pieces[2 * kSplitGroups + kTileGroups];
    float* k_scales[kSplitGroups];
    float* v_scales[kSplitGroups];
    Kv* const* k() const { return pieces; }
    Kv* const* v() const { return pieces + tiles * kTileGroups; }
  };

  template <typename Kv>
  static LLMIR_INLINE void LocateSplit(const AttentionArgs& args, const Unit& unit,
                                       const Block& block, const Unit* following,
                                       Split<Kv>& split) {
    split.base = block.begin[0] / kKvTile * kKvTile;
    split.begin = block.begin[0] - split.base;
    split.end = block.limit[0] - split.base;
    split.tiles = (split.end + kKvTile - 1) / kKvTile;
    Groups<Kv> groups;
    // Where a group holds no token, what was there before: it is fetched, but not read.
    Kv* k = nullptr;
    Kv* v = nullptr;
    for (int64_t tile = 0; tile < split.tiles; ++tile) {
      Locate(args.kv, unit.blocks, unit.kv_head, split.base + tile * kKvTile, block.begin[0],
             block.limit[0], groups);
      for (int64_t g = tile * kTileGroups; g < (tile + 1) * kTileGroups; ++g) {
        const int64_t token = g * kKvLanes;
        if (token + kKvLanes > split.begin && token < split.end) {
          k = groups.k[g % kTileGroups];
          v = groups.v[g % kTileGroups];
          if constexpr (Traits<Kv>::kScaled) {
            split.k_scales[g] = groups.k_scales[g % kTileGroups];
            split.v_scales[g] = groups.v_scales[g % kTileGroups];
          }
        }
        split.pieces[g] = k;
        split.pieces[split.tiles * kTileGroups + g] = v;
      }
    }
    for (Kv*& each : groups.k) each = v;
    if (following != nullptr) LocateFirstTile(args, *following, groups);
    std::memcpy(split.pieces + 2 * split.tiles * kTileGroups, groups.k, sizeof(groups.k));
  }

  // A split for the block's rows, all of one token: all scores, then all probabilities, then the
  // values, whose sums stay in registers. What a row computes, and in which order, is the same as
  // tile by tile.
  template <typename Kv>
  static LLMIR_INLINE void RunSplit(const AttentionArgs& args, Block& block, const Split<Kv>& split,
                                    const NewToken* token) {
    constexpr int kTiles = kKvSplit / kKvTile;
    const int64_t head_dim = args.kv.head_dim;
    const int64_t parts = (block.rows + kMicroRows - 1) / kMicroRows;
    const int64_t part_rows = (block.rows + parts - 1) / parts;
    for (int64_t tile = 0; tile < split.tiles; ++tile) {
      const int64_t group = tile * kTileGroups;
      const int64_t begin = Max(split.begin - tile * kKvTile, 0);
      const int64_t end = Min(split.end - tile * kKvTile, kKvTile);
      for (int64_t first = 0; first < block.rows; first += part_rows) {
        const bool stores = token != nullptr && first == 0 && tile == split.tiles - 1;
        float* p = block.p + first * kKvSplit + tile * kKvTile;
        const auto score = [&]<int R>() __attribute__((always_inline)) {
          if (stores) {
            ScoreTile<R, true>(block.q + first, split.k() + group, begin, end, token, head_dim, p);
          } else {
            ScoreTile<R, false>(block.q + first, split.k() + group, begin, end, token, head_dim, p);
          }
        };
        ForRows<kMicroRows>(Min(part_rows, block.rows - first), score);
      }
    }
    for (int64_t first = 0; first < block.rows; first += part_rows) {
      float corrections[kTiles][16] = {};
      float* p = block.p + first * kKvSplit;
      float* o = block.o + first * block.o_stride;
      const auto finish = [&]<int R>() __attribute__((always_inline)) {
        if (token != nullptr && first == 0) {
          FinishSplit<R, true>(args, block, first, split, token, p, o, corrections);
        } else {
          FinishSplit<R, false>(args, block, first, split, token, p, o, corrections);
        }
      };
      ForRows<kMicroRows>(Min(part_rows, block.rows - first), finish);
    }
  }

  // Functions of their own: their loops have the registers.
  template <int R, bool kNew, typename Kv>
  static __attribute__((noinline)) void ScoreTile(const float* const* q, Kv* const* k,
                                                  int64_t begin, int64_t end, const NewToken* token,
                                                  int64_t head_dim, float* p) {
    Scores<R, kNew>(q, k, k + kTileGroups, begin / kKvLanes, (end + kKvLanes - 1) / kKvLanes,
                    (end - 1) % kKvLanes, token, head_dim, p, kKvSplit);
  }
  template <int R, bool kNew, typename Kv>
  static __attribute__((noinline)) void FinishSplit(const AttentionArgs& args, Block& block,
                                                    int64_t first, const Split<Kv>& split,
                                                    const NewToken* token, float* p, float* o,
                                                    float (*corrections)[16]) {
    int64_t from[R];
    int64_t count[R];
    for (int r = 0; r < R; ++r) {
      from[r] = split.begin;
      count[r] = split.end;
    }
    // The first tile of V came with the last of K.
    Kv* const* v = split.v();
    const Ahead<Kv> ahead{split.tiles > 1 ? v + kTileGroups : nullptr,
                          kKvLanes * args.kv.head_dim * static_cast<int64_t>(sizeof(Kv))};
    Softmax<R, Kv>(args, block, first, split.tiles, from, count, split.k_scales, split.v_scales, p,
                   kKvSplit, corrections, ahead);
    const int64_t head_dim = args.kv.head_dim;
    if constexpr (kNew) {
      AccumulateWithNew<R>(p, kKvSplit, v, v + kTileGroups, head_dim, split.begin, split.end,
                           corrections, *token, o, block.o_stride);
    } else {
      Accumulate<R>(p, kKvSplit, v, v + kTileGroups, head_dim, split.begin, split.end, corrections,
                    o, block.o_stride);
    }
  }

  static LLMIR_INLINE float* PartialOf(const AttentionArgs& args, int64_t partial_base,
                                       int64_t sequence_token, int64_t head, int64_t splits,
                                       int64_t split) {
    const int64_t index =
        partial_base + (sequence_token * args.query_heads + head) * splits + split;
    return reinterpret_cast<float*>(args.partials) + index * (args.kv.head_dim + kPartialExtra);
  }

  // Tiles of a split one after the other, a few rows of each at a time.
  template <typename Kv>
  static LLMIR_INLINE void RunTiles(const AttentionArgs& args, const Unit& unit, int64_t begin,
                                    int64_t end, Block& block, const NewToken* token,
                                    const Unit* following) {
    const int64_t split_begin = unit.split * kKvSplit;
    const int64_t limit =
        Min(unit.first_position + (end - 1) / unit.heads + 1, split_begin + kKvSplit);
    const int64_t low =
        Max(WindowBegin(args, unit.first_position + begin / unit.heads), split_begin);
    const int64_t cached = Min(unit.kv_tokens, unit.first_position + (end - 1) / unit.heads + 1);
    int64_t first = 0;
    int64_t last = 0;
    for (int64_t tile = low / kKvTile * kKvTile; tile < limit; tile += kKvTile) {
      Groups<Kv> groups;
      while (block.limit[first] <= tile) ++first;
      while (last < block.rows && block.begin[last] < tile + kKvTile) ++last;
      Locate(args.kv, unit.blocks, unit.kv_head, tile, block.begin[first], limit, groups);
      // Of the next split, too. Where nothing follows, what is there already.
      Groups<Kv> next = groups;
      const int64_t next_tile = tile + kKvTile;
      if (next_tile < cached) {
        Locate(args.kv, unit.blocks, unit.kv_head, next_tile, next_tile, cached, next);
      } else if (following != nullptr) {
        LocateFirstTile(args, *following, next);
      }
      for (int64_t row = first; row < last; row += kMicroRows) {
        const bool stores = token != nullptr && row == first && limit <= tile + kKvTile;
        const auto run = [&]<int R>() __attribute__((always_inline)) {
          if (stores) {
            Tile<R, true>(args, block, row, tile, groups, next, token);
          } else {
            Tile<R, false>(args, block, row, tile, groups, next, nullptr);
          }
        };
        ForRows<kMicroRows>(last - row, run);
      }
    }
  }

  template <typename Kv>
  static LLMIR_INLINE void LocateFirstTile(const AttentionArgs& args, const Unit& unit,
                                           Groups<Kv>& groups) {
    const int64_t position = unit.first_position + unit.row_begin / unit.heads;
    const int64_t low = Max(WindowBegin(args, position), unit.split * kKvSplit);
    Locate(args.kv, unit.blocks, unit.kv_head, low / kKvTile * kKvTile, low, unit.kv_tokens,
           groups);
  }

  // Rows [begin, end) of the unit, whose queries are `q` or, where that is null, the arguments'.
  // With `token`, the last of their tokens, its key is stored on the way. `following`, if any: the
  // unit that this thread computes next, whose first tile is fetched during the sequence's last.
  // A function of its own: its loops have the registers, whoever calls it.
  template <typename Kv>
  static __attribute__((noinline)) void RunUnit(const AttentionArgs& args, const Unit& unit,
                                                int64_t begin, int64_t end, const float* q,
                                                const NewToken* token, const Unit* following) {
    const KvLayer& kv = args.kv;
    const int64_t head_dim = kv.head_dim;
    const int64_t split_begin = unit.split * kKvSplit;

    Block block;
    block.rows = end - begin;
    block.o_stride = RoundUp16(head_dim);
    block.o = reinterpret_cast<float*>(args.scratch);
    block.p = block.o + kBlockRows * block.o_stride;
    static_assert(kMicroRows * kKvTile <= kSplitRows * kKvSplit);
    for (int64_t i = 0; i < block.rows; ++i) {
      const int64_t row = (begin + i) / unit.heads;
      const int64_t head = unit.first_head + (begin + i) % unit.heads;
      const int64_t position = unit.first_position + row;
      block.begin[i] = Max(WindowBegin(args, position), split_begin);
      block.limit[i] = Min(position + 1, split_begin + kKvSplit);
      block.q[i] = q != nullptr
                       ? q + i * block.o_stride
                       : args.q + (unit.first_token + row) * args.q_stride + head * head_dim;
      block.m[i] = -__builtin_inff();
      block.l[i] = 0.0f;
    }
    std::memset(block.o, 0, static_cast<size_t>(block.rows * block.o_stride) * sizeof(float));

    if (block.rows <= kSplitRows && begin / unit.heads == (end - 1) / unit.heads) {
      Split<Kv> split;
      LocateSplit(args, unit, block, following, split);
      RunSplit(args, block, split, token);
    } else {
      RunTiles<Kv>(args, unit, begin, end, block, token, following);
    }

    for (int64_t i = 0; i < block.rows; ++i) {
      const int64_t row = (begin + i) / unit.heads;
      const int64_t head = unit.first_head + (begin + i) % unit.heads;
      const float* o = block.o + i * block.o_stride;
      if (RowSplits(args, unit.first_position + row).count == 1) {
        float* out = args.output + (unit.first_token + row) * args.output_stride + head * head_dim;
        Scale(o, 1.0f / block.l[i], head_dim, out);
      } else {
        float* partial = PartialOf(args, unit.partial_base, row, head, unit.splits,
                                   unit.split - unit.first_split);
        std::memcpy(partial, o, static_cast<size_t>(head_dim) * sizeof(float));
        partial[head_dim] = block.m[i];
        partial[head_dim + 1] = block.l[i];
      }
    }
  }

  // The splits with tokens that the one at `position` attends to.
  struct SplitRange {
    int64_t first;
    int64_t count;
  };
  static LLMIR_INLINE SplitRange RowSplits(const AttentionArgs& args, int64_t position) {
    const int64_t first = WindowBegin(args, position) / kKvSplit;
    return {first, position / kKvSplit + 1 - first};
  }

  static LLMIR_INLINE void Scale(const float* x, float factor, int64_t count, float* out) {
    const F f = S::Set(factor);
    for (int64_t i = 0; i < count; i += 16) {
      const int64_t lanes = Min(16, count - i);
      StoreLanes(out + i, lanes, S::Mul(LoadLanes(x + i, lanes), f));
    }
  }

  // ---- forms that keep whole rows ---------------------------------------------------------------

  // R rows of the unit from row `first`. What differs among the forms is which tokens are looked at
  // beside those that a row attends to, and the number of passes.
  template <int R, typename Kv>
  static void WholeRows(const AttentionArgs& args, const Unit& unit, int64_t first,
                        int64_t scores_stride) {
    const KvLayer& kv = args.kv;
    const int64_t head_dim = kv.head_dim;
    const int64_t o_stride = RoundUp16(head_dim);
    float* o = reinterpret_cast<float*>(args.scratch);
    float* scores = o + kMicroRows * o_stride;
    std::memset(o, 0, static_cast<size_t>(R * o_stride) * sizeof(float));

    const float* q[R];
    float* out[R];
    int64_t begin[R];  // tokens [begin, limit) that the row attends to
    int64_t limit[R];
    for (int r = 0; r < R; ++r) {
      const int64_t row = (first + r) / unit.heads;
      const int64_t head = unit.first_head + (first + r) % unit.heads;
      q[r] = args.q + (unit.first_token + row) * args.q_stride + head * head_dim;
      out[r] = args.output + (unit.first_token + row) * args.output_stride + head * head_dim;
      begin[r] = WindowBegin(args, unit.first_position + row);
      limit[r] = unit.first_position + row + 1;
    }
    // All tokens from the first that the sequence must still hold are in the cache by now.
    int64_t low = begin[0];
    int64_t high = limit[R - 1];
    if (args.form == AttentionForm::kMasked) {
      low = low / kv.block_size * kv.block_size;
      high = Min((high + kv.block_size - 1) / kv.block_size * kv.block_size, unit.kv_tokens);
    } else if (args.form == AttentionForm::kStandard) {
      low = WindowBegin(args, unit.first_position);
      high = unit.kv_tokens;
    }
    const int64_t base = low / kKvTile * kKvTile;  // token of scores[0]
    const int64_t first_group = (low - base) / kKvLanes * kKvLanes;

    Groups<Kv> groups;
    // Per tile: visit(its first token).
    const auto for_tiles = [&](auto visit) {
      for (int64_t tile = base; tile < high; tile += kKvTile) {
        Locate(kv, unit.blocks, unit.kv_head, tile, low, high, groups);
        visit(tile);
      }
    };
    // Per lane group of one row: x = visit(x, index of its first lane).
    const auto for_groups = [&](int r, auto visit) {
      float* row = scores + r * scores_stride;
      for (int64_t i = first_group; i < high - base; i += kKvLanes) {
        S::Store(row + i, visit(S::Load(row + i), i));
      }
    };

    for_tiles([&](int64_t tile) {
      const int64_t end = Min(high - tile, kKvTile);
      Scores<R, false>(q, groups.k, groups.k, Max(low - tile, 0) / kKvLanes,
                       (end + kKvLanes - 1) / kKvLanes, 0, nullptr, head_dim,
                       scores + (tile - base), scores_stride);
      if constexpr (Traits<Kv>::kScaled) {
        for (int r = 0; r < R; ++r) {
          float* row = scores + r * scores_stride + (tile - base);
          for (int64_t i = Max(low - tile, 0) / kKvLanes * kKvLanes; i < end; i += kKvLanes) {
            S::Store(row + i, S::Mul(S::Load(row + i), S::Load(groups.k_scales[i / kKvLanes])));
          }
        }
      }
    });

    float sums[R];
    for (int r = 0; r < R; ++r) {
      const int64_t from = begin[r] - base;
      const int64_t to = limit[r] - base;
      const F lowest = S::Set(-__builtin_inff());
      const auto scaled = [&](F x) {
        x = S::Mul(x, S::Set(args.scale));
        if (!(args.softcap > 0)) return x;
        const F cap = S::Set(args.softcap);
        return S::Mul(Tanh<S>(S::Div(x, cap)), cap);
      };
      const auto masked = [&](F x, int64_t i, F outside) {
        x = S::Select(S::FirstLanes(Max(to - i, 0)), x, outside);
        return S::Select(S::FirstLanes(Max(from - i, 0)), outside, x);
      };
      F maximum = lowest;
      F sum = S::Zero();
      if (args.form == AttentionForm::kStandard) {
        for_groups(r, [&](F x, int64_t) { return scaled(x); });
        for_groups(r, [&](F x, int64_t i) { return masked(x, i, lowest); });
        for_groups(r, [&](F x, int64_t) {
          maximum = S::Max(x, maximum);
          return x;
        });
        const F m = S::Set(S::FoldMax(maximum));
        for_groups(r, [&](F x, int64_t i) { return masked(Exp<S>(S::Sub(x, m)), i, S::Zero()); });
        for_groups(r, [&](F x, int64_t) {
          sum = S::Add(sum, x);
          return x;
        });
        const F l = S::Set(S::FoldAdd(sum));
        for_groups(r, [&](F x, int64_t) { return S::Div(x, l); });
        sums[r] = 1.0f;
      } else {
        for_groups(r, [&](F x, int64_t i) {
          x = masked(scaled(x), i, lowest);
          maximum = S::Max(x, maximum);
          return x;
        });
        const F m = S::Set(S::FoldMax(maximum));
        for_groups(r, [&](F x, int64_t i) {
          x = masked(Exp<S>(S::Sub(x, m)), i, S::Zero());
          sum = S::Add(sum, x);
          return x;
        });
        sums[r] = S::FoldAdd(sum);
      }
    }

    float ones[1][16];
    for (float& one : ones[0]) one = 1.0f;
    for_tiles([&](int64_t tile) {
      const int64_t from = Max(low - tile, 0);
      const int64_t to = Min(high - tile, kKvTile);
      float* p = scores + (tile - base);
      if constexpr (Traits<Kv>::kScaled) {
        for (int r = 0; r < R; ++r) {
          for (int64_t i = from / kKvLanes * kKvLanes; i < to; i += kKvLanes) {
            float* row = p + r * scores_stride + i;
            S::Store(row, WithValueScales<Kv>(S::Load(row), groups.v_scales[i / kKvLanes],
                                              begin[r] - tile - i, limit[r] - tile - i));
          }
        }
      }
      Accumulate<R>(p, scores_stride, groups.v, groups.v, head_dim, from, to, ones, o, o_stride);
    });
    for (int r = 0; r < R; ++r) Scale(o + r * o_stride, 1.0f / sums[r], head_dim, out[r]);
  }

  template <int R, typename Kv>
  static LLMIR_INLINE void WholeRowsOf(const AttentionArgs& args, const Unit& unit, int64_t rows,
                                       int64_t first, int64_t scores_stride) {
    if constexpr (R > 1) {
      if (rows < R) {
        return WholeRowsOf<R - 1, Kv>(args, unit, rows, first, scores_stride);
      }
    }
    WholeRows<R, Kv>(args, unit, first, scores_stride);
  }

  // Floats from one row of scores to the next.
  static constexpr int64_t ScoresStride(int64_t kv_tokens) {
    return (kv_tokens + kKvTile - 1) / kKvTile * kKvTile;
  }

  // ---- attend and merge -------------------------------------------------------------------------

  template <typename Kv>
  static void AttendAs(const AttentionArgs& args) {
    int64_t total = 0;
    ForEachUnit(args, kBlockRows, [&](const Unit& unit, int64_t cost) {
      total += (unit.row_end - unit.row_begin) * cost;
    });
    const CostShare share(total, args.thread, args.threads);
    bool waits = false;
    Unit waiting;  // this thread's rows of the unit before, for what follows them
    const auto run = [&](const Unit* following) __attribute__((always_inline)) {
      const int64_t end = waiting.row_end;
      if (args.form == AttentionForm::kFlash) {
        RunUnit<Kv>(args, waiting, waiting.row_begin, end, nullptr, nullptr, following);
        return;
      }
      for (int64_t row = waiting.row_begin; row < end; row += kMicroRows) {
        WholeRowsOf<kMicroRows, Kv>(args, waiting, end - row, row, ScoresStride(waiting.kv_tokens));
      }
    };
    int64_t start = 0;
    ForEachUnit(
        args, kBlockRows, [&](const Unit& unit, int64_t cost) __attribute__((always_inline)) {
          const int64_t rows = unit.row_end - unit.row_begin;
          const int64_t begin = unit.row_begin + CostShare::Before(share.begin, start, cost, rows);
          const int64_t end = unit.row_begin + CostShare::Before(share.end, start, cost, rows);
          start += rows * cost;
          if (begin >= end) return;
          if (waits) run(&unit);
          waiting = unit;
          waiting.row_begin = begin;
          waiting.row_end = end;
          waits = true;
        });
    if (waits) run(nullptr);
  }

  static void Attend(const AttentionArgs& args) {
    switch (args.kv.type) {
      case KvType::kF32:
        return AttendAs<float>(args);
      case KvType::kBF16:
        return AttendAs<uint16_t>(args);
      case KvType::kI8:
        return AttendAs<int8_t>(args);
      case KvType::kF8E4M3:
        return AttendAs<F8>(args);
    }
  }

  // Merges the split states of one row: with m' = max(m, m_s), a = e^(m - m'), b = e^(m_s - m'),
  // each sum becomes fma(sum_s, b, sum * a).
  static LLMIR_INLINE void MergeRow(const float* partial, int64_t stride, int64_t splits,
                                    int64_t head_dim, float* out) {
    float m = partial[head_dim];
    float l = partial[head_dim + 1];
    std::memcpy(out, partial, static_cast<size_t>(head_dim) * sizeof(float));
    for (int64_t s = 1; s < splits; ++s) {
      partial += stride;
      const float split_m = partial[head_dim];
      const float next = m > split_m ? m : split_m;
      float factors[16] = {m - next, split_m - next};
      S::Store(factors, Exp<S>(S::Load(factors)));
      const F a = S::Set(factors[0]);
      const F b = S::Set(factors[1]);
      for (int64_t i = 0; i < head_dim; i += 16) {
        const int64_t lanes = Min(16, head_dim - i);
        StoreLanes(out + i, lanes,
                   S::Fma(LoadLanes(partial + i, lanes), b, S::Mul(LoadLanes(out + i, lanes), a)));
      }
      l = __builtin_fmaf(partial[head_dim + 1], factors[1], l * factors[0]);
      m = next;
    }
    Scale(out, 1.0f / l, head_dim, out);
  }

  static void Merge(const AttentionArgs& args) {
    if (args.form != AttentionForm::kFlash) return;
    const SequenceTable& table = args.table;
    // Tokens at the start of sequence s that have one split only: attend has written their rows.
    const auto done_tokens = [&](int64_t s, int64_t tokens) {
      return Max(0, Min(tokens, kKvSplit - (table.kv_tokens[s] - tokens)));
    };
    const auto splits_of = [&](int64_t s, int64_t tokens) {
      return (table.kv_tokens[s] - 1) / kKvSplit + 1 -
             WindowBegin(args, table.kv_tokens[s] - tokens) / kKvSplit;
    };
    int64_t total = 0;
    for (int64_t s = 0; s < table.sequences; ++s) {
      const int64_t tokens = table.query_indptr[s + 1] - table.query_indptr[s];
      if (tokens == 0) continue;
      total += (tokens - done_tokens(s, tokens)) * args.query_heads * splits_of(s, tokens);
    }
    const CostShare share(total, args.thread, args.threads);
    int64_t start = 0;
    int64_t partial_base = 0;
    for (int64_t s = 0; s < table.sequences; ++s) {
      const int64_t first_token = table.query_indptr[s];
      const int64_t tokens = table.query_indptr[s + 1] - first_token;
      if (tokens == 0) continue;
      const int64_t splits = splits_of(s, tokens);
      const int64_t first_position = table.kv_tokens[s] - tokens;
      const int64_t first_split = WindowBegin(args, first_position) / kKvSplit;
      const int64_t done = done_tokens(s, tokens);
      const int64_t rows = (tokens - done) * args.query_heads;
      const int64_t begin = CostShare::Before(share.begin, start, splits, rows);
      const int64_t end = CostShare::Before(share.end, start, splits, rows);
      for (int64_t row = begin; row < end; ++row) {
        const int64_t token = done + row / args.query_heads;
        const int64_t head = row % args.query_heads;
        const SplitRange range = RowSplits(args, first_position + token);
        if (range.count == 1) continue;  // written by attend
        MergeRow(
            PartialOf(args, partial_base, token, head, splits, range.first - first_split),
            args.kv.head_dim + kPartialExtra, range.count, args.kv.head_dim,
            args.output + (first_token + token) * args.output_stride + head * args.kv.head_dim);
      }
      start += rows * splits;
      partial_base += tokens * args.query_heads * splits;
    }
  }

  static int64_t ScratchBytes(int64_t head_dim, AttentionForm form, int64_t max_kv_tokens) {
    const int64_t o_stride = RoundUp16(head_dim);
    // append_attend also keeps rotated queries, a key and a value.
    const int64_t floats = form == AttentionForm::kFlash
                               ? (2 * kBlockRows + 2) * o_stride + kSplitRows * kKvSplit
                               : kMicroRows * (o_stride + ScoresStride(max_kv_tokens));
    return floats * static_cast<int64_t>(sizeof(float));
  }

  // ---- rope and append --------------------------------------------------------------------------

  // (x0, x1) → (x0 cos - x1 sin, x1 cos + x0 sin): the product with cos rounded, then one fma.
  // `out` may be x.
  static LLMIR_INLINE void Rotate(const float* x, const RopeArgs& rope, const float* cosines,
                                  const float* sines, float* out) {
    const int64_t half = rope.rope_dim / 2;
    if (rope.interleaved) {
      for (int64_t i = 0; i < half; ++i) {
        const float x0 = x[2 * i];
        const float x1 = x[2 * i + 1];
        out[2 * i] = __builtin_fmaf(-x1, sines[i], x0 * cosines[i]);
        out[2 * i + 1] = __builtin_fmaf(x0, sines[i], x1 * cosines[i]);
      }
      return;
    }
    for (int64_t i = 0; i < half; i += 16) {
      const int64_t lanes = Min(16, half - i);
      const F x0 = LoadLanes(x + i, lanes);
      const F x1 = LoadLanes(x + half + i, lanes);
      const F cosine = LoadLanes(cosines + i, lanes);
      const F sine = LoadLanes(sines + i, lanes);
      StoreLanes(out + i, lanes, S::NegFma(x1, sine, S::Mul(x0, cosine)));
      StoreLanes(out + half + i, lanes, S::Fma(x0, sine, S::Mul(x1, cosine)));
    }
  }

  // Of `heads` heads of a token, side by side, to rows of `out`. A function of its own, so that its
  // loops have the registers.
  static __attribute__((noinline)) void RotateHeads(const float* x, int64_t head_dim, int64_t heads,
                                                    const RopeArgs rope, const float* cosines,
                                                    const float* sines, float* out,
                                                    int64_t out_stride) {
    for (int64_t head = 0; head < heads; ++head, x += head_dim, out += out_stride) {
      if (rope.rope_dim < head_dim) {
        std::memcpy(out, x, static_cast<size_t>(head_dim) * sizeof(float));
      }
      Rotate(x, rope, cosines, sines, out);
    }
  }

  // Rows of `qkv`: where a token's heads lie.
  static LLMIR_INLINE const float* KeyOf(const RopeAppendArgs& args, int64_t token, int64_t head) {
    return args.qkv + token * args.qkv_stride + (args.query_heads + head) * args.kv.head_dim;
  }
  static LLMIR_INLINE const float* ValueOf(const RopeAppendArgs& args, int64_t token,
                                           int64_t head) {
    return KeyOf(args, token, args.kv_heads + head);
  }

  // Stores the scale of a row of int8 and returns what the row is multiplied with; 1 for other
  // types.
  template <typename Kv>
  static LLMIR_INLINE float StoreScale(const float* x, int64_t head_dim, float* scale) {
    if constexpr (Traits<Kv>::kScaled) {
      float maximum = 0;
      bool finite = true;
      for (int64_t d = 0; d < head_dim; ++d) {
        const float magnitude = __builtin_fabsf(x[d]);
        finite = finite && magnitude < __builtin_inff();
        maximum = magnitude > maximum ? magnitude : maximum;
      }
      *scale = finite ? maximum / 127.0f : __builtin_nanf("");
      return maximum > 0 && finite ? 127.0f / maximum : 0.0f;
    }
    return 1.0f;
  }

  // What the rows of a token are multiplied with, as of RoundStore.
  struct Inverses {
    float key;
    float value;
  };
  // Of a token of a head, at `slot` of a block's `keys` and `values`: its scales are stored.
  template <typename Kv>
  static LLMIR_INLINE Inverses StoreScales(const KvLayer& kv, Kv* keys, Kv* values, int64_t slot,
                                           const float* key, const float* value) {
    float* key_scale = nullptr;
    float* value_scale = nullptr;
    if constexpr (Traits<Kv>::kScaled) {
      key_scale = ScalesOf(kv, keys) + slot;
      value_scale = ScalesOf(kv, values) + slot;
    }
    const float key_inverse = StoreScale<Kv>(key, kv.head_dim, key_scale);
    return {key_inverse, StoreScale<Kv>(value, kv.head_dim, value_scale)};
  }

  template <typename Kv>
  static void RopeAppendAs(const RopeAppendArgs& arguments) {
    // A copy that no store of a vector can have changed: its fields stay in registers.
    const RopeAppendArgs args = arguments;
    const KvLayer kv = args.kv;
    const int64_t head_dim = kv.head_dim;
    const int64_t half = args.rope.rope_dim / 2;
    const SequenceTable& table = args.table;
    int64_t s = 0;
    for (int64_t token = args.token_begin; token < args.token_end; ++token) {
      float* row = args.qkv + token * args.qkv_stride;
      for (int64_t head = 0; head < args.query_heads + args.kv_heads; ++head) {
        float* x = row + head * head_dim;
        Rotate(x, args.rope, args.cosines + token * half, args.sines + token * half, x);
      }
      while (table.query_indptr[s + 1] <= token) ++s;
      const int64_t position = table.kv_tokens[s] - (table.query_indptr[s + 1] - token);
      const int64_t block_id = table.kv_indices[table.kv_indptr[s] + position / kv.block_size];
      const int64_t slot = position % kv.block_size;
      for (int64_t head = 0; head < args.kv_heads; ++head) {
        Kv* keys = KeysOf<Kv>(kv, block_id, head);
        Kv* values = ValuesOf(kv, keys);
        const float* key = KeyOf(args, token, head);
        const float* value = ValueOf(args, token, head);
        const Inverses inverses = StoreScales(kv, keys, values, slot, key, value);
        Kv* k = keys + slot / kKvLanes * kKvLanes * head_dim + slot % kKvLanes;
        for (int64_t d = 0; d < head_dim; d += 16) {
          const int64_t lanes = Min(16, head_dim - d);
          const F rounded = RoundLanes(LoadLanes(key + d, lanes), inverses.key, k);
          StoreKeys(rounded, lanes, k + d * kKvLanes);
        }
        Kv* v = values + slot * head_dim;
        for (int64_t d = 0; d < head_dim; d += 16) {
          const int64_t lanes = Min(16, head_dim - d);
          RoundStoreLanes(LoadLanes(value + d, lanes), inverses.value, lanes, v + d);
        }
      }
    }
  }

  static void RopeAppend(const RopeAppendArgs& args) {
    switch (args.kv.type) {
      case KvType::kF32:
        return RopeAppendAs<float>(args);
      case KvType::kBF16:
        return RopeAppendAs<uint16_t>(args);
      case KvType::kI8:
        return RopeAppendAs<int8_t>(args);
      case KvType::kF8E4M3:
        return RopeAppendAs<F8>(args);
    }
  }

  // ---- the two in one ---------------------------------------------------------------------------

  // The new token of a head at `slot` of `block`, its key unrotated: stores its scales and its
  // value. `key` and `value`, [head_dim] each, are where what is returned may lie. By value: what
  // no store of a vector can have changed stays in registers.
  template <typename Kv>
  static LLMIR_INLINE NewToken StoreNewToken(const KvLayer kv, Kv* keys, int64_t slot,
                                             const RopeArgs rope, const float* cosines,
                                             const float* sines, const float* unrotated,
                                             const float* unrounded, float* key, float* value) {
    const int64_t head_dim = kv.head_dim;
    Kv* values = ValuesOf(kv, keys);
    Kv* row = values + slot * head_dim;
    RotateHeads(unrotated, head_dim, 1, rope, cosines, sines, key, head_dim);
    const Inverses inverses = StoreScales(kv, keys, values, slot, key, unrounded);
    // Rounding once, here, and not where the token is attended to: its constants don't fit into
    // registers beside the sums there. Floats are what they are.
    constexpr bool kRounds = !std::is_same_v<Kv, float>;
    for (int64_t d = 0; d < head_dim; d += 16) {
      const int64_t lanes = Min(16, head_dim - d);
      const F x = RoundStoreLanes(LoadLanes(unrounded + d, lanes), inverses.value, lanes, row + d);
      if constexpr (kRounds) {
        StoreLanes(value + d, lanes, x);
        StoreLanes(key + d, lanes, RoundLanes(LoadLanes(key + d, lanes), inverses.key, keys));
      }
    }
    return {key, kRounds ? value : unrounded};
  }

  // A unit is the query heads of one KV head of one sequence over one split, whole: its owner
  // rotates the queries for itself, and the owner of the last split has the new token.
  template <typename Kv>
  static void AppendAttendAs(const RopeAppendArgs& append_arguments, const AttentionArgs& args) {
    const RopeAppendArgs append = append_arguments;  // as in RopeAppendAs
    const KvLayer kv = args.kv;
    constexpr int64_t kAllRows = int64_t{1} << 40;
    const int64_t head_dim = kv.head_dim;
    const int64_t half = append.rope.rope_dim / 2;
    const int64_t stride = RoundUp16(head_dim);
    float* queries = reinterpret_cast<float*>(args.scratch) + kBlockRows * stride +
                     kSplitRows * kKvSplit;  // behind what RunUnit uses
    float* key = queries + kBlockRows * stride;
    float* value = key + stride;
    int64_t total = 0;
    ForEachUnit(args, kAllRows,
                [&](const Unit& unit, int64_t cost) { total += unit.heads * cost; });
    const CostShare share(total, args.thread, args.threads);
    // Inline: closures that are called keep what they capture in memory.
    const auto rotate = [&](const Unit& unit, int64_t begin,
                            int64_t end) __attribute__((always_inline)) {
      const int64_t token = unit.first_token;
      RotateHeads(append.qkv + token * append.qkv_stride + (unit.first_head + begin) * head_dim,
                  head_dim, end - begin, append.rope, append.cosines + token * half,
                  append.sines + token * half, queries, stride);
    };
    // A unit is prepared as it is visited, and computed when the one after it is known.
    bool waits = false;
    Unit waiting;
    NewToken fresh;
    bool appends = false;
    const auto compute = [&](const Unit* following) __attribute__((always_inline)) {
      const int64_t heads = waiting.heads;
      RunUnit<Kv>(args, waiting, 0, Min(kBlockRows, heads), queries, appends ? &fresh : nullptr,
                  following);
      for (int64_t begin = kBlockRows; begin < heads; begin += kBlockRows) {
        const int64_t end = Min(begin + kBlockRows, heads);
        rotate(waiting, begin, end);
        RunUnit<Kv>(args, waiting, begin, end, queries, nullptr, following);
      }
    };
    int64_t start = 0;
    ForEachUnit(args, kAllRows, [&](const Unit& unit, int64_t cost) __attribute__((always_inline)) {
      const bool own = share.begin <= start && start < share.end;
      start += unit.heads * cost;
      if (!own) return;
      if (waits) compute(&unit);
      appends = unit.split + 1 == unit.first_split + unit.splits;
      if (appends) {
        const int64_t token = unit.first_token;
        const int64_t position = unit.kv_tokens - 1;
        Kv* keys = KeysOf<Kv>(kv, unit.blocks[position / kv.block_size], unit.kv_head);
        fresh = StoreNewToken(kv, keys, position % kv.block_size, append.rope,
                              append.cosines + token * half, append.sines + token * half,
                              KeyOf(append, token, unit.kv_head),
                              ValueOf(append, token, unit.kv_head), key, value);
      }
      rotate(unit, 0, Min(kBlockRows, unit.heads));
      waiting = unit;
      waits = true;
    });
    if (waits) compute(nullptr);
  }

  static void AppendAttend(const RopeAppendArgs& append, const AttentionArgs& args) {
    switch (args.kv.type) {
      case KvType::kF32:
        return AppendAttendAs<float>(append, args);
      case KvType::kBF16:
        return AppendAttendAs<uint16_t>(append, args);
      case KvType::kI8:
        return AppendAttendAs<int8_t>(append, args);
      case KvType::kF8E4M3:
        return AppendAttendAs<F8>(append, args);
    }
  }

  static constexpr AttentionKernels Table(Isa isa) {
    return {isa, RopeTables, RopeAppend, Attend, Merge, AppendAttend, ScratchBytes};
  }
};

}  // namespace llmir::kernels
