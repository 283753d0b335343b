// Reader of a Hugging Face model folder: config.json and model.safetensors, or
// model.safetensors.index.json with its parts. Internal to this folder.
#pragma once

#include <string>

#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint_parts.h"
#include "plan_schema/checkpoint/json.h"

namespace llmir::checkpoint {

// The model's facts from the content of config.json; `where` starts the messages. The name is left
// empty.
StatusOr<ModelConfig> HuggingFaceModelConfig(const Json& json, const std::string& where);

StatusOr<CheckpointParts> OpenHuggingFace(const std::string& folder);

}  // namespace llmir::checkpoint
