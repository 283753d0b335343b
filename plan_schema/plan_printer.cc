#include "plan_schema/plan_printer.h"

#include <flatbuffers/minireflect.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <set>
#include <string_view>
#include <vector>

#include "plan_schema/base/status.h"
#include "plan_schema/plan_facts.h"

namespace llmir::plan {
namespace {

// ------------------------------------------------------------ values as text

std::string_view Text(const flatbuffers::String* text) {
  return text == nullptr ? std::string_view() : text->string_view();
}

template <typename T>
uint32_t Count(const flatbuffers::Vector<T>* items) {
  return items == nullptr ? 0 : items->size();
}

std::string Mebibytes(uint64_t bytes) {
  return fmt::format("{:.1f}", static_cast<double>(bytes) / (1 << 20));
}

// "1.23M": three significant digits with a decimal suffix; "-" for zero, to keep tables readable.
std::string Short(double value) {
  constexpr const char* kSuffixes[] = {"", "k", "M", "G", "T", "P"};
  if (value == 0) return "-";
  size_t i = 0;
  while (std::abs(value) >= 999.5 && i + 1 < std::size(kSuffixes)) {
    value /= 1000;
    ++i;
  }
  const int decimals = i == 0 && value == std::floor(value) ? 0
                       : std::abs(value) < 9.995            ? 2
                       : std::abs(value) < 99.95            ? 1
                                                            : 0;
  return fmt::format("{:.{}f}{}", value, decimals, kSuffixes[i]);
}

// "960", or "320-640" where ranks differ.
template <typename Values>
std::string Span(const Values& values) {
  if (values.empty()) return "-";
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return *least == *most ? fmt::format("{}", *most) : fmt::format("{}-{}", *least, *most);
}

std::string RangeText(uint64_t begin, uint64_t end) {
  if (begin == end) return "none";
  return begin + 1 == end ? fmt::format("{}", begin) : fmt::format("{}-{}", begin, end - 1);
}

// Rows of cells under a header, columns as wide as their widest cell. The first `left` columns are
// flush left.
class TextTable {
 public:
  TextTable(std::vector<std::string> header, size_t left) : left_(left) {
    rows_.push_back(std::move(header));
  }
  void Add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // A line of its own between the rows.
  void AddLine(std::string line) { rows_.push_back({std::move(line)}); }

  void Print(std::string_view indent, std::string* out) const {
    const size_t columns = rows_.front().size();
    std::vector<size_t> widths(columns, 0);
    for (const auto& row : rows_) {
      if (row.size() != columns) continue;
      for (size_t c = 0; c < columns; ++c) widths[c] = std::max(widths[c], Width(row[c]));
    }
    for (const auto& row : rows_) {
      std::string line(indent);
      if (row.size() != columns) {
        line += row.front();
      } else {
        for (size_t c = 0; c < columns; ++c) {
          const std::string padding(widths[c] - Width(row[c]), ' ');
          line += c < left_ ? row[c] + padding : padding + row[c];
          if (c + 1 < columns) line += "  ";
        }
      }
      line.erase(line.find_last_not_of(' ') + 1);
      *out += line + "\n";
    }
  }

 private:
  // Columns on the screen: bytes that don't continue a UTF-8 character.
  static size_t Width(std::string_view text) {
    return static_cast<size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
  }
  size_t left_;
  std::vector<std::vector<std::string>> rows_;
};

// ------------------------------------------------------------ sections

class TextPrinter {
 public:
  TextPrinter(const Plan& plan, const PrintOptions& options) : plan_(plan), options_(options) {}

  std::string Print() {
    PrintModel();
    PrintCheckpoint();
    PrintLimits();
    PrintLayout();
    PrintPrograms();
    PrintProvenance();
    return std::move(out_);
  }

 private:
  template <typename... Args>
  void Line(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
    out_ += '\n';
  }

