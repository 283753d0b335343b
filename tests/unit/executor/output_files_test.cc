#include "executor/output_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <fstream>
#include <iterator>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

namespace llmir::executor {
namespace {

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(JsonLinesFileTest, LinesComeInOrderWhateverTheOrderOfWriting) {
  const std::string path = testing::TempDir() + "/made/as/needed/lines.jsonl";
  std::filesystem::remove_all(testing::TempDir() + "/made");
  auto file = JsonLinesFile::Create(path);
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_TRUE(file->Write(2, "two").ok());
  EXPECT_TRUE(file->Write(0, "zero").ok());
  EXPECT_EQ(ReadAll(path), "zero\n");
  EXPECT_TRUE(file->Write(1, "one").ok());
  EXPECT_EQ(ReadAll(path), "zero\none\ntwo\n");
  EXPECT_TRUE(file->Write(5, "five").ok());
  EXPECT_TRUE(file->Close().ok());
  EXPECT_EQ(ReadAll(path), "zero\none\ntwo\nfive\n");
}

TEST(WriteWholeFileTest, ReplacesTheOldFileOrLeavesItAlone) {
  const std::filesystem::path folder =
      std::filesystem::path(testing::TempDir()) / ("whole." + std::to_string(getpid()));
  const std::string path = folder / "new" / "file.json";
  ASSERT_TRUE(WriteWholeFile(path, "one").ok());
  ASSERT_TRUE(WriteWholeFile(path, "two").ok());
  EXPECT_EQ(ReadAll(path), "two");
  EXPECT_FALSE(WriteWholeFile(folder / "new", "a folder is in the way").ok());
  EXPECT_TRUE(std::filesystem::is_directory(folder / "new"));
  // Nothing else was left behind.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "new"), {}), 1);
  std::filesystem::remove_all(folder);
}

TEST(JsonLinesFileTest, AFullDiskIsAnError) {
  auto file = JsonLinesFile::Create("/dev/full");
  ASSERT_TRUE(file.ok());
  EXPECT_FALSE(file->Write(0, "x").ok());
}

TEST(CompletionLineTest, HasTheFieldsThatUsersReadEvenForBrokenText) {
  Completion completion;
  completion.ids = {5, 6};
  completion.text = "ab\xff";
  completion.finish_reason = FinishReason::kLength;
  completion.ttft_ms = 1.5;
  completion.decode_ms = 2.5;
  const auto json = nlohmann::json::parse(CompletionLine({1, 2, 3}, {&completion, 1}));
  EXPECT_EQ(json["prompt_ids"], (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(json["ids"], (std::vector<int>{5, 6}));
  EXPECT_EQ(json["text"], "ab\xef\xbf\xbd");
  EXPECT_EQ(json["finish_reason"], "length");
  EXPECT_EQ(json["ttft_ms"], 1.5);
  EXPECT_EQ(json["decode_ms"], 2.5);
}

TEST(WriteNpyTest, HeaderIsAlignedAndNamesTheShape) {
  const std::string path = testing::TempDir() + "/x.npy";
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  ASSERT_TRUE(WriteNpy(path, values, 2, 3).ok());
  const std::string bytes = ReadAll(path);
  ASSERT_GT(bytes.size(), 24u);
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  const size_t header =
      10 + static_cast<unsigned char>(bytes[8]) + 256 * static_cast<unsigned char>(bytes[9]);
  EXPECT_EQ(header % 64, 0u);
  EXPECT_EQ(bytes.size(), header + 24);
  EXPECT_THAT(bytes.substr(0, header), testing::HasSubstr("'shape': (2, 3)"));
  float last;
  std::memcpy(&last, bytes.data() + bytes.size() - 4, 4);
  EXPECT_EQ(last, 6);
}

}  // namespace
}  // namespace llmir::executor
