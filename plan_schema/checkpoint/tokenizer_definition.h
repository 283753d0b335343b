// What defines a byte-level BPE tokenizer, read from a GGUF file's metadata or a tokenizer.json.
// Internal to this folder.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/gguf.h"
#include "plan_schema/checkpoint/json.h"

namespace llmir::checkpoint {

enum class TokenKind : uint8_t {
  kNormal,       // from the BPE vocabulary, written in the byte-level alphabet
  kControl,      // special: found in text only on request, not part of an answer's text
  kUserDefined,  // added: found in text before BPE, ordinary text otherwise
  kUnused,       // a hole in the numbering
};

struct TokenizerDefinition {
  std::vector<std::string> texts;                  // by id, as the file writes them
  std::vector<TokenKind> kinds;                    // by id
  std::vector<std::array<std::string, 2>> merges;  // best first
  std::vector<std::string>
      split_patterns;          // applied in order, each to the pieces of the one before
  bool ignore_merges = false;  // a piece that is a token as a whole is that token
  int32_t bos = -1;
  std::vector<int32_t> end_ids;
  std::string chat_template;
};

StatusOr<TokenizerDefinition> GgufTokenizerDefinition(const GgufMetadata& metadata);

// From the content of tokenizer.json: vocabulary, merges and patterns. `where` starts the messages.
StatusOr<TokenizerDefinition> JsonTokenizerDefinition(const Json& json, const std::string& where);

// Reads `path` (a tokenizer.json) and, where they lie beside it, tokenizer_config.json,
// generation_config.json, config.json and chat_template.jinja for the special ids and the chat
// template.
StatusOr<TokenizerDefinition> HuggingFaceTokenizerDefinition(const std::string& path);

}  // namespace llmir::checkpoint
