#include "plan_schema/plan_verifier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <random>

#include "plan_schema/base/hash.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_file.h"
#include "plan_schema/plan_printer.h"
#include "tests/unit/plan_schema/plan_builder.h"

namespace llmir::plan {
namespace {

using ::testing::HasSubstr;

Status VerifyBuilt(const PlanT& plan) {
  const auto file = PlanFile::FromBytes(PlanFile::Serialize(plan), "test");
  return file.ok() ? VerifyPlan(file->plan()) : file.status();
}

const std::vector<PlanShape>& Shapes() {
  static const std::vector<PlanShape> shapes = {
      {},
      {.ranks = {1}, .layers = 1, .quantized = false},
      {.ranks = {2}},
      {.ranks = {2}, .overlap = true},
      {.ranks = {3}, .quantized = false},
      {.ranks = {1, 1}},
      {.ranks = {2, 1}, .overlap = true},
      {.ranks = {1, 2, 3}, .replicas = 2, .layers = 4},
      {.ranks = {3, 2, 1}, .layers = 3, .overlap = true, .quantized = false},
      {.ranks = {2}, .halves = true},
      {.ranks = {1, 3}, .quantized = false, .halves = true},
      {.ranks = {2}, .scatter = true},
      {.ranks = {3, 2}, .overlap = true, .quantized = false, .scatter = true},
  };
  return shapes;
}

TEST(PlanVerifier, AcceptsEveryLayout) {
  for (const PlanShape& shape : Shapes()) {
    const Status status = VerifyBuilt(*BuildPlan(shape));
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
}

TEST(PlanVerifier, AcceptsAsManyStepsInFlightAsStages) {
  for (const PlanShape& shape : Shapes()) {
    for (uint32_t depth = 1; depth <= shape.ranks.size(); ++depth) {
      auto plan = BuildPlan(shape);
      plan->limits->steps_in_flight = depth;
      const Status status = VerifyBuilt(*plan);
      EXPECT_TRUE(status.ok()) << status.ToString();
    }
  }
}

TEST(PlanVerifier, BuffersThatAreNotLiveTogetherMayShareAPlace) {
  auto plan = BuildPlan({});
  ProgramT& program = FindProgram(*plan, ProgramKind::mixed);
  const BufferT* qkv = nullptr;
  BufferT* gated = nullptr;
  for (auto& buffer : program.buffers) {
    if (buffer->name == "qkv" && qkv == nullptr) qkv = buffer.get();
    if (buffer->name == "gated" && gated == nullptr) gated = buffer.get();
  }
  ASSERT_LT(qkv->last_step, gated->first_step);
  ASSERT_GE(qkv->bytes[0], gated->bytes[0]);
  gated->offsets = qkv->offsets;
  EXPECT_TRUE(VerifyBuilt(*plan).ok()) << VerifyBuilt(*plan).ToString();
}

TEST(PlanVerifier, BorrowedFeatureBitsAreHarmless) {
  auto plan = BuildPlan({});
  plan->required_features = kKnownFeatures;
  EXPECT_TRUE(VerifyBuilt(*plan).ok());
}

AttentionChoiceT& Choose(StepT& step) {
  if (step.attention == nullptr) step.attention = std::make_unique<AttentionChoiceT>();
  return *step.attention;
}

TEST(PlanVerifier, AcceptsEveryKvTypeFormAndWindow) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::i8, DType::f8_e4m3}) {
    auto plan = BuildPlan({});
    plan->kv->dtype = dtype;
    plan->kv->head_bytes = KvHeadBytes(dtype, plan->kv->block_size, plan->kv->head_dim);
    plan->model->attention_windows = {0, 48};
    plan->required_features = kKnownFeatures;
    StageT& stage = *plan->replicas[0]->stages[0];
    for (auto& rank : stage.ranks) {
      rank->memory->kv_block = 2 * 2 * plan->kv->head_bytes;  // layers, KV heads
    }
    auto form = static_cast<unsigned>(AttentionForm::MIN);
    for (auto& program : stage.programs) {
      for (auto& step : program->steps) {
        if (step->kind != StepKind::paged_attention) continue;
        AttentionChoiceT& choice = Choose(*step);
        choice.window = step->layer == 1 ? 48 : 0;
        if (program->kind == ProgramKind::decode) {
          step->kind = StepKind::append_attend;
        } else {
          choice.form = static_cast<AttentionForm>(form);
          form = (form + 1) % (static_cast<unsigned>(AttentionForm::MAX) + 1);
          choice.share_kv = false;
          choice.softcap = 50;
        }
      }
    }
    EXPECT_TRUE(VerifyBuilt(*plan).ok()) << VerifyBuilt(*plan).ToString();
  }
}

TEST(PlanVerifier, PlanFromAShapeHasNoHashes) {
  auto plan = BuildPlan({.ranks = {2}});
  for (auto& tensor : plan->tensors) tensor->leaf_hashes.clear();
  EXPECT_TRUE(VerifyBuilt(*plan).ok());
}

TEST(PlanVerifier, AcceptsReproduciblePlansOfAllLayouts) {
  for (const std::vector<uint32_t>& ranks :
       {std::vector<uint32_t>{1}, {2}, {3}, {2, 1}, {1, 2}, {3, 2}}) {
    for (const bool overlap : {false, true}) {
      for (const int how : {0, 1, 2}) {
        const auto plan = BuildPlan({.ranks = ranks,
                                     .overlap = overlap,
                                     .halves = how == 1,
                                     .scatter = how == 2,
                                     .reproducible = true});
        EXPECT_TRUE(VerifyBuilt(*plan).ok()) << VerifyBuilt(*plan).ToString();
      }
    }
  }
}

TEST(PlanVerifier, PrefixesMayBeginWithEachOther) {
  auto plan = BuildPlan({});
  AddPrefix(*plan, 32);
  AddPrefix(*plan, 64);
  AddPrefix(*plan, 16, 90);
  EXPECT_TRUE(VerifyBuilt(*plan).ok()) << VerifyBuilt(*plan).ToString();
}

// One thing wrong with a valid plan, and what the error must say.
struct Mutation {
  const char* name;
  PlanShape shape;
  std::function<void(PlanT&)> apply;
  const char* message;
};
void PrintTo(const Mutation& mutation, std::ostream* out) { *out << mutation.name; }

const PlanShape kOne = {};
const PlanShape kTwo = {.ranks = {2}};
const PlanShape kOverlap = {.ranks = {2}, .overlap = true};
const PlanShape kHalves = {.ranks = {2}, .halves = true};
const PlanShape kScatter = {.ranks = {2}, .scatter = true};
const PlanShape kTree = {.ranks = {2}, .reproducible = true};
const PlanShape kScatterOverlap = {.ranks = {2}, .overlap = true, .scatter = true};
const PlanShape kPipe = {.ranks = {1, 1}};
const PlanShape kWide = {.ranks = {2, 2}};

StageT& Stage0(PlanT& plan) { return *plan.replicas[0]->stages[0]; }
RankT& Rank0(PlanT& plan) { return *Stage0(plan).ranks[0]; }
ProgramT& Mixed(PlanT& plan) { return FindProgram(plan, ProgramKind::mixed); }
StepT& Mixed(PlanT& plan, StepKind kind, size_t n = 0) { return FindStep(Mixed(plan), kind, n); }
BufferT& BufferOf(PlanT& plan, const std::string& name) {
  for (auto& buffer : Mixed(plan).buffers) {
    if (buffer->name == name) return *buffer;
  }
  std::abort();
}
uint32_t Named(const ProgramT& program, const std::string& name) {
  for (uint32_t b = 0; b < program.buffers.size(); ++b) {
    if (program.buffers[b]->name == name) return b;
  }
  std::abort();
}
TensorT& TensorOf(PlanT& plan, const std::string& name) {
  for (auto& tensor : plan.tensors) {
    if (tensor->name == name) return *tensor;
  }
  std::abort();
}

// The first layer's down, only in panels of a packed file.
WeightT& PackWeight(PlanT& plan) {
  auto file = std::make_unique<CheckpointFileT>();
  file->path = "weights.pack";
  file->format = FileFormat::packed;
  file->header_bytes = 4096;
  file->bytes = 1 << 20;
  plan.files.push_back(std::move(file));
  TensorT& tensor = TensorOf(plan, "layers.0.down");
  tensor.file = static_cast<uint32_t>(plan.files.size() - 1);
  tensor.offset = tensor.bytes = 0;
  auto packed = std::make_unique<PackedPieceT>();
  packed->file = tensor.file;
  packed->offset = 4096;
  packed->layout = 4;
  packed->leaf_hashes = std::move(tensor.leaf_hashes);
  tensor.leaf_hashes.clear();
  for (auto& weight : plan.weights) {
    if (plan.tensors[weight->pieces[0]].get() != &tensor) continue;
    weight->packed.push_back(std::move(packed));
    plan.required_features |=
        static_cast<uint64_t>(Feature::packed_file) | static_cast<uint64_t>(Feature::packed_panels);
    return *weight;
  }
  std::abort();
}
WeightT& WeightOf(PlanT& plan, const std::string& name) {
  for (auto& weight : plan.weights) {
    if (weight->name == name) return *weight;
  }
  std::abort();
}
size_t NthOf(const ProgramT& program, StepKind kind, size_t n) {
  for (size_t i = 0; i < program.steps.size(); ++i) {
    if (program.steps[i]->kind == kind && n-- == 0) return i;
  }
  std::abort();
}
// So that a change of the steps' order breaks nothing else.
void LiveThroughout(ProgramT& program) {
  for (auto& buffer : program.buffers) {
    buffer->first_step = 0;
    buffer->last_step = static_cast<uint32_t>(program.steps.size() - 1);
  }
}
void Move(ProgramT& program, size_t from, size_t to) {
  auto step = std::move(program.steps[from]);
  program.steps.erase(program.steps.begin() + static_cast<std::ptrdiff_t>(from));
  program.steps.insert(program.steps.begin() + static_cast<std::ptrdiff_t>(to), std::move(step));
  LiveThroughout(program);
}
// Sends or receives the same rows once more.
void Duplicate(ProgramT& program, StepKind kind) {
  const size_t at = NthOf(program, kind, 0);
  program.steps.insert(program.steps.begin() + static_cast<std::ptrdiff_t>(at),
                       std::make_unique<StepT>(*program.steps[at]));
  LiveThroughout(program);
}

// A step of `kind` at place `at`, like the one that is there.
StepT& Insert(ProgramT& program, size_t at, StepKind kind, std::vector<uint32_t> inputs,
              std::vector<uint32_t> outputs) {
  auto step = std::make_unique<StepT>();
  step->kind = kind;
  step->name = EnumNameStepKind(kind);
  step->inputs = std::move(inputs);
  step->outputs = std::move(outputs);
  step->ranks.resize(program.steps[at]->ranks.size());
  for (auto& rank : step->ranks) rank = std::make_unique<StepRankT>();
  program.steps.insert(program.steps.begin() + static_cast<std::ptrdiff_t>(at), std::move(step));
  LiveThroughout(program);
  return *program.steps[at];
}
void Use(PlanT& plan, Feature feature) { plan.required_features |= static_cast<uint64_t>(feature); }

