#include "plan_schema/checkpoint/chat_template.h"

#include <utility>

#include "plan_schema/checkpoint/jinja/interpreter.h"
#include "plan_schema/checkpoint/jinja/parser.h"

namespace llmir::checkpoint {

struct ChatTemplate::Node {
  jinja::Block block;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Node> root) : root_(std::move(root)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

StatusOr<ChatTemplate> ChatTemplate::Parse(const std::string& source, const std::string& bos_token,
                                           const std::string& eos_token) {
  try {
    ChatTemplate result(std::make_unique<Node>(Node{jinja::Parse(source)}));
    result.bos_token_ = bos_token;
    result.eos_token_ = eos_token;
    return result;
  } catch (const jinja::Error& error) {
    return Incompatible("chat template: line {}: {}", error.line, error.what());
  }
}

StatusOr<std::string> ChatTemplate::Render(const std::vector<ChatMessage>& messages,
                                           bool add_generation_prompt) const {
  jinja::List list;
  for (const ChatMessage& message : messages) {
    list.emplace_back(jinja::Dict{{"role", message.role}, {"content", message.content}});
  }
  try {
    return jinja::Render(root_->block, {{"messages", std::move(list)},
                                        {"add_generation_prompt", add_generation_prompt},
                                        {"bos_token", bos_token_},
                                        {"eos_token", eos_token_}});
  } catch (const jinja::RaisedError& error) {
    return InvalidArgument("chat template: {}", error.what());
  } catch (const jinja::Error& error) {
    return Incompatible("chat template: line {}: {}", error.line, error.what());
  }
}

}  // namespace llmir::checkpoint
