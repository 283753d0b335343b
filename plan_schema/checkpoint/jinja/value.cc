#include "plan_schema/checkpoint/jinja/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "plan_schema/checkpoint/utf8.h"

namespace llmir::checkpoint::jinja {
namespace {

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string JsonText(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        quoted += "\\\"";
        break;
      case '\\':
        quoted += "\\\\";
        break;
      case '\n':
        quoted += "\\n";
        break;
      case '\r':
        quoted += "\\r";
        break;
      case '\t':
        quoted += "\\t";
        break;
      case '\b':
        quoted += "\\b";
        break;
      case '\f':
        quoted += "\\f";
        break;
      default:
        if (static_cast<uint8_t>(c) < 0x20) {
          quoted += fmt::format("\\u{:04x}", static_cast<uint8_t>(c));
        } else {
          quoted += c;
        }
    }
  }
  return quoted + '"';
}

std::string ReprText(std::string_view text) {
  const bool single =
      text.find('\'') == std::string_view::npos || text.find('"') != std::string_view::npos;
  const char quote = single ? '\'' : '"';
  std::string quoted(1, quote);
  for (const char c : text) {
    switch (c) {
      case '\\':
        quoted += "\\\\";
        break;
      case '\n':
        quoted += "\\n";
        break;
      case '\r':
        quoted += "\\r";
        break;
      case '\t':
        quoted += "\\t";
        break;
      default:
        if (c == quote) quoted += '\\';
        if (static_cast<uint8_t>(c) < 0x20 || c == 0x7f) {
          quoted += fmt::format("\\x{:02x}", static_cast<uint8_t>(c));
        } else {
          quoted += c;
        }
    }
  }
  return quoted + quote;
}

}  // namespace

