// The families of this machine pass the self-test, and one wrong kernel of any kind fails it.
#include "kernels/self_test.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "tests/unit/kernels/families.h"

namespace llmir::kernels {
namespace {

class SelfTest : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(Families, SelfTest, testing::ValuesIn(AvailableFamilies()), FamilyName);

TEST_P(SelfTest, TheFamilyPasses) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_STREQ(FailedKernel(GetParam()), nullptr);
  const std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - begin;
  RecordProperty("milliseconds", std::to_string(passed.count()));
}

TEST_P(SelfTest, AWrongLinearKernelIsNamed) {
  for (const LinearKernel& kernel : LinearKernels()) {
    if (kernel.isa != GetParam()) continue;
    LinearKernel wrong = kernel;
    // Its first panel alone.
    static void (*run)(const LinearArgs&);
    run = kernel.run;
    wrong.run = [](const LinearArgs& args) {
      LinearArgs part = args;
      part.panel_end = 1;
      run(part);
    };
    EXPECT_STREQ(FailedKernel({&wrong, 1}, FindVector(GetParam()), FindAttention(GetParam())),
                 kernel.name);
  }
}

TEST_P(SelfTest, AWrongVectorKernelIsNamed) {
  VectorKernels wrong = FindVector(GetParam());
  wrong.softcap = [](const float* x, float, int64_t count, float* out) {
    for (int64_t i = 0; i < count; ++i) out[i] = x[i];
  };
  EXPECT_STREQ(FailedKernel({}, wrong, FindAttention(GetParam())), "softcap");
}

TEST_P(SelfTest, AWrongAttentionKernelIsNamed) {
  AttentionKernels wrong = FindAttention(GetParam());
  wrong.append_attend = [](const RopeAppendArgs&, const AttentionArgs&) {};
  EXPECT_STREQ(FailedKernel({}, FindVector(GetParam()), wrong), "append_attend");
}

}  // namespace
}  // namespace llmir::kernels
