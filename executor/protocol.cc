#include "executor/protocol.h"

#include <cstring>

namespace llmir::executor {
namespace {

struct FrameHead {
  uint32_t payload_bytes;  // little-endian, as all of the machines that this runs on
  uint8_t version;
  uint8_t type;
  uint16_t reserved;
};
static_assert(sizeof(FrameHead) == 8);

}  // namespace

void AppendFrame(FrameType type, std::string_view payload, std::string* out) {
  const FrameHead head{static_cast<uint32_t>(payload.size()), kProtocolVersion,
                       static_cast<uint8_t>(type), 0};
  out->append(reinterpret_cast<const char*>(&head), sizeof head);
  out->append(payload);
}

StatusOr<Frame> FirstFrame(std::string_view buffer) {
  FrameHead head{};
  if (buffer.size() < sizeof head) return Frame{FrameType::kHello, {}, 0};
  std::memcpy(&head, buffer.data(), sizeof head);
  if (head.version != kProtocolVersion) {
    return Incompatible("a frame of protocol version {}, expected {}", head.version,
                        kProtocolVersion);
  }
  if (head.payload_bytes > kMostFrameBytes) {
    return InvalidArgument("a frame of {} bytes, expected at most {}", head.payload_bytes,
                           kMostFrameBytes);
  }
  const auto type = static_cast<FrameType>(head.type);
  if (buffer.size() < sizeof head + head.payload_bytes) return Frame{type, {}, 0};
  return Frame{type, buffer.substr(sizeof head, head.payload_bytes),
               sizeof head + head.payload_bytes};
}

}  // namespace llmir::executor
