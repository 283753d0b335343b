// A read-only memory map of a whole file, owned by value. Any thread may read; the map lives as
// long as the object.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "plan_schema/base/status.h"

namespace llmir {

class FileMap {
 public:
  // Maps `path`. An empty, missing or unreadable file and anything that isn't a regular file is an
  // error that names it.
  static StatusOr<FileMap> Open(const std::string& path) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
      const int error = errno;
      if (error == ENOENT) return NotFound("{}: no such file", path);
      return InvalidArgument("{}: cannot be opened: {}", path, std::strerror(error));
    }
    struct stat info{};
    if (fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
      close(descriptor);
      return InvalidArgument("{}: not a regular file", path);
    }
    FileMap map;
    map.path_ = path;
    map.size_ = static_cast<size_t>(info.st_size);
    if (map.size_ > 0) {
      void* address = mmap(nullptr, map.size_, PROT_READ, MAP_SHARED, descriptor, 0);
      if (address == MAP_FAILED) {
        const int error = errno;
        close(descriptor);
        return ResourceExhausted("{}: cannot be mapped ({} bytes): {}", path, map.size_,
                                 std::strerror(error));
      }
      map.data_ = static_cast<const std::byte*>(address);
    }
    close(descriptor);
    return map;
  }

  FileMap() = default;
  FileMap(FileMap&& other) noexcept { Swap(other); }
  FileMap& operator=(FileMap&& other) noexcept {
    Swap(other);
    return *this;
  }
  FileMap(const FileMap&) = delete;
  FileMap& operator=(const FileMap&) = delete;
  ~FileMap() {
    if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
  }

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }

  // Puts the pages of [offset, offset + bytes) into the address space, reading them if need be, at
  // less cost than one fault after the other. A hint: what fails here is tried again when the bytes
  // are read.
  void Populate(size_t offset, size_t bytes) const {
#ifdef MADV_POPULATE_READ
    constexpr int kPopulate = MADV_POPULATE_READ;
#else
    constexpr int kPopulate = 22;  // Linux 5.14; an older one refuses it
#endif
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t first = offset / page * page;
    madvise(const_cast<std::byte*>(data_) + first, offset + bytes - first, kPopulate);
  }

  // Tells the kernel that [offset, offset + bytes) is no longer needed, so that packing a model
  // doesn't keep its source resident. Whole pages inside the range only; a hint, so failure is
  // ignored.
  void Release(size_t offset, size_t bytes) const {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t first = (offset + page - 1) / page * page;
    const size_t last = (offset + bytes) / page * page;
    if (last > first) madvise(const_cast<std::byte*>(data_) + first, last - first, MADV_DONTNEED);
  }

 private:
  void Swap(FileMap& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(path_, other.path_);
  }
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::string path_;
};

}  // namespace llmir
