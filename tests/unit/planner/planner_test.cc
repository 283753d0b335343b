// From a checkpoint to a plan: what a plan must say, for every layout of a small model, by the
// plan's verifier and by figures worked out here from the model's shape.
#include "planner/Planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "kernels/linear.h"
#include "plan_schema/base/hash.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_file.h"
#include "plan_schema/plan_verifier.h"
#include "tests/unit/plan_schema/checkpoint/gguf_writer.h"
#include "tests/unit/plan_schema/checkpoint/safetensors_writer.h"
#include "tests/unit/plan_schema/checkpoint/test_files.h"

namespace llmir {
namespace {

using checkpoint::Checkpoint;
using checkpoint::GgufWriter;
using checkpoint::SafetensorsWriter;
using checkpoint::TemporaryFolder;
using checkpoint::Tokenizer;
using plan::ProgramKind;
using plan::StepKind;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// 3 query heads on one KV head, 3 MLP leaves (the last of 32 columns), 4 vocabulary leaves (the
// last of 8 rows).
constexpr uint64_t kLayers = 4, kHidden = 96, kHeads = 3, kKvHeads = 1, kHeadDim = 32, kMlp = 160,
                   kVocabulary = 200;
constexpr uint32_t kF16 = 1, kQ4_1 = 3, kQ8_0 = 8;

uint64_t RowBytes(uint32_t type, uint64_t columns) {
  return type == kF16 ? columns * 2 : columns / 32 * (type == kQ8_0 ? 34 : 20);
}

// One token per byte that has a printable form of its own, which is enough to encode something of
// any text.
void AddTokenizer(GgufWriter& writer) {
  std::vector<std::string> tokens = {"<s>", "</s>"};
  for (char c = '!'; c <= '~'; ++c) tokens.emplace_back(1, c);
  tokens.emplace_back("ab");
  std::vector<int32_t> types(tokens.size(), 1);
  types[0] = types[1] = 3;
  writer.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "smollm");
  writer.Strings("tokenizer.ggml.tokens", tokens).Integers("tokenizer.ggml.token_type", types);
  writer.Strings("tokenizer.ggml.merges", {"a b"});
  writer.Integer("tokenizer.ggml.bos_token_id", 0).Integer("tokenizer.ggml.eos_token_id", 1);
}

// `matrices`: the type of all matrices in layers; the embedding is q8_0, and the head with it
// unless `untied`.
std::string ModelFile(uint32_t matrices, bool untied = false) {
  GgufWriter writer;
  writer.String("general.architecture", "llama").String("general.name", "tiny");
  writer.Integer("llama.block_count", kLayers).Integer("llama.embedding_length", kHidden);
  writer.Integer("llama.feed_forward_length", kMlp).Integer("llama.context_length", 256);
  writer.Integer("llama.attention.head_count", kHeads)
      .Integer("llama.attention.head_count_kv", kKvHeads);
  writer.Integer("llama.vocab_size", kVocabulary)
      .Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  writer.Float("llama.rope.freq_base", 10000.0f);
  AddTokenizer(writer);
  const auto matrix = [&](const std::string& name, uint64_t rows, uint64_t columns, uint32_t type) {
    writer.Tensor(name, {columns, rows}, type, rows * RowBytes(type, columns));
  };
  const auto vector = [&](const std::string& name) {
    writer.Floats(name, std::vector<float>(kHidden, 1.0f));
  };
  matrix("token_embd.weight", kVocabulary, kHidden, kQ8_0);
  for (uint64_t layer = 0; layer < kLayers; ++layer) {
    const std::string prefix = fmt::format("blk.{}.", layer);
    vector(prefix + "attn_norm.weight");
    matrix(prefix + "attn_q.weight", kHeads * kHeadDim, kHidden, matrices);
    matrix(prefix + "attn_k.weight", kKvHeads * kHeadDim, kHidden, matrices);
    matrix(prefix + "attn_v.weight", kKvHeads * kHeadDim, kHidden, matrices);
    matrix(prefix + "attn_output.weight", kHidden, kHeads * kHeadDim, matrices);
    vector(prefix + "ffn_norm.weight");
    matrix(prefix + "ffn_gate.weight", kMlp, kHidden, matrices);
    matrix(prefix + "ffn_up.weight", kMlp, kHidden, matrices);
    matrix(prefix + "ffn_down.weight", kHidden, kMlp, matrices);
  }
  vector("output_norm.weight");
  if (untied) matrix("output.weight", kVocabulary, kHidden, kF16);
  return writer.Finish();
}

PlannerOptions SmallOptions(const TemporaryFolder& folder) {
  PlannerOptions options;
  options.planFolder = folder.path();
  options.maxBatch = 4;
  options.prefillChunk = 32;
  return options;
}

class PlannerTest : public testing::Test {
 protected:
  void Write(const std::string& file) { checkpoint::WriteFile(path_, file); }

  // The plan, verified; null after a failure.
  std::unique_ptr<plan::PlanT> Plan(const PlannerOptions& options) {
    auto checkpoint = Checkpoint::Open(path_);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
    auto tokenizer = Tokenizer::Load(path_);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
    if (!checkpoint.ok() || !tokenizer.ok()) return nullptr;
    auto planned = planCheckpoint(*checkpoint, *tokenizer, options);
    EXPECT_TRUE(planned.ok()) << planned.status().ToString();
    if (!planned.ok()) return nullptr;
    auto file = plan::PlanFile::FromBytes(plan::PlanFile::Serialize(**planned), "plan");
    EXPECT_TRUE(file.ok()) << file.status().ToString();
    if (!file.ok()) return nullptr;
    const Status valid = plan::VerifyPlan(file->plan());
    EXPECT_TRUE(valid.ok()) << valid.ToString();
    return std::move(planned).value();
  }

  Status Refusal(const PlannerOptions& options) {
    const auto checkpoint = Checkpoint::Open(path_);
    const auto tokenizer = Tokenizer::Load(path_);
    return planCheckpoint(*checkpoint, *tokenizer, options).status();
  }

