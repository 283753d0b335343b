#include "kvpool/kv_arena.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace llmir::kvpool {
namespace {

size_t ResidentPages(const KvArena& arena) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> resident((arena.bytes() + page - 1) / page);
  EXPECT_EQ(mincore(arena.data(), arena.bytes(), resident.data()), 0);
  return static_cast<size_t>(
      std::count_if(resident.begin(), resident.end(), [](unsigned char r) { return r & 1; }));
}

TEST(KvArena, IsUntouchedUntilUsedAndThenZero) {
  StatusOr<KvArena> arena = KvArena::Create(64, size_t{1} << 20);
  ASSERT_TRUE(arena.ok()) << arena.status().ToString();
  EXPECT_EQ(arena->bytes(), size_t{64} << 20);
  EXPECT_EQ(arena->block_bytes(), size_t{1} << 20);
  EXPECT_EQ(ResidentPages(*arena), 0u);
  EXPECT_EQ(arena->data()[arena->bytes() - 1], std::byte{0});
  arena->data()[0] = std::byte{1};
  EXPECT_GE(ResidentPages(*arena), 1u);
}

TEST(KvArena, MovingHandsTheMemoryOver) {
  StatusOr<KvArena> created = KvArena::Create(2, 4096);
  ASSERT_TRUE(created.ok());
  KvArena arena = std::move(created).value();
  std::byte* const data = arena.data();
  KvArena moved(std::move(arena));
  EXPECT_EQ(moved.data(), data);
  EXPECT_EQ(arena.data(), nullptr);
  arena = std::move(moved);
  EXPECT_EQ(arena.data(), data);
  EXPECT_EQ(arena.bytes(), 8192u);
}

TEST(KvArena, SizesThatOverflowOrAreZeroAreRefused) {
  EXPECT_EQ(KvArena::Create(SIZE_MAX / 2, 3).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(KvArena::Create(0, 4096).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(KvArena::Create(4, 0).status().code(), StatusCode::kInvalidArgument);
}

TEST(KvArena, MoreThanTheAddressSpaceIsResourceExhausted) {
  EXPECT_EQ(KvArena::Create(size_t{1} << 30, size_t{1} << 30).status().code(),
            StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace llmir::kvpool
