#include "tests/unit/plan_schema/plan_builder.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>

#include "plan_schema/base/memory_map.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_file.h"
#include "plan_schema/sum_tree.h"

namespace llmir::plan {
namespace {

constexpr uint32_t kHidden = 128;
constexpr uint32_t kQueryHeads = 4;
constexpr uint32_t kKvHeads = 2;
constexpr uint32_t kHeadDim = 32;
constexpr uint32_t kMlp = 192;
constexpr uint32_t kVocabulary = 160;
constexpr uint32_t kLeaf = 64;
constexpr uint32_t kBatch = 4;
constexpr uint32_t kChunk = 8;
constexpr uint32_t kBlockSize = 16;
constexpr uint64_t kHeaderBytes = 256;

// Where `parts` even parts of `leaves` leaves begin and end.
std::vector<uint32_t> Boundaries(uint32_t leaves, uint32_t parts) {
  std::vector<uint32_t> boundaries = {0};
  for (uint32_t i = 0; i < parts; ++i) {
    boundaries.push_back(boundaries.back() + leaves / parts + (i < leaves % parts ? 1 : 0));
  }
  return boundaries;
}

class Builder {
 public:
  explicit Builder(const PlanShape& shape) : shape_(shape), plan_(std::make_unique<PlanT>()) {}

  std::unique_ptr<PlanT> Build() {
    AddHead();
    AddWeights();
    const std::vector<uint32_t> layers =
        Boundaries(shape_.layers, static_cast<uint32_t>(shape_.ranks.size()));
    uint32_t world_rank = 0;
    for (uint32_t p = 0; p < shape_.replicas; ++p) {
      auto replica = std::make_unique<ReplicaT>();
      for (size_t s = 0; s < shape_.ranks.size(); ++s) {
        replica->stages.push_back(AddStage(s, layers[s], layers[s + 1], &world_rank));
      }
      AddPrograms(*replica);
      plan_->replicas.push_back(std::move(replica));
    }
    return std::move(plan_);
  }

 private:
  bool last(size_t s) const { return s + 1 == shape_.ranks.size(); }
  DType matrix() const { return shape_.quantized ? DType::q8_0 : DType::f16; }

  void AddHead() {
    plan_->version = std::make_unique<VersionT>();
    plan_->version->major = kMajorVersion;
    plan_->version->minor = kMinorVersion;
    const auto use = [&](bool condition, Feature feature) {
      if (condition) plan_->required_features |= static_cast<uint64_t>(feature);
    };
    use(*std::max_element(shape_.ranks.begin(), shape_.ranks.end()) > 1, Feature::tensor_parallel);
    use(shape_.ranks.size() > 1, Feature::pipeline_parallel);
    use(shape_.replicas > 1, Feature::replicas);
    use(shape_.quantized, Feature::quantized_weights);
    use(true, Feature::score_programs);
    use(shape_.halves || shape_.scatter, Feature::row_views);
    use(shape_.scatter, Feature::split_collectives);
    use(shape_.reproducible, Feature::reproducible);
    plan_->reproducible = shape_.reproducible;
    if (shape_.reproducible) plan_->isa = "avx2";

    plan_->provenance = std::make_unique<ProvenanceT>();
    plan_->provenance->planner_version = "0.1.0";
    plan_->provenance->command = "llmir-plan tiny.gguf -o plan.fb";
    plan_->provenance->options = {"tp=1", "pp=1"};

    plan_->model = std::make_unique<ModelT>();
    ModelT& model = *plan_->model;
    model.architecture = "llama";
    model.name = "tiny";
    model.layers = shape_.layers;
    model.hidden = kHidden;
    model.query_heads = kQueryHeads;
    model.kv_heads = kKvHeads;
    model.head_dim = kHeadDim;
    model.mlp_columns = kMlp;
    model.vocabulary = kVocabulary;
    model.context = 256;
    model.norm_epsilon = 1e-5f;
    model.rope_dim = kHeadDim;
    for (uint32_t i = 0; i < kHeadDim / 2; ++i) {
      model.rope_frequencies.push_back(1.0f / static_cast<float>(1 + i));
    }
    model.tied_head = true;
    model.mlp_leaf = kLeaf;
    model.vocabulary_leaf = kLeaf;

    plan_->tokenizer = std::make_unique<TokenizerT>();
    plan_->tokenizer->file = "tiny.gguf";
    plan_->tokenizer->vocabulary = kVocabulary;
    plan_->tokenizer->bos = 1;
    plan_->tokenizer->end_ids = {2};
    auto test = std::make_unique<TokenizerTestT>();
    test->text = "hello";
    test->ids = {3, 4};
    plan_->tokenizer->tests.push_back(std::move(test));

    plan_->kv = std::make_unique<KvGeometryT>();
    plan_->kv->dtype = DType::f32;
    plan_->kv->block_size = kBlockSize;
    plan_->kv->blocks = 32;
    plan_->kv->max_blocks_per_sequence = 8;
    plan_->kv->head_dim = kHeadDim;
    plan_->kv->head_bytes = uint64_t{2} * kBlockSize * kHeadDim * 4;

    plan_->limits = std::make_unique<LimitsT>();
    plan_->limits->context = 128;
    plan_->limits->max_batch = kBatch;
    plan_->limits->prefill_chunk = kChunk;
    plan_->limits->max_tokens = kBatch + kChunk;

    plan_->kernels = {"linear_q8_q8_0", "rms_norm_q8"};
    plan_->numerics = 42;
  }

