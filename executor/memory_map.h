// Anonymous memory for weights and activations: zero, 64-byte aligned, of huge pages where it is
// large. Pages get their place when a thread first writes them.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string_view>
#include <utility>

#include "plan_schema/base/status.h"

namespace llmir::executor {

class MemoryMap {
 public:
  // `what` names the purpose in the error.
  static StatusOr<MemoryMap> Create(size_t bytes, std::string_view what) {
    MemoryMap map;
    if (bytes == 0) return map;
    // Whole huge pages, starting on one: otherwise the kernel backs the edges with small pages.
    // What is small would take a whole one for each of its parts that is written: 20 MB of a
    // process for the tables, scratch and activations of SmolLM2. The processor's tables of pages
    // reach it with small ones.
    constexpr size_t kHugePage = size_t{2} << 20;
    const bool huge = bytes >= kLeastHugeBytes;
    const size_t size = huge ? (bytes + kHugePage - 1) / kHugePage * kHugePage + kHugePage : bytes;
    void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) {
      return ResourceExhausted("{}: {} bytes cannot be mapped: {}", what, bytes,
                               std::strerror(errno));
    }
    map.mapping_ = static_cast<std::byte*>(address);
    map.mapping_bytes_ = size;
    map.data_ = map.mapping_;
    if (huge) {
      madvise(address, size, MADV_HUGEPAGE);
      const auto at = reinterpret_cast<uintptr_t>(address);
      map.data_ = reinterpret_cast<std::byte*>((at + kHugePage - 1) / kHugePage * kHugePage);
    }
    map.bytes_ = bytes;
    return map;
  }

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
  }

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kLeastHugeBytes = size_t{32} << 20;

  void Swap(MemoryMap& other) {
    std::swap(mapping_, other.mapping_);
    std::swap(mapping_bytes_, other.mapping_bytes_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  std::byte* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace llmir::executor
