// Status and StatusOr: the one way in which every folder of the project reports that something went
// wrong. No exception crosses a folder's border. A message says what failed, where (file,
// field[index]), what was got and what was expected, and what to do about it, so that a single
// printed line is enough for the reader.
//
// Plain values: copyable, no shared state, usable from any thread.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace llmir {

enum class StatusCode : uint8_t {
  kOk = 0,
  kInvalidArgument,    // the caller's or the user's input is wrong
  kNotFound,           // a file, tensor or name does not exist
  kDataLoss,           // a file is truncated or its bytes are not what was recorded
  kIncompatible,       // made for another version, feature set or machine
  kOutOfRange,         // a value lies outside what the object can hold
  kResourceExhausted,  // memory, KV blocks, descriptors
  kUnavailable,  // a backend or peer that this machine doesn't have; the only code on which a test
                 // may skip
  kDeadlineExceeded,  // a peer or device did not answer in time
  kCancelled,         // stopped on request
  kInternal,          // a defect of this program
};

// The code's name as users see it, for example "INVALID_ARGUMENT".
constexpr std::string_view StatusCodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "OK";
    case StatusCode::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case StatusCode::kNotFound:
      return "NOT_FOUND";
    case StatusCode::kDataLoss:
      return "DATA_LOSS";
    case StatusCode::kIncompatible:
      return "INCOMPATIBLE";
    case StatusCode::kOutOfRange:
      return "OUT_OF_RANGE";
    case StatusCode::kResourceExhausted:
      return "RESOURCE_EXHAUSTED";
    case StatusCode::kUnavailable:
      return "UNAVAILABLE";
    case StatusCode::kDeadlineExceeded:
      return "DEADLINE_EXCEEDED";
    case StatusCode::kCancelled:
      return "CANCELLED";
    case StatusCode::kInternal:
      return "INTERNAL";
  }
  return "UNKNOWN";
}

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

  // "NOT_FOUND: model.gguf: no such file" or "OK".
  std::string ToString() const {
    return ok() ? "OK" : fmt::format("{}: {}", StatusCodeName(code_), message_);
  }

  // The same error with `context` and ": " in front of the message; OK stays OK.
  Status WithContext(std::string_view context) const {
    return ok() ? *this : Status(code_, fmt::format("{}: {}", context, message_));
  }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

// One factory per code, with fmt's format strings: `return NotFound("{}: no such file", path);`
template <StatusCode kCode, typename... Args>
Status MakeStatus(fmt::format_string<Args...> format, Args&&... args) {
  return Status(kCode, fmt::format(format, std::forward<Args>(args)...));
}
#define LLMIR_STATUS_FACTORY(name)                                               \
  template <typename... Args>                                                    \
  Status name(fmt::format_string<Args...> format, Args&&... args) {              \
    return MakeStatus<StatusCode::k##name>(format, std::forward<Args>(args)...); \
  }
LLMIR_STATUS_FACTORY(InvalidArgument)
LLMIR_STATUS_FACTORY(NotFound)
LLMIR_STATUS_FACTORY(DataLoss)
LLMIR_STATUS_FACTORY(Incompatible)
LLMIR_STATUS_FACTORY(OutOfRange)
LLMIR_STATUS_FACTORY(ResourceExhausted)
LLMIR_STATUS_FACTORY(Unavailable)
LLMIR_STATUS_FACTORY(DeadlineExceeded)
LLMIR_STATUS_FACTORY(Cancelled)
LLMIR_STATUS_FACTORY(Internal)
#undef LLMIR_STATUS_FACTORY

// A value or the Status that says why there is none. Reading the value of an error aborts: it is a
// defect of the caller.
template <typename T>
class [[nodiscard]] StatusOr {
 public:
  StatusOr(Status status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    if (status_.ok()) std::abort();
  }
  StatusOr(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  T& value() & { return Checked(); }
  const T& value() const& { return const_cast<StatusOr*>(this)->Checked(); }
  T&& value() && { return std::move(Checked()); }
  T& operator*() & { return Checked(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &Checked(); }
  const T* operator->() const { return &value(); }

 private:
  T& Checked() {
    if (!value_.has_value()) {
      fmt::print(stderr, "StatusOr read without a value: {}\n", status_.ToString());
      std::abort();
    }
    return *value_;
  }
  Status status_;
  std::optional<T> value_;
};

#define LLMIR_RETURN_IF_ERROR(expression)                                                        \
  do {                                                                                           \
    if (::llmir::Status llmir_status_ = (expression); !llmir_status_.ok()) return llmir_status_; \
  } while (false)

#define LLMIR_CONCAT_INNER(a, b) a##b
#define LLMIR_CONCAT(a, b) LLMIR_CONCAT_INNER(a, b)
// `LLMIR_ASSIGN_OR_RETURN(auto file, OpenFile(path));` assigns the value or returns the error.
#define LLMIR_ASSIGN_OR_RETURN(left, expression) \
  LLMIR_ASSIGN_OR_RETURN_IMPL(LLMIR_CONCAT(llmir_statusor_, __LINE__), left, expression)
#define LLMIR_ASSIGN_OR_RETURN_IMPL(temporary, left, expression) \
  auto temporary = (expression);                                 \
  if (!temporary.ok()) return temporary.status();                \
  left = std::move(temporary).value()

}  // namespace llmir
