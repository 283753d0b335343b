// The memory of one rank's KV blocks, zero on first use and untouched until then.
//
// A block consists of slices (kernels/attention.h: K or V of one head of one layer), which lie in
// extents of a few blocks each: within an extent the same slice of all its blocks lies side by
// side. So a sequence whose blocks follow each other is read in long runs, and memory is used
// extent by extent.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan_schema/base/memory_map.h"
#include "plan_schema/base/status.h"

namespace llmir::kvpool {

struct KvShape {
  size_t blocks = 0;
  size_t slices = 0;  // of a block
  size_t slice_bytes = 0;
  size_t extent_blocks = 1;  // a power of two
  // Of the blocks in their memory, whole pages. What lies in front of them is the owner's own.
  size_t offset = 0;
  size_t huge_from = MemoryMap::kSmallPages;  // as of MemoryMap::Create

  size_t block_bytes() const { return slices * slice_bytes; }
};

class KvArena {
 public:
  // Has room for whole extents. INVALID_ARGUMENT for a shape without bytes, or with more than 64
  // bits count; RESOURCE_EXHAUSTED where there is no memory.
  static StatusOr<KvArena> Create(const KvShape& shape, Sharing sharing = Sharing::kPrivate);
  // The blocks that another process of this host has in a shared arena, to be read: its
  // descriptor() and identity(); as MemoryMap::Open.
  static StatusOr<KvArena> Open(int process, int descriptor, uint64_t identity,
                                const KvShape& shape);

  std::byte* front() const { return memory_.data(); }  // shape().offset bytes; none where opened
  std::byte* data() const { return memory_.data() + shape_.offset; }
  const KvShape& shape() const { return shape_; }
  size_t bytes() const { return bytes_; }  // of all blocks
  // Of a block, shape().slice_bytes.
  std::byte* slice(size_t slice, size_t block) const {
    const size_t extent = block / shape_.extent_blocks;
    const size_t run = extent * shape_.slices + slice;
    return data() +
           (run * shape_.extent_blocks + block % shape_.extent_blocks) * shape_.slice_bytes;
  }
  int descriptor() const { return memory_.descriptor(); }
  uint64_t identity() const { return memory_.identity(); }

 private:
  KvArena() = default;
  static StatusOr<KvArena> Sized(const KvShape& shape);
  MemoryMap memory_;
  size_t bytes_ = 0;
  KvShape shape_;
};

}  // namespace llmir::kvpool
