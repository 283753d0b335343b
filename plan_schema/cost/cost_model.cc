#include "plan_schema/cost/cost_model.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "plan_schema/base/memory_map.h"
#include "plan_schema/plan_facts.h"

namespace llmir::plan {
namespace {

// Rows that the step works on: those of its output, else of its input.
double RowsOf(const StepPlace& place, const EngineStep& run) {
  const auto& step = place.step;
  const bool writes = step.outputs() != nullptr && step.outputs()->size() > 0;
  const auto* list = writes ? step.outputs() : step.inputs();
  if (list == nullptr || list->size() == 0) return 0;
  const Rows rows = place.program.buffers()->Get(list->Get(0))->rows();
  switch (rows) {
    case Rows::sampled:
      return run.sampled;
    case Rows::one:
      return 1;
    default:
      return static_cast<double>(
          TokenRows(rows, run.tokens, place.rank, place.stage.ranks()->size()).size());
  }
}

// Costs are per token of the engine's step, also where a step works on a part of its rows: what to
// divide by to have them per row of that part.
double PartOf(const StepPlace& place) {
  const auto* inputs = place.step.inputs();
  if (inputs == nullptr || inputs->size() == 0) return 1;
  switch (place.program.buffers()->Get(inputs->Get(0))->rows()) {
    case Rows::first_half:
    case Rows::second_half:
      return 0.5;
    case Rows::share:
      return 1.0 / place.stage.ranks()->size();
    default:
      return 1;
  }
}

double ColumnsOf(const StepPlace& place, uint32_t buffer) {
  return place.program.buffers()->Get(buffer)->columns()->Get(place.rank);
}

bool IsAttention(StepKind kind) {
  return kind == StepKind::paged_attention || kind == StepKind::append_attend;
}

// A host with the calibration's figures.
Cluster HostOf(const Calibration& calibration) {
  Cluster cluster;
  cluster.name = "calibrated host";
  Node node;
  node.name = "host";
  node.cores = static_cast<int>(calibration.all().threads);
  node.device.read_bytes_per_s = calibration.all().memory_bytes_per_s;
  cluster.nodes.push_back(node);
  return cluster;
}

}  // namespace

CostModel::CostModel(const Plan& plan, const Cluster* cluster, const Calibration* calibration,
                     const CostOptions& options)
    : plan_(plan),
      calibration_(calibration),
      options_(options),
      cluster_(cluster != nullptr ? *cluster : HostOf(*calibration)) {
  const auto ranks = static_cast<int>(WorldSize(plan));
  const std::vector<int> nodes = PlaceRanks(cluster_, ranks);
  std::vector<int> on_node(cluster_.nodes.size(), 0);
  for (const int node : nodes) ++on_node[static_cast<size_t>(node)];
  places_.resize(static_cast<size_t>(ranks));
  const int in_flight = options.in_flight > 0 ? options.in_flight
                                              : static_cast<int>(plan.limits()->steps_in_flight());
  disturbed_ = !options.undisturbed && (in_flight > 1 || plan.replicas()->size() > 1);
  for (const Replica* replica : *plan.replicas()) {
    for (const Stage* stage : *replica->stages()) {
      // The ranks of a stage compute at once; stages do where several steps are under way, and
      // replicas do.
      std::map<int, int> beside;
      for (const Rank* rank : *stage->ranks()) ++beside[nodes[rank->world_rank()]];
      for (const Rank* rank : *stage->ranks()) {
        Place& place = places_[rank->world_rank()];
        place.node = nodes[rank->world_rank()];
        const Node& node = cluster_.nodes[static_cast<size_t>(place.node)];
        const int all = on_node[static_cast<size_t>(place.node)];
        const int active = disturbed_ ? all : beside[place.node];
        if (node.accelerators > 0) {
          place.shared_by = std::max(1.0, static_cast<double>(all) / node.accelerators);
          continue;
        }
        place.threads = options.threads > 0 ? options.threads : std::max(1, node.cores / all);
        place.active = std::min(node.cores, active * place.threads);
        place.shared_by = std::max(1.0, static_cast<double>(active) * place.threads / node.cores);
        place.share = static_cast<double>(place.threads) / std::max(active * place.threads, 1);
      }
    }
  }
}

CostModel CostModel::Undisturbed() const {
  CostOptions options = options_;
  options.undisturbed = true;
  return CostModel(plan_, &cluster_, calibration_, options);
}

AttentionShape CostModel::ShapeOf(const StepPlace& place, const EngineStep& run) const {
  AttentionShape shape;
  shape.kv = DTypeName(plan_.kv()->dtype());
  shape.fused = place.step.kind() == StepKind::append_attend;
  shape.context = run.context;
  if (const AttentionChoice* choice = place.step.attention()) {
    shape.form = EnumNameAttentionForm(choice->form());
    if (choice->window() > 0) shape.context = std::min<double>(run.context, choice->window());
  }
  shape.block_size = plan_.kv()->block_size();
  shape.head_dim = plan_.model()->head_dim();
  shape.heads_per_kv = plan_.model()->query_heads() / plan_.model()->kv_heads();
  const Rank& rank = *place.stage.ranks()->Get(place.rank);
  shape.kv_heads = static_cast<double>(RankLeaves(rank, Unit::query_head).count()) /
                   static_cast<double>(shape.heads_per_kv);
  shape.batch = run.sequences;
  shape.tokens = RowsOf(place, run) / run.sequences;
  // What the step's own tokens can see of each other ends with the window as well.
  shape.context = std::max(shape.context, shape.tokens);
  return shape;
}

std::optional<double> CostModel::MeasuredUs(const Profile& profile, const StepPlace& place,
                                            const EngineStep& run, double scale) const {
  const Step& step = place.step;
  const Cost& cost = *step.ranks()->Get(place.rank)->cost();
  const double rows = RowsOf(place, run);
  const std::string kernel =
      step.kernel() >= 0 ? plan_.kernels()->Get(static_cast<uint32_t>(step.kernel()))->str() : "";
  std::optional<double> us;
  switch (step.kind()) {
    case StepKind::linear:
    case StepKind::score: {
      const double columns = ColumnsOf(place, step.inputs()->Get(0));
      if (columns == 0) return 0;
      // The operations of a row are two per element of the weight.
      const double outputs =
          std::round(cost.flops_per_token() / PartOf(place) / (2 * columns)) * scale;
      const uint32_t leaf =
          step.weight() < 0
              ? 0
              : plan_.weights()->Get(static_cast<uint32_t>(step.weight()))->leaf_columns();
      us = profile.LinearUs(kernel, outputs, columns, rows, leaf > 0 && leaf < columns);
      if (us && step.epilogue() == Epilogue::silu_mul) {
        // Half of the outputs are gates; each thread has a part of every row.
        const auto threads = static_cast<double>(profile.threads);
        *us += profile.VectorUs("silu_mul_f32", outputs / 2 / threads, rows * threads).value_or(0);
      }
      break;
    }
    case StepKind::paged_attention:
    case StepKind::append_attend: {
      AttentionShape shape = ShapeOf(place, run);
      shape.kv_heads *= scale;
      us = calibration_->AttentionUs(profile, shape);
      break;
    }
    case StepKind::rope_append: {
      AttentionShape shape = ShapeOf(place, run);
      shape.kv_heads *= scale;
      us = profile.AppendUs(shape);
      break;
    }
    case StepKind::sample:
      // Of the main thread.
      return profile.sample_us_per_id * plan_.model()->vocabulary() * run.sampled;
    default:
      if (!kernel.empty() && step.inputs() != nullptr && step.inputs()->size() > 0) {
        const double columns = ColumnsOf(place, step.inputs()->Get(0));
        // Rows of every thread, without a launch.
        us = profile.VectorUs(kernel, columns, rows * scale);
        if (us) return us;
      }
      return profile.MemoryUs(scale *
                              (cost.bytes() + cost.bytes_per_token() / PartOf(place) * rows));
  }
  if (!us) return us;
  return std::max(0.0, *us - profile.launch_us);
}

double CostModel::RooflineUs(const StepPlace& place, const EngineStep& run, const Place& on) const {
  const Node& node = cluster_.nodes[static_cast<size_t>(on.node)];
  const Device& device = node.device;
  const Cost& cost = *place.step.ranks()->Get(place.rank)->cost();
  const double rows = RowsOf(place, run);
  const double part = PartOf(place);
  double bytes = cost.bytes() + cost.bytes_per_token() / part * rows;
  double operations = cost.flops() + cost.flops_per_token() / part * rows;
  if (IsAttention(place.step.kind())) {
    const AttentionShape shape = ShapeOf(place, run);
    bytes += cost.bytes_per_context() * shape.context * run.sequences;
    operations += cost.flops_per_context() * rows * shape.MeanAttended();
  }
  const std::string_view kernel =
      place.step.kernel() >= 0
          ? plan_.kernels()->Get(static_cast<uint32_t>(place.step.kernel()))->string_view()
          : "";
  double rate = kernel.substr(0, 9) == "linear_q8" ? device.int8_ops_per_s : device.flops_per_s;
  double bandwidth = device.read_bytes_per_s;
  if (node.accelerators == 0) {
    rate *= std::min(1.0, static_cast<double>(on.threads) / node.cores);
    bandwidth *= on.share;
  }
  const double arithmetic_us = rate > 0 ? operations / rate * 1e6 : 0;
  return std::max(bytes / bandwidth * 1e6, arithmetic_us) + device.launch_us;
}

double CostModel::ComputeUs(const StepPlace& place, const EngineStep& run) const {
  const StepRank& own = *place.step.ranks()->Get(place.rank);
  if (own.skip() || own.cost() == nullptr || place.step.kind() == StepKind::prefetch) return 0;
  const Place& on = places_[place.stage.ranks()->Get(place.rank)->world_rank()];
  const Node& node = cluster_.nodes[static_cast<size_t>(on.node)];
  if (calibration_ == nullptr || node.accelerators > 0) {
    return RooflineUs(place, run, on) * on.shared_by;
  }
  // As much as all of the calibrated threads would do if they all did what this rank's do; and what
  // one would do alone.
  const Profile& all = calibration_->all();
  const Profile& alone = calibration_->alone();
  const double of_all =
      std::min(1.0, all.threads > 1 ? (on.active - 1.0) / static_cast<double>(all.threads - 1) : 1);
  std::optional<double> us =
      of_all > 0 ? MeasuredUs(all, place, run, static_cast<double>(all.threads) / on.threads) : 0;
  if (us && of_all < 1) {
    const auto one = MeasuredUs(alone, place, run, 1.0 / on.threads);
    us = one ? std::optional(of_all * *us + (1 - of_all) * *one) : std::nullopt;
  }
  double result = us ? *us + (on.threads > 1 ? all.barrier_us : 0) : RooflineUs(place, run, on);
  if (on.node != 0) {
    Place first = on;
    first.node = 0;
    result *= RooflineUs(place, run, on) / RooflineUs(place, run, first);
  }
  return result * on.shared_by;
}

TransferCost CostModel::CollectiveIn(StepKind kind, bool between_nodes, const LinkSpeed& link,
                                     bool rings, int64_t ranks, double bytes) const {
  TransferCost cost;
  if (ranks < 2) return cost;
  if (calibration_ != nullptr && !rings) {
    if (auto us = calibration_->LinkUs(EnumNameStepKind(kind), between_nodes, ranks, bytes)) {
      cost.us = *us;
      // Processors copy within a host; between hosts they copy to and from the network's buffers.
      cost.processor_us =
          between_nodes ? std::min(*us, 2 * calibration_->alone().MemoryUs(bytes)) : *us;
      return cost;
    }
  }
  if (calibration_ != nullptr && !between_nodes && !rings && link.bytes_per_s <= 0) {
    // Nothing known of it: once through memory on each side, with a meeting before and after.
    cost.us = calibration_->all().MemoryUs(2 * bytes) + 2 * calibration_->all().barrier_us;
    cost.processor_us = cost.us;
    return cost;
  }
  const double n = static_cast<double>(ranks);
  const double per_byte = link.bytes_per_s > 0 ? 1e6 / link.bytes_per_s : 0;
  // All send to all, in one exchange or (a sum of much data) two; accelerators pass things round.
  double hops = rings ? n - 1 : 1;
  double moved = bytes * (n - 1) / n;
  if (kind == StepKind::all_reduce) {
    const double one_exchange = link.latency_us + (n - 1) * bytes * per_byte;
    const double two = 2 * hops * link.latency_us + 2 * moved * per_byte;
    cost.us = link.start_us + (rings ? two : std::min(one_exchange, two));
  } else {
    if (kind == StepKind::gather) hops = 1;
    if (kind == StepKind::broadcast) {
      hops = rings ? n - 1 : std::ceil(std::log2(n));
      moved = bytes;
    }
    cost.us = link.start_us + hops * link.latency_us + moved * per_byte;
  }
  cost.processor_us = between_nodes || rings ? 0 : cost.us;
  return cost;
}

TransferCost CostModel::Collective(StepKind kind, const std::vector<uint32_t>& ranks, double bytes,
                                   double wire_bytes) const {
  std::map<int, int64_t> on_node;
  for (const uint32_t rank : ranks) ++on_node[NodeOf(rank)];
  TransferCost cost;
  // Within each node at once, then between the nodes.
  for (const auto& [n, count] : on_node) {
    const Node& node = cluster_.nodes[static_cast<size_t>(n)];
    const TransferCost inside =
        CollectiveIn(kind, false, node.link, node.accelerators > 0, count, bytes);
    if (inside.us > cost.us) cost = inside;
  }
  if (on_node.size() > 1) {
    const TransferCost between = CollectiveIn(kind, true, cluster_.network, false,
                                              static_cast<int64_t>(on_node.size()), wire_bytes);
    cost.us += between.us;
    cost.processor_us += between.processor_us;
  }
  double shared_by = 1;
  for (const uint32_t rank : ranks) shared_by = std::max(shared_by, places_[rank].shared_by);
  cost.us += cost.processor_us * (shared_by - 1);
  cost.processor_us *= shared_by;
  return cost;
}

TransferCost CostModel::Message(uint32_t from, uint32_t to, double bytes, double wire_bytes) const {
  const bool between = NodeOf(from) != NodeOf(to);
  if (between) bytes = wire_bytes;
  const Node& node = cluster_.nodes[static_cast<size_t>(NodeOf(from))];
  TransferCost cost;
  if (calibration_ != nullptr && node.accelerators == 0) {
    if (auto us = calibration_->LinkUs("send", between, 2, bytes)) {
      cost.us = *us;
      cost.processor_us = between ? std::min(*us, calibration_->alone().MemoryUs(bytes)) : *us;
      return cost;
    }
  }
  const LinkSpeed& link = between ? cluster_.network : node.link;
  cost.us =
      link.start_us + link.latency_us + (link.bytes_per_s > 0 ? bytes / link.bytes_per_s * 1e6 : 0);
  cost.processor_us = between || node.accelerators > 0 ? 0 : cost.us;
  return cost;
}

double CostModel::BeforeUs(uint32_t world_rank, const Stage&, const EngineStep& run) const {
  const Place& place = places_[world_rank];
  double us = 0;
  if (places_.size() > 1) {
    // Ids, positions and rows of tokens; the page table.
    constexpr double kTokenBytes = 16;
    const double blocks = run.sequences * std::ceil(run.context / plan_.kv()->block_size());
    std::vector<uint32_t> all(places_.size());
    for (uint32_t rank = 0; rank < all.size(); ++rank) all[rank] = rank;
    const double bytes = kTokenBytes * run.tokens + 4 * blocks;
    us += Collective(StepKind::broadcast, all, bytes, bytes).us;
  }
  if (calibration_ != nullptr &&
      cluster_.nodes[static_cast<size_t>(place.node)].accelerators == 0) {
    const Profile& profile = place.threads > 1 ? calibration_->all() : calibration_->alone();
    us += profile.launch_us + profile.rope_us_per_element * plan_.model()->rope_dim() / 2 *
                                  std::ceil(static_cast<double>(run.tokens) / place.threads);
  }
  return us;
}

double CostModel::AfterUs(const EngineStep&) const { return 0; }

int CostModel::NodeOf(uint32_t world_rank) const { return places_[world_rank].node; }

double CostModel::SharedLinkBytesPerS() const { return cluster_.network.bytes_per_s; }

int CostModel::ThreadsOf(uint32_t world_rank) const { return places_[world_rank].threads; }

bool CostModel::Oversubscribed() const {
  return std::ranges::any_of(places_, [](const Place& place) { return place.shared_by > 1; });
}

double CostModel::PeakRankBytes(const Rank& rank, uint64_t blocks) const {
  return static_cast<double>(PeakBytes(*rank.memory(), blocks)) +
         (calibration_ != nullptr ? calibration_->process_bytes() : 0);
}

double CostModel::ResidentBytes(const Stage& stage, uint32_t rank, uint64_t blocks,
                                uint32_t prompt_tokens, uint32_t sequences) const {
  const Rank& own = *stage.ranks()->Get(rank);
  const Memory& memory = *own.memory();
  // Of weights whole huge pages are written.
  const uint64_t weights = MemoryMap::WholeHugePages(memory.weights());
  // The pool keeps a sequence's blocks together and leaves it room to grow. A block has a slice in
  // every run of its extent: where pages are huge, an extent that is used at all is there as a
  // whole (KvShape::huge_from), and so is a page that reaches into the next one.
  const uint64_t extent_blocks = plan_.kv()->extent_blocks();
  const uint64_t arena = KvArenaBytes(plan_, own);
  uint64_t kv = blocks * memory.kv_block();
  if (arena >= kHugeKvArena) {
    const uint64_t most = SequenceBlocks(plan_.limits()->context(), plan_.kv()->block_size(),
                                         KvWindow(*plan_.model()), plan_.limits()->prefill_chunk());
    // Where sequences' rooms aren't whole extents, they begin within one.
    const uint64_t begun = most % extent_blocks == 0 ? 0 : extent_blocks;
    const uint64_t each = (blocks + sequences - 1) / sequences;
    const uint64_t used = (each + extent_blocks - 1) / extent_blocks * extent_blocks + begun;
    kv = std::min(arena, sequences * MemoryMap::WholeHugePages(used * memory.kv_block() + 1));
  }
  double bytes = static_cast<double>(weights + kv) +
                 (calibration_ != nullptr ? calibration_->process_bytes() : 0);
  // Written rows of all buffers, which may lie on one another: the union of their places.
  std::vector<std::pair<uint64_t, uint64_t>> written;
  for (const Program* program : *stage.programs()) {
    if (program->kind() == ProgramKind::score) continue;
    const uint32_t tokens = program->kind() == ProgramKind::decode ? sequences : prompt_tokens;
    bytes += static_cast<double>(tokens) * plan_.model()->rope_dim() * sizeof(float);
    for (const Buffer* buffer : *program->buffers()) {
      const uint32_t columns = buffer->columns()->Get(rank);
      if (columns == 0 || buffer->max_rows() == 0) continue;
      const uint64_t rows =
          std::min<uint64_t>(buffer->max_rows(), buffer->rows() == Rows::one       ? 1
                                                 : buffer->rows() == Rows::sampled ? sequences
                                                                                   : tokens);
      const uint64_t begin = buffer->offsets()->Get(rank);
      written.emplace_back(begin, begin + buffer->bytes()->Get(rank) * rows / buffer->max_rows());
    }
  }
  std::sort(written.begin(), written.end());
  uint64_t end = 0;
  for (const auto& [from, to] : written) {
    if (to > std::max(from, end)) bytes += static_cast<double>(to - std::max(from, end));
    end = std::max(end, to);
  }
  // What reads text: the first rank's tokenizer, of which an id takes about so much.
  constexpr double kTokenizerBytesPerId = 207;
  if (own.world_rank() == 0 && plan_.tokenizer() != nullptr) {
    bytes += kTokenizerBytesPerId * plan_.tokenizer()->vocabulary();
  }
  return bytes;
}

Status CostModel::CheckMemory() const {
  std::vector<double> used(cluster_.nodes.size(), 0);
  std::vector<double> most(cluster_.nodes.size(), 0);
  for (const Replica* replica : *plan_.replicas()) {
    for (const Stage* stage : *replica->stages()) {
      for (const Rank* rank : *stage->ranks()) {
        const auto node = static_cast<size_t>(NodeOf(rank->world_rank()));
        const double bytes = PeakRankBytes(*rank, plan_.kv()->blocks());
        used[node] += bytes;
        most[node] = std::max(most[node], bytes);
      }
    }
  }
  for (size_t n = 0; n < used.size(); ++n) {
    const Node& node = cluster_.nodes[n];
    if (node.device.memory_bytes <= 0) continue;
    const bool fits = node.accelerators > 0 ? most[n] <= node.device.memory_bytes
                                            : used[n] <= node.device.memory_bytes;
    if (fits) continue;
    return ResourceExhausted("{} has {:.1f} GB of memory{}, its ranks need {:.1f} GB", node.name,
                             node.device.memory_bytes / 1e9,
                             node.accelerators > 0 ? " on an accelerator" : "",
                             (node.accelerators > 0 ? most[n] : used[n]) / 1e9);
  }
  return Status();
}

}  // namespace llmir::plan
