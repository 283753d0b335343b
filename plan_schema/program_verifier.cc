#include "plan_schema/program_verifier.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <queue>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "plan_schema/plan_checks.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/rehearsal.h"
#include "plan_schema/sum_tree.h"

namespace llmir::plan {
namespace {

constexpr uint64_t kAlignment =
    64;  // of buffers: a cache line, and a whole SIMD register of every ISA
constexpr uint32_t kMaxPending = 16;  // operations that a program may have open at a time;
                                      // comm::kMaxRequests leaves room for more
constexpr uint32_t kPartColumns = 3;  // kernels::ScorePart: maximum, sum, target
constexpr uint32_t kMostNodes = 32;   // of a rank in a tree of at most 2^16 leaves

// What a step of a kind must and may have.
struct Signature {
  uint32_t inputs;
  uint32_t outputs;
  bool weight;
  bool kernel;
  bool in_place;  // the output is the input (a wait's: its sum's); naming it is optional
};
Signature SignatureOf(const Step& step) {
  switch (step.kind()) {
    case StepKind::embedding:
      return {0, 1, true, true, false};
    case StepKind::rms_norm:
      return {1, 1, true, true, false};
    case StepKind::quantize:
      return {1, 1, false, true, false};
    case StepKind::linear:
      return {step.epilogue() == Epilogue::residual ? 2u : 1u, 1, true, true, false};
    case StepKind::rope_append:
      return {1, 0, false, true, true};
    case StepKind::paged_attention:
    case StepKind::append_attend:
      return {1, 1, false, true, false};
    case StepKind::add:
      return {2, 1, false, true, false};
    case StepKind::gather_rows:
      return {1, 1, false, true, false};
    case StepKind::all_reduce:
    case StepKind::all_reduce_start:
    case StepKind::broadcast:
    case StepKind::broadcast_start:
      return {1, 0, false, false, true};
    case StepKind::reduce_scatter:
    case StepKind::reduce_scatter_start:
    case StepKind::all_gather:
    case StepKind::all_gather_start:
      return {1, 1, false, false, false};
    case StepKind::prefetch:
      return {0, 0, true, false, false};
    case StepKind::wait:
      return {0, 0, false, false, true};
    case StepKind::gather:
    case StepKind::gather_start:
      return {1, 1, false, false, false};
    case StepKind::send:
    case StepKind::send_start:
      return {1, 0, false, false, false};
    case StepKind::recv:
    case StepKind::recv_start:
      return {0, 1, false, false, false};
    case StepKind::layer_norm:
      return {1, 1, true, true, false};
    case StepKind::activation:
      return {Count(step.inputs()) == 2 ? 2u : 1u, 1, false, true, false};
    case StepKind::softcap:
    case StepKind::dequantize:
      return {1, 1, false, true, false};
    case StepKind::sample:
      return {1, 1, false, true, false};
    case StepKind::score:
      return {1, 2, true, true, false};
    case StepKind::score_merge:
      return {1, 1, false, true, false};
    default:
      return {};
  }
}

class ProgramVerifier {
 public:
  ProgramVerifier(const Plan& plan, const Stage& stage, bool last_stage, const Program& program,
                  std::string where)
      : plan_(plan),
        stage_(stage),
        last_stage_(last_stage),
        program_(program),
        where_(std::move(where)),
        ranks_(stage.ranks()->size()) {}

  // What the tables of a program are: indices, forms of steps, events. Before anything else.
  Status VerifyForms() const {
    LLMIR_RETURN_IF_ERROR(VerifyBounds());
    for (uint32_t b = 0; b < Count(program_.buffers()); ++b) {
      LLMIR_RETURN_IF_ERROR(VerifyBuffer(*program_.buffers()->Get(b), BufferPlace(b)));
    }
    for (uint32_t i = 0; i < program_.steps()->size(); ++i) {
      LLMIR_RETURN_IF_ERROR(VerifyForm(i));
    }
    return VerifyEvents();
  }

  // What its steps do with their operands on each rank.
  Status VerifyOperands() {
    for (uint32_t i = 0; i < program_.steps()->size(); ++i) {
      LLMIR_RETURN_IF_ERROR(VerifyStep(i));
    }
    LLMIR_RETURN_IF_ERROR(VerifyEnd());
    places_.resize(Count(program_.buffers()));
    std::iota(places_.begin(), places_.end(), 0);
    for (uint32_t r = 0; r < ranks_; ++r) LLMIR_RETURN_IF_ERROR(VerifyApart(r));
    for (uint32_t r = 0; r < ranks_; ++r) LLMIR_RETURN_IF_ERROR(VerifyDefinedBeforeUse(r));
    return VerifySums();
  }

 private:
  std::string BufferPlace(uint32_t b) const { return fmt::format("{}.buffers[{}]", where_, b); }
  std::string StepPlace(uint32_t i) const {
    const Step& step = *program_.steps()->Get(i);
    return fmt::format("{}.steps[{}] ({})", where_, i, EnumNameStepKind(step.kind()));
  }
  const Buffer& BufferAt(uint32_t b) const { return *program_.buffers()->Get(b); }
  const Buffer& Input(const Step& step, uint32_t i) const {
    return BufferAt(step.inputs()->Get(i));
  }
  const Buffer& Output(const Step& step, uint32_t i) const {
    return BufferAt(step.outputs()->Get(i));
  }

  // The same bytes on every rank, as rows of the same shape: two views of one place.
  bool SamePlace(uint32_t a, uint32_t b) const {
    const Buffer& one = BufferAt(a);
    const Buffer& other = BufferAt(b);
    return one.arena() == other.arena() && one.dtype() == other.dtype() &&
           one.max_rows() == other.max_rows() &&
           std::equal(one.offsets()->begin(), one.offsets()->end(), other.offsets()->begin()) &&
           std::equal(one.columns()->begin(), one.columns()->end(), other.columns()->begin()) &&
           std::equal(one.bytes()->begin(), one.bytes()->end(), other.bytes()->begin());
  }
  // Buffers that are live at one step may overlap as two views of one place only: the two halves of
  // the tokens, or all tokens and a part of them.
  bool MayOverlap(uint32_t a, uint32_t b) const {
    const Rows one = BufferAt(a).rows();
    const Rows other = BufferAt(b).rows();
    const bool halves = IsPart(one) && IsPart(other) && !ShareRows(one, other);
    const bool nested =
        (one == Rows::tokens && IsPart(other)) || (other == Rows::tokens && IsPart(one));
    return (halves || nested) && SamePlace(a, b);
  }

  // Whether a step on one touches what a step on the other does.
  bool Touch(uint32_t a, uint32_t b) const {
    return a == b || (ShareRows(BufferAt(a).rows(), BufferAt(b).rows()) && MayOverlap(a, b));
  }

  Status VerifyBounds() const {
    const Limits& limits = *plan_.limits();
    LLMIR_RETURN_IF_ERROR(CheckEnum(where_ + ".kind", EnumNameProgramKind(program_.kind()),
                                    static_cast<unsigned>(program_.kind())));
    if (program_.min_tokens() < 1 || program_.min_tokens() > program_.max_tokens() ||
        program_.max_tokens() > limits.max_tokens()) {
      return InvalidArgument(
          "{}: min_tokens {} to max_tokens {}, expected a range within 1 to limits.max_tokens = {}",
          where_, program_.min_tokens(), program_.max_tokens(), limits.max_tokens());
    }
    // Every sequence of a step may sample once; in a decode step every token does.
    const uint32_t sampled = program_.kind() == ProgramKind::score ? 0
                             : program_.kind() == ProgramKind::decode
                                 ? program_.max_tokens()
                                 : std::min(program_.max_tokens(), limits.max_batch());
    if (program_.max_sampled() < sampled || program_.max_sampled() > program_.max_tokens()) {
      return InvalidArgument("{}.max_sampled: {}, expected {} to max_tokens = {}", where_,
                             program_.max_sampled(), sampled, program_.max_tokens());
    }
    if (Count(program_.steps()) == 0) return InvalidArgument("{}.steps: none", where_);
    return CheckIndex(where_ + ".events", program_.events(), uint64_t{Count(program_.steps())} + 1,
                      "steps to signal them");
  }

