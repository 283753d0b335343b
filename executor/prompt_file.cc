#include "executor/prompt_file.h"

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

namespace llmir::executor {
namespace {

using Json = nlohmann::json;

StatusOr<std::vector<int32_t>> ParseIds(const Json& value, const char* field) {
  if (!value.is_array())
    return InvalidArgument("\"{}\" is {}, expected a list of ids", field, value.type_name());
  std::vector<int32_t> ids;
  ids.reserve(value.size());
  for (const Json& id : value) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
        id.get<int64_t>() > std::numeric_limits<int32_t>::max()) {
      return InvalidArgument("{}[{}] is {}, expected an id", field, ids.size(), id.dump());
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

StatusOr<std::string> ParseText(const Json& value, const char* field) {
  if (!value.is_string())
    return InvalidArgument("\"{}\" is {}, expected a string", field, value.type_name());
  return value.get<std::string>();
}

template <typename T>
Status ParseInteger(const Json& value, const std::string& field, T* out) {
  if (!value.is_number_integer())
    return InvalidArgument("\"{}\" is {}, expected a whole number", field, value.dump());
  if (!value.is_number_unsigned() && value.get<int64_t>() < 0) {
    return InvalidArgument("\"{}\" is {}, expected at least 0", field, value.dump());
  }
  const auto number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(std::numeric_limits<T>::max())) {
    return InvalidArgument("\"{}\" is {}, expected at most {}", field, number,
                           std::numeric_limits<T>::max());
  }
  *out = static_cast<T>(number);
  return Status();
}

Status ParseNumber(const Json& value, const std::string& field, float* out) {
  if (!value.is_number())
    return InvalidArgument("\"{}\" is {}, expected a number", field, value.dump());
  *out = value.get<float>();
  return Status();
}

Status ParseStop(const Json& value, std::vector<std::string>* stop) {
  stop->clear();
  const Json list = value.is_string() ? Json::array({value}) : value;
  if (!list.is_array())
    return InvalidArgument("\"stop\" is {}, expected a string or a list", value.type_name());
  for (const Json& text : list) {
    if (!text.is_string() || text.get_ref<const std::string&>().empty()) {
      return InvalidArgument("stop[{}] is {}, expected a string that isn't empty", stop->size(),
                             text.dump());
    }
    stop->push_back(text.get<std::string>());
  }
  return Status();
}

StatusOr<std::vector<checkpoint::ChatMessage>> ParseMessages(const Json& value) {
  if (!value.is_array() || value.empty())
    return InvalidArgument("\"messages\" is {}, expected a list of messages", value.dump());
  std::vector<checkpoint::ChatMessage> messages;
  for (const Json& message : value) {
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string() ||
        !message.contains("content") || !message["content"].is_string()) {
      return InvalidArgument("messages[{}] is {}, expected {{\"role\": \"…\", \"content\": \"…\"}}",
                             messages.size(), message.dump());
    }
    messages.push_back({message["role"].get<std::string>(), message["content"].get<std::string>()});
  }
  return messages;
}

StatusOr<Json> ParseObject(std::string_view line) {
  Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return InvalidArgument("not JSON: {:.60}", line);
  if (!json.is_object()) return InvalidArgument("a JSON {}, expected an object", json.type_name());
  return json;
}

// Calls `handle` with each line that isn't empty, and adds file and line to its errors.
template <typename Handle>
Status ForEachLine(const std::string& path, const Handle& handle) {
  std::ifstream file(path);
  if (!file) return NotFound("{}: cannot be read", path);
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (const Status status = handle(line); !status.ok())
      return status.WithContext(fmt::format("{}:{}", path, number));
  }
  if (file.bad()) return DataLoss("{}: reading failed", path);
  return Status();
}

}  // namespace

Status CheckSampling(const SamplingOptions& options) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    return InvalidArgument("temperature is {}, expected 0 (greedy) or more", options.temperature);
  }
  if (!(options.top_p > 0 && options.top_p <= 1))
    return InvalidArgument("top_p is {}, expected 0 < top_p <= 1", options.top_p);
  if (!(options.min_p >= 0 && options.min_p <= 1))
    return InvalidArgument("min_p is {}, expected 0 <= min_p <= 1", options.min_p);
  return Status();
}