  // "name, name" broken after 98 columns, each line indented by four.
  void PrintWrapped(const std::vector<std::string>& items) {
    std::string line = "    ";
    for (size_t i = 0; i < items.size(); ++i) {
      const std::string item = items[i] + (i + 1 < items.size() ? ", " : "");
      if (line.size() + item.size() > 98 && line.size() > 4) {
        line.erase(line.find_last_not_of(' ') + 1);
        Line("{}", line);
        line = "    ";
      }
      line += item;
    }
    Line("{}", line);
  }

  void PrintModel() {
    const Model& model = *plan_.model();
    std::string features;
    for (const Feature feature : EnumValuesFeature()) {
      if ((plan_.required_features() & static_cast<uint64_t>(feature)) == 0) continue;
      features += fmt::format("{}{}", features.empty() ? "" : ", ", EnumNameFeature(feature));
    }
    Line("Model");
    Line("  {} ({}): {} layers, hidden {}, {} query and {} KV heads of {}", Text(model.name()),
         Text(model.architecture()), model.layers(), model.hidden(), model.query_heads(),
         model.kv_heads(), model.head_dim());
    Line("  MLP {}, vocabulary {} ({} head), context {}, RoPE {} on {} of {} dimensions",
         model.mlp_columns(), model.vocabulary(), model.tied_head() ? "tied" : "own",
         model.context(), EnumNameRopeStyle(model.rope_style()), model.rope_dim(),
         model.head_dim());
    Line("  leaves: {} query heads, {} x {} MLP columns, {} x {} vocabulary rows",
         LeafCount(model, Unit::query_head), LeafCount(model, Unit::mlp_column), model.mlp_leaf(),
         LeafCount(model, Unit::vocabulary), model.vocabulary_leaf());
    Line("  needs: {}", features.empty() ? "no special feature" : features);
    if (plan_.reproducible()) {
      Line("  reproducible with the {} kernels: results don't depend on batch, chunks, tp or pp",
           Text(plan_.isa()));
    }
    if (plan_.bf16_activations()) {
      Line("  bf16 weights are multiplied with activations that are rounded to bf16");
    }
    if (plan_.wire_error() > 0) {
      Line("  int8 between hosts: a value errs by at most {} of the largest of its 32, each time",
           plan_.wire_error());
    }
    Line("  numerics {:016x}: plans with this number give the same answers{}", plan_.numerics(),
         plan_.wire_error() > 0 ? " on the same hosts" : "");
  }

  void PrintCheckpoint() {
    Line("\nWeights");
    for (uint32_t f = 0; f < Count(plan_.files()); ++f) {
      const CheckpointFile& file = *plan_.files()->Get(f);
      std::map<DType, uint64_t> bytes_by_type;
      uint32_t tensors = 0;
      for (const Tensor* tensor : *plan_.tensors()) {
        if (tensor->file() != f) continue;
        ++tensors;
        bytes_by_type[tensor->dtype()] += tensor->bytes();
      }
      std::string types;
      for (const auto& [dtype, bytes] : bytes_by_type) {
        types += fmt::format("{}{} {} MiB", types.empty() ? "" : ", ", DTypeName(dtype),
                             Mebibytes(bytes));
      }
      Line("  {} ({}, {} MiB)", Text(file.path()), EnumNameFileFormat(file.format()),
           Mebibytes(file.bytes()));
      Line("    {} tensors: {}", tensors, types);
    }
    std::map<DType, std::pair<uint32_t, uint64_t>> packed;  // weights, values
    for (const Weight* weight : *plan_.weights()) {
      auto& [weights, values] = packed[weight->dtype()];
      ++weights;
      for (const uint32_t piece : *weight->pieces()) {
        const Tensor& tensor = *plan_.tensors()->Get(piece);
        values += tensor.rows() * tensor.columns();
      }
    }
    std::string types;
    for (const auto& [dtype, counts] : packed) {
      types += fmt::format("{}{} x {} ({} values)", types.empty() ? "" : ", ", counts.first,
                           DTypeName(dtype), Short(static_cast<double>(counts.second)));
    }
    Line("  packed as {}", types);
    const Tokenizer& tokenizer = *plan_.tokenizer();
    Line("  tokenizer {}", Text(tokenizer.file()));
    Line("    {} tokens, {}, {} tests", tokenizer.vocabulary(),
         tokenizer.chat_template() == nullptr ? "no chat template" : "chat template",
         Count(tokenizer.tests()));
  }