  Status VerifyBuffer(const Buffer& buffer, const std::string& where) const {
    if (Empty(buffer.name())) return InvalidArgument("{}.name: missing", where);
    if (buffer.dtype() != DType::f32 && buffer.dtype() != DType::i32 &&
        buffer.dtype() != DType::q8_rows) {
      return InvalidArgument("{}.dtype: {} ({}), expected f32, i32 or q8_rows", where,
                             static_cast<unsigned>(buffer.dtype()), DTypeName(buffer.dtype()));
    }
    LLMIR_RETURN_IF_ERROR(CheckEnum(where + ".rows", EnumNameRows(buffer.rows()),
                                    static_cast<unsigned>(buffer.rows())));
    const uint32_t rows = buffer.rows() == Rows::sampled ? program_.max_sampled()
                          : buffer.rows() == Rows::one   ? 1
                                                         : program_.max_tokens();
    if (buffer.max_rows() < rows || buffer.max_rows() > kLargestCount) {
      return InvalidArgument("{}.max_rows: {}, expected at least {}, one for each of {}", where,
                             buffer.max_rows(), rows, EnumNameRows(buffer.rows()));
    }
    if (Count(buffer.columns()) != ranks_ || Count(buffer.offsets()) != ranks_ ||
        Count(buffer.bytes()) != ranks_) {
      return InvalidArgument("{}: {} columns, {} offsets, {} bytes, expected one each for {} ranks",
                             where, Count(buffer.columns()), Count(buffer.offsets()),
                             Count(buffer.bytes()), ranks_);
    }
    if (Count(buffer.nodes()) != 0 && Count(buffer.nodes()) != ranks_) {
      return InvalidArgument("{}.nodes: {}, expected none or one for each of {} ranks", where,
                             Count(buffer.nodes()), ranks_);
    }
    if (buffer.first_step() > buffer.last_step() ||
        buffer.last_step() >= program_.steps()->size()) {
      return InvalidArgument("{}: live from step {} to {}, but there are {} steps", where,
                             buffer.first_step(), buffer.last_step(), program_.steps()->size());
    }
    for (uint32_t r = 0; r < ranks_; ++r) {
      const uint64_t columns = buffer.columns()->Get(r);
      if (columns == 0) continue;
      if (columns > kLargestCount || (buffer.dtype() == DType::q8_rows && columns % 32 != 0)) {
        return InvalidArgument("{}.columns[{}]: {}, expected at most {}{}", where, r, columns,
                               kLargestCount,
                               buffer.dtype() == DType::q8_rows ? " and a multiple of 32" : "");
      }
      const uint64_t nodes = Count(buffer.nodes()) == 0 ? 1 : buffer.nodes()->Get(r);
      if (nodes < 1 || nodes > kMostNodes) {
        return InvalidArgument("{}.nodes[{}]: {}, expected 1 to {}", where, r, nodes, kMostNodes);
      }
      // Both counts are at most 2^28, an element takes 4 bytes: with 2^5 nodes no product wraps.
      const uint64_t needed = buffer.max_rows() * RowBytes(buffer.dtype(), columns) * nodes;
      const uint64_t bytes = buffer.bytes()->Get(r);
      if (bytes < needed) {
        return InvalidArgument("{}.bytes[{}]: {}, but {} rows of {} {}{} take {}", where, r, bytes,
                               buffer.max_rows(), columns, DTypeName(buffer.dtype()),
                               nodes == 1 ? "" : fmt::format(" for each of {} nodes", nodes),
                               needed);
      }
      const uint64_t offset = buffer.offsets()->Get(r);
      if (offset % kAlignment != 0) {
        return InvalidArgument("{}.offsets[{}]: {}, not a multiple of {}", where, r, offset,
                               kAlignment);
      }
      const auto* arenas = stage_.ranks()->Get(r)->arena_bytes();
      LLMIR_RETURN_IF_ERROR(CheckIndex(where + ".arena", buffer.arena(), Count(arenas), "arenas"));
      const std::optional<uint64_t> end = Sum(offset, bytes);
      if (!end || *end > arenas->Get(buffer.arena())) {
        return InvalidArgument("{}.offsets[{}]: {} + {} bytes, but arena {} has {}", where, r,
                               offset, bytes, buffer.arena(), arenas->Get(buffer.arena()));
      }
    }
    return Status();
  }

  // ---------------------------------------------------------- steps

  Status VerifyForm(uint32_t i) const {
    const Step& step = *program_.steps()->Get(i);
    LLMIR_RETURN_IF_ERROR(CheckEnum(fmt::format("{}.steps[{}].kind", where_, i),
                                    EnumNameStepKind(step.kind()),
                                    static_cast<unsigned>(step.kind())));
    const std::string where = StepPlace(i);
    if (Empty(step.name())) return InvalidArgument("{}.name: missing", where);
    if (step.layer() != -1 && (step.layer() < static_cast<int64_t>(stage_.layer_begin()) ||
                               step.layer() >= static_cast<int64_t>(stage_.layer_end()))) {
      return InvalidArgument("{}.layer: {}, but the stage has layers [{}, {})", where, step.layer(),
                             stage_.layer_begin(), stage_.layer_end());
    }
    if (Count(step.ranks()) != ranks_) {
      return InvalidArgument("{}.ranks: {}, but the stage has {}", where, Count(step.ranks()),
                             ranks_);
    }
    LLMIR_RETURN_IF_ERROR(VerifyCosts(step, where));
    return VerifySignature(step, i, where);
  }

  Status VerifyStep(uint32_t i) {
    const Step& step = *program_.steps()->Get(i);
    const std::string where = StepPlace(i);
    LLMIR_RETURN_IF_ERROR(VerifyAliases(step, where));
    if (Status status = VerifyTypes(step, where); !status.ok()) {
      if (!IsCollective(step.kind()) && !IsSend(step.kind()) && !IsRecv(step.kind())) return status;
      return InvalidArgument("{}{}", status.message(), Between(i));
    }
    for (uint32_t r = 0; r < ranks_; ++r) {
      if (step.ranks()->Get(r)->skip()) continue;
      LLMIR_RETURN_IF_ERROR(VerifyOnRank(step, r, where));
    }
    return Status();
  }

  static Status VerifyCosts(const Step& step, const std::string& where) {
    for (uint32_t r = 0; r < step.ranks()->size(); ++r) {
      const StepRank& rank = *step.ranks()->Get(r);
      bool valid = std::isfinite(rank.predicted_us()) && rank.predicted_us() >= 0;
      if (const Cost* cost = rank.cost()) {
        for (const double value :
             {cost->bytes(), cost->bytes_per_token(), cost->bytes_per_context(), cost->flops(),
              cost->flops_per_token(), cost->flops_per_context(),
              cost->message_bytes_per_token()}) {
          valid = valid && std::isfinite(value) && value >= 0;
        }
      }
      if (!valid) {
        return InvalidArgument("{}.ranks[{}].cost: a value is negative or not finite", where, r);
      }
    }
    return Status();
  }

