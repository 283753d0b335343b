#include "executor/output_files.h"

#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

namespace llmir::executor {

Status CreateFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return InvalidArgument("{}: the folder cannot be made: {}", path, error.message());
  return Status();
}

Status WriteWholeFile(const std::string& path, std::string_view text) {
  namespace fs = std::filesystem;
  const std::string folder = fs::path(path).parent_path().string();
  if (!folder.empty()) LLMIR_RETURN_IF_ERROR(CreateFolder(folder));
  const std::string temporary = fmt::format("{}.{}.tmp", path, getpid());
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  std::error_code error;
  if (file) {
    fs::rename(temporary, path, error);
    if (!error) return Status();
  }
  std::error_code ignored;
  fs::remove(temporary, ignored);
  return InvalidArgument("{}: cannot be written{}", path,
                         error ? fmt::format(": {}", error.message()) : "");
}

StatusOr<JsonLinesFile> JsonLinesFile::Create(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  if (!folder.empty()) LLMIR_RETURN_IF_ERROR(CreateFolder(folder));
  JsonLinesFile result;
  result.path_ = path;
  result.file_.open(path, std::ios::trunc);
  if (!result.file_) return InvalidArgument("{}: cannot be written", path);
  return result;
}

Status JsonLinesFile::Write(size_t index, std::string line) {
  waiting_[index] = std::move(line);
  for (auto it = waiting_.begin(); it != waiting_.end() && it->first == next_;
       it = waiting_.erase(it), ++next_) {
    file_ << it->second << '\n';
  }
  file_.flush();
  if (!file_) return DataLoss("{}: writing failed; is the disk full?", path_);
  return Status();
}

Status JsonLinesFile::Close() {
  for (const auto& [index, line] : waiting_) file_ << line << '\n';
  waiting_.clear();
  file_.close();
  if (!file_) return DataLoss("{}: writing failed; is the disk full?", path_);
  return Status();
}

std::string CompletionLine(const std::vector<int32_t>& prompt_ids,
                           std::span<const Completion> completions) {
  nlohmann::ordered_json json;
  json["prompt_ids"] = prompt_ids;
  const auto add = [](const Completion& completion, nlohmann::ordered_json& to) {
    to["ids"] = completion.ids;
    to["text"] = completion.text;
    to["finish_reason"] = FinishReasonName(completion.finish_reason);
    to["ttft_ms"] = completion.ttft_ms;
    to["decode_ms"] = completion.decode_ms;
  };
  if (completions.size() == 1) {
    add(completions[0], json);
  } else {
    for (const Completion& completion : completions)
      add(completion, json["answers"].emplace_back());
  }
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string LogprobsLine(const std::vector<float>& logprobs) {
  return nlohmann::ordered_json{{"logprobs", logprobs}}.dump();
}

Status WriteNpy(const std::string& path, std::span<const float> values, size_t rows,
                size_t columns) {
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  // Magic, version and length take 10 bytes; the data starts at a multiple of 64.
  const size_t total = (10 + header.size() + 1 + 63) / 64 * 64;
  header.resize(total - 10 - 1, ' ');
  header += '\n';
  const auto length = static_cast<uint16_t>(header.size());
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write("\x93NUMPY\x01\x00", 8);
  file.put(static_cast<char>(length & 0xff));
  file.put(static_cast<char>(length >> 8));
  file << header;
  file.write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(rows * columns * sizeof(float)));
  file.close();
  if (!file) return DataLoss("{}: writing failed", path);
  return Status();
}

}  // namespace llmir::executor
