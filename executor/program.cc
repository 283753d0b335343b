#include "executor/program.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/linear_share.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/sum_tree.h"

namespace llmir::executor {
namespace {

using Clock = std::chrono::steady_clock;

// A buffer on this rank.
struct BoundBuffer {
  std::byte* data = nullptr;
  int64_t columns = 0;
  int64_t row_bytes = 0;
  plan::Rows rows{};
  int64_t node_stride = 0;  // floats from a node's rows to the next one's; 0: there is one
  float* floats() const { return reinterpret_cast<float*>(data); }
  float* floats(int64_t row) const { return floats() + row * stride(); }
  std::byte* at(int64_t row) const { return data + row * row_bytes; }
  int64_t stride() const { return columns; }  // of float rows, floats
};

struct RunContext;
struct BoundStep;
// Runs this thread's share. Steps that one thread runs alone return at once on the others.
using StepFunction = void (*)(const BoundStep& step, RunContext& run, int thread);

struct BoundStep {
  StepFunction function = nullptr;
  plan::StepKind kind{};
  BoundBuffer in[2];
  BoundBuffer out[2];
  const PackedWeight* weight = nullptr;
  kernels::KvLayer kv{};
  kernels::AttentionForm form{};
  int64_t window = 0;
  bool share_kv = true;
  comm::Channel* channel = nullptr;
  std::vector<int> peers;              // ranks in `channel`
  std::vector<size_t> gather_columns;  // per rank of the group
  int32_t tag = 0;
  uint32_t event = 0;
  bool residual = false;
  bool silu_mul = false;
  bool main_only = false;      // only thread 0 has work
  bool barrier = true;         // what it wrote, other threads read in the next step
  int64_t prefetch_bytes = 0;  // per thread
  kernels::Activation activation{};
  float softcap = 0;               // of the scores, or of softcap's rows
  std::vector<int64_t> node_ends;  // of a linear that makes nodes of a tree: their last columns
  const comm::SumTree* tree = nullptr;  // of a sum over nodes
  comm::Wire wire = comm::Wire::kFloat32;
  MemoryMap gather_space;      // the ranks' columns, before they are put in rows
  double flops_per_token = 0;  // planned, of this rank
  int start = -1;              // of a wait: what it waits for, in Program::State::steps
  ActivationCollector::Input* collected = nullptr;  // what the input is recorded as
  std::string name;
  int32_t layer = -1;
};

}  // namespace

struct Program::State {
  RankResources* resources;
  const plan::Program* program;
  std::vector<BoundStep> steps;
  std::vector<StepTimes> times;
  std::vector<std::vector<double>> entered;  // per step that communicates, if timing: as kept_us
  bool timing = false;
  uint64_t runs = 0;
  uint64_t tokens = 0;

  kernels::RopeArgs rope{};
  MemoryMap rope_tables;  // [2][max_tokens][rope_dim / 2] floats: cosines, sines
  float* cosines = nullptr;
  float* sines = nullptr;
  MemoryMap partials;
  std::vector<MemoryMap> scratch;                  // per thread
  std::vector<std::vector<comm::Request>> events;  // what a start left to wait for
  std::vector<size_t> gather_counts;
  std::vector<size_t> share_counts;        // of one collective over shares of rows, per rank
  comm::Channel* collectives = nullptr;    // of the stage's ranks
  int started = 0;                         // operations of it that have not been waited for
  std::array<uint64_t, 6> rows_in_runs{};  // rows of a buffer over the runs, by plan::Rows

  // By the unit whose leaves they are over. Without entries where no step needs one.
  std::array<comm::SumTree, static_cast<size_t>(plan::Unit::MAX) + 1> trees;

  BoundBuffer ids, logits, logprobs;
  int32_t sampled = 0;

  const kernels::AttentionKernels* attention;
  const kernels::VectorKernels* vector;
};

namespace {

struct RunContext {
  Program::State& state;
  StepDescriptor& descriptor;
  RankResources& resources;
  int threads;
  int64_t tokens;
  int64_t sampled;
  kernels::SequenceTable table;
  std::atomic<size_t> failed_at{SIZE_MAX};  // the first step that failed
  Status status;                            // written by thread 0 alone, read after the run

