#include "kvpool/spill_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace llmir::kvpool {
namespace {

constexpr size_t kBytes = 10000;

std::vector<std::byte> Block(int seed) {
  std::vector<std::byte> block(kBytes);
  for (size_t i = 0; i < kBytes; ++i) {
    block[i] = static_cast<std::byte>(static_cast<size_t>(seed) * 31 + i * 7 + i / 256);
  }
  return block;
}

// The file that a process has open without a name, by its descriptor.
int OpenedAfter(const std::function<void()>& open) {
  std::vector<int> before;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    before.push_back(std::stoi(entry.path().filename()));
  }
  // Not the one that the folder was read by.
  std::erase_if(before, [](int file) { return fcntl(file, F_GETFD) < 0; });
  open();
  for (int file = 3;; ++file) {
    if (std::ranges::find(before, file) == before.end()) return file;
  }
}

TEST(SpillFile, GivesBackWhatWasWritten) {
  auto spill = SpillFile::Create(testing::TempDir(), 5, kBytes);
  ASSERT_TRUE(spill.ok()) << spill.status().ToString();
  EXPECT_TRUE(spill->Write(3, Block(3)).ok());
  EXPECT_TRUE(spill->Write(0, Block(0)).ok());
  EXPECT_TRUE(spill->Write(3, Block(7)).ok());
  std::vector<std::byte> block(kBytes);
  ASSERT_TRUE(spill->Read(3, block).ok());
  EXPECT_EQ(block, Block(7));
  ASSERT_TRUE(spill->Read(0, block).ok());
  EXPECT_EQ(block, Block(0));
  EXPECT_EQ(spill->Read(1, block).code(), StatusCode::kDataLoss) << "never written";
  EXPECT_EQ(spill->Read(5, block).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(spill->Write(-1, block).code(), StatusCode::kOutOfRange);
}

TEST(SpillFile, AByteThatChangedIsNoticed) {
  std::optional<SpillFile> spill;
  const int file = OpenedAfter([&] {
    auto created = SpillFile::Create(testing::TempDir(), 2, kBytes);
    ASSERT_TRUE(created.ok()) << created.status().ToString();
    spill = std::move(created).value();
  });
  ASSERT_TRUE(spill->Write(1, Block(1)).ok());
  const std::byte other{0x55};
  ASSERT_EQ(pwrite(file, &other, 1, kBytes + 777), 1);
  std::vector<std::byte> block(kBytes);
  EXPECT_EQ(spill->Read(1, block).code(), StatusCode::kDataLoss);
  ASSERT_EQ(ftruncate(file, kBytes + 10), 0);
  EXPECT_EQ(spill->Read(1, block).code(), StatusCode::kDataLoss);
}

TEST(SpillFile, LeavesNothingBehind) {
  const std::filesystem::path folder =
      std::filesystem::path(testing::TempDir()) / ("spill-" + std::to_string(getpid()));
  std::filesystem::create_directory(folder);
  {
    auto spill = SpillFile::Create(folder.string(), 2, kBytes);
    ASSERT_TRUE(spill.ok()) << spill.status().ToString();
    ASSERT_TRUE(spill->Write(1, Block(1)).ok());
    EXPECT_TRUE(std::filesystem::is_empty(folder)) << "whatever ends the process";
  }
  std::filesystem::remove(folder);
}

TEST(SpillFile, AFolderThatIsNotThereIsNamed) {
  const auto missing = SpillFile::Create("/no/such/folder", 2, kBytes);
  EXPECT_EQ(missing.status().ToString(), "NOT_FOUND: --spill /no/such/folder: no such folder");
  const auto full = SpillFile::Create("/proc", 2, kBytes);
  EXPECT_FALSE(full.ok());
}

TEST(SpillFile, FullStorageIsAnErrorOfTheWrite) {
  if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "UNAVAILABLE: no /dev/full";
  std::optional<SpillFile> spill;
  const int file = OpenedAfter([&] {
    auto created = SpillFile::Create(testing::TempDir(), 2, kBytes);
    ASSERT_TRUE(created.ok());
    spill = std::move(created).value();
  });
  const int full = open("/dev/full", O_RDWR | O_CLOEXEC);
  ASSERT_GE(dup2(full, file), 0);
  close(full);
  EXPECT_EQ(spill->Write(0, Block(0)).code(), StatusCode::kResourceExhausted);
  std::vector<std::byte> block(kBytes);
  EXPECT_EQ(spill->Read(0, block).code(), StatusCode::kDataLoss);
}

}  // namespace
}  // namespace llmir::kvpool
