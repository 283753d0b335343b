#include "kvpool/kv_arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace llmir::kvpool {

StatusOr<KvArena> KvArena::Sized(const KvShape& shape) {
  const size_t extent = shape.extent_blocks;
  size_t bytes = 0;
  if (!std::has_single_bit(extent) || shape.blocks > SIZE_MAX - extent ||
      __builtin_mul_overflow(shape.slices, shape.slice_bytes, &bytes) ||
      __builtin_mul_overflow((shape.blocks + extent - 1) / extent * extent, bytes, &bytes) ||
      bytes == 0) {
    return InvalidArgument(
        "KV arena of {} blocks of {} x {} bytes in extents of {}: all must be positive, the last a "
        "power of two, and the product must fit in 64 bits",
        shape.blocks, shape.slices, shape.slice_bytes, extent);
  }
  KvArena arena;
  arena.bytes_ = bytes;
  arena.shape_ = shape;
  return arena;
}

Status KvArena::Map(int protection, int flags) {
  void* address = mmap(nullptr, bytes_, protection, flags, descriptor_, 0);
  if (address == MAP_FAILED) {
    return ResourceExhausted(
        "KV arena of {} blocks of {} bytes cannot be mapped: {}; plan fewer blocks", shape_.blocks,
        shape_.block_bytes(), std::strerror(errno));
  }
  data_ = static_cast<std::byte*>(address);
  // A hint; kernels without huge pages refuse it.
  if (shape_.huge_pages) madvise(address, bytes_, MADV_HUGEPAGE);
  return Status();
}

StatusOr<KvArena> KvArena::Create(const KvShape& shape, Sharing sharing) {
  LLMIR_ASSIGN_OR_RETURN(KvArena arena, Sized(shape));
  // Without a reservation, so that the blocks which are never used cost nothing.
  int flags = MAP_NORESERVE | MAP_PRIVATE | MAP_ANONYMOUS;
  if (sharing == Sharing::kShared) {
    flags = MAP_NORESERVE | MAP_SHARED;
    arena.descriptor_ = memfd_create("llmir-kv-blocks", MFD_CLOEXEC);
    struct stat info{};
    if (arena.descriptor_ < 0 ||
        ftruncate(arena.descriptor_, static_cast<off_t>(arena.bytes_)) != 0 ||
        fstat(arena.descriptor_, &info) != 0) {
      return ResourceExhausted("{} bytes of shared memory for KV blocks cannot be had: {}",
                               arena.bytes_, std::strerror(errno));
    }
    arena.identity_ = info.st_ino;
  }
  LLMIR_RETURN_IF_ERROR(arena.Map(PROT_READ | PROT_WRITE, flags));
  return arena;
}

StatusOr<KvArena> KvArena::Open(int process, int descriptor, uint64_t identity,
                                const KvShape& shape) {
  LLMIR_ASSIGN_OR_RETURN(KvArena arena, Sized(shape));
  const std::string path = fmt::format("/proc/{}/fd/{}", process, descriptor);
  arena.descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (arena.descriptor_ < 0) {
    return Unavailable("{}: KV blocks of another rank cannot be opened: {}", path,
                       std::strerror(errno));
  }
  // In another PID namespace the path may name something else altogether.
  struct stat info{};
  if (fstat(arena.descriptor_, &info) != 0 || info.st_ino != identity ||
      info.st_size != static_cast<off_t>(arena.bytes_)) {
    return Unavailable("{}: not the KV blocks of another rank ({} bytes, expected {})", path,
                       info.st_size, arena.bytes_);
  }
  LLMIR_RETURN_IF_ERROR(arena.Map(PROT_READ, MAP_SHARED | MAP_NORESERVE));
  close(std::exchange(arena.descriptor_, -1));
  return arena;
}

KvArena::KvArena(KvArena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      shape_(std::exchange(other.shape_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)),
      identity_(std::exchange(other.identity_, 0)) {}

KvArena& KvArena::operator=(KvArena&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(shape_, other.shape_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(identity_, other.identity_);
  return *this;
}

KvArena::~KvArena() {
  if (data_ != nullptr) munmap(data_, bytes_);
  if (descriptor_ >= 0) close(descriptor_);
}

}  // namespace llmir::kvpool
