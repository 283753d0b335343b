#include "executor/activation_collector.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "executor/weights.h"
#include "kernels/linear.h"
#include "plan_schema/base/memory_map.h"
#include "plan_schema/plan_facts.h"

namespace llmir::executor {

struct ActivationCollector::Input {
  std::string name;
  std::vector<std::string> tensors;
  int64_t columns = 0;
  uint64_t tokens = 0;
  std::vector<double> abs, square;
  std::vector<float> max_abs;
  MemoryMap gram;  // [columns][columns] floats
};

struct ActivationCollector::State {
  const plan::Plan* plan;
  const kernels::LinearKernel* kernel;
  std::map<std::string, Input> inputs;
  std::string embedding;
  std::vector<float> uses;
  // A step's input with tokens innermost, as rows of floats and as packed panels; and each thread's
  // room for packing and for the kernel.
  int64_t largest_tokens = 0;
  MemoryMap transposed, packed;
  std::vector<MemoryMap> scratch;
};

namespace {

// A score step and the last linear step read the same.
std::string InputName(const plan::Step& step) {
  return step.kind() == plan::StepKind::score ? "head" : step.name()->str();
}

bool ReadsRows(const plan::Step& step) {
  return step.kind() == plan::StepKind::linear || step.kind() == plan::StepKind::score;
}

int64_t PaddedTokens(int64_t tokens) { return (tokens + 15) / 16 * 16; }

}  // namespace

ActivationCollector::ActivationCollector(std::unique_ptr<State> state) : state_(std::move(state)) {}
ActivationCollector::ActivationCollector(ActivationCollector&&) noexcept = default;
ActivationCollector& ActivationCollector::operator=(ActivationCollector&&) noexcept = default;
ActivationCollector::~ActivationCollector() = default;

StatusOr<ActivationCollector> ActivationCollector::Create(const plan::Plan& plan, kernels::Isa isa,
                                                          int threads) {
  if (plan::WorldSize(plan) != 1) {
    return Incompatible(
        "--collect-activations: the plan is for {} ranks, expected one, which sees whole rows: "
        "plan with --tp 1 --pp 1",
        plan::WorldSize(plan));
  }
  auto state = std::make_unique<State>();
  state->plan = &plan;
  state->kernel = kernels::FindLinear("linear_f32_f32", isa);
  state->uses.resize(plan.model()->vocabulary());
  int64_t largest_columns = 0;
  for (const plan::Program* program : *plan.replicas()->Get(0)->stages()->Get(0)->programs()) {
    state->largest_tokens = std::max<int64_t>(state->largest_tokens, program->max_tokens());
    for (const plan::Step* step : *program->steps()) {
      if (step->weight() < 0) continue;
      const plan::Weight& weight = *plan.weights()->Get(step->weight());
      if (step->kind() == plan::StepKind::embedding)
        state->embedding = plan.tensors()->Get(weight.pieces()->Get(0))->name()->str();
      if (!ReadsRows(*step)) continue;
      if (plan::IsQuantized(weight.dtype())) {
        return Incompatible(
            "--collect-activations: weight {} is {} and reads activations that are rounded to "
            "int8, expected floats: plan with --weights f32",
            weight.name()->string_view(), plan::DTypeName(weight.dtype()));
      }
      Input& input = state->inputs[InputName(*step)];
      if (!input.name.empty()) continue;
      input.name = InputName(*step);
      for (const uint32_t piece : *weight.pieces())
        input.tensors.push_back(plan.tensors()->Get(piece)->name()->str());
      input.columns = static_cast<int64_t>(plan.tensors()->Get(weight.pieces()->Get(0))->columns());
      input.abs.resize(input.columns);
      input.square.resize(input.columns);
      input.max_abs.resize(input.columns);
      LLMIR_ASSIGN_OR_RETURN(input.gram,
                             MemoryMap::Create(input.columns * input.columns * sizeof(float),
                                               "Gram matrix of " + input.name));
      largest_columns = std::max(largest_columns, input.columns);
    }
  }
  const int64_t tokens = PaddedTokens(state->largest_tokens);
  const int64_t panels = (largest_columns + kernels::kPanelRows - 1) / kernels::kPanelRows;
  LLMIR_ASSIGN_OR_RETURN(
      state->transposed,
      MemoryMap::Create(largest_columns * tokens * sizeof(float), "transposed activations"));
  LLMIR_ASSIGN_OR_RETURN(
      state->packed,
      MemoryMap::Create(panels * state->kernel->panel_bytes(tokens), "packed activations"));
  for (int t = 0; t < threads; ++t) {
    LLMIR_ASSIGN_OR_RETURN(
        MemoryMap scratch,
        MemoryMap::Create(std::max(state->kernel->pack_scratch_bytes(tokens),
                                   state->kernel->scratch_bytes(tokens, largest_columns)),
                          "scratch for Gram matrices"));
    state->scratch.push_back(std::move(scratch));
  }
  return ActivationCollector(std::move(state));
}

ActivationCollector::Input* ActivationCollector::Find(const plan::Step& step) {
  if (!ReadsRows(step)) return nullptr;
  const auto found = state_->inputs.find(InputName(step));
  return found == state_->inputs.end() ? nullptr : &found->second;
}

void ActivationCollector::Add(Input& input, const float* rows, int64_t stride, int64_t tokens,
                              int thread, kernels::WorkerPool& pool) {
  if (tokens == 0) return;
  State& state = *state_;
  const int64_t columns = input.columns;
  const int64_t padded = PaddedTokens(tokens);
  auto* transposed = reinterpret_cast<float*>(state.transposed.data());
  // Each thread has its own columns: of the sums, of the packed panels, of the Gram matrix.
  const auto share = kernels::ShareOf(columns, kernels::kPanelRows, thread, pool.threads());
  for (int64_t k = share.begin; k < share.end; ++k) {
    float* row = transposed + k * padded;
    double abs = 0;
    double square = 0;
    float most = input.max_abs[k];
    for (int64_t t = 0; t < tokens; ++t) {
      const float x = rows[t * stride + k];
      row[t] = x;
      abs += std::fabs(x);
      square += static_cast<double>(x) * x;
      most = std::max(most, std::fabs(x));
    }
    std::fill(row + tokens, row + padded, 0.0f);
    input.abs[k] += abs;
    input.square[k] += square;
    input.max_abs[k] = most;
  }
  const kernels::LinearKernel& kernel = *state.kernel;
  const int64_t panel_bytes = kernel.panel_bytes(padded);
  const int64_t panel_begin = share.begin / kernels::kPanelRows;
  const int64_t panel_end = (share.end + kernels::kPanelRows - 1) / kernels::kPanelRows;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    kernels::SourceRow source[kernels::kPanelRows];
    size_t count = 0;
    for (int64_t k = panel * kernels::kPanelRows;
         k < std::min(columns, (panel + 1) * kernels::kPanelRows); ++k) {
      source[count++] = {kernels::Encoding::kF32,
                         reinterpret_cast<const std::byte*>(transposed + k * padded)};
    }
    kernel.pack_panel({source, count}, padded, state.packed.data() + panel * panel_bytes,
                      state.scratch[thread].data());
  }
  pool.Barrier();  // every thread reads all transposed rows
  kernels::LinearArgs args{};
  args.weights = state.packed.data();
  args.rows = columns;
  args.columns = padded;
  args.activations = state.transposed.data();
  args.activation_stride = padded * static_cast<int64_t>(sizeof(float));
  args.tokens = columns;
  args.output = reinterpret_cast<float*>(input.gram.data());
  args.output_stride = columns;
  args.residual = args.output;
  args.residual_stride = columns;
  args.panel_begin = panel_begin;
  args.panel_end = panel_end;
  args.scratch = state.scratch[thread].data();
  if (panel_begin < panel_end) kernel.run(args);
  if (thread == 0) input.tokens += static_cast<uint64_t>(tokens);
  pool.Barrier();  // before the transposed rows are overwritten
}

