#include "comm/shared_segment.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

namespace llmir::comm {
namespace {

constexpr uint64_t kCookie = 0x0123456789abcdef;
constexpr size_t kMaxBytes = size_t{1} << 20;

size_t OpenDescriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

TEST(SharedSegment, WhatOneMapWritesTheOtherReads) {
  const auto created = SharedSegment::CreateShared(3, kMaxBytes, kCookie);
  ASSERT_TRUE(created.ok()) << created.status().ToString();
  const auto opened =
      SharedSegment::Open(3, kMaxBytes, getpid(), (*created)->descriptor(), kCookie);
  ASSERT_TRUE(opened.ok()) << opened.status().ToString();
  (*created)->flags(2).contributed.store(17);
  EXPECT_EQ((*opened)->flags(2).contributed.load(), 17u);
  std::memcpy((*opened)->round_data(1, 3), "abc", 4);
  EXPECT_STREQ(reinterpret_cast<const char*>((*created)->round_data(1, 3)), "abc");
  // The memory stays when its descriptor is closed, and when the other map goes.
  (*created)->CloseDescriptor();
  std::memcpy((*opened)->mailbox_data(2, kMaxRequests - 1) + (*opened)->mailbox_bytes() - 1, "z",
              1);
  EXPECT_EQ((*created)->mailbox_data(2, kMaxRequests - 1)[(*created)->mailbox_bytes() - 1],
            std::byte{'z'});
}

TEST(SharedSegment, AnotherCookieIsRefused) {
  const auto created = SharedSegment::CreateShared(2, kMaxBytes, kCookie);
  ASSERT_TRUE(created.ok());
  const auto opened =
      SharedSegment::Open(2, kMaxBytes, getpid(), (*created)->descriptor(), kCookie + 1);
  EXPECT_EQ(opened.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(opened.status().message(), testing::HasSubstr("not the shared memory"));
}

TEST(SharedSegment, SomethingElseUnderTheDescriptorIsRefused) {
  const int other = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(other, 0);
  EXPECT_EQ(SharedSegment::Open(2, kMaxBytes, getpid(), other, kCookie).status().code(),
            StatusCode::kUnavailable);
  close(other);
  EXPECT_EQ(SharedSegment::Open(2, kMaxBytes, getpid(), other, kCookie).status().code(),
            StatusCode::kUnavailable);
}

TEST(SharedSegment, NoDescriptorIsLeftOpen) {
  const size_t before = OpenDescriptors();
  {
    const auto created = SharedSegment::CreateShared(2, kMaxBytes, kCookie);
    ASSERT_TRUE(created.ok());
    const auto opened =
        SharedSegment::Open(2, kMaxBytes, getpid(), (*created)->descriptor(), kCookie);
    ASSERT_TRUE(opened.ok());
    EXPECT_EQ(OpenDescriptors(), before + 1);  // the creator's, until all have opened it
  }
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST(SharedSegment, PartsDoNotOverlap) {
  const auto segment = SharedSegment::CreatePrivate(3, 1000);
  ASSERT_TRUE(segment.ok());
  EXPECT_GE((*segment)->round_bytes(), 1000u);
  EXPECT_GE((*segment)->mailbox_bytes(), 1000u);
  // Each part is filled with a value of its own; then all are looked at.
  struct Part {
    std::byte* data;
    size_t bytes;
  };
  std::vector<Part> parts;
  for (int rank = 0; rank < 3; ++rank) {
    parts.push_back({reinterpret_cast<std::byte*>(&(*segment)->flags(rank)), sizeof(RankFlags)});
    for (uint64_t round = 0; round < kRoundsInFlight; ++round) {
      parts.push_back({(*segment)->round_data(rank, round), (*segment)->round_bytes()});
    }
    for (int other = 0; other < 3; ++other) {
      parts.push_back(
          {reinterpret_cast<std::byte*>(&(*segment)->doorbell(rank, other)), sizeof(Doorbell)});
    }
    for (int slot = 0; slot < kMaxRequests; ++slot) {
      parts.push_back(
          {reinterpret_cast<std::byte*>(&(*segment)->mailbox(rank, slot)), sizeof(Mailbox)});
      parts.push_back({(*segment)->mailbox_data(rank, slot), (*segment)->mailbox_bytes()});
    }
  }
  // The numbers of parts are told apart by two bytes in turn.
  ASSERT_LT(parts.size(), 65536u);
  const auto pattern = [](size_t part, size_t at) {
    return static_cast<std::byte>(part >> (at % 2 * 8));
  };
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(parts[i].data) % kFlagAlignment, 0u) << i;
    for (size_t at = 0; at < parts[i].bytes; ++at) parts[i].data[at] = pattern(i, at);
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    size_t at = 0;
    while (at < parts[i].bytes && parts[i].data[at] == pattern(i, at)) ++at;
    EXPECT_EQ(at, parts[i].bytes) << i;
  }
}

TEST(SharedSegment, MoreThanTheAddressSpaceIsResourceExhausted) {
  EXPECT_EQ(SharedSegment::CreatePrivate(30'000'000, size_t{1} << 30).status().code(),
            StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace llmir::comm