  void PrintLimits() {
    const Limits& limits = *plan_.limits();
    const KvGeometry& kv = *plan_.kv();
    Line("\nLimits");
    Line("  {} tokens a sequence; a step: {} sequences, {} prompt tokens, {} tokens",
         limits.context(), limits.max_batch(), limits.prefill_chunk(), limits.max_tokens());
    Line("  {} step{} of a replica in flight, {} sequences at a time", limits.steps_in_flight(),
         limits.steps_in_flight() == 1 ? "" : "s", RunningSequences(plan_));
    Line(
        "  KV cache: {} blocks of {} tokens = {} tokens a replica, {}; at most {} blocks a "
        "sequence",
        kv.blocks(), kv.block_size(), uint64_t{kv.blocks()} * kv.block_size(),
        DTypeName(kv.dtype()), kv.max_blocks_per_sequence());
    for (uint32_t i = 0; i < Count(plan_.prefixes()); ++i) {
      const PinnedPrefix& prefix = *plan_.prefixes()->Get(i);
      Line("  pinned prefix \"{}\": {} tokens, computed once; {:.0f} % of the workload starts so",
           Text(prefix.name()), Count(prefix.ids()), 100 * prefix.share());
    }
  }

  void PrintLayout() {
    Line("\nLayout: {} rank{}, replicas x stages x ranks: {}", WorldSize(plan_),
         WorldSize(plan_) == 1 ? "" : "s", Shape());
    const Model& model = *plan_.model();
    for (uint32_t p = 0; p < plan_.replicas()->size(); ++p) {
      const Replica& replica = *plan_.replicas()->Get(p);
      for (uint32_t s = 0; s < replica.stages()->size(); ++s) {
        const Stage& stage = *replica.stages()->Get(s);
        Line("  replica {}, stage {}: layers {}, best efficiency of this cut {:.3f}; MiB:", p, s,
             RangeText(stage.layer_begin(), stage.layer_end()), stage.efficiency());
        TextTable table({"rank", "heads", "KV heads", "MLP columns", "vocabulary", "weights",
                         "activations", "fixed", "KV block", "peak"},
                        5);
        for (const Rank* rank : *stage.ranks()) {
          const Extent mlp = LeafExtent(RankLeaves(*rank, Unit::mlp_column), model.mlp_leaf(),
                                        model.mlp_columns());
          const Extent rows = LeafExtent(RankLeaves(*rank, Unit::vocabulary),
                                         model.vocabulary_leaf(), model.vocabulary());
          const Leaves query = RankLeaves(*rank, Unit::query_head);
          const Leaves kv = RankLeaves(*rank, Unit::kv_head);
          const Memory& memory = *rank->memory();
          table.Add({fmt::format("{}", rank->world_rank()), RangeText(query.begin, query.end),
                     RangeText(kv.begin, kv.end), RangeText(mlp.begin, mlp.end),
                     RangeText(rows.begin, rows.end), Mebibytes(memory.weights()),
                     Mebibytes(memory.activations()), Mebibytes(memory.fixed()),
                     fmt::format("{:.3f}", static_cast<double>(memory.kv_block()) / (1 << 20)),
                     Mebibytes(PeakBytes(memory, plan_.kv()->blocks()))});
        }
        table.Print("    ", &out_);
      }
    }
    Line("  peak = weights + activations + fixed + KV block x {} blocks", plan_.kv()->blocks());
    const Rank& first = *plan_.replicas()->Get(0)->stages()->Get(0)->ranks()->Get(0);
    if (first.kv_arena() < 0) {
      Line("  KV blocks have memory of their own");
    } else {
      Line("  KV blocks lie behind the activations, on rank 0 at {}:{}", first.kv_arena(),
           first.kv_offset());
    }
  }

