// Renders a checkpoint's chat template (the subset of Jinja that chat templates use: no macros, no
// tools) over a list of messages, as `transformers` does with trim_blocks and lstrip_blocks.
// Letters change case in ASCII only. A template comes with the checkpoint, so its nesting, its
// steps and the texts that it builds are bounded.
//
// Immutable after Parse; Render may be called from any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "plan_schema/base/status.h"

namespace llmir::checkpoint {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

class ChatTemplate {
 public:
  // Parses Jinja `source`; an unknown construct is an error with its line and text.
  static StatusOr<ChatTemplate> Parse(const std::string& source, const std::string& bos_token,
                                      const std::string& eos_token);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // The prompt's text, ending where the assistant's answer starts when `add_generation_prompt`. The
  // template's own raise_exception(...) becomes INVALID_ARGUMENT with its text.
  StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                               bool add_generation_prompt = true) const;

 private:
  struct Node;
  explicit ChatTemplate(std::unique_ptr<Node> root);
  std::unique_ptr<Node> root_;
  std::string bos_token_, eos_token_;
};

}  // namespace llmir::checkpoint
