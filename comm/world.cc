#include "comm/world.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <type_traits>
#include <utility>

#include "comm/hierarchical_channel.h"
#include "comm/mpi_channel.h"
#include "comm/mpi_support.h"
#include "comm/shared_memory_channel.h"
#include "comm/shared_segment.h"

namespace llmir::comm {
namespace {

constexpr size_t kBroadcastPiece = size_t{1} << 30;  // MPI counts are 32-bit

// A broadcast of any size.
Status BroadcastLarge(void* data, size_t bytes, int root, MPI_Comm communicator) {
  for (size_t done = 0; done < bytes;) {
    const size_t piece = std::min(kBroadcastPiece, bytes - done);
    LLMIR_RETURN_IF_MPI_ERROR(MPI_Bcast(static_cast<std::byte*>(data) + done,
                                        static_cast<int>(piece), MPI_BYTE, root, communicator));
    done += piece;
  }
  return Status();
}

class MpiWorld final : public World {
 public:
  static StatusOr<std::unique_ptr<World>> Create(int* argc, char*** argv);

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }
  const std::string& host() const override { return host_; }
  int host_leader(int rank) const override { return host_leaders_[static_cast<size_t>(rank)]; }

  StatusOr<std::unique_ptr<Channel>> CreateChannel(std::span<const int> ranks, size_t max_bytes,
                                                   Backend backend) override;
  StatusOr<std::vector<std::byte>> BroadcastBytes(std::vector<std::byte> bytes) override;
  Status Agree(const Status& status) override;

 private:
  MpiWorld() = default;
  Status Detect();
  Status CheckGroup(std::span<const int> ranks) const;
  bool ShareHost(std::span<const int> ranks) const;
  // The hosts of a group in which a host's ranks follow each other; none where they don't.
  HostRanks GroupByHost(std::span<const int> ranks) const;
  StatusOr<std::unique_ptr<Channel>> CreateMpiChannel(std::span<const int> ranks, size_t max_bytes);
  StatusOr<std::unique_ptr<Channel>> CreateHierarchicalChannel(std::span<const int> ranks,
                                                               HostRanks hosts, size_t max_bytes);
  StatusOr<MpiCommunicator> CreateCommunicator(std::span<const int> ranks) const;

  std::shared_ptr<MpiSession> session_;
  int rank_ = 0;
  int size_ = 1;
  int local_rank_ = 0;
  int local_size_ = 1;
  std::string host_;
  std::vector<int> host_leaders_;  // by world rank: the lowest rank on the same host
};

StatusOr<std::unique_ptr<World>> MpiWorld::Create(int* argc, char*** argv) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized != 0) return InvalidArgument("MPI has been started already; one World a process");
  int provided = MPI_THREAD_SINGLE;
  LLMIR_RETURN_IF_MPI_ERROR(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
  std::unique_ptr<MpiWorld> world(new MpiWorld());
  world->session_ = std::make_shared<MpiSession>();
  if (provided < MPI_THREAD_FUNNELED) {
    return Unavailable(
        "this MPI library offers no thread support (level {}, MPI_THREAD_FUNNELED is {}); use one "
        "that is built with it",
        provided, MPI_THREAD_FUNNELED);
  }
  LLMIR_RETURN_IF_ERROR(world->Detect());
  return std::unique_ptr<World>(std::move(world));
}

Status MpiWorld::Detect() {
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  LLMIR_RETURN_IF_MPI_ERROR(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  LLMIR_RETURN_IF_MPI_ERROR(MPI_Comm_size(MPI_COMM_WORLD, &size_));
  char name[MPI_MAX_PROCESSOR_NAME] = "";
  int length = 0;
  LLMIR_RETURN_IF_MPI_ERROR(MPI_Get_processor_name(name, &length));
  host_.assign(name, static_cast<size_t>(length));

  MPI_Comm local = MPI_COMM_NULL;
  LLMIR_RETURN_IF_MPI_ERROR(
      MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local));
  const MpiCommunicator owned(session_, local);
  LLMIR_RETURN_IF_MPI_ERROR(MPI_Comm_rank(local, &local_rank_));
  LLMIR_RETURN_IF_MPI_ERROR(MPI_Comm_size(local, &local_size_));
  int leader = rank_;
  LLMIR_RETURN_IF_MPI_ERROR(MPI_Bcast(&leader, 1, MPI_INT, 0, local));
  host_leaders_.resize(static_cast<size_t>(size_));
  LLMIR_RETURN_IF_MPI_ERROR(
      MPI_Allgather(&leader, 1, MPI_INT, host_leaders_.data(), 1, MPI_INT, MPI_COMM_WORLD));
  return Status();
}