  Status VerifySignature(const Step& step, uint32_t index, const std::string& where) const {
    const Signature signature = SignatureOf(step);
    const uint32_t outputs = Count(step.outputs());
    if (Count(step.inputs()) != signature.inputs) {
      return InvalidArgument("{}.inputs: {}, expected {}", where, Count(step.inputs()),
                             signature.inputs);
    }
    if (outputs != signature.outputs && !(signature.in_place && outputs == 1)) {
      return InvalidArgument("{}.outputs: {}, expected {}", where, outputs, signature.outputs);
    }
    for (const bool input : {true, false}) {
      const auto* operands = input ? step.inputs() : step.outputs();
      for (uint32_t k = 0; k < Count(operands); ++k) {
        const std::string place = fmt::format("{}.{}[{}]", where, input ? "inputs" : "outputs", k);
        const uint32_t b = operands->Get(k);
        LLMIR_RETURN_IF_ERROR(CheckIndex(place, b, Count(program_.buffers()), "buffers"));
        if (index < BufferAt(b).first_step() || index > BufferAt(b).last_step()) {
          return InvalidArgument("{}: buffers[{}] is live from step {} to {} only", place, b,
                                 BufferAt(b).first_step(), BufferAt(b).last_step());
        }
      }
    }
    if ((step.weight() >= 0) != signature.weight) {
      return InvalidArgument("{}.weight: {}, expected {}", where, step.weight(),
                             signature.weight ? "an index" : "none");
    }
    if (signature.weight) {
      LLMIR_RETURN_IF_ERROR(
          CheckIndex(where + ".weight", step.weight(), plan_.weights()->size(), "weights"));
    }
    if ((step.kernel() >= 0) != signature.kernel) {
      return InvalidArgument("{}.kernel: {}, expected {}", where, step.kernel(),
                             signature.kernel ? "an index" : "none");
    }
    if (signature.kernel) {
      LLMIR_RETURN_IF_ERROR(
          CheckIndex(where + ".kernel", step.kernel(), plan_.kernels()->size(), "kernels"));
    }
    LLMIR_RETURN_IF_ERROR(CheckEnum(where + ".epilogue", EnumNameEpilogue(step.epilogue()),
                                    static_cast<unsigned>(step.epilogue())));
    LLMIR_RETURN_IF_ERROR(
        CheckEnum(where + ".tree", EnumNameUnit(step.tree()), static_cast<unsigned>(step.tree())));
    if (step.tree() != Unit::whole && !IsSum(step.kind())) {
      return InvalidArgument("{}.tree: {}, which only all_reduce and reduce_scatter have", where,
                             EnumNameUnit(step.tree()));
    }
    LLMIR_RETURN_IF_ERROR(
        CheckEnum(where + ".wire", EnumNameWire(step.wire()), static_cast<unsigned>(step.wire())));
    if (step.wire() != Wire::f32) LLMIR_RETURN_IF_ERROR(VerifyWire(step, where));
    if (step.epilogue() != Epilogue::none && step.kind() != StepKind::linear) {
      return InvalidArgument("{}.epilogue: {}, which only linear has", where,
                             EnumNameEpilogue(step.epilogue()));
    }
    const bool attends =
        step.kind() == StepKind::paged_attention || step.kind() == StepKind::append_attend;
    if ((attends || step.kind() == StepKind::rope_append) && step.layer() < 0) {
      return InvalidArgument("{}.layer: {}, but the KV cache is kept by layer", where,
                             step.layer());
    }
    if (attends) {
      LLMIR_RETURN_IF_ERROR(VerifyAttention(step, where));
    } else if (step.attention() != nullptr) {
      return InvalidArgument("{}.attention: given, which only attention has", where);
    }
    if (!last_stage_ && (step.kind() == StepKind::sample || step.kind() == StepKind::score ||
                         step.kind() == StepKind::score_merge)) {
      return InvalidArgument("{}: only the last stage has the model's output", where);
    }
    return Status();
  }

  // Values that lose bits between hosts, where the plan says so.
  Status VerifyWire(const Step& step, const std::string& where) const {
    const std::string_view wire = EnumNameWire(step.wire());
    if (!TakesWire(step.kind())) {
      return InvalidArgument(
          "{}.wire: {}, which only all_reduce, reduce_scatter, all_gather, send and recv have",
          where, wire);
    }
    if (plan_.reproducible()) {
      return InvalidArgument(
          "{}.wire: {}, but results of a reproducible plan don't depend on hosts", where, wire);
    }
    if (step.tree() != Unit::whole) {
      return InvalidArgument("{}.wire: {}, but a sum over the tree of {} travels as it is", where,
                             wire, EnumNameUnit(step.tree()));
    }
    const auto& rows = IsRecv(step.kind()) ? Output(step, 0) : Input(step, 0);
    if (rows.dtype() == DType::f32) return Status();
    return InvalidArgument("{}.wire: {}, but its rows are {}; expected f32", where, wire,
                           DTypeName(rows.dtype()));
  }

  static bool CutsRows(StepKind kind) {
    return kind == StepKind::reduce_scatter || kind == StepKind::reduce_scatter_start ||
           kind == StepKind::all_gather || kind == StepKind::all_gather_start;
  }

  Status VerifyAttention(const Step& step, const std::string& where) const {
    const AttentionChoice* choice = step.attention();
    const AttentionForm form = choice == nullptr ? AttentionForm::flash : choice->form();
    LLMIR_RETURN_IF_ERROR(CheckEnum(where + ".attention.form", EnumNameAttentionForm(form),
                                    static_cast<unsigned>(form)));
    // Blocks out of the model's windows are given back: no step may reach further, and none less.
    const uint32_t window = choice == nullptr ? 0 : choice->window();
    const uint32_t expected = AttentionWindow(*plan_.model(), static_cast<uint32_t>(step.layer()));
    if (window != expected) {
      return InvalidArgument(
          "{}.attention.window: {}, but model.attention_windows gives layer {} {}", where, window,
          step.layer(), expected);
    }
    if (choice != nullptr && !(std::isfinite(choice->softcap()) && choice->softcap() >= 0)) {
      return InvalidArgument("{}.attention.softcap: {}, expected a number from 0", where,
                             choice->softcap());
    }
    if (step.kind() != StepKind::append_attend) return Status();
    if (form != AttentionForm::flash) {
      return InvalidArgument(
          "{}.attention.form: {}, but the step that also appends has flash alone", where,
          EnumNameAttentionForm(form));
    }
    if (program_.kind() != ProgramKind::decode) {
      return InvalidArgument(
          "{}: in a {} program, but it takes one token per sequence, as decode has", where,
          EnumNameProgramKind(program_.kind()));
    }
    return Status();
  }

  // Only sums of whole rows may write what they read: linear's residual, add, and what works in
  // place by definition.
  Status VerifyAliases(const Step& step, const std::string& where) const {
    const Signature signature = SignatureOf(step);
    for (uint32_t o = 0; o < Count(step.outputs()); ++o) {
      const uint32_t output = step.outputs()->Get(o);
      for (uint32_t k = 0; k < Count(step.inputs()); ++k) {
        const uint32_t input = step.inputs()->Get(k);
        if (CutsRows(step.kind())) {
          // From all tokens to a share, or back, at one place.
          if (SamePlace(input, output)) continue;
          return InvalidArgument(
              "{}.outputs[{}]: buffers[{}] lies elsewhere than buffers[{}], expected a view of it",
              where, o, output, input);
        }
        const bool same = signature.in_place ? input == output : Touch(input, output);
        if (signature.in_place
                ? !same
                : same && step.kind() != StepKind::add && step.kind() != StepKind::activation &&
                      step.kind() != StepKind::softcap &&
                      !(step.kind() == StepKind::linear && k == 1)) {
          return InvalidArgument(
              "{}.outputs[{}]: buffers[{}], expected {}", where, o, output,
              signature.in_place ? "the input, or none" : "another than the inputs");
        }
      }
      if (o > 0 && output == step.outputs()->Get(0)) {
        return InvalidArgument("{}.outputs[{}]: buffers[{}], named twice", where, o, output);
      }
    }
    return Status();
  }

  Status ExpectBuffer(const Buffer& buffer, DType dtype, Rows rows,
                      const std::string& where) const {
    if (buffer.dtype() != dtype) {
      return InvalidArgument("{}: buffer {} of {}, expected {}", where,
                             buffer.name()->string_view(), DTypeName(buffer.dtype()),
                             DTypeName(dtype));
    }
    if (buffer.rows() != rows) {
      return InvalidArgument("{}: buffer {} has rows for {}, expected {}", where,
                             buffer.name()->string_view(), EnumNameRows(buffer.rows()),
                             EnumNameRows(rows));
    }
    return Status();
  }

