#include "plan_schema/plan_features.h"

#include "plan_schema/plan_checks.h"
#include "plan_schema/plan_facts.h"

namespace llmir::plan {

uint64_t UsedFeatures(const Plan& plan) {
  uint64_t used = 0;
  const auto use = [&](bool condition, Feature feature) {
    if (condition) used |= static_cast<uint64_t>(feature);
  };
  use(plan.replicas()->size() > 1, Feature::replicas);
  for (const Replica* replica : *plan.replicas()) {
    use(replica->stages()->size() > 1, Feature::pipeline_parallel);
    for (const Stage* stage : *replica->stages()) {
      use(stage->ranks()->size() > 1, Feature::tensor_parallel);
      for (const Program* program : *stage->programs()) {
        use(program->kind() == ProgramKind::score, Feature::score_programs);
        for (uint32_t b = 0; b < Count(program->buffers()); ++b) {
          use(IsPart(program->buffers()->Get(b)->rows()), Feature::row_views);
        }
        for (const Step* step : *program->steps()) {
          use(IsSplitCollective(step->kind()), Feature::split_collectives);
          use(IsOtherLayer(step->kind()), Feature::other_layers);
          use(step->tree() != Unit::whole, Feature::reproducible);
          use(step->wire() != Wire::f32, Feature::int8_wire);
          const AttentionChoice* choice = step->attention();
          use(choice != nullptr &&
                  (choice->form() != AttentionForm::flash || choice->softcap() != 0),
              Feature::attention_form);
          use(step->kind() == StepKind::append_attend, Feature::append_attend);
        }
      }
    }
  }
  for (const CheckpointFile* file : *plan.files())
    use(file->format() == FileFormat::packed, Feature::packed_file);
  for (const Weight* weight : *plan.weights()) {
    for (uint32_t p = 0; p < Count(weight->packed()) && p < weight->pieces()->size(); ++p)
      use(!HasRows(*plan.tensors()->Get(weight->pieces()->Get(p))), Feature::packed_panels);
    use(IsQuantized(weight->dtype()), Feature::quantized_weights);
    use(IsFewBits(weight->dtype()), Feature::few_bit_weights);
  }
  for (uint32_t layer = 0; layer < plan.model()->layers(); ++layer) {
    use(AttentionWindow(*plan.model(), layer) > 0, Feature::attention_window);
  }
  use(plan.reproducible(), Feature::reproducible);
  use(plan.bf16_activations(), Feature::bf16_activations);
  use(plan.kv()->dtype() == DType::bf16, Feature::bf16_kv_cache);
  use(Count(plan.prefixes()) > 0, Feature::pinned_prefixes);
  use(plan.kv()->dtype() == DType::i8, Feature::int8_kv_cache);
  use(plan.kv()->dtype() == DType::f8_e4m3, Feature::fp8_kv_cache);
  return used;
}

}  // namespace llmir::plan
