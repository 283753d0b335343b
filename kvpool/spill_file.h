// KV blocks of one rank in a file: room for blocks that memory has none for. The file has no name:
// it goes with the process, however that ends.
//
// Not thread-safe: the transfer service's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "plan_schema/base/status.h"

namespace llmir::kvpool {

class SpillFile {
 public:
  // In `folder`, room for `slots` blocks; takes storage as slots are written. NOT_FOUND or
  // UNAVAILABLE where no file can be made there.
  static StatusOr<SpillFile> Create(const std::string& folder, size_t slots, size_t block_bytes);
  SpillFile(SpillFile&& other) noexcept;
  SpillFile& operator=(SpillFile&& other) noexcept;
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;
  ~SpillFile();

  // `block` is [block_bytes]. RESOURCE_EXHAUSTED where the storage is full; the slot is then lost.
  Status Write(int32_t slot, std::span<const std::byte> block);
  // DATA_LOSS where the bytes aren't those that were written.
  Status Read(int32_t slot, std::span<std::byte> block) const;

  size_t slots() const { return sums_.size(); }

 private:
  SpillFile() = default;
  Status Check(int32_t slot, size_t bytes) const;
  int file_ = -1;
  size_t block_bytes_ = 0;
  std::string folder_;
  std::vector<uint64_t> sums_;  // checksum of each slot
  std::vector<bool> written_;
};

}  // namespace llmir::kvpool