  std::string Shape() const {
    std::string shape;
    for (const Replica* replica : *plan_.replicas()) {
      std::string stages;
      for (const Stage* stage : *replica->stages()) {
        stages += fmt::format("{}{}", stages.empty() ? "" : "+", stage->ranks()->size());
      }
      shape += fmt::format("{}[{}]", shape.empty() ? "" : " ", stages);
    }
    return shape;
  }

  void PrintPrograms() {
    for (uint32_t p = 0; p < plan_.replicas()->size(); ++p) {
      const Replica& replica = *plan_.replicas()->Get(p);
      for (uint32_t s = 0; s < replica.stages()->size(); ++s) {
        for (const Program* program : *replica.stages()->Get(s)->programs()) {
          if (options_.program && program->kind() != *options_.program) continue;
          PrintProgram(p, s, *replica.stages()->Get(s), *program);
        }
      }
    }
  }

  // What all ranks of the stage spend on a step for one token, the costliest rank.
  struct StepCost {
    double bytes = 0, flops = 0, message = 0, us = 0;
  };
  static StepCost CostOf(const Step& step) {
    StepCost most;
    for (const StepRank* rank : *step.ranks()) {
      if (rank->skip()) continue;
      most.us = std::max<double>(most.us, rank->predicted_us());
      const Cost* cost = rank->cost();
      if (cost == nullptr) continue;
      most.bytes = std::max(most.bytes, cost->bytes() + cost->bytes_per_token());
      most.flops = std::max(most.flops, cost->flops() + cost->flops_per_token());
      most.message = std::max(most.message, cost->message_bytes_per_token());
    }
    return most;
  }

  // The step's name within its layer: "attention.qkv" of "layers.3.attention.qkv".
  static std::string LocalName(const Step& step) {
    std::string_view name = Text(step.name());
    const std::string prefix = fmt::format("layers.{}.", step.layer());
    if (name.starts_with(prefix)) name.remove_prefix(prefix.size());
    return std::string(name);
  }

  std::string WeightText(const Stage& stage, const Step& step) const {
    if (step.weight() < 0) return "";
    const Weight& weight = *plan_.weights()->Get(step.weight());
    std::vector<uint64_t> rows;
    std::vector<uint64_t> columns;
    for (uint32_t r = 0; r < stage.ranks()->size(); ++r) {
      if (step.ranks()->Get(r)->skip()) continue;
      const WeightShape shape = RankWeightShape(plan_, weight, *stage.ranks()->Get(r));
      rows.push_back(shape.rows);
      columns.push_back(shape.columns);
    }
    return fmt::format("{} {}x{}", DTypeName(weight.dtype()), Span(rows), Span(columns));
  }

  // "3,0>4": numbers of the inputs and outputs.
  static std::string OperandsText(const Step& step) {
    const auto join = [](const flatbuffers::Vector<uint32_t>* buffers) {
      std::string text;
      for (uint32_t i = 0; i < Count(buffers); ++i) {
        text += fmt::format("{}{}", i == 0 ? "" : ",", buffers->Get(i));
      }
      return text;
    };
    if (Count(step.inputs()) + Count(step.outputs()) == 0) {
      return Count(step.waits()) > 0 ? fmt::format("event {}", step.waits()->Get(0)) : "";
    }
    return join(step.inputs()) + ">" + join(step.outputs());
  }

