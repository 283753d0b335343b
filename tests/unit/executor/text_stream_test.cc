#include "executor/text_stream.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace llmir::executor {
namespace {

std::string ModelPath() {
  if (const char* path = std::getenv("LLMIR_TEST_MODEL")) return path;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const std::string base = cache != nullptr ? cache : std::string(std::getenv("HOME")) + "/.cache";
  return base + "/llmir/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

class TextStreamTest : public testing::Test {
 protected:
  void SetUp() override {
    auto loaded = checkpoint::Tokenizer::Load(ModelPath());
    ASSERT_TRUE(loaded.ok()) << loaded.status().ToString() << " (launch/install.sh puts it there)";
    tokenizer_.emplace(std::move(loaded).value());
  }
  // Feeds `text`'s ids one by one; returns all that was shown, piece by piece.
  std::vector<std::string> Feed(TextStream& stream, const std::string& text) {
    std::vector<std::string> shown;
    for (const int32_t id : tokenizer_->Encode(text)) {
      if (stream.stopped()) break;
      shown.push_back(stream.Push(id));
    }
    shown.push_back(stream.Finish());
    return shown;
  }
  std::optional<checkpoint::Tokenizer> tokenizer_;
};

std::string Join(const std::vector<std::string>& parts) {
  std::string all;
  for (const auto& part : parts) all += part;
  return all;
}

TEST_F(TextStreamTest, PiecesJoinToTheTextAndNeverSplitACharacter) {
  const std::string text = "naïve 日本語 🙂🚀 end";
  TextStream stream(&*tokenizer_, {});
  const auto shown = Feed(stream, text);
  EXPECT_EQ(Join(shown), text);
  EXPECT_EQ(stream.text(), text);
  for (const auto& piece : shown) {
    if (piece.empty()) continue;
    EXPECT_NE(static_cast<unsigned char>(piece.front()) & 0xc0, 0x80)
        << "starts inside a character";
  }
}

TEST_F(TextStreamTest, StopsBeforeAStopStringThatSpansTokens) {
  TextStream stream(&*tokenizer_, {"bar baz", "never"});
  const auto shown = Feed(stream, "foo bar baz qux");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(Join(shown), "foo ");
  EXPECT_EQ(stream.text(), "foo ");
}

TEST_F(TextStreamTest, ABeginningOfAStopStringIsHeldBackAndReleasedWhenItIsNone) {
  TextStream stream(&*tokenizer_, {"bar baz"});
  std::string before_last;
  const auto ids = tokenizer_->Encode("foo bar qux");
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(stream.text().find("bar baz"), std::string::npos);
    stream.Push(ids[i]);
  }
  stream.Finish();
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.text(), "foo bar qux");
}

TEST_F(TextStreamTest, AnUnfinishedStopStringAtTheEndIsShown) {
  TextStream stream(&*tokenizer_, {"bar baz"});
  EXPECT_EQ(Join(Feed(stream, "foo bar ba")), "foo bar ba");
}

TEST(TextStreamWithoutTokenizerTest, StaysEmpty) {
  TextStream stream(nullptr, {"x"});
  EXPECT_EQ(stream.Push(5), "");
  EXPECT_EQ(stream.Finish(), "");
}

}  // namespace
}  // namespace llmir::executor