// Layers of other models at the end of the mixed program: capped logits, an activation of them with
// and without a second input, all in place.
void AddOtherLayers(PlanT& plan) {
  Use(plan, Feature::other_layers);
  ProgramT& program = Mixed(plan);
  const uint32_t logits = FindStep(program, StepKind::sample).inputs[0];
  const size_t at = NthOf(program, StepKind::sample, 0);
  StepT& softcap = Insert(program, at, StepKind::softcap, {logits}, {logits});
  softcap.softcap = 30;
  softcap.kernel = 0;
  Insert(program, at, StepKind::activation, {logits, logits}, {logits}).kernel = 0;
  StepT& gelu = Insert(program, at, StepKind::activation, {logits}, {logits});
  gelu.activation = Activation::gelu_tanh;
  gelu.kernel = 0;
  for (size_t i = at; i < at + 3; ++i) {
    for (size_t r = 1; r < program.steps[i]->ranks.size(); ++r) {
      program.steps[i]->ranks[r]->skip = true;
    }
  }
}

// The sends and receives of a program, each split into its start, right where it was, and a wait at
// once (or, of sends, at the program's end).
void SplitMessages(PlanT& plan, bool late = false) {
  Use(plan, Feature::split_collectives);
  for (auto& stage : plan.replicas[0]->stages) {
    ProgramT& program = *stage->programs[0];
    for (size_t i = 0; i < program.steps.size(); ++i) {
      StepT& step = *program.steps[i];
      if (step.kind != StepKind::send && step.kind != StepKind::recv) continue;
      const bool sends = step.kind == StepKind::send;
      step.kind = sends ? StepKind::send_start : StepKind::recv_start;
      step.signals = static_cast<int>(program.events);
      std::vector<bool> skips;
      for (const auto& rank : step.ranks) skips.push_back(rank->skip);
      const size_t end = sends && late ? program.steps.size() - 1 : i;
      auto wait = std::make_unique<StepT>();
      wait->kind = StepKind::wait;
      wait->name = "wait";
      wait->waits = {program.events++};
      for (const bool skip : skips) {
        wait->ranks.push_back(std::make_unique<StepRankT>());
        wait->ranks.back()->skip = skip;
      }
      program.steps.insert(program.steps.begin() + static_cast<std::ptrdiff_t>(end) + 1,
                           std::move(wait));
    }
    LiveThroughout(program);
  }
}

TEST(PlanVerifier, AcceptsWeightsThatAreOnlyInPanels) {
  auto plan = BuildPlan({.ranks = {2}});
  PackWeight(*plan);
  EXPECT_TRUE(VerifyBuilt(*plan).ok()) << VerifyBuilt(*plan).ToString();
}

TEST(PlanVerifier, AcceptsLayersOfOtherModels) {
  for (const bool quantized : {true, false}) {
    auto plan = BuildPlan({.ranks = {2}, .quantized = quantized});
    AddOtherLayers(*plan);
    ProgramT& program = Mixed(*plan);
    if (quantized) {
      // Back to floats, over what the norm read.
      const StepT& norm = FindStep(program, StepKind::rms_norm);
      Insert(program, NthOf(program, StepKind::rms_norm, 0) + 1, StepKind::dequantize,
             {norm.outputs[0]}, {norm.inputs[0]})
          .kernel = 0;
    } else {
      FindStep(program, StepKind::rms_norm).kind = StepKind::layer_norm;
    }
    EXPECT_TRUE(VerifyBuilt(*plan).ok()) << VerifyBuilt(*plan).ToString();
  }
}

// All that can travel in int8, does.
void UseInt8Wire(PlanT& plan) {
  Use(plan, Feature::int8_wire);
  plan.wire_error = kInt8WireError;
  for (auto& stage : plan.replicas[0]->stages) {
    for (auto& program : stage->programs) {
      for (auto& step : program->steps) {
        if (TakesWire(step->kind)) step->wire = Wire::int8;
      }
    }
  }
}

TEST(PlanVerifier, AcceptsInt8BetweenHosts) {
  for (const PlanShape& shape : {kTwo, kPipe, kWide}) {
    auto plan = BuildPlan(shape);
    UseInt8Wire(*plan);
    EXPECT_TRUE(VerifyBuilt(*plan).ok()) << VerifyBuilt(*plan).ToString();
  }
}

TEST(PlanVerifier, AcceptsSplitMessages) {
  for (const PlanShape& shape : {kPipe, kWide, PlanShape{.ranks = {2, 1, 3}, .layers = 3}}) {
    for (const bool late : {false, true}) {
      auto plan = BuildPlan(shape);
      SplitMessages(*plan, late);
      EXPECT_TRUE(VerifyBuilt(*plan).ok()) << VerifyBuilt(*plan).ToString();
    }
  }
}

TEST(PlanVerifier, AcceptsBroadcastsAndSplitGathers) {
  auto plan = BuildPlan(kTwo);
  Use(*plan, Feature::split_collectives);
  ProgramT& program = Mixed(*plan);
  const auto group = static_cast<int>(Stage0(*plan).group);
  // The first rank's embedding for all: theirs is overwritten, whole or split.
  const uint32_t x = FindStep(program, StepKind::embedding).outputs[0];
  Insert(program, 2, StepKind::broadcast, {x}, {x}).group = group;
  StepT& start = Insert(program, 3, StepKind::broadcast_start, {x}, {});
  start.group = group;
  start.signals = static_cast<int>(program.events);
  Insert(program, 4, StepKind::wait, {}, {x}).waits = {program.events++};
  StepT& gather = FindStep(program, StepKind::gather);
  gather.kind = StepKind::gather_start;
  gather.signals = static_cast<int>(program.events);
  const uint32_t whole = gather.outputs[0];
  Insert(program, NthOf(program, StepKind::gather_start, 0) + 1, StepKind::wait, {}, {whole})
      .waits = {program.events++};
  const Status status = VerifyBuilt(*plan);
  EXPECT_TRUE(status.ok()) << status.ToString();
}

