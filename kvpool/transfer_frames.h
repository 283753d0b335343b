// What travels over the sockets of the transfer services: little-endian, as the plan file, with
// every count checked before it is used.
//
//   connection   Hello, then frames of its purpose
//   get          GetRequest, pieces, blocks → GetReply, message or the pieces of the first block,
//                of the second, ...
//   control      from rank 0 OrderFrame, from, to; to rank 0
//                OutcomeFrame, message
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace llmir::kvpool {

static_assert(std::endian::native == std::endian::little, "frames are sent as they lie in memory");

inline constexpr uint32_t kTransferMagic = 0x50564b4c;  // "LKVP"
inline constexpr uint32_t kTransferVersion = 2;
inline constexpr uint32_t kMostBlocks = 1u << 20;  // of a get or an order
inline constexpr uint32_t kMostPieces = 1u << 16;
inline constexpr uint32_t kMostMessage = 4096;  // bytes of an error's text

enum class Purpose : uint32_t { kGet = 1, kControl = 2 };

struct Hello {
  uint32_t magic;
  uint32_t version;
  std::array<uint8_t, 16> cookie;
  Purpose purpose;
  int32_t rank;  // who connects
};

// Slices of a block that follow each other.
struct PieceFrame {
  uint64_t first;
  uint64_t slices;
};

struct GetRequest {
  uint32_t pieces;
  uint32_t blocks;   // or slots
  uint32_t spilled;  // 1: of the spill file
  uint32_t reserved;
};

struct GetReply {
  uint32_t code;           // StatusCode
  uint32_t message_bytes;  // of an error's text
  // That follow: slice by slice, of each all blocks; of the spill file slot by slot, of each all
  // slices.
  uint64_t bytes;
};

struct OrderFrame {
  uint64_t ticket;
  uint32_t kind;   // TransferKind
  int32_t source;  // replica
  uint32_t blocks;
  uint32_t reserved;
};

struct OutcomeFrame {
  uint64_t ticket;
  uint32_t code;
  uint32_t message_bytes;
  double seconds;
  uint64_t bytes;
};

}  // namespace llmir::kvpool