std::vector<std::string_view> Characters(std::string_view text) {
  std::vector<std::string_view> characters;
  while (!text.empty()) {
    const size_t length = std::max<size_t>(ReadUtf8(text).length, 1);
    characters.push_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return characters;
}

Value::Value(List value) : data_(std::make_shared<List>(std::move(value))) {
  for (const Value& element : *AsList()) CheckNesting(element);
}

Value::Value(Dict value) : data_(std::make_shared<Dict>(std::move(value))) {
  for (const auto& entry : *AsDict()) CheckNesting(entry.second);
}

void Value::CheckNesting(const Value& member) {
  constexpr int kMaxDepth = 100;
  if (member.is_namespace_) throw Error(0, "a namespace inside another value is not supported");
  depth_ = std::max(depth_, member.depth_ + 1);
  if (depth_ > kMaxDepth)
    throw Error(0, fmt::format("a value nested more than {} deep", kMaxDepth));
}

double Value::Number() const {
  if (const bool* value = AsBool()) return *value ? 1 : 0;
  if (const int64_t* value = AsInteger()) return static_cast<double>(*value);
  return *AsFloat();
}

const Value* Value::Member(std::string_view key) const {
  const Dict* dict = AsDict();
  if (dict == nullptr) return nullptr;
  const auto found = std::ranges::find(*dict, key, &Dict::value_type::first);
  return found == dict->end() ? nullptr : &found->second;
}

void Value::SetMember(const std::string& key, Value value) {
  CheckNesting(value);
  Dict& dict = *std::get<std::shared_ptr<Dict>>(data_);
  const auto found = std::ranges::find(dict, key, &Dict::value_type::first);
  if (found == dict.end()) {
    dict.emplace_back(key, std::move(value));
  } else {
    found->second = std::move(value);
  }
}

bool Value::Truthy() const {
  if (const bool* value = AsBool()) return *value;
  if (const int64_t* value = AsInteger()) return *value != 0;
  if (const double* value = AsFloat()) return *value != 0;
  if (const std::string* value = AsString()) return !value->empty();
  if (const List* value = AsList()) return !value->empty();
  if (const Dict* value = AsDict()) return is_namespace_ || !value->empty();
  return false;
}

bool Value::Equals(const Value& other) const {
  if (IsNumber() && other.IsNumber()) {
    if (AsInteger() && other.AsInteger()) return *AsInteger() == *other.AsInteger();
    return Number() == other.Number();
  }
  if (is_namespace_ || other.is_namespace_) return AsDict() == other.AsDict();  // the same one
  if (data_.index() != other.data_.index()) return false;
  if (const std::string* text = AsString()) return *text == *other.AsString();
  if (const List* list = AsList()) {
    return std::ranges::equal(*list, *other.AsList(),
                              [](const Value& a, const Value& b) { return a.Equals(b); });
  }
  if (const Dict* dict = AsDict()) {
    return dict->size() == other.AsDict()->size() &&
           std::ranges::all_of(*dict, [&](const auto& entry) {
             const Value* member = other.Member(entry.first);
             return member != nullptr && entry.second.Equals(*member);
           });
  }
  return true;  // both undefined or both none
}

bool Value::Less(const Value& other) const {
  if (IsNumber() && other.IsNumber()) {
    if (AsInteger() && other.AsInteger()) return *AsInteger() < *other.AsInteger();
    return Number() < other.Number();
  }
  if (AsString() && other.AsString()) return *AsString() < *other.AsString();
  throw Error(0, fmt::format("{} and {} cannot be ordered", TypeName(), other.TypeName()));
}

bool Value::Contains(const Value& item) const {
  if (const std::string* text = AsString()) {
    if (item.AsString() == nullptr)
      throw Error(0, fmt::format("{} in a string; expected a string", item.TypeName()));
    return text->find(*item.AsString()) != std::string::npos;
  }
  if (AsDict() != nullptr) return item.AsString() != nullptr && Member(*item.AsString()) != nullptr;
  return std::ranges::any_of(Elements(),
                             [&](const Value& element) { return element.Equals(item); });
}

std::string Value::ToText() const {
  if (const std::string* text = AsString()) return *text;
  return IsUndefined() ? "" : ToRepr();
}

std::string Value::ToRepr() const {
  if (IsUndefined()) return "Undefined";
  if (IsNone()) return "None";
  if (const bool* value = AsBool()) return *value ? "True" : "False";
  if (const int64_t* value = AsInteger()) return std::to_string(*value);
  if (const double* value = AsFloat()) return FloatText(*value);
  if (const std::string* value = AsString()) return ReprText(*value);
  if (is_namespace_) return "<Namespace>";
  std::string text;
  if (const List* list = AsList()) {
    for (const Value& element : *list) text += (text.empty() ? "" : ", ") + element.ToRepr();
    return "[" + text + "]";
  }
  for (const auto& [key, element] : *AsDict()) {
    text += (text.empty() ? "" : ", ") + ReprText(key) + ": " + element.ToRepr();
  }
  return "{" + text + "}";
}

std::string Value::ToJson(int indent) const {
  std::string text;
  AppendJson(indent, 0, text);
  return text;
}

void Value::AppendJson(int indent, int depth, std::string& out) const {
  const auto line = [&](int level) {
    if (indent >= 0) out += '\n' + std::string(static_cast<size_t>(indent * level), ' ');
  };
  const auto between = [&](bool first, int level) {
    if (!first) out += indent >= 0 ? "," : ", ";
    line(level);
  };
  if (IsUndefined() || is_namespace_)
    throw Error(0, fmt::format("{} has no JSON form", TypeName()));
  if (IsNone()) {
    out += "null";
  } else if (const bool* value = AsBool()) {
    out += *value ? "true" : "false";
  } else if (const std::string* text = AsString()) {
    out += JsonText(*text);
  } else if (const List* list = AsList()) {
    out += '[';
    for (const Value& element : *list) {
      between(&element == list->data(), depth + 1);
      element.AppendJson(indent, depth + 1, out);
    }
    if (!list->empty()) line(depth);
    out += ']';
  } else if (const Dict* dict = AsDict()) {
    out += '{';
    for (const auto& entry : *dict) {
      between(&entry == dict->data(), depth + 1);
      out += JsonText(entry.first) + ": ";
      entry.second.AppendJson(indent, depth + 1, out);
    }
    if (!dict->empty()) line(depth);
    out += '}';
  } else {
    out += ToRepr();
  }
}

const char* Value::TypeName() const {
  if (is_namespace_) return "a namespace";
  static constexpr const char* kNames[] = {
      "an undefined value", "none",   "a bool", "an integer", "a float",
      "a string",           "a list", "a dict"};
  return kNames[data_.index()];
}

std::string Value::UndefinedName() const { return std::get<Undefined>(data_).name; }

List Value::Elements() const {
  if (const List* list = AsList()) return *list;
  List elements;
  if (const std::string* text = AsString()) {
    for (const std::string_view character : Characters(*text))
      elements.emplace_back(std::string(character));
  } else if (const Dict* dict = AsDict(); dict != nullptr && !is_namespace_) {
    for (const auto& [key, value] : *dict) elements.emplace_back(key);
  } else if (!IsUndefined()) {
    throw Error(0, fmt::format("{} cannot be iterated", TypeName()));
  }
  return elements;
}

}  // namespace llmir::checkpoint::jinja