Status MpiWorld::CheckGroup(std::span<const int> ranks) const {
  std::vector<bool> named(static_cast<size_t>(size_), false);
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i] < 0 || ranks[i] >= size_) {
      return InvalidArgument("channel: ranks[{}] is {}, but the world has {} ranks; start more", i,
                             ranks[i], size_);
    }
    if (named[static_cast<size_t>(ranks[i])]) {
      return InvalidArgument("channel: ranks[{}] names rank {} a second time", i, ranks[i]);
    }
    named[static_cast<size_t>(ranks[i])] = true;
  }
  if (!named[static_cast<size_t>(rank_)]) {
    return InvalidArgument("channel: rank {} is not one of its {} ranks and must not create it",
                           rank_, ranks.size());
  }
  return Status();
}

bool MpiWorld::ShareHost(std::span<const int> ranks) const {
  return std::all_of(ranks.begin(), ranks.end(), [&](int rank) {
    return host_leaders_[static_cast<size_t>(rank)] ==
           host_leaders_[static_cast<size_t>(ranks.front())];
  });
}

HostRanks MpiWorld::GroupByHost(std::span<const int> ranks) const {
  HostRanks hosts;
  std::vector<int> leaders;
  for (size_t i = 0; i < ranks.size(); ++i) {
    const int leader = host_leaders_[static_cast<size_t>(ranks[i])];
    if (leaders.empty() || leaders.back() != leader) {
      if (std::find(leaders.begin(), leaders.end(), leader) != leaders.end()) return {};
      leaders.push_back(leader);
      hosts.firsts.push_back(static_cast<int>(i));
    }
    if (ranks[i] == rank_) hosts.own = static_cast<int>(leaders.size()) - 1;
  }
  hosts.firsts.push_back(static_cast<int>(ranks.size()));
  return hosts;
}

StatusOr<MpiCommunicator> MpiWorld::CreateCommunicator(std::span<const int> ranks) const {
  MPI_Group world = MPI_GROUP_NULL;
  LLMIR_RETURN_IF_MPI_ERROR(MPI_Comm_group(MPI_COMM_WORLD, &world));
  MPI_Group group = MPI_GROUP_NULL;
  Status status =
      MpiStatus(MPI_Group_incl(world, static_cast<int>(ranks.size()), ranks.data(), &group),
                "MPI_Group_incl");
  MPI_Group_free(&world);
  LLMIR_RETURN_IF_ERROR(status);
  MPI_Comm communicator = MPI_COMM_NULL;
  status = MpiStatus(MPI_Comm_create_group(MPI_COMM_WORLD, group, 0, &communicator),
                     "MPI_Comm_create_group");
  MPI_Group_free(&group);
  LLMIR_RETURN_IF_ERROR(status);
  return MpiCommunicator(session_, communicator);
}

// Memory that all ranks of `group` map, or on all of them an error.
StatusOr<std::shared_ptr<SharedSegment>> ShareSegment(const MpiCommunicator& group, int rank,
                                                      int size, size_t max_bytes) {
  struct Offer {
    int64_t pid;
    int64_t descriptor;  // -1: there is none
    uint64_t cookie;
  };
  static_assert(std::is_trivially_copyable_v<Offer>);
  Offer offer{getpid(), -1, 0};
  StatusOr<std::shared_ptr<SharedSegment>> segment = Internal("not created");
  if (rank == 0) {
    std::random_device random;
    offer.cookie = uint64_t{random()} << 32 | random();
    segment = SharedSegment::CreateShared(size, max_bytes, offer.cookie);
    if (segment.ok()) offer.descriptor = (*segment)->descriptor();
  }
  LLMIR_RETURN_IF_MPI_ERROR(MPI_Bcast(&offer, sizeof offer, MPI_BYTE, 0, group.get()));
  if (rank != 0) {
    if (offer.descriptor < 0) {
      segment = ResourceExhausted("rank 0 of the channel could not get shared memory");
    } else {
      segment = SharedSegment::Open(size, max_bytes, static_cast<pid_t>(offer.pid),
                                    static_cast<int>(offer.descriptor), offer.cookie);
    }
  }
  // Also keeps the descriptor open until all have used it.
  int mapped = segment.ok() ? 1 : 0;
  LLMIR_RETURN_IF_MPI_ERROR(MPI_Allreduce(MPI_IN_PLACE, &mapped, 1, MPI_INT, MPI_MIN, group.get()));
  LLMIR_RETURN_IF_ERROR(segment.status());
  if (mapped == 0) {
    return Unavailable("another rank of the channel could not map the shared memory");
  }
  (*segment)->CloseDescriptor();
  return segment;
}

StatusOr<std::unique_ptr<Channel>> MpiWorld::CreateMpiChannel(std::span<const int> ranks,
                                                              size_t max_bytes) {
  const int rank = static_cast<int>(std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin());
  LLMIR_ASSIGN_OR_RETURN(MpiCommunicator group, CreateCommunicator(ranks));
  LLMIR_ASSIGN_OR_RETURN(MpiCommunicator control, group.Duplicate());
  return std::unique_ptr<Channel>(std::make_unique<MpiChannel>(
      std::move(group), std::move(control), rank, static_cast<int>(ranks.size()), max_bytes));
}