  void Fail(const BoundStep& step, const Status& error) {
    // Up to the next barrier steps go on after an error; the first one counts.
    if (status.ok()) status = error.WithContext(fmt::format("step {}", step.name));
  }
  // The rows that a step on `buffer` works on.
  plan::Extent RowsOf(plan::Rows rows) const {
    if (rows == plan::Rows::sampled) return {0, static_cast<uint64_t>(sampled)};
    if (rows == plan::Rows::one) return {0, 1};
    return plan::TokenRows(rows, static_cast<uint64_t>(tokens),
                           static_cast<uint32_t>(resources.stage_rank),
                           resources.stage->ranks()->size());
  }
  int64_t FirstRow(const BoundBuffer& buffer) const {
    return static_cast<int64_t>(RowsOf(buffer.rows).begin);
  }
  int64_t Rows(const BoundBuffer& buffer) const {
    return static_cast<int64_t>(RowsOf(buffer.rows).size());
  }
  // This thread's share of them.
  kernels::Share ShareOfRows(const BoundBuffer& buffer, int thread) const {
    const int64_t first = FirstRow(buffer);
    const auto share = kernels::ShareOf(Rows(buffer), 1, thread, threads);
    return {first + share.begin, first + share.end};
  }
};

const float* Weight(const BoundStep& step) { return step.weight->vector(); }

// -------------------------------------------------------------------------------------------------
// compute steps

void RunEmbedding(const BoundStep& step, RunContext& run, int thread) {
  const auto share = kernels::ShareOf(run.tokens, 1, thread, run.threads);
  const PackedWeight& table = *step.weight;
  const auto ids = run.descriptor.token_ids();
  for (int64_t t = share.begin; t < share.end; ++t) {
    float* row = step.out[0].floats() + t * step.out[0].stride();
    const int64_t local = ids[t] - table.first_row;
    if (local < 0 || local >= table.rows) {
      std::memset(row, 0, table.columns * sizeof(float));
    } else {
      table.kernel->unpack_row(table.data, local, table.columns, row);
    }
  }
}

void RunRmsNorm(const BoundStep& step, RunContext& run, int thread) {
  const auto share = run.ShareOfRows(step.in[0], thread);
  if (share.begin == share.end) return;
  const BoundBuffer& x = step.in[0];
  const BoundBuffer& y = step.out[0];
  run.state.vector->rms_norm(x.floats() + share.begin * x.stride(), x.stride(), Weight(step),
                             run.resources.plan->model()->norm_epsilon(), share.end - share.begin,
                             x.columns, y.floats() + share.begin * y.stride(), y.stride());
}

void RunRmsNormQ8(const BoundStep& step, RunContext& run, int thread) {
  const auto share = run.ShareOfRows(step.in[0], thread);
  if (share.begin == share.end) return;
  const BoundBuffer& x = step.in[0];
  const BoundBuffer& y = step.out[0];
  run.state.vector->rms_norm_q8(x.floats() + share.begin * x.stride(), x.stride(), Weight(step),
                                run.resources.plan->model()->norm_epsilon(),
                                share.end - share.begin, x.columns,
                                y.data + share.begin * y.row_bytes, y.row_bytes);
}

void RunQuantize(const BoundStep& step, RunContext& run, int thread) {
  const auto share = run.ShareOfRows(step.in[0], thread);
  if (share.begin == share.end) return;
  const BoundBuffer& x = step.in[0];
  const BoundBuffer& y = step.out[0];
  run.state.vector->quantize(x.floats() + share.begin * x.stride(), x.stride(),
                             share.end - share.begin, x.columns, y.data + share.begin * y.row_bytes,
                             y.row_bytes);
}

kernels::LinearArgs LinearArgsOf(const BoundStep& step, const std::byte* x, int64_t x_stride,
                                 int64_t rows, float* output, int64_t output_stride,
                                 std::byte* scratch) {
  const PackedWeight& weight = *step.weight;
  kernels::LinearArgs args{};
  args.panel_stride = weight.panel_stride;
  args.columns = weight.columns;
  args.leaf_columns = weight.leaf_columns;
  args.activations = x;
  args.activation_stride = x_stride;
  args.tokens = rows;
  args.output = output;
  args.output_stride = output_stride;
  args.silu_mul = step.silu_mul;
  args.scratch = scratch;
  return args;
}

// This thread's share of a weight's panels, run by run.
void RunPanels(const PackedWeight& weight, kernels::Share share, const kernels::LinearArgs& whole) {
  for (const PanelRun& run : weight.runs) {
    kernels::LinearArgs args = whole;
    args.panel_begin = std::max(share.begin - run.first_panel, int64_t{0});
    args.panel_end = std::min(share.end - run.first_panel, run.panels);
    if (args.panel_begin >= args.panel_end) continue;
    args.weights = run.data;
    args.rows = run.rows;
    args.output += run.first_row;
    if (args.residual != nullptr) args.residual += run.first_row;
    weight.kernel->run(args);
  }
}

// Panels of a matrix after which collectives that are under way are moved on: MPI does nothing in
// the background. A multiple of what a kernel takes at a time, for about a quarter of a
// millisecond.
int64_t PanelsBetweenProgress(const BoundStep& step, int64_t tokens) {
  constexpr int64_t kMultiplications = 16'000'000;
  constexpr int64_t kAtATime = 4;
  const int64_t pieces = step.silu_mul ? 2 : 1;
  const int64_t each = kAtATime * pieces * kernels::kPanelRows * step.weight->columns * tokens;
  return std::max(kMultiplications / each, int64_t{1}) * kAtATime * pieces;
}

void RunLinear(const BoundStep& step, RunContext& run, int thread) {
  const BoundBuffer& x = step.in[0];
  const BoundBuffer& y = step.out[0];
  const int64_t first = run.FirstRow(x);
  kernels::LinearArgs args =
      LinearArgsOf(step, x.at(first), x.row_bytes, run.Rows(x), y.floats(first), y.stride(),
                   run.state.scratch[thread].data());
  if (step.residual) {
    args.residual = step.in[1].floats(first);
    args.residual_stride = step.in[1].stride();
  }
  args.parts = static_cast<int64_t>(step.node_ends.size());
  args.part_ends = step.node_ends.data();
  args.part_stride = y.node_stride;
  if (args.tokens == 0) return;
  const kernels::LinearShare share = kernels::ShareOfLinear(
      step.weight->panels, step.silu_mul ? 2 : 1, args.tokens, thread, run.threads);
  kernels::TakeShare(share, &args);
  if (thread != 0 || run.state.started == 0) return RunPanels(*step.weight, share.panels, args);
  const int64_t panels = PanelsBetweenProgress(step, args.tokens);
  for (int64_t begin = share.panels.begin; begin < share.panels.end; begin += panels) {
    RunPanels(*step.weight, {begin, std::min(begin + panels, share.panels.end)}, args);
    run.state.collectives->Progress();
  }
}

kernels::RopeAppendArgs AppendArgsOf(const BoundStep& step, RunContext& run, int thread) {
  const auto share = kernels::ShareOf(run.tokens, 1, thread, run.threads);
  const plan::Rank& rank = *run.resources.rank;
  kernels::RopeAppendArgs args{};
  args.qkv = step.in[0].floats();
  args.qkv_stride = step.in[0].stride();
  args.query_heads = plan::RankLeaves(rank, plan::Unit::query_head).count();
  args.kv_heads = plan::RankLeaves(rank, plan::Unit::kv_head).count();
  args.rope = run.state.rope;
  args.cosines = run.state.cosines;
  args.sines = run.state.sines;
  args.kv = step.kv;
  args.table = run.table;
  args.token_begin = share.begin;
  args.token_end = share.end;
  return args;
}

void RunRopeAppend(const BoundStep& step, RunContext& run, int thread) {
  const kernels::RopeAppendArgs args = AppendArgsOf(step, run, thread);
  if (args.token_begin < args.token_end) run.state.attention->rope_append(args);
}

kernels::AttentionArgs AttentionArgsOf(const BoundStep& step, RunContext& run, int thread) {
  const plan::Model& model = *run.resources.plan->model();
  const plan::Rank& rank = *run.resources.rank;
  kernels::AttentionArgs args{};
  args.q = step.in[0].floats();
  args.q_stride = step.in[0].stride();
  args.output = step.out[0].floats();
  args.output_stride = step.out[0].stride();
  args.query_heads = plan::RankLeaves(rank, plan::Unit::query_head).count();
  args.first_query_head = plan::RankLeaves(rank, plan::Unit::query_head).begin;
  args.first_kv_head = plan::RankLeaves(rank, plan::Unit::kv_head).begin;
  args.heads_per_kv = model.query_heads() / model.kv_heads();
  args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(model.head_dim())));
  args.kv = step.kv;
  args.table = run.table;
  args.partials = run.state.partials.data();
  args.scratch = run.state.scratch[thread].data();
  args.thread = thread;
  args.threads = run.threads;
  args.window = step.window;
  args.form = step.form;
  args.share_kv = step.share_kv;
  args.softcap = step.softcap;
  return args;
}

