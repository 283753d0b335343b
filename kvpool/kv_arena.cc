#include "kvpool/kv_arena.h"

#include <bit>

namespace llmir::kvpool {

StatusOr<KvArena> KvArena::Sized(const KvShape& shape) {
  const size_t extent = shape.extent_blocks;
  size_t bytes = 0;
  if (!std::has_single_bit(extent) || shape.blocks > SIZE_MAX - extent ||
      __builtin_mul_overflow(shape.slices, shape.slice_bytes, &bytes) ||
      __builtin_mul_overflow((shape.blocks + extent - 1) / extent * extent, bytes, &bytes) ||
      bytes == 0 || shape.offset > SIZE_MAX - bytes) {
    return InvalidArgument(
        "KV arena of {} blocks of {} x {} bytes in extents of {}, {} bytes into its memory: all "
        "but the last must be positive, the extent a power of two, and the end must fit in 64 bits",
        shape.blocks, shape.slices, shape.slice_bytes, extent, shape.offset);
  }
  KvArena arena;
  arena.bytes_ = bytes;
  arena.shape_ = shape;
  return arena;
}

StatusOr<KvArena> KvArena::Create(const KvShape& shape, Sharing sharing) {
  LLMIR_ASSIGN_OR_RETURN(KvArena arena, Sized(shape));
  const std::string what =
      fmt::format("{} KV blocks of {} bytes (llmir-plan --kv-blocks makes them fewer)",
                  shape.blocks, shape.block_bytes());
  LLMIR_ASSIGN_OR_RETURN(arena.memory_, MemoryMap::Create(shape.offset + arena.bytes_, what,
                                                          shape.huge_from, sharing));
  return arena;
}

StatusOr<KvArena> KvArena::Open(int process, int descriptor, uint64_t identity,
                                const KvShape& shape) {
  LLMIR_ASSIGN_OR_RETURN(KvArena arena, Sized(shape));
  LLMIR_ASSIGN_OR_RETURN(arena.memory_, MemoryMap::Open(process, descriptor, identity, shape.offset,
                                                        arena.bytes_, "KV blocks"));
  arena.shape_.offset = 0;
  return arena;
}

}  // namespace llmir::kvpool