  const TemporaryFolder folder_;
  const std::string path_ = folder_ / "model.gguf";
};

const plan::ProgramT& FindProgram(const plan::PlanT& plan, ProgramKind kind, size_t stage = 0) {
  for (const auto& program : plan.replicas[0]->stages[stage]->programs) {
    if (program->kind == kind) return *program;
  }
  ADD_FAILURE() << "no program of kind " << plan::EnumNameProgramKind(kind);
  return *plan.replicas[0]->stages[stage]->programs[0];
}

std::vector<std::string> Kinds(const plan::ProgramT& program, size_t begin, size_t end) {
  std::vector<std::string> kinds;
  for (size_t i = begin; i < std::min(end, program.steps.size()); ++i) {
    kinds.emplace_back(plan::EnumNameStepKind(program.steps[i]->kind));
  }
  return kinds;
}

const plan::StepT& FindStep(const plan::ProgramT& program, const std::string& name) {
  for (const auto& step : program.steps) {
    if (step->name == name) return *step;
  }
  ADD_FAILURE() << "no step " << name;
  return *program.steps[0];
}

TEST_F(PlannerTest, EveryLayoutAndPrecisionGivesAValidPlan) {
  Write(ModelFile(kQ4_1));
  for (const std::string weights :
       {"keep", "f32", "bf16", "q8", "q4", "q3", "q5", "q6", "q3_0", "q5_1_64"}) {
    for (int64_t tp = 1; tp <= 3; ++tp) {
      for (int64_t pp = 1; pp <= 2; ++pp) {
        SCOPED_TRACE(fmt::format("--weights {} --tp {} --pp {}", weights, tp, pp));
        PlannerOptions options = SmallOptions(folder_);
        options.weights = weights;
        options.tp = {tp};
        options.pp = pp;
        const auto plan = Plan(options);
        ASSERT_NE(plan, nullptr);
        ASSERT_EQ(plan->replicas[0]->stages.size(), static_cast<size_t>(pp));
        uint32_t world_rank = 0;
        for (const auto& stage : plan->replicas[0]->stages) {
          ASSERT_EQ(stage->ranks.size(), static_cast<size_t>(tp));
          for (const auto& rank : stage->ranks) EXPECT_EQ(rank->world_rank, world_rank++);
          EXPECT_GT(stage->efficiency, 0.3f);
          EXPECT_LE(stage->efficiency, 1.0f);
        }
        EXPECT_EQ(plan->kv->dtype, weights == "f32" ? plan::DType::f32 : plan::DType::bf16);
        EXPECT_EQ(plan->limits->max_tokens, 36u);
      }
    }
  }
}

// Kernels and plan_schema, which use nothing of each other, must mean the same by a type's name.
TEST(WeightTypes, PlansAndKernelsAgreeOnBytesAndGroups) {
  int known = 0;
  for (const plan::DType dtype : plan::EnumValuesDType()) {
    const auto encoding = kernels::FindEncoding(plan::DTypeName(dtype));
    if (!encoding) {
      EXPECT_FALSE(plan::IsQuantized(dtype)) << plan::DTypeName(dtype);
      continue;
    }
    ++known;
    EXPECT_EQ(plan::QuantGroup(dtype), kernels::FormatOf(*encoding).group);
    EXPECT_EQ(plan::RowBytes(dtype, 192), kernels::BlockRowBytes(*encoding, 192))
        << plan::DTypeName(dtype);
  }
  EXPECT_EQ(known, kernels::kEncodingCount);
}

TEST_F(PlannerTest, OneRankRunsALayerWithoutMessages) {
  Write(ModelFile(kQ4_1));
  const auto plan = Plan(SmallOptions(folder_));
  ASSERT_NE(plan, nullptr);
  const plan::ProgramT& mixed = FindProgram(*plan, ProgramKind::mixed);
  EXPECT_THAT(Kinds(mixed, 0, 11),
              ElementsAre("embedding", "rms_norm", "linear", "rope_append", "paged_attention",
                          "quantize", "linear", "rms_norm", "linear", "quantize", "linear"));
  EXPECT_THAT(Kinds(mixed, 1 + 10 * kLayers, 100),
              ElementsAre("gather_rows", "rms_norm", "linear", "sample"));
  // One token per sequence: it is appended and attended to in one step.
  const plan::ProgramT& decode = FindProgram(*plan, ProgramKind::decode);
  EXPECT_THAT(Kinds(decode, 0, 10),
              ElementsAre("embedding", "rms_norm", "linear", "append_attend", "quantize", "linear",
                          "rms_norm", "linear", "quantize", "linear"));
  EXPECT_THAT(Kinds(decode, 1 + 9 * kLayers, 100), ElementsAre("rms_norm", "linear", "sample"));
  EXPECT_THAT(Kinds(FindProgram(*plan, ProgramKind::score), 1 + 10 * kLayers, 100),
              ElementsAre("rms_norm", "score", "score_merge"));

  // The residual stream is one buffer, written over by each sum.
  const plan::StepT& o = FindStep(mixed, "layers.2.o");
  EXPECT_EQ(o.epilogue, plan::Epilogue::residual);
  EXPECT_EQ(o.outputs, mixed.steps[0]->outputs);
  EXPECT_EQ(o.inputs[1], mixed.steps[0]->outputs[0]);
  EXPECT_EQ(plan->kernels[o.kernel], "linear_q8_q4_1");
  EXPECT_EQ(plan->kernels[FindStep(mixed, "head").kernel], "linear_q8_q8_0");
  EXPECT_EQ(FindStep(mixed, "layers.2.gate_up").epilogue, plan::Epilogue::silu_mul);
  EXPECT_EQ(mixed.events, 0u);
}

TEST_F(PlannerTest, SeveralRanksSumWhatEachHasAPartOf) {
  Write(ModelFile(kQ4_1));
  PlannerOptions options = SmallOptions(folder_);
  options.tp = {2};
  options.overlap = "none";
  const auto plan = Plan(options);
  ASSERT_NE(plan, nullptr);
  const plan::ProgramT& mixed = FindProgram(*plan, ProgramKind::mixed);
  EXPECT_THAT(Kinds(mixed, 0, 4), ElementsAre("embedding", "all_reduce_start", "prefetch", "wait"));
  EXPECT_THAT(
      Kinds(mixed, 4, 22),
      ElementsAre("rms_norm", "linear", "rope_append", "paged_attention", "quantize", "linear",
                  "all_reduce_start", "prefetch", "wait", "add", "rms_norm", "linear", "quantize",
                  "linear", "all_reduce_start", "prefetch", "wait", "add"));
  EXPECT_EQ(mixed.events, 1 + 2 * kLayers);
  EXPECT_THAT(Kinds(mixed, 4 + 18 * kLayers, 200),
              ElementsAre("gather_rows", "rms_norm", "linear", "gather", "sample"));
  // Logits: 2 leaves of 64 rows, then one of 64 and one of 8; all of them on the first rank, which
  // samples alone.
  const plan::StepT& gather = FindStep(mixed, "head.gather");
  EXPECT_THAT(mixed.buffers[gather.inputs[0]]->columns, ElementsAre(128, 72));
  EXPECT_THAT(mixed.buffers[gather.outputs[0]]->columns, ElementsAre(200, 0));
  const plan::StepT& sample = FindStep(mixed, "sample");
  EXPECT_FALSE(sample.ranks[0]->skip);
  EXPECT_TRUE(sample.ranks[1]->skip);
  const plan::ProgramT& score = FindProgram(*plan, ProgramKind::score);
  const plan::StepT& parts = FindStep(score, "score");
  EXPECT_THAT(score.buffers[parts.outputs[0]]->columns, ElementsAre(3, 3));
  EXPECT_THAT(score.buffers[parts.outputs[1]]->columns, ElementsAre(64 * 128, 64 * 72));
  EXPECT_EQ(score.buffers[parts.outputs[1]]->rows, plan::Rows::one);

  // 3 query heads over 2 ranks: 2 and 1, both with the KV head.
  const auto& ranks = plan->replicas[0]->stages[0]->ranks;
  const auto range = [&](size_t rank, plan::Unit unit) {
    for (const auto& range : ranks[rank]->ranges) {
      if (range->unit == unit) return std::pair(range->begin, range->end);
    }
    return std::pair(0u, 0u);
  };
  EXPECT_EQ(range(0, plan::Unit::query_head), std::pair(0u, 2u));
  EXPECT_EQ(range(1, plan::Unit::query_head), std::pair(2u, 3u));
  EXPECT_EQ(range(0, plan::Unit::kv_head), std::pair(0u, 1u));
  EXPECT_EQ(range(1, plan::Unit::kv_head), std::pair(0u, 1u));
  EXPECT_EQ(range(0, plan::Unit::mlp_column), std::pair(0u, 2u));
  EXPECT_EQ(range(1, plan::Unit::mlp_column), std::pair(2u, 3u));
}

// Steps of many tokens by halves, or with norms on shares; one token per sequence never.
TEST_F(PlannerTest, RanksShareOutStepsOfManyTokens) {
  Write(ModelFile(kQ4_1));
  for (const std::string overlap : {"none", "halves", "scatter", "auto"}) {
    for (int64_t tp = 1; tp <= 3; ++tp) {
      for (int64_t pp = 1; pp <= 2; ++pp) {
        SCOPED_TRACE(fmt::format("--overlap {} --tp {} --pp {}", overlap, tp, pp));
        PlannerOptions options = SmallOptions(folder_);
        options.overlap = overlap;
        options.tp = {tp};
        options.pp = pp;
        const auto plan = Plan(options);
        ASSERT_NE(plan, nullptr);
        for (const auto& stage : plan->replicas[0]->stages) {
          for (const auto& program : stage->programs) {
            const bool many = tp > 1 && program->kind != ProgramKind::decode;
            std::set<plan::Rows> rows;
            for (const auto& buffer : program->buffers) rows.insert(buffer->rows);
            EXPECT_EQ(rows.contains(plan::Rows::first_half), many && overlap == "halves");
            EXPECT_EQ(rows.contains(plan::Rows::second_half), many && overlap == "halves");
            if (overlap != "auto") {
              EXPECT_EQ(rows.contains(plan::Rows::share), many && overlap == "scatter");
            }
          }
        }
      }
    }
  }
}

// What a rank sends per token: a sum whole, of a scattered one the other rank's share, of what is
// gathered its own, in int8.
TEST_F(PlannerTest, MessagesOfSharesAreCounted) {
  Write(ModelFile(kQ4_1));
  PlannerOptions options = SmallOptions(folder_);
  options.tp = {2};
  options.overlap = "scatter";
  const auto plan = Plan(options);
  ASSERT_NE(plan, nullptr);
  const plan::ProgramT& mixed = FindProgram(*plan, ProgramKind::mixed);
  const auto sent = [&](const std::string& name) {
    return FindStep(mixed, name).ranks[0]->cost->message_bytes_per_token;
  };
  EXPECT_EQ(sent("layers.0.o.reduce_scatter_start"), kHidden * 4 / 2);
  EXPECT_EQ(sent("layers.0.mlp_norm.all_gather_start"), (kHidden + kHidden / 32 * 8) / 2);
  // The rank's share of the tokens, not all of them.
  const plan::CostT& norm = *FindStep(mixed, "layers.0.mlp_norm").ranks[0]->cost;
  const plan::ProgramT& decode = FindProgram(*plan, ProgramKind::decode);
  const plan::CostT& whole = *FindStep(decode, "layers.0.mlp_norm").ranks[0]->cost;
  EXPECT_EQ(norm.bytes_per_token, whole.bytes_per_token / 2);
  EXPECT_EQ(norm.flops_per_token, whole.flops_per_token / 2);
}

TEST_F(PlannerTest, StagesOfUnequalRanksFindTheirPeers) {
  Write(ModelFile(kQ4_1));
  PlannerOptions options = SmallOptions(folder_);
  options.tp = {2, 3};
  options.pp = 2;
  const auto plan = Plan(options);
  ASSERT_NE(plan, nullptr);
  for (const ProgramKind kind : {ProgramKind::mixed, ProgramKind::decode, ProgramKind::score}) {
    const plan::StepT& send = *FindProgram(*plan, kind, 0).steps.back();
    const plan::StepT& receive = *FindProgram(*plan, kind, 1).steps.front();
    ASSERT_EQ(send.kind, StepKind::send);
    ASSERT_EQ(receive.kind, StepKind::recv);
    EXPECT_THAT(send.ranks[0]->peers, ElementsAre(2, 4));
    EXPECT_THAT(send.ranks[1]->peers, ElementsAre(3));
    EXPECT_THAT(receive.ranks[0]->peers, ElementsAre(0));
    EXPECT_THAT(receive.ranks[1]->peers, ElementsAre(1));
    EXPECT_THAT(receive.ranks[2]->peers, ElementsAre(0));
  }
  // Turned round, a rank of the first stage has nobody to send to.
  options.tp = {3, 2};
  const auto turned = Plan(options);
  ASSERT_NE(turned, nullptr);
  const plan::StepT& send = *FindProgram(*turned, ProgramKind::mixed, 0).steps.back();
  EXPECT_TRUE(send.ranks[2]->skip);
  EXPECT_FALSE(send.ranks[1]->skip);
}

TEST_F(PlannerTest, ATiedEmbeddingIsOneWeightInTheFirstAndTheLastStage) {
  Write(ModelFile(kQ4_1));
  PlannerOptions options = SmallOptions(folder_);
  options.pp = 3;
  const auto plan = Plan(options);
  ASSERT_NE(plan, nullptr);
  const auto has = [&](size_t stage, const std::string& name) {
    const auto& weights = plan->replicas[0]->stages[stage]->ranks[0]->weights;
    return std::any_of(weights.begin(), weights.end(),
                       [&](uint32_t w) { return plan->weights[w]->name == name; });
  };
  EXPECT_TRUE(has(0, "embedding"));
  EXPECT_FALSE(has(1, "embedding"));
  EXPECT_TRUE(has(2, "embedding"));
  EXPECT_FALSE(has(2, "head"));
  EXPECT_TRUE(plan->model->tied_head);
  std::set<std::string> names;
  for (const auto& weight : plan->weights)
    EXPECT_TRUE(names.insert(weight->name).second) << weight->name;
}

TEST_F(PlannerTest, AnUntiedHeadHasItsOwnWeight) {
  Write(ModelFile(kQ4_1, /*untied=*/true));
  const auto plan = Plan(SmallOptions(folder_));
  ASSERT_NE(plan, nullptr);
  const plan::StepT& head = FindStep(FindProgram(*plan, ProgramKind::decode), "head");
  EXPECT_EQ(plan->weights[head.weight]->name, "head");
  EXPECT_EQ(plan->weights[head.weight]->dtype, plan::DType::f16);
  EXPECT_EQ(plan->kernels[head.kernel], "linear_f32_f16");
  EXPECT_FALSE(plan->model->tied_head);
}

TEST_F(PlannerTest, WeightsSayHowTheyAreJoinedAndDivided) {
  Write(ModelFile(kQ4_1));
  const auto plan = Plan(SmallOptions(folder_));
  ASSERT_NE(plan, nullptr);
  const auto find = [&](const std::string& name) -> const plan::WeightT& {
    for (const auto& weight : plan->weights) {
      if (weight->name == name) return *weight;
    }
    ADD_FAILURE() << "no weight " << name;
    return *plan->weights[0];
  };
  const plan::WeightT& qkv = find("layers.1.qkv");
  ASSERT_EQ(qkv.pieces.size(), 3u);
  EXPECT_EQ(plan->tensors[qkv.pieces[1]]->name, "blk.1.attn_k.weight");
  EXPECT_EQ(plan->tensors[qkv.pieces[1]]->unit, plan::Unit::kv_head);
  EXPECT_EQ(qkv.unit, plan::Unit::query_head);
  EXPECT_EQ(qkv.axis, plan::Axis::rows);
  EXPECT_EQ(qkv.leaf_columns, 0u);
  const plan::WeightT& gate_up = find("layers.1.gate_up");
  EXPECT_EQ(gate_up.interleave, plan::Interleave::panels);
  EXPECT_EQ(gate_up.unit, plan::Unit::mlp_column);
  // Leaves along K are set on one rank too: numbers don't depend on the layout.
  EXPECT_EQ(find("layers.1.o").leaf_columns, kHeadDim);
  EXPECT_EQ(find("layers.1.down").leaf_columns, 64u);
  EXPECT_EQ(find("layers.1.down").axis, plan::Axis::columns);
  EXPECT_EQ(find("layers.1.attention_norm").dtype, plan::DType::f32);
  EXPECT_EQ(find("embedding").unit, plan::Unit::vocabulary);
}

TEST_F(PlannerTest, LeafHashesAreThoseOfTheFilesBytes) {
  const std::string file = ModelFile(kQ4_1);
  Write(file);
  const auto plan = Plan(SmallOptions(folder_));
  ASSERT_NE(plan, nullptr);
  std::set<std::string> checked;
  for (const auto& tensor : plan->tensors) {
    const char* bytes = file.data() + tensor->offset;
    if (tensor->name == "blk.3.attn_q.weight") {
      const uint64_t leaf = kHeadDim * RowBytes(kQ4_1, kHidden);
      for (uint64_t head = 0; head < kHeads; ++head) {
        EXPECT_EQ(tensor->leaf_hashes[head], Hash64(std::string_view(bytes + head * leaf, leaf)));
      }
      checked.insert(tensor->name);
    } else if (tensor->name == "blk.3.ffn_down.weight") {
      // Columns [128, 160) of all rows.
      std::string last;
      for (uint64_t row = 0; row < kHidden; ++row) {
        last.append(bytes + row * RowBytes(kQ4_1, kMlp) + RowBytes(kQ4_1, 128),
                    RowBytes(kQ4_1, 32));
      }
      ASSERT_EQ(tensor->leaf_hashes.size(), 3u);
      EXPECT_EQ(tensor->leaf_hashes[2], Hash64(last));
      checked.insert(tensor->name);
    } else if (tensor->name == "token_embd.weight") {
      const uint64_t row = RowBytes(kQ8_0, kHidden);
      ASSERT_EQ(tensor->leaf_hashes.size(), 4u);
      EXPECT_EQ(tensor->leaf_hashes[3], Hash64(std::string_view(bytes + 192 * row, 8 * row)));
      checked.insert(tensor->name);
    } else if (tensor->name == "output_norm.weight") {
      EXPECT_THAT(tensor->leaf_hashes, ElementsAre(Hash64(std::string_view(bytes, kHidden * 4))));
      checked.insert(tensor->name);
    }
  }
  EXPECT_EQ(checked.size(), 4u);
}

TEST_F(PlannerTest, MemoryAddsUp) {
  Write(ModelFile(kQ4_1));
  PlannerOptions options = SmallOptions(folder_);
  options.tp = {2};
  const auto plan = Plan(options);
  ASSERT_NE(plan, nullptr);
  const auto packed = [&](const char* kernel, uint64_t rows, uint64_t columns) {
    return (rows + 15) / 16 *
           kernels::FindLinear(kernel, kernels::DetectIsa())->panel_bytes(columns);
  };
  const uint64_t norms = (2 * kLayers + 1) * kHidden * 4;
  const auto expected = [&](uint64_t heads, uint64_t mlp, uint64_t vocabulary) {
    return norms + packed("linear_q8_q8_0", vocabulary, kHidden) +
           kLayers * (packed("linear_q8_q4_1", (heads + 2) * kHeadDim, kHidden) +
                      packed("linear_q8_q4_1", kHidden, heads * kHeadDim) +
                      2 * packed("linear_q8_q4_1", mlp, kHidden) +
                      packed("linear_q8_q4_1", kHidden, mlp));
  };
  const auto& ranks = plan->replicas[0]->stages[0]->ranks;
  EXPECT_EQ(ranks[0]->memory->weights, expected(2, 128, 128));
  EXPECT_EQ(ranks[1]->memory->weights, expected(1, 32, 72));

  // Both take their own parts, the norms and the shared KV head: the file's tensors once, and those
  // again.
  uint64_t tensors = 0;
  for (const auto& tensor : plan->tensors) tensors += tensor->bytes;
  const uint64_t replicated = norms + kLayers * 2 * kHeadDim * RowBytes(kQ4_1, kHidden);
  EXPECT_EQ(ranks[0]->memory->source + ranks[1]->memory->source, tensors + replicated);
  EXPECT_GT(ranks[0]->memory->activations, 0u);
  EXPECT_EQ(ranks[0]->memory->kv_block, kLayers * 1 * 2 * 16 * kHeadDim * 2);
}

TEST_F(PlannerTest, KvBlocksFollowNumberMemoryOrContext) {
  Write(ModelFile(kQ4_1));
  PlannerOptions options = SmallOptions(folder_);
  options.context = 100;
  EXPECT_EQ(Plan(options)->kv->blocks, 4u * 7);  // a batch of 4, each of ceil(100 / 16) blocks
  options.kvBlocks = 9;
  EXPECT_EQ(Plan(options)->kv->blocks, 9u);
  options.kvBlocks.reset();
  options.kvMemory = 200'000;  // a block of 4 layers: 8192 bytes
  EXPECT_EQ(Plan(options)->kv->blocks, 24u);
  options.pp = 2;  // the rank with most layers has 2 or 3 of them
  const auto plan = Plan(options);
  uint64_t largest = 0;
  for (const auto& stage : plan->replicas[0]->stages)
    largest = std::max(largest, stage->ranks[0]->memory->kv_block);
  EXPECT_EQ(plan->kv->blocks, 200'000 / largest);
  options.pp = 1;
  options.kvMemory = 50'000;
  EXPECT_THAT(Refusal(options).message(), HasSubstr("one sequence of 100 tokens needs 7"));
}

TEST_F(PlannerTest, NumericsIdNamesWhatChangesNumbers) {
  Write(ModelFile(kQ4_1));
  PlannerOptions options = SmallOptions(folder_);
  const uint64_t base = Plan(options)->numerics;
  options.pp = 2;
  options.maxBatch = 2;
  options.context = 64;
  EXPECT_EQ(Plan(options)->numerics, base);
  options.kvType = "f32";
  EXPECT_NE(Plan(options)->numerics, base);
  options.kvType = "";
  options.weights = "q8";
  EXPECT_NE(Plan(options)->numerics, base);
  options.weights = "keep";
  options.tp = {2};  // partial sums are grouped by rank
  EXPECT_NE(Plan(options)->numerics, base);
}

TEST_F(PlannerTest, StagesBalanceWhatATokenReads) {
  Write(ModelFile(kQ4_1));
  PlannerOptions options = SmallOptions(folder_);
  options.pp = 2;
  const auto plan = Plan(options);
  ASSERT_NE(plan, nullptr);
  // A layer reads 44,928 bytes, the output norm and the head 20,784: two layers each is best.
  EXPECT_EQ(plan->replicas[0]->stages[0]->layer_end, 2u);
  Write(ModelFile(kQ4_1, /*untied=*/true));
  options.weights = "q4";
  options.pp = 4;
  const auto four = Plan(options);
  ASSERT_NE(four, nullptr);
  for (uint32_t stage = 0; stage < 4; ++stage)
    EXPECT_EQ(four->replicas[0]->stages[stage]->layer_begin, stage);
}

TEST_F(PlannerTest, WrongOptionsAreRefusedByName) {
  Write(ModelFile(kQ4_1));
  const auto refusal = [&](auto change) {
    PlannerOptions options = SmallOptions(folder_);
    change(options);
    const Status status = Refusal(options);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status.ToString();
    return status.message();
  };
  EXPECT_THAT(refusal([](auto& o) { o.tp = {4}; }),
              AllOf(HasSubstr("--tp 4"), HasSubstr("largest tp is 3")));
  EXPECT_THAT(refusal([](auto& o) { o.tp = {0}; }), HasSubstr("--tp 0"));
  EXPECT_THAT(refusal([](auto& o) { o.tp = {1, 1}; }), HasSubstr("--tp names 2 stages, --pp 1"));
  EXPECT_THAT(refusal([](auto& o) { o.pp = 5; }),
              AllOf(HasSubstr("--pp 5"), HasSubstr("largest pp is 4")));
  EXPECT_THAT(refusal([](auto& o) { o.pp = 0; }), HasSubstr("--pp 0"));
  EXPECT_THAT(refusal([](auto& o) { o.weights = "int3"; }), HasSubstr("--weights int3"));
  EXPECT_THAT(refusal([](auto& o) { o.kvType = "int4"; }), HasSubstr("--kv-dtype int4"));
  EXPECT_THAT(refusal([](auto& o) { o.blockSize = 24; }), HasSubstr("--block-size 24"));
  EXPECT_THAT(refusal([](auto& o) { o.blockSize = 8; }), HasSubstr("--block-size 8"));
  EXPECT_THAT(refusal([](auto& o) { o.context = 257; }), HasSubstr("--context 257"));
  EXPECT_THAT(refusal([](auto& o) { o.context = 0; }), HasSubstr("--context 0"));
  EXPECT_THAT(refusal([](auto& o) { o.kvBlocks = 0; }), HasSubstr("--kv-blocks 0"));
  EXPECT_THAT(refusal([](auto& o) { o.maxBatch = 0; }), HasSubstr("--max-batch 0"));
  EXPECT_THAT(refusal([](auto& o) { o.prefillChunk = 0; }), HasSubstr("--prefill-chunk 0"));
  EXPECT_THAT(refusal([](auto& o) { o.kvBlocks = -1; }), HasSubstr("--kv-blocks -1"));
  EXPECT_THAT(refusal([](auto& o) {
                o.kvBlocks = 9;
                o.kvMemory = 9;
              }),
              HasSubstr("give one of them"));
}

TEST_F(PlannerTest, ProvenanceAndTokenizerAreComplete) {
  Write(ModelFile(kQ4_1));
  PlannerOptions options = SmallOptions(folder_);
  options.command = "llmir-plan model.gguf";
  const auto plan = Plan(options);
  ASSERT_NE(plan, nullptr);
  EXPECT_EQ(plan->provenance->command, "llmir-plan model.gguf");
  EXPECT_THAT(plan->provenance->options, testing::Contains("kv-dtype=bf16"));
  EXPECT_THAT(plan->provenance->options, testing::Contains("context=256"));
  EXPECT_THAT(plan->provenance->ir, HasSubstr("func.func @stage0_decode"));
  EXPECT_EQ(plan->files[0]->path, "model.gguf");
  EXPECT_EQ(plan->tokenizer->file, "model.gguf");
  EXPECT_GE(plan->tokenizer->tests.size(), 5u);
  const auto tokenizer = Tokenizer::Load(path_);
  EXPECT_EQ(plan->tokenizer->hash, tokenizer->Fingerprint());
  for (const auto& test : plan->tokenizer->tests)
    EXPECT_EQ(test->ids, tokenizer->Encode(test->text));
}

TEST_F(PlannerTest, CostsCountWhatARankReads) {
  Write(ModelFile(kQ4_1));
  PlannerOptions options = SmallOptions(folder_);
  options.tp = {2};
  const auto plan = Plan(options);
  ASSERT_NE(plan, nullptr);
  const plan::ProgramT& decode = FindProgram(*plan, ProgramKind::decode);
  const plan::CostT& o = *FindStep(decode, "layers.0.o").ranks[1]->cost;
  EXPECT_EQ(o.bytes, kHidden * RowBytes(kQ4_1, kHeadDim));
  EXPECT_EQ(o.flops_per_token, 2 * kHidden * kHeadDim);
  const plan::CostT& attention = *FindStep(decode, "layers.0.append_attention").ranks[0]->cost;
  EXPECT_EQ(attention.bytes_per_context, 2 * kHeadDim * 2);  // K and V of one head, bf16
  EXPECT_EQ(attention.flops_per_context,
            2 * 2 * 2 * kHeadDim);  // two query heads, a product and a sum, twice
  EXPECT_EQ(FindStep(decode, "layers.0.o.all_reduce_start").ranks[0]->cost->message_bytes_per_token,
            kHidden * 4);
}

TEST_F(PlannerTest, WhatCannotBeQuantizedIsNoted) {
  // MLP columns that end in a leaf of 16.
  GgufWriter writer;
  writer.String("general.architecture", "llama").String("general.name", "odd");
  writer.Integer("llama.block_count", 1)
      .Integer("llama.embedding_length", 64)
      .Integer("llama.feed_forward_length", 80);
  writer.Integer("llama.context_length", 64).Integer("llama.attention.head_count", 4);
  writer.Integer("llama.attention.head_count_kv", 2).Integer("llama.vocab_size", 100);
  writer.Float("llama.attention.layer_norm_rms_epsilon", 1e-5f)
      .Float("llama.rope.freq_base", 10000.0f);
  AddTokenizer(writer);
  const auto matrix = [&](const std::string& name, uint64_t rows, uint64_t columns) {
    writer.Tensor(name, {columns, rows}, kF16, rows * columns * 2);
  };
  matrix("token_embd.weight", 100, 64);
  for (const char* norm :
       {"blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"}) {
    writer.Floats(norm, std::vector<float>(64, 1.0f));
  }
  matrix("blk.0.attn_q.weight", 64, 64);
  matrix("blk.0.attn_k.weight", 32, 64);
  matrix("blk.0.attn_v.weight", 32, 64);
  matrix("blk.0.attn_output.weight", 64, 64);
  matrix("blk.0.ffn_gate.weight", 80, 64);
  matrix("blk.0.ffn_up.weight", 80, 64);
  matrix("blk.0.ffn_down.weight", 64, 80);
  Write(writer.Finish());
  PlannerOptions options = SmallOptions(folder_);
  options.weights = "q8";
  std::vector<std::string> notes;
  options.note = [&](const std::string& note) { notes.push_back(note); };
  const auto plan = Plan(options);
  ASSERT_NE(plan, nullptr);
  std::map<std::string, plan::DType> types;
  for (const auto& weight : plan->weights) types[weight->name] = weight->dtype;
  EXPECT_EQ(types["layers.0.qkv"], plan::DType::q8_0);
  EXPECT_EQ(types["layers.0.down"], plan::DType::bf16);  // 80 columns
  EXPECT_EQ(types["layers.0.o"], plan::DType::bf16);     // leaves of 16 columns
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_THAT(notes[0], HasSubstr("2 weights are packed as bf16, not q8_0"));
}

// A block of attention in 20 us; a matrix in a tenth of a nanosecond per element and token.
constexpr const char* kCalibration =
    R"({"version": 2, "threads": 1, "memory_bytes_per_s": 1e9, "barrier_us": 0.5,
  "launch_us": 0, "rope_us_per_element": 0, "sample_us_per_id": 0,
  "linear": [{"kernel": "linear_q8_q4_1", "rows": 100, "columns": 100, "tokens": [{"tokens": 1, "us": 1}, {"tokens": 2, "us": 2}]}],
  "attention": [
    {"kv": "bf16", "form": "flash", "block_size": 16, "head_dim": 32, "heads_per_kv": 3, "fused": true,
     "batch": 4, "context": 100, "tokens": 1, "us": 20},
    {"kv": "bf16", "form": "flash", "block_size": 16, "head_dim": 32, "heads_per_kv": 3, "fused": false,
     "batch": 4, "context": 100, "tokens": 1, "us": 21},
    {"kv": "bf16", "form": "flash", "block_size": 32, "head_dim": 32, "heads_per_kv": 3, "fused": false,
     "batch": 4, "context": 100, "tokens": 1, "us": 10}],
  "vector": [{"kernel": "rms_norm_q8", "columns": 96, "us_per_row": 0.25}]})";