// Where every sequence has one split, attention has written every row: nobody waits.
void MergeSplits(const kernels::AttentionArgs& args, RunContext& run) {
  const int32_t* tokens = args.table.kv_tokens;
  const int32_t* end = tokens + args.table.sequences;
  if (std::all_of(tokens, end, [](int32_t count) { return count <= kernels::kKvSplit; })) return;
  run.resources.pool->Barrier();
  run.state.attention->merge(args);
}

void RunAttention(const BoundStep& step, RunContext& run, int thread) {
  const kernels::AttentionArgs args = AttentionArgsOf(step, run, thread);
  run.state.attention->attend(args);
  MergeSplits(args, run);
}

void RunAppendAttend(const BoundStep& step, RunContext& run, int thread) {
  const kernels::AttentionArgs args = AttentionArgsOf(step, run, thread);
  run.state.attention->append_attend(AppendArgsOf(step, run, thread), args);
  MergeSplits(args, run);
}

void RunAdd(const BoundStep& step, RunContext& run, int thread) {
  const int64_t count = run.Rows(step.in[0]) * step.in[0].columns;
  const auto share = kernels::ShareOf(count, 16, thread, run.threads);
  if (share.begin == share.end) return;
  const int64_t begin = run.FirstRow(step.in[0]) * step.in[0].stride() + share.begin;
  run.state.vector->add(step.in[0].floats() + begin, step.in[1].floats() + begin,
                        share.end - share.begin, step.out[0].floats() + begin);
}

void RunLayerNorm(const BoundStep& step, RunContext& run, int thread) {
  const auto share = run.ShareOfRows(step.in[0], thread);
  if (share.begin == share.end) return;
  const BoundBuffer& x = step.in[0];
  const BoundBuffer& y = step.out[0];
  run.state.vector->layer_norm(x.floats(share.begin), x.stride(), Weight(step),
                               run.resources.plan->model()->norm_epsilon(), share.end - share.begin,
                               x.columns, y.floats(share.begin), y.stride());
}

void RunActivation(const BoundStep& step, RunContext& run, int thread) {
  const auto share = run.ShareOfRows(step.in[0], thread);
  if (share.begin == share.end) return;
  const BoundBuffer& up = step.in[1];
  run.state.vector->activate(step.activation, step.in[0].floats(share.begin),
                             up.data != nullptr ? up.floats(share.begin) : nullptr,
                             (share.end - share.begin) * step.in[0].columns,
                             step.out[0].floats(share.begin));
}

void RunSoftcap(const BoundStep& step, RunContext& run, int thread) {
  const auto share = run.ShareOfRows(step.in[0], thread);
  if (share.begin == share.end) return;
  run.state.vector->softcap(step.in[0].floats(share.begin), step.softcap,
                            (share.end - share.begin) * step.in[0].columns,
                            step.out[0].floats(share.begin));
}

void RunDequantize(const BoundStep& step, RunContext& run, int thread) {
  const auto share = run.ShareOfRows(step.in[0], thread);
  if (share.begin == share.end) return;
  const BoundBuffer& x = step.in[0];
  const BoundBuffer& y = step.out[0];
  run.state.vector->dequantize(x.at(share.begin), x.row_bytes, share.end - share.begin, x.columns,
                               y.floats(share.begin), y.stride());
}

void RunGatherRows(const BoundStep& step, RunContext& run, int thread) {
  const auto share = kernels::ShareOf(run.sampled, 1, thread, run.threads);
  const auto rows = run.descriptor.sampled_rows();
  for (int64_t i = share.begin; i < share.end; ++i) {
    std::memcpy(step.out[0].data + i * step.out[0].row_bytes,
                step.in[0].data + rows[i] * step.in[0].row_bytes, step.in[0].row_bytes);
  }
}

void RunSample(const BoundStep& step, RunContext& run, int) {
  auto* ids = reinterpret_cast<int32_t*>(step.out[0].data);
  const auto options = run.descriptor.sampling();
  const auto positions = run.descriptor.sampled_positions();
  const size_t vocabulary = run.resources.plan->model()->vocabulary();
  for (int64_t i = 0; i < run.sampled; ++i) {
    const float* logits = step.in[0].floats() + i * step.in[0].stride();
    ids[i] = run.resources.sampler->Sample({logits, vocabulary}, options[i], positions[i]);
  }
}

// The head over the step's rows in chunks that fit the chunk buffer; of each row only three numbers
// remain, or three for each leaf of the vocabulary.
void RunScore(const BoundStep& step, RunContext& run, int thread) {
  const BoundBuffer& x = step.in[0];
  const BoundBuffer& parts = step.out[0];
  const BoundBuffer& chunk = step.out[1];
  const PackedWeight& head = *step.weight;
  const auto targets = run.descriptor.targets();
  const int64_t chunk_rows = chunk.columns / head.rows;
  const int64_t part_count = parts.columns / 3;
  const int64_t part_size =
      part_count == 1 ? head.rows : int64_t{run.resources.plan->model()->vocabulary_leaf()};
  const auto panels = kernels::ShareOf(head.panels, 1, thread, run.threads);
  for (int64_t first = 0; first < run.tokens; first += chunk_rows) {
    const int64_t rows = std::min(chunk_rows, run.tokens - first);
    RunPanels(head, panels,
              LinearArgsOf(step, x.data + first * x.row_bytes, x.row_bytes, rows, chunk.floats(),
                           head.rows, run.state.scratch[thread].data()));
    run.resources.pool->Barrier();
    const auto share = kernels::ShareOf(rows, 1, thread, run.threads);
    for (int64_t r = share.begin; r < share.end; ++r) {
      float* out = parts.floats() + (first + r) * parts.stride();
      for (int64_t p = 0; p < part_count; ++p, out += 3) {
        const int64_t begin = p * part_size;
        const int64_t size = std::min(part_size, head.rows - begin);
        const int64_t target = targets[first + r] - head.first_row - begin;
        const kernels::ScorePart part =
            run.state.vector->score_part(chunk.floats() + r * head.rows + begin, size,
                                         target >= 0 && target < size ? target : -1);
        out[0] = part.maximum;
        out[1] = part.sum;
        out[2] = part.target;
      }
    }
    run.resources.pool->Barrier();
  }
}

void RunScoreMerge(const BoundStep& step, RunContext& run, int) {
  const int64_t parts = step.in[0].columns / 3;
  for (int64_t t = 0; t < run.tokens; ++t) {
    const float* row = step.in[0].floats() + t * step.in[0].stride();
    double maximum = -std::numeric_limits<double>::infinity();
    for (int64_t p = 0; p < parts; ++p) maximum = std::max<double>(maximum, row[3 * p]);
    double sum = 0;
    double target = 0;
    for (int64_t p = 0; p < parts; ++p) {
      sum += row[3 * p + 1] * std::exp(row[3 * p] - maximum);
      target += row[3 * p + 2];
    }
    step.out[0].floats()[t] = static_cast<float>(target - maximum - std::log(sum));
  }
}

