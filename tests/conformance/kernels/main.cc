// kernel_conformance [--seed N] [GoogleTest's options]: every kernel that this machine can run
// against a reference in double precision and against the portable family, bit for bit.
#include <gtest/gtest.h>

#include <charconv>
#include <cstdio>
#include <cstring>

#include "tests/conformance/kernels/cases.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc == 3 && std::strcmp(argv[1], "--seed") == 0) {
    uint32_t seed = 0;
    const char* end = argv[2] + std::strlen(argv[2]);
    const auto [rest, error] = std::from_chars(argv[2], end, seed);
    if (error != std::errc() || rest != end) {
      std::fprintf(stderr, "kernel_conformance: --seed %s: expected a number\n", argv[2]);
      return 2;
    }
    llmir::kernels::cases.only = seed;
  } else if (argc != 1) {
    std::fprintf(stderr, "usage: kernel_conformance [--seed N] [--gtest_...]\n");
    return 2;
  }
  const bool whole = testing::GTEST_FLAG(filter) == "*" && !llmir::kernels::cases.only &&
                     !testing::GTEST_FLAG(list_tests);
  const int status = RUN_ALL_TESTS();
  const long long run = llmir::kernels::cases.run;
  std::printf("kernel_conformance: %lld cases\n", run);
  if (whole && status == 0 && run < llmir::kernels::kLeastCases) {
    std::fprintf(stderr, "kernel_conformance: %lld cases, expected at least %lld\n", run,
                 static_cast<long long>(llmir::kernels::kLeastCases));
    return 1;
  }
  return status;
}
