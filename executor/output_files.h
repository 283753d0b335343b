// The files that a run writes: completions and log-probabilities in JSON lines, logits as .npy.
// Missing folders are made; JSON lines appear in the order of the prompts, each as soon as it and
// those before it are done.
#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "executor/request.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

class JsonLinesFile {
 public:
  // Creates `path` and its folders.
  static StatusOr<JsonLinesFile> Create(const std::string& path);
  // Line number `index`, 0, 1, 2, …; kept until those before it are there.
  Status Write(size_t index, std::string line);
  // All lines given so far are on their way to the disk, or the error that kept them from it.
  Status Close();

 private:
  std::string path_;
  std::ofstream file_;
  std::map<size_t, std::string> waiting_;
  size_t next_ = 0;
};

// {"prompt_ids", "ids", "text", "finish_reason", "ttft_ms", "decode_ms"}; of several answers
// {"prompt_ids", "answers": [{"ids", …}, …]}
std::string CompletionLine(const std::vector<int32_t>& prompt_ids,
                           std::span<const Completion> completions);
// {"logprobs": […]}
std::string LogprobsLine(const std::vector<float>& logprobs);

// Writes `rows` x `columns` floats, row-major, as a NumPy file of format 1.0.
Status WriteNpy(const std::string& path, std::span<const float> values, size_t rows,
                size_t columns);

// Writes `text` to `path`, making missing folders: the whole file appears at once, or the old one
// stays.
Status WriteWholeFile(const std::string& path, std::string_view text);

// Makes the folder and its parents.
Status CreateFolder(const std::string& path);

}  // namespace llmir::executor