  // Element types and what rows stand for: the same on all ranks.
  Status VerifyTypes(const Step& step, const std::string& where) const {
    const auto input = [&](uint32_t i, DType dtype, Rows rows) {
      return ExpectBuffer(Input(step, i), dtype, rows, fmt::format("{}.inputs[{}]", where, i));
    };
    const auto output = [&](uint32_t i, DType dtype, Rows rows) {
      return ExpectBuffer(Output(step, i), dtype, rows, fmt::format("{}.outputs[{}]", where, i));
    };
    const DType activations = HasMatrix(step) ? ActivationType(step) : DType::f32;
    switch (step.kind()) {
      case StepKind::embedding:
        return output(0, DType::f32, Rows::tokens);
      case StepKind::rms_norm:
        LLMIR_RETURN_IF_ERROR(input(0, DType::f32, Input(step, 0).rows()));
        return output(0, Output(step, 0).dtype() == DType::q8_rows ? DType::q8_rows : DType::f32,
                      Input(step, 0).rows());
      case StepKind::quantize:
        LLMIR_RETURN_IF_ERROR(input(0, DType::f32, Input(step, 0).rows()));
        return output(0, DType::q8_rows, Input(step, 0).rows());
      case StepKind::linear:
        LLMIR_RETURN_IF_ERROR(input(0, activations, Input(step, 0).rows()));
        if (step.epilogue() == Epilogue::residual) {
          LLMIR_RETURN_IF_ERROR(input(1, DType::f32, Input(step, 0).rows()));
        }
        return output(0, DType::f32, Input(step, 0).rows());
      case StepKind::rope_append:
        return input(0, DType::f32, Rows::tokens);
      case StepKind::paged_attention:
      case StepKind::append_attend:
        LLMIR_RETURN_IF_ERROR(input(0, DType::f32, Rows::tokens));
        return output(0, DType::f32, Rows::tokens);
      case StepKind::add:
        LLMIR_RETURN_IF_ERROR(input(0, DType::f32, Input(step, 0).rows()));
        LLMIR_RETURN_IF_ERROR(input(1, DType::f32, Input(step, 0).rows()));
        return output(0, DType::f32, Input(step, 0).rows());
      case StepKind::gather_rows:
        LLMIR_RETURN_IF_ERROR(input(0, DType::f32, Rows::tokens));
        return output(0, DType::f32, Rows::sampled);
      case StepKind::all_reduce:
      case StepKind::all_reduce_start:
        if (Input(step, 0).rows() == Rows::share) return input(0, DType::f32, Rows::tokens);
        return input(0, DType::f32, Input(step, 0).rows());
      case StepKind::reduce_scatter:
      case StepKind::reduce_scatter_start:
        LLMIR_RETURN_IF_ERROR(input(0, DType::f32, Rows::tokens));
        return output(0, DType::f32, Rows::share);
      case StepKind::all_gather:
      case StepKind::all_gather_start: {
        const DType dtype = Input(step, 0).dtype() == DType::q8_rows ? DType::q8_rows : DType::f32;
        LLMIR_RETURN_IF_ERROR(input(0, dtype, Rows::share));
        return output(0, dtype, Rows::tokens);
      }
      case StepKind::broadcast:
      case StepKind::broadcast_start:
        if (!IsPart(Input(step, 0).rows())) return Status();
        return input(0, Input(step, 0).dtype(), Rows::tokens);
      case StepKind::layer_norm:
      case StepKind::softcap:
        if (step.kind() == StepKind::softcap &&
            !(std::isfinite(step.softcap()) && step.softcap() > 0)) {
          return InvalidArgument("{}.softcap: {}, expected a positive number", where,
                                 step.softcap());
        }
        LLMIR_RETURN_IF_ERROR(input(0, DType::f32, Input(step, 0).rows()));
        return output(0, DType::f32, Input(step, 0).rows());
      case StepKind::activation:
        LLMIR_RETURN_IF_ERROR(CheckEnum(where + ".activation",
                                        EnumNameActivation(step.activation()),
                                        static_cast<unsigned>(step.activation())));
        for (uint32_t k = 0; k < step.inputs()->size(); ++k) {
          LLMIR_RETURN_IF_ERROR(input(k, DType::f32, Input(step, 0).rows()));
        }
        return output(0, DType::f32, Input(step, 0).rows());
      case StepKind::dequantize:
        LLMIR_RETURN_IF_ERROR(input(0, DType::q8_rows, Input(step, 0).rows()));
        return output(0, DType::f32, Input(step, 0).rows());
      case StepKind::gather:
      case StepKind::gather_start:
        if (IsPart(Input(step, 0).rows())) return input(0, DType::f32, Rows::tokens);
        LLMIR_RETURN_IF_ERROR(input(0, DType::f32, Input(step, 0).rows()));
        return output(0, DType::f32, Input(step, 0).rows());
      case StepKind::sample: {
        // In a decode step every token's row samples, so the rows need not be gathered.
        const bool all_sample =
            program_.kind() == ProgramKind::decode && Input(step, 0).rows() == Rows::tokens;
        LLMIR_RETURN_IF_ERROR(input(0, DType::f32, all_sample ? Rows::tokens : Rows::sampled));
        return output(0, DType::i32, Rows::sampled);
      }
      case StepKind::score:
        LLMIR_RETURN_IF_ERROR(input(0, activations, Rows::tokens));
        LLMIR_RETURN_IF_ERROR(output(0, DType::f32, Rows::tokens));
        return output(1, DType::f32, Output(step, 1).rows());
      case StepKind::score_merge:
        LLMIR_RETURN_IF_ERROR(input(0, DType::f32, Rows::tokens));
        return output(0, DType::f32, Rows::tokens);
      case StepKind::send:
      case StepKind::send_start:
        if (!IsPart(Input(step, 0).rows())) return Status();
        return input(0, Input(step, 0).dtype(), Rows::tokens);
      case StepKind::recv:
      case StepKind::recv_start:
        if (!IsPart(Output(step, 0).rows())) return Status();
        return output(0, Output(step, 0).dtype(), Rows::tokens);
      case StepKind::wait:
      case StepKind::prefetch:
        return Status();
      default:
        return Incompatible("{}: this runtime has no step of this kind", where);
    }
  }

  static bool HasMatrix(const Step& step) {
    return step.kind() == StepKind::linear || step.kind() == StepKind::score;
  }
  // What a matrix of this type reads (kernels/linear.h).
  DType ActivationType(const Step& step) const {
    return IsQuantized(plan_.weights()->Get(step.weight())->dtype()) ? DType::q8_rows : DType::f32;
  }

  // ---------------------------------------------------------- columns on a rank

  Status ExpectColumns(const Buffer& buffer, uint32_t r, uint64_t expected,
                       const std::string& where) const {
    if (buffer.columns()->Get(r) == expected) return Status();
    return InvalidArgument("{}, rank {} of the stage: buffer {} has {} columns, expected {}", where,
                           r, buffer.name()->string_view(), buffer.columns()->Get(r), expected);
  }

  StatusOr<WeightShape> ShapeOnRank(const Step& step, uint32_t r, const std::string& where) {
    const Rank& rank = *stage_.ranks()->Get(r);
    if (rank_weights_.empty()) rank_weights_.resize(ranks_);
    std::unordered_set<uint32_t>& packed = rank_weights_[r];
    if (packed.empty() && Count(rank.weights()) > 0) {
      packed.insert(rank.weights()->begin(), rank.weights()->end());
    }
    if (!packed.contains(static_cast<uint32_t>(step.weight()))) {
      return InvalidArgument("{}.weight: {}, which rank {} of the stage does not pack", where,
                             step.weight(), r);
    }
    return RankWeightShape(plan_, *plan_.weights()->Get(step.weight()), rank);
  }

