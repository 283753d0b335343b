// Values of the Jinja interpreter, with Python's rules for truth, equality, printing. Internal to
// the checkpoint folder.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace llmir::checkpoint::jinja {

// Thrown inside the interpreter only; ChatTemplate turns it into a Status.
class Error : public std::runtime_error {
 public:
  Error(int line, const std::string& what) : std::runtime_error(what), line(line) {}
  int line;  // of the template; 0: not known yet
};

class Value;
using List = std::vector<Value>;
// In order of insertion, as Python's dicts are; they are small, so a search is a scan.
using Dict = std::vector<std::pair<std::string, Value>>;

struct Undefined {
  std::string name;  // what was looked up, for messages
};
struct None {};

// Copies share lists and dicts, as Python's references do. Only a namespace is ever changed after
// it was made, and no value may hold one: so values cannot form cycles. How deep they nest is
// bounded, and with it every recursion over them.
class Value {
 public:
  Value() : data_(Undefined{}) {}
  Value(None none) : data_(none) {}                        // NOLINT(google-explicit-constructor)
  Value(bool value) : data_(value) {}                      // NOLINT(google-explicit-constructor)
  Value(int64_t value) : data_(value) {}                   // NOLINT(google-explicit-constructor)
  Value(double value) : data_(value) {}                    // NOLINT(google-explicit-constructor)
  Value(std::string value) : data_(std::move(value)) {}    // NOLINT(google-explicit-constructor)
  Value(const char* value) : data_(std::string(value)) {}  // NOLINT(google-explicit-constructor)
  Value(List value);                                       // NOLINT(google-explicit-constructor)
  Value(Dict value);                                       // NOLINT(google-explicit-constructor)
  static Value MakeUndefined(std::string name) {
    Value value;
    value.data_ = Undefined{std::move(name)};
    return value;
  }
  static Value MakeNamespace(Dict members) {
    Value value(std::move(members));
    value.is_namespace_ = true;
    return value;
  }

  bool IsUndefined() const { return std::holds_alternative<Undefined>(data_); }
  bool IsNone() const { return std::holds_alternative<None>(data_); }
  bool IsNamespace() const { return is_namespace_; }
  const bool* AsBool() const { return std::get_if<bool>(&data_); }
  const int64_t* AsInteger() const { return std::get_if<int64_t>(&data_); }
  const double* AsFloat() const { return std::get_if<double>(&data_); }
  const std::string* AsString() const { return std::get_if<std::string>(&data_); }
  const List* AsList() const { return Pointee<List>(); }
  const Dict* AsDict() const { return Pointee<Dict>(); }

  bool IsNumber() const {
    return AsBool() != nullptr || AsInteger() != nullptr || AsFloat() != nullptr;
  }
  double Number() const;  // of a value that IsNumber

  // The member of a dict or namespace, null if it isn't there or this is neither.
  const Value* Member(std::string_view key) const;
  void SetMember(const std::string& key, Value value);  // of a namespace

  bool Truthy() const;
  bool Equals(const Value& other) const;
  // Python's <; numbers and strings only.
  bool Less(const Value& other) const;
  // Python's `in`: a substring, an element or a key.
  bool Contains(const Value& item) const;

  std::string ToText() const;  // str(x)
  std::string ToRepr() const;  // repr(x)
  // json.dumps(x, ensure_ascii=False, indent=indent); indent < 0: on one line.
  std::string ToJson(int indent = -1) const;

  const char* TypeName() const;  // for messages
  std::string UndefinedName() const;
  // What a loop over it yields: elements, keys, characters; an undefined value yields nothing, as
  // in Jinja.
  List Elements() const;

 private:
  template <typename T>
  const T* Pointee() const {
    const auto* shared = std::get_if<std::shared_ptr<T>>(&data_);
    return shared == nullptr ? nullptr : shared->get();
  }
  void CheckNesting(const Value& member);
  void AppendJson(int indent, int depth, std::string& out) const;

  std::variant<Undefined, None, bool, int64_t, double, std::string, std::shared_ptr<List>,
               std::shared_ptr<Dict>>
      data_;
  bool is_namespace_ = false;
  int depth_ = 0;  // levels of lists and dicts
};

// The characters of UTF-8 text, each as its bytes; a stray byte is a character.
std::vector<std::string_view> Characters(std::string_view text);

}  // namespace llmir::checkpoint::jinja