TEST_F(PlannerTest, CalibrationPredictsTheTimeOfEachStep) {
  Write(ModelFile(kQ4_1));
  PlannerOptions options = SmallOptions(folder_);
  const auto untimed = Plan(options);
  ASSERT_NE(untimed, nullptr);
  EXPECT_EQ(FindProgram(*untimed, ProgramKind::decode).predicted_tokens, 0u);
  EXPECT_EQ(untimed->provenance->calibration_file, "");

  checkpoint::WriteFile(folder_ / "machine.json", kCalibration);
  options.calibration = folder_ / "machine.json";
  options.context = 200;  // half full: 100
  const auto plan = Plan(options);
  ASSERT_NE(plan, nullptr);
  EXPECT_EQ(plan->provenance->calibration_file, "machine.json");
  EXPECT_NE(plan->provenance->calibration_hash, 0u);
  const plan::ProgramT& decode = FindProgram(*plan, ProgramKind::decode);
  EXPECT_EQ(decode.predicted_tokens, 4u);
  const auto us = [](const plan::ProgramT& program, const std::string& name) {
    return FindStep(program, name).ranks[0]->predicted_us;
  };
  EXPECT_FLOAT_EQ(us(decode, "layers.1.append_attention"), 20);
  EXPECT_FLOAT_EQ(us(decode, "layers.1.qkv"), 4 * 1e-4f * 96 * (96 + 2 * 32));
  EXPECT_FLOAT_EQ(us(decode, "layers.1.attention_norm"), 4 * 0.25f);
  // Not measured: bytes at 1000 a microsecond. One thread waits for no other.
  const plan::StepT& quantize = FindStep(decode, "layers.1.gate_up.quantize");
  EXPECT_FLOAT_EQ(quantize.ranks[0]->predicted_us,
                  4 * quantize.ranks[0]->cost->bytes_per_token / 1000);
  const plan::ProgramT& mixed = FindProgram(*plan, ProgramKind::mixed);
  EXPECT_EQ(mixed.predicted_tokens, 36u);
  EXPECT_FLOAT_EQ(us(mixed, "layers.1.qkv"), 9 * us(decode, "layers.1.qkv"));

  // Messages that weren't measured go through memory on both sides, and pass in the wait; here two
  // ranks share a core.
  options.tp = {2};
  options.overlap = "none";
  const auto two = Plan(options);
  ASSERT_NE(two, nullptr);
  const plan::ProgramT& shared = FindProgram(*two, ProgramKind::decode);
  const plan::StepT& start = FindStep(shared, "layers.1.o.all_reduce_start");
  EXPECT_EQ(start.ranks[1]->predicted_us, 0);
  const auto wait = std::find_if(shared.steps.begin(), shared.steps.end(), [&](const auto& step) {
    return step->kind == plan::StepKind::wait &&
           step->waits[0] == static_cast<uint32_t>(start.signals);
  });
  ASSERT_NE(wait, shared.steps.end());
  EXPECT_FLOAT_EQ((*wait)->ranks[1]->predicted_us, 2 * (2 * 4 * kHidden * 4 / 1000.0 + 2 * 0.5));

  options.calibration = folder_ / "none.json";
  EXPECT_EQ(Refusal(options).code(), StatusCode::kNotFound);
}

