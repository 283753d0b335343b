#include "kernels/isa.h"

#include "tests/unit/kernels/families.h"

namespace llmir::kernels {
namespace {

TEST(IsaTest, NamesParseBack) {
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    EXPECT_EQ(ParseIsa(IsaName(isa)), isa);
  }
  EXPECT_STREQ(IsaName(Isa::kAvx512), "avx512");
}

TEST(IsaTest, UnknownNameIsRefused) {
  for (const char* name : {"", "AVX2", "avx", "avx512 ", "neon"}) {
    EXPECT_EQ(ParseIsa(name), std::nullopt) << name;
  }
}

TEST(IsaTest, DetectedFamilyIsTheBestAvailable) {
  EXPECT_TRUE(IsaAvailable(Isa::kPortable));
  EXPECT_EQ(DetectIsa(), AvailableFamilies().back());
}

TEST(IsaTest, Avx512ImpliesAvx2) {
  EXPECT_LE(IsaAvailable(Isa::kAvx512), IsaAvailable(Isa::kAvx2));
}

}  // namespace
}  // namespace llmir::kernels
