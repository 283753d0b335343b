#include "plan_schema/plan_verifier.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <unordered_set>
#include <vector>

#include "plan_schema/base/memory_map.h"
#include "plan_schema/plan_checks.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_features.h"
#include "plan_schema/program_verifier.h"

namespace llmir::plan {
namespace {

Status CheckCount(const std::string& where, uint64_t value) {
  if (value >= 1 && value <= kLargestCount) return Status();
  return InvalidArgument("{}: {}, expected 1 to {}", where, value, kLargestCount);
}

Status VerifyPresence(const Plan& plan) {
  const std::pair<const char*, bool> parts[] = {
      {"provenance", plan.provenance() != nullptr}, {"model", plan.model() != nullptr},
      {"tokenizer", plan.tokenizer() != nullptr},   {"kv", plan.kv() != nullptr},
      {"limits", plan.limits() != nullptr},         {"files", Count(plan.files()) > 0},
      {"tensors", Count(plan.tensors()) > 0},       {"weights", Count(plan.weights()) > 0},
      {"kernels", Count(plan.kernels()) > 0},       {"groups", Count(plan.groups()) > 0},
      {"replicas", Count(plan.replicas()) > 0}};
  for (const auto& [name, present] : parts) {
    if (!present) return InvalidArgument("{}: missing", name);
  }
  for (uint32_t i = 0; i < plan.kernels()->size(); ++i) {
    if (Empty(plan.kernels()->Get(i))) return InvalidArgument("kernels[{}]: no name", i);
  }
  return Status();
}

Status VerifyModel(const Model& model) {
  const std::pair<const char*, uint64_t> counts[] = {
      {"layers", model.layers()},           {"hidden", model.hidden()},
      {"query_heads", model.query_heads()}, {"kv_heads", model.kv_heads()},
      {"head_dim", model.head_dim()},       {"mlp_columns", model.mlp_columns()},
      {"vocabulary", model.vocabulary()},   {"context", model.context()},
      {"mlp_leaf", model.mlp_leaf()},       {"vocabulary_leaf", model.vocabulary_leaf()}};
  for (const auto& [name, value] : counts) {
    LLMIR_RETURN_IF_ERROR(CheckCount(fmt::format("model.{}", name), value));
  }
  if (Empty(model.architecture())) return InvalidArgument("model.architecture: missing");
  if (model.query_heads() % model.kv_heads() != 0) {
    return InvalidArgument("model.query_heads: {}, not a multiple of the {} KV heads",
                           model.query_heads(), model.kv_heads());
  }
  if (!(std::isfinite(model.norm_epsilon()) && model.norm_epsilon() > 0)) {
    return InvalidArgument("model.norm_epsilon: {}, expected a positive number",
                           model.norm_epsilon());
  }
  LLMIR_RETURN_IF_ERROR(CheckEnum("model.rope_style", EnumNameRopeStyle(model.rope_style()),
                                  static_cast<unsigned>(model.rope_style())));
  if (model.rope_dim() < 2 || model.rope_dim() % 2 != 0 || model.rope_dim() > model.head_dim()) {
    return InvalidArgument("model.rope_dim: {}, expected an even number from 2 to head_dim = {}",
                           model.rope_dim(), model.head_dim());
  }
  if (Count(model.rope_frequencies()) != model.rope_dim() / 2) {
    return InvalidArgument("model.rope_frequencies: {} values, expected rope_dim / 2 = {}",
                           Count(model.rope_frequencies()), model.rope_dim() / 2);
  }
  for (uint32_t i = 0; i < model.rope_frequencies()->size(); ++i) {
    if (!std::isfinite(model.rope_frequencies()->Get(i))) {
      return InvalidArgument("model.rope_frequencies[{}]: {}, expected a finite number", i,
                             model.rope_frequencies()->Get(i));
    }
  }
  const uint32_t windows = Count(model.attention_windows());
  if (windows != 0 && windows != model.layers()) {
    return InvalidArgument(
        "model.attention_windows: {}, expected none or one for each of {} layers", windows,
        model.layers());
  }
  for (uint32_t i = 0; i < windows; ++i) {
    if (model.attention_windows()->Get(i) > kLargestCount) {
      return InvalidArgument("model.attention_windows[{}]: {}, expected at most {}", i,
                             model.attention_windows()->Get(i), kLargestCount);
    }
  }
  return Status();
}

Status VerifyTokenizer(const Tokenizer& tokenizer, const Model& model) {
  if (tokenizer.vocabulary() < 1 || tokenizer.vocabulary() > model.vocabulary()) {
    return InvalidArgument("tokenizer.vocabulary: {}, expected 1 to model.vocabulary = {}",
                           tokenizer.vocabulary(), model.vocabulary());
  }
  const auto check = [&](const std::string& where, int64_t id) {
    if (id >= 0 && id < tokenizer.vocabulary()) return Status();
    return InvalidArgument("{}: id {}, expected 0 to {}", where, id, tokenizer.vocabulary() - 1);
  };
  if (tokenizer.bos() != -1) LLMIR_RETURN_IF_ERROR(check("tokenizer.bos", tokenizer.bos()));
  for (uint32_t i = 0; i < Count(tokenizer.end_ids()); ++i) {
    LLMIR_RETURN_IF_ERROR(
        check(fmt::format("tokenizer.end_ids[{}]", i), tokenizer.end_ids()->Get(i)));
  }
  for (uint32_t t = 0; t < Count(tokenizer.tests()); ++t) {
    const TokenizerTest& test = *tokenizer.tests()->Get(t);
    for (uint32_t i = 0; i < Count(test.ids()); ++i) {
      LLMIR_RETURN_IF_ERROR(
          check(fmt::format("tokenizer.tests[{}].ids[{}]", t, i), test.ids()->Get(i)));
    }
  }
  return Status();
}

Status VerifyFiles(const Plan& plan) {
  for (uint32_t i = 0; i < plan.files()->size(); ++i) {
    const CheckpointFile& file = *plan.files()->Get(i);
    const std::string where = fmt::format("files[{}]", i);
    if (Empty(file.path())) return InvalidArgument("{}.path: missing", where);
    LLMIR_RETURN_IF_ERROR(CheckEnum(where + ".format", EnumNameFileFormat(file.format()),
                                    static_cast<unsigned>(file.format())));
    if (file.header_bytes() > file.bytes()) {
      return InvalidArgument("{}.header_bytes: {}, but the file has {} bytes", where,
                             file.header_bytes(), file.bytes());
    }
  }
  return Status();
}

// Elements that leaves of `unit` divide, and how many of them are a leaf.
struct UnitShape {
  uint64_t total;
  uint64_t leaf_size;
};
UnitShape ShapeOf(const Model& model, Unit unit) {
  switch (unit) {
    case Unit::query_head:
      return {uint64_t{model.query_heads()} * model.head_dim(), model.head_dim()};
    case Unit::kv_head:
      return {uint64_t{model.kv_heads()} * model.head_dim(), model.head_dim()};
    case Unit::mlp_column:
      return {model.mlp_columns(), model.mlp_leaf()};
    case Unit::vocabulary:
      return {model.vocabulary(), model.vocabulary_leaf()};
    case Unit::whole:
      break;
  }
  return {1, 0};
}

Status CheckUnitAndAxis(const std::string& where, Unit unit, Axis axis) {
  LLMIR_RETURN_IF_ERROR(
      CheckEnum(where + ".unit", EnumNameUnit(unit), static_cast<unsigned>(unit)));
  LLMIR_RETURN_IF_ERROR(
      CheckEnum(where + ".axis", EnumNameAxis(axis), static_cast<unsigned>(axis)));
  if ((unit == Unit::whole) != (axis == Axis::none)) {
    return InvalidArgument("{}.axis: {}, which doesn't go with unit {}", where, EnumNameAxis(axis),
                           EnumNameUnit(unit));
  }
  return Status();
}

Status VerifyTensor(const Plan& plan, const Tensor& tensor, const std::string& where) {
  if (Empty(tensor.name())) return InvalidArgument("{}.name: missing", where);
  LLMIR_RETURN_IF_ERROR(CheckIndex(where + ".file", tensor.file(), plan.files()->size(), "files"));
  if (!IsWeightType(tensor.dtype())) {
    return InvalidArgument("{}.dtype: {} ({}) is no type of weights", where,
                           static_cast<unsigned>(tensor.dtype()), DTypeName(tensor.dtype()));
  }
  LLMIR_RETURN_IF_ERROR(CheckCount(where + ".rows", tensor.rows()));
  LLMIR_RETURN_IF_ERROR(CheckCount(where + ".columns", tensor.columns()));
  const uint32_t group = QuantGroup(tensor.dtype());
  if (group != 0 && tensor.columns() % group != 0) {
    return InvalidArgument("{}.columns: {}, not a multiple of {} as {} needs", where,
                           tensor.columns(), group, DTypeName(tensor.dtype()));
  }
  const CheckpointFile& file = *plan.files()->Get(tensor.file());
  const bool only_panels = !HasRows(tensor) && file.format() == FileFormat::packed;
  const uint64_t bytes = tensor.rows() * RowBytes(tensor.dtype(), tensor.columns());
  if (tensor.bytes() != bytes && !only_panels) {
    return InvalidArgument("{}.bytes: {}, but {} x {} of {} take {}", where, tensor.bytes(),
                           tensor.rows(), tensor.columns(), DTypeName(tensor.dtype()), bytes);
  }
  const std::optional<uint64_t> end = Sum(tensor.offset(), tensor.bytes());
  if (!only_panels && (tensor.offset() < file.header_bytes() || !end || *end > file.bytes())) {
    return InvalidArgument(
        "{}.offset: {} + {} bytes, outside the data of files[{}], bytes {} to {}", where,
        tensor.offset(), tensor.bytes(), tensor.file(), file.header_bytes(), file.bytes());
  }

  LLMIR_RETURN_IF_ERROR(CheckUnitAndAxis(where, tensor.unit(), tensor.axis()));
  const UnitShape unit = ShapeOf(*plan.model(), tensor.unit());
  if (tensor.leaf_size() != unit.leaf_size) {
    return InvalidArgument("{}.leaf_size: {}, but a leaf of unit {} has {}", where,
                           tensor.leaf_size(), EnumNameUnit(tensor.unit()), unit.leaf_size);
  }
  if (tensor.unit() != Unit::whole) {
    const bool by_rows = tensor.axis() == Axis::rows;
    const uint64_t divided = by_rows ? tensor.rows() : tensor.columns();
    if (divided != unit.total) {
      return InvalidArgument("{}.{}: {}, but the model has {} for unit {}", where,
                             EnumNameAxis(tensor.axis()), divided, unit.total,
                             EnumNameUnit(tensor.unit()));
    }
    if (!by_rows && group != 0 && tensor.leaf_size() % group != 0) {
      return InvalidArgument("{}.leaf_size: {}, not a multiple of {} as columns of {} need", where,
                             tensor.leaf_size(), group, DTypeName(tensor.dtype()));
    }
  }
  const uint32_t leaves = LeafCount(*plan.model(), tensor.unit());
  if (Count(tensor.leaf_hashes()) != 0 && Count(tensor.leaf_hashes()) != leaves) {
    return InvalidArgument("{}.leaf_hashes: {} values, expected {} (one per leaf) or none", where,
                           Count(tensor.leaf_hashes()), leaves);
  }
  return Status();
}

// What can be said without the layouts: whether panels lie within the file is for those who know
// their sizes.
Status VerifyPacked(const Plan& plan, const Weight& weight, const std::string& where) {
  const size_t count = Count(weight.packed());
  if (count != 0 && count != weight.pieces()->size()) {
    return InvalidArgument("{}.packed: {} entries, expected {} (one per piece) or none", where,
                           count, weight.pieces()->size());
  }
  for (uint32_t p = 0; p < weight.pieces()->size(); ++p) {
    const Tensor& tensor = *plan.tensors()->Get(weight.pieces()->Get(p));
    if (count == 0) {
      if (HasRows(tensor)) continue;
      return InvalidArgument("{}.packed: missing, but tensor {} is nowhere else", where,
                             tensor.name()->string_view());
    }
    const PackedPiece& packed = *weight.packed()->Get(p);
    const std::string place = fmt::format("{}.packed[{}]", where, p);
    LLMIR_RETURN_IF_ERROR(
        CheckIndex(place + ".file", packed.file(), plan.files()->size(), "files"));
    const CheckpointFile& file = *plan.files()->Get(packed.file());
    if (file.format() != FileFormat::packed) {
      return InvalidArgument("{}.file: {}, whose format is {}, expected packed", place,
                             packed.file(), EnumNameFileFormat(file.format()));
    }
    constexpr uint64_t kAlignment = 64;
    if (packed.offset() < file.header_bytes() || packed.offset() >= file.bytes() ||
        packed.offset() % kAlignment != 0) {
      return InvalidArgument("{}.offset: {}, expected a multiple of {} in bytes {} to {}", place,
                             packed.offset(), kAlignment, file.header_bytes(), file.bytes());
    }
    if ((packed.layout() == 0) != (tensor.rows() == 1)) {
      return InvalidArgument("{}.layout: {}, but tensor {} has {} rows", place, packed.layout(),
                             tensor.name()->string_view(), tensor.rows());
    }
    const uint32_t leaves = LeafCount(*plan.model(), tensor.unit());
    if (Count(packed.leaf_hashes()) != leaves) {
      return InvalidArgument("{}.leaf_hashes: {} values, expected {} (one per leaf)", place,
                             Count(packed.leaf_hashes()), leaves);
    }
  }
  return Status();
}

Status VerifyWeight(const Plan& plan, const Weight& weight, const std::string& where) {
  if (Empty(weight.name())) return InvalidArgument("{}.name: missing", where);
  if (weight.layer() < -1 || weight.layer() >= static_cast<int64_t>(plan.model()->layers())) {
    return InvalidArgument("{}.layer: {}, expected -1 to {}", where, weight.layer(),
                           plan.model()->layers() - 1);
  }
  if (!IsWeightType(weight.dtype())) {
    return InvalidArgument("{}.dtype: {} ({}) is no type of weights", where,
                           static_cast<unsigned>(weight.dtype()), DTypeName(weight.dtype()));
  }
  LLMIR_RETURN_IF_ERROR(CheckEnum(where + ".interleave", EnumNameInterleave(weight.interleave()),
                                  static_cast<unsigned>(weight.interleave())));
  LLMIR_RETURN_IF_ERROR(CheckUnitAndAxis(where, weight.unit(), weight.axis()));
  if (Count(weight.pieces()) == 0) return InvalidArgument("{}.pieces: none", where);

  const Tensor* first = nullptr;
  for (uint32_t p = 0; p < weight.pieces()->size(); ++p) {
    const std::string place = fmt::format("{}.pieces[{}]", where, p);
    LLMIR_RETURN_IF_ERROR(
        CheckIndex(place, weight.pieces()->Get(p), plan.tensors()->size(), "tensors"));
    const Tensor& piece = *plan.tensors()->Get(weight.pieces()->Get(p));
    if (first == nullptr) first = &piece;
    if (piece.columns() != first->columns()) {
      return InvalidArgument("{}: {} columns, but pieces[0] has {}", place, piece.columns(),
                             first->columns());
    }
    const bool follows = weight.unit() == Unit::query_head && piece.unit() == Unit::kv_head;
    if (piece.axis() != weight.axis() || (piece.unit() != weight.unit() && !follows)) {
      return InvalidArgument("{}: divided by {} of {}, but the weight by {} of {}", place,
                             EnumNameAxis(piece.axis()), EnumNameUnit(piece.unit()),
                             EnumNameAxis(weight.axis()), EnumNameUnit(weight.unit()));
    }
    if (piece.rows() == 1 && (weight.pieces()->size() > 1 || weight.dtype() != DType::f32 ||
                              weight.unit() != Unit::whole)) {
      return InvalidArgument("{}: a vector, which only an undivided f32 weight of one piece may be",
                             place);
    }
  }
  if (weight.interleave() == Interleave::panels &&
      (weight.pieces()->size() != 2 ||
       plan.tensors()->Get(weight.pieces()->Get(1))->rows() != first->rows())) {
    return InvalidArgument("{}.interleave: panels needs two pieces of equal shape", where);
  }
  if (weight.axis() == Axis::columns && weight.pieces()->size() != 1) {
    return InvalidArgument("{}.pieces: {}, but a weight divided by columns has one", where,
                           weight.pieces()->size());
  }
  LLMIR_RETURN_IF_ERROR(VerifyPacked(plan, weight, where));
  if (plan.bf16_activations() && weight.dtype() == DType::bf16 && weight.leaf_columns() % 2 != 0) {
    return InvalidArgument("{}: leaves of {} columns, not a multiple of 2 as bf16 activations need",
                           where, weight.leaf_columns());
  }
  const uint32_t group = QuantGroup(weight.dtype());
  if (group != 0 && (first->columns() % group != 0 || weight.leaf_columns() % group != 0)) {
    return InvalidArgument("{}: {} columns in leaves of {}, not multiples of {} as {} needs", where,
                           first->columns(), weight.leaf_columns(), group,
                           DTypeName(weight.dtype()));
  }
  return Status();
}

Status VerifyKv(const KvGeometry& kv, const Model& model) {
  if (kv.dtype() != DType::f32 && kv.dtype() != DType::bf16 && kv.dtype() != DType::i8 &&
      kv.dtype() != DType::f8_e4m3) {
    return InvalidArgument("kv.dtype: {} ({}), expected f32, bf16, i8 or f8_e4m3",
                           static_cast<unsigned>(kv.dtype()), DTypeName(kv.dtype()));
  }
  LLMIR_RETURN_IF_ERROR(CheckCount("kv.blocks", kv.blocks()));
  LLMIR_RETURN_IF_ERROR(CheckCount("kv.max_blocks_per_sequence", kv.max_blocks_per_sequence()));
  if (kv.block_size() < 16 || kv.block_size() > kLargestCount ||
      (kv.block_size() & (kv.block_size() - 1)) != 0) {
    return InvalidArgument("kv.block_size: {}, expected a power of two from 16", kv.block_size());
  }
  if (!std::has_single_bit(kv.extent_blocks()) || kv.extent_blocks() > kLargestCount) {
    return InvalidArgument("kv.extent_blocks: {}, expected a power of two", kv.extent_blocks());
  }
  if (kv.head_dim() != model.head_dim()) {
    return InvalidArgument("kv.head_dim: {}, but model.head_dim is {}", kv.head_dim(),
                           model.head_dim());
  }
  const uint64_t head_bytes = KvHeadBytes(kv.dtype(), kv.block_size(), kv.head_dim());
  if (kv.head_bytes() != head_bytes) {
    return InvalidArgument("kv.head_bytes: {}, but K and V of {} tokens x {} of {} take {}",
                           kv.head_bytes(), kv.block_size(), kv.head_dim(), DTypeName(kv.dtype()),
                           head_bytes);
  }
  return Status();
}

Status VerifyLimits(const Limits& limits, const KvGeometry& kv) {
  LLMIR_RETURN_IF_ERROR(CheckCount("limits.context", limits.context()));
  LLMIR_RETURN_IF_ERROR(CheckCount("limits.max_batch", limits.max_batch()));
  LLMIR_RETURN_IF_ERROR(CheckCount("limits.prefill_chunk", limits.prefill_chunk()));
  LLMIR_RETURN_IF_ERROR(CheckCount("limits.max_tokens", limits.max_tokens()));
  if (limits.max_tokens() < limits.max_batch() || limits.max_tokens() < limits.prefill_chunk()) {
    return InvalidArgument("limits.max_tokens: {}, less than max_batch = {} or prefill_chunk = {}",
                           limits.max_tokens(), limits.max_batch(), limits.prefill_chunk());
  }
  LLMIR_RETURN_IF_ERROR(CheckCount("limits.steps_in_flight", limits.steps_in_flight()));
  const uint64_t tokens = uint64_t{kv.max_blocks_per_sequence()} * kv.block_size();
  if (limits.context() > tokens) {
    return InvalidArgument(
        "limits.context: {}, but a sequence has at most {} blocks of {} tokens = {} tokens",
        limits.context(), kv.max_blocks_per_sequence(), kv.block_size(), tokens);
  }
  return Status();
}

// ------------------------------------------------------------ topology

// Checks that `rank` continues the leaves where the ranks before it ended. `next`: per unit, the
// first leaf not taken.
Status VerifyRanges(const Plan& plan, const Rank& rank, std::vector<uint32_t>* next,
                    const std::string& where) {
  const Model& model = *plan.model();
  std::vector<const LeafRange*> by_unit(next->size(), nullptr);
  for (uint32_t i = 0; i < Count(rank.ranges()); ++i) {
    const LeafRange& range = *rank.ranges()->Get(i);
    const auto unit = static_cast<size_t>(range.unit());
    if (unit >= by_unit.size() || range.unit() == Unit::whole || by_unit[unit] != nullptr) {
      return InvalidArgument("{}.ranges[{}].unit: {} ({}), expected each unit but whole once",
                             where, i, unit, EnumNameUnit(range.unit()));
    }
    by_unit[unit] = &range;
  }
  const uint32_t group = model.query_heads() / model.kv_heads();
  for (const Unit unit : {Unit::query_head, Unit::kv_head, Unit::mlp_column, Unit::vocabulary}) {
    const LeafRange* range = by_unit[static_cast<size_t>(unit)];
    if (range == nullptr) {
      return InvalidArgument("{}.ranges: none for unit {}", where, EnumNameUnit(unit));
    }
    if (range->begin() >= range->end() || range->end() > LeafCount(model, unit)) {
      return InvalidArgument(
          "{}.ranges ({}): [{}, {}), expected a part of [0, {}) that isn't empty", where,
          EnumNameUnit(unit), range->begin(), range->end(), LeafCount(model, unit));
    }
    if (unit == Unit::kv_head) {
      const LeafRange& query = *by_unit[static_cast<size_t>(Unit::query_head)];
      const uint32_t begin = query.begin() / group;
      const uint32_t end = (query.end() - 1) / group + 1;
      if (range->begin() != begin || range->end() != end) {
        return InvalidArgument(
            "{}.ranges (kv_head): [{}, {}), but query heads [{}, {}) need [{}, {})", where,
            range->begin(), range->end(), query.begin(), query.end(), begin, end);
      }
      continue;
    }
    uint32_t& expected = (*next)[static_cast<size_t>(unit)];
    if (range->begin() != expected) {
      return InvalidArgument("{}.ranges ({}): begins at {}, but the ranks before it end at {}",
                             where, EnumNameUnit(unit), range->begin(), expected);
    }
    expected = range->end();
  }
  return Status();
}

Status VerifyRankWeights(const Plan& plan, const Rank& rank, const std::string& where) {
  std::unordered_set<uint32_t> seen;
  for (uint32_t i = 0; i < Count(rank.weights()); ++i) {
    const std::string place = fmt::format("{}.weights[{}]", where, i);
    const uint32_t index = rank.weights()->Get(i);
    LLMIR_RETURN_IF_ERROR(CheckIndex(place, index, plan.weights()->size(), "weights"));
    if (!seen.insert(index).second) {
      return InvalidArgument("{}: {}, named twice", place, index);
    }
    const Weight& weight = *plan.weights()->Get(index);
    const WeightShape shape = RankWeightShape(plan, weight, rank);
    const uint32_t group = QuantGroup(weight.dtype());
    if (group != 0 && shape.columns % group != 0) {
      return InvalidArgument("{}: {} columns of {} on this rank, not a multiple of {}", place,
                             shape.columns, DTypeName(weight.dtype()), group);
    }
  }
  return Status();
}

Status VerifyMemory(const Plan& plan, const Stage& stage, const Rank& rank,
                    const std::string& where) {
  if (rank.memory() == nullptr) return InvalidArgument("{}.memory: missing", where);
  const Memory& memory = *rank.memory();
  const uint64_t layers = stage.layer_end() - stage.layer_begin();
  const uint64_t heads = RankLeaves(rank, Unit::kv_head).count();
  const std::optional<uint64_t> block = Product(layers * heads, plan.kv()->head_bytes());
  if (!block || memory.kv_block() != *block) {
    return InvalidArgument("{}.memory.kv_block: {}, but {} layers x {} KV heads x {} bytes take {}",
                           where, memory.kv_block(), layers, heads, plan.kv()->head_bytes(),
                           block.value_or(UINT64_MAX));
  }
  uint64_t arenas = 0;
  for (uint32_t i = 0; i < Count(rank.arena_bytes()); ++i) {
    const std::optional<uint64_t> sum = Sum(arenas, rank.arena_bytes()->Get(i));
    if (!sum) return InvalidArgument("{}.arena_bytes: their sum does not fit 64 bits", where);
    arenas = *sum;
  }
  if (memory.activations() < arenas) {
    return InvalidArgument("{}.memory.activations: {}, less than the arenas' {} bytes", where,
                           memory.activations(), arenas);
  }
  std::optional<uint64_t> peak = Product(memory.kv_block(), plan.kv()->blocks());
  for (const uint64_t part : {memory.weights(), memory.activations(), memory.fixed()}) {
    if (peak) peak = Sum(*peak, part);
  }
  if (!peak) {
    return InvalidArgument("{}.memory: the peak with {} blocks does not fit 64 bits", where,
                           plan.kv()->blocks());
  }
  return Status();
}

// That the KV blocks' extents have a place apart from every buffer.
Status VerifyKvPlace(const Plan& plan, const Rank& rank, const std::string& where) {
  if (rank.kv_arena() == -1) {
    if (rank.kv_offset() == 0) return Status();
    return InvalidArgument("{}.kv_offset: {}, but kv_arena names no arena", where,
                           rank.kv_offset());
  }
  const uint32_t arenas = Count(rank.arena_bytes());
  if (rank.kv_arena() < -1 || static_cast<uint32_t>(rank.kv_arena()) >= arenas) {
    return InvalidArgument("{}.kv_arena: {}, but there are {} arenas", where, rank.kv_arena(),
                           arenas);
  }
  if (rank.kv_offset() % MemoryMap::kHugePage != 0) {
    return InvalidArgument("{}.kv_offset: {}, not a multiple of {}", where, rank.kv_offset(),
                           MemoryMap::kHugePage);
  }
  const uint64_t activations = rank.arena_bytes()->Get(static_cast<uint32_t>(rank.kv_arena()));
  if (rank.kv_offset() < activations) {
    return InvalidArgument("{}.kv_offset: {}, but activations take {} bytes of arena {}", where,
                           rank.kv_offset(), activations, rank.kv_arena());
  }
  const std::optional<uint64_t> bytes = Product(KvArenaBlocks(plan), rank.memory()->kv_block());
  if (!bytes || !Sum(rank.kv_offset(), *bytes)) {
    return InvalidArgument(
        "{}.kv_offset: {}, and {} blocks of {} bytes: the end does not fit 64 bits", where,
        rank.kv_offset(), plan.kv()->blocks(), rank.memory()->kv_block());
  }
  return Status();
}

Status VerifyStage(const Plan& plan, const Stage& stage, uint32_t layer, const std::string& where) {
  if (stage.layer_begin() != layer || stage.layer_end() <= layer ||
      stage.layer_end() > plan.model()->layers()) {
    return InvalidArgument("{}: layers [{}, {}), expected to begin at {} and end by {}", where,
                           stage.layer_begin(), stage.layer_end(), layer, plan.model()->layers());
  }
  if (Count(stage.ranks()) == 0) return InvalidArgument("{}.ranks: none", where);
  if (Count(stage.programs()) == 0) return InvalidArgument("{}.programs: none", where);
  if (!(stage.efficiency() >= 0 && stage.efficiency() <= 1)) {
    return InvalidArgument("{}.efficiency: {}, expected 0 to 1", where, stage.efficiency());
  }

  constexpr size_t kUnits = static_cast<size_t>(Unit::MAX) + 1;
  std::vector<uint32_t> next(kUnits, 0);
  for (uint32_t r = 0; r < stage.ranks()->size(); ++r) {
    const Rank& rank = *stage.ranks()->Get(r);
    const std::string place = fmt::format("{}.ranks[{}]", where, r);
    LLMIR_RETURN_IF_ERROR(VerifyRanges(plan, rank, &next, place));
    LLMIR_RETURN_IF_ERROR(VerifyRankWeights(plan, rank, place));
    LLMIR_RETURN_IF_ERROR(VerifyMemory(plan, stage, rank, place));
    LLMIR_RETURN_IF_ERROR(VerifyKvPlace(plan, rank, place));
  }
  for (const Unit unit : {Unit::query_head, Unit::mlp_column, Unit::vocabulary}) {
    if (next[static_cast<size_t>(unit)] != LeafCount(*plan.model(), unit)) {
      return InvalidArgument("{}.ranks: their {} leaves end at {} of {}", where, EnumNameUnit(unit),
                             next[static_cast<size_t>(unit)], LeafCount(*plan.model(), unit));
    }
  }

  return CheckIndex(where + ".group", stage.group(), plan.groups()->size(), "groups");
}

Status VerifyTopology(const Plan& plan) {
  uint64_t world = 0;
  for (uint32_t p = 0; p < plan.replicas()->size(); ++p) {
    const Replica& replica = *plan.replicas()->Get(p);
    for (uint32_t s = 0; s < Count(replica.stages()); ++s) {
      world += Count(replica.stages()->Get(s)->ranks());
    }
  }
  const uint32_t depth = plan.limits()->steps_in_flight();
  if (uint64_t{depth} * plan.replicas()->size() > kMostStepsInFlight) {
    return InvalidArgument(
        "limits.steps_in_flight: {} of each of {} replicas, expected at most {} together", depth,
        plan.replicas()->size(), kMostStepsInFlight);
  }
  std::vector<bool> taken(world, false);
  for (uint32_t p = 0; p < plan.replicas()->size(); ++p) {
    const Replica& replica = *plan.replicas()->Get(p);
    if (Count(replica.stages()) == 0) return InvalidArgument("replicas[{}].stages: none", p);
    if (depth > replica.stages()->size()) {
      return InvalidArgument(
          "limits.steps_in_flight: {}, but replicas[{}] has {} stages, each with one step at a "
          "time",
          depth, p, replica.stages()->size());
    }
    uint32_t layer = 0;
    for (uint32_t s = 0; s < replica.stages()->size(); ++s) {
      const Stage& stage = *replica.stages()->Get(s);
      const std::string where = fmt::format("replicas[{}].stages[{}]", p, s);
      for (uint32_t r = 0; r < Count(stage.ranks()); ++r) {
        const uint32_t rank = stage.ranks()->Get(r)->world_rank();
        if (rank >= world || taken[rank]) {
          return InvalidArgument("{}.ranks[{}].world_rank: {}, expected each of 0 to {} once",
                                 where, r, rank, world - 1);
        }
        taken[rank] = true;
      }
      LLMIR_RETURN_IF_ERROR(VerifyStage(plan, stage, layer, where));
      layer = stage.layer_end();
    }
    const uint32_t first = replica.stages()->Get(0)->ranks()->Get(0)->world_rank();
    if (p == 0 && first != 0) {
      return InvalidArgument(
          "replicas[0].stages[0].ranks[0].world_rank: {}, expected 0, which gives out the steps",
          first);
    }
    if (layer != plan.model()->layers()) {
      return InvalidArgument("replicas[{}].stages: they end at layer {} of {}", p, layer,
                             plan.model()->layers());
    }
  }
  for (uint32_t g = 0; g < plan.groups()->size(); ++g) {
    const Group& group = *plan.groups()->Get(g);
    if (Count(group.ranks()) == 0) return InvalidArgument("groups[{}].ranks: none", g);
    std::unordered_set<uint32_t> members;
    for (uint32_t i = 0; i < group.ranks()->size(); ++i) {
      const uint32_t rank = group.ranks()->Get(i);
      if (rank >= world || !members.insert(rank).second) {
        return InvalidArgument("groups[{}].ranks[{}]: {}, expected ranks of 0 to {}, each once", g,
                               i, rank, world - 1);
      }
    }
  }
  return Status();
}

Status VerifyPrefixes(const Plan& plan) {
  const KvGeometry& kv = *plan.kv();
  for (uint32_t i = 0; i < Count(plan.prefixes()); ++i) {
    const PinnedPrefix& prefix = *plan.prefixes()->Get(i);
    const std::string where = fmt::format("prefixes[{}]", i);
    const uint32_t tokens = Count(prefix.ids());
    if (tokens == 0 || tokens % kv.block_size() != 0 || tokens >= plan.limits()->context()) {
      return InvalidArgument(
          "{}.ids: {}, expected a multiple of kv.block_size = {} below limits.context = {}", where,
          tokens, kv.block_size(), plan.limits()->context());
    }
    for (uint32_t k = 0; k < tokens; ++k) {
      const int32_t id = prefix.ids()->Get(k);
      if (id < 0 || static_cast<uint32_t>(id) >= plan.model()->vocabulary()) {
        return InvalidArgument("{}.ids[{}]: {}, but the vocabulary has {} ids", where, k, id,
                               plan.model()->vocabulary());
      }
    }
    for (uint32_t other = 0; other < i; ++other) {
      const auto& ids = *plan.prefixes()->Get(other)->ids();
      if (std::equal(ids.begin(), ids.end(), prefix.ids()->begin(), prefix.ids()->end())) {
        return InvalidArgument("{}.ids: the same as those of prefixes[{}]", where, other);
      }
    }
    if (!(prefix.share() >= 0 && prefix.share() <= 1)) {
      return InvalidArgument("{}.share: {}, expected 0 to 1", where, prefix.share());
    }
  }
  if (PinnedBlocks(plan) >= kv.blocks()) {
    return InvalidArgument(
        "prefixes: they hold {} KV blocks, but kv.blocks is {}, and requests "
        "need some",
        PinnedBlocks(plan), kv.blocks());
  }
  return Status();
}

// A reproducible plan names its family of kernels, and a layer attends alike in all programs:
// whether a token was a prompt's or was drawn must not matter.
Status VerifyReproducible(const Plan& plan) {
  if (!plan.reproducible()) {
    if (Empty(plan.isa())) return Status();
    return InvalidArgument("isa: \"{}\", but only a reproducible plan is bound to a family",
                           plan.isa()->string_view());
  }
  if (Empty(plan.isa())) {
    return InvalidArgument("isa: missing, but a reproducible plan is bound to a family of kernels");
  }
  std::vector<const Step*> first(plan.model()->layers(), nullptr);
  for (const Replica* replica : *plan.replicas()) {
    for (const Stage* stage : *replica->stages()) {
      for (const Program* program : *stage->programs()) {
        for (const Step* step : *program->steps()) {
          if (step->kind() != StepKind::paged_attention &&
              step->kind() != StepKind::append_attend) {
            continue;
          }
          const auto form = [](const Step& attention) {
            const AttentionChoice* choice = attention.attention();
            return choice == nullptr ? std::pair(AttentionForm::flash, 0.0f)
                                     : std::pair(choice->form(), choice->softcap());
          };
          const auto layer = static_cast<size_t>(step->layer());
          if (step->layer() < 0 || layer >= first.size()) {
            return InvalidArgument(
                "{} ({}): layer {}, expected less than {}", step->name()->string_view(),
                EnumNameProgramKind(program->kind()), step->layer(), first.size());
          }
          const Step*& other = first[layer];
          if (other == nullptr) other = step;
          if (form(*other) == form(*step)) continue;
          return InvalidArgument(
              "{} ({}): attention {}, but {} elsewhere; in a reproducible plan all programs have "
              "one form for a layer",
              step->name()->string_view(), EnumNameProgramKind(program->kind()),
              EnumNameAttentionForm(form(*step).first), EnumNameAttentionForm(form(*other).first));
        }
      }
    }
  }
  return Status();
}

// What a plan promises of values that it lets lose bits.
Status VerifyWireError(const Plan& plan) {
  const bool encodes = (UsedFeatures(plan) & static_cast<uint64_t>(Feature::int8_wire)) != 0;
  const double least = encodes ? kInt8WireError : 0;
  if (plan.wire_error() >= least && (encodes || plan.wire_error() == 0)) return Status();
  return InvalidArgument("wire_error: {}, but {}; expected {}", plan.wire_error(),
                         encodes ? "messages travel in int8" : "no message loses bits", least);
}

// A runtime that lacks a feature must be able to refuse the plan before it looks inside.
Status VerifyFeatures(const Plan& plan) {
  const uint64_t used = UsedFeatures(plan);
  for (const Feature feature : EnumValuesFeature()) {
    const auto bit = static_cast<uint64_t>(feature);
    if ((used & bit) != 0 && (plan.required_features() & bit) == 0) {
      return InvalidArgument("required_features: {:#x} lacks {}, which the plan uses",
                             plan.required_features(), EnumNameFeature(feature));
    }
  }
  return Status();
}

}  // namespace

Status VerifyPlan(const Plan& plan) {
  LLMIR_RETURN_IF_ERROR(VerifyPresence(plan));
  LLMIR_RETURN_IF_ERROR(VerifyModel(*plan.model()));
  LLMIR_RETURN_IF_ERROR(VerifyTokenizer(*plan.tokenizer(), *plan.model()));
  LLMIR_RETURN_IF_ERROR(VerifyFiles(plan));
  for (uint32_t i = 0; i < plan.tensors()->size(); ++i) {
    LLMIR_RETURN_IF_ERROR(
        VerifyTensor(plan, *plan.tensors()->Get(i), fmt::format("tensors[{}]", i)));
  }
  for (uint32_t i = 0; i < plan.weights()->size(); ++i) {
    LLMIR_RETURN_IF_ERROR(
        VerifyWeight(plan, *plan.weights()->Get(i), fmt::format("weights[{}]", i)));
  }
  LLMIR_RETURN_IF_ERROR(VerifyKv(*plan.kv(), *plan.model()));
  LLMIR_RETURN_IF_ERROR(VerifyLimits(*plan.limits(), *plan.kv()));
  LLMIR_RETURN_IF_ERROR(VerifyPrefixes(plan));
  LLMIR_RETURN_IF_ERROR(VerifyTopology(plan));
  for (uint32_t i = 0; i < plan.replicas()->size(); ++i) {
    LLMIR_RETURN_IF_ERROR(
        VerifyPrograms(plan, *plan.replicas()->Get(i), fmt::format("replicas[{}]", i)));
  }
  LLMIR_RETURN_IF_ERROR(VerifyReproducible(plan));
  LLMIR_RETURN_IF_ERROR(VerifyWireError(plan));
  return VerifyFeatures(plan);
}

}  // namespace llmir::plan