TEST_F(PlannerTest, AWorkloadDecidesBlockSizeAndBlocks) {
  Write(ModelFile(kQ4_1));
  checkpoint::WriteFile(folder_ / "machine.json", kCalibration);
  checkpoint::WriteFile(folder_ / "load.yaml",
                        "name: load\nbatch: 3\nrequests: [{prompt: 60, answer: 40}]\n");
  PlannerOptions options = SmallOptions(folder_);
  options.workload = folder_ / "load.yaml";
  options.context = 120;
  const auto unmeasured = Plan(options);
  ASSERT_NE(unmeasured, nullptr);
  EXPECT_EQ(unmeasured->provenance->workload_file, "load.yaml");
  EXPECT_EQ(unmeasured->kv->block_size, 16u);
  EXPECT_EQ(unmeasured->kv->blocks, 3u * 7);           // 100 tokens each
  ASSERT_EQ(unmeasured->kv->alternatives.size(), 3u);  // 16, 32, 64
  // 100 tokens in blocks of 16 leave 12 unused: 4 layers, K and V of a head of 32 in bf16.
  EXPECT_DOUBLE_EQ(unmeasured->kv->alternatives[0]->wasted_bytes, 12 * 4 * 2 * 32 * 2);

  options.calibration = folder_ / "machine.json";
  const auto measured = Plan(options);
  ASSERT_NE(measured, nullptr);
  EXPECT_EQ(measured->kv->block_size, 32u);
  ASSERT_EQ(measured->kv->alternatives.size(), 2u);  // those that were measured
  EXPECT_GT(measured->kv->alternatives[0]->attention_us,
            measured->kv->alternatives[1]->attention_us);
  EXPECT_EQ(measured->kv->blocks, 3u * 4);
  EXPECT_EQ(FindProgram(*measured, ProgramKind::decode).predicted_tokens, 3u);

  options.blockSize = 64;
  const auto given = Plan(options);
  ASSERT_NE(given, nullptr);
  EXPECT_EQ(given->kv->block_size, 64u);
  EXPECT_TRUE(given->kv->alternatives.empty());
  options.blockSize.reset();
  options.disabled = {"kv"};
  const auto disabled = Plan(options);
  ASSERT_NE(disabled, nullptr);
  EXPECT_EQ(disabled->kv->block_size, 16u);
}