void ActivationCollector::AddIds(std::span<const int32_t> ids) {
  for (const int32_t id : ids) state_->uses[id] += 1;
}

uint64_t ActivationCollector::bytes() const {
  uint64_t bytes = state_->transposed.bytes() + state_->packed.bytes();
  for (const auto& [name, input] : state_->inputs) bytes += input.gram.bytes();
  for (const MemoryMap& scratch : state_->scratch) bytes += scratch.bytes();
  return bytes;
}

Status ActivationCollector::Write(const std::string& path,
                                  checkpoint::ActivationFacts facts) const {
  const plan::Plan& plan = *state_->plan;
  checkpoint::ActivationFile file;
  checkpoint::ModelIdentity identity;
  for (const plan::CheckpointFile* source : *plan.files()) {
    if (source->format() != plan::FileFormat::packed)
      identity.Add(source->bytes(), source->header_hash());
  }
  file.facts = std::move(facts);
  file.facts.model = plan.model()->name()->str();
  file.facts.model_identity = identity.value();
  file.embedding = state_->embedding;
  file.embedding_uses = state_->uses;
  for (const auto& [name, input] : state_->inputs) {
    if (input.tokens == 0) {
      return InvalidArgument("--collect-activations: no token reached {}: give a longer text",
                             name);
    }
    const auto tokens = static_cast<double>(input.tokens);
    checkpoint::ActivationInput result;
    result.name = name;
    result.tensors = input.tensors;
    result.columns = input.columns;
    result.tokens = input.tokens;
    for (int64_t k = 0; k < input.columns; ++k) {
      result.mean_abs.push_back(static_cast<float>(input.abs[k] / tokens));
      result.mean_square.push_back(static_cast<float>(input.square[k] / tokens));
    }
    result.max_abs = input.max_abs;
    // The mean in place would end the run's sums; a file is written once, at the end.
    auto* gram = reinterpret_cast<float*>(input.gram.data());
    for (int64_t i = 0; i < input.columns * input.columns; ++i)
      gram[i] = static_cast<float>(gram[i] / tokens);
    result.gram = {gram, static_cast<size_t>(input.columns * input.columns)};
    file.inputs.push_back(std::move(result));
  }
  return checkpoint::WriteActivationFile(path, file);
}

}  // namespace llmir::executor