// -------------------------------------------------------------------------------------------------
// communication steps

using Started = StatusOr<comm::Request>;

Started StartAllReduce(const BoundStep& step, RunContext& run) {
  const BoundBuffer& x = step.in[0];
  float* data = x.floats(run.FirstRow(x));
  const size_t count = run.Rows(x) * x.columns;
  if (step.tree == nullptr) return step.channel->StartAllReduce(data, count, step.wire);
  return step.channel->StartTreeAllReduce(data, count, x.node_stride, *step.tree);
}

// Four-byte words of each rank's share of the rows.
std::span<const size_t> ShareCounts(const BoundBuffer& buffer, RunContext& run) {
  auto& counts = run.state.share_counts;
  for (uint32_t r = 0; r < counts.size(); ++r) {
    const plan::Extent rows =
        plan::TokenRows(plan::Rows::share, static_cast<uint64_t>(run.tokens), r, counts.size());
    counts[r] = rows.size() * buffer.row_bytes / sizeof(float);
  }
  return counts;
}

Started StartReduceScatter(const BoundStep& step, RunContext& run) {
  const BoundBuffer& share = step.out[0];
  const std::span<const size_t> counts = ShareCounts(share, run);
  float* out = share.floats(run.FirstRow(share));
  if (step.tree == nullptr) {
    return step.channel->StartReduceScatter(step.in[0].floats(), counts, out, step.wire);
  }
  return step.channel->StartTreeReduceScatter(step.in[0].floats(), counts, step.in[0].node_stride,
                                              *step.tree, out);
}

Started StartAllGather(const BoundStep& step, RunContext& run) {
  const BoundBuffer& share = step.in[0];
  return step.channel->StartAllGather(reinterpret_cast<const float*>(share.at(run.FirstRow(share))),
                                      ShareCounts(share, run),
                                      reinterpret_cast<float*>(step.out[0].data), step.wire);
}

Started StartBroadcast(const BoundStep& step, RunContext& run) {
  const BoundBuffer& x = step.in[0];
  return step.channel->StartBroadcast(x.at(run.FirstRow(x)),
                                      static_cast<size_t>(run.Rows(x) * x.row_bytes), /*root=*/0);
}

Started StartGather(const BoundStep& step, RunContext& run) {
  const int64_t rows = run.Rows(step.in[0]);
  auto& counts = run.state.gather_counts;
  for (size_t r = 0; r < counts.size(); ++r) counts[r] = step.gather_columns[r] * rows;
  return step.channel->StartGather(step.in[0].floats(), counts,
                                   reinterpret_cast<float*>(step.gather_space.data()), /*root=*/0);
}

// What a gather brought, as whole rows.
void PlaceColumns(const BoundStep& step, RunContext& run) {
  if (step.channel->rank() != 0) return;
  const int64_t rows = run.Rows(step.in[0]);
  const auto* from = reinterpret_cast<const float*>(step.gather_space.data());
  size_t column = 0;
  for (const size_t width : step.gather_columns) {
    for (int64_t row = 0; row < rows; ++row, from += width) {
      std::memcpy(step.out[0].floats(row) + column, from, width * sizeof(float));
    }
    column += width;
  }
}

template <Started (*start)(const BoundStep&, RunContext&)>
void RunStart(const BoundStep& step, RunContext& run, int) {
  const Started request = start(step, run);
  if (!request.ok()) return run.Fail(step, request.status());
  run.state.events[step.event].push_back(*request);
  ++run.state.started;
}

template <Started (*start)(const BoundStep&, RunContext&)>
void RunWhole(const BoundStep& step, RunContext& run, int) {
  const Started request = start(step, run);
  if (!request.ok()) return run.Fail(step, request.status());
  const Status status = step.channel->Wait(*request);
  if (!status.ok()) run.Fail(step, status);
}

void RunWait(const BoundStep& step, RunContext& run, int) {
  const BoundStep& start = run.state.steps[static_cast<size_t>(step.start)];
  auto& requests = run.state.events[step.event];
  for (const comm::Request request : requests) {
    const Status status = step.channel->Wait(request);
    if (!status.ok()) return run.Fail(step, status);
  }
  requests.clear();
  if (step.channel == run.state.collectives) --run.state.started;
  if (start.kind == plan::StepKind::gather_start) PlaceColumns(start, run);
}

// The beginning of what this thread will read of the next weight, while a collective is under way;
// the thread that moves the collective on goes on with that, or looks after it in between where it
// is the only one. Once the others are there the matrix reads itself: prefetching all that fits
// took 10 % of a decode step of two ranks, without its matrices being any faster for it.
void RunPrefetch(const BoundStep& step, RunContext& run, int thread) {
  if (thread == 0 && run.threads > 1 && run.state.started > 0) return;
  const PackedWeight& weight = *step.weight;
  const auto panels = kernels::ShareOf(weight.panels, 1, thread, run.threads);
  const auto run_of = std::ranges::find_if(weight.runs, [&](const PanelRun& candidate) {
    return panels.begin < candidate.first_panel + candidate.panels;
  });
  if (panels.begin == panels.end || run_of == weight.runs.end()) return;
  // Its first panels' columns; where it has a part of the columns, each panel is a stretch.
  const int64_t first_panel = panels.begin - run_of->first_panel;
  const std::byte* first = run_of->data + first_panel * weight.panel_stride;
  const int64_t count = std::min(panels.end - run_of->first_panel, run_of->panels) - first_panel;
  const int64_t panel_bytes = weight.kernel->panel_bytes(weight.columns);
  const int64_t bytes = std::min(
      step.prefetch_bytes, panel_bytes == weight.panel_stride ? count * panel_bytes : panel_bytes);
  constexpr int64_t kLine = 64;
  constexpr int64_t kBetweenLooks = 16 * kLine;
  for (int64_t at = 0; at < bytes; at += kBetweenLooks) {
    if (thread == 0 && step.channel != nullptr) {
      step.channel->Progress();
      const auto& requests = run.state.events[step.event];
      if (std::ranges::all_of(requests, [&](const comm::Request request) {
            return step.channel->IsFinished(request);
          })) {
        return;
      }
    }
    const int64_t end = std::min(bytes, at + kBetweenLooks);
    for (int64_t i = at; i < end; i += kLine) __builtin_prefetch(first + i, 0, 2);
  }
}

