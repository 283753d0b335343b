// A file that takes its name only when it is whole, hashed as it is written. Internal to this
// folder.
#pragma once

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "plan_schema/base/hash.h"
#include "plan_schema/base/status.h"

namespace llmir::checkpoint {

class NewFile {
 public:
  explicit NewFile(std::string path)
      : path_(std::move(path)),
        temporary_(path_ + ".part"),
        stream_(temporary_, std::ios::binary | std::ios::trunc) {}
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile() {
    if (!done_) std::remove(temporary_.c_str());
  }
  void Add(const void* data, size_t bytes) {
    stream_.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
    hasher_.Add(data, bytes);
    bytes_ += bytes;
  }
  Status Finish() {
    stream_.close();
    std::error_code error;
    if (stream_) std::filesystem::rename(temporary_, path_, error);
    if (!stream_ || error)
      return ResourceExhausted(
          "{}: cannot be written ({} bytes); is the disk full, the folder there?", path_, bytes_);
    done_ = true;
    return Status();
  }
  uint64_t bytes() const { return bytes_; }
  uint64_t hash() const { return hasher_.Finish(); }

 private:
  std::string path_;
  std::string temporary_;
  std::ofstream stream_;
  Hasher64 hasher_;
  uint64_t bytes_ = 0;
  bool done_ = false;
};

}  // namespace llmir::checkpoint