  // ---------------------------------------------------------- weights

  uint32_t AddTensor(const std::string& name, DType dtype, uint64_t rows, uint64_t columns,
                     Unit unit, Axis axis) {
    auto tensor = std::make_unique<TensorT>();
    tensor->name = name;
    tensor->offset = file_bytes_;
    tensor->bytes = rows * RowBytes(dtype, columns);
    tensor->dtype = dtype;
    tensor->rows = rows;
    tensor->columns = columns;
    tensor->unit = unit;
    tensor->axis = axis;
    uint32_t leaves = 1;
    if (unit != Unit::whole) {
      tensor->leaf_size = unit == Unit::query_head || unit == Unit::kv_head ? kHeadDim : kLeaf;
      const auto total = static_cast<uint32_t>(axis == Axis::rows ? rows : columns);
      leaves = (total + tensor->leaf_size - 1) / tensor->leaf_size;
    }
    for (uint32_t i = 0; i < leaves; ++i) tensor->leaf_hashes.push_back(1000 + i);
    file_bytes_ += tensor->bytes;
    plan_->tensors.push_back(std::move(tensor));
    return static_cast<uint32_t>(plan_->tensors.size() - 1);
  }

  uint32_t AddWeight(const std::string& name, int layer, std::vector<uint32_t> pieces,
                     Interleave interleave = Interleave::none) {
    const TensorT& first = *plan_->tensors[pieces[0]];
    auto weight = std::make_unique<WeightT>();
    weight->name = name;
    weight->layer = layer;
    weight->dtype = first.rows == 1 ? DType::f32 : matrix();
    weight->interleave = interleave;
    weight->unit = first.unit;
    weight->axis = first.axis;
    weight->leaf_columns = first.axis == Axis::columns ? first.leaf_size : 0;
    weight->pieces = std::move(pieces);
    plan_->weights.push_back(std::move(weight));
    return static_cast<uint32_t>(plan_->weights.size() - 1);
  }

  struct LayerWeights {
    uint32_t attention_norm, qkv, o, mlp_norm, gate_up, down;
  };