  Status VerifyOnRank(const Step& step, uint32_t r, const std::string& where) {
    for (uint32_t k = 0; k < Count(step.inputs()); ++k) {
      if (Input(step, k).columns()->Get(r) == 0) {
        return InvalidArgument("{}.inputs[{}]: rank {} of the stage does not have buffer {}", where,
                               k, r, Input(step, k).name()->string_view());
      }
    }
    for (uint32_t k = 0; k < Count(step.outputs()); ++k) {
      // A gather's result, which its wait may name, is the first rank's alone.
      const bool gathers = IsGather(step.kind()) || step.kind() == StepKind::wait;
      if (Output(step, k).columns()->Get(r) == 0 && !(gathers && r != 0)) {
        return InvalidArgument("{}.outputs[{}]: rank {} of the stage does not have buffer {}",
                               where, k, r, Output(step, k).name()->string_view());
      }
    }

    const Model& model = *plan_.model();
    const Rank& rank = *stage_.ranks()->Get(r);
    const uint64_t query = RankLeaves(rank, Unit::query_head).count();
    const uint64_t kv = RankLeaves(rank, Unit::kv_head).count();
    const auto input = [&](uint32_t i, uint64_t columns) {
      return ExpectColumns(Input(step, i), r, columns, fmt::format("{}.inputs[{}]", where, i));
    };
    const auto output = [&](uint32_t i, uint64_t columns) {
      return ExpectColumns(Output(step, i), r, columns, fmt::format("{}.outputs[{}]", where, i));
    };
    switch (step.kind()) {
      case StepKind::embedding: {
        LLMIR_ASSIGN_OR_RETURN(const WeightShape shape, ShapeOnRank(step, r, where));
        LLMIR_RETURN_IF_ERROR(VerifyTable(step, where));
        LLMIR_RETURN_IF_ERROR(output(0, model.hidden()));
        return output(0, shape.columns);
      }
      case StepKind::layer_norm:
      case StepKind::rms_norm: {
        LLMIR_ASSIGN_OR_RETURN(const WeightShape shape, ShapeOnRank(step, r, where));
        if (!IsVector(plan_, *plan_.weights()->Get(step.weight()))) {
          return InvalidArgument("{}.weight: {} is a matrix, expected a vector", where,
                                 step.weight());
        }
        LLMIR_RETURN_IF_ERROR(input(0, shape.columns));
        return output(0, shape.columns);
      }
      case StepKind::linear: {
        LLMIR_ASSIGN_OR_RETURN(const WeightShape shape, ShapeOnRank(step, r, where));
        const Weight& weight = *plan_.weights()->Get(step.weight());
        LLMIR_RETURN_IF_ERROR(ExpectMatrix(step, where));
        const bool gated = step.epilogue() == Epilogue::silu_mul;
        if (gated != (weight.interleave() == Interleave::panels)) {
          return InvalidArgument("{}.epilogue: {}, but weights[{}] is interleaved by {}", where,
                                 EnumNameEpilogue(step.epilogue()), step.weight(),
                                 EnumNameInterleave(weight.interleave()));
        }
        LLMIR_RETURN_IF_ERROR(input(0, shape.columns));
        const uint64_t columns = gated ? shape.rows / 2 : shape.rows;
        if (step.epilogue() == Epilogue::residual) LLMIR_RETURN_IF_ERROR(input(1, columns));
        LLMIR_RETURN_IF_ERROR(VerifyNodes(step, r, where));
        return output(0, columns);
      }
      case StepKind::rope_append:
        return input(0, (query + 2 * kv) * model.head_dim());
      case StepKind::paged_attention:
      case StepKind::append_attend:
        LLMIR_RETURN_IF_ERROR(input(0, (query + 2 * kv) * model.head_dim()));
        return output(0, query * model.head_dim());
      case StepKind::add:
        LLMIR_RETURN_IF_ERROR(input(1, Input(step, 0).columns()->Get(r)));
        return output(0, Input(step, 0).columns()->Get(r));
      case StepKind::activation:
        LLMIR_RETURN_IF_ERROR(input(step.inputs()->size() - 1, Input(step, 0).columns()->Get(r)));
        return output(0, Input(step, 0).columns()->Get(r));
      case StepKind::quantize:
      case StepKind::softcap:
      case StepKind::dequantize:
      case StepKind::gather_rows:
        return output(0, Input(step, 0).columns()->Get(r));
      case StepKind::prefetch:
        LLMIR_RETURN_IF_ERROR(ShapeOnRank(step, r, where).status());
        return ExpectMatrix(step, where);
      case StepKind::sample:
        LLMIR_RETURN_IF_ERROR(VerifyFirstRankAlone(step, where));
        LLMIR_RETURN_IF_ERROR(input(0, model.vocabulary()));
        return output(0, 1);
      case StepKind::score: {
        LLMIR_ASSIGN_OR_RETURN(const WeightShape shape, ShapeOnRank(step, r, where));
        LLMIR_RETURN_IF_ERROR(VerifyTable(step, where));
        LLMIR_RETURN_IF_ERROR(input(0, shape.columns));
        // The parts of a reproducible plan don't depend on who has which rows.
        const uint64_t score_parts =
            plan_.reproducible() ? RankLeaves(rank, Unit::vocabulary).count() : 1;
        LLMIR_RETURN_IF_ERROR(output(0, kPartColumns * score_parts));
        if (Output(step, 1).columns()->Get(r) < shape.rows) {
          return InvalidArgument(
              "{}.outputs[1], rank {} of the stage: buffer {} has {} columns, but a row of logits "
              "has {}",
              where, r, Output(step, 1).name()->string_view(), Output(step, 1).columns()->Get(r),
              shape.rows);
        }
        return Status();
      }
      case StepKind::score_merge:
        LLMIR_RETURN_IF_ERROR(VerifyFirstRankAlone(step, where));
        LLMIR_RETURN_IF_ERROR(
            input(0, uint64_t{kPartColumns} *
                         (plan_.reproducible() ? LeafCount(model, Unit::vocabulary) : ranks_)));
        return output(0, 1);
      case StepKind::wait:
        return Status();
      default:
        // Rehearse has compared exchanges among ranks.
        if (IsCollective(step.kind()) || IsSend(step.kind()) || IsRecv(step.kind())) {
          return Status();
        }
        return Incompatible("{}: this runtime has no step of this kind", where);
    }
  }

  // A rank that makes nodes of a tree makes those that cover its leaves.
  Status VerifyNodes(const Step& step, uint32_t r, const std::string& where) const {
    const Buffer& buffer = Output(step, 0);
    if (Count(buffer.nodes()) == 0) return Status();
    const Unit unit = plan_.weights()->Get(static_cast<uint32_t>(step.weight()))->unit();
    if (!DividesSum(step)) {
      return InvalidArgument(
          "{}.outputs[0]: buffer {} is for nodes of a sum, but the step makes whole ones", where,
          buffer.name()->string_view());
    }
    const Leaves leaves = RankLeaves(*stage_.ranks()->Get(r), unit);
    const auto nodes = CoveringNodes(leaves, LeafCount(*plan_.model(), unit));
    if (buffer.nodes()->Get(r) == nodes.size()) return Status();
    return InvalidArgument(
        "{}.outputs[0], rank {} of the stage: buffer {} is for {} nodes of the tree over {} {} "
        "leaves, but leaves [{}, {}) are covered by {}",
        where, r, buffer.name()->string_view(), buffer.nodes()->Get(r),
        LeafCount(*plan_.model(), unit), EnumNameUnit(unit), leaves.begin, leaves.end,
        nodes.size());
  }

  Status ExpectMatrix(const Step& step, const std::string& where) const {
    if (!IsVector(plan_, *plan_.weights()->Get(step.weight()))) return Status();
    return InvalidArgument("{}.weight: {} is a vector, expected a matrix", where, step.weight());
  }

  // A matrix with one row per token id of the rank: its rows are found by id, so nothing else may
  // be joined to it.
  Status VerifyTable(const Step& step, const std::string& where) const {
    LLMIR_RETURN_IF_ERROR(ExpectMatrix(step, where));
    const Weight& weight = *plan_.weights()->Get(step.weight());
    const Tensor& tensor = *plan_.tensors()->Get(weight.pieces()->Get(0));
    if (weight.pieces()->size() == 1 && tensor.rows() == plan_.model()->vocabulary() &&
        weight.axis() != Axis::columns) {
      return Status();
    }
    return InvalidArgument("{}.weight: {} is not one tensor with a row per token id", where,
                           step.weight());
  }

