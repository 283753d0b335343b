#include "comm/shared_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

namespace llmir::comm {
namespace {

constexpr size_t kPage = 4096;

constexpr size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Of whole cache lines, at least one.
size_t BufferBytes(size_t max_bytes, size_t limit) {
  return std::max(RoundUp(std::min(max_bytes, limit), kFlagAlignment), kFlagAlignment);
}

// The cookie lies alone on the first page.
std::atomic<uint64_t>& Cookie(std::byte* data) {
  return *reinterpret_cast<std::atomic<uint64_t>*>(data);
}

}  // namespace

SharedSegment::SharedSegment(int ranks, size_t max_bytes)
    : ranks_(ranks),
      round_bytes_(BufferBytes(max_bytes, kRoundBytes)),
      mailbox_bytes_(BufferBytes(max_bytes, kMailboxBytes)) {
  const size_t n = static_cast<size_t>(ranks);
  flags_offset_ = kPage;
  doorbells_offset_ = flags_offset_ + n * sizeof(RankFlags);
  mailboxes_offset_ = doorbells_offset_ + n * n * sizeof(Doorbell);
  round_data_offset_ = RoundUp(mailboxes_offset_ + n * kMaxRequests * sizeof(Mailbox), kPage);
  mailbox_data_offset_ = RoundUp(round_data_offset_ + n * kRoundsInFlight * round_bytes_, kPage);
  bytes_ = mailbox_data_offset_ + n * kMaxRequests * mailbox_bytes_;
}

Status SharedSegment::Map(int extra_flags) {
  void* address =
      mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | extra_flags, descriptor_, 0);
  if (address == MAP_FAILED) {
    return ResourceExhausted("{} bytes for messages among {} ranks cannot be mapped: {}", bytes_,
                             ranks_, std::strerror(errno));
  }
  data_ = static_cast<std::byte*>(address);
  return Status();
}

StatusOr<std::shared_ptr<SharedSegment>> SharedSegment::CreatePrivate(int ranks, size_t max_bytes) {
  std::shared_ptr<SharedSegment> segment(new SharedSegment(ranks, max_bytes));
  LLMIR_RETURN_IF_ERROR(segment->Map(MAP_ANONYMOUS | MAP_NORESERVE));
  return segment;
}

StatusOr<std::shared_ptr<SharedSegment>> SharedSegment::CreateShared(int ranks, size_t max_bytes,
                                                                     uint64_t cookie) {
  std::shared_ptr<SharedSegment> segment(new SharedSegment(ranks, max_bytes));
  segment->descriptor_ = memfd_create("llmir-channel", MFD_CLOEXEC);
  if (segment->descriptor_ < 0 ||
      ftruncate(segment->descriptor_, static_cast<off_t>(segment->bytes_)) != 0) {
    return ResourceExhausted("{} bytes of shared memory cannot be had: {}", segment->bytes_,
                             std::strerror(errno));
  }
  LLMIR_RETURN_IF_ERROR(segment->Map(0));
  Cookie(segment->data_).store(cookie, std::memory_order_release);
  return segment;
}

StatusOr<std::shared_ptr<SharedSegment>> SharedSegment::Open(int ranks, size_t max_bytes, pid_t pid,
                                                             int descriptor, uint64_t cookie) {
  std::shared_ptr<SharedSegment> segment(new SharedSegment(ranks, max_bytes));
  const std::string path = fmt::format("/proc/{}/fd/{}", pid, descriptor);
  segment->descriptor_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (segment->descriptor_ < 0) {
    return Unavailable("{}: shared memory of another rank cannot be opened: {}", path,
                       std::strerror(errno));
  }
  // In another PID namespace the path may name something else altogether.
  struct stat info{};
  if (fstat(segment->descriptor_, &info) != 0 ||
      info.st_size != static_cast<off_t>(segment->bytes_)) {
    return Unavailable("{}: not the shared memory of another rank ({} bytes, expected {})", path,
                       info.st_size, segment->bytes_);
  }
  LLMIR_RETURN_IF_ERROR(segment->Map(0));
  if (Cookie(segment->data_).load(std::memory_order_acquire) != cookie) {
    return Unavailable("{}: not the shared memory of another rank of this channel", path);
  }
  segment->CloseDescriptor();
  return segment;
}

void SharedSegment::CloseDescriptor() {
  if (descriptor_ >= 0) close(descriptor_);
  descriptor_ = -1;
}

void SharedSegment::TouchRounds(int rank) const {
  std::memset(round_data(rank, 0), 0, kRoundsInFlight * round_bytes_);
}

SharedSegment::~SharedSegment() {
  CloseDescriptor();
  if (data_ != nullptr) munmap(data_, bytes_);
}

}  // namespace llmir::comm
