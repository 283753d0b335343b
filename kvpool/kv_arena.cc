#include "kvpool/kv_arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace llmir::kvpool {

StatusOr<KvArena> KvArena::Create(size_t blocks, size_t block_bytes) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(blocks, block_bytes, &bytes) || bytes == 0) {
    return InvalidArgument(
        "KV arena of {} blocks of {} bytes: both must be positive and their product must fit in 64 "
        "bits",
        blocks, block_bytes);
  }
  // Without a reservation, so that the blocks which are never used cost nothing.
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) {
    return ResourceExhausted(
        "KV arena of {} blocks of {} bytes cannot be mapped: {}; plan fewer blocks", blocks,
        block_bytes, std::strerror(errno));
  }
  madvise(address, bytes, MADV_HUGEPAGE);  // a hint; kernels without huge pages refuse it
  KvArena arena;
  arena.data_ = static_cast<std::byte*>(address);
  arena.bytes_ = bytes;
  arena.block_bytes_ = block_bytes;
  return arena;
}

KvArena::KvArena(KvArena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      block_bytes_(std::exchange(other.block_bytes_, 0)) {}

KvArena& KvArena::operator=(KvArena&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(block_bytes_, other.block_bytes_);
  return *this;
}

KvArena::~KvArena() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

}  // namespace llmir::kvpool
