// Reader of the safetensors header: an 8-byte length, then JSON that maps names to dtype, shape and
// byte range. Internal to this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint_parts.h"

namespace llmir::checkpoint {

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // by offset; file is 0
  uint64_t header_bytes;            // the length field and the JSON
};

// Reads the header of `file`, the bytes of a whole file; `path` is for messages.
StatusOr<SafetensorsHeader> ReadSafetensorsHeader(std::span<const std::byte> file,
                                                  const std::string& path);

}  // namespace llmir::checkpoint
