#include "executor/engine/prompt_step.h"

#include <algorithm>

namespace llmir::executor {

Status ComposePromptStep(plan::ProgramKind program, std::span<const int32_t> ids, int32_t first,
                         int32_t tokens, kvpool::SequenceId sequence, int32_t window,
                         kvpool::BlockPool* pool, kvpool::PageTable* table,
                         StepDescriptor* descriptor) {
  std::vector<kvpool::BlockCopy> none;  // the sequence shares whole blocks only
  LLMIR_RETURN_IF_ERROR(pool->Grow(sequence, first + tokens, window, &none));
  pool->FillPageTable({&sequence, 1}, table);
  descriptor->Resize(program, tokens, 1, 0, static_cast<int32_t>(table->indices.size()));
  for (int32_t i = 0; i < tokens; ++i) {
    descriptor->token_ids()[i] = ids[first + i];
    descriptor->positions()[i] = first + i;
  }
  descriptor->query_indptr()[0] = 0;
  descriptor->query_indptr()[1] = tokens;
  std::copy(table->indptr.begin(), table->indptr.end(), descriptor->kv_indptr().begin());
  std::copy(table->indices.begin(), table->indices.end(), descriptor->kv_indices().begin());
  descriptor->kv_tokens()[0] = first + tokens;
  return Status();
}

}  // namespace llmir::executor