  Status VerifyFirstRankAlone(const Step& step, const std::string& where) const {
    for (uint32_t r = 0; r < ranks_; ++r) {
      if (step.ranks()->Get(r)->skip() == (r != 0)) continue;
      return InvalidArgument(
          "{}.ranks[{}].skip: {}, expected only the stage's first rank to run it", where, r,
          step.ranks()->Get(r)->skip());
    }
    return Status();
  }

  // ---------------------------------------------------------- order

  // Each event is signalled, then waited for, before it is signalled again or the program ends;
  // while its collective or message is under way no other step touches the rows. While a collective
  // is, none waits for another stage, which would keep the collective from moving on.
  Status VerifyEvents() const {
    constexpr int64_t kIdle = -1;
    std::vector<int64_t> pending(program_.events(), kIdle);  // the step that signalled it
    // The buffers of all rows that they touch, and the steps that started them.
    std::vector<std::pair<uint32_t, uint32_t>> in_flight;
    for (uint32_t i = 0; i < program_.steps()->size(); ++i) {
      const Step& step = *program_.steps()->Get(i);
      const bool waits = step.kind() == StepKind::wait;
      for (const auto* operands : {step.inputs(), step.outputs()}) {
        for (uint32_t k = 0; k < Count(operands) && !waits; ++k) {
          for (const auto& [buffer, start] : in_flight) {
            if (!Touch(buffer, operands->Get(k))) continue;
            return InvalidArgument("{}: uses buffers[{}] while steps[{}] is still under way{}",
                                   StepPlace(i), operands->Get(k), start, Between(start));
          }
        }
      }
      if (step.kind() == StepKind::send || step.kind() == StepKind::recv) {
        LLMIR_RETURN_IF_ERROR(VerifyNoCollective(i, pending));
      }
      const bool signals = IsStart(step.kind());
      if ((step.signals() >= 0) != signals) {
        return InvalidArgument("{}.signals: {}, expected {}", StepPlace(i), step.signals(),
                               signals ? "an event" : "none");
      }
      if (Count(step.waits()) != (waits ? 1 : 0)) {
        return InvalidArgument("{}.waits: {} events, expected {}", StepPlace(i),
                               Count(step.waits()), waits ? 1 : 0);
      }
      if (signals) {
        const auto event = static_cast<uint32_t>(step.signals());
        LLMIR_RETURN_IF_ERROR(
            CheckIndex(StepPlace(i) + ".signals", event, pending.size(), "events"));
        if (pending[event] != kIdle) {
          return InvalidArgument(
              "{}.signals: event {}, which steps[{}] signals and nobody waited for{}", StepPlace(i),
              event, pending[event], Between(static_cast<uint32_t>(pending[event])));
        }
        pending[event] = i;
        in_flight.emplace_back(WholeOf(step), i);
        if (step.kind() == StepKind::gather_start) in_flight.emplace_back(ResultOf(step), i);
        // Each channel's own, on the rank with most.
        uint32_t open = 0;
        for (const int64_t other : pending) {
          if (other == kIdle) continue;
          const Step& start = *program_.steps()->Get(static_cast<uint32_t>(other));
          if (IsCollective(start.kind()) == IsCollective(step.kind())) open += Requests(start);
        }
        if (open > kMaxPending) {
          return InvalidArgument("{}: {} operations under way, a channel holds {}", StepPlace(i),
                                 open, kMaxPending);
        }
      }
      if (waits) {
        const uint32_t event = step.waits()->Get(0);
        LLMIR_RETURN_IF_ERROR(
            CheckIndex(StepPlace(i) + ".waits[0]", event, pending.size(), "events"));
        if (pending[event] == kIdle) {
          return InvalidArgument(
              "{}.waits[0]: event {}, which no step before it signals: {} would wait for ever",
              StepPlace(i), event, RankNames());
        }
        const Step& start = *program_.steps()->Get(static_cast<uint32_t>(pending[event]));
        const uint32_t buffer = ResultOf(start);
        // What a recv_start reads comes from another rank.
        const uint32_t read = Count(start.inputs()) > 0 ? start.inputs()->Get(0) : buffer;
        for (const uint32_t used : {read, buffer}) {
          if (i <= BufferAt(used).last_step()) continue;
          return InvalidArgument(
              "{}: waits for the sum of buffers[{}], which is live to step {} only{}", StepPlace(i),
              used, BufferAt(used).last_step(), Between(static_cast<uint32_t>(pending[event])));
        }
        if (Count(step.outputs()) > 0 && step.outputs()->Get(0) != buffer) {
          return InvalidArgument(
              "{}.outputs[0]: buffers[{}], but the sum of steps[{}] is in buffers[{}]{}",
              StepPlace(i), step.outputs()->Get(0), pending[event], buffer,
              Between(static_cast<uint32_t>(pending[event])));
        }
        for (uint32_t r = 0; r < ranks_; ++r) {
          if (step.ranks()->Get(r)->skip() == start.ranks()->Get(r)->skip()) continue;
          return InvalidArgument(
              "{}.ranks[{}].skip: {}, but it waits for steps[{}], where it is {}{}", StepPlace(i),
              r, step.ranks()->Get(r)->skip(), pending[event], start.ranks()->Get(r)->skip(),
              Between(static_cast<uint32_t>(pending[event])));
        }
        std::erase_if(in_flight, [&](const auto& entry) { return entry.second == pending[event]; });
        pending[event] = kIdle;
        if (!IsCollective(start.kind())) LLMIR_RETURN_IF_ERROR(VerifyNoCollective(i, pending));
      }
    }
    for (size_t event = 0; event < pending.size(); ++event) {
      if (pending[event] != kIdle) {
        return InvalidArgument("{}: event {}, which no step waits for{}",
                               StepPlace(static_cast<uint32_t>(pending[event])), event,
                               Between(static_cast<uint32_t>(pending[event])));
      }
    }
    return Status();
  }

  // ", between ranks 0, 1": who exchanges at step i; of messages one pair.
  std::string Between(uint32_t i) const {
    const Step& step = *program_.steps()->Get(i);
    if (IsCollective(step.kind())) return fmt::format(", between {}", RankNames());
    for (uint32_t r = 0; r < ranks_; ++r) {
      const StepRank& rank = *step.ranks()->Get(r);
      if (rank.skip() || Count(rank.peers()) == 0) continue;
      return fmt::format(", between rank {} and rank {}", stage_.ranks()->Get(r)->world_rank(),
                         rank.peers()->Get(0));
    }
    return "";
  }

  // Step i waits for another stage: none of the pending starts (-1: none) may be a collective.
  Status VerifyNoCollective(uint32_t i, const std::vector<int64_t>& pending) const {
    for (const int64_t start : pending) {
      if (start < 0 || !IsCollective(program_.steps()->Get(static_cast<uint32_t>(start))->kind())) {
        continue;
      }
      return InvalidArgument(
          "{}: waits for another stage while the collective of steps[{}] is under way{}",
          StepPlace(i), start, Between(static_cast<uint32_t>(start)));
    }
    return Status();
  }

  // Operations that a start opens on its channel, on the rank with most.
  static uint32_t Requests(const Step& start) {
    uint32_t most = 1;
    for (const StepRank* rank : *start.ranks()) most = std::max(most, Count(rank->peers()));
    return most;
  }

  // Of a start: the buffer with all the rows that it touches, and the one with its result; a gather
  // touches both.
  static uint32_t WholeOf(const Step& step) {
    return step.kind() == StepKind::all_gather_start || step.kind() == StepKind::recv_start
               ? step.outputs()->Get(0)
               : step.inputs()->Get(0);
  }
  static uint32_t ResultOf(const Step& step) {
    return Count(step.outputs()) > 0 ? step.outputs()->Get(0) : step.inputs()->Get(0);
  }

