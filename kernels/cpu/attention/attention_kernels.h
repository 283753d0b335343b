// The kernels of kernels/attention.h as templates over a Simd family; each attention_<family>.cc
// instantiates one.
//
// A query row is one token's one head. The rows of a sequence that share a KV head are numbered
// token-major, so that neighbours have like causal limits, and are taken in blocks; a block goes
// through a split tile by tile, and each tile of K and V, read once, serves all rows of the block,
// a few at a time in registers. Every row does its own arithmetic in its own order: which rows
// share a block, or a thread, changes nothing in its bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

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

template <typename S>
struct AttentionImpl {
  using F = typename S::F;

  static constexpr int kBlockRows = 24;  // share a tile from the nearest cache
  static constexpr int kMicroRows = S::kRegisters < 8 ? 2 : 6;  // share a load in registers
  static constexpr int kTileGroups = kKvTile / kKvLanes;

  static constexpr int64_t RoundUp16(int64_t n) { return (n + 15) / 16 * 16; }
  static constexpr int64_t Splits(int64_t tokens) { return (tokens + kKvSplit - 1) / kKvSplit; }
  static constexpr int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
  static constexpr int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

  // Sixteen-lane columns that `rows` rows can accumulate at once: rows * columns sums, the columns
  // and one broadcast.
  static constexpr int Columns(int rows) {
    for (int columns = 4; columns > 1; columns /= 2) {
      if (rows * columns + columns + 1 <= S::kRegisters) return columns;
    }
    return 1;
  }

