// JSON files of untrusted origin: parsed without exceptions, fields read with a check of their
// type. Internal to this folder.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "plan_schema/base/status.h"

namespace llmir::checkpoint {

using Json = nlohmann::json;

// Parses a whole JSON text whose top is an object without repeated keys; `where` starts the message
// of an error.
StatusOr<Json> ParseJsonObject(std::string_view text, std::string_view where);

// Reads and parses a file.
StatusOr<Json> ReadJsonObject(const std::string& path);

// The field `key` of `object`, or null when it is absent or null.
inline const Json* JsonField(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

// Typed fields: nothing when absent or null, an error that names `where` and `key` when of another
// type.
StatusOr<std::optional<int64_t>> JsonInteger(const Json& object, const char* key,
                                             std::string_view where);
StatusOr<std::optional<double>> JsonNumber(const Json& object, const char* key,
                                           std::string_view where);
StatusOr<std::optional<bool>> JsonBool(const Json& object, const char* key, std::string_view where);
StatusOr<std::optional<std::string>> JsonString(const Json& object, const char* key,
                                                std::string_view where);

// At most 60 characters of `value` as JSON, for messages.
std::string JsonExcerpt(const Json& value);

}  // namespace llmir::checkpoint
