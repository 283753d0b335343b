//===- StepTimes.cpp - How long a step is expected to take ----------------===//

#include "planner/Target/Plan/StepTimes.h"

#include <algorithm>
#include <cmath>

#include "plan_schema/plan_facts.h"

using namespace llmir;
using plan::StepKind;

namespace {

/// Predicts the steps of one program.
class TimePredictor {
public:
  TimePredictor(const plan::PlanT &plan, const plan::StageT &stage,
                const plan::ProgramT &program, const Calibration &calibration,
                const ExpectedLoad &load)
      : plan(plan), stage(stage), program(program), calibration(calibration),
        context(load.context) {
    if (program.kind == plan::ProgramKind::decode) {
      tokens = std::clamp<double>(std::round(load.batch), program.min_tokens,
                                  program.max_tokens);
      batch = tokens;
    } else {
      tokens = program.max_tokens;
      batch = 1;
    }
  }

  double getTokens() const { return tokens; }

  double getUs(const plan::StepT &step, size_t rank) const {
    const plan::StepRankT &share = *step.ranks[rank];
    if (share.skip)
      return 0;
    double rows = getRows(step);
    const plan::CostT &cost = *share.cost;
    if (cost.message_bytes_per_token > 0)
      return calibration.getMemoryUs(2 * cost.message_bytes_per_token * rows) +
             2 * calibration.getBarrierUs();
    if (std::optional<double> measured = getMeasured(step, rank, rows))
      return *measured;
    return calibration.getMemoryUs(cost.bytes + cost.bytes_per_token * rows +
                                   cost.bytes_per_context * rows * context) +
           calibration.getBarrierUs();
  }

private:
  /// Rows that the step works on: those of its output, else of its input.
  double getRows(const plan::StepT &step) const {
    if (step.outputs.empty() && step.inputs.empty())
      return 0;
    uint32_t buffer =
        step.outputs.empty() ? step.inputs.front() : step.outputs.front();
    switch (program.buffers[buffer]->rows) {
    case plan::Rows::tokens:
      return tokens;
    case plan::Rows::sampled:
      return std::min<double>(program.max_sampled, tokens);
    case plan::Rows::one:
      return 1;
    case plan::Rows::first_half:
      return std::ceil(tokens / 2);
    case plan::Rows::second_half:
      return std::floor(tokens / 2);
    case plan::Rows::share:
      return tokens / stage.ranks.size();
    }
    return tokens;
  }

  double getColumns(uint32_t buffer, size_t rank) const {
    return program.buffers[buffer]->columns[rank];
  }

  std::optional<double> getMeasured(const plan::StepT &step, size_t rank,
                                    double rows) const {
    if (step.kernel < 0 || step.inputs.empty())
      return std::nullopt;
    const std::string &kernel = plan.kernels[step.kernel];
    const plan::CostT &cost = *step.ranks[rank]->cost;
    double columns = getColumns(step.inputs.front(), rank);
    if (columns == 0)
      return 0;
    switch (step.kind) {
    case StepKind::linear:
    case StepKind::score:
      // The operations of a row are two per element of the weight.
      return calibration.getLinearUs(
          kernel, std::round(cost.flops_per_token / (2 * columns)), columns,
          rows);
    case StepKind::paged_attention:
    case StepKind::append_attend:
      return calibration.getAttentionUs(getAttentionShape(step, rank, rows));
    default:
      if (std::optional<double> us =
              calibration.getVectorUs(kernel, columns, rows))
        return *us + calibration.getBarrierUs();
      return std::nullopt;
    }
  }

  AttentionShape getAttentionShape(const plan::StepT &step, size_t rank,
                                   double rows) const {
    AttentionShape shape;
    shape.kv = plan::DTypeName(plan.kv->dtype);
    shape.fused = step.kind == StepKind::append_attend;
    shape.context = context;
    if (step.attention) {
      shape.form = plan::EnumNameAttentionForm(step.attention->form);
      if (step.attention->window > 0)
        shape.context = std::min<double>(context, step.attention->window);
    }
    shape.blockSize = plan.kv->block_size;
    shape.headDim = plan.kv->head_dim;
    shape.headsPerKv = plan.model->query_heads / plan.model->kv_heads;
    for (auto &range : stage.ranks[rank]->ranges)
      if (range->unit == plan::Unit::kv_head)
        shape.kvHeads = range->end - range->begin;
    shape.batch = batch;
    shape.tokens = rows / batch;
    return shape;
  }

  const plan::PlanT &plan;
  const plan::StageT &stage;
  const plan::ProgramT &program;
  const Calibration &calibration;
  double context, tokens, batch;
};

} // namespace

void llmir::predictTimes(plan::PlanT &plan, const Calibration &calibration,
                         const ExpectedLoad &load) {
  for (auto &replica : plan.replicas)
    for (auto &stage : replica->stages)
      for (auto &program : stage->programs) {
        TimePredictor predictor(plan, *stage, *program, calibration, load);
        program->predicted_tokens =
            static_cast<uint32_t>(predictor.getTokens());
        for (auto &step : program->steps)
          for (size_t rank = 0; rank < step->ranks.size(); ++rank)
            step->ranks[rank]->predicted_us =
                static_cast<float>(predictor.getUs(*step, rank));
      }
}
