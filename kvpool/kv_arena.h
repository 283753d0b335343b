// The memory of one rank's KV blocks, zero on first use and untouched until then. Block-major:
// block b starts at data() + b * block_bytes().
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan_schema/base/status.h"

namespace llmir::kvpool {

// Who else may map the memory. kPrivate gets huge pages where the kernel has them; most kernels
// give none to kShared.
enum class Sharing : uint8_t { kPrivate, kShared };

class KvArena {
 public:
  static StatusOr<KvArena> Create(size_t blocks, size_t block_bytes,
                                  Sharing sharing = Sharing::kPrivate);
  // What another process of this host has as a shared arena, to be read: its descriptor() and
  // identity(). The memory stays as long as anyone maps it, whatever becomes of that process.
  // UNAVAILABLE where it can't be opened, or is something else.
  static StatusOr<KvArena> Open(int process, int descriptor, uint64_t identity, size_t blocks,
                                size_t block_bytes);
  KvArena(KvArena&& other) noexcept;
  KvArena& operator=(KvArena&& other) noexcept;
  KvArena(const KvArena&) = delete;
  KvArena& operator=(const KvArena&) = delete;
  ~KvArena();

  std::byte* data() const { return data_; }
  size_t block_bytes() const { return block_bytes_; }
  size_t bytes() const { return bytes_; }
  int descriptor() const { return descriptor_; }   // -1: private, or another process's
  uint64_t identity() const { return identity_; }  // of the memory on this host; 0: private

 private:
  KvArena() = default;
  static StatusOr<KvArena> Sized(size_t blocks, size_t block_bytes);
  Status Map(int protection, int flags);
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  size_t block_bytes_ = 0;
  int descriptor_ = -1;
  uint64_t identity_ = 0;
};

}  // namespace llmir::kvpool