const std::vector<Mutation>& Mutations() {
  using P = PlanT&;
  static const std::vector<Mutation> mutations = {
      // Presence
      {"NoProvenance", kOne, [](P p) { p.provenance.reset(); }, "provenance: missing"},
      {"NoModel", kOne, [](P p) { p.model.reset(); }, "model: missing"},
      {"NoTokenizer", kOne, [](P p) { p.tokenizer.reset(); }, "tokenizer: missing"},
      {"NoKv", kOne, [](P p) { p.kv.reset(); }, "kv: missing"},
      {"NoLimits", kOne, [](P p) { p.limits.reset(); }, "limits: missing"},
      {"NoFiles", kOne, [](P p) { p.files.clear(); }, "files: missing"},
      {"NoTensors", kOne, [](P p) { p.tensors.clear(); }, "tensors: missing"},
      {"NoWeights", kOne, [](P p) { p.weights.clear(); }, "weights: missing"},
      {"NoKernels", kOne, [](P p) { p.kernels.clear(); }, "kernels: missing"},
      {"NoGroups", kOne, [](P p) { p.groups.clear(); }, "groups: missing"},
      {"NoReplicas", kOne, [](P p) { p.replicas.clear(); }, "replicas: missing"},
      {"NoStages", kOne, [](P p) { p.replicas[0]->stages.clear(); }, "replicas[0].stages: none"},
      {"NoRanks", kOne, [](P p) { Stage0(p).ranks.clear(); }, "replicas[0].stages[0].ranks: none"},
      {"NoPrograms", kOne, [](P p) { Stage0(p).programs.clear(); },
       "replicas[0].stages[0].programs: none"},
      {"NamelessKernel", kOne, [](P p) { p.kernels[1].clear(); }, "kernels[1]: no name"},
      // Model
      {"NoLayers", kOne, [](P p) { p.model->layers = 0; }, "model.layers: 0"},
      {"HugeHidden", kOne, [](P p) { p.model->hidden = ~0u; }, "model.hidden: 4294967295"},
      {"NoVocabularyLeaf", kOne, [](P p) { p.model->vocabulary_leaf = 0; },
       "model.vocabulary_leaf: 0"},
      {"NoArchitecture", kOne, [](P p) { p.model->architecture.clear(); }, "model.architecture"},
      {"UnevenHeads", kOne, [](P p) { p.model->kv_heads = 3; }, "model.query_heads: 4"},
      {"NanEpsilon", kOne, [](P p) { p.model->norm_epsilon = NAN; }, "model.norm_epsilon"},
      {"UnknownRopeStyle", kOne, [](P p) { p.model->rope_style = RopeStyle(9); },
       "model.rope_style: 9"},
      {"OddRopeDim", kOne, [](P p) { p.model->rope_dim = 31; }, "model.rope_dim: 31"},
      {"RopeBeyondHead", kOne, [](P p) { p.model->rope_dim = 64; }, "model.rope_dim: 64"},
      {"FewFrequencies", kOne, [](P p) { p.model->rope_frequencies.pop_back(); },
       "model.rope_frequencies: 15 values"},
      {"InfiniteFrequency", kOne, [](P p) { p.model->rope_frequencies[3] = INFINITY; },
       "model.rope_frequencies[3]"},
      // Tokenizer
      {"MoreTokensThanRows", kOne, [](P p) { p.tokenizer->vocabulary = 161; },
       "tokenizer.vocabulary: 161"},
      {"BosOutOfRange", kOne, [](P p) { p.tokenizer->bos = 160; }, "tokenizer.bos: id 160"},
      {"EndIdOutOfRange", kOne, [](P p) { p.tokenizer->end_ids = {2, -5}; },
       "tokenizer.end_ids[1]: id -5"},
      {"TestIdOutOfRange", kOne, [](P p) { p.tokenizer->tests[0]->ids[1] = 999; },
       "tokenizer.tests[0].ids[1]: id 999"},
      // Files and tensors
      {"FileWithoutPath", kOne, [](P p) { p.files[0]->path.clear(); }, "files[0].path"},
      {"UnknownFormat", kOne, [](P p) { p.files[0]->format = FileFormat(7); }, "files[0].format: 7"},
      {"HeaderBeyondFile", kOne, [](P p) { p.files[0]->header_bytes = p.files[0]->bytes + 1; },
       "files[0].header_bytes"},
      {"NamelessTensor", kOne, [](P p) { p.tensors[1]->name.clear(); }, "tensors[1].name"},
      {"TensorOfNoFile", kOne, [](P p) { p.tensors[1]->file = 1; },
       "tensors[1].file: 1, but there are 1 files"},
      {"TensorOfActivations", kOne, [](P p) { p.tensors[0]->dtype = DType::q8_rows; },
       "tensors[0].dtype: 16 (q8_rows)"},
      {"TensorOfUnknownType", kOne, [](P p) { p.tensors[0]->dtype = DType(6); },
       "tensors[0].dtype: 6"},
      {"TensorWithoutRows", kOne, [](P p) { p.tensors[0]->rows = 0; }, "tensors[0].rows: 0"},
      {"TensorTooWide", kOne, [](P p) { p.tensors[0]->columns = ~0ull; }, "tensors[0].columns"},
      {"QuantizedTensorOfOddWidth", kOne, [](P p) { p.tensors[0]->columns = 100; },
       "tensors[0].columns: 100, not a multiple of 32"},
      {"TensorBytesWrong", kOne, [](P p) { ++p.tensors[0]->bytes; }, "tensors[0].bytes"},
      {"TensorInHeader", kOne, [](P p) { p.tensors[0]->offset = 255; }, "tensors[0].offset: 255"},
      {"TensorBeyondFile", kOne, [](P p) { ++p.tensors.back()->offset; }, ".offset:"},
      {"TensorOffsetWraps", kOne, [](P p) { p.tensors[0]->offset = ~0ull - 8; },
       "tensors[0].offset: 18446744073709551607"},
      {"UnknownUnit", kOne, [](P p) { p.tensors[0]->unit = Unit(9); }, "tensors[0].unit: 9"},
      {"UnitWithoutAxis", kOne, [](P p) { p.tensors[0]->axis = Axis::none; }, "tensors[0].axis"},
      {"LeafSizeWrong", kOne, [](P p) { p.tensors[0]->leaf_size = 32; }, "tensors[0].leaf_size: 32"},
      {"DividedAxisIsNotTheModels", kOne, [](P p) { TensorOf(p, "layers.0.down").axis = Axis::rows; },
       ".rows: 128, but the model has 192 for unit mlp_column"},
      {"MissingLeafHash", kOne, [](P p) { p.tensors[0]->leaf_hashes.pop_back(); },
       "tensors[0].leaf_hashes: 2 values, expected 3"},
      {"OneHashForManyLeaves", kOne, [](P p) { p.tensors[0]->leaf_hashes.resize(1); },
       "tensors[0].leaf_hashes: 1 values"},
      // Weights
      {"NamelessWeight", kOne, [](P p) { p.weights[1]->name.clear(); }, "weights[1].name"},
      {"WeightOfNoLayer", kOne, [](P p) { p.weights[1]->layer = 2; }, "weights[1].layer: 2"},
      {"WeightOfIntegers", kOne, [](P p) { p.weights[0]->dtype = DType::i32; },
       "weights[0].dtype: 4 (i32)"},
      {"WeightWithoutPieces", kOne, [](P p) { p.weights[1]->pieces.clear(); }, "weights[1].pieces"},
      // Packed files
      {"PackedPieceMissing", kOne, [](P p) { PackWeight(p).packed.clear(); },
       ".packed: missing, but tensor"},
      {"PackedPieceTooMany", kOne,
       [](P p) {
         WeightT& weight = PackWeight(p);
         weight.packed.push_back(std::make_unique<PackedPieceT>(*weight.packed[0]));
       },
       ".packed: 2 entries, expected 1"},
      {"PackedInACheckpoint", kOne, [](P p) { PackWeight(p).packed[0]->file = 0; },
       ".packed[0].file: 0, whose format is gguf"},
      {"PackedInNoFile", kOne, [](P p) { PackWeight(p).packed[0]->file = 7; },
       ".packed[0].file: 7"},
      {"PackedOffLine", kOne, [](P p) { PackWeight(p).packed[0]->offset += 4; },
       ".packed[0].offset"},
      {"PackedInHeader", kOne, [](P p) { PackWeight(p).packed[0]->offset = 0; },
       ".packed[0].offset: 0"},
      {"PackedBeyondFile", kOne, [](P p) { PackWeight(p).packed[0]->offset = 1 << 20; },
       ".packed[0].offset"},
      {"PackedMatrixAsVector", kOne, [](P p) { PackWeight(p).packed[0]->layout = 0; },
       ".packed[0].layout: 0"},
      {"PackedHashMissing", kOne, [](P p) { PackWeight(p).packed[0]->leaf_hashes.pop_back(); },
       ".packed[0].leaf_hashes"},
      {"WeightOfNoTensor", kOne, [](P p) { p.weights[1]->pieces[0] = 1000; },
       "weights[1].pieces[0]: 1000, but there are"},
      {"PiecesOfUnequalWidth", kOne,
       [](P p) {
         TensorT& up = TensorOf(p, "layers.0.up");
         up.columns = 64;
         up.bytes /= 2;
       },
       "pieces[1]: 64 columns, but pieces[0] has 128"},
      {"PieceOfAnotherUnit", kOne,
       [](P p) {
         WeightOf(p, "layers.0.mlp.gate_up").pieces[1] =
             WeightOf(p, "layers.0.attention.qkv").pieces[0];
       },
       "pieces[1]: divided by rows of query_head, but the weight by rows of mlp_column"},
      {"VectorOfHalves", kOne, [](P p) { p.weights[1]->dtype = DType::f16; },
       "weights[1].pieces[0]: a vector"},
      {"InterleavedSingle", kOne,
       [](P p) { WeightOf(p, "layers.0.mlp.down").interleave = Interleave::panels; },
       ".interleave: panels needs two pieces"},
      {"UnknownInterleave", kOne, [](P p) { p.weights[2]->interleave = Interleave(4); },
       "weights[2].interleave: 4"},
      {"JoinedColumns", kOne,
       [](P p) {
         std::vector<uint32_t>& pieces = WeightOf(p, "layers.0.mlp.down").pieces;
         pieces.push_back(pieces[0]);
       },
       ".pieces: 2, but a weight divided by columns has one"},
      {"LeafSplitsAScale", kOne,
       [](P p) { WeightOf(p, "layers.0.mlp.down").leaf_columns = 48; },
       "in leaves of 48, not multiples of 32"},
      {"LeafSplitsAScaleOf64", kOne,
       [](P p) {
         plan::WeightT& down = WeightOf(p, "layers.0.mlp.down");
         down.dtype = DType::q5_1_64;
         down.leaf_columns = 32;
       },
       "in leaves of 32, not multiples of 64 as q5_1_64 needs"},
      {"TensorOfHalfAScale", kOne,
       [](P p) {
         p.tensors[0]->dtype = DType::q4_1_64;
         p.tensors[0]->columns = 96;
       },
       "tensors[0].columns: 96, not a multiple of 64 as q4_1_64 needs"},
      {"FewBitsWithoutFeature", kOne,
       [](P p) {
         WeightOf(p, "layers.0.mlp.down").dtype = DType::q5_1;
         p.required_features &= ~static_cast<uint64_t>(Feature::few_bit_weights);
       },
       "lacks few_bit_weights, which the plan uses"},
      // KV cache and limits
      {"KvOfQuants", kOne, [](P p) { p.kv->dtype = DType::q8_0; }, "kv.dtype: 8 (q8_0)"},
      {"BlockSizeNoPowerOfTwo", kOne, [](P p) { p.kv->block_size = 24; }, "kv.block_size: 24"},
      {"BlockSizeTooSmall", kOne, [](P p) { p.kv->block_size = 8; }, "kv.block_size: 8"},
      {"NoBlocks", kOne, [](P p) { p.kv->blocks = 0; }, "kv.blocks: 0"},
      {"KvHeadDimWrong", kOne, [](P p) { p.kv->head_dim = 16; }, "kv.head_dim: 16"},
      {"PrefixOfPartOfABlock", kOne, [](P p) { AddPrefix(p, 24); }, "prefixes[0].ids: 24"},
      {"PrefixWithoutIds", kOne, [](P p) { AddPrefix(p, 0); }, "prefixes[0].ids: 0"},
      {"PrefixAsLongAsTheContext", kOne, [](P p) { AddPrefix(p, 128); }, "prefixes[0].ids: 128"},
      {"PrefixIdOutside", kOne, [](P p) { AddPrefix(p, 16).ids[5] = 160; },
       "prefixes[0].ids[5]: 160"},
      {"PrefixIdNegative", kOne, [](P p) { AddPrefix(p, 16).ids[0] = -1; },
       "prefixes[0].ids[0]: -1"},
      {"PrefixTwice", kOne, [](P p) { AddPrefix(p, 16), AddPrefix(p, 32), AddPrefix(p, 16); },
       "prefixes[2].ids: the same as those of prefixes[0]"},
      {"PrefixShareTooLarge", kOne, [](P p) { AddPrefix(p, 16).share = 1.5f; },
       "prefixes[0].share: 1.5"},
      {"PrefixesFillTheCache", kOne,
       [](P p) {
         AddPrefix(p, 112);
         p.kv->blocks = 7;
       },
       "prefixes: they hold 7 KV blocks, but kv.blocks is 7"},
      {"PrefixFeatureMissing", kOne,
       [](P p) {
         AddPrefix(p, 16);
         p.required_features &= ~static_cast<uint64_t>(Feature::pinned_prefixes);
       },
       "pinned_prefixes"},
      {"KvHeadBytesWrong", kOne, [](P p) { p.kv->head_bytes /= 2; }, "kv.head_bytes: 2048"},
      {"KvExtentIsNoPowerOfTwo", kOne, [](P p) { p.kv->extent_blocks = 3; }, "kv.extent_blocks: 3"},
      {"NoBatch", kOne, [](P p) { p.limits->max_batch = 0; }, "limits.max_batch: 0"},
      {"NoChunk", kOne, [](P p) { p.limits->prefill_chunk = 0; }, "limits.prefill_chunk: 0"},
      {"BatchAboveTokens", kOne, [](P p) { p.limits->max_batch = 13; }, "limits.max_tokens: 12"},
      {"ContextAboveBlocks", kOne, [](P p) { p.limits->context = 129; }, "limits.context: 129"},
      {"ProgramAboveLimits", kOne, [](P p) { ++Mixed(p).max_tokens; },
       "replicas[0].stages[0].programs[0]: min_tokens 1 to max_tokens 13"},
      {"NoTokens", kOne, [](P p) { Mixed(p).min_tokens = 0; }, "programs[0]: min_tokens 0"},
      {"FewSampled", kOne, [](P p) { Mixed(p).max_sampled = 3; }, "programs[0].max_sampled: 3"},
      {"UnknownProgramKind", kOne, [](P p) { Mixed(p).kind = ProgramKind(5); },
       "programs[0].kind: 5"},
      {"FeatureNotDeclared", kTwo,
       [](P p) { p.required_features &= ~static_cast<uint64_t>(Feature::tensor_parallel); },
       "required_features: 0x14 lacks tensor_parallel"},
      // Topology
      {"LayersWithGap", kPipe, [](P p) { p.replicas[0]->stages[1]->layer_begin = 2; },
       "replicas[0].stages[1]: layers [2, 2)"},
      {"LayersMissingAtTheEnd", kOne, [](P p) { p.model->layers = 3; },
       "replicas[0].stages: they end at layer 2 of 3"},
      {"WorldRankTwice", kTwo, [](P p) { Stage0(p).ranks[1]->world_rank = 0; },
       "replicas[0].stages[0].ranks[1].world_rank: 0"},
      {"WorldRankOutOfRange", kTwo, [](P p) { Stage0(p).ranks[1]->world_rank = 2; },
       "ranks[1].world_rank: 2"},
      {"FirstRankIsNotRankZero", kPipe,
       [](P p) {
         std::swap(p.replicas[0]->stages[0]->ranks[0]->world_rank,
                   p.replicas[0]->stages[1]->ranks[0]->world_rank);
       },
       "replicas[0].stages[0].ranks[0].world_rank: 1, expected 0"},
      {"NoStepInFlight", kOne, [](P p) { p.limits->steps_in_flight = 0; },
       "limits.steps_in_flight: 0"},
      {"MoreStepsInFlightThanStages", kPipe, [](P p) { p.limits->steps_in_flight = 3; },
       "limits.steps_in_flight: 3, but replicas[0] has 2 stages"},
      {"MoreStepsInFlightThanRankZeroFollows", {.ranks = {1, 1}, .replicas = 9},
       [](P p) { p.limits->steps_in_flight = 2; },
       "limits.steps_in_flight: 2 of each of 9 replicas, expected at most 16 together"},
      {"ReplicasNotDeclared", {.ranks = {1}, .replicas = 2},
       [](P p) { p.required_features &= ~static_cast<uint64_t>(Feature::replicas); },
       "lacks replicas"},
      {"EfficiencyAboveOne", kOne, [](P p) { Stage0(p).efficiency = 1.5f; },
       "stages[0].efficiency: 1.5"},
      {"NoSuchGroup", kOne, [](P p) { Stage0(p).group = 1; }, "stages[0].group: 1"},
      {"GroupInAnotherOrder", kTwo, [](P p) { std::swap(p.groups[0]->ranks[0], p.groups[0]->ranks[1]); },
       "groups[0] holds ranks 1, 0, but the stage's, groups[0], are 0, 1, in this order: rank 0 at "
       "stages[0].steps[1] (all_reduce \"all_reduce\") would take the part of rank 1 for that of rank 0"},
      {"GroupTooSmall", kTwo, [](P p) { p.groups[0]->ranks.pop_back(); },
       "rank 0 at stages[0].steps[1] (all_reduce \"all_reduce\") would not wait for rank 1 at "
       "stages[0].steps[1] (all_reduce \"all_reduce\"), which waits for it"},
      {"RangeMissing", kTwo, [](P p) { Rank0(p).ranges.pop_back(); },
       "ranks[0].ranges: none for unit vocabulary"},
      {"RangeTwice", kTwo, [](P p) { Rank0(p).ranges[1]->unit = Unit::query_head; },
       "ranks[0].ranges[1].unit: 1"},
      {"RangeWithGap", kTwo, [](P p) { Stage0(p).ranks[1]->ranges[3]->begin = 2; --Rank0(p).ranges[3]->end; },
       "ranks[1].ranges (vocabulary): begins at 2, but the ranks before it end at 1"},
      {"RangeTooShort", kTwo, [](P p) { --Stage0(p).ranks[0]->ranges[2]->end; },
       "ranks[1].ranges (mlp_column): begins at 2, but the ranks before it end at 1"},
      {"RangeBeyondLeaves", kTwo, [](P p) { ++Stage0(p).ranks[1]->ranges[2]->end; },
       "ranks[1].ranges (mlp_column): [2, 4)"},
      {"RangesEndEarly", kOne, [](P p) { --Rank0(p).ranges[2]->end; },
       "ranks: their mlp_column leaves end at 2 of 3"},
      {"EmptyRange", kTwo, [](P p) { Rank0(p).ranges[0]->end = 0; },
       "ranks[0].ranges (query_head): [0, 0)"},
      {"KvHeadsDoNotFollow", kTwo, [](P p) { Rank0(p).ranges[1]->end = 2; },
       "ranks[0].ranges (kv_head): [0, 2), but query heads [0, 2) need [0, 1)"},
      {"RankPacksNoWeight", kOne, [](P p) { Rank0(p).weights[0] = 99; },
       "ranks[0].weights[0]: 99, but there are"},
      {"RankPacksAWeightTwice", kOne, [](P p) { Rank0(p).weights[1] = Rank0(p).weights[0]; },
       "ranks[0].weights[1]: 1, named twice"},
      {"NoMemory", kOne, [](P p) { Rank0(p).memory.reset(); }, "ranks[0].memory: missing"},
      {"KvBlockBytesWrong", kOne, [](P p) { ++Rank0(p).memory->kv_block; },
       "ranks[0].memory.kv_block: 16385, but 2 layers x 2 KV heads x 4096 bytes take 16384"},
      {"ActivationsBelowArenas", kOne, [](P p) { --Rank0(p).memory->activations; },
       "ranks[0].memory.activations"},
      {"KvBlocksInNoArena", kOne, [](P p) { Rank0(p).kv_arena = 1; },
       "ranks[0].kv_arena: 1, but there are 1 arenas"},
      {"KvBlocksBelowTheArenas", kOne, [](P p) { Rank0(p).kv_arena = -2; },
       "ranks[0].kv_arena: -2, but there are 1 arenas"},
      {"KvOffsetWithoutArena", kOne, [](P p) { Rank0(p).kv_arena = -1; },
       "ranks[0].kv_offset: 2097152, but kv_arena names no arena"},
      {"KvBlocksOnActivations", kOne, [](P p) { Rank0(p).kv_offset = 0; },
       "ranks[0].kv_offset: 0, but activations take"},
      {"KvBlocksWithinAHugePage", kOne,
       [](P p) { Rank0(p).kv_offset += 4096; },
       "ranks[0].kv_offset: 2101248, not a multiple of 2097152"},
      {"KvBlocksBeyondAddresses", kOne,
       [](P p) {
         Rank0(p).kv_offset = ~0ull << 21;
         p.kv->extent_blocks = 1 << 10;
       },
       "the end does not fit 64 bits"},
      {"MemoryWraps", kOne, [](P p) { Rank0(p).memory->weights = ~0ull; }, "ranks[0].memory: the peak"},
      // Buffers
      {"NamelessBuffer", kOne, [](P p) { Mixed(p).buffers[0]->name.clear(); }, "buffers[0].name"},
      {"BufferOfHalves", kOne, [](P p) { Mixed(p).buffers[0]->dtype = DType::f16; },
       "programs[0].buffers[0].dtype: 2 (f16)"},
      {"UnknownRows", kOne, [](P p) { Mixed(p).buffers[0]->rows = Rows(99); }, "buffers[0].rows: 99"},
      {"BufferTooShort", kOne, [](P p) { --Mixed(p).buffers[0]->max_rows; },
       "buffers[0].max_rows: 11, expected at least 12"},
      {"BufferForFewRanks", kTwo, [](P p) { Mixed(p).buffers[0]->offsets.pop_back(); },
       "buffers[0]: 2 columns, 1 offsets, 2 bytes"},
      {"BufferBytesTooFew", kOne, [](P p) { --Mixed(p).buffers[0]->bytes[0]; },
       "buffers[0].bytes[0]: 6143, but 12 rows of 128 f32 take 6144"},
      {"BufferNotAligned", kOne, [](P p) { Mixed(p).buffers[1]->offsets[0] += 4; },
       "buffers[1].offsets[0]: 6148, not a multiple of 64"},
      {"BufferBeyondArena", kOne,
       [](P p) { Mixed(p).buffers[1]->offsets[0] = Rank0(p).arena_bytes[0] / 64 * 64; },
       "buffers[1].offsets[0]"},
      {"BufferOffsetWraps", kOne, [](P p) { Mixed(p).buffers[1]->offsets[0] = ~0ull - 63; },
       "buffers[1].offsets[0]: 18446744073709551552"},
      {"BufferInNoArena", kOne, [](P p) { Mixed(p).buffers[1]->arena = 1; },
       "buffers[1].arena: 1, but there are 1 arenas"},
      {"BufferLivesBackwards", kOne, [](P p) { Mixed(p).buffers[1]->first_step = 90; },
       "buffers[1]: live from step 90"},
      {"BufferOutlivesProgram", kOne, [](P p) { Mixed(p).buffers[1]->last_step = 1000; },
       "buffers[1]: live from step 1 to 1000"},
      {"Int8BufferOfOddWidth", kOne, [](P p) { BufferOf(p, "attention.norm").columns[0] = 100; },
       "buffers[1].columns[0]: 100"},
      {"LiveBuffersOverlap", kOne,
       [](P p) { BufferOf(p, "qkv").offsets[0] = BufferOf(p, "attention.norm").offsets[0] + 64; },
       "overlaps buffers[1] in arena 0 of rank 0"},
      {"LiveBuffersOverlapFromBelow", kOne,
       [](P p) { BufferOf(p, "qkv").offsets[0] = BufferOf(p, "x").offsets[0]; },
       "overlaps buffers[0] in arena 0 of rank 0"},
      // Steps: operands
      {"UnknownStepKind", kOne, [](P p) { Mixed(p).steps[1]->kind = StepKind(99); },
       "programs[0].steps[1].kind: 99"},
      {"NamelessStep", kOne, [](P p) { Mixed(p).steps[1]->name.clear(); },
       "steps[1] (rms_norm).name"},
      {"StepOfAnotherStagesLayer", kPipe, [](P p) { Mixed(p).steps[1]->layer = 1; },
       "steps[1] (rms_norm).layer: 1, but the stage has layers [0, 1)"},
      {"AttentionOfAnotherWindow", kOne,
       [](P p) { Choose(Mixed(p, StepKind::paged_attention)).window = 16; },
       "attention.window: 16, but model.attention_windows gives layer 0 0"},
      {"AttentionOfNoWindow", kOne,
       [](P p) {
         p.model->attention_windows.assign(p.model->layers, 16);
         p.required_features |= static_cast<uint64_t>(Feature::attention_window);
       },
       "attention.window: 0, but model.attention_windows gives layer 0 16"},
      {"WindowsOfSomeLayers", kOne,
       [](P p) { p.model->attention_windows.assign(p.model->layers + 1, 16); },
       "model.attention_windows"},
      {"WindowWithoutFeature", kOne,
       [](P p) {
         p.model->attention_windows.assign(p.model->layers, 16);
         for (auto& program : p.replicas[0]->stages[0]->programs) {
           for (auto& step : program->steps) {
             if (step->kind == StepKind::paged_attention) Choose(*step).window = 16;
           }
         }
       },
       "attention_window"},
      {"AttentionFormUnknown", kOne,
       [](P p) {
         Choose(Mixed(p, StepKind::paged_attention)).form = static_cast<AttentionForm>(9);
       },
       "attention.form: 9"},
      {"AttentionFormWithoutFeature", kOne,
       [](P p) { Choose(Mixed(p, StepKind::paged_attention)).form = AttentionForm::masked; },
       "attention_form"},
      {"SoftcapWithoutFeature", kOne,
       [](P p) { Choose(Mixed(p, StepKind::paged_attention)).softcap = 50; }, "attention_form"},
      {"SoftcapNegative", kOne,
       [](P p) { Choose(Mixed(p, StepKind::paged_attention)).softcap = -1; },
       "attention.softcap: -1"},
      {"AttentionOfALinear", kOne, [](P p) { Choose(Mixed(p, StepKind::linear)); },
       "(linear).attention: given"},
      {"AppendAttendOutsideDecode", kOne,
       [](P p) { Mixed(p, StepKind::paged_attention).kind = StepKind::append_attend; },
       "in a mixed program"},
      {"AppendAttendOfAnotherForm", kOne,
       [](P p) {
         StepT& step = FindStep(FindProgram(p, ProgramKind::decode), StepKind::paged_attention);
         step.kind = StepKind::append_attend;
         Choose(step).form = AttentionForm::standard;
       },
       "attention.form: standard"},
      {"AppendAttendWithoutFeature", kOne,
       [](P p) {
         FindStep(FindProgram(p, ProgramKind::decode), StepKind::paged_attention).kind =
             StepKind::append_attend;
       },
       "append_attend"},
      {"Int8CacheWithoutScales", kOne,
       [](P p) {
         p.kv->dtype = DType::i8;
         p.kv->head_bytes = 2 * p.kv->block_size * p.kv->head_dim;
       },
       "kv.head_bytes"},
      {"AttentionWithoutLayer", kOne, [](P p) { Mixed(p, StepKind::rope_append).layer = -1; },
       "(rope_append).layer: -1"},
      {"StepForFewRanks", kTwo, [](P p) { Mixed(p).steps[0]->ranks.pop_back(); },
       "steps[0] (embedding).ranks: 1, but the stage has 2"},
      {"NoInput", kOne, [](P p) { Mixed(p, StepKind::quantize).inputs.clear(); },
       "(quantize).inputs: 0, expected 1"},
      {"TooManyOutputs", kOne, [](P p) { Mixed(p, StepKind::quantize).outputs.push_back(0); },
       "(quantize).outputs: 2, expected 1"},
      {"NoSuchBuffer", kOne, [](P p) { Mixed(p, StepKind::quantize).inputs[0] = 57; },
       "replicas[0].stages[0].programs[0].steps[5] (quantize).inputs[0]: 57, but there are"},
      {"DeadBuffer", kOne,
       [](P p) { Mixed(p, StepKind::gather_rows).inputs[0] = Named(Mixed(p), "qkv"); },
       "(gather_rows).inputs[0]: buffers[2] is live from step 2 to 4 only"},
      {"WeightMissing", kOne, [](P p) { Mixed(p, StepKind::linear).weight = -1; },
       "(linear).weight: -1"},
      {"WeightWhereNoneBelongs", kOne, [](P p) { Mixed(p, StepKind::quantize).weight = 0; },
       "(quantize).weight: 0, expected none"},
      {"NoSuchWeight", kOne, [](P p) { Mixed(p, StepKind::linear).weight = 999; },
       "(linear).weight: 999, but there are"},
      {"KernelMissing", kOne, [](P p) { Mixed(p, StepKind::linear).kernel = -1; },
       "(linear).kernel: -1"},
      {"NoSuchKernel", kOne, [](P p) { Mixed(p, StepKind::linear).kernel = 2; },
       "(linear).kernel: 2, but there are 2 kernels"},
      {"EpilogueOfANorm", kOne, [](P p) { Mixed(p, StepKind::rms_norm).epilogue = Epilogue::silu_mul; },
       "(rms_norm).epilogue: silu_mul"},
      {"UnknownEpilogue", kOne, [](P p) { Mixed(p, StepKind::linear).epilogue = Epilogue(8); },
       "(linear).epilogue: 8"},
      {"InfiniteCost", kOne, [](P p) { Mixed(p).steps[3]->ranks[0]->cost->flops = INFINITY; },
       "(rope_append).ranks[0].cost"},
      {"NegativeTime", kOne, [](P p) { Mixed(p).steps[3]->ranks[0]->predicted_us = -1; },
       "(rope_append).ranks[0].cost"},
      {"OutputIsInput", kOne,
       [](P p) {
         StepT& step = Mixed(p, StepKind::linear);
         step.outputs = step.inputs;
       },
       "steps[2] (linear).outputs[0]: buffers[1], expected another than the inputs"},
      {"SumWrittenElsewhere", kTwo,
       [](P p) { Mixed(p, StepKind::all_reduce, 1).outputs[0] = 0; },
       "(all_reduce).outputs[0]: buffers[0], expected the input, or none"},
      // Steps: types and shapes
      {"FloatsIntoInt8Matrix", kOne,
       [](P p) {
         StepT& step = Mixed(p, StepKind::linear);
         step.inputs[0] = 0;
       },
       "steps[2] (linear).inputs[0]: buffer x of f32, expected q8_rows"},
      {"Int8IntoFloatMatrix", {.quantized = false},
       [](P p) {
         BufferT& normed = BufferOf(p, "attention.norm");
         normed.dtype = DType::q8_rows;
       },
       "steps[2] (linear).inputs[0]: buffer attention.norm of q8_rows, expected f32"},
      {"TokensIntoSampledRows", kOne,
       [](P p) { BufferOf(p, "logits").rows = Rows::one; },
       "(linear).outputs[0]: buffer logits has rows for one, expected sampled"},
      {"ResidualForOtherRows", kOne,
       [](P p) {
         BufferOf(p, "x").rows = Rows::one;
       },
       "(embedding).outputs[0]: buffer x has rows for one, expected tokens"},
      {"IdsAsFloats", kOne, [](P p) { BufferOf(p, "ids").dtype = DType::f32; },
       "(sample).outputs[0]: buffer ids of f32, expected i32"},
      {"MatrixOfOtherColumns", kOne,
       [](P p) {
         Mixed(p, StepKind::linear).weight = Mixed(p, StepKind::linear, 3).weight;
         Mixed(p, StepKind::linear).epilogue = Epilogue::none;
       },
       "steps[2] (linear).inputs[0], rank 0 of the stage: buffer attention.norm has 128 columns, "
       "expected 192"},
      {"MatrixOfOtherRows", kOne, [](P p) { --BufferOf(p, "qkv").columns[0]; },
       "steps[2] (linear).outputs[0], rank 0 of the stage: buffer qkv has 255 columns, expected 256"},
      {"VectorAsMatrix", {.quantized = false},
       [](P p) { Mixed(p, StepKind::linear).weight = Mixed(p, StepKind::rms_norm).weight; },
       "steps[2] (linear).weight: 1 is a vector"},
      {"MatrixAsNorm", kOne,
       [](P p) { Mixed(p, StepKind::rms_norm).weight = Mixed(p, StepKind::linear).weight; },
       "steps[1] (rms_norm).weight: 2 is a matrix"},
      {"QkvAsEmbedding", kOne, [](P p) { Mixed(p).steps[0]->weight = 2; },
       "steps[0] (embedding).weight: 2 is not one tensor with a row per token id"},
      {"WeightNotPacked", kTwo,
       [](P p) {
         std::vector<uint32_t>& weights = Stage0(p).ranks[1]->weights;
         weights.erase(std::find(weights.begin(), weights.end(), 2u));
       },
       "(linear).weight: 2, which rank 1 of the stage does not pack"},
      {"GateWithoutEpilogue", kOne,
       [](P p) { Mixed(p, StepKind::linear, 2).epilogue = Epilogue::none; },
       "(linear).epilogue: none, but weights[5] is interleaved by panels"},
      {"RankWithoutBuffer", kTwo,
       [](P p) { BufferOf(p, "qkv").columns[1] = 0; },
       "rank 1 of the stage does not have buffer qkv"},
      {"AttentionOutputWrong", kTwo, [](P p) { BufferOf(p, "heads").columns[1] -= 32; },
       "(paged_attention).outputs[0], rank 1 of the stage: buffer heads has 32 columns, expected 64"},
      {"GatherTooNarrow", kTwo, [](P p) { BufferOf(p, "all_logits").columns[0] -= 1; },
       "gathers rows of 160 columns (128 of rank 0, 32 of rank 1) in a buffer of 159"},
      {"TwoIdsPerRow", kOne,
       [](P p) {
         BufferT& ids = BufferOf(p, "ids");
         ids.columns[0] = 2;
         ids.bytes[0] *= 2;
         Rank0(p).arena_bytes[0] += 64;
         Rank0(p).memory->activations += 64;
       },
       "(sample).outputs[0], rank 0 of the stage: buffer ids has 2 columns, expected 1"},
      {"ChunkBelowARow", kOne,
       [](P p) {
         ProgramT& score = FindProgram(p, ProgramKind::score);
         score.buffers[Named(score, "chunk")]->columns[0] = 159;
       },
       "programs[2].steps[22] (score).outputs[1], rank 0 of the stage: buffer chunk has 159"},
      {"PartsOfOneRankOnly", kTwo,
       [](P p) {
         ProgramT& score = FindProgram(p, ProgramKind::score);
         FindStep(score, StepKind::score_merge).inputs[0] = Named(score, "parts");
         score.buffers[Named(score, "parts")]->last_step =
             static_cast<uint32_t>(score.steps.size() - 1);
       },
       "(score_merge).inputs[0], rank 0 of the stage: buffer parts has 3 columns, expected 6"},
      {"SampledOnEveryRank", kTwo,
       [](P p) {
         Mixed(p, StepKind::sample).ranks[1]->skip = false;
         BufferOf(p, "ids").columns[1] = 1;
         BufferOf(p, "ids").bytes[1] = 16;
         BufferOf(p, "all_logits").columns[1] = 160;
         BufferOf(p, "all_logits").bytes[1] = 4 * 640;
         for (auto& rank : Stage0(p).ranks) {
           rank->arena_bytes[0] += 4096;
           rank->memory->activations += 4096;
         }
       },
       "(sample).ranks[1].skip: false"},
      {"SampledBeforeTheLastStage", kPipe,
       [](P p) {
         ProgramT& program = Mixed(p);
         program.steps.back()->kind = StepKind::sample;
         program.steps.back()->outputs = {0};
         program.steps.back()->kernel = 0;
       },
       "(sample): only the last stage"},
      {"NothingSampled", kOne,
       [](P p) { Mixed(p, StepKind::sample).ranks[0]->skip = true; },
       "programs[0].steps: 0 of kind sample on the first rank, expected one"},
      {"ReadBeforeWritten", kOne,
       [](P p) { Move(Mixed(p), NthOf(Mixed(p), StepKind::quantize, 0), 1); },
       "steps[1] (quantize).inputs[0]: buffers[3] has not been written on rank 0"},
      {"WrittenOnOneRankOnly", kTwo,
       [](P p) { Mixed(p, StepKind::quantize).ranks[1]->skip = true; },
       "has not been written on rank 1"},
      // Collectives and events
      {"CollectiveOfAnotherGroup", kWide, [](P p) { Mixed(p, StepKind::all_reduce).group = 1; },
       "groups[1] holds ranks 2, 3, but the stage's, groups[0], are 0, 1, in this order: rank 0 at "
       "stages[0].steps[1] (all_reduce \"all_reduce\") would wait for rank 2, which comes to its "
       "first collective, stages[1].steps["},
      {"CollectiveSkipped", kTwo, [](P p) { Mixed(p, StepKind::all_reduce).ranks[1]->skip = true; },
       "rank 1 leaves out stages[0].steps[1] (all_reduce \"all_reduce\"), at which rank 0 at "
       "stages[0].steps[1]"},
      {"SumOfUnequalRows", {.ranks = {3}},
       [](P p) {
         const uint32_t qkv = Named(Mixed(p), "qkv");
         Mixed(p, StepKind::all_reduce, 1).inputs[0] = qkv;
         Mixed(p, StepKind::all_reduce, 1).outputs[0] = qkv;
         Mixed(p).buffers[qkv]->last_step = static_cast<uint32_t>(Mixed(p).steps.size() - 1);
       },
       "rank 1 at stages[0].steps[8] (all_reduce \"layers.0.all_reduce\") brings rows of 96 columns, "
       "but rank 0 at stages[0].steps[8] (all_reduce \"layers.0.all_reduce\") rows of 128"},
      {"GroupOfAStageWithoutCollectives", {.ranks = {2, 1}},
       [](P p) { p.groups[p.replicas[0]->stages[1]->group]->ranks[0] = 0; },
       "stages[1].group: groups[1] does not hold exactly the stage's ranks"},
      {"SumNeverMade", kTwo,
       [](P p) {
         ProgramT& program = Mixed(p);
         program.steps.erase(program.steps.begin() +
                             static_cast<std::ptrdiff_t>(NthOf(program, StepKind::all_reduce, 1)));
         LiveThroughout(program);
       },
       "but what it is added to is whole: no all_reduce or reduce_scatter of these ranks"},
      {"PartsNormalized", kTwo,
       [](P p) {
         ProgramT& program = Mixed(p);
         program.steps.erase(program.steps.begin() + 1);
         LiveThroughout(program);
       },
       "(rms_norm).inputs[0]: buffers[0] holds parts of a sum, one on each of ranks 0, 1, which "
       "replicas[0].stages[0].programs[0].steps[0] (embedding) made"},
      {"SummedTwice", kTwo, [](P p) { Duplicate(Mixed(p), StepKind::all_reduce); },
       "(all_reduce).inputs[0]: buffers[0] is whole on each of ranks 0, 1, expected parts of a sum"},
      {"HalfNeverSummed", kHalves,
       [](P p) {
         ProgramT& program = Mixed(p);
         const auto event =
             static_cast<uint32_t>(FindStep(program, StepKind::all_reduce_start, 1).signals);
         std::erase_if(program.steps, [&](const auto& step) {
           return (step->kind == StepKind::all_reduce_start &&
                   step->signals == static_cast<int>(event)) ||
                  (step->kind == StepKind::wait && step->waits[0] == event);
         });
         LiveThroughout(program);
       },
       "holds parts of a sum, one on each of ranks 0, 1"},
      {"EventNotSignalled", kOverlap, [](P p) { Mixed(p, StepKind::all_reduce_start).signals = -1; },
       "(all_reduce_start).signals: -1"},
      {"EventOutOfRange", kOverlap, [](P p) { Mixed(p, StepKind::all_reduce_start).signals = 50; },
       "(all_reduce_start).signals: 50, but there are"},
      {"WaitWithoutEvent", kOverlap, [](P p) { Mixed(p, StepKind::wait).waits.clear(); },
       "(wait).waits: 0 events"},
      {"WaitBeforeSignal", kOverlap, [](P p) { Mixed(p, StepKind::wait).waits[0] = 1; },
       "(wait).waits[0]: event 1, which no step before it signals"},
      {"SignalledTwice", kOverlap,
       [](P p) {
         Mixed(p, StepKind::all_reduce_start, 1).signals = 0;
         Move(Mixed(p), NthOf(Mixed(p), StepKind::all_reduce_start, 1), 2);
       },
       "steps[2] (all_reduce_start).signals: event 0, which steps[1] signals and nobody waited for"},
      {"NeverWaitedFor", kOverlap,
       [](P p) {
         ProgramT& program = Mixed(p);
         program.steps.push_back(
             std::make_unique<StepT>(FindStep(program, StepKind::all_reduce_start, 1)));
         LiveThroughout(program);
       },
       "(all_reduce_start): event 1, which no step waits for"},
      {"MoreSumsThanAChannelHolds", kOverlap,
       [](P p) {
         ProgramT& program = Mixed(p);
         LiveThroughout(program);
         const StepT start = FindStep(program, StepKind::all_reduce_start, 1);
         for (int i = 0; i < 17; ++i) {
           program.steps.push_back(std::make_unique<StepT>(start));
           program.steps.back()->signals = static_cast<int>(program.events++);
           program.steps.back()->inputs[0] = static_cast<uint32_t>(program.buffers.size());
           program.buffers.push_back(
               std::make_unique<BufferT>(*program.buffers[start.inputs[0]]));
         }
         LiveThroughout(program);
       },
       "(all_reduce_start): 17 operations under way, a channel holds 16"},
      {"SumUsedWithoutWait", kOverlap,
       [](P p) {
         ProgramT& program = Mixed(p);
         program.steps.erase(program.steps.begin() +
                             static_cast<std::ptrdiff_t>(NthOf(program, StepKind::wait, 0)));
         LiveThroughout(program);
       },
       "steps[2] (rms_norm): uses buffers[0] while steps[1] is still under way, between ranks 0, 1"},
      {"UsedWhileSummed", kOverlap,
       [](P p) { Move(Mixed(p), NthOf(Mixed(p), StepKind::wait, 0), 3); },
       "steps[2] (rms_norm): uses buffers[0] while steps[1] is still under way, between ranks 0, 1"},
      {"WaitGivesAnotherBuffer", kOverlap,
       [](P p) {
         StepT& wait = Mixed(p, StepKind::wait, 1);
         wait.outputs[0] = 0;
       },
       "(wait).outputs[0]: buffers[0], but the sum of steps["},
      {"SignalOfAnAdd", kTwo, [](P p) { Mixed(p, StepKind::add).signals = 0; },
       "(add).signals: 0, expected none"},
      {"EventsWithoutSteps", kOne, [](P p) { Mixed(p).events = ~0u; }, "programs[0].events"},
      // Parts of the rows
      {"ViewElsewhere", kHalves,
       [](P p) { BufferOf(p, "x.second_half").offsets[1] += 64; },
       "overlaps buffers["},
      {"ViewOfOtherWidth", kScatter,
       [](P p) {
         BufferT& view = BufferOf(p, "attention.norm.share");
         view.dtype = DType::f32;
         view.columns.assign(2, 32);
       },
       "(rms_norm).outputs[0], rank 0 of the stage: buffer attention.norm.share has 32 columns"},
      {"TwoHalvesAreOne", kHalves,
       [](P p) { BufferOf(p, "x.second_half").rows = Rows::first_half; },
       "buffer attention.norm.second_half has rows for second_half, expected first_half"},
      {"HalfAndShareAtOnePlace", kHalves,
       [](P p) {
         ProgramT& program = Mixed(p);
         BufferT share = *program.buffers[Named(program, "x.first_half")];
         share.rows = Rows::share;
         program.buffers.push_back(std::make_unique<BufferT>(share));
       },
       "overlaps buffers["},
      {"PartIntoAttention", kHalves,
       [](P p) {
         StepT& attend = Mixed(p, StepKind::paged_attention);
         Mixed(p).buffers[attend.inputs[0]]->rows = Rows::first_half;
       },
       "buffer qkv has rows for first_half, expected tokens"},
      {"OneHalfIsMissing", kHalves,
       [](P p) { Mixed(p, StepKind::rms_norm, 1).ranks[1]->skip = true; },
       "(linear).inputs[0]: buffers[1] has not been written on rank 1"},
      {"HalvesOfUnequalAge", kHalves,
       [](P p) {
         ProgramT& program = Mixed(p);
         program.steps.erase(program.steps.begin() +
                             static_cast<std::ptrdiff_t>(NthOf(program, StepKind::add, 3)));
         LiveThroughout(program);
       },
       "has not been written on rank 0"},
      {"HalfUsedWhileSummed", kHalves,
       [](P p) {
         ProgramT& program = Mixed(p);
         LiveThroughout(program);
         Move(program, NthOf(program, StepKind::add, 0), NthOf(program, StepKind::wait, 0));
       },
       "(add): uses buffers["},
      {"WholeUsedWhileAHalfIsSummed", kHalves,
       [](P p) {
         ProgramT& program = Mixed(p);
         StepT& add = FindStep(program, StepKind::add);
         const uint32_t partial = Named(program, "attention.o");
         add.inputs = {0, partial};
         add.outputs = {0};
         LiveThroughout(program);
         Move(program, NthOf(program, StepKind::add, 0), NthOf(program, StepKind::wait, 0));
       },
       "is still under way, between ranks 0, 1"},
      {"ShareReadAsAllRows", kScatter,
       [](P p) {
         ProgramT& program = Mixed(p);
         program.steps.erase(program.steps.begin() +
                             static_cast<std::ptrdiff_t>(NthOf(program, StepKind::all_gather, 0)));
         LiveThroughout(program);
       },
       "(linear).inputs[0]: buffers[2] has not been written on rank 0"},
      {"SummandsReadAfterTheyAreScattered", kScatter,
       [](P p) {
         ProgramT& program = Mixed(p);
         StepT& add = FindStep(program, StepKind::add);
         add.inputs = {0, Named(program, "attention.o")};
         add.outputs = {0};
         LiveThroughout(program);
       },
       "(add).inputs[0]: buffers[0] has not been written on rank 0"},
      {"GatherOfAllRows", kScatter,
       [](P p) {
         StepT& gather = Mixed(p, StepKind::all_gather);
         gather.inputs = gather.outputs;
       },
       "(all_gather).inputs[0]: buffer attention.norm has rows for tokens, expected share"},
      {"ScatterToAnotherPlace", kScatter,
       [](P p) {
         ProgramT& program = Mixed(p);
         StepT& scatter = FindStep(program, StepKind::reduce_scatter, 1);
         scatter.outputs = {Named(program, "x.share")};
         LiveThroughout(program);
       },
       "(reduce_scatter).outputs[0]: buffers[1] lies elsewhere than buffers["},
      {"SumOfShares", kScatter,
       [](P p) {
         StepT& add = Mixed(p, StepKind::add);
         add.kind = StepKind::all_reduce;
         add.kernel = -1;
         add.group = 0;
         add.inputs.pop_back();
         add.outputs.clear();
       },
       "(all_reduce).inputs[0]: buffer x.share has rows for share, expected tokens"},
      {"ScatterNeverWaitedFor", kScatterOverlap,
       [](P p) {
         ProgramT& program = Mixed(p);
         program.steps.erase(program.steps.begin() +
                             static_cast<std::ptrdiff_t>(NthOf(program, StepKind::wait, 0)));
         LiveThroughout(program);
       },
       "is still under way, between ranks 0, 1"},
      {"GatheredRowsGivenUpBeforeTheWait", kScatterOverlap,
       [](P p) {
         ProgramT& program = Mixed(p);
         program.buffers[Named(program, "attention.norm.share")]->last_step =
             static_cast<uint32_t>(NthOf(program, StepKind::all_gather_start, 0));
       },
       "(wait): waits for the sum of buffers["},
      {"PrefetchOfAVector", kScatterOverlap,
       [](P p) { Mixed(p, StepKind::prefetch).weight = Mixed(p, StepKind::rms_norm).weight; },
       "(prefetch).weight: 1 is a vector"},
      {"PrefetchWithAResult", kScatterOverlap,
       [](P p) { Mixed(p, StepKind::prefetch).outputs = {0}; }, "(prefetch).outputs: 1, expected 0"},
      {"SendWhileASumIsUnderWay", {.ranks = {2, 1}, .overlap = true},
       [](P p) {
         ProgramT& program = Mixed(p);
         StepT start = FindStep(program, StepKind::all_reduce_start, 1);
         StepT wait = FindStep(program, StepKind::wait, 1);
         start.signals = static_cast<int>(program.events);
         wait.waits = {program.events++};
         program.steps.insert(program.steps.end() - 1, std::make_unique<StepT>(start));
         program.steps.push_back(std::make_unique<StepT>(wait));
         LiveThroughout(program);
       },
       "(send): waits for another stage while the collective of steps["},
      {"MissingFeatureOfViews", kHalves,
       [](P p) { p.required_features &= ~static_cast<uint64_t>(Feature::row_views); },
       "lacks row_views"},
      {"MissingFeatureOfScatters", kScatter,
       [](P p) { p.required_features &= ~static_cast<uint64_t>(Feature::split_collectives); },
       "lacks split_collectives"},
      // Sums over a tree
      {"ReproducibleWithoutFeature", kTree,
       [](P p) { p.required_features &= ~static_cast<uint64_t>(Feature::reproducible); },
       "lacks reproducible"},
      {"ReproducibleWithoutIsa", kTree, [](P p) { p.isa.clear(); }, "isa: missing"},
      {"IsaOfAPlanThatIsFree", kTwo, [](P p) { p.isa = "avx2"; }, "isa: \"avx2\""},
      {"TreeOfOtherLeaves", kTree,
       [](P p) { Mixed(p, StepKind::all_reduce, 1).tree = Unit::mlp_column; },
       "holds nodes of the tree of query_head leaves, which "
       "replicas[0].stages[0].programs[0].steps[7] (linear) made, but the step sums over the tree "
       "of mlp_column, between ranks 0, 1"},
      {"NodesSummedInRankOrder", kTree,
       [](P p) { Mixed(p, StepKind::all_reduce, 1).tree = Unit::whole; },
       "holds nodes of the tree of query_head leaves"},
      {"TreeOfThePartsOfAnEmbedding", kTree,
       [](P p) { Mixed(p, StepKind::all_reduce, 0).tree = Unit::query_head; },
       "holds one part of a sum per rank, which replicas[0].stages[0].programs[0].steps[0] "
       "(embedding) made, but the step sums over the tree of query_head"},
      {"UnknownTree", kTree,
       [](P p) { Mixed(p, StepKind::all_reduce).tree = static_cast<Unit>(9); },
       "(all_reduce).tree: 9 is no value"},
      {"TreeOfANorm", kTree, [](P p) { Mixed(p, StepKind::rms_norm).tree = Unit::query_head; },
       "(rms_norm).tree: query_head, which only all_reduce and reduce_scatter have"},
      {"NodesOfAnotherRange", kTree,
       [](P p) {
         BufferT& buffer = *Mixed(p).buffers[Named(Mixed(p), "attention.o")];
         buffer.nodes[1] = 2;
         buffer.max_rows = 12;
         buffer.bytes[1] *= 2;
         buffer.offsets[1] = Stage0(p).ranks[1]->arena_bytes[0];
         Stage0(p).ranks[1]->arena_bytes[0] += buffer.bytes[1];
         Stage0(p).ranks[1]->memory->activations += buffer.bytes[1];
       },
       "buffer attention.o is for 2 nodes of the tree over 4 query_head leaves, but leaves [2, 4) "
       "are covered by 1"},
      {"NodesBeyondTheBuffer", kTree,
       [](P p) { Mixed(p).buffers[Named(Mixed(p), "attention.o")]->nodes[1] = 2; },
       "rows of 128 f32 for each of 2 nodes take"},
      {"NodesOfNoRank", kTree,
       [](P p) { Mixed(p).buffers[Named(Mixed(p), "attention.o")]->nodes[0] = 0; },
       ".nodes[0]: 0, expected 1 to 32"},
      {"NodesOfFewRanks", kTree,
       [](P p) { Mixed(p).buffers[Named(Mixed(p), "attention.o")]->nodes.pop_back(); },
       ".nodes: 1, expected none or one for each of 2 ranks"},
      {"NodesOfAWholeSum", kTree,
       [](P p) { Mixed(p).buffers[Named(Mixed(p), "qkv")]->nodes = {1, 1}; },
       "buffer qkv is for nodes of a sum, but the step makes whole ones"},
      {"OnePartPerRank", kTree,
       [](P p) {
         Mixed(p).buffers[Named(Mixed(p), "attention.o")]->nodes.clear();
         Mixed(p, StepKind::all_reduce, 1).tree = Unit::whole;
       },
       "but the plan is reproducible: its sums are over the tree of query_head leaves"},
      {"FormsThatDifferByProgram", kTree,
       [](P p) {
         Use(p, Feature::attention_form);
         Choose(FindStep(FindProgram(p, ProgramKind::decode), StepKind::paged_attention)).form =
             AttentionForm::masked;
       },
       "attention masked, but flash elsewhere"},
      {"ScorePartsOfRanks", kTree,
       [](P p) {
         ProgramT& score = FindProgram(p, ProgramKind::score);
         score.buffers[Named(score, "parts")]->columns = {3, 3};
         score.buffers[Named(score, "all_parts")]->columns[0] = 6;
       },
       "buffer parts has 3 columns, expected 6"},
      // Layers of other models
      {"OtherLayersWithoutFeature", kOne,
       [](P p) {
         AddOtherLayers(p);
         p.required_features &= ~static_cast<uint64_t>(Feature::other_layers);
       },
       "lacks other_layers"},
      {"SoftcapOfZero", kOne,
       [](P p) {
         AddOtherLayers(p);
         Mixed(p, StepKind::softcap).softcap = 0;
       },
       "(softcap).softcap: 0, expected a positive number"},
      {"ActivationUnknown", kOne,
       [](P p) {
         AddOtherLayers(p);
         Mixed(p, StepKind::activation).activation = static_cast<Activation>(9);
       },
       "(activation).activation: 9 is no value"},
      {"ActivationOfThreeInputs", kOne,
       [](P p) {
         AddOtherLayers(p);
         StepT& step = Mixed(p, StepKind::activation, 1);
         step.inputs.push_back(step.inputs[0]);
       },
       "(activation).inputs: 3, expected 1"},
      {"ActivationOfUnequalWidth", kOne,
       [](P p) {
         AddOtherLayers(p);
         Mixed(p, StepKind::activation, 1).inputs[1] = Mixed(p, StepKind::gather_rows).outputs[0];
       },
       "buffer sampled has 128 columns, expected 160"},
      {"LayerNormToQuants", kOne,
       [](P p) { Mixed(p, StepKind::rms_norm).kind = StepKind::layer_norm; },
       "(layer_norm).outputs[0]"},
      {"DequantizeOfFloats", kOne,
       [](P p) {
         Use(p, Feature::other_layers);
         const uint32_t x = Mixed(p, StepKind::embedding).outputs[0];
         Insert(Mixed(p), 1, StepKind::dequantize, {x}, {Named(Mixed(p), "qkv")}).kernel = 0;
       },
       "(dequantize).inputs[0]"},
      // bf16 activations
      {"BF16ActivationsWithoutFeature", kOne, [](P p) { p.bf16_activations = true; },
       "lacks bf16_activations"},
      {"BF16ActivationsOfOddLeaves", kOne,
       [](P p) {
         Use(p, Feature::bf16_activations);
         p.bf16_activations = true;
         WeightT& down = WeightOf(p, "layers.0.mlp.down");
         down.dtype = DType::bf16;
         down.leaf_columns = 15;
       },
       "leaves of 15 columns, not a multiple of 2"},
      // Int8 between hosts
      {"Int8WireWithoutFeature", kTwo,
       [](P p) {
         UseInt8Wire(p);
         p.required_features &= ~static_cast<uint64_t>(Feature::int8_wire);
       },
       "lacks int8_wire"},
      {"Int8WireOfAStepThatSendsNothing", kTwo,
       [](P p) {
         UseInt8Wire(p);
         Mixed(p, StepKind::embedding).wire = Wire::int8;
       },
       "(embedding).wire: int8, which only all_reduce"},
      {"Int8WireErrorUnderstated", kTwo,
       [](P p) {
         UseInt8Wire(p);
         p.wire_error = 0.001;
       },
       "wire_error: 0.001, but messages travel in int8; expected 0.004"},
      {"WireErrorOfNothing", kTwo, [](P p) { p.wire_error = 0.004; },
       "wire_error: 0.004, but no message loses bits; expected 0"},
      {"Int8WireReproducible", kTwo,
       [](P p) {
         UseInt8Wire(p);
         Use(p, Feature::reproducible);
         p.reproducible = true;
         p.isa = "avx2";
       },
       ".wire: int8, but results of a reproducible plan"},
      {"WireThatIsNone", kTwo,
       [](P p) { Mixed(p, StepKind::all_reduce).wire = static_cast<Wire>(9); }, ".wire: 9"},
      {"SentInAnotherForm", kPipe,
       [](P p) {
         UseInt8Wire(p);
         FindStep(FindProgram(p, ProgramKind::mixed, 1), StepKind::recv).wire = Wire::f32;
       },
       "rank 1 at stages[1].steps[0] (recv \"recv\") gets rows in f32, but rank 0 at "},
      // Messages
      {"SplitMessagesWithoutFeature", kPipe,
       [](P p) {
         SplitMessages(p);
         p.required_features &= ~static_cast<uint64_t>(Feature::split_collectives);
       },
       "lacks split_collectives"},
      {"SendStartNeverWaitedFor", kPipe,
       [](P p) {
         SplitMessages(p);
         Mixed(p).steps.pop_back();
         LiveThroughout(Mixed(p));
       },
       "(send_start): event 0, which no step waits for"},
      {"SentWhileWritten", kPipe,
       [](P p) {
         SplitMessages(p);
         ProgramT& program = Mixed(p);
         const uint32_t x = FindStep(program, StepKind::send_start).inputs[0];
         Insert(program, program.steps.size() - 1, StepKind::add, {x, x}, {x}).kernel = 0;
       },
       "(add): uses buffers[0] while steps["},
      {"WaitSkippedWhereItsStartIsNot", kPipe,
       [](P p) {
         SplitMessages(p);
         Mixed(p, StepKind::wait).ranks[0]->skip = true;
       },
       "(wait).ranks[0].skip: true, but it waits for steps["},
      {"SendStartWithoutRecv", kPipe,
       [](P p) {
         SplitMessages(p);
         ProgramT& program = Mixed(p);
         auto again = std::make_unique<StepT>(FindStep(program, StepKind::send_start));
         auto wait = std::make_unique<StepT>(FindStep(program, StepKind::wait));
         again->signals = 1;
         wait->waits = {1};
         program.events = 2;
         program.steps.push_back(std::move(again));
         program.steps.push_back(std::move(wait));
         LiveThroughout(program);
       },
       "deadlock, 1 of 2 ranks cannot finish: rank 0 at stages[0].steps[14] (wait \"wait\") waits for "
       "rank 1 to receive its message 1, which has received no message 1 by its end, stages[1]"},
      {"SendToNobody", kPipe, [](P p) { Mixed(p, StepKind::send).ranks[0]->peers.clear(); },
       "(send \"send\").ranks[0].peers: none"},
      {"RecvFromNobody", kPipe,
       [](P p) {
         FindStep(FindProgram(p, ProgramKind::mixed, 1), StepKind::recv).ranks[0]->peers.clear();
       },
       "rank 1 at stages[1].steps[0] (recv \"recv\").ranks[0].peers: none, expected one source"},
      {"SendToOwnStage", kWide, [](P p) { Mixed(p, StepKind::send).ranks[0]->peers[0] = 1; },
       ".ranks[0].peers[0]: rank 1, expected one of the next stage"},
      {"SendToNoRank", kPipe, [](P p) { Mixed(p, StepKind::send).ranks[0]->peers[0] = 77; },
       ".ranks[0].peers[0]: rank 77, expected one of the next stage"},
      {"RecvFromOwnStage", kWide,
       [](P p) {
         FindStep(FindProgram(p, ProgramKind::mixed, 1), StepKind::recv).ranks[0]->peers[0] = 3;
       },
       ".ranks[0].peers[0]: rank 3, expected one of the previous stage"},
      {"CrossedMessages", kWide,
       [](P p) {
         StepT& send = Mixed(p, StepKind::send);
         std::swap(send.ranks[0]->peers, send.ranks[1]->peers);
       },
       "deadlock, 4 of 4 ranks cannot finish: rank 0 at stages[0].steps[16] (send \"send\") waits for "
       "rank 3 to receive its message 0; rank 3 at stages[1].steps[0] (recv \"recv\") waits for "
       "rank 1 to send its message 0; rank 1 at stages[0].steps[16] (send \"send\") waits for rank 2 "
       "to receive its message 0; rank 2 at stages[1].steps[0] (recv \"recv\") waits for rank 0 to "
       "send its message 0"},
      {"SendWithoutRecv", kPipe, [](P p) { Duplicate(Mixed(p), StepKind::send); },
       "programs[0] (mixed): deadlock, 1 of 2 ranks cannot finish: rank 0 at stages[0].steps[12] "
       "(send \"send\") waits for rank 1 to receive its message 1, which has received no message 1 by "
       "its end, stages[1].steps[14] (sample \"sample\")"},
      {"RecvWithoutSend", kPipe,
       [](P p) { Duplicate(FindProgram(p, ProgramKind::decode, 1), StepKind::recv); },
       "programs[1] (decode): deadlock, 1 of 2 ranks cannot finish: rank 1 at stages[1].steps[1] "
       "(recv \"recv\") waits for rank 0 to send its message 1, which has sent no message 1 by its "
       "end, stages[0].steps[11] (send \"send\")"},
      {"RowsOfOtherWidth", kPipe,
       [](P p) {
         StepT& send = Mixed(p, StepKind::send);
         send.inputs[0] = Named(Mixed(p), "qkv");
         Mixed(p).buffers[send.inputs[0]]->last_step =
             static_cast<uint32_t>(Mixed(p).steps.size() - 1);
       },
       "rank 1 at stages[1].steps[0] (recv \"recv\") gets rows of 128 f32 for tokens, but rank 0 at "
       "stages[0].steps[11] (send \"send\") sends 256 f32 for tokens"},
      {"StagesDisagreeOnPrograms", kPipe,
       [](P p) { p.replicas[0]->stages[1]->programs.pop_back(); },
       "stages[1].programs: 2, but the first stage has 3"},
      {"StagesDisagreeOnOrder", kPipe,
       [](P p) {
         auto& programs = p.replicas[0]->stages[1]->programs;
         std::swap(programs[0], programs[1]);
       },
       "stages[1].programs[0]: kind, min_tokens, max_tokens or max_sampled differ"},
  };
  return mutations;
}

