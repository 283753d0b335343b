// What the benchmarks' weights and caches lie in.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

namespace llmir::perf {

// Memory in huge pages where the system gives them, as the executor's weights and cache.
class Pages {
 public:
  explicit Pages(int64_t bytes) : bytes_(static_cast<size_t>(bytes) + kHugePage) {
    void* address =
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) {
      std::fprintf(stderr, "benchmark: %zu bytes cannot be allocated\n", bytes_);
      std::exit(1);
    }
    madvise(address, bytes_, MADV_HUGEPAGE);
    start_ = static_cast<std::byte*>(address);
    void* data = address;
    size_t space = bytes_;
    data_ = static_cast<std::byte*>(std::align(kHugePage, static_cast<size_t>(bytes), data, space));
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages() { munmap(start_, bytes_); }
  std::byte* data() const { return data_; }

 private:
  static constexpr size_t kHugePage = size_t{2} << 20;
  size_t bytes_;
  std::byte* start_;
  std::byte* data_;
};

}  // namespace llmir::perf