void RunGather(const BoundStep& step, RunContext& run, int thread) {
  if (run.Rows(step.in[0]) == 0) return;
  RunWhole<StartGather>(step, run, thread);
  if (run.status.ok()) PlaceColumns(step, run);
}

Started StartSend(const BoundStep& step, RunContext& run, int peer) {
  const BoundBuffer& x = step.in[0];
  return step.channel->StartSend(x.data, run.Rows(x) * x.row_bytes, peer, step.tag, step.wire);
}

Started StartRecv(const BoundStep& step, RunContext& run) {
  const BoundBuffer& x = step.out[0];
  return step.channel->StartRecv(x.data, run.Rows(x) * x.row_bytes, step.peers.front(), step.tag,
                                 step.wire);
}

void RunSendStart(const BoundStep& step, RunContext& run, int) {
  for (const int peer : step.peers) {
    const Started request = StartSend(step, run, peer);
    if (!request.ok()) return run.Fail(step, request.status());
    run.state.events[step.event].push_back(*request);
  }
}

void RunSend(const BoundStep& step, RunContext& run, int) {
  for (const int peer : step.peers) {
    const Started request = StartSend(step, run, peer);
    if (!request.ok()) return run.Fail(step, request.status());
    const Status status = step.channel->Wait(*request);
    if (!status.ok()) return run.Fail(step, status);
  }
}

void RunRecvStart(const BoundStep& step, RunContext& run, int) {
  const Started request = StartRecv(step, run);
  if (!request.ok()) return run.Fail(step, request.status());
  run.state.events[step.event].push_back(*request);
}

struct StepRule {
  StepFunction function;
  bool main_only;
  bool barrier = true;
};

StepRule RuleOf(const plan::Step& step, plan::DType output) {
  switch (step.kind()) {
    case plan::StepKind::embedding:
      return {RunEmbedding, false};
    case plan::StepKind::rms_norm:
      return {output == plan::DType::q8_rows ? RunRmsNormQ8 : RunRmsNorm, false};
    case plan::StepKind::quantize:
      return {RunQuantize, false};
    case plan::StepKind::linear:
      return {RunLinear, false};
    case plan::StepKind::rope_append:
      return {RunRopeAppend, false};
    case plan::StepKind::paged_attention:
      return {RunAttention, false};
    case plan::StepKind::append_attend:
      return {RunAppendAttend, false};
    case plan::StepKind::add:
      return {RunAdd, false};
    case plan::StepKind::gather_rows:
      return {RunGatherRows, false};
    case plan::StepKind::all_reduce:
      return {RunWhole<StartAllReduce>, true};
    case plan::StepKind::all_reduce_start:
      return {RunStart<StartAllReduce>, true, false};
    case plan::StepKind::reduce_scatter:
      return {RunWhole<StartReduceScatter>, true};
    case plan::StepKind::reduce_scatter_start:
      return {RunStart<StartReduceScatter>, true, false};
    case plan::StepKind::all_gather:
      return {RunWhole<StartAllGather>, true};
    case plan::StepKind::all_gather_start:
      return {RunStart<StartAllGather>, true, false};
    case plan::StepKind::broadcast:
      return {RunWhole<StartBroadcast>, true};
    case plan::StepKind::broadcast_start:
      return {RunStart<StartBroadcast>, true, false};
    case plan::StepKind::prefetch:
      return {RunPrefetch, false, false};
    case plan::StepKind::wait:
      return {RunWait, true};
    case plan::StepKind::gather:
      return {RunGather, true};
    case plan::StepKind::gather_start:
      return {RunStart<StartGather>, true};
    case plan::StepKind::send:
      return {RunSend, true};
    case plan::StepKind::send_start:
      return {RunSendStart, true};
    case plan::StepKind::recv:
      return {RunWhole<StartRecv>, true};
    case plan::StepKind::recv_start:
      return {RunRecvStart, true};
    case plan::StepKind::layer_norm:
      return {RunLayerNorm, false};
    case plan::StepKind::activation:
      return {RunActivation, false};
    case plan::StepKind::softcap:
      return {RunSoftcap, false};
    case plan::StepKind::dequantize:
      return {RunDequantize, false};
    case plan::StepKind::sample:
      return {RunSample, true};
    case plan::StepKind::score:
      return {RunScore, false};
    case plan::StepKind::score_merge:
      return {RunScoreMerge, true};
    default:
      return {nullptr, false};
  }
}

kernels::KvType KvTypeOf(plan::DType dtype) {
  switch (dtype) {
    case plan::DType::bf16:
      return kernels::KvType::kBF16;
    case plan::DType::i8:
      return kernels::KvType::kI8;
    case plan::DType::f8_e4m3:
      return kernels::KvType::kF8E4M3;
    default:
      return kernels::KvType::kF32;
  }
}

kernels::AttentionForm AttentionFormOf(plan::AttentionForm form) {
  switch (form) {
    case plan::AttentionForm::flash:
      return kernels::AttentionForm::kFlash;
    case plan::AttentionForm::fused_softmax:
      return kernels::AttentionForm::kFusedSoftmax;
    case plan::AttentionForm::masked:
      return kernels::AttentionForm::kMasked;
    case plan::AttentionForm::standard:
      return kernels::AttentionForm::kStandard;
  }
  return kernels::AttentionForm::kFlash;
}

comm::Wire WireOf(plan::Wire wire) {
  // What a plan promises and counts, holds.
  static_assert(comm::kInt8WireError <= plan::kInt8WireError);
  static_assert(plan::WireShare(plan::Wire::int8) * comm::kWireGroup * sizeof(float) ==
                comm::kWireGroupBytes);
  return wire == plan::Wire::int8 ? comm::Wire::kInt8 : comm::Wire::kFloat32;
}

bool IsCommunication(plan::StepKind kind) {
  switch (kind) {
    case plan::StepKind::all_reduce:
    case plan::StepKind::all_reduce_start:
    case plan::StepKind::reduce_scatter:
    case plan::StepKind::reduce_scatter_start:
    case plan::StepKind::all_gather:
    case plan::StepKind::all_gather_start:
    case plan::StepKind::broadcast:
    case plan::StepKind::broadcast_start:
    case plan::StepKind::wait:
    case plan::StepKind::gather:
    case plan::StepKind::gather_start:
    case plan::StepKind::send:
    case plan::StepKind::send_start:
    case plan::StepKind::recv:
    case plan::StepKind::recv_start:
      return true;
    default:
      return false;
  }
}

// What a thread may bring near ahead of its use: half of its core's second-level cache, so that
// what the steps in between work on stays there. None where the system doesn't say.
int64_t PrefetchBytes() {
  const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes > 0 ? bytes / 2 : 0;
}