  void AddWeights() {
    file_bytes_ = kHeaderBytes;
    const DType type = matrix();
    embedding_ = AddWeight(
        "embedding", -1,
        {AddTensor("embedding", type, kVocabulary, kHidden, Unit::vocabulary, Axis::rows)});
    for (uint32_t l = 0; l < shape_.layers; ++l) {
      const std::string prefix = "layers." + std::to_string(l) + ".";
      const auto tensor = [&](const char* name, uint64_t rows, uint64_t columns, Unit unit,
                              Axis axis) {
        return AddTensor(prefix + name, rows == 1 ? DType::f32 : type, rows, columns, unit, axis);
      };
      const uint32_t q = kQueryHeads * kHeadDim;
      const uint32_t kv = kKvHeads * kHeadDim;
      const int layer = static_cast<int>(l);
      LayerWeights weights{};
      weights.attention_norm =
          AddWeight(prefix + "attention.norm", layer,
                    {tensor("attention.norm", 1, kHidden, Unit::whole, Axis::none)});
      weights.qkv = AddWeight(prefix + "attention.qkv", layer,
                              {tensor("q", q, kHidden, Unit::query_head, Axis::rows),
                               tensor("k", kv, kHidden, Unit::kv_head, Axis::rows),
                               tensor("v", kv, kHidden, Unit::kv_head, Axis::rows)});
      weights.o = AddWeight(prefix + "attention.o", layer,
                            {tensor("o", kHidden, q, Unit::query_head, Axis::columns)});
      weights.mlp_norm = AddWeight(prefix + "mlp.norm", layer,
                                   {tensor("mlp.norm", 1, kHidden, Unit::whole, Axis::none)});
      weights.gate_up = AddWeight(prefix + "mlp.gate_up", layer,
                                  {tensor("gate", kMlp, kHidden, Unit::mlp_column, Axis::rows),
                                   tensor("up", kMlp, kHidden, Unit::mlp_column, Axis::rows)},
                                  Interleave::panels);
      weights.down = AddWeight(prefix + "mlp.down", layer,
                               {tensor("down", kHidden, kMlp, Unit::mlp_column, Axis::columns)});
      layers_.push_back(weights);
    }
    output_norm_ =
        AddWeight("output.norm", -1,
                  {AddTensor("output.norm", DType::f32, 1, kHidden, Unit::whole, Axis::none)});
    auto file = std::make_unique<CheckpointFileT>();
    file->path = "tiny.gguf";
    file->bytes = file_bytes_;
    file->header_bytes = kHeaderBytes;
    plan_->files.push_back(std::move(file));
  }

  // ---------------------------------------------------------- topology

  std::unique_ptr<StageT> AddStage(size_t s, uint32_t layer_begin, uint32_t layer_end,
                                   uint32_t* world_rank) {
    const uint32_t count = shape_.ranks[s];
    const std::vector<uint32_t> heads = Boundaries(kQueryHeads, count);
    const std::vector<uint32_t> mlp = Boundaries((kMlp + kLeaf - 1) / kLeaf, count);
    const std::vector<uint32_t> vocabulary = Boundaries((kVocabulary + kLeaf - 1) / kLeaf, count);
    constexpr uint32_t kGroup = kQueryHeads / kKvHeads;

    auto group = std::make_unique<GroupT>();
    group->name = "stage" + std::to_string(plan_->groups.size());
    auto stage = std::make_unique<StageT>();
    stage->layer_begin = layer_begin;
    stage->layer_end = layer_end;
    stage->efficiency = 1;
    stage->group = static_cast<uint32_t>(plan_->groups.size());
    for (uint32_t r = 0; r < count; ++r) {
      auto rank = std::make_unique<RankT>();
      const auto range = [&](Unit unit, uint32_t begin, uint32_t end) {
        auto leaves = std::make_unique<LeafRangeT>();
        leaves->unit = unit;
        leaves->begin = begin;
        leaves->end = end;
        rank->ranges.push_back(std::move(leaves));
      };
      const uint32_t kv_begin = heads[r] / kGroup;
      const uint32_t kv_end = (heads[r + 1] + kGroup - 1) / kGroup;
      range(Unit::query_head, heads[r], heads[r + 1]);
      range(Unit::kv_head, kv_begin, kv_end);
      range(Unit::mlp_column, mlp[r], mlp[r + 1]);
      range(Unit::vocabulary, vocabulary[r], vocabulary[r + 1]);
      rank->world_rank = (*world_rank)++;
      rank->memory = std::make_unique<MemoryT>();
      rank->memory->weights = 1 << 20;
      rank->memory->kv_block =
          uint64_t{layer_end - layer_begin} * (kv_end - kv_begin) * plan_->kv->head_bytes;
      for (uint32_t l = layer_begin; l < layer_end; ++l) {
        for (const uint32_t weight : {layers_[l].attention_norm, layers_[l].qkv, layers_[l].o,
                                      layers_[l].mlp_norm, layers_[l].gate_up, layers_[l].down}) {
          rank->weights.push_back(weight);
        }
      }
      if (s == 0 || last(s)) rank->weights.push_back(embedding_);
      if (last(s)) rank->weights.push_back(output_norm_);
      group->ranks.push_back(rank->world_rank);
      stage->ranks.push_back(std::move(rank));
    }
    plan_->groups.push_back(std::move(group));
    return stage;
  }