  std::vector<std::string> StepCells(const Stage& stage, const Step& step, bool timed) const {
    const StepCost cost = CostOf(step);
    std::string kind = EnumNameStepKind(step.kind());
    if (const AttentionChoice* choice = step.attention()) {
      if (choice->form() != AttentionForm::flash) {
        kind += fmt::format("+{}", EnumNameAttentionForm(choice->form()));
      }
      if (choice->window() > 0) kind += fmt::format("+window {}", choice->window());
      if (!choice->share_kv()) kind += "+no_share_kv";
      if (choice->softcap() > 0) kind += fmt::format("+softcap {}", choice->softcap());
    }
    if (step.tree() != Unit::whole) kind += fmt::format("+tree {}", EnumNameUnit(step.tree()));
    if (step.wire() != Wire::f32) kind += fmt::format("+{} wire", EnumNameWire(step.wire()));
    if (step.epilogue() != Epilogue::none) {
      kind += fmt::format("+{}", EnumNameEpilogue(step.epilogue()));
    }
    if (step.kind() == StepKind::activation) {
      kind = fmt::format("{}{}", EnumNameActivation(step.activation()),
                         Count(step.inputs()) == 2 ? "*up" : "");
    }
    if (step.kind() == StepKind::softcap) kind += fmt::format(" {}", step.softcap());
    std::vector<std::string> cells = {LocalName(step),         kind,
                                      WeightText(stage, step), OperandsText(step),
                                      Short(cost.bytes),       Short(cost.flops),
                                      Short(cost.message)};
    if (timed) cells.push_back(fmt::format("{:.1f}", cost.us));
    return cells;
  }

  // Steps [begin, end) of one layer (or of none: -1), as they are shown.
  struct Block {
    int32_t layer = -1;
    uint32_t begin = 0;
    uint32_t end = 0;
    uint32_t repeats = 1;
    std::vector<std::vector<std::string>> rows;
  };

  // Two layers look the same when all but their buffers' numbers is.
  static bool LooksLike(const Block& a, const Block& b) {
    constexpr size_t kOperands = 3;
    if (a.layer < 0 || b.layer < 0 || a.rows.size() != b.rows.size()) return false;
    for (size_t i = 0; i < a.rows.size(); ++i) {
      for (size_t c = 0; c < a.rows[i].size(); ++c) {
        if (c != kOperands && a.rows[i][c] != b.rows[i][c]) return false;
      }
    }
    return true;
  }

  std::vector<Block> Blocks(const Stage& stage, const Program& program, bool timed) const {
    std::vector<Block> blocks;
    Block block;
    const auto close = [&] {
      if (block.begin == block.end) return;
      // With times, equal layers differ by noise of the model only in their last digit: the first
      // stands for all.
      if (!options_.all_steps && !blocks.empty() && LooksLike(blocks.back(), block)) {
        ++blocks.back().repeats;
        blocks.back().end = block.end;
      } else {
        blocks.push_back(std::move(block));
      }
    };
    for (uint32_t i = 0; i < program.steps()->size(); ++i) {
      const Step& step = *program.steps()->Get(i);
      if (block.begin == block.end || step.layer() != block.layer) {
        close();
        block = {step.layer(), i, i, 1, {}};
      }
      block.rows.push_back(StepCells(stage, step, timed));
      block.end = i + 1;
    }
    close();
    return blocks;
  }

  void PrintProgram(uint32_t p, uint32_t s, const Stage& stage, const Program& program) {
    const bool timed = !Text(plan_.provenance()->calibration_file()).empty();
    Line(
        "\nProgram {} (replica {}, stage {}): {} tokens, {} sampled, {} steps, {} buffers, {} "
        "events",
        EnumNameProgramKind(program.kind()), p, s,
        RangeText(program.min_tokens(), uint64_t{program.max_tokens()} + 1), program.max_sampled(),
        program.steps()->size(), Count(program.buffers()), program.events());

    std::vector<std::string> header = {"step",  "kind",  "weight", "in>out",
                                       "bytes", "FLOPs", "message"};
    if (timed) header.push_back("us");
    TextTable table(header, 4);
    std::set<uint32_t> shown;  // buffers of the steps in the table
    for (const Block& block : Blocks(stage, program, timed)) {
      for (uint32_t i = block.begin; i < block.begin + block.rows.size(); ++i) {
        const Step& step = *program.steps()->Get(i);
        for (const auto* operands : {step.inputs(), step.outputs()}) {
          for (uint32_t k = 0; k < Count(operands); ++k) shown.insert(operands->Get(k));
        }
      }
      if (block.layer >= 0) {
        const auto last = static_cast<uint64_t>(block.layer) + block.repeats;
        table.AddLine(
            block.repeats == 1
                ? fmt::format("-- layer {}", block.layer)
                : fmt::format("-- layers {}, x {}:", RangeText(block.layer, last), block.repeats));
      } else {
        table.AddLine("--");
      }
      for (const auto& row : block.rows) table.Add(row);
    }
    table.Print("  ", &out_);

    StepCost total;
    for (const Step* step : *program.steps()) {
      const StepCost cost = CostOf(*step);
      total.bytes += cost.bytes;
      total.flops += cost.flops;
      total.message += cost.message;
      total.us += cost.us;
    }
    Line(
        "  one token, empty context, costliest rank of each step: {} bytes, {} FLOPs, {} "
        "message bytes",
        Short(total.bytes), Short(total.flops), Short(total.message));
    if (timed) {
      Line("  predicted for {} tokens: {:.1f} us", program.predicted_tokens(), total.us);
    }
    PrintBuffers(program, shown);
  }

