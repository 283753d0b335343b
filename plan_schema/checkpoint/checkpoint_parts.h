// What a format reader hands to Checkpoint::Open; internal to this folder.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "plan_schema/base/file_map.h"
#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint.h"

namespace llmir::checkpoint {

struct CheckpointParts {
  ModelConfig config;
  std::vector<FileInfo> files;
  std::vector<FileMap> maps;  // by index of `files`
  std::vector<TensorInfo> tensors;
};

// The name of the tensor with `role` (in layer `layer` for roles inside layers).
std::string TensorName(Format format, Role role, int64_t layer);

// Checks that the numbers of `config` describe a model that can exist (signs, divisibility, limits
// that keep every later product far from overflow). `where` starts the message.
Status CheckConfig(const ModelConfig& config, std::string_view where);

// Checks that no two of `tensors` have the same name and that none overlaps another in its file.
Status CheckTensorTable(const std::vector<TensorInfo>& tensors, std::string_view path);

}  // namespace llmir::checkpoint