  // ---------------------------------------------------------- programs

  void AddPrograms(ReplicaT& replica) {
    for (size_t s = 0; s < replica.stages.size(); ++s) {
      StageT& stage = *replica.stages[s];
      for (const ProgramKind kind : {ProgramKind::mixed, ProgramKind::decode, ProgramKind::score}) {
        AddProgram(replica, s, kind);
      }
      for (auto& rank : stage.ranks) {
        rank->memory->activations = rank->arena_bytes[0];
        rank->kv_arena = 0;
        rank->kv_offset = MemoryMap::WholeHugePages(rank->arena_bytes[0]);
      }
    }
  }

  uint32_t Columns(Unit unit, size_t rank) const {
    for (const auto& range : stage_->ranks[rank]->ranges) {
      if (range->unit != unit) continue;
      switch (unit) {
        case Unit::mlp_column:
          return std::min(range->end * kLeaf, kMlp) - range->begin * kLeaf;
        case Unit::vocabulary:
          return std::min(range->end * kLeaf, kVocabulary) - range->begin * kLeaf;
        default:
          return (range->end - range->begin) * kHeadDim;
      }
    }
    return 0;
  }

  template <typename ColumnsOfRank>
  uint32_t AddBuffer(const char* name, DType dtype, Rows rows, const ColumnsOfRank& columns) {
    auto buffer = std::make_unique<BufferT>();
    buffer->name = name;
    buffer->dtype = dtype;
    buffer->rows = rows;
    buffer->max_rows = rows == Rows::one       ? 2
                       : rows == Rows::sampled ? program_->max_sampled
                                               : program_->max_tokens;
    for (size_t r = 0; r < stage_->ranks.size(); ++r) {
      buffer->columns.push_back(columns(r));
      buffer->bytes.push_back(buffer->max_rows * RowBytes(dtype, columns(r)));
      buffer->offsets.push_back(0);
    }
    program_->buffers.push_back(std::move(buffer));
    return static_cast<uint32_t>(program_->buffers.size() - 1);
  }
  uint32_t AddWholeBuffer(const char* name, DType dtype, Rows rows, uint32_t columns) {
    return AddBuffer(name, dtype, rows, [columns](size_t) { return columns; });
  }

  StepT& AddStep(StepKind kind, const std::string& name, std::vector<uint32_t> inputs,
                 std::vector<uint32_t> outputs, int weight = -1) {
    auto step = std::make_unique<StepT>();
    step->kind = kind;
    step->layer = layer_;
    step->name = layer_ < 0 ? name : "layers." + std::to_string(layer_) + "." + name;
    step->inputs = std::move(inputs);
    step->outputs = std::move(outputs);
    step->weight = weight;
    if (IsSum(kind)) step->tree = tree_;
    switch (kind) {
      case StepKind::all_reduce:
      case StepKind::all_reduce_start:
      case StepKind::reduce_scatter:
      case StepKind::reduce_scatter_start:
      case StepKind::all_gather:
      case StepKind::all_gather_start:
      case StepKind::gather:
        step->group = static_cast<int>(stage_->group);
        break;
      case StepKind::wait:
      case StepKind::send:
      case StepKind::recv:
      case StepKind::prefetch:
        break;
      default:
        step->kernel = 0;
    }
    for (size_t r = 0; r < stage_->ranks.size(); ++r) {
      auto rank = std::make_unique<StepRankT>();
      rank->cost = std::make_unique<CostT>();
      rank->cost->bytes = weight >= 0 ? 4096 : 0;
      rank->cost->flops_per_token = weight >= 0 ? 8192 : 0;
      step->ranks.push_back(std::move(rank));
    }
    program_->steps.push_back(std::move(step));
    return *program_->steps.back();
  }