class PlanVerifierMutation : public ::testing::TestWithParam<Mutation> {};

TEST_P(PlanVerifierMutation, IsRefusedWithItsPlace) {
  const auto plan = BuildPlan(GetParam().shape);
  ASSERT_TRUE(VerifyBuilt(*plan).ok()) << VerifyBuilt(*plan).ToString();
  GetParam().apply(*plan);
  const Status status = VerifyBuilt(*plan);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status.ToString();
  EXPECT_THAT(status.message(), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(Rules, PlanVerifierMutation, ::testing::ValuesIn(Mutations()),
                         [](const auto& info) { return std::string(info.param.name); });

// ------------------------------------------------------------ hostile plans

void FixChecksum(std::vector<std::byte>& bytes) {
  const std::span<const std::byte> buffer =
      std::span(bytes).first(bytes.size() - sizeof(PlanTrailer));
  const uint64_t checksum = Hash64(buffer);
  std::memcpy(bytes.data() + buffer.size() + offsetof(PlanTrailer, checksum), &checksum,
              sizeof checksum);
}

struct Outcomes {
  int refused_by_file = 0, refused_by_verifier = 0, accepted = 0;
};
void Try(std::vector<std::byte> bytes, Outcomes* outcomes) {
  FixChecksum(bytes);
  const auto file = PlanFile::FromBytes(std::move(bytes), "hostile");
  if (!file.ok()) {
    ++outcomes->refused_by_file;
    return;
  }
  const Status status = VerifyPlan(file->plan());
  ++(status.ok() ? outcomes->accepted : outcomes->refused_by_verifier);
  // What passes must also be printable.
  if (status.ok()) {
    EXPECT_FALSE(PlanToText(file->plan()).empty());
  }
}

TEST(PlanVerifier, RandomByteFlipsNeverCrash) {
  std::mt19937_64 random(20240517);
  Outcomes outcomes;
  for (const PlanShape& shape :
       {PlanShape{.layers = 1}, PlanShape{.ranks = {2, 1}, .overlap = true}}) {
    const std::vector<std::byte> whole = PlanFile::Serialize(*BuildPlan(shape));
    for (int i = 0; i < 1500; ++i) {
      std::vector<std::byte> bytes = whole;
      for (uint64_t flips = 1 + random() % 3; flips > 0; --flips) {
        bytes[random() % (bytes.size() - sizeof(PlanTrailer))] ^=
            static_cast<std::byte>(1 + random() % 255);
      }
      Try(std::move(bytes), &outcomes);
    }
  }
  EXPECT_GT(outcomes.refused_by_file, 0);
  EXPECT_GT(outcomes.refused_by_verifier, 0);
}

TEST(PlanVerifier, RandomWordsNeverCrash) {
  std::mt19937_64 random(20240518);
  constexpr uint32_t kWords[] = {0, 1, 2, 0x7fffffff, 0x80000000, 0xffffffff, 0xffffffc0, 1 << 28};
  Outcomes outcomes;
  for (const PlanShape& shape :
       {PlanShape{.layers = 1}, PlanShape{.ranks = {2, 1}, .overlap = true}}) {
    const std::vector<std::byte> whole = PlanFile::Serialize(*BuildPlan(shape));
    for (int i = 0; i < 1500; ++i) {
      std::vector<std::byte> bytes = whole;
      const size_t at = random() % ((bytes.size() - sizeof(PlanTrailer)) / 4) * 4;
      std::memcpy(bytes.data() + at, &kWords[random() % std::size(kWords)], 4);
      Try(std::move(bytes), &outcomes);
    }
  }
  EXPECT_GT(outcomes.refused_by_file, 0);
  EXPECT_GT(outcomes.refused_by_verifier, 0);
}

// Every field of a valid plan that a table can leave out, left out in turn by zeroing its vtable
// entry: the reader sees an absent table, vector or string, or a default.
TEST(PlanVerifier, AbsentFieldsNeverCrash) {
  const std::vector<std::byte> whole =
      PlanFile::Serialize(*BuildPlan({.ranks = {2, 1}, .layers = 2}));
  Outcomes outcomes;
  for (size_t at = 8; at + 2 <= whole.size() - sizeof(PlanTrailer); at += 2) {
    uint16_t entry;
    std::memcpy(&entry, whole.data() + at, sizeof entry);
    if (entry < 4 || entry > 64)
      continue;  // a place in one of the small tables, or something like it
    std::vector<std::byte> bytes = whole;
    std::memset(bytes.data() + at, 0, sizeof entry);
    Try(std::move(bytes), &outcomes);
    if (outcomes.refused_by_verifier > 2000) break;
  }
  EXPECT_GT(outcomes.refused_by_verifier, 0);
}

}  // namespace
}  // namespace llmir::plan