TEST_F(PlannerTest, DisabledOptimizationsLeaveTheirStepsAndGiveAPlan) {
  Write(ModelFile(kQ4_1));
  const auto count = [](const plan::PlanT& plan, StepKind kind) {
    int64_t steps = 0;
    for (const auto& step : FindProgram(plan, ProgramKind::mixed).steps)
      steps += step->kind == kind;
    return steps;
  };
  PlannerOptions options = SmallOptions(folder_);
  const auto all = Plan(options);
  ASSERT_NE(all, nullptr);
  EXPECT_EQ(count(*all, StepKind::add), 0);
  options.disabled = {"fusion", "llm-fuse-norm-quantize"};
  const auto some = Plan(options);
  ASSERT_NE(some, nullptr);
  EXPECT_EQ(count(*some, StepKind::add), 2 * static_cast<int64_t>(kLayers));
  EXPECT_EQ(count(*some, StepKind::quantize),
            count(*all, StepKind::quantize) + 2 * static_cast<int64_t>(kLayers) + 1);
  EXPECT_EQ(some->numerics, all->numerics);
  options.tp = {2};
  options.disabled = {"parallel"};
  const auto unsplit = Plan(options);
  ASSERT_NE(unsplit, nullptr);
  EXPECT_EQ(count(*unsplit, StepKind::all_reduce_start), 0);
  EXPECT_EQ(count(*unsplit, StepKind::all_reduce), 1 + 2 * static_cast<int64_t>(kLayers));

  options.disabled = {"llm-plan-memory"};
  EXPECT_THAT(Refusal(options).message(),
              AllOf(HasSubstr("llm-plan-memory"), HasSubstr("every plan needs")));
  options.disabled = {"speed"};
  EXPECT_THAT(Refusal(options).message(),
              AllOf(HasSubstr("--disable speed"), HasSubstr("llm-fuse-residual")));
  options.disabled.clear();
  options.printIrAfter = {"llm-nothing"};
  EXPECT_THAT(Refusal(options).message(),
              AllOf(HasSubstr("--print-ir-after llm-nothing"), HasSubstr("llm-fuse-qkv")));
}