  // The rows `rows` of `buffer`, where they lie.
  uint32_t View(uint32_t buffer, Rows rows) {
    const auto [entry, is_new] = views_.try_emplace({buffer, rows}, program_->buffers.size());
    if (is_new) {
      program_->buffers.push_back(std::make_unique<BufferT>(*program_->buffers[buffer]));
      program_->buffers.back()->rows = rows;
      program_->buffers.back()->name += std::string(".") + EnumNameRows(rows);
      parents_[entry->second] = buffer;
    }
    return entry->second;
  }
  bool halves() const { return shape_.halves && stage_->ranks.size() > 1; }
  bool scatters() const { return shape_.scatter && stage_->ranks.size() > 1; }

  // `whole` becomes each rank's share of its sum, or the shares become `whole`.
  void AddCut(StepKind kind, uint32_t whole) {
    const bool scatter = kind == StepKind::reduce_scatter;
    const uint32_t share = View(whole, Rows::share);
    const std::string name = EnumNameStepKind(kind);
    const std::vector<uint32_t> in = {scatter ? whole : share};
    const std::vector<uint32_t> out = {scatter ? share : whole};
    if (!shape_.overlap) {
      AddStep(kind, name, in, out);
      return;
    }
    AddStep(scatter ? StepKind::reduce_scatter_start : StepKind::all_gather_start, name, in, out)
        .signals = static_cast<int>(program_->events);
    AddStep(StepKind::prefetch, "prefetch", {}, {}, static_cast<int>(embedding_));
    AddStep(StepKind::wait, "wait", {}, out).waits = {program_->events};
    ++program_->events;
  }

  // Sums `buffer` over the stage's ranks.
  void AddSum(uint32_t buffer) {
    if (!shape_.overlap) {
      AddStep(StepKind::all_reduce, "all_reduce", {buffer}, {buffer});
      return;
    }
    AddStep(StepKind::all_reduce_start, "all_reduce", {buffer}, {}).signals =
        static_cast<int>(program_->events);
    AddStep(StepKind::wait, "wait", {}, {buffer}).waits = {program_->events};
    ++program_->events;
  }

  // `input` in the form that matrices read.
  uint32_t AddNorm(const char* name, uint32_t input, uint32_t weight) {
    const Rows rows = program_->buffers[input]->rows;
    const uint32_t out =
        AddWholeBuffer(name, shape_.quantized ? DType::q8_rows : DType::f32, rows, kHidden);
    if (rows == Rows::tokens && (halves() || scatters())) {
      for (const Rows part : Parts()) {
        AddStep(StepKind::rms_norm, name, {View(input, part)}, {View(out, part)},
                static_cast<int>(weight));
      }
      if (scatters()) AddCut(StepKind::all_gather, out);
      return out;
    }
    AddStep(StepKind::rms_norm, name, {input}, {out}, static_cast<int>(weight));
    return out;
  }
  std::vector<Rows> Parts() const {
    if (halves()) return {Rows::first_half, Rows::second_half};
    return {Rows::share};
  }
  uint32_t AddQuantize(const char* name, uint32_t input) {
    if (!shape_.quantized) return input;
    const std::vector<uint32_t> columns = program_->buffers[input]->columns;
    const uint32_t out =
        AddBuffer(name, DType::q8_rows, Rows::tokens, [&](size_t r) { return columns[r]; });
    AddStep(StepKind::quantize, name, {input}, {out});
    return out;
  }

  // x += input * weight, summed over the ranks.
  void AddProjection(const char* name, uint32_t input, uint32_t weight, uint32_t x) {
    if (stage_->ranks.size() == 1) {
      AddStep(StepKind::linear, name, {input, x}, {x}, static_cast<int>(weight)).epilogue =
          Epilogue::residual;
      return;
    }
    const uint32_t partial = AddWholeBuffer(name, DType::f32, Rows::tokens, kHidden);
    if (shape_.reproducible) {
      tree_ = plan_->weights[weight]->unit;
      MakeNodes(*program_->buffers[partial]);
    }
    AddSummed(name, input, weight, x, partial);
    tree_ = Unit::whole;
  }