// Where the nodes of the tree that cover the rank's leaves end, in columns of its part of the
// weight.
std::vector<int64_t> NodeEnds(const plan::Plan& plan, const plan::Weight& weight,
                              const plan::Rank& rank) {
  const plan::Leaves own = plan::RankLeaves(rank, weight.unit());
  const plan::Tensor& tensor = *plan.tensors()->Get(weight.pieces()->Get(0));
  std::vector<int64_t> ends;
  for (const plan::Leaves& node :
       plan::CoveringNodes(own, plan::LeafCount(*plan.model(), weight.unit()))) {
    const plan::Extent columns =
        plan::LeafExtent({own.begin, node.end}, tensor.leaf_size(), tensor.columns());
    ends.push_back(static_cast<int64_t>(columns.size()));
  }
  return ends;
}

kernels::Activation ActivationOf(plan::Activation activation) {
  switch (activation) {
    case plan::Activation::gelu:
      return kernels::Activation::kGelu;
    case plan::Activation::gelu_tanh:
      return kernels::Activation::kGeluTanh;
    case plan::Activation::relu:
      return kernels::Activation::kRelu;
    default:
      return kernels::Activation::kSilu;
  }
}

// The kernel names that a step's operands lead to: what the plan asks for must be what this runtime
// would run.
std::string ExpectedKernel(const plan::Step& step, const plan::Plan& plan, plan::DType output) {
  const char* kv = plan::DTypeName(plan.kv()->dtype());
  switch (step.kind()) {
    case plan::StepKind::embedding:
    case plan::StepKind::linear:
    case plan::StepKind::score:
      return plan::LinearKernelName(plan.weights()->Get(step.weight())->dtype(),
                                    plan.bf16_activations());
    case plan::StepKind::rms_norm:
      return output == plan::DType::q8_rows ? "rms_norm_q8" : "rms_norm_f32";
    case plan::StepKind::quantize:
      return "quantize_q8";
    case plan::StepKind::rope_append:
      return fmt::format("rope_append_{}", kv);
    case plan::StepKind::paged_attention:
      return fmt::format("paged_attention_{}", kv);
    case plan::StepKind::append_attend:
      return fmt::format("append_attend_{}", kv);
    case plan::StepKind::add:
      return "add_f32";
    case plan::StepKind::gather_rows:
      return "gather_rows_f32";
    case plan::StepKind::layer_norm:
      return "layer_norm_f32";
    case plan::StepKind::activation:
      return fmt::format("{}{}_f32", plan::EnumNameActivation(step.activation()),
                         step.inputs()->size() == 2 ? "_mul" : "");
    case plan::StepKind::softcap:
      return "softcap_f32";
    case plan::StepKind::dequantize:
      return "dequantize_q8";
    case plan::StepKind::sample:
      return "sample_f32";
    case plan::StepKind::score_merge:
      return "score_merge_f32";
    default:
      return "";
  }
}

}  // namespace

Program::Program(std::unique_ptr<State> state) : state_(std::move(state)) {}
Program::~Program() = default;