StatusOr<std::unique_ptr<Channel>> MpiWorld::CreateHierarchicalChannel(std::span<const int> ranks,
                                                                       HostRanks hosts,
                                                                       size_t max_bytes) {
  const int rank = static_cast<int>(std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin());
  const std::span<const int> local = ranks.subspan(static_cast<size_t>(hosts.first(hosts.own)),
                                                   static_cast<size_t>(hosts.ranks(hosts.own)));
  const size_t inner_bytes = HierarchicalChannel::InnerBytes(hosts, max_bytes);
  HierarchicalChannel::Parts parts;
  LLMIR_ASSIGN_OR_RETURN(parts.up, CreateChannel(local, inner_bytes, Backend::kAuto));
  LLMIR_ASSIGN_OR_RETURN(parts.down, CreateChannel(local, inner_bytes, Backend::kAuto));
  LLMIR_ASSIGN_OR_RETURN(parts.host_messages, CreateChannel(local, max_bytes, Backend::kAuto));
  LLMIR_ASSIGN_OR_RETURN(parts.between, CreateMpiChannel(ranks, inner_bytes));
  LLMIR_ASSIGN_OR_RETURN(parts.messages, CreateMpiChannel(ranks, max_bytes));
  return std::unique_ptr<Channel>(std::make_unique<HierarchicalChannel>(
      std::move(parts), std::move(hosts), rank, static_cast<int>(ranks.size()), max_bytes));
}

StatusOr<std::unique_ptr<Channel>> MpiWorld::CreateChannel(std::span<const int> ranks,
                                                           size_t max_bytes, Backend backend) {
  LLMIR_RETURN_IF_ERROR(CheckGroup(ranks));
  if (ranks.size() == 1) return std::move(CreateLoopbackChannels(1, max_bytes).front());
  const bool share_host = ShareHost(ranks);
  if (backend == Backend::kSharedMemory && !share_host) {
    return Unavailable("a shared-memory channel needs ranks of one host; use MPI across hosts");
  }
  if (backend == Backend::kSharedMemory || (backend == Backend::kAuto && share_host)) {
    const int size = static_cast<int>(ranks.size());
    const int rank = static_cast<int>(std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin());
    LLMIR_ASSIGN_OR_RETURN(const MpiCommunicator group, CreateCommunicator(ranks));
    StatusOr<std::shared_ptr<SharedSegment>> segment = ShareSegment(group, rank, size, max_bytes);
    if (segment.ok()) {
      return std::unique_ptr<Channel>(
          std::make_unique<SharedMemoryChannel>(*segment, rank, max_bytes, "shared-memory"));
    }
    // Ranks of one host in containers of their own, for example, cannot share memory, yet they have
    // MPI.
    if (backend == Backend::kSharedMemory) return segment.status();
  }
  if (backend == Backend::kAuto && !share_host) {
    HostRanks hosts = GroupByHost(ranks);
    // Where each host has one rank there is nothing to be gained, nor where ranks alternate.
    if (!hosts.firsts.empty() && hosts.hosts() < static_cast<int>(ranks.size())) {
      return CreateHierarchicalChannel(ranks, std::move(hosts), max_bytes);
    }
  }
  return CreateMpiChannel(ranks, max_bytes);
}

StatusOr<std::vector<std::byte>> MpiWorld::BroadcastBytes(std::vector<std::byte> bytes) {
  uint64_t size = bytes.size();
  LLMIR_RETURN_IF_MPI_ERROR(MPI_Bcast(&size, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD));
  bytes.resize(size);
  LLMIR_RETURN_IF_ERROR(BroadcastLarge(bytes.data(), bytes.size(), 0, MPI_COMM_WORLD));
  return bytes;
}

Status MpiWorld::Agree(const Status& status) {
  int first = status.ok() ? size_ : rank_;
  LLMIR_RETURN_IF_MPI_ERROR(
      MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD));
  if (first == size_) return Status();
  uint64_t header[2] = {static_cast<uint64_t>(status.code()), 0};
  std::string message;
  if (rank_ == first) {
    message = size_ == 1 ? status.message()
                         : fmt::format("rank {} ({}): {}", rank_, host_, status.message());
    header[1] = message.size();
  }
  LLMIR_RETURN_IF_MPI_ERROR(MPI_Bcast(header, 2, MPI_UINT64_T, first, MPI_COMM_WORLD));
  message.resize(header[1]);
  LLMIR_RETURN_IF_ERROR(BroadcastLarge(message.data(), message.size(), first, MPI_COMM_WORLD));
  return Status(static_cast<StatusCode>(header[0]), std::move(message));
}

}  // namespace

StatusOr<std::unique_ptr<World>> World::Create(int* argc, char*** argv) {
  return MpiWorld::Create(argc, argv);
}

}  // namespace llmir::comm