  // `buffer` is for the nodes of tree_ that cover each rank's leaves.
  void MakeNodes(BufferT& buffer) const {
    const uint32_t total = tree_ == Unit::query_head ? kQueryHeads : (kMlp + kLeaf - 1) / kLeaf;
    for (size_t r = 0; r < stage_->ranks.size(); ++r) {
      for (const auto& range : stage_->ranks[r]->ranges) {
        if (range->unit != tree_) continue;
        const auto nodes = CoveringNodes({range->begin, range->end}, total).size();
        buffer.nodes.push_back(static_cast<uint32_t>(nodes));
        buffer.bytes[r] *= nodes;
      }
    }
  }

  // Each rank's part of input * weight to `partial`, summed, added to x.
  void AddSummed(const char* name, uint32_t input, uint32_t weight, uint32_t x, uint32_t partial) {
    if (halves()) {
      std::vector<uint32_t> events;
      for (const Rows half : Parts()) {
        AddStep(StepKind::linear, name, {View(input, half)}, {View(partial, half)},
                static_cast<int>(weight));
        AddStep(StepKind::all_reduce_start, "all_reduce", {View(partial, half)}, {}).signals =
            static_cast<int>(program_->events);
        events.push_back(program_->events++);
      }
      for (const Rows half : Parts()) {
        AddStep(StepKind::wait, "wait", {}, {View(partial, half)}).waits = {events.front()};
        events.erase(events.begin());
        AddStep(StepKind::add, "add", {View(x, half), View(partial, half)}, {View(x, half)});
      }
      return;
    }
    AddStep(StepKind::linear, name, {input}, {partial}, static_cast<int>(weight));
    if (scatters()) {
      AddCut(StepKind::reduce_scatter, partial);
      AddStep(StepKind::add, "add", {View(x, Rows::share), View(partial, Rows::share)},
              {View(x, Rows::share)});
      return;
    }
    AddSum(partial);
    AddStep(StepKind::add, "add", {x, partial}, {x});
  }

  void AddLayer(uint32_t l, uint32_t x) {
    layer_ = static_cast<int>(l);
    const LayerWeights& weights = layers_[l];
    uint32_t normed = AddNorm("attention.norm", x, weights.attention_norm);
    const uint32_t qkv = AddBuffer("qkv", DType::f32, Rows::tokens, [&](size_t r) {
      return Columns(Unit::query_head, r) + 2 * Columns(Unit::kv_head, r);
    });
    AddStep(StepKind::linear, "attention.qkv", {normed}, {qkv}, static_cast<int>(weights.qkv));
    AddStep(StepKind::rope_append, "attention.rope", {qkv}, {});
    const uint32_t heads = AddBuffer("heads", DType::f32, Rows::tokens,
                                     [&](size_t r) { return Columns(Unit::query_head, r); });
    AddStep(StepKind::paged_attention, "attention", {qkv}, {heads});
    AddProjection("attention.o", AddQuantize("attention.quantize", heads), weights.o, x);
    normed = AddNorm("mlp.norm", x, weights.mlp_norm);
    const uint32_t gated = AddBuffer("gated", DType::f32, Rows::tokens,
                                     [&](size_t r) { return Columns(Unit::mlp_column, r); });
    AddStep(StepKind::linear, "mlp.gate_up", {normed}, {gated}, static_cast<int>(weights.gate_up))
        .epilogue = Epilogue::silu_mul;
    AddProjection("mlp.down", AddQuantize("mlp.quantize", gated), weights.down, x);
    layer_ = -1;
  }

  void OnFirstRankOnly(StepT& step) {
    for (size_t r = 1; r < step.ranks.size(); ++r) step.ranks[r]->skip = true;
  }

  // The columns of all ranks on the first.
  uint32_t AddGather(const char* name, uint32_t input) {
    if (stage_->ranks.size() == 1) return input;
    const BufferT& parts = *program_->buffers[input];
    uint32_t sum = 0;
    for (const uint32_t columns : parts.columns) sum += columns;
    const uint32_t out =
        AddBuffer(name, DType::f32, parts.rows, [&](size_t r) { return r == 0 ? sum : 0; });
    AddStep(StepKind::gather, name, {input}, {out});
    return out;
  }

