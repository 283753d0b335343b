// A defect of the pool or its caller ends the process with a message: going on would hand one
// sequence another's keys and values.
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace llmir::kvpool {

template <typename... Args>
void CheckIn(std::string_view where, bool condition, fmt::format_string<Args...> format,
             Args&&... args) {
  if (condition) return;
  fmt::print(stderr, "{}: {}\n", where, fmt::format(format, std::forward<Args>(args)...));
  std::abort();
}

}  // namespace llmir::kvpool