  // " x3": what a rank has of each row, where these are nodes of a tree.
  static std::string NodesText(const Buffer& buffer) {
    if (Count(buffer.nodes()) == 0) return "";
    std::vector<uint32_t> nodes(buffer.nodes()->begin(), buffer.nodes()->end());
    return fmt::format(" x{}", Span(nodes));
  }

  void PrintBuffers(const Program& program, const std::set<uint32_t>& shown) {
    TextTable table({"buffer", "name", "type", "columns", "rows", "KiB", "at, rank 0", "live"}, 3);
    for (const uint32_t b : shown) {
      const Buffer& buffer = *program.buffers()->Get(b);
      std::vector<uint32_t> columns(buffer.columns()->begin(), buffer.columns()->end());
      std::vector<uint64_t> bytes(buffer.bytes()->begin(), buffer.bytes()->end());
      const uint64_t most = *std::max_element(bytes.begin(), bytes.end());
      table.Add({fmt::format("{}", b), std::string(Text(buffer.name())), DTypeName(buffer.dtype()),
                 Span(columns) + NodesText(buffer),
                 fmt::format("{} {}", buffer.max_rows(), EnumNameRows(buffer.rows())),
                 fmt::format("{:.1f}", static_cast<double>(most) / 1024),
                 fmt::format("{}:{}", buffer.arena(), buffer.offsets()->Get(0)),
                 RangeText(buffer.first_step(), uint64_t{buffer.last_step()} + 1)});
    }
    table.Print("  ", &out_);
  }

  void PrintProvenance() {
    const Provenance& provenance = *plan_.provenance();
    Line("\nMade by llmir-plan {}", Text(provenance.planner_version()));
    if (provenance.command() != nullptr) Line("  {}", Text(provenance.command()));
    if (Count(provenance.options()) > 0) {
      std::vector<std::string> options;
      for (const flatbuffers::String* option : *provenance.options()) {
        options.push_back(option->str());
      }
      Line("  options:");
      PrintWrapped(options);
    }
    if (provenance.calibration_file() != nullptr) {
      Line("  times from {} ({:016x})", Text(provenance.calibration_file()),
           provenance.calibration_hash());
    }
  }

  const Plan& plan_;
  const PrintOptions& options_;
  std::string out_;
};

// ------------------------------------------------------------ JSON

class JsonVisitor : public flatbuffers::IterationVisitor {
 public:
  std::string Take() { return std::move(out_); }

