#include "kvpool/kv_arena.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
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
  StatusOr<KvArena> arena = KvArena::Create({64, 4, size_t{1} << 18});
  ASSERT_TRUE(arena.ok()) << arena.status().ToString();
  EXPECT_EQ(arena->bytes(), size_t{64} << 20);
  EXPECT_EQ(ResidentPages(*arena), 0u);
  EXPECT_EQ(arena->data()[arena->bytes() - 1], std::byte{0});
  arena->data()[0] = std::byte{1};
  EXPECT_GE(ResidentPages(*arena), 1u);
}

TEST(KvArena, MovingHandsTheMemoryOver) {
  StatusOr<KvArena> created = KvArena::Create({2, 1, 4096});
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

TEST(KvArena, ASliceOfAnExtentsBlocksLiesSideBySide) {
  StatusOr<KvArena> arena = KvArena::Create({10, 6, 64, 4});
  ASSERT_TRUE(arena.ok()) << arena.status().ToString();
  EXPECT_EQ(arena->bytes(), 3u * 4 * 6 * 64) << "whole extents";
  EXPECT_EQ(arena->slice(0, 0), arena->data());
  EXPECT_EQ(arena->slice(0, 3), arena->data() + 3 * 64);
  EXPECT_EQ(arena->slice(1, 0), arena->data() + 4 * 64);
  EXPECT_EQ(arena->slice(5, 6), arena->data() + (1 * 6 * 4 + 5 * 4 + 2) * 64);
  StatusOr<KvArena> apart = KvArena::Create({10, 6, 64, 1});
  ASSERT_TRUE(apart.ok()) << apart.status().ToString();
  EXPECT_EQ(apart->slice(5, 9), apart->data() + (9 * 6 + 5) * 64) << "block by block";
}

TEST(KvArena, SizesThatOverflowOrAreZeroAreRefused) {
  for (const KvShape& shape :
       {KvShape{SIZE_MAX / 2, 1, 3}, KvShape{SIZE_MAX - 2, 1, 1, 4}, KvShape{4, SIZE_MAX / 2, 3},
        KvShape{0, 1, 4096}, KvShape{4, 1, 0}, KvShape{4, 0, 4096}, KvShape{4, 1, 4096, 0},
        KvShape{4, 1, 4096, 3}, KvShape{4, 1, 4096, 1, SIZE_MAX - 4095}}) {
    EXPECT_EQ(KvArena::Create(shape).status().code(), StatusCode::kInvalidArgument);
  }
}

TEST(KvArena, MoreThanTheAddressSpaceIsResourceExhausted) {
  EXPECT_EQ(KvArena::Create({size_t{1} << 30, 1, size_t{1} << 30}).status().code(),
            StatusCode::kResourceExhausted);
}

TEST(KvArena, BlocksLieBehindWhatIsInFront) {
  KvShape shape{64, 4, size_t{1} << 16, 4, 2 * MemoryMap::kHugePage, 2 * MemoryMap::kHugePage};
  StatusOr<KvArena> arena = KvArena::Create(shape);
  ASSERT_TRUE(arena.ok()) << arena.status().ToString();
  EXPECT_EQ(arena->data(), arena->front() + shape.offset);
  EXPECT_EQ(arena->slice(0, 0), arena->data());
  EXPECT_EQ(arena->bytes(), size_t{16} << 20) << "of the blocks";
  EXPECT_EQ(reinterpret_cast<uintptr_t>(arena->data()) % MemoryMap::kHugePage, 0u);
  arena->front()[0] = std::byte{1};
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> resident(shape.offset / page);
  ASSERT_EQ(mincore(arena->front(), shape.offset, resident.data()), 0);
  EXPECT_EQ(std::count_if(resident.begin(), resident.end(), [](auto r) { return r & 1; }), 1)
      << "pages in front of huge ones are small";
  EXPECT_EQ(ResidentPages(*arena), 0u);
}

TEST(KvArena, OthersReadBlocksAlone) {
  KvShape shape{4, 1, 4096, 1, 8192};
  StatusOr<KvArena> owner = KvArena::Create(shape, Sharing::kShared);
  ASSERT_TRUE(owner.ok()) << owner.status().ToString();
  owner->front()[4096] = std::byte{6};
  owner->slice(0, 1)[0] = std::byte{7};
  StatusOr<KvArena> reader =
      KvArena::Open(static_cast<int>(getpid()), owner->descriptor(), owner->identity(), shape);
  ASSERT_TRUE(reader.ok()) << reader.status().ToString();
  EXPECT_EQ(reader->front(), reader->data());
  EXPECT_EQ(reader->slice(0, 1)[0], std::byte{7});
  EXPECT_EQ(reader->bytes(), 4u * 4096);
}

TEST(KvArena, SharedMemoryIsReadByOthersAndOutlivesItsArena) {
  StatusOr<KvArena> created = KvArena::Create({4, 1, 4096}, Sharing::kShared);
  ASSERT_TRUE(created.ok()) << created.status().ToString();
  std::optional<KvArena> owner = std::move(created).value();
  owner->data()[4096] = std::byte{7};
  const auto open = [&](uint64_t identity, size_t blocks) {
    return KvArena::Open(static_cast<int>(getpid()), owner->descriptor(), identity,
                         {blocks, 1, 4096});
  };
  StatusOr<KvArena> reader = open(owner->identity(), 4);
  ASSERT_TRUE(reader.ok()) << reader.status().ToString();
  EXPECT_EQ(reader->data()[4096], std::byte{7});
  EXPECT_EQ(open(owner->identity() + 1, 4).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(open(owner->identity(), 5).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(open(owner->identity(), 3).status().code(), StatusCode::kUnavailable);
  owner->data()[4097] = std::byte{8};
  owner.reset();
  EXPECT_EQ(reader->data()[4097], std::byte{8});
}

}  // namespace
}  // namespace llmir::kvpool