  void AddOutput(uint32_t x) {
    const auto one = [](size_t r) { return r == 0 ? 1u : 0u; };
    const auto head = static_cast<int>(embedding_);
    const auto shard = [&](size_t r) { return Columns(Unit::vocabulary, r); };
    if (program_->kind == ProgramKind::score) {
      const uint32_t normed = AddNorm("output.norm", x, output_norm_);
      const uint32_t parts = AddBuffer("parts", DType::f32, Rows::tokens, [&](size_t r) {
        return shape_.reproducible ? 3 * ((Columns(Unit::vocabulary, r) + kLeaf - 1) / kLeaf) : 3;
      });
      const uint32_t chunk = AddBuffer("chunk", DType::f32, Rows::one, shard);
      AddStep(StepKind::score, "score", {normed}, {parts, chunk}, head);
      const uint32_t all = AddGather("all_parts", parts);
      OnFirstRankOnly(AddStep(StepKind::score_merge, "score_merge", {all},
                              {AddBuffer("logprobs", DType::f32, Rows::tokens, one)}));
      return;
    }
    Rows rows = Rows::tokens;
    if (program_->kind == ProgramKind::mixed) {
      rows = Rows::sampled;
      const uint32_t sampled = AddWholeBuffer("sampled", DType::f32, rows, kHidden);
      AddStep(StepKind::gather_rows, "gather_rows", {x}, {sampled});
      x = sampled;
    }
    const uint32_t normed = AddNorm("output.norm", x, output_norm_);
    const uint32_t logits = AddBuffer("logits", DType::f32, rows, shard);
    AddStep(StepKind::linear, "head", {normed}, {logits}, head);
    const uint32_t all = AddGather("all_logits", logits);
    OnFirstRankOnly(AddStep(StepKind::sample, "sample", {all},
                            {AddBuffer("ids", DType::i32, Rows::sampled, one)}));
  }

  void AddProgram(ReplicaT& replica, size_t s, ProgramKind kind) {
    stage_ = replica.stages[s].get();
    auto program = std::make_unique<ProgramT>();
    program_ = program.get();
    views_.clear();
    parents_.clear();
    program->kind = kind;
    program->min_tokens = 1;
    program->max_tokens = kind == ProgramKind::mixed    ? kBatch + kChunk
                          : kind == ProgramKind::decode ? kBatch
                                                        : kChunk;
    program->max_sampled = kind == ProgramKind::score ? 0 : kBatch;

    const uint32_t x = AddWholeBuffer("x", DType::f32, Rows::tokens, kHidden);
    if (s == 0) {
      AddStep(StepKind::embedding, "embedding", {}, {x}, static_cast<int>(embedding_));
      if (scatters()) {
        AddCut(StepKind::reduce_scatter, x);
      } else if (stage_->ranks.size() > 1) {
        AddSum(x);
      }
    } else {
      const StageT& previous = *replica.stages[s - 1];
      StepT& step = AddStep(StepKind::recv, "recv", {}, {x});
      for (size_t j = 0; j < step.ranks.size(); ++j) {
        step.ranks[j]->peers = {previous.ranks[j % previous.ranks.size()]->world_rank};
      }
    }
    for (uint32_t l = stage_->layer_begin; l < stage_->layer_end; ++l) AddLayer(l, x);
    if (scatters()) AddCut(StepKind::all_gather, x);
    if (last(s)) {
      AddOutput(x);
    } else {
      const StageT& next = *replica.stages[s + 1];
      StepT& step = AddStep(StepKind::send, "send", {x}, {});
      const size_t count = stage_->ranks.size();
      for (size_t j = 0; j < next.ranks.size(); ++j) {
        step.ranks[j % count]->peers.push_back(next.ranks[j]->world_rank);
      }
      for (auto& rank : step.ranks) rank->skip = rank->peers.empty();
    }
    PlaceBuffers();
    stage_->programs.push_back(std::move(program));
  }

