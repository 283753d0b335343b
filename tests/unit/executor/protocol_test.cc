#include "executor/protocol.h"

#include <gtest/gtest.h>

namespace llmir::executor {
namespace {

TEST(ProtocolTest, FramesComeBackOneByOneHoweverTheyArrive) {
  std::string sent;
  AppendFrame(FrameType::kSubmit, R"({"id": 1})", &sent);
  AppendFrame(FrameType::kCancel, "", &sent);
  for (size_t arrived = 0; arrived < 8 + 9; ++arrived) {
    const auto frame = FirstFrame(std::string_view(sent).substr(0, arrived));
    ASSERT_TRUE(frame.ok());
    EXPECT_EQ(frame->bytes, 0u) << arrived;
  }
  const auto first = FirstFrame(sent);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->type, FrameType::kSubmit);
  EXPECT_EQ(first->payload, R"({"id": 1})");
  const auto second = FirstFrame(std::string_view(sent).substr(first->bytes));
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->type, FrameType::kCancel);
  EXPECT_EQ(second->bytes, 8u);
}

TEST(ProtocolTest, OtherVersionsAndHugeFramesAreRefused) {
  std::string sent;
  AppendFrame(FrameType::kSubmit, "{}", &sent);
  sent[4] = 2;
  EXPECT_EQ(FirstFrame(sent).status().code(), StatusCode::kIncompatible);
  EXPECT_EQ(FirstFrame(std::string_view("\xff\xff\xff\xff\x01\x01\0\0", 8)).status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace llmir::executor
