#include "kvpool/spill_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "plan_schema/base/hash.h"

namespace llmir::kvpool {
namespace {

// A file in `folder` without a name; -1 and errno where there can't be one.
int Nameless(const std::string& folder) {
  const int file = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (file >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return file;
  std::string path = folder + "/llmir-spill-XXXXXX";
  const int named = mkostemp(path.data(), O_CLOEXEC);
  if (named >= 0) unlink(path.c_str());
  return named;
}

}  // namespace

StatusOr<SpillFile> SpillFile::Create(const std::string& folder, size_t slots, size_t block_bytes) {
  SpillFile spill;
  spill.file_ = Nameless(folder);
  if (spill.file_ < 0) {
    return errno == ENOENT || errno == ENOTDIR
               ? NotFound("--spill {}: no such folder", folder)
               : Unavailable("--spill {}: no file can be made there: {}", folder,
                             std::strerror(errno));
  }
  spill.block_bytes_ = block_bytes;
  spill.folder_ = folder;
  spill.sums_.resize(slots);
  spill.written_.resize(slots);
  return spill;
}

SpillFile::SpillFile(SpillFile&& other) noexcept
    : file_(std::exchange(other.file_, -1)),
      block_bytes_(other.block_bytes_),
      folder_(std::move(other.folder_)),
      sums_(std::move(other.sums_)),
      written_(std::move(other.written_)) {}

SpillFile& SpillFile::operator=(SpillFile&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(block_bytes_, other.block_bytes_);
  folder_.swap(other.folder_);
  sums_.swap(other.sums_);
  written_.swap(other.written_);
  return *this;
}

SpillFile::~SpillFile() {
  if (file_ >= 0) close(file_);
}

Status SpillFile::Check(int32_t slot, size_t bytes) const {
  if (slot >= 0 && static_cast<size_t>(slot) < slots() && bytes == block_bytes_) return Status();
  return OutOfRange("slot {} of {}, {} bytes, expected {}", slot, slots(), bytes, block_bytes_);
}

Status SpillFile::Write(int32_t slot, std::span<const std::byte> block) {
  LLMIR_RETURN_IF_ERROR(Check(slot, block.size()));
  const auto at = static_cast<size_t>(slot);
  written_[at] = false;
  for (size_t done = 0; done < block.size();) {
    const ssize_t count = pwrite(file_, block.data() + done, block.size() - done,
                                 static_cast<off_t>(at * block_bytes_ + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      return ResourceExhausted("--spill {}: a KV block can't be written: {}", folder_,
                               std::strerror(errno));
    }
    done += static_cast<size_t>(count);
  }
  sums_[at] = Hash64(block);
  written_[at] = true;
  return Status();
}

Status SpillFile::Read(int32_t slot, std::span<std::byte> block) const {
  LLMIR_RETURN_IF_ERROR(Check(slot, block.size()));
  const auto at = static_cast<size_t>(slot);
  if (!written_[at]) return DataLoss("--spill {}: slot {} was never written", folder_, slot);
  for (size_t done = 0; done < block.size();) {
    const ssize_t count = pread(file_, block.data() + done, block.size() - done,
                                static_cast<off_t>(at * block_bytes_ + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      return DataLoss("--spill {}: a KV block can't be read: {}", folder_,
                      count < 0 ? std::strerror(errno) : "the file is shorter");
    }
    done += static_cast<size_t>(count);
  }
  if (Hash64(std::as_bytes(block)) != sums_[at]) {
    return DataLoss("--spill {}: slot {} doesn't hold what was written", folder_, slot);
  }
  return Status();
}

}  // namespace llmir::kvpool