  // Live from the first use to the last; one after the other, none shares its place with another.
  void PlaceBuffers() {
    for (uint32_t b = 0; b < program_->buffers.size(); ++b) {
      BufferT& buffer = *program_->buffers[b];
      bool used = false;
      for (uint32_t i = 0; i < program_->steps.size(); ++i) {
        const StepT& step = *program_->steps[i];
        if (std::count(step.inputs.begin(), step.inputs.end(), b) == 0 &&
            std::count(step.outputs.begin(), step.outputs.end(), b) == 0) {
          continue;
        }
        if (!used) buffer.first_step = i;
        buffer.last_step = i;
        used = true;
      }
      named_[b] = used;
    }
    // What a start uses is in use until the wait.
    std::map<uint32_t, const StepT*> starts;
    for (uint32_t i = 0; i < program_->steps.size(); ++i) {
      const StepT& step = *program_->steps[i];
      if (step.signals >= 0) starts[static_cast<uint32_t>(step.signals)] = &step;
      if (step.kind != StepKind::wait) continue;
      const StepT& start = *starts.at(step.waits[0]);
      for (const auto* operands : {&start.inputs, &start.outputs}) {
        for (const uint32_t b : *operands) {
          program_->buffers[b]->last_step = std::max(program_->buffers[b]->last_step, i);
        }
      }
    }
    // A view and what it views are in use together at some step: one place.
    for (const auto& [view, parent] : parents_) {
      BufferT& part = *program_->buffers[view];
      BufferT& whole = *program_->buffers[parent];
      if (!named_[parent]) {
        whole.first_step = part.first_step;
        whole.last_step = part.last_step;
        named_[parent] = true;
      }
      part.first_step = std::min(part.first_step, whole.first_step);
      part.last_step = std::max(part.last_step, whole.first_step);
    }
    for (size_t r = 0; r < stage_->ranks.size(); ++r) {
      uint64_t end = 0;
      for (uint32_t b = 0; b < program_->buffers.size(); ++b) {
        BufferT& buffer = *program_->buffers[b];
        if (const auto view = parents_.find(b); view != parents_.end()) {
          buffer.offsets[r] = program_->buffers[view->second]->offsets[r];
          continue;
        }
        buffer.offsets[r] = end;
        end = (end + buffer.bytes[r] + 63) / 64 * 64;
      }
      std::vector<uint64_t>& arenas = stage_->ranks[r]->arena_bytes;
      arenas.resize(1);
      arenas[0] = std::max(arenas[0], end);
    }
  }

  const PlanShape& shape_;
  std::unique_ptr<PlanT> plan_;
  uint64_t file_bytes_ = 0;
  uint32_t embedding_ = 0;
  uint32_t output_norm_ = 0;
  std::vector<LayerWeights> layers_;
  StageT* stage_ = nullptr;
  ProgramT* program_ = nullptr;
  int layer_ = -1;
  Unit tree_ = Unit::whole;                              // of the sums that are added
  std::map<std::pair<uint32_t, Rows>, uint32_t> views_;  // (buffer, rows) -> the view
  std::map<uint32_t, uint32_t> parents_;                 // view -> the buffer that it views
  std::map<uint32_t, bool> named_;                       // buffers that a step names
};

}  // namespace

std::unique_ptr<PlanT> BuildPlan(const PlanShape& shape) { return Builder(shape).Build(); }

PinnedPrefixT& AddPrefix(PlanT& plan, int32_t tokens, int32_t first) {
  auto prefix = std::make_unique<PinnedPrefixT>();
  prefix->name = "system";
  prefix->share = 0.5f;
  for (int32_t i = 0; i < tokens; ++i) prefix->ids.push_back(first + i);
  plan.prefixes.push_back(std::move(prefix));
  plan.required_features |= static_cast<uint64_t>(Feature::pinned_prefixes);
  return *plan.prefixes.back();
}

StepT& FindStep(ProgramT& program, StepKind kind, size_t n) {
  for (auto& step : program.steps) {
    if (step->kind == kind && n-- == 0) return *step;
  }
  std::fprintf(stderr, "the plan has no such step: %s\n", EnumNameStepKind(kind));
  std::abort();
}

ProgramT& FindProgram(PlanT& plan, ProgramKind kind, size_t stage) {
  for (auto& program : plan.replicas[0]->stages[stage]->programs) {
    if (program->kind == kind) return *program;
  }
  std::fprintf(stderr, "the plan has no such program: %s\n", EnumNameProgramKind(kind));
  std::abort();
}

}  // namespace llmir::plan