  static LLMIR_INLINE F LoadKv(const float* p) { return S::Load(p); }
  static LLMIR_INLINE F LoadKv(const uint16_t* p) { return S::LoadBF16(p); }
  static LLMIR_INLINE F LoadKvPartial(const float* p, int64_t count) {
    return S::LoadPartial(p, count);
  }
  static LLMIR_INLINE F LoadKvPartial(const uint16_t* p, int64_t count) {
    return S::LoadBF16Partial(p, count);
  }

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
    int64_t kv_head;         // local
    int64_t first_head;      // local query head
    int64_t heads;
    int64_t row_begin;  // rows of this block: (token - first_token) * heads + (head - first_head)
    int64_t row_end;
    int64_t split;
    int64_t splits;  // of the sequence
    const int32_t* blocks;
    int64_t partial_base;  // split states of the sequences before this one
  };

  // Calls visit(unit, cost of one row) for every unit of the step, in one order for all threads.
  template <typename Visit>
  static LLMIR_INLINE void ForEachUnit(const AttentionArgs& args, Visit visit) {
    // The work around a tile (softmax, loads and stores of the state) in units of the work for one
    // token.
    constexpr int64_t kRowOverhead = 16;
    int64_t partial_base = 0;
    for (int64_t s = 0; s < args.table.sequences; ++s) {
      Unit unit;
      unit.first_token = args.table.query_indptr[s];
      const int64_t tokens = args.table.query_indptr[s + 1] - unit.first_token;
      if (tokens == 0) continue;
      const int64_t kv_tokens = args.table.kv_tokens[s];
      unit.first_position = kv_tokens - tokens;
      unit.splits = Splits(kv_tokens);
      unit.blocks = args.table.kv_indices + args.table.kv_indptr[s];
      unit.partial_base = partial_base;
      partial_base += tokens * args.query_heads * unit.splits;
      for (unit.first_head = 0; unit.first_head < args.query_heads; unit.first_head += unit.heads) {
        const int64_t model_head = args.first_query_head + unit.first_head;
        const int64_t model_kv_head = model_head / args.heads_per_kv;
        unit.kv_head = model_kv_head - args.first_kv_head;
        unit.heads = Min((model_kv_head + 1) * args.heads_per_kv - model_head,
                         args.query_heads - unit.first_head);
        for (unit.split = 0; unit.split < unit.splits; ++unit.split) {
          const int64_t split_begin = unit.split * kKvSplit;
          const int64_t first = Max(0, split_begin - unit.first_position);
          for (unit.row_begin = first * unit.heads; unit.row_begin < tokens * unit.heads;
               unit.row_begin = unit.row_end) {
            unit.row_end = Min(unit.row_begin + kBlockRows, tokens * unit.heads);
            const int64_t last = unit.first_position + (unit.row_end - 1) / unit.heads;
            const int64_t length = Min(last + 1 - split_begin, kKvSplit);
            visit(unit, RoundUp16(length) + kRowOverhead);
          }
        }
      }
    }
  }

  // ---- attention --------------------------------------------------------------------------------

  // The rows of a block and their states.
  struct Block {
    int64_t rows;
    int64_t limit[kBlockRows];  // tokens that the row attends to, from token 0
    const float* q[kBlockRows];
    float m[kBlockRows];
    float l[kBlockRows];
    float* o;  // [kBlockRows][o_stride]
    int64_t o_stride;
    float* p;  // [kMicroRows][kKvTile] scores, then probabilities
  };

  // scores[r][16 g + lane] = sum over d of q[r][d] * k[g][d][lane].
  template <int R, int C, typename Kv>
  static LLMIR_INLINE void ScoreGroups(const float* const* q, const Kv* const* k, int64_t head_dim,
                                       float* scores) {
    F sum[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sum[r][c] = S::Zero();
    }
    for (int64_t d = 0; d < head_dim; ++d) {
      F keys[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) keys[c] = LoadKv(k[c] + d * kKvLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const F query = S::Set(q[r][d]);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sum[r][c] = S::Fma(query, keys[c], sum[r][c]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) S::Store(scores + r * kKvTile + c * kKvLanes, sum[r][c]);
    }
  }

  // o[r][16 c + lane] = o * correction[r], then += p[r][j] * v[j] for j in [begin, end). `v` is at
  // the first column; kPartial: only `lanes` lanes of the one column exist.
  template <int R, int C, bool kPartial, typename Kv>
  static LLMIR_INLINE void AccumulateColumns(const float* p, const Kv* const* v, int64_t column,
                                             int64_t head_dim, int64_t begin, int64_t end,
                                             const float* correction, float* o, int64_t o_stride) {
    F sum[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F factor = S::Set(correction[r]);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        sum[r][c] = S::Mul(S::Load(o + r * o_stride + column + 16 * c), factor);
      }
    }
    for (int64_t j = begin; j < end;) {
      const int64_t group_end = Min(end, (j / kKvLanes + 1) * kKvLanes);
      const Kv* row = v[j / kKvLanes] + j % kKvLanes * head_dim + column;
      for (; j < group_end; ++j, row += head_dim) {
        F values[C];
        if constexpr (kPartial) {
          values[0] = LoadKvPartial(row, head_dim - column);
        } else {
#pragma GCC unroll 4
          for (int c = 0; c < C; ++c) values[c] = LoadKv(row + 16 * c);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const F weight = S::Set(p[r * kKvTile + j]);
#pragma GCC unroll 4
          for (int c = 0; c < C; ++c) sum[r][c] = S::Fma(weight, values[c], sum[r][c]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        S::Store(o + r * o_stride + column + 16 * c, sum[r][c]);
      }
    }
  }

  template <int R, typename Kv>
  static LLMIR_INLINE void Accumulate(const float* p, const Kv* const* v, int64_t head_dim,
                                      int64_t begin, int64_t end, const float* correction, float* o,
                                      int64_t o_stride) {
    constexpr int kColumns = Columns(R);
    int64_t column = 0;
    for (; column + 16 * kColumns <= head_dim; column += 16 * kColumns) {
      AccumulateColumns<R, kColumns, false>(p, v, column, head_dim, begin, end, correction, o,
                                            o_stride);
    }
    for (; column + 16 <= head_dim; column += 16) {
      AccumulateColumns<R, 1, false>(p, v, column, head_dim, begin, end, correction, o, o_stride);
    }
    if (column < head_dim) {
      AccumulateColumns<R, 1, true>(p, v, column, head_dim, begin, end, correction, o, o_stride);
    }
  }

  // One tile for R rows of the block from row `first`, all of which attend to its first token at
  // least.
  template <int R, typename Kv>
  static void Tile(Block& block, int64_t first, int64_t tile_begin, const Kv* const* k,
                   const Kv* const* v, int64_t head_dim, float scale) {
    int64_t count[R];  // tokens of the tile that the row attends to; ascending
    for (int r = 0; r < R; ++r) count[r] = Min(block.limit[first + r] - tile_begin, kKvTile);
    const int groups = static_cast<int>((count[R - 1] + kKvLanes - 1) / kKvLanes);
    float* p = block.p;

    constexpr int kColumns = Columns(R);
    int g = 0;
    for (; g + kColumns <= groups; g += kColumns) {
      ScoreGroups<R, kColumns>(block.q + first, k + g, head_dim, p + g * kKvLanes);
    }
    if constexpr (kColumns > 2) {
      for (; g + 2 <= groups; g += 2) {
        ScoreGroups<R, 2>(block.q + first, k + g, head_dim, p + g * kKvLanes);
      }
    }
    if constexpr (kColumns > 1) {
      for (; g < groups; ++g) {
        ScoreGroups<R, 1>(block.q + first, k + g, head_dim, p + g * kKvLanes);
      }
    }

    // Lanes beyond a row's tokens hold whatever the cache held: they are replaced, never computed
    // with.
    const F factor = S::Set(scale);
    const F lowest = S::Set(-__builtin_inff());
    float correction[16] = {};
    for (int r = 0; r < R; ++r) {
      float* row = p + r * kKvTile;
      F maximum = lowest;
      for (int64_t i = 0; i < count[r]; i += kKvLanes) {
        const F score =
            S::Select(S::FirstLanes(count[r] - i), S::Mul(S::Load(row + i), factor), lowest);
        S::Store(row + i, score);
        maximum = S::Max(score, maximum);
      }
      const float tile_maximum = S::FoldMax(maximum);
      float& m = block.m[first + r];
      const float next = m > tile_maximum ? m : tile_maximum;
      correction[r] = m - next;
      m = next;
    }
    S::Store(correction, Exp<S>(S::Load(correction)));
    for (int r = 0; r < R; ++r) {
      float* row = p + r * kKvTile;
      const F m = S::Set(block.m[first + r]);
      F sum = S::Zero();
      for (int64_t i = 0; i < count[r]; i += kKvLanes) {
        const F e =
            S::Select(S::FirstLanes(count[r] - i), Exp<S>(S::Sub(S::Load(row + i), m)), S::Zero());
        S::Store(row + i, e);
        sum = S::Add(sum, e);
      }
      float& l = block.l[first + r];
      l = __builtin_fmaf(l, correction[r], S::FoldAdd(sum));
    }

    float* o = block.o + first * block.o_stride;
    Accumulate<R>(p, v, head_dim, 0, count[0], correction, o, block.o_stride);
    for (int r = 1; r < R; ++r) {
      if (count[r] == count[0]) continue;
      const float one = 1.0f;
      Accumulate<1>(p + r * kKvTile, v, head_dim, count[0], count[r], &one, o + r * block.o_stride,
                    block.o_stride);
    }
  }

  // Tile for the first R of `rows` rows, or all of them if they are fewer.
  template <int R, typename Kv>
  static LLMIR_INLINE void TileRows(int64_t rows, Block& block, int64_t first, int64_t tile_begin,
                                    const Kv* const* k, const Kv* const* v, int64_t head_dim,
                                    float scale) {
    if constexpr (R > 1) {
      if (rows < R) {
        return TileRows<R - 1>(rows, block, first, tile_begin, k, v, head_dim, scale);
      }
    }
    Tile<R>(block, first, tile_begin, k, v, head_dim, scale);
  }

  static LLMIR_INLINE float* PartialOf(const AttentionArgs& args, int64_t partial_base,
                                       int64_t sequence_token, int64_t head, int64_t splits,
                                       int64_t split) {
    const int64_t index =
        partial_base + (sequence_token * args.query_heads + head) * splits + split;
    return reinterpret_cast<float*>(args.partials) + index * (args.kv.head_dim + kPartialExtra);
  }

  // Rows [begin, end) of the unit.
  template <typename Kv>
  static void RunUnit(const AttentionArgs& args, const Unit& unit, int64_t begin, int64_t end) {
    const KvLayer& kv = args.kv;
    const int64_t head_dim = kv.head_dim;
    const int64_t split_begin = unit.split * kKvSplit;

    Block block;
    block.rows = end - begin;
    block.o_stride = RoundUp16(head_dim);
    block.o = reinterpret_cast<float*>(args.scratch);
    block.p = block.o + kBlockRows * block.o_stride;
    for (int64_t i = 0; i < block.rows; ++i) {
      const int64_t token = (begin + i) / unit.heads;
      const int64_t head = unit.first_head + (begin + i) % unit.heads;
      block.limit[i] = Min(unit.first_position + token + 1, split_begin + kKvSplit);
      block.q[i] = args.q + (unit.first_token + token) * args.q_stride + head * head_dim;
      block.m[i] = -__builtin_inff();
      block.l[i] = 0.0f;
    }
    std::memset(block.o, 0, static_cast<size_t>(block.rows * block.o_stride) * sizeof(float));

    const int64_t limit = block.limit[block.rows - 1];
    int64_t first = 0;
    for (int64_t tile = split_begin; tile < limit; tile += kKvTile) {
      const Kv* k[kTileGroups];
      const Kv* v[kTileGroups];
      for (int g = 0; g < kTileGroups; ++g) {
        const int64_t token = tile + g * kKvLanes;
        if (token >= limit) break;
        const int64_t block_id = unit.blocks[token / kv.block_size];
        const int64_t slot = token % kv.block_size;
        const Kv* head = reinterpret_cast<const Kv*>(kv.data + block_id * kv.block_bytes +
                                                     unit.kv_head * kv.head_bytes);
        k[g] = head + slot * head_dim;
        v[g] = head + (kv.block_size + slot) * head_dim;
      }
      while (block.limit[first] <= tile) ++first;
      for (int64_t row = first; row < block.rows; row += kMicroRows) {
        TileRows<kMicroRows>(block.rows - row, block, row, tile, k, v, head_dim, args.scale);
      }
    }

    for (int64_t i = 0; i < block.rows; ++i) {
      const int64_t token = (begin + i) / unit.heads;
      const int64_t head = unit.first_head + (begin + i) % unit.heads;
      const float* o = block.o + i * block.o_stride;
      if (unit.first_position + token < kKvSplit) {
        float* out =
            args.output + (unit.first_token + token) * args.output_stride + head * head_dim;
        Scale(o, 1.0f / block.l[i], head_dim, out);
      } else {
        float* partial = PartialOf(args, unit.partial_base, token, head, unit.splits, unit.split);
        std::memcpy(partial, o, static_cast<size_t>(head_dim) * sizeof(float));
        partial[head_dim] = block.m[i];
        partial[head_dim + 1] = block.l[i];
      }
    }
  }

  static LLMIR_INLINE void Scale(const float* x, float factor, int64_t count, float* out) {
    const F f = S::Set(factor);
    for (int64_t i = 0; i < count; i += 16) {
      const int64_t lanes = Min(16, count - i);
      S::StorePartial(out + i, lanes, S::Mul(S::LoadPartial(x + i, lanes), f));
    }
  }

  static void Attend(const AttentionArgs& args) {
    int64_t total = 0;
    ForEachUnit(args, [&](const Unit& unit, int64_t cost) {
      total += (unit.row_end - unit.row_begin) * cost;
    });
    const CostShare share(total, args.thread, args.threads);
    int64_t start = 0;
    ForEachUnit(args, [&](const Unit& unit, int64_t cost) {
      const int64_t rows = unit.row_end - unit.row_begin;
      const int64_t begin = unit.row_begin + CostShare::Before(share.begin, start, cost, rows);
      const int64_t end = unit.row_begin + CostShare::Before(share.end, start, cost, rows);
      start += rows * cost;
      if (begin >= end) return;
      if (args.kv.type == KvType::kF32) {
        RunUnit<float>(args, unit, begin, end);
      } else {
        RunUnit<uint16_t>(args, unit, begin, end);
      }
    });
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
        S::StorePartial(out + i, lanes,
                        S::Fma(S::LoadPartial(partial + i, lanes), b,
                               S::Mul(S::LoadPartial(out + i, lanes), a)));
      }
      l = __builtin_fmaf(partial[head_dim + 1], factors[1], l * factors[0]);
      m = next;
    }
    Scale(out, 1.0f / l, head_dim, out);
  }

  static void Merge(const AttentionArgs& args) {
    const SequenceTable& table = args.table;
    // Tokens of sequence s that have one split only: attend has written their rows.
    const auto done_tokens = [&](int64_t s, int64_t tokens) {
      return Max(0, Min(tokens, kKvSplit - (table.kv_tokens[s] - tokens)));
    };
    int64_t total = 0;
    for (int64_t s = 0; s < table.sequences; ++s) {
      const int64_t tokens = table.query_indptr[s + 1] - table.query_indptr[s];
      total += (tokens - done_tokens(s, tokens)) * args.query_heads * Splits(table.kv_tokens[s]);
    }
    const CostShare share(total, args.thread, args.threads);
    int64_t start = 0;
    int64_t partial_base = 0;
    for (int64_t s = 0; s < table.sequences; ++s) {
      const int64_t first_token = table.query_indptr[s];
      const int64_t tokens = table.query_indptr[s + 1] - first_token;
      if (tokens == 0) continue;
      const int64_t splits = Splits(table.kv_tokens[s]);
      const int64_t first_position = table.kv_tokens[s] - tokens;
      const int64_t done = done_tokens(s, tokens);
      const int64_t rows = (tokens - done) * args.query_heads;
      const int64_t begin = CostShare::Before(share.begin, start, splits, rows);
      const int64_t end = CostShare::Before(share.end, start, splits, rows);
      for (int64_t row = begin; row < end; ++row) {
        const int64_t token = done + row / args.query_heads;
        const int64_t head = row % args.query_heads;
        MergeRow(
            PartialOf(args, partial_base, token, head, splits, 0), args.kv.head_dim + kPartialExtra,
            Splits(first_position + token + 1), args.kv.head_dim,
            args.output + (first_token + token) * args.output_stride + head * args.kv.head_dim);
      }
      start += rows * splits;
      partial_base += tokens * args.query_heads * splits;
    }
  }

  static int64_t ScratchBytes(int64_t head_dim, int64_t /*heads_per_kv*/) {
    return (kBlockRows * RoundUp16(head_dim) + kMicroRows * kKvTile) *
           static_cast<int64_t>(sizeof(float));
  }

  // ---- rope and append --------------------------------------------------------------------------

  // (x0, x1) → (x0 cos - x1 sin, x1 cos + x0 sin): the product with cos rounded, then one fma.
  static LLMIR_INLINE void Rotate(float* x, const RopeArgs& rope, const float* cosines,
                                  const float* sines) {
    const int64_t half = rope.rope_dim / 2;
    if (rope.interleaved) {
      for (int64_t i = 0; i < half; ++i) {
        const float x0 = x[2 * i];
        const float x1 = x[2 * i + 1];
        x[2 * i] = __builtin_fmaf(-x1, sines[i], x0 * cosines[i]);
        x[2 * i + 1] = __builtin_fmaf(x0, sines[i], x1 * cosines[i]);
      }
      return;
    }
    for (int64_t i = 0; i < half; i += 16) {
      const int64_t lanes = Min(16, half - i);
      const F x0 = S::LoadPartial(x + i, lanes);
      const F x1 = S::LoadPartial(x + half + i, lanes);
      const F cosine = S::LoadPartial(cosines + i, lanes);
      const F sine = S::LoadPartial(sines + i, lanes);
      S::StorePartial(x + i, lanes, S::NegFma(x1, sine, S::Mul(x0, cosine)));
      S::StorePartial(x + half + i, lanes, S::Fma(x0, sine, S::Mul(x1, cosine)));
    }
  }

  // To the cache's type; bfloat16 to nearest even, NaN stays NaN.
  static LLMIR_INLINE void Convert(float x, float& out) { out = x; }
  static LLMIR_INLINE void Convert(float x, uint16_t& out) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    out = static_cast<uint16_t>(nan ? bits >> 16 | 0x40u : rounded);
  }

  template <typename Kv>
  static void RopeAppendAs(const RopeAppendArgs& args) {
    const KvLayer& kv = args.kv;
    const int64_t head_dim = kv.head_dim;
    const int64_t half = args.rope.rope_dim / 2;
    const SequenceTable& table = args.table;
    int64_t s = 0;
    for (int64_t token = args.token_begin; token < args.token_end; ++token) {
      float* row = args.qkv + token * args.qkv_stride;
      for (int64_t head = 0; head < args.query_heads + args.kv_heads; ++head) {
        Rotate(row + head * head_dim, args.rope, args.cosines + token * half,
               args.sines + token * half);
      }
      while (table.query_indptr[s + 1] <= token) ++s;
      const int64_t position = table.kv_tokens[s] - (table.query_indptr[s + 1] - token);
      const int64_t block_id = table.kv_indices[table.kv_indptr[s] + position / kv.block_size];
      const int64_t slot = position % kv.block_size;
      const float* key = row + args.query_heads * head_dim;
      const float* value = key + args.kv_heads * head_dim;
      for (int64_t head = 0; head < args.kv_heads; ++head) {
        Kv* block =
            reinterpret_cast<Kv*>(kv.data + block_id * kv.block_bytes + head * kv.head_bytes);
        Kv* k = block + slot / kKvLanes * kKvLanes * head_dim + slot % kKvLanes;
        Kv* v = block + (kv.block_size + slot) * head_dim;
        for (int64_t d = 0; d < head_dim; ++d) {
          Convert(key[head * head_dim + d], k[d * kKvLanes]);
        }
        for (int64_t d = 0; d < head_dim; ++d) Convert(value[head * head_dim + d], v[d]);
      }
    }
  }

  static void RopeAppend(const RopeAppendArgs& args) {
    if (args.kv.type == KvType::kF32) {
      RopeAppendAs<float>(args);
    } else {
      RopeAppendAs<uint16_t>(args);
    }
  }

  static constexpr AttentionKernels Table(Isa isa) {
    return {isa, RopeTables, RopeAppend, Attend, Merge, ScratchBytes};
  }
};

}  // namespace llmir::kernels
