// Memory that is no file's: zero, and without a place until a thread first writes it.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "plan_schema/base/status.h"

namespace llmir {

// Who else may map the memory. Most kernels give no huge pages to kShared.
enum class Sharing : uint8_t { kPrivate, kShared };

class MemoryMap {
 public:
  static constexpr size_t kHugePage = size_t{2} << 20;
  static constexpr size_t kSmallPages = SIZE_MAX;  // as `huge_from`
  // `bytes`, or as many more as make whole huge pages of them.
  static constexpr size_t WholeHugePages(size_t bytes) {
    return (bytes + kHugePage - 1) / kHugePage * kHugePage;
  }
  // What is small would take a whole huge page for each of its parts that is written: 20 MB of a
  // process for the tables, scratch and activations of SmolLM2. The processor's tables of pages
  // reach it with small ones.
  static constexpr size_t kLeastHugeBytes = size_t{32} << 20;

  // Private memory, 64-byte aligned, of huge pages where it is large. `what` names the purpose in
  // the error: RESOURCE_EXHAUSTED where there is no memory.
  static StatusOr<MemoryMap> Create(size_t bytes, std::string_view what) {
    return Create(bytes, what, bytes >= kLeastHugeBytes ? 0 : kSmallPages, Sharing::kPrivate);
  }
  // The same, of huge pages from `huge_from` on, a multiple of kHugePage.
  static StatusOr<MemoryMap> Create(size_t bytes, std::string_view what, size_t huge_from,
                                    Sharing sharing);
  // `bytes` from `offset` on, whole pages, of what another process of this host has created as
  // kShared, to be read: its descriptor() and identity(). The memory stays as long as anyone maps
  // it, whatever becomes of that process. UNAVAILABLE where it can't be opened, or is something
  // else than memory that ends with these bytes.
  static StatusOr<MemoryMap> Open(int process, int descriptor, uint64_t identity, size_t offset,
                                  size_t bytes, std::string_view what);

  MemoryMap() = default;
  MemoryMap(MemoryMap&& other) noexcept { Swap(other); }
  MemoryMap& operator=(MemoryMap&& other) noexcept {
    Swap(other);
    return *this;
  }
  MemoryMap(const MemoryMap&) = delete;
  MemoryMap& operator=(const MemoryMap&) = delete;
  ~MemoryMap() {
    if (mapping_ != nullptr) munmap(mapping_, mapping_bytes_);
    if (descriptor_ >= 0) close(descriptor_);
  }

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  int descriptor() const { return descriptor_; }   // -1: private, or another process's
  uint64_t identity() const { return identity_; }  // of the memory on this host; 0: private

 private:
  Status Map(size_t bytes, int protection, int flags, size_t offset, std::string_view what) {
    void* address =
        mmap(nullptr, bytes, protection, flags, descriptor_, static_cast<off_t>(offset));
    if (address == MAP_FAILED) {
      return ResourceExhausted("{}: {} bytes cannot be mapped: {}", what, bytes,
                               std::strerror(errno));
    }
    mapping_ = static_cast<std::byte*>(address);
    mapping_bytes_ = bytes;
    data_ = mapping_;
    return Status();
  }
  void Swap(MemoryMap& other) {
    std::swap(mapping_, other.mapping_);
    std::swap(mapping_bytes_, other.mapping_bytes_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(descriptor_, other.descriptor_);
    std::swap(identity_, other.identity_);
  }
  std::byte* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  int descriptor_ = -1;
  uint64_t identity_ = 0;
};

inline StatusOr<MemoryMap> MemoryMap::Create(size_t bytes, std::string_view what, size_t huge_from,
                                             Sharing sharing) {
  MemoryMap map;
  if (bytes == 0) return map;
  // Without a reservation, so that what is never written costs nothing.
  int flags = MAP_NORESERVE | MAP_PRIVATE | MAP_ANONYMOUS;
  size_t size = bytes;
  const bool huge = huge_from < bytes;
  // Whole huge pages, starting on one: otherwise the kernel backs the edges with small pages. But
  // who opens shared memory counts from its first byte.
  const bool whole = huge && sharing == Sharing::kPrivate;
  if (whole) {
    if (bytes > SIZE_MAX - 2 * kHugePage) {
      return ResourceExhausted("{}: {} bytes are more than there are addresses", what, bytes);
    }
    size = WholeHugePages(bytes) + kHugePage;
  }
  if (sharing == Sharing::kShared) {
    flags = MAP_NORESERVE | MAP_SHARED;
    map.descriptor_ = memfd_create("llmir", MFD_CLOEXEC);
    struct stat info{};
    if (map.descriptor_ < 0 || ftruncate(map.descriptor_, static_cast<off_t>(size)) != 0 ||
        fstat(map.descriptor_, &info) != 0) {
      return ResourceExhausted("{}: {} bytes of shared memory cannot be had: {}", what, bytes,
                               std::strerror(errno));
    }
    map.identity_ = info.st_ino;
  }
  LLMIR_RETURN_IF_ERROR(map.Map(size, PROT_READ | PROT_WRITE, flags, 0, what));
  map.bytes_ = bytes;
  if (whole) {
    const auto at = reinterpret_cast<uintptr_t>(map.mapping_);
    map.data_ += WholeHugePages(at) - at;
  }
  if (huge) {
    // A hint; kernels without huge pages refuse it.
    std::byte* begin = map.data_ + huge_from;
    madvise(begin, static_cast<size_t>(map.mapping_ + size - begin), MADV_HUGEPAGE);
  }
  // Some systems give huge pages to whoever doesn't refuse them.
  const size_t small = std::min(huge_from, bytes);
  if (small >= kHugePage) madvise(map.data_, small, MADV_NOHUGEPAGE);
  return map;
}

inline StatusOr<MemoryMap> MemoryMap::Open(int process, int descriptor, uint64_t identity,
                                           size_t offset, size_t bytes, std::string_view what) {
  MemoryMap map;
  const std::string path = fmt::format("/proc/{}/fd/{}", process, descriptor);
  map.descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (map.descriptor_ < 0) {
    return Unavailable("{}: {} of another rank cannot be opened: {}", path, what,
                       std::strerror(errno));
  }
  // In another PID namespace the path may name something else altogether.
  struct stat info{};
  if (fstat(map.descriptor_, &info) != 0 || info.st_ino != identity || offset > SIZE_MAX - bytes ||
      static_cast<size_t>(info.st_size) != offset + bytes) {
    return Unavailable("{}: not the {} of another rank ({} bytes, expected {} + {})", path, what,
                       info.st_size, offset, bytes);
  }
  LLMIR_RETURN_IF_ERROR(map.Map(bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, offset, what));
  close(std::exchange(map.descriptor_, -1));
  map.bytes_ = bytes;
  return map;
}

}  // namespace llmir