StatusOr<std::unique_ptr<Program>> Program::Create(const plan::Program& program,
                                                   RankResources* resources) {
  auto state = std::make_unique<State>();
  const plan::Plan& plan = *resources->plan;
  const plan::Model& model = *plan.model();
  const int rank = resources->stage_rank;
  state->resources = resources;
  state->program = &program;
  state->attention = &kernels::FindAttention(resources->isa);
  state->vector = &kernels::FindVector(resources->isa);
  state->rope = {model.rope_frequencies()->data(), model.rope_dim(),
                 model.rope_style() == plan::RopeStyle::interleaved};
  state->events.resize(program.events());
  state->share_counts.resize(resources->stage->ranks()->size());
  state->collectives = resources->groups[resources->stage->group()];

  std::vector<BoundBuffer> buffers;
  for (const plan::Buffer* buffer : *program.buffers()) {
    BoundBuffer bound;
    bound.columns = buffer->columns()->Get(rank);
    bound.row_bytes = static_cast<int64_t>(plan::RowBytes(buffer->dtype(), bound.columns));
    bound.rows = buffer->rows();
    bound.data = resources->arenas[buffer->arena()] + buffer->offsets()->Get(rank);
    if (buffer->nodes() != nullptr && buffer->nodes()->size() > 0) {
      bound.node_stride = buffer->max_rows() * bound.columns;
    }
    buffers.push_back(bound);
  }

  const plan::Leaves kv_heads = plan::RankLeaves(*resources->rank, plan::Unit::kv_head);
  const int64_t head_bytes = static_cast<int64_t>(plan.kv()->head_bytes());
  const int64_t layer_bytes = kv_heads.count() * head_bytes;
  const int64_t extent_blocks = plan.kv()->extent_blocks();
  const int64_t layers = resources->stage->layer_end() - resources->stage->layer_begin();

  int64_t scratch_bytes = 0;
  int64_t partial_bytes = 0;
  std::vector<int> started_by(program.events(), -1);  // event -> index in state->steps
  int32_t send_count = 0;
  int32_t recv_count = 0;
  bool attends = false;
  for (uint32_t i = 0; i < program.steps()->size(); ++i) {
    const plan::Step& step = *program.steps()->Get(i);
    const plan::StepRank& own = *step.ranks()->Get(rank);
    const plan::DType output = step.outputs() != nullptr && step.outputs()->size() > 0
                                   ? program.buffers()->Get(step.outputs()->Get(0))->dtype()
                                   : plan::DType::none;
    const StepRule rule = RuleOf(step, output);
    if (rule.function == nullptr)
      return Internal("step {}: kind {} has no function", i, plan::EnumNameStepKind(step.kind()));
    const std::string expected = ExpectedKernel(step, plan, output);
    if (!expected.empty()) {
      const std::string_view asked =
          step.kernel() >= 0 ? plan.kernels()->Get(step.kernel())->string_view() : "";
      if (asked != expected) {
        return Incompatible(
            "step {} ({}): asks for kernel \"{}\", this runtime has \"{}\" for its operands", i,
            step.name()->string_view(), asked, expected);
      }
    }
    // Sends and receives are numbered on every rank, run or skipped, so that both sides agree on
    // the tag.
    BoundStep bound;
    if (IsSend(step.kind())) bound.tag = send_count++;
    if (IsRecv(step.kind())) bound.tag = recv_count++;
    if (own.skip()) continue;

    bound.function = rule.function;
    bound.main_only = rule.main_only;
    bound.barrier = rule.barrier;
    bound.kind = step.kind();
    bound.name = step.name()->str();
    bound.layer = step.layer();
    if (own.cost() != nullptr) bound.flops_per_token = own.cost()->flops_per_token();
    bound.residual = step.epilogue() == plan::Epilogue::residual;
    bound.silu_mul = step.epilogue() == plan::Epilogue::silu_mul;
    bound.activation = ActivationOf(step.activation());
    bound.softcap = step.softcap();
    for (uint32_t k = 0;
         step.inputs() != nullptr && k < std::min<uint32_t>(2, step.inputs()->size()); ++k) {
      bound.in[k] = buffers[step.inputs()->Get(k)];
    }
    for (uint32_t k = 0;
         step.outputs() != nullptr && k < std::min<uint32_t>(2, step.outputs()->size()); ++k) {
      bound.out[k] = buffers[step.outputs()->Get(k)];
    }
    if (step.weight() >= 0) {
      bound.weight = &resources->weights->weight(step.weight());
      if (bound.weight->data == nullptr) {
        return Internal("step {} ({}): weight {} is not among this rank's", i, bound.name,
                        step.weight());
      }
      if (bound.weight->kernel != nullptr) {
        scratch_bytes = std::max(scratch_bytes, bound.weight->kernel->scratch_bytes(
                                                    bound.weight->columns, program.max_tokens()));
      }
    }
    const bool attention = step.kind() == plan::StepKind::paged_attention ||
                           step.kind() == plan::StepKind::append_attend;
    if (attention) {
      if (const plan::AttentionChoice* choice = step.attention()) {
        bound.form = AttentionFormOf(choice->form());
        bound.window = choice->window();
        bound.share_kv = choice->share_kv();
        bound.softcap = choice->softcap();
      }
      const int64_t context = plan.limits()->context();
      scratch_bytes = std::max(
          scratch_bytes, state->attention->scratch_bytes(model.head_dim(), bound.form, context));
      partial_bytes = std::max(
          partial_bytes, kernels::AttentionPartialBytes(
                             program.max_tokens(),
                             plan::RankLeaves(*resources->rank, plan::Unit::query_head).count(),
                             model.head_dim(), context, bound.window));
    }
    if (attention || step.kind() == plan::StepKind::rope_append) {
      attends = true;
      bound.kv.data = resources->kv_data + (step.layer() - resources->stage->layer_begin()) *
                                               extent_blocks * layer_bytes;
      bound.kv.extent_bytes = extent_blocks * layers * layer_bytes;
      bound.kv.slice_bytes = head_bytes / 2;
      bound.kv.extent_blocks = extent_blocks;
      bound.kv.block_size = plan.kv()->block_size();
      bound.kv.head_dim = model.head_dim();
      bound.kv.type = KvTypeOf(plan.kv()->dtype());
    }
    if (resources->collector != nullptr) bound.collected = resources->collector->Find(step);
    if (step.kind() == plan::StepKind::prefetch) bound.prefetch_bytes = PrefetchBytes();
    if (step.signals() >= 0) {
      bound.event = step.signals();
      started_by[bound.event] = static_cast<int>(state->steps.size());
    }
    if (step.kind() == plan::StepKind::linear && bound.out[0].node_stride > 0) {
      bound.node_ends = NodeEnds(plan, *plan.weights()->Get(step.weight()), *resources->rank);
    }
    if (step.tree() != plan::Unit::whole) {
      comm::SumTree& tree = state->trees[static_cast<size_t>(step.tree())];
      if (tree.nodes.empty()) {
        plan::StageTree all = plan::TreeOf(model, *resources->stage, step.tree());
        tree = {std::move(all.nodes_of), std::move(all.sums_after)};
      }
      bound.tree = &tree;
    }
    bound.wire = WireOf(step.wire());
    if (step.group() >= 0) bound.channel = resources->groups[step.group()];
    if (step.kind() == plan::StepKind::wait) {
      bound.event = step.waits()->Get(0);
      bound.start = started_by[bound.event];
      if (bound.start >= 0) bound.channel = state->steps[bound.start].channel;
      // What is brought near before it is for its time.
      for (size_t j = state->steps.size(); j-- > 0;) {
        BoundStep& before = state->steps[j];
        if (before.kind != plan::StepKind::prefetch) break;
        before.event = bound.event;
        before.channel = bound.channel;
      }
    }
    if (IsSend(step.kind()) || IsRecv(step.kind())) {
      bound.channel = resources->messages;
      for (const uint32_t peer : *own.peers()) bound.peers.push_back(static_cast<int>(peer));
    }
    if (IsCommunication(step.kind()) && bound.channel == nullptr) {
      return Internal("step {} ({}): this rank has no channel for group {}", i, bound.name,
                      step.group());
    }
    if (step.signals() >= 0) {
      state->events[bound.event].reserve(
          std::max({size_t{1}, bound.peers.size(), state->events[bound.event].capacity()}));
    }
    if (step.kind() == plan::StepKind::gather || step.kind() == plan::StepKind::gather_start) {
      const plan::Buffer& input = *program.buffers()->Get(step.inputs()->Get(0));
      size_t columns = 0;
      for (const uint32_t c : *input.columns()) {
        bound.gather_columns.push_back(c);
        columns += c;
      }
      state->gather_counts.resize(bound.gather_columns.size());
      const size_t bytes =
          bound.channel->rank() == 0 ? columns * input.max_rows() * sizeof(float) : 0;
      LLMIR_ASSIGN_OR_RETURN(bound.gather_space, MemoryMap::Create(bytes, "gather space"));
    }
    if (step.kind() == plan::StepKind::sample) {
      state->logits = bound.in[0];
      state->ids = bound.out[0];
    }
    if (step.kind() == plan::StepKind::score_merge) state->logprobs = bound.out[0];
    state->steps.push_back(std::move(bound));
  }
  state->times.resize(state->steps.size());

  const size_t tables =
      static_cast<size_t>(program.max_tokens()) * model.rope_dim() / 2 * sizeof(float);
  LLMIR_ASSIGN_OR_RETURN(state->rope_tables,
                         MemoryMap::Create(attends ? 2 * tables : 0, "rope tables"));
  state->cosines = reinterpret_cast<float*>(state->rope_tables.data());
  state->sines = state->cosines + tables / sizeof(float);
  if (attends) {
    LLMIR_ASSIGN_OR_RETURN(state->partials, MemoryMap::Create(partial_bytes, "attention partials"));
  }
  for (int t = 0; t < resources->pool->threads(); ++t) {
    LLMIR_ASSIGN_OR_RETURN(MemoryMap scratch, MemoryMap::Create(scratch_bytes, "kernel scratch"));
    state->scratch.push_back(std::move(scratch));
  }
  return std::unique_ptr<Program>(new Program(std::move(state)));
}

