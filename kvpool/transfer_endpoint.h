// What the ranks of a job tell each other once, so that one can get blocks of another: where its
// transfer service listens, which memory its blocks lie in, and what they hold.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kvpool/block_layout.h"

namespace llmir::kvpool {

// Of one rank. Flat and of one size, so that channels can gather it.
struct TransferEndpoint {
  static constexpr size_t kAddresses = 8;
  using Address = std::array<uint8_t, 16>;  // IPv6, or IPv4 mapped into it

  std::array<uint8_t, 16> cookie{};  // rank 0's is the job's: who doesn't know it isn't served
  BlockLayout layout{};
  int64_t blocks = 0;  // as of KvShape
  int64_t extent_blocks = 1;
  int64_t offset = 0;
  int32_t replica = 0;
  int32_t host = 0;  // the same on ranks that share a host
  int32_t process = 0;
  int32_t descriptor = -1;  // of its KvArena, in that process; -1: it can't be mapped
  uint64_t memory = 0;      // KvArena::identity()
  uint32_t port = 0;
  uint32_t addresses_count = 0;
  std::array<Address, kAddresses> addresses{};
};
static_assert(sizeof(TransferEndpoint) % 4 == 0, "gathered as words");

// Addresses of this host that others may reach it at: those of its interfaces that are up, IPv4
// first, without loopback and link-local ones.
std::vector<TransferEndpoint::Address> HostAddresses();

}  // namespace llmir::kvpool
