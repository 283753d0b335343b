// The memory of one rank's KV blocks: one anonymous map, huge pages asked for, zero on first use
// and untouched until then. Block-major: block b starts at data() + b * block_bytes().
#pragma once

#include <cstddef>

#include "plan_schema/base/status.h"

namespace llmir::kvpool {

class KvArena {
 public:
  static StatusOr<KvArena> Create(size_t blocks, size_t block_bytes);
  KvArena(KvArena&& other) noexcept;
  KvArena& operator=(KvArena&& other) noexcept;
  KvArena(const KvArena&) = delete;
  KvArena& operator=(const KvArena&) = delete;
  ~KvArena();

  std::byte* data() const { return data_; }
  size_t block_bytes() const { return block_bytes_; }
  size_t bytes() const { return bytes_; }

 private:
  KvArena() = default;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  size_t block_bytes_ = 0;
};

}  // namespace llmir::kvpool
