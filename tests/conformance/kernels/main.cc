// kernel_conformance [--seed N | --one-in N] [GoogleTest's options]: every kernel that this machine
// can run against a reference in double precision and against the portable family, bit for bit.
// --seed N repeats one case of each test, --one-in N runs every Nth.
#include <gtest/gtest.h>

#include <charconv>
#include <cstdio>
#include <string_view>

#include "tests/conformance/kernels/cases.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  llmir::kernels::Cases& cases = llmir::kernels::cases;
  if (argc != 1) {
    const std::string_view option = argv[1];
    const std::string_view text = argc == 3 ? argv[2] : "";
    uint32_t number = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool read = error == std::errc() && rest == text.data() + text.size();
    if (argc == 3 && read && option == "--seed") {
      cases.only = number;
    } else if (argc == 3 && read && option == "--one-in" && number > 0) {
      cases.every = number;
    } else {
      std::fprintf(stderr, "usage: kernel_conformance [--seed N | --one-in N] [--gtest_...]\n");
      return 2;
    }
  }
  const bool whole = testing::GTEST_FLAG(filter) == "*" && !cases.only && cases.every == 1 &&
                     !testing::GTEST_FLAG(list_tests);
  const int status = RUN_ALL_TESTS();
  const long long run = cases.run;
  std::printf("kernel_conformance: %lld cases\n", run);
  if (whole && status == 0 && run < llmir::kernels::kLeastCases) {
    std::fprintf(stderr, "kernel_conformance: %lld cases, expected at least %lld\n", run,
                 static_cast<long long>(llmir::kernels::kLeastCases));
    return 1;
  }
  return status;
}
