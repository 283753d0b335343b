#include "plan_schema/checkpoint/json.h"

#include <limits>
#include <set>

#include "plan_schema/base/file_map.h"

namespace llmir::checkpoint {
namespace {

Status WrongType(const Json& value, const char* key, std::string_view where,
                 std::string_view expected) {
  return InvalidArgument("{}: {}: {}, expected {}", where, key, JsonExcerpt(value), expected);
}

}  // namespace

std::string JsonExcerpt(const Json& value) {
  constexpr size_t kLongest = 60;
  if (value.is_structured() && value.size() > kLongest)
    return fmt::format("{} of {} elements", value.type_name(), value.size());
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest - 3) + "...";
  return text;
}

StatusOr<Json> ParseJsonObject(std::string_view text, std::string_view where) {
  std::set<std::string> keys;
  std::string repeated;
  const Json::parser_callback_t on_event = [&](int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::key && depth == 1 &&
        !keys.insert(value.get<std::string>()).second) {
      repeated = value.get<std::string>();
    }
    return true;
  };
  Json json;
  try {
    json = Json::parse(text.begin(), text.end(), on_event);
  } catch (const Json::exception& error) {
    return InvalidArgument("{}: not valid JSON: {}", where, error.what());
  }
  if (!json.is_object())
    return InvalidArgument("{}: {}, expected a JSON object", where, json.type_name());
  if (!repeated.empty()) return InvalidArgument("{}: key \"{}\" is there twice", where, repeated);
  return json;
}

StatusOr<Json> ReadJsonObject(const std::string& path) {
  LLMIR_ASSIGN_OR_RETURN(const FileMap map, FileMap::Open(path));
  return ParseJsonObject({reinterpret_cast<const char*>(map.bytes().data()), map.size()}, path);
}

StatusOr<std::optional<int64_t>> JsonInteger(const Json& object, const char* key,
                                             std::string_view where) {
  const Json* value = JsonField(object, key);
  if (value == nullptr) return std::optional<int64_t>();
  const bool fits =
      value->is_number_integer() &&
      (!value->is_number_unsigned() ||
       value->get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
  if (!fits) return WrongType(*value, key, where, "an integer of 63 bits");
  return std::optional(value->get<int64_t>());
}

StatusOr<std::optional<double>> JsonNumber(const Json& object, const char* key,
                                           std::string_view where) {
  const Json* value = JsonField(object, key);
  if (value == nullptr) return std::optional<double>();
  if (!value->is_number()) return WrongType(*value, key, where, "a number");
  return std::optional(value->get<double>());
}

StatusOr<std::optional<bool>> JsonBool(const Json& object, const char* key,
                                       std::string_view where) {
  const Json* value = JsonField(object, key);
  if (value == nullptr) return std::optional<bool>();
  if (!value->is_boolean()) return WrongType(*value, key, where, "true or false");
  return std::optional(value->get<bool>());
}

StatusOr<std::optional<std::string>> JsonString(const Json& object, const char* key,
                                                std::string_view where) {
  const Json* value = JsonField(object, key);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return WrongType(*value, key, where, "a string");
  return std::optional(value->get<std::string>());
}

}  // namespace llmir::checkpoint
