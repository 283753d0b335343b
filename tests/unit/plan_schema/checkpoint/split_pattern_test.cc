#include "plan_schema/checkpoint/split_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace llmir::checkpoint {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> Split(const std::string& pattern, const std::string& text) {
  const auto split = SplitPattern::Compile(pattern);
  EXPECT_TRUE(split.ok()) << split.status().ToString();
  std::vector<std::string> pieces;
  split->Split(text, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

TEST(SplitPattern, MatchesAndGapsAreBothPieces) {
  EXPECT_THAT(Split("b+", "abbcb"), ElementsAre("a", "bb", "c", "b"));
  EXPECT_THAT(Split("x", "abc"), ElementsAre("abc"));
  EXPECT_THAT(Split("x", ""), IsEmpty());
}

TEST(SplitPattern, EmptyMatchesSplitNothing) {
  EXPECT_THAT(Split("x*", "aé日xb"), ElementsAre("aé日", "x", "b"));
}

TEST(SplitPattern, ClassesAreThoseOfUnicode) {
  EXPECT_THAT(Split(R"(\p{N})", "a½٣²"), ElementsAre("a", "½", "٣", "²"));
  EXPECT_THAT(Split(R"(\p{L}+)", "日本 ñandú"), ElementsAre("日本", " ", "ñandú"));
}

TEST(SplitPattern, WhiteSpaceIsThatOfUnicode) {
  // U+0085, U+00A0 and U+3000 are white space, U+180E (Mongolian vowel separator) is not.
  EXPECT_THAT(Split(R"(\s)", "a\u0085\u00a0\u3000\u180e"),
              ElementsAre("a", "\u0085", "\u00a0", "\u3000", "\u180e"));
  EXPECT_THAT(Split(R"([^\s]+)", " \u180eb\u0085"), ElementsAre(" ", "\u180eb", "\u0085"));
  EXPECT_THAT(Split(R"(\S+)", "\u180eb\u0085"), ElementsAre("\u180eb", "\u0085"));
}

TEST(SplitPattern, LookaheadLeavesTheLastSpaceToTheWord) {
  EXPECT_THAT(Split(R"( ?\p{L}+|\s+(?!\S)|\s+)", "a   b  "), ElementsAre("a", "  ", " b", "  "));
}

TEST(SplitPattern, UnreadablePatternsAreRefused) {
  EXPECT_THAT(SplitPattern::Compile("(a").status().message(),
              HasSubstr("\"(a\" is not a regular expression"));
  EXPECT_THAT(SplitPattern::Compile("[a[bc]]").status().message(), HasSubstr("set inside a set"));
  EXPECT_THAT(SplitPattern::Compile("[a-z&&b]").status().message(), HasSubstr("set inside a set"));
}

TEST(SplitPattern, RunawayBacktrackingLosesNothing) {
  const std::string text(5000, 'a');
  std::string joined;
  for (const std::string& piece : Split("(a+a+)+b", text)) joined += piece;
  EXPECT_EQ(joined, text);
}

}  // namespace
}  // namespace llmir::checkpoint