  void StartSequence() override { Open('{'); }
  void EndSequence() override { Close('}'); }
  void StartVector() override { Open('['); }
  void EndVector() override { Close(']'); }
  void Field(size_t, size_t, flatbuffers::ElementaryType, bool is_vector,
             const flatbuffers::TypeTable*, const char* name, const uint8_t* value) override {
    if (value == nullptr && !is_vector) return;
    Separate();
    fmt::format_to(std::back_inserter(out_), "\"{}\": ", name);
    if (value == nullptr) out_ += "[]";
  }
  void Element(size_t, flatbuffers::ElementaryType type, const flatbuffers::TypeTable*,
               const uint8_t*) override {
    // Numbers go side by side, tables and strings each on a line.
    if (type == flatbuffers::ET_SEQUENCE || type == flatbuffers::ET_STRING) {
      Separate();
    } else {
      out_ += empty_ ? "" : ", ";
      empty_ = false;
      flat_ = true;
    }
  }
  void UType(uint8_t value, const char* name) override { Named(value, name); }
  void Char(int8_t value, const char* name) override { Named(value, name); }
  void UChar(uint8_t value, const char* name) override { Named(value, name); }
  void Short(int16_t value, const char* name) override { Named(value, name); }
  void UShort(uint16_t value, const char* name) override { Named(value, name); }
  void Int(int32_t value, const char* name) override { Named(value, name); }
  void UInt(uint32_t value, const char* name) override { Named(value, name); }
  void Bool(bool value) override { out_ += value ? "true" : "false"; }
  void Long(int64_t value) override { Number(value); }
  void ULong(uint64_t value) override { Number(value); }
  void Float(float value) override { Real(value); }
  void Double(double value) override { Real(value); }
  void Unknown(const uint8_t*) override { out_ += "null"; }
  void String(const flatbuffers::String* text) override {
    const size_t start = out_.size();
    if (flatbuffers::EscapeString(text->c_str(), text->size(), &out_, false, false)) return;
    // Not UTF-8 (a path may be anything): each byte as the character of its value.
    out_.resize(start);
    out_ += '"';
    for (const char c : text->string_view()) {
      fmt::format_to(std::back_inserter(out_), "\\u{:04x}", static_cast<unsigned char>(c));
    }
    out_ += '"';
  }

 private:
  template <typename T>
  void Number(T value) {
    fmt::format_to(std::back_inserter(out_), "{}", value);
  }
  template <typename T>
  void Named(T value, const char* name) {
    if (name != nullptr) {
      fmt::format_to(std::back_inserter(out_), "\"{}\"", name);
    } else {
      Number(value);
    }
  }
  template <typename T>
  void Real(T value) {
    if (std::isfinite(value)) {
      Number(value);
    } else {
      out_ += "null";
    }
  }
  void Open(char bracket) {
    out_ += bracket;
    ++depth_;
    empty_ = true;
    flat_ = false;
  }
  void Close(char bracket) {
    --depth_;
    if (!empty_ && !flat_) NewLine();
    out_ += bracket;
    empty_ = false;
    flat_ = false;
  }
  void Separate() {
    if (!empty_) out_ += ',';
    empty_ = false;
    NewLine();
  }
  void NewLine() {
    out_ += '\n';
    out_.append(static_cast<size_t>(depth_) * 2, ' ');
  }

  std::string out_;
  int depth_ = 0;
  bool empty_ = true;  // nothing in the innermost bracket yet
  bool flat_ = false;  // the innermost bracket holds numbers on one line
};

}  // namespace

std::string PlanToText(const Plan& plan, const PrintOptions& options) {
  return TextPrinter(plan, options).Print();
}

std::string ExplanationsToText(const Plan& plan) {
  std::string text;
  const auto* explanations = plan.provenance()->explanations();
  for (uint32_t i = 0; i < Count(explanations); ++i) {
    const Explanation& explanation = *explanations->Get(i);
    text += fmt::format("{}: {}\n", Text(explanation.pass()), Text(explanation.text()));
    if (!Text(explanation.gain()).empty()) {
      text += fmt::format("    gain: {}\n", Text(explanation.gain()));
    }
  }
  return text;
}

std::string PlanToJson(const Plan& plan) {
  // A FlatBuffer leaves defaults out; written again with them, every scalar field is there to be
  // read.
  PlanT unpacked;
  plan.UnPackTo(&unpacked);
  flatbuffers::FlatBufferBuilder builder(1 << 20);
  builder.ForceDefaults(true);
  builder.Finish(CreatePlan(builder, &unpacked));
  JsonVisitor visitor;
  flatbuffers::IterateFlatBuffer(builder.GetBufferPointer(), PlanTypeTable(), &visitor);
  return visitor.Take() + "\n";
}

}  // namespace llmir::plan