  // The last stage's program ends in what its kind is for, once.
  Status VerifyEnd() const {
    if (!last_stage_) return Status();
    const StepKind expected =
        program_.kind() == ProgramKind::score ? StepKind::score_merge : StepKind::sample;
    uint32_t found = 0;
    for (const Step* step : *program_.steps()) {
      const bool runs = !step->ranks()->Get(0)->skip();
      if (step->kind() == expected && runs) ++found;
    }
    if (found == 1) return Status();
    return InvalidArgument("{}.steps: {} of kind {} on the first rank, expected one", where_, found,
                           EnumNameStepKind(expected));
  }

  // Which rows of a place have been written, and are of one age.
  class WrittenRows {
   public:
    void Write(Rows rows) {
      switch (rows) {
        case Rows::first_half:
        case Rows::second_half:
          if (state_ == State::nothing || state_ == State::share) halves_ = {0, 0};
          if (state_ == State::all) halves_ = {1, 1};
          state_ = State::halves;
          ++halves_[rows == Rows::first_half ? 0 : 1];
          break;
        case Rows::share:
          state_ = State::share;
          break;
        default:
          state_ = State::all;
      }
    }
    bool Has(Rows rows) const {
      switch (state_) {
        case State::nothing:
          return false;
        case State::all:
          return true;
        case State::share:
          return rows == Rows::share;
        case State::halves:
          if (rows == Rows::first_half) return halves_[0] > 0;
          if (rows == Rows::second_half) return halves_[1] > 0;
          // Rewritten equally often: what one half has gone through, so has the other.
          return halves_[0] == halves_[1];
      }
      return false;
    }

   private:
    enum class State { nothing, all, halves, share };
    State state_ = State::nothing;
    std::array<uint32_t, 2> halves_{};  // times that each has been written
  };

  // A step reads only rows that steps before it wrote on this rank.
  Status VerifyDefinedBeforeUse(uint32_t r) const {
    // By place.
    std::vector<WrittenRows> written(Count(program_.buffers()));
    std::vector<int64_t> writer(written.size(), -1);  // the last step that wrote there
    for (uint32_t i = 0; i < program_.steps()->size(); ++i) {
      const Step& step = *program_.steps()->Get(i);
      if (step.ranks()->Get(r)->skip()) continue;
      for (uint32_t k = 0; k < Count(step.inputs()); ++k) {
        const uint32_t b = step.inputs()->Get(k);
        if (IsBroadcast(step.kind()) && r != 0) written[Find(b)].Write(BufferAt(b).rows());
        if (!written[Find(b)].Has(BufferAt(b).rows())) {
          std::string part;
          if (const int64_t last = writer[Find(b)]; last >= 0) {
            part = fmt::format(": {}, on {}, is the last to have written rows of it",
                               StepPlace(static_cast<uint32_t>(last)), RankNames());
          }
          if (IsCollective(step.kind()) || IsSend(step.kind())) part += Between(i);
          return InvalidArgument("{}.inputs[{}]: buffers[{}] has not been written on rank {}{}",
                                 StepPlace(i), k, b, stage_.ranks()->Get(r)->world_rank(), part);
        }
      }
      if (IsGather(step.kind()) && r != 0) continue;
      for (uint32_t k = 0; k < Count(step.outputs()); ++k) {
        const uint32_t b = step.outputs()->Get(k);
        // What works in place writes no row that it hasn't read.
        if (SignatureOf(step).in_place) continue;
        written[Find(b)].Write(BufferAt(b).rows());
        writer[Find(b)] = i;
      }
    }
    return Status();
  }

  // Where the work of a matrix, or the rows of the embedding, are divided among ranks, each has a
  // part of the sum: until a collective has added the parts up, only that collective and what keeps
  // sums apart (add, gather_rows) may read them, and nothing is added up twice.
  Status VerifySums() const {
    if (ranks_ == 1) return Status();
    constexpr int64_t kWhole = -1;
    // Of each place, for the first half's rows, the second's and a share's: the step that made the
    // part of a sum that is there, or kWhole.
    using Rest = std::array<int64_t, 3>;
    std::vector<Rest> made(Count(program_.buffers()), Rest{kWhole, kWhole, kWhole});
    const auto rows_of = [&](uint32_t b) {
      switch (BufferAt(b).rows()) {
        case Rows::first_half:
          return std::pair(0, 1);
        case Rows::second_half:
          return std::pair(1, 2);
        case Rows::share:
          return std::pair(2, 3);
        default:
          return std::pair(0, 3);
      }
    };
    const auto write = [&](uint32_t b, int64_t step) {
      const auto [begin, end] = rows_of(b);
      std::fill(made[Find(b)].begin() + begin, made[Find(b)].begin() + end, step);
    };
    for (uint32_t i = 0; i < program_.steps()->size(); ++i) {
      const Step& step = *program_.steps()->Get(i);
      if (step.kind() == StepKind::wait) continue;  // the start has made it whole
      const bool keeps_apart = step.kind() == StepKind::add || step.kind() == StepKind::gather_rows;
      int64_t result = DividesSum(step) ? i : kWhole;
      for (uint32_t k = 0; k < Count(step.inputs()); ++k) {
        const uint32_t b = step.inputs()->Get(k);
        const auto [begin, end] = rows_of(b);
        // All tokens are read as two halves; a share of them is there only where one was written.
        const int last = end - begin == 3 ? 2 : end;
        for (int part = begin; part < last; ++part) {
          const bool compared = keeps_apart && (k > 0 || part > begin);
          const int64_t maker = made[Find(b)][static_cast<size_t>(part)];
          if (maker != kWhole && !keeps_apart && !IsSum(step.kind())) {
            return InvalidArgument(
                "{}.inputs[{}]: buffers[{}] holds parts of a sum, one on each of {}, which {} "
                "made: "
                "no all_reduce or reduce_scatter of these ranks is between the two",
                StepPlace(i), k, b, RankNames(), StepPlace(static_cast<uint32_t>(maker)));
          }
          const bool expected = IsSum(step.kind()) || (compared && result != kWhole);
          if (maker == kWhole && expected) {
            return InvalidArgument(
                "{}.inputs[{}]: buffers[{}] is whole on each of {}, expected parts of a sum: it "
                "would count {} times",
                StepPlace(i), k, b, RankNames(), ranks_);
          }
          if (maker == kWhole) continue;
          LLMIR_RETURN_IF_ERROR(VerifyTree(i, k, static_cast<uint32_t>(maker)));
          if (compared && result == kWhole) {
            return InvalidArgument(
                "{}.inputs[{}]: buffers[{}] holds parts of a sum, one on each of {}, which {} "
                "made, "
                "but what it is added to is whole: no all_reduce or reduce_scatter of these ranks "
                "is between "
                "the two",
                StepPlace(i), k, b, RankNames(), StepPlace(static_cast<uint32_t>(maker)));
          }
          if (keeps_apart) result = maker;
        }
      }
      if (DividesSum(step) && step.epilogue() == Epilogue::residual) {
        return InvalidArgument(
            "{}.epilogue: residual, but each of {} makes a part of the sum: it would count {} "
            "times",
            StepPlace(i), RankNames(), ranks_);
      }
      if (SignatureOf(step).in_place && Count(step.inputs()) > 0) {
        write(step.inputs()->Get(0), result);
      }
      for (uint32_t k = 0; k < Count(step.outputs()); ++k) write(step.outputs()->Get(k), result);
    }
    return Status();
  }

