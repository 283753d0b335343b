// The memory of one rank's KV blocks, zero on first use and untouched until then.
//
// A block consists of slices (kernels/attention.h: K or V of one head of one layer), which lie in
// extents of a few blocks each: within an extent the same slice of all its blocks lies side by
// side. So a sequence whose blocks follow each other is read in long runs, and memory is used
// extent by extent.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan_schema/base/status.h"

namespace llmir::kvpool {

// Who else may map the memory. Most kernels give no huge pages to kShared.
enum class Sharing : uint8_t { kPrivate, kShared };

struct KvShape {
  size_t blocks = 0;
  size_t slices = 0;  // of a block
  size_t slice_bytes = 0;
  size_t extent_blocks = 1;  // a power of two
  bool huge_pages = false;   // where the system has them

  size_t block_bytes() const { return slices * slice_bytes; }
};

class KvArena {
 public:
  // Has room for whole extents. INVALID_ARGUMENT for a shape without bytes, or with more than 64
  // bits count; RESOURCE_EXHAUSTED where there is no memory.
  static StatusOr<KvArena> Create(const KvShape& shape, Sharing sharing = Sharing::kPrivate);
  // What another process of this host has as a shared arena, to be read: its descriptor() and
  // identity(). The memory stays as long as anyone maps it, whatever becomes of that process.
  // UNAVAILABLE where it can't be opened, or is something else.
  static StatusOr<KvArena> Open(int process, int descriptor, uint64_t identity,
                                const KvShape& shape);
  KvArena(KvArena&& other) noexcept;
  KvArena& operator=(KvArena&& other) noexcept;
  KvArena(const KvArena&) = delete;
  KvArena& operator=(const KvArena&) = delete;
  ~KvArena();

  std::byte* data() const { return data_; }
  const KvShape& shape() const { return shape_; }
  size_t bytes() const { return bytes_; }
  // Of a block, shape().slice_bytes.
  std::byte* slice(size_t slice, size_t block) const {
    const size_t extent = block / shape_.extent_blocks;
    const size_t run = extent * shape_.slices + slice;
    return data_ + (run * shape_.extent_blocks + block % shape_.extent_blocks) * shape_.slice_bytes;
  }
  int descriptor() const { return descriptor_; }   // -1: private, or another process's
  uint64_t identity() const { return identity_; }  // of the memory on this host; 0: private

 private:
  KvArena() = default;
  static StatusOr<KvArena> Sized(const KvShape& shape);
  Status Map(int protection, int flags);
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  KvShape shape_;
  int descriptor_ = -1;
  uint64_t identity_ = 0;
};

}  // namespace llmir::kvpool