TEST_F(PlannerTest, PassesExplainWhatTheyDid) {
  Write(ModelFile(kQ4_1));
  PlannerOptions options = SmallOptions(folder_);
  options.tp = {2};
  options.pp = 2;
  const auto plan = Plan(options);
  ASSERT_NE(plan, nullptr);
  std::map<std::string, std::string> texts;
  for (const auto& explanation : plan->provenance->explanations)
    texts[explanation->pass] = explanation->text + " | " + explanation->gain;
  EXPECT_THAT(texts["llm-fuse-qkv"], HasSubstr("4 layers"));
  // Gate and up of 160 columns, written and read, in 4 layers.
  EXPECT_THAT(texts["llm-fuse-gate-up"], HasSubstr("8 fewer steps, 10.2 kB less memory traffic"));
  EXPECT_THAT(texts["llm-split-stages"], HasSubstr("2 stages of 2, 2 layers"));
  EXPECT_THAT(texts["llm-shard-stages"], HasSubstr("at most 2 of 3 query heads"));
  // Two steps in flight of 4 sequences each.
  EXPECT_THAT(texts["llm-allocate-blocks"], HasSubstr("128 blocks per rank"));
  for (const std::string pass :
       {"llm-choose-block-size", "llm-choose-precision", "llm-insert-quantize",
        "llm-fuse-norm-quantize", "llm-split-collectives", "llm-make-programs",
        "llm-schedule-steps", "llm-plan-memory"})
    EXPECT_TRUE(texts.contains(pass)) << pass;
  EXPECT_THAT(plan->provenance->ir, testing::Not(HasSubstr("llm.explanations")));
}

