// Prompts in JSON lines, as --prompts and --score read them. A line:
//   {"prompt": "…"} or {"messages": [{"role", "content"}, …]} or {"prompt_ids": [ … ]}
// and, where given, its own "max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "stop"
// (a string or a list), "ignore_eos", "force_ids", "n",
// "best_of", "tenant", "priority", "resume_ids". Empty lines are skipped. Errors name file, line
// and field.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "executor/request.h"
#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/chat_template.h"
#include "plan_schema/checkpoint/tokenizer.h"

namespace llmir::executor {

struct PromptContext {
  const checkpoint::Tokenizer* tokenizer;         // null: only prompt_ids can be used
  const checkpoint::ChatTemplate* chat_template;  // null: "messages" can't be used
  Request defaults;  // sampling and limits for fields that a line doesn't give
};

// One line (without its newline) as a request.
StatusOr<Request> ParsePromptLine(std::string_view line, const PromptContext& context);

StatusOr<std::vector<Request>> ReadPromptFile(const std::string& path,
                                              const PromptContext& context);

// The ids of each line: "prompt_ids", or "prompt", a text, which needs `tokenizer` (may be null).
// Other fields are an error.
StatusOr<std::vector<std::vector<int32_t>>> ReadScoreFile(const std::string& path,
                                                          const checkpoint::Tokenizer* tokenizer);

// The checks on sampling options that the command line and files share.
Status CheckSampling(const SamplingOptions& options);

}  // namespace llmir::executor