  // What `maker` made parts of, step `i` reads as its input `k`: a sum over a tree reads the nodes
  // of that tree, and nothing else reads nodes. In a reproducible plan every sum of a matrix is one
  // over its tree.
  Status VerifyTree(uint32_t i, uint32_t k, uint32_t maker) const {
    const Step& step = *program_.steps()->Get(i);
    const Step& made = *program_.steps()->Get(maker);
    const bool nodes = Count(Output(made, 0).nodes()) != 0;
    const Unit unit = plan_.weights()->Get(static_cast<uint32_t>(made.weight()))->unit();
    const Unit expected = nodes ? unit : Unit::whole;
    if (IsSum(step.kind()) ? step.tree() != expected : nodes) {
      return InvalidArgument(
          "{}.inputs[{}]: buffers[{}] holds {}, which {} made, but the step {}{}", StepPlace(i), k,
          step.inputs()->Get(k),
          nodes ? fmt::format("nodes of the tree of {} leaves", EnumNameUnit(unit))
                : "one part of a sum per rank",
          StepPlace(maker),
          IsSum(step.kind()) ? fmt::format("sums over the tree of {}", EnumNameUnit(step.tree()))
                             : "reads the first of them alone",
          Between(i));
    }
    if (plan_.reproducible() && made.kind() == StepKind::linear && !nodes) {
      return InvalidArgument(
          "{}.inputs[{}]: buffers[{}] holds one part of a sum per rank, which {} made, but the "
          "plan "
          "is reproducible: its sums are over the tree of {} leaves{}",
          StepPlace(i), k, step.inputs()->Get(k), StepPlace(maker), EnumNameUnit(unit), Between(i));
    }
    return Status();
  }

  // Whether each rank of the stage makes a part of what the step's result is the sum of.
  bool DividesSum(const Step& step) const {
    if (step.kind() != StepKind::linear && step.kind() != StepKind::embedding) return false;
    const Weight& weight = *plan_.weights()->Get(static_cast<uint32_t>(step.weight()));
    if (weight.unit() == Unit::whole) return false;
    return step.kind() == StepKind::embedding || weight.axis() == Axis::columns;
  }

  // "ranks 4, 5": of the world.
  std::string RankNames() const {
    std::string text;
    for (const Rank* rank : *stage_.ranks()) {
      text += fmt::format("{}{}", text.empty() ? "ranks " : ", ", rank->world_rank());
    }
    return text;
  }

  // The place of a buffer: views of one that are live at one step have it in common.
  uint32_t Find(uint32_t b) const {
    while (places_[b] != b) b = places_[b];
    return b;
  }

  // Buffers that are live at the same step lie apart, unless they are views of one place. A sweep
  // over the steps keeps the live ones of each arena ordered by place; since places are apart, a
  // new one need only be held against its two neighbours.
  Status VerifyApart(uint32_t r) {
    std::vector<uint32_t> order;
    for (uint32_t b = 0; b < Count(program_.buffers()); ++b) {
      if (BufferAt(b).columns()->Get(r) > 0) order.push_back(b);
    }
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
      return BufferAt(a).first_step() < BufferAt(b).first_step();
    });
    using Place = std::pair<uint32_t, uint64_t>;  // arena, offset
    std::map<Place, std::vector<uint32_t>> live;
    const auto ends_later = [&](uint32_t a, uint32_t b) {
      return BufferAt(a).last_step() > BufferAt(b).last_step();
    };
    std::priority_queue<uint32_t, std::vector<uint32_t>, decltype(ends_later)> expiring(ends_later);
    const auto place = [&](uint32_t b) {
      return Place(BufferAt(b).arena(), BufferAt(b).offsets()->Get(r));
    };
    const auto overlap = [&](uint32_t a, uint32_t b) {
      return InvalidArgument(
          "{}: overlaps buffers[{}] in arena {} of rank {} while both are live, from steps[{}] to "
          "steps[{}]",
          BufferPlace(a), b, BufferAt(a).arena(), stage_.ranks()->Get(r)->world_rank(),
          std::max(BufferAt(a).first_step(), BufferAt(b).first_step()),
          std::min(BufferAt(a).last_step(), BufferAt(b).last_step()));
    };
    for (const uint32_t b : order) {
      while (!expiring.empty() && BufferAt(expiring.top()).last_step() < BufferAt(b).first_step()) {
        const auto ended = live.find(place(expiring.top()));
        std::erase(ended->second, expiring.top());
        if (ended->second.empty()) live.erase(ended);
        expiring.pop();
      }
      const auto [arena, offset] = place(b);
      auto next = live.lower_bound({arena, offset});
      if (next != live.end() && next->first == Place(arena, offset)) {
        for (const uint32_t other : next->second) {
          if (!MayOverlap(b, other)) return overlap(b, other);
          places_[Find(b)] = Find(other);
        }
        ++next;
      }
      if (next != live.end() && next->first.first == arena &&
          next->first.second < offset + BufferAt(b).bytes()->Get(r)) {
        return overlap(b, next->second.front());
      }
      if (const auto at = live.lower_bound({arena, offset}); at != live.begin()) {
        const auto& [before, buffers] = *std::prev(at);
        if (before.first == arena &&
            before.second + BufferAt(buffers.front()).bytes()->Get(r) > offset) {
          return overlap(b, buffers.front());
        }
      }
      live[Place(arena, offset)].push_back(b);
      expiring.push(b);
    }
    return Status();
  }

  const Plan& plan_;
  const Stage& stage_;
  const bool last_stage_;
  const Program& program_;
  const std::string where_;
  const uint32_t ranks_;
  std::vector<std::unordered_set<uint32_t>> rank_weights_;
  std::vector<uint32_t> places_;  // by buffer: another one at its place, or itself (union-find)
};

// Of a stage without collectives too.
Status VerifyGroup(const Plan& plan, const Stage& stage, const std::string& where) {
  const auto* ranks = plan.groups()->Get(stage.group())->ranks();
  const bool same =
      Count(ranks) == stage.ranks()->size() &&
      std::equal(ranks->begin(), ranks->end(), stage.ranks()->begin(),
                 [](uint32_t member, const Rank* rank) { return member == rank->world_rank(); });
  if (same) return Status();
  return InvalidArgument(
      "{}.group: groups[{}] does not hold exactly the stage's ranks in their order", where,
      stage.group());
}

}  // namespace

Status VerifyPrograms(const Plan& plan, const Replica& replica, const std::string& where) {
  const uint32_t stages = replica.stages()->size();
  const auto& first = *replica.stages()->Get(0)->programs();
  std::vector<ProgramVerifier> verifiers;
  for (uint32_t s = 0; s < stages; ++s) {
    const Stage& stage = *replica.stages()->Get(s);
    const std::string stage_place = fmt::format("{}.stages[{}]", where, s);
    if (stage.programs()->size() != first.size()) {
      return InvalidArgument("{}.programs: {}, but the first stage has {}", stage_place,
                             stage.programs()->size(), first.size());
    }
    for (uint32_t p = 0; p < first.size(); ++p) {
      const Program& program = *stage.programs()->Get(p);
      const std::string place = fmt::format("{}.programs[{}]", stage_place, p);
      // A descriptor makes all stages run the program of one index.
      const Program& leader = *first.Get(p);
      if (program.kind() != leader.kind() || program.min_tokens() != leader.min_tokens() ||
          program.max_tokens() != leader.max_tokens() ||
          program.max_sampled() != leader.max_sampled()) {
        return InvalidArgument(
            "{}: kind, min_tokens, max_tokens or max_sampled differ from the first stage's", place);
      }
      verifiers.emplace_back(plan, stage, s + 1 == stages, program, place);
      LLMIR_RETURN_IF_ERROR(verifiers.back().VerifyForms());
    }
  }
  // Before the operands: where ranks don't agree on a message, both are to be named, not the step
  // that misses it.
  for (uint32_t p = 0; p < first.size(); ++p) {
    LLMIR_RETURN_IF_ERROR(Rehearse(plan, replica, p, where));
  }
  LLMIR_RETURN_IF_ERROR(RehearseInFlight(plan, replica, where));
  for (uint32_t s = 0; s < stages; ++s) {
    LLMIR_RETURN_IF_ERROR(
        VerifyGroup(plan, *replica.stages()->Get(s), fmt::format("{}.stages[{}]", where, s)));
  }
  for (ProgramVerifier& verifier : verifiers) LLMIR_RETURN_IF_ERROR(verifier.VerifyOperands());
  return Status();
}

}  // namespace llmir::plan