TEST(Planner, HuggingFaceFoldersArePlanned) {
  const TemporaryFolder folder;
  nlohmann::json config = {{"architectures", {"LlamaForCausalLM"}},
                           {"model_type", "llama"},
                           {"hidden_size", 64},
                           {"intermediate_size", 96},
                           {"num_hidden_layers", 2},
                           {"num_attention_heads", 4},
                           {"num_key_value_heads", 2},
                           {"vocab_size", 40},
                           {"max_position_embeddings", 128},
                           {"rms_norm_eps", 1e-5},
                           {"rope_theta", 10000.0},
                           {"tie_word_embeddings", true},
                           {"hidden_act", "silu"}};
  nlohmann::json vocabulary;
  for (int i = 0; i < 26; ++i) vocabulary[std::string(1, static_cast<char>('a' + i))] = i;
  const nlohmann::json tokenizer_json = {
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}}}};
  checkpoint::WriteFile(folder / "config.json", config.dump());
  checkpoint::WriteFile(folder / "tokenizer.json", tokenizer_json.dump());
  checkpoint::WriteFile(folder / "model.safetensors",
                        checkpoint::TinyLlamaSafetensors(0, 2, true).Finish());
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().ToString();
  const auto tokenizer = Tokenizer::Load(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  PlannerOptions options;
  options.planFolder = folder.path();
  const auto planned = planCheckpoint(*checkpoint, *tokenizer, options);
  ASSERT_TRUE(planned.ok()) << planned.status().ToString();
  const auto file = plan::PlanFile::FromBytes(plan::PlanFile::Serialize(**planned), "plan");
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  const Status valid = plan::VerifyPlan(file->plan());
  EXPECT_TRUE(valid.ok()) << valid.ToString();
  EXPECT_EQ((*planned)->model->rope_style, plan::RopeStyle::halves);
  EXPECT_EQ((*planned)->files[0]->path, "model.safetensors");
  EXPECT_EQ((*planned)->tokenizer->file, "tokenizer.json");
  EXPECT_EQ((*planned)->tensors[0]->name, "model.embed_tokens.weight");
}

}  // namespace
}  // namespace llmir
