#include "plan_schema/checkpoint/jinja/interpreter.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>

#include "plan_schema/checkpoint/utf8.h"

namespace llmir::checkpoint::jinja {
namespace {

// A template comes with the checkpoint: it may be broken or hostile, so what it can use up is
// bounded.
constexpr int64_t kMaxSteps =
    2'000'000;  // expressions and statements evaluated, large results counting as many
constexpr size_t kMaxTextBytes = size_t{16} << 20;  // of one string
constexpr int64_t kMaxElements = 100'000;           // of one list

constexpr std::string_view kFilters[] = {
    "trim",  "upper", "lower",   "length", "count",  "tojson",     "default",    "d",
    "join",  "first", "last",    "list",   "string", "int",        "replace",    "capitalize",
    "title", "items", "reverse", "safe",   "map",    "selectattr", "rejectattr",
};
constexpr std::string_view kTests[] = {
    "defined", "undefined", "none",  "string",  "number",   "integer",     "float",
    "boolean", "true",      "false", "mapping", "sequence", "iterable",    "eq",
    "equalto", "ne",        "in",    "odd",     "even",     "divisibleby",
};

// --- Text, with Python's idea of white space. Letters change case in ASCII only.

bool IsPythonSpace(uint32_t code) {
  return (code >= 0x09 && code <= 0x0d) || (code >= 0x1c && code <= 0x20) || code == 0x85 ||
         code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
         code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

bool IsSpaceCharacter(std::string_view character) {
  const Utf8Character decoded = ReadUtf8(character);
  return decoded.length > 0 && IsPythonSpace(decoded.code);
}

// Strips white space, or the characters of `set` if given, off the chosen ends.
std::string Strip(std::string_view text, const std::string* set, bool left, bool right) {
  const auto characters = Characters(text);
  const auto set_characters = set == nullptr ? std::vector<std::string_view>() : Characters(*set);
  const auto strips = [&](std::string_view character) {
    return set == nullptr ? IsSpaceCharacter(character)
                          : std::ranges::find(set_characters, character) != set_characters.end();
  };
  size_t begin = 0, end = characters.size();
  while (left && begin < end && strips(characters[begin])) ++begin;
  while (right && begin < end && strips(characters[end - 1])) --end;
  if (begin == end) return {};
  const char* first = characters[begin].data();
  return {first, characters[end - 1].data() + characters[end - 1].size()};
}

char UpperOf(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }
char LowerOf(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string Upper(std::string text) {
  std::ranges::transform(text, text.begin(), UpperOf);
  return text;
}
std::string Lower(std::string text) {
  std::ranges::transform(text, text.begin(), LowerOf);
  return text;
}
std::string Capitalize(std::string text) {
  text = Lower(std::move(text));
  if (!text.empty()) text[0] = UpperOf(text[0]);
  return text;
}
std::string Title(std::string text) {
  bool inside = false;  // of a word
  for (char& c : text) {
    c = inside ? LowerOf(c) : UpperOf(c);
    inside = LowerOf(c) != UpperOf(c) || static_cast<uint8_t>(c) >= 0x80;
  }
  return text;
}

void CheckSize(size_t bytes) {
  if (bytes > kMaxTextBytes)
    throw Error(0, fmt::format("a text grows beyond {} bytes", kMaxTextBytes));
}

std::string Replace(std::string_view text, const std::string& from, const std::string& to,
                    int64_t limit) {
  std::string result;
  size_t at = 0;
  if (from.empty()) {  // Python puts `to` before every character and at the end
    for (const std::string_view character : Characters(text)) {
      if (limit-- != 0) result += to;
      result += character;
      at += character.size();
      CheckSize(result.size());
    }
    return limit != 0 ? result + to : result;
  }
  for (size_t found; limit != 0 && (found = text.find(from, at)) != std::string_view::npos;
       --limit) {
    result += text.substr(at, found - at);
    result += to;
    at = found + from.size();
    CheckSize(result.size());
  }
  result += text.substr(at);
  return result;
}

List Split(std::string_view text, const std::string* separator, int64_t limit) {
  List parts;
  if (separator != nullptr) {
    if (separator->empty()) throw Error(0, "split by an empty text");
    size_t at = 0;
    for (size_t found; limit != 0 && (found = text.find(*separator, at)) != std::string_view::npos;
         --limit) {
      parts.emplace_back(std::string(text.substr(at, found - at)));
      at = found + separator->size();
    }
    parts.emplace_back(std::string(text.substr(at)));
    return parts;
  }
  for (std::string rest = Strip(text, nullptr, true, false); !rest.empty(); --limit) {
    const auto characters = Characters(rest);
    const auto space =
        limit == 0 ? characters.end() : std::ranges::find_if(characters, IsSpaceCharacter);
    if (space == characters.end()) {
      parts.emplace_back(rest);
      break;
    }
    const auto length = static_cast<size_t>(space->data() - rest.data());
    parts.emplace_back(rest.substr(0, length));
    rest = Strip(rest.substr(length), nullptr, true, false);
  }
  return parts;
}

// --- Arguments of filters, functions and methods

struct Arguments {
  std::string_view of;  // whose they are, for messages
  List values;
  std::vector<std::pair<std::string, Value>> named;

  // The argument at `position`, or the one called `name`; null if it wasn't given.
  const Value* Get(size_t position, std::string_view name) const {
    if (position < values.size()) return &values[position];
    for (const auto& [key, value] : named) {
      if (key == name) return &value;
    }
    return nullptr;
  }
  const Value& Require(size_t position, std::string_view name) const {
    const Value* value = Get(position, name);
    if (value == nullptr) throw Error(0, fmt::format("{}: argument \"{}\" is missing", of, name));
    return *value;
  }
  const std::string& Text(size_t position, std::string_view name) const {
    const Value& value = Require(position, name);
    if (value.AsString() == nullptr) {
      throw Error(0, fmt::format("{}: argument \"{}\" is {}, expected a string", of, name,
                                 value.TypeName()));
    }
    return *value.AsString();
  }
  // Null if it wasn't given, or none was.
  const std::string* OptionalText(size_t position, std::string_view name) const {
    const Value* value = Get(position, name);
    return value == nullptr || value->IsNone() ? nullptr : &Text(position, name);
  }
  int64_t Integer(size_t position, std::string_view name, int64_t otherwise) const {
    const Value* value = Get(position, name);
    if (value == nullptr) return otherwise;
    if (value->AsInteger() == nullptr) {
      throw Error(0, fmt::format("{}: argument \"{}\" is {}, expected an integer", of, name,
                                 value->TypeName()));
    }
    return *value->AsInteger();
  }
  void AtMost(size_t count) const {
    if (values.size() + named.size() > count) {
      throw Error(0, fmt::format("{}: {} arguments, expected at most {}", of,
                                 values.size() + named.size(), count));
    }
  }
};

const std::string& TextOperand(const Value& value, std::string_view of) {
  if (value.AsString() == nullptr)
    throw Error(0, fmt::format("{} of {}, expected a string", of, value.TypeName()));
  return *value.AsString();
}

int64_t LengthOf(const Value& value) {
  if (const std::string* text = value.AsString())
    return static_cast<int64_t>(Characters(*text).size());
  if (const List* list = value.AsList()) return static_cast<int64_t>(list->size());
  if (const Dict* dict = value.AsDict()) return static_cast<int64_t>(dict->size());
  if (value.IsUndefined()) return 0;
  throw Error(0, fmt::format("{} has no length", value.TypeName()));
}

List ItemsOf(const Dict& dict) {
  List items;
  for (const auto& [key, value] : dict) items.emplace_back(List{Value(key), value});
  return items;
}

bool StartsOrEnds(const std::string& text, const Value& affix, bool starts) {
  // As in Python, a list of affixes means any of them.
  for (const Value& one : affix.AsList() ? *affix.AsList() : List{affix}) {
    const std::string& part = TextOperand(one, starts ? "startswith" : "endswith");
    if (starts ? text.starts_with(part) : text.ends_with(part)) return true;
  }
  return false;
}

std::optional<Value> CallTextMethod(const std::string& text, const std::string& method,
                                    const Arguments& arguments) {
  if (method == "strip" || method == "lstrip" || method == "rstrip") {
    arguments.AtMost(1);
    return Value(
        Strip(text, arguments.OptionalText(0, "chars"), method != "rstrip", method != "lstrip"));
  }
  if (method == "startswith" || method == "endswith") {
    arguments.AtMost(1);
    return Value(StartsOrEnds(text, arguments.Require(0, "prefix"), method == "startswith"));
  }
  if (method == "split") {
    arguments.AtMost(2);
    return Value(
        Split(text, arguments.OptionalText(0, "sep"), arguments.Integer(1, "maxsplit", -1)));
  }
  if (method == "replace") {
    arguments.AtMost(3);
    return Value(Replace(text, arguments.Text(0, "old"), arguments.Text(1, "new"),
                         arguments.Integer(2, "count", -1)));
  }
  if (method == "find") {
    arguments.AtMost(1);
    const size_t found = text.find(arguments.Text(0, "sub"));
    if (found == std::string::npos) return Value(int64_t{-1});
    return Value(static_cast<int64_t>(Characters(std::string_view(text).substr(0, found)).size()));
  }
  if (method == "join") {
    arguments.AtMost(1);
    std::string joined;
    const List parts = arguments.Require(0, "iterable").Elements();
    for (const Value& part : parts) {
      if (&part != parts.data()) joined += text;
      joined += TextOperand(part, "join");
      CheckSize(joined.size());
    }
    return Value(std::move(joined));
  }
  using Change = std::string (*)(std::string);
  static constexpr std::pair<std::string_view, Change> kChanges[] = {
      {"upper", Upper}, {"lower", Lower}, {"capitalize", Capitalize}, {"title", Title}};
  for (const auto& [name, change] : kChanges) {
    if (method == name) {
      arguments.AtMost(0);
      return Value(change(text));
    }
  }
  return std::nullopt;
}

std::optional<Value> CallDictMethod(const Value& object, const std::string& method,
                                    const Arguments& arguments) {
  const Dict& dict = *object.AsDict();
  if (method == "items") return Value(ItemsOf(dict));
  if (method == "keys") return Value(object.Elements());
  if (method == "values") {
    List values;
    for (const auto& entry : dict) values.push_back(entry.second);
    return Value(std::move(values));
  }
  if (method == "get") {
    arguments.AtMost(2);
    const Value& key = arguments.Require(0, "key");
    const Value* member = key.AsString() ? object.Member(*key.AsString()) : nullptr;
    if (member != nullptr) return *member;
    const Value* otherwise = arguments.Get(1, "default");
    return otherwise ? *otherwise : Value(None{});
  }
  return std::nullopt;
}

// --- Operators

template <typename Overflowing>
Value IntegerResult(Overflowing operation) {
  int64_t result = 0;
  if (operation(&result)) throw Error(0, "an integer grows beyond 64 bits");
  return Value(result);
}

Value Arithmetic(const std::string& op, const Value& left, const Value& right) {
  if (op == "+" && left.AsString() && right.AsString()) {
    CheckSize(left.AsString()->size() + right.AsString()->size());
    return Value(*left.AsString() + *right.AsString());
  }
  if (op == "+" && left.AsList() && right.AsList()) {
    List joined = *left.AsList();
    if (joined.size() + right.AsList()->size() > static_cast<size_t>(kMaxElements))
      throw Error(0, "a list grows too long");
    joined.insert(joined.end(), right.AsList()->begin(), right.AsList()->end());
    return Value(std::move(joined));
  }
  if (op == "*" && left.AsString() && right.AsInteger()) {
    const auto times = static_cast<size_t>(std::max<int64_t>(*right.AsInteger(), 0));
    const std::string& text = *left.AsString();
    if (times > kMaxTextBytes || text.size() * times > kMaxTextBytes) CheckSize(kMaxTextBytes + 1);
    std::string repeated;
    for (size_t i = 0; i < times && !text.empty(); ++i) repeated += text;
    return Value(std::move(repeated));
  }
  if (!left.IsNumber() || !right.IsNumber()) {
    const Value& undefined = left.IsUndefined() ? left : right;
    const std::string hint = undefined.IsUndefined()
                                 ? fmt::format(" (\"{}\" is undefined)", undefined.UndefinedName())
                                 : "";
    throw Error(
        0, fmt::format("{} {} {} is not possible{}", left.TypeName(), op, right.TypeName(), hint));
  }
  const bool integers = left.AsFloat() == nullptr && right.AsFloat() == nullptr && op != "/";
  if (integers) {
    const int64_t a = left.AsInteger() ? *left.AsInteger() : *left.AsBool();
    const int64_t b = right.AsInteger() ? *right.AsInteger() : *right.AsBool();
    if (op == "+")
      return IntegerResult([&](int64_t* r) { return __builtin_add_overflow(a, b, r); });
    if (op == "-")
      return IntegerResult([&](int64_t* r) { return __builtin_sub_overflow(a, b, r); });
    if (op == "*")
      return IntegerResult([&](int64_t* r) { return __builtin_mul_overflow(a, b, r); });
    if (b == 0) throw Error(0, "division by zero");
    if (b == -1)
      return op == "%" ? Value(int64_t{0}) : Arithmetic("-", Value(int64_t{0}), Value(a));
    // Python rounds quotients down, and remainders follow the divisor's sign.
    const bool down = a % b != 0 && (a < 0) != (b < 0);
    return op == "%" ? Value(a % b + (down ? b : 0)) : Value(a / b - (down ? 1 : 0));
  }
  const double a = left.Number(), b = right.Number();
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (b == 0) throw Error(0, "division by zero");
  if (op == "/") return Value(a / b);
  if (op == "//") return Value(std::floor(a / b));
  return Value(a - b * std::floor(a / b));
}

bool Compare(const std::string& op, const Value& left, const Value& right) {
  if (op == "==") return left.Equals(right);
  if (op == "!=") return !left.Equals(right);
  if (op == "<") return left.Less(right);
  if (op == ">") return right.Less(left);
  if (op == "<=") return left.Less(right) || left.Equals(right);
  if (op == ">=") return right.Less(left) || left.Equals(right);
  if (op == "in") return right.Contains(left);
  return !right.Contains(left);  // not in
}

bool HasTest(const std::string& test, const Value& value, const Arguments& arguments) {
  if (test == "defined") return !value.IsUndefined();
  if (test == "undefined") return value.IsUndefined();
  if (test == "none") return value.IsNone();
  if (test == "string") return value.AsString() != nullptr;
  if (test == "number") return value.IsNumber();
  if (test == "integer") return value.AsInteger() != nullptr;
  if (test == "float") return value.AsFloat() != nullptr;
  if (test == "boolean") return value.AsBool() != nullptr;
  if (test == "true") return value.AsBool() != nullptr && *value.AsBool();
  if (test == "false") return value.AsBool() != nullptr && !*value.AsBool();
  if (test == "mapping") return value.AsDict() != nullptr && !value.IsNamespace();
  if (test == "sequence" || test == "iterable") {
    return value.AsString() || value.AsList() || (value.AsDict() && !value.IsNamespace()) ||
           value.IsUndefined();
  }
  const auto number = [&] {
    if (value.AsInteger() == nullptr)
      throw Error(0, fmt::format("{}: {}, expected an integer", test, value.TypeName()));
    return *value.AsInteger();
  };
  if (test == "odd") return number() % 2 != 0;
  if (test == "even") return number() % 2 == 0;
  if (test == "divisibleby")
    return Arithmetic("%", Value(number()), arguments.Require(0, "num")).Equals(Value(int64_t{0}));
  if (test == "in") return arguments.Require(0, "seq").Contains(value);
  const bool equal = value.Equals(arguments.Require(0, "other"));
  return test == "ne" ? !equal : equal;  // eq, equalto
}

// Where a slice starts and stops in a sequence of `size`, by Python's rules.
struct SliceBounds {
  int64_t start, stop, step;
};
SliceBounds BoundsOf(const Value& start, const Value& stop, const Value& step, int64_t size) {
  const auto integer = [](const Value& value, int64_t otherwise) {
    if (value.IsUndefined() || value.IsNone()) return otherwise;
    if (value.AsInteger() == nullptr)
      throw Error(0, fmt::format("slice bound is {}, expected an integer", value.TypeName()));
    return *value.AsInteger();
  };
  const int64_t by = integer(step, 1);
  if (by == 0) throw Error(0, "slice step is 0");
  const int64_t lowest = by > 0 ? 0 : -1, highest = by > 0 ? size : size - 1;
  const auto clamp = [&](int64_t bound) {
    return std::clamp(bound < 0 ? bound + size : bound, lowest, highest);
  };
  const int64_t first = start.IsUndefined() || start.IsNone() ? (by > 0 ? lowest : highest)
                                                              : clamp(integer(start, 0));
  const int64_t last =
      stop.IsUndefined() || stop.IsNone() ? (by > 0 ? highest : lowest) : clamp(integer(stop, 0));
  // A larger step takes one element too, and adding it cannot overflow.
  return {first, last, std::clamp(by, -size - 1, size + 1)};
}

template <typename Sequence>
Sequence Slice(const Sequence& sequence, const SliceBounds& bounds) {
  Sequence taken;
  for (int64_t i = bounds.start; bounds.step > 0 ? i < bounds.stop : i > bounds.stop;
       i += bounds.step) {
    taken.push_back(sequence[static_cast<size_t>(i)]);
  }
  return taken;
}

std::string Concatenate(const std::vector<std::string_view>& characters) {
  std::string text;
  for (const std::string_view character : characters) text += character;
  return text;
}

// What making a value costs beyond a step.
int64_t CostOf(const Value& value) {
  constexpr size_t kBytesPerStep = 64, kElementsPerStep = 4;
  if (const std::string* text = value.AsString())
    return static_cast<int64_t>(text->size() / kBytesPerStep);
  if (const List* list = value.AsList())
    return static_cast<int64_t>(list->size() / kElementsPerStep);
  return 0;
}

// --- The interpreter

class Interpreter {
 public:
  explicit Interpreter(Dict globals) { scopes_.push_back(std::move(globals)); }

  std::string Run(const Block& block) {
    std::string output;
    RunBlock(block, output);
    return output;
  }

 private:
  enum class Flow { kNormal, kBreak, kContinue };

  void CountSteps(int64_t steps) {
    if ((steps_ += steps) > kMaxSteps)
      throw Error(0, fmt::format("the template takes more than {} steps", kMaxSteps));
  }

  Value Lookup(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      const auto found = std::ranges::find(*scope, name, &Dict::value_type::first);
      if (found != scope->end()) return found->second;
    }
    return Value::MakeUndefined(name);
  }

  void Assign(const std::string& name, Value value) {
    Dict& scope = scopes_.back();
    const auto found = std::ranges::find(scope, name, &Dict::value_type::first);
    if (found == scope.end()) {
      scope.emplace_back(name, std::move(value));
    } else {
      found->second = std::move(value);
    }
  }

  void AssignAll(const std::vector<std::string>& names, const Value& value) {
    if (names.size() == 1) return Assign(names[0], value);
    const List elements = value.Elements();
    if (elements.size() != names.size()) {
      throw Error(0, fmt::format("{} values for {} names", elements.size(), names.size()));
    }
    for (size_t i = 0; i < names.size(); ++i) Assign(names[i], elements[i]);
  }

  Flow RunBlock(const Block& block, std::string& output) {
    for (const Statement& statement : block) {
      try {
        CountSteps(1);
        const Flow flow = RunStatement(statement, output);
        if (flow != Flow::kNormal) return flow;
        CheckSize(output.size());
      } catch (Error& error) {
        if (error.line == 0) error.line = statement.line;
        throw;
      }
    }
    return Flow::kNormal;
  }

  Flow RunStatement(const Statement& statement, std::string& output) {
    switch (statement.kind) {
      case Statement::Kind::kText:
        output += statement.text;
        return Flow::kNormal;
      case Statement::Kind::kOutput:
        output += Evaluate(*statement.expression).ToText();
        return Flow::kNormal;
      case Statement::Kind::kIf:
        return RunBlock(
            Evaluate(*statement.expression).Truthy() ? statement.body : statement.otherwise,
            output);
      case Statement::Kind::kFor:
        return RunFor(statement, output);
      case Statement::Kind::kSet:
        RunSet(statement);
        return Flow::kNormal;
      case Statement::Kind::kSetBlock: {
        std::string text;
        scopes_.emplace_back();
        const Flow flow = RunBlock(statement.body, text);
        scopes_.pop_back();
        Assign(statement.targets[0], Value(std::move(text)));
        return flow;
      }
      case Statement::Kind::kGroup:
        return RunBlock(statement.body, output);
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      case Statement::Kind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNormal;
  }

  void RunSet(const Statement& statement) {
    const Value value = Evaluate(*statement.expression);
    if (statement.text.empty()) return AssignAll(statement.targets, value);
    Value object = Lookup(statement.text);
    if (!object.IsNamespace()) {
      throw Error(0, fmt::format("{}.{} is set, but {} is {}, expected a namespace", statement.text,
                                 statement.targets[0], statement.text, object.TypeName()));
    }
    object.SetMember(statement.targets[0], value);
  }

  Flow RunFor(const Statement& statement, std::string& output) {
    List elements = Evaluate(*statement.expression).Elements();
    if (statement.condition != nullptr) {
      List kept;
      for (Value& element : elements) {
        CountSteps(1);
        scopes_.emplace_back();
        AssignAll(statement.targets, element);
        if (Evaluate(*statement.condition).Truthy()) kept.push_back(std::move(element));
        scopes_.pop_back();
      }
      elements = std::move(kept);
    }
    if (elements.empty()) return RunBlock(statement.otherwise, output);
    const auto size = static_cast<int64_t>(elements.size());
    for (int64_t i = 0; i < size; ++i) {
      CountSteps(1);
      const auto at = static_cast<size_t>(i);
      // What an iteration sets ends with it.
      scopes_.push_back(
          {{"loop",
            Dict{{"index", Value(i + 1)},
                 {"index0", Value(i)},
                 {"revindex", Value(size - i)},
                 {"revindex0", Value(size - i - 1)},
                 {"first", Value(i == 0)},
                 {"last", Value(i + 1 == size)},
                 {"length", Value(size)},
                 {"previtem", i > 0 ? elements[at - 1] : Value::MakeUndefined("loop.previtem")},
                 {"nextitem",
                  i + 1 < size ? elements[at + 1] : Value::MakeUndefined("loop.nextitem")}}}});
      AssignAll(statement.targets, elements[at]);
      const Flow flow = RunBlock(statement.body, output);
      scopes_.pop_back();
      if (flow == Flow::kBreak) break;
    }
    return Flow::kNormal;
  }

  Value Evaluate(const Expression& expression) {
    try {
      Value value = EvaluateUnchecked(expression);
      CountSteps(1 + CostOf(value));
      return value;
    } catch (Error& error) {
      if (error.line == 0) error.line = expression.line;
      throw;
    }
  }

  Value EvaluateUnchecked(const Expression& expression) {
    const auto& arguments = expression.arguments;
    switch (expression.kind) {
      case Expression::Kind::kLiteral:
        return expression.value;
      case Expression::Kind::kName:
        return Lookup(expression.text);
      case Expression::Kind::kList: {
        List list;
        for (const ExpressionPtr& element : arguments) list.push_back(Evaluate(*element));
        return Value(std::move(list));
      }
      case Expression::Kind::kDict:
        return EvaluateDict(expression);
      case Expression::Kind::kMember:
        return Member(Evaluate(*arguments[0]), Value(expression.text));
      case Expression::Kind::kIndex:
        return Member(Evaluate(*arguments[0]), Evaluate(*arguments[1]));
      case Expression::Kind::kSlice:
        return EvaluateSlice(expression);
      case Expression::Kind::kCall:
        return Call(expression);
      case Expression::Kind::kFilter:
        return Filter(expression.text, Evaluate(*arguments[0]),
                      EvaluateArguments(expression, expression.text));
      case Expression::Kind::kTest:
        return Value(HasTest(expression.text, Evaluate(*arguments[0]),
                             EvaluateArguments(expression, expression.text)));
      case Expression::Kind::kUnary: {
        const Value operand = Evaluate(*arguments[0]);
        if (expression.text == "not") return Value(!operand.Truthy());
        return Arithmetic(expression.text, Value(int64_t{0}), operand);
      }
      case Expression::Kind::kBinary:
        return EvaluateBinary(expression);
      case Expression::Kind::kConditional:
        if (Evaluate(*arguments[1]).Truthy()) return Evaluate(*arguments[0]);
        return arguments[2] ? Evaluate(*arguments[2]) : Value();
    }
    return Value();
  }

  Value EvaluateDict(const Expression& expression) {
    Dict dict;
    for (size_t i = 0; i < expression.arguments.size(); i += 2) {
      const Value key = Evaluate(*expression.arguments[i]);
      Value value = Evaluate(*expression.arguments[i + 1]);
      const std::string& name = TextOperand(key, "key of a dict");
      const auto found = std::ranges::find(dict, name, &Dict::value_type::first);
      if (found == dict.end()) {
        dict.emplace_back(name, std::move(value));
      } else {
        found->second = std::move(value);
      }
    }
    return Value(std::move(dict));
  }

  Value EvaluateSlice(const Expression& expression) {
    const Value object = Evaluate(*expression.arguments[0]);
    Value bounds[3];
    for (size_t i = 0; i < 3; ++i) {
      if (expression.arguments[i + 1] != nullptr)
        bounds[i] = Evaluate(*expression.arguments[i + 1]);
    }
    const auto slice = [&](size_t size) {
      return BoundsOf(bounds[0], bounds[1], bounds[2], static_cast<int64_t>(size));
    };
    if (const List* list = object.AsList()) return Value(Slice(*list, slice(list->size())));
    if (const std::string* text = object.AsString()) {
      const auto characters = Characters(*text);
      return Value(Concatenate(Slice(characters, slice(characters.size()))));
    }
    throw Error(0, fmt::format("{} cannot be sliced", object.TypeName()));
  }

  Value EvaluateBinary(const Expression& expression) {
    const std::string& op = expression.text;
    Value left = Evaluate(*expression.arguments[0]);
    if (op == "and") return left.Truthy() ? Evaluate(*expression.arguments[1]) : left;
    if (op == "or") return left.Truthy() ? left : Evaluate(*expression.arguments[1]);
    const Value right = Evaluate(*expression.arguments[1]);
    if (op == "~") {
      std::string text = left.ToText() + right.ToText();
      CheckSize(text.size());
      return Value(std::move(text));
    }
    static constexpr std::string_view kArithmetic[] = {"+", "-", "*", "/", "//", "%"};
    if (std::ranges::find(kArithmetic, op) != std::end(kArithmetic))
      return Arithmetic(op, left, right);
    return Value(Compare(op, left, right));
  }

  // object.key and object[key]: an absent one is undefined, but of an undefined object it is an
  // error.
  static Value Member(const Value& object, const Value& key) {
    if (object.IsUndefined()) {
      throw Error(0, fmt::format("\"{}\" is undefined, so it has no \"{}\"", object.UndefinedName(),
                                 key.ToText()));
    }
    if (const int64_t* index = key.AsInteger()) {
      const int64_t size = object.AsList() || object.AsString() ? LengthOf(object) : 0;
      const int64_t at = *index < 0 ? *index + size : *index;
      if (at >= 0 && at < size) {
        if (const List* list = object.AsList()) return (*list)[static_cast<size_t>(at)];
        return Value(std::string(Characters(*object.AsString())[static_cast<size_t>(at)]));
      }
    }
    if (const std::string* name = key.AsString()) {
      if (const Value* member = object.Member(*name)) return *member;
    }
    return Value::MakeUndefined(key.ToText());
  }

  Arguments EvaluateArguments(const Expression& expression, std::string_view of) {
    Arguments arguments{of, {}, {}};
    for (size_t i = 1; i < expression.arguments.size(); ++i)
      arguments.values.push_back(Evaluate(*expression.arguments[i]));
    for (const auto& [name, value] : expression.named)
      arguments.named.emplace_back(name, Evaluate(*value));
    return arguments;
  }

  Value Call(const Expression& expression) {
    const Expression& callee = *expression.arguments[0];
    if (callee.kind == Expression::Kind::kMember) {
      const Value object = Evaluate(*callee.arguments[0]);
      const Arguments arguments = EvaluateArguments(expression, callee.text);
      std::optional<Value> result;
      if (object.AsString()) result = CallTextMethod(*object.AsString(), callee.text, arguments);
      if (object.AsDict()) result = CallDictMethod(object, callee.text, arguments);
      if (result) return *std::move(result);
      throw Error(
          0, fmt::format("method \"{}\" of {} is not supported", callee.text, object.TypeName()));
    }
    if (callee.kind == Expression::Kind::kName)
      return CallFunction(callee.text, EvaluateArguments(expression, callee.text));
    throw Error(0, "only functions and methods can be called");
  }

  static Value CallFunction(const std::string& name, const Arguments& arguments) {
    if (name == "raise_exception") {
      arguments.AtMost(1);
      throw RaisedError(0, arguments.Require(0, "message").ToText());
    }
    if (name == "namespace" || name == "dict") {
      Dict members;
      for (const auto& [key, value] : arguments.named) members.emplace_back(key, value);
      return name == "dict" ? Value(std::move(members)) : Value::MakeNamespace(std::move(members));
    }
    if (name == "range") {
      arguments.AtMost(3);
      const bool two = arguments.values.size() > 1;
      const int64_t start = two ? arguments.Integer(0, "start", 0) : 0;
      const int64_t stop = arguments.Integer(two ? 1 : 0, "stop", 0);
      const int64_t step = arguments.Integer(2, "step", 1);
      if (step == 0) throw Error(0, "range: step is 0");
      List list;
      for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
        if (static_cast<int64_t>(list.size()) == kMaxElements) {
          throw Error(0, fmt::format("range: more than {} elements", kMaxElements));
        }
        list.emplace_back(i);
        if (__builtin_add_overflow(i, step, &i)) break;
      }
      return Value(std::move(list));
    }
    throw Error(0, fmt::format("function \"{}\" is not supported", name));
  }

  Value Filter(const std::string& name, const Value& value, const Arguments& arguments) {
    if (name == "default" || name == "d") {
      arguments.AtMost(2);
      const Value* also_false = arguments.Get(1, "boolean");
      if (!value.IsUndefined() && !(also_false && also_false->Truthy() && !value.Truthy()))
        return value;
      const Value* otherwise = arguments.Get(0, "default_value");
      return otherwise ? *otherwise : Value("");
    }
    if (name == "trim") {
      arguments.AtMost(1);
      return Value(Strip(value.ToText(), arguments.OptionalText(0, "chars"), true, true));
    }
    if (name == "tojson") {
      arguments.AtMost(1);
      const Value* indent = arguments.Get(0, "indent");
      const int64_t spaces =
          indent == nullptr || indent->IsNone() ? -1 : arguments.Integer(0, "indent", -1);
      return Value(value.ToJson(static_cast<int>(std::clamp<int64_t>(spaces, -1, 16))));
    }
    if (name == "join") return Join(value, arguments);
    if (name == "replace") {
      arguments.AtMost(3);
      return Value(Replace(value.ToText(), arguments.Text(0, "old"), arguments.Text(1, "new"),
                           arguments.Integer(2, "count", -1)));
    }
    if (name == "map") {
      arguments.AtMost(1);
      const std::string& attribute = arguments.Text(1, "attribute");
      List list;
      for (const Value& element : value.Elements())
        list.push_back(Member(element, Value(attribute)));
      return Value(std::move(list));
    }
    if (name == "selectattr" || name == "rejectattr")
      return Select(value, arguments, name == "selectattr");

    arguments.AtMost(0);
    if (name == "upper") return Value(Upper(value.ToText()));
    if (name == "lower") return Value(Lower(value.ToText()));
    if (name == "capitalize") return Value(Capitalize(value.ToText()));
    if (name == "title") return Value(Title(value.ToText()));
    if (name == "string") return Value(value.ToText());
    if (name == "safe") return value;
    if (name == "length" || name == "count") return Value(LengthOf(value));
    if (name == "list") return Value(value.Elements());
    if (name == "int") return ToInteger(value);
    if (name == "items") {
      if (value.IsUndefined()) return Value(List{});
      if (value.AsDict() == nullptr)
        throw Error(0, fmt::format("items of {}, expected a dict", value.TypeName()));
      return Value(ItemsOf(*value.AsDict()));
    }
    List elements = value.Elements();
    if (name == "first")
      return elements.empty() ? Value::MakeUndefined("first of nothing") : elements.front();
    if (name == "last")
      return elements.empty() ? Value::MakeUndefined("last of nothing") : elements.back();
    std::ranges::reverse(elements);  // reverse
    if (value.AsString() == nullptr) return Value(std::move(elements));
    std::string text;
    for (const Value& element : elements) text += *element.AsString();
    return Value(std::move(text));
  }

  static Value Join(const Value& value, const Arguments& arguments) {
    arguments.AtMost(2);
    const std::string* separator = arguments.OptionalText(0, "d");
    const std::string* attribute = arguments.OptionalText(1, "attribute");
    std::string text;
    bool first = true;
    for (const Value& element : value.Elements()) {
      if (!first && separator != nullptr) text += *separator;
      first = false;
      text += (attribute ? Member(element, Value(*attribute)) : element).ToText();
      CheckSize(text.size());
    }
    return Value(std::move(text));
  }

  static Value Select(const Value& value, const Arguments& arguments, bool keep) {
    const std::string& attribute = arguments.Text(0, "attribute");
    const std::string* test = arguments.OptionalText(1, "test");
    if (test != nullptr && !IsTest(*test))
      throw Error(0, fmt::format("test \"{}\" is not supported", *test));
    Arguments test_arguments{arguments.of, {}, {}};
    if (arguments.values.size() > 2)
      test_arguments.values.assign(arguments.values.begin() + 2, arguments.values.end());
    List kept;
    for (const Value& element : value.Elements()) {
      const Value member = Member(element, Value(attribute));
      if ((test == nullptr ? member.Truthy() : HasTest(*test, member, test_arguments)) == keep)
        kept.push_back(element);
    }
    return Value(std::move(kept));
  }

  // Jinja's int filter: 0 where there is no number.
  static Value ToInteger(const Value& value) {
    if (value.AsInteger()) return value;
    if (value.IsNumber()) {
      const double number = value.Number();
      return Value(std::abs(number) < 9e18 ? static_cast<int64_t>(number) : int64_t{0});
    }
    if (value.AsString() == nullptr) return Value(int64_t{0});
    const std::string text = Strip(*value.AsString(), nullptr, true, true);
    int64_t integer = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), integer);
    if (error == std::errc() && end == text.data() + text.size()) return Value(integer);
    double number = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
    if (result.ec != std::errc() || result.ptr != text.data() + text.size())
      return Value(int64_t{0});
    return ToInteger(Value(number));
  }

  std::vector<Dict> scopes_;  // innermost last
  int64_t steps_ = 0;
};

}  // namespace

bool IsFilter(const std::string& name) {
  return std::ranges::find(kFilters, name) != std::end(kFilters);
}
bool IsTest(const std::string& name) { return std::ranges::find(kTests, name) != std::end(kTests); }

std::string Render(const Block& block, Dict globals) {
  return Interpreter(std::move(globals)).Run(block);
}

}  // namespace llmir::checkpoint::jinja