StatusOr<Request> ParsePromptLine(std::string_view line, const PromptContext& context) {
  LLMIR_ASSIGN_OR_RETURN(const Json json, ParseObject(line));
  Request request = context.defaults;
  int prompts = 0;
  for (const auto& [field, value] : json.items()) {
    if (field == "prompt") {
      ++prompts;
      LLMIR_ASSIGN_OR_RETURN(const std::string text, ParseText(value, "prompt"));
      if (context.tokenizer == nullptr)
        return Unavailable("\"prompt\": there is no tokenizer; give \"prompt_ids\"");
      request.prompt_ids = context.tokenizer->Encode(text);
    } else if (field == "messages") {
      ++prompts;
      LLMIR_ASSIGN_OR_RETURN(const auto messages, ParseMessages(value));
      if (context.chat_template == nullptr) {
        return Unavailable(
            "\"messages\": the checkpoint has no chat template; give \"prompt\" or \"prompt_ids\"");
      }
      LLMIR_ASSIGN_OR_RETURN(const std::string text, context.chat_template->Render(messages));
      request.prompt_ids = context.tokenizer->Encode(text);
    } else if (field == "prompt_ids") {
      ++prompts;
      LLMIR_ASSIGN_OR_RETURN(request.prompt_ids, ParseIds(value, "prompt_ids"));
    } else if (field == "force_ids") {
      LLMIR_ASSIGN_OR_RETURN(request.force_ids, ParseIds(value, "force_ids"));
    } else if (field == "max_tokens") {
      LLMIR_RETURN_IF_ERROR(ParseInteger(value, field, &request.max_tokens));
    } else if (field == "temperature") {
      LLMIR_RETURN_IF_ERROR(ParseNumber(value, field, &request.sampling.temperature));
    } else if (field == "top_k") {
      LLMIR_RETURN_IF_ERROR(ParseInteger(value, field, &request.sampling.top_k));
    } else if (field == "top_p") {
      LLMIR_RETURN_IF_ERROR(ParseNumber(value, field, &request.sampling.top_p));
    } else if (field == "min_p") {
      LLMIR_RETURN_IF_ERROR(ParseNumber(value, field, &request.sampling.min_p));
    } else if (field == "seed") {
      LLMIR_RETURN_IF_ERROR(ParseInteger(value, field, &request.sampling.seed));
    } else if (field == "n") {
      LLMIR_RETURN_IF_ERROR(ParseInteger(value, field, &request.n));
    } else if (field == "best_of") {
      LLMIR_RETURN_IF_ERROR(ParseInteger(value, field, &request.best_of));
    } else if (field == "tenant") {
      LLMIR_ASSIGN_OR_RETURN(request.tenant, ParseText(value, "tenant"));
    } else if (field == "priority") {
      if (!value.is_number_integer() || value.get<int64_t>() < -1000 ||
          value.get<int64_t>() > 1000) {
        return InvalidArgument("\"priority\" is {}, expected a whole number from -1000 to 1000",
                               value.dump());
      }
      request.priority = value.get<int32_t>();
    } else if (field == "details") {
      if (!value.is_boolean())
        return InvalidArgument("\"details\" is {}, expected true or false", value.dump());
      request.details = value.get<bool>();
    } else if (field == "resume_ids") {
      LLMIR_ASSIGN_OR_RETURN(request.resume_ids, ParseIds(value, "resume_ids"));
    } else if (field == "stop") {
      LLMIR_RETURN_IF_ERROR(ParseStop(value, &request.stop));
    } else if (field == "ignore_eos") {
      if (!value.is_boolean())
        return InvalidArgument("\"ignore_eos\" is {}, expected true or false", value.dump());
      request.ignore_eos = value.get<bool>();
    } else {
      return InvalidArgument(
          "field \"{}\" is not known; known are prompt, messages, prompt_ids, force_ids, "
          "max_tokens, temperature, top_k, "
          "top_p, min_p, seed, n, best_of, tenant, priority, details, resume_ids, stop, ignore_eos",
          field);
    }
  }
  if (prompts != 1) {
    return InvalidArgument("{} of \"prompt\", \"messages\", \"prompt_ids\", expected exactly one",
                           prompts);
  }
  LLMIR_RETURN_IF_ERROR(CheckSampling(request.sampling));
  return request;
}

StatusOr<std::vector<Request>> ReadPromptFile(const std::string& path,
                                              const PromptContext& context) {
  std::vector<Request> requests;
  LLMIR_RETURN_IF_ERROR(ForEachLine(path, [&](std::string_view line) -> Status {
    LLMIR_ASSIGN_OR_RETURN(Request request, ParsePromptLine(line, context));
    requests.push_back(std::move(request));
    return Status();
  }));
  if (requests.empty()) return InvalidArgument("{}: no prompts", path);
  return requests;
}

StatusOr<std::vector<std::vector<int32_t>>> ReadScoreFile(const std::string& path,
                                                          const checkpoint::Tokenizer* tokenizer) {
  std::vector<std::vector<int32_t>> texts;
  LLMIR_RETURN_IF_ERROR(ForEachLine(path, [&](std::string_view line) -> Status {
    LLMIR_ASSIGN_OR_RETURN(const Json json, ParseObject(line));
    if (json.size() == 1 && json.contains("prompt") && json["prompt"].is_string()) {
      if (tokenizer == nullptr)
        return Unavailable("\"prompt\": the checkpoint has no tokenizer; give \"prompt_ids\"");
      texts.push_back(tokenizer->Encode(json["prompt"].get<std::string>()));
      return Status();
    }
    if (json.size() != 1 || !json.contains("prompt_ids")) {
      return InvalidArgument("expected one field, \"prompt_ids\" or \"prompt\" (a text)");
    }
    LLMIR_ASSIGN_OR_RETURN(auto ids, ParseIds(json["prompt_ids"], "prompt_ids"));
    texts.push_back(std::move(ids));
    return Status();
  }));
  if (texts.empty()) return InvalidArgument("{}: no lines", path);
  return texts;
}

}  // namespace llmir::executor
