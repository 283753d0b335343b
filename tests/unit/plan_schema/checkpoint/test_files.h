// Files that the tests read and make.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "plan_schema/base/status.h"

namespace llmir::checkpoint {

// The real model, or a failure that says how to get it.
inline std::string TestModel() {
  const char* given = std::getenv("LLMIR_TEST_MODEL");
  const char* home = std::getenv("HOME");
  const std::string path =
      given != nullptr
          ? given
          : std::string(home ? home : "") + "/.cache/llmir/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  EXPECT_TRUE(std::filesystem::exists(path))
      << path << " is missing: run launch/install.sh, or set LLMIR_TEST_MODEL";
  return path;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path << " cannot be read";
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void WriteFile(const std::string& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  ASSERT_TRUE(file.flush()) << path << " cannot be written";
}

inline nlohmann::json Golden(const std::string& name) {
  return nlohmann::json::parse(ReadFile(LLMIR_SOURCE_DIR "/tests/golden/smollm2-135m/" + name));
}

// The part of a file that a golden file refers to instead of holding the text.
inline std::string ReferredText(const nlohmann::json& reference) {
  return ReadFile(reference["path"]).substr(reference["offset"], reference["bytes"]);
}

inline std::span<const std::byte> BytesOf(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// `text` with `before`, which must be in it, replaced by `after`.
inline std::string Replaced(std::string text, std::string_view before, std::string_view after) {
  const size_t at = text.find(before);
  EXPECT_NE(at, std::string::npos) << before;
  return at == std::string::npos ? text : text.replace(at, before.size(), after);
}

// Why a file was not read; it must not have been.
template <typename T>
std::string RefusalOf(const StatusOr<T>& read) {
  EXPECT_FALSE(read.ok());
  return read.ok() ? "" : std::string(read.status().message());
}

// A folder of its own for each test, gone afterwards.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "llmir-checkpoint-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace llmir::checkpoint
