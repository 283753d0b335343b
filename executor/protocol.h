// The engine protocol's frames, as they go over a local socket (docs/protocol.md): a head of 8
// bytes and a JSON object.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "plan_schema/base/status.h"

namespace llmir::executor {

inline constexpr uint8_t kProtocolVersion = 1;
inline constexpr uint32_t kMostFrameBytes = 64 << 20;

enum class FrameType : uint8_t {
  // To the engine.
  kSubmit = 1,
  kCancel = 2,
  kAskStatistics = 3,
  // From the engine.
  kHello = 16,
  kToken = 17,
  kFinish = 18,
  kRefused = 19,
  kStatistics = 20,
};

// Appends a frame to `out`.
void AppendFrame(FrameType type, std::string_view payload, std::string* out);

struct Frame {
  FrameType type;
  std::string_view payload;  // into the buffer that it was taken from
  size_t bytes;              // of the whole frame; 0: it hasn't arrived whole yet
};

// The first frame in `buffer`. INCOMPATIBLE for another version, INVALID_ARGUMENT for more bytes
// than a frame may have: then the rest can't be read either.
StatusOr<Frame> FirstFrame(std::string_view buffer);

}  // namespace llmir::executor