Status Program::Run(StepDescriptor& descriptor, const std::function<Status()>& meanwhile) {
  State& state = *state_;
  const StepHeader& header = descriptor.header();
  if (header.tokens < 1 || static_cast<uint32_t>(header.tokens) > state.program->max_tokens()) {
    return OutOfRange("step of {} tokens, program {} takes 1 to {}", header.tokens,
                      plan::EnumNameProgramKind(state.program->kind()),
                      state.program->max_tokens());
  }
  RankResources& resources = *state.resources;
  RunContext run{state,
                 descriptor,
                 resources,
                 resources.pool->threads(),
                 header.tokens,
                 header.sampled,
                 {header.sequences, descriptor.query_indptr().data(), descriptor.kv_indptr().data(),
                  descriptor.kv_indices().data(), descriptor.kv_tokens().data()},
                 {SIZE_MAX},
                 {}};
  state.sampled = header.sampled;
  const bool timing = state.timing;
  if (resources.collector != nullptr) resources.collector->AddIds(descriptor.token_ids());

  resources.pool->Run([&](int thread) {
    if (state.rope_tables.bytes() > 0) {
      const auto share = kernels::ShareOf(run.tokens, 1, thread, run.threads);
      if (share.begin < share.end) {
        state.attention->rope_tables(descriptor.positions().data(), state.rope, share.begin,
                                     share.end, state.cosines, state.sines);
      }
    }
    Clock::time_point before;
    if (timing && thread == 0) before = Clock::now();
    for (size_t i = 0; i < state.steps.size(); ++i) {
      const BoundStep& step = state.steps[i];
      if (step.collected != nullptr) {
        const BoundBuffer& x = step.in[0];
        resources.collector->Add(*step.collected, x.floats(run.FirstRow(x)), x.stride(),
                                 run.Rows(x), thread, *resources.pool);
      }
      if (thread == 0 || !step.main_only) step.function(step, run, thread);
      if (thread == 0 && state.started > 0) state.collectives->Progress();
      if (thread == 0 && meanwhile && run.status.ok()) {
        const auto begin = Clock::now();
        const Status status = meanwhile();
        if (!status.ok()) run.Fail(step, status);
        before += Clock::now() - begin;  // no part of the step
      }
      if (thread == 0 && !run.status.ok() && run.failed_at.load(std::memory_order_relaxed) > i) {
        run.failed_at.store(i, std::memory_order_release);
      }
      // One barrier after every step: what a step wrote is the next one's input, by other threads'
      // rows or columns. Not after what writes nothing that anyone reads before a wait.
      if (run.threads == 1 || step.barrier) {
        if (run.threads > 1) resources.pool->Barrier();
        // A later step's error is for a later barrier: all threads must leave at the same one.
        if (run.failed_at.load(std::memory_order_acquire) <= i) return;
      }
      if (timing && thread == 0) {
        const auto now = Clock::now();
        StepTimes& times = state.times[i];
        if (!state.entered[i].empty()) {
          state.entered[i][times.count % StepTimes::kKept] =
              std::chrono::duration<double>(before.time_since_epoch()).count();
        }
        times.Add(std::chrono::duration<float, std::micro>(now - before).count());
        before = now;
      }
    }
  });
  ++state.runs;
  state.tokens += header.tokens;
  for (size_t rows = 0; rows < state.rows_in_runs.size(); ++rows) {
    state.rows_in_runs[rows] += run.RowsOf(static_cast<plan::Rows>(rows)).size();
  }
  return run.status;
}

plan::ProgramKind Program::kind() const { return state_->program->kind(); }
uint32_t Program::max_tokens() const { return state_->program->max_tokens(); }
uint64_t Program::runs() const { return state_->runs; }
uint64_t Program::tokens() const { return state_->tokens; }
void Program::set_timing(bool on) {
  state_->timing = on;
  state_->entered.resize(state_->steps.size());
  for (size_t i = 0; on && i < state_->steps.size(); ++i) {
    if (IsCommunication(state_->steps[i].kind)) state_->entered[i].resize(StepTimes::kKept);
  }
}

std::span<const int32_t> Program::sampled_ids() const {
  return {reinterpret_cast<const int32_t*>(state_->ids.data), static_cast<size_t>(state_->sampled)};
}

std::span<const float> Program::logits(int32_t sampled_row) const {
  return {state_->logits.floats() + sampled_row * state_->logits.stride(),
          static_cast<size_t>(state_->resources->plan->model()->vocabulary())};
}

std::span<const float> Program::logprobs() const {
  return {state_->logprobs.floats(), static_cast<size_t>(state_->program->max_tokens())};
}

std::vector<Program::StepReport> Program::report() const {
  std::vector<StepReport> result;
  for (size_t i = 0; i < state_->steps.size(); ++i) {
    const BoundStep& step = state_->steps[i];
    uint64_t bytes = 0;
    if (IsCommunication(step.kind) && step.kind != plan::StepKind::wait) {
      const BoundBuffer& buffer = IsRecv(step.kind) ? step.out[0] : step.in[0];
      const auto rows_of = [&](plan::Rows rows) {
        return state_->rows_in_runs[static_cast<size_t>(rows)];
      };
      uint64_t rows = rows_of(buffer.rows);
      if (IsSend(step.kind)) rows *= step.peers.size();
      // The other ranks' shares go out, or the own share to all others.
      if (step.kind == plan::StepKind::reduce_scatter ||
          step.kind == plan::StepKind::reduce_scatter_start) {
        rows -= rows_of(plan::Rows::share);
      } else if (buffer.rows == plan::Rows::share) {
        rows *= step.channel->size() - 1;
      }
      bytes = rows * buffer.row_bytes;
      if (step.tree != nullptr) {
        bytes *= step.tree->nodes[static_cast<size_t>(step.channel->rank())];
      }
      // As between hosts; shared memory takes rows as they are.
      if (step.channel->backend() != "shared-memory") bytes = comm::WireBytes(step.wire, bytes);
    }
    result.push_back({step.name, plan::EnumNameStepKind(step.kind), step.layer,
                      IsCommunication(step.kind), step.flops_per_token, &state_->times[i], bytes});
  }
  return result;
}

std::vector<Program::Arrivals> Program::arrivals() const {
  std::vector<Arrivals> result(state_->steps.size());
  for (size_t i = 0; i < state_->steps.size(); ++i) {
    const BoundStep& step = state_->steps[i];
    if (state_->entered[i].empty() || step.channel->size() == 1) continue;
    result[i] = {step.kind, step.start,        step.channel,      step.peers,
                 step.tag,  &state_->times[i], state_->entered[i]};
  }
  return result;
}

}  // namespace llmir::executor
