#include "kvpool/transfer_service.h"

#include <netinet/tcp.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "kvpool/spill_file.h"
#include "kvpool/transfer_frames.h"

namespace llmir::kvpool {
namespace {

namespace asio = boost::asio;
using asio::awaitable;
using asio::ip::tcp;
using Clock = std::chrono::steady_clock;
using ErrorCode = boost::system::error_code;

// Errors are values: no exception leaves a coroutine. (A co_await is never a condition itself: GCC
// 12 then ends the coroutine in an illegal instruction.)
constexpr auto kValue = asio::as_tuple(asio::use_awaitable);

// The thread looks after its sockets again after so many bytes that it copied.
constexpr int64_t kCopiedAtOnce = int64_t{1} << 20;

template <typename T>
asio::mutable_buffer Bytes(T* frame) {
  return asio::buffer(frame, sizeof *frame);
}
template <typename T>
asio::const_buffer Bytes(const T* frame) {
  return asio::buffer(frame, sizeof *frame);
}
template <typename T>
asio::const_buffer BytesOf(std::span<const T> values) {
  return asio::buffer(values.data(), values.size_bytes());
}

asio::ip::address AddressOf(const TransferEndpoint::Address& bytes) {
  const asio::ip::address_v6 v6(bytes);
  if (v6.is_v4_mapped()) return asio::ip::make_address_v4(asio::ip::v4_mapped, v6);
  return v6;
}

// A host that is gone says nothing: the kernel asks it, and ends the connection after this.
constexpr int kLostAfterMs = 10000;
void NoticeLoss(tcp::socket& socket) {
  ErrorCode ignored;
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  const auto set = [&](int option, int value) {
    setsockopt(socket.native_handle(), IPPROTO_TCP, option, &value, sizeof value);
  };
  set(TCP_KEEPIDLE, 2);
  set(TCP_KEEPINTVL, 2);
  set(TCP_KEEPCNT, 4);
  set(TCP_USER_TIMEOUT, kLostAfterMs);
}

struct Connection {
  explicit Connection(tcp::socket socket)
      : socket(std::move(socket)), timer(this->socket.get_executor()) {}

  // All of the buffers. With patience, TIMED_OUT when they haven't come by then.
  template <typename Buffers>
  awaitable<ErrorCode> Read(Buffers buffers, std::chrono::milliseconds patience = {}) {
    if (patience.count() == 0) {
      auto [error, bytes] = co_await asio::async_read(socket, buffers, kValue);
      co_return error;
    }
    using namespace asio::experimental::awaitable_operators;
    timer.expires_after(patience);
    auto first = co_await (asio::async_read(socket, buffers, kValue) || timer.async_wait(kValue));
    if (first.index() == 1) co_return asio::error::timed_out;
    co_return std::get<0>(std::get<0>(first));
  }
  template <typename Buffers>
  awaitable<ErrorCode> Write(Buffers buffers) {
    auto [error, bytes] = co_await asio::async_write(socket, buffers, kValue);
    co_return error;
  }

  tcp::socket socket;
  asio::steady_timer timer;
  std::deque<std::vector<std::byte>> out;  // of rank 0's control connections, the first under way
};
using ConnectionPointer = std::shared_ptr<Connection>;

// What a rank is to do.
struct OrderWork {
  uint64_t ticket = 0;
  TransferKind kind = TransferKind::kFetch;
  int source = 0;
  std::vector<int32_t> from;
  std::vector<int32_t> to;
};

// What it comes to.
struct Told {
  Status status;
  double seconds = 0;
  uint64_t bytes = 0;
};

KvShape ShapeOf(const TransferEndpoint& endpoint) {
  return {static_cast<size_t>(endpoint.blocks), static_cast<size_t>(endpoint.layout.slices()),
          static_cast<size_t>(endpoint.layout.slice_bytes()),
          static_cast<size_t>(endpoint.extent_blocks), static_cast<size_t>(endpoint.offset)};
}

// Calls visit(start, bytes) for what lies side by side of a slice of blocks, in their order.
template <typename Visit>
void ForEachRun(const KvArena& arena, size_t slice, std::span<const int32_t> blocks, Visit visit) {
  std::byte* start = nullptr;
  size_t bytes = 0;
  for (const int32_t block : blocks) {
    std::byte* at = arena.slice(slice, static_cast<size_t>(block));
    if (bytes > 0 && at != start + bytes) {
      visit(start, bytes);
      bytes = 0;
    }
    if (bytes == 0) start = at;
    bytes += arena.shape().slice_bytes;
  }
  if (bytes > 0) visit(start, bytes);
}

}  // namespace

class TransferService::Impl {
 public:
  Impl(int rank, int replica, int host, const BlockLayout& layout, const KvArena& arena,
       const TransferOptions& options)
      : rank_(rank), arena_(arena), options_(options) {
    endpoint_.layout = layout;
    endpoint_.blocks = static_cast<int64_t>(arena.shape().blocks);
    endpoint_.extent_blocks = static_cast<int64_t>(arena.shape().extent_blocks);
    endpoint_.offset = static_cast<int64_t>(arena.shape().offset);
    endpoint_.replica = replica;
    endpoint_.host = host;
    endpoint_.process = static_cast<int32_t>(getpid());
    endpoint_.descriptor = arena.descriptor();
    endpoint_.memory = arena.identity();
  }
  ~Impl() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  Status Listen();
  const TransferEndpoint& endpoint() const { return endpoint_; }
  Status Join(std::vector<TransferEndpoint> endpoints);
  Status Order(const TransferOrder& order);
  bool TakeOutcome(TransferOutcome* outcome);
  void WaitOutcome(std::chrono::microseconds most);
  bool TakeLost(int* replica);
  bool ShareHost(int source, int destination) const;
  void Close() { closing_.store(true, std::memory_order_relaxed); }

 private:
  // ---- of every rank ----
  awaitable<void> Accept();
  awaitable<void> Receive(ConnectionPointer connection);
  awaitable<void> ServeGets(ConnectionPointer connection);
  awaitable<ErrorCode> ServeGet(Connection& connection, const GetRequest& request);
  awaitable<Status> JoinControl();
  awaitable<void> ReadOrders();
  void CarryOut(OrderWork work);
  awaitable<void> CarryOutAll();
  awaitable<Status> Fill(const OrderWork& work, uint64_t* bytes);
  awaitable<Status> Store(const OrderWork& work, uint64_t* bytes);  // or restore
  awaitable<void> Copy(const KvArena& source, const std::vector<BlockPiece>& pieces,
                       const OrderWork& work);
  awaitable<Status> Get(int owner, const std::vector<BlockPiece>& pieces, const OrderWork& work);
  awaitable<Status> TryGet(Connection& connection, const std::vector<BlockPiece>& pieces,
                           const OrderWork& work);
  awaitable<StatusOr<ConnectionPointer>> Connect(int rank, Purpose purpose);
  // Of `blocks` blocks.
  uint64_t AllBytes(const std::vector<BlockPiece>& pieces, size_t blocks) const {
    uint64_t slices = 0;
    for (const BlockPiece& piece : pieces) slices += static_cast<uint64_t>(piece.slices);
    return slices * arena_.shape().slice_bytes * blocks;
  }
  // The memory of a rank of this host; null where it can't be had.
  const KvArena* MemoryOf(int rank);
  // The ranks of a replica, those of this host first, and what this rank takes from each.
  struct Division {
    std::vector<int> owners;
    StatusOr<std::vector<std::vector<BlockPiece>>> pieces = Internal("not divided");
  };
  const Division& DivisionOf(int replica);

  // ---- of rank 0 ----
  struct Open {
    std::vector<int> ranks;  // that haven't told yet
    TransferOutcome outcome;
  };
  awaitable<void> ReadOutcomes(int rank, ConnectionPointer connection);
  void Start(OrderWork work, int destination);
  void Send(const ConnectionPointer& connection, std::vector<std::byte> bytes);
  awaitable<void> WriteAll(ConnectionPointer connection);
  void Tell(uint64_t ticket, int rank, const Told& told);
  void Lose(int rank);

  const int rank_;
  const KvArena& arena_;
  const TransferOptions options_;
  TransferEndpoint endpoint_;
  std::vector<TransferEndpoint> endpoints_;  // by rank; as they are from Join on
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_ = asio::make_work_guard(io_);
  tcp::acceptor acceptor_{io_};

  // The thread's alone.
  std::deque<OrderWork> orders_;  // the first is under way
  std::map<int, Division> divisions_;
  std::map<int, ConnectionPointer> gets_;  // by owner
  std::map<int, std::optional<KvArena>> memories_;
  std::optional<SpillFile> spill_;
  std::vector<std::byte> spilled_;             // a block on its way
  ConnectionPointer control_;                  // to rank 0
  std::map<int, ConnectionPointer> controls_;  // of rank 0
  std::map<uint64_t, Open> open_;
  std::vector<int> lost_replicas_;

  // Both threads'.
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<TransferOutcome> outcomes_;
  std::deque<int> lost_;  // replicas that weren't told of yet
  std::atomic<bool> any_outcome_{false};
  std::atomic<bool> any_lost_{false};
  std::atomic<bool> closing_{false};

  std::thread thread_;
};

// ---- serving ------------------------------------------------------------------------------------

Status TransferService::Impl::Listen() {
  if (getrandom(endpoint_.cookie.data(), endpoint_.cookie.size(), 0) !=
      static_cast<ssize_t>(endpoint_.cookie.size())) {
    return Internal("no random bytes for the transfer service's cookie: {}", std::strerror(errno));
  }
  ErrorCode error;
  const auto listen = [&](const tcp::endpoint& at) {
    error = {};
    if (acceptor_.is_open()) acceptor_.close();
    acceptor_.open(at.protocol(), error);
    if (!error && at.address().is_v6()) acceptor_.set_option(asio::ip::v6_only(false), error);
    if (!error) acceptor_.bind(at, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    return !error;
  };
  const bool listening = options_.between_hosts ? listen({asio::ip::address_v6::any(), 0}) ||
                                                      listen({asio::ip::address_v4::any(), 0})
                                                : listen({asio::ip::address_v4::loopback(), 0});
  if (!listening) {
    return Unavailable("the transfer service of rank {} can't listen: {}", rank_, error.message());
  }
  endpoint_.port = acceptor_.local_endpoint(error).port();
  if (options_.between_hosts) {
    const auto addresses = HostAddresses();
    endpoint_.addresses_count = static_cast<uint32_t>(addresses.size());
    std::ranges::copy(addresses, endpoint_.addresses.begin());
  }
  if (!options_.spill_folder.empty()) {
    LLMIR_ASSIGN_OR_RETURN(spill_, SpillFile::Create(options_.spill_folder, options_.spill_slots,
                                                     arena_.shape().block_bytes()));
    spilled_.resize(arena_.shape().block_bytes());
  }
  thread_ = std::thread([this] { io_.run(); });
  return Status();
}

awaitable<void> TransferService::Impl::Accept() {
  for (;;) {
    auto [error, socket] = co_await acceptor_.async_accept(kValue);
    if (error == asio::error::operation_aborted) co_return;
    if (error) continue;
    asio::co_spawn(io_, Receive(std::make_shared<Connection>(std::move(socket))), asio::detached);
  }
}

awaitable<void> TransferService::Impl::Receive(ConnectionPointer connection) {
  ErrorCode ignored;
  connection->socket.set_option(tcp::no_delay(true), ignored);
  Hello hello{};
  const ErrorCode error = co_await connection->Read(Bytes(&hello), options_.patience);
  if (error) co_return;
  if (hello.magic != kTransferMagic || hello.version != kTransferVersion ||
      hello.cookie != endpoints_[0].cookie || hello.rank < 0 ||
      static_cast<size_t>(hello.rank) >= endpoints_.size()) {
    co_return;  // nobody of this job
  }
  if (hello.purpose == Purpose::kGet) {
    co_await ServeGets(std::move(connection));
  } else if (hello.purpose == Purpose::kControl && rank_ == 0) {
    co_await ReadOutcomes(hello.rank, std::move(connection));
  }
}

awaitable<void> TransferService::Impl::ServeGets(ConnectionPointer connection) {
  for (;;) {
    GetRequest request{};
    ErrorCode error = co_await connection->Read(Bytes(&request));
    if (error) co_return;
    if (request.pieces == 0 || request.pieces > kMostPieces || request.blocks == 0 ||
        request.blocks > kMostBlocks) {
      co_return;
    }
    error = co_await ServeGet(*connection, request);
    if (error) co_return;
  }
}

awaitable<ErrorCode> TransferService::Impl::ServeGet(Connection& connection,
                                                     const GetRequest& request) {
  std::vector<PieceFrame> pieces(request.pieces);
  std::vector<int32_t> blocks(request.blocks);
  ErrorCode error = co_await connection.Read(std::array{asio::buffer(pieces), asio::buffer(blocks)},
                                             options_.patience);
  if (error) {
    co_return error;
  }
  Status status;
  const KvShape& shape = arena_.shape();
  uint64_t slices = 0;
  for (const PieceFrame& piece : pieces) {
    if (piece.first <= shape.slices && piece.slices <= shape.slices - piece.first) {
      slices += piece.slices;
      continue;
    }
    status = OutOfRange("slices {} to {} of a block that has {}", piece.first,
                        piece.first + piece.slices, shape.slices);
  }
  const bool spilled = request.spilled != 0;
  const auto count = !spilled             ? endpoint_.blocks
                     : spill_.has_value() ? static_cast<int64_t>(spill_->slots())
                                          : 0;
  for (const int32_t block : blocks) {
    if (block >= 0 && block < count) continue;
    status = OutOfRange("{} {} of {}", spilled ? "slot" : "block", block, count);
  }
  GetReply reply{static_cast<uint32_t>(status.code()),
                 static_cast<uint32_t>(std::min<size_t>(status.message().size(), kMostMessage)),
                 status.ok() ? slices * shape.slice_bytes * blocks.size() : 0};
  error = co_await connection.Write(
      std::array{Bytes(&std::as_const(reply)),
                 asio::const_buffer(asio::buffer(status.message().data(), reply.message_bytes))});
  if (error) {
    co_return error;
  }
  if (!status.ok()) co_return ErrorCode();
  std::vector<asio::const_buffer> buffers;
  std::vector<std::byte> block(spilled ? shape.block_bytes() : 0);
  for (size_t i = 0; spilled && i < blocks.size(); ++i) {
    const Status read = spill_->Read(blocks[i], block);
    // Who asked has been told how much comes: the end of the connection says that it doesn't.
    if (!read.ok()) co_return make_error_code(boost::system::errc::io_error);
    buffers.clear();
    for (const PieceFrame& piece : pieces) {
      buffers.push_back(asio::buffer(block.data() + piece.first * shape.slice_bytes,
                                     piece.slices * shape.slice_bytes));
    }
    error = co_await connection.Write(std::span(buffers));
    if (error) co_return error;
  }
  if (spilled) co_return ErrorCode();
  for (const PieceFrame& piece : pieces) {
    for (uint64_t slice = piece.first; slice < piece.first + piece.slices; ++slice) {
      buffers.clear();
      ForEachRun(arena_, slice, blocks, [&](const std::byte* data, size_t bytes) {
        buffers.push_back(asio::buffer(data, bytes));
      });
      error = co_await connection.Write(std::span(buffers));
      if (error) co_return error;
    }
  }
  co_return ErrorCode();
}

// ---- taking -------------------------------------------------------------------------------------

awaitable<StatusOr<ConnectionPointer>> TransferService::Impl::Connect(int rank, Purpose purpose) {
  const TransferEndpoint& peer = endpoints_[static_cast<size_t>(rank)];
  std::vector<asio::ip::address> addresses;
  if (peer.host == endpoint_.host) addresses.push_back(asio::ip::address_v4::loopback());
  for (uint32_t i = 0; i < peer.addresses_count; ++i) {
    addresses.push_back(AddressOf(peer.addresses[i]));
  }
  std::string tried;
  for (const asio::ip::address& address : addresses) {
    auto connection = std::make_shared<Connection>(tcp::socket(io_));
    using namespace asio::experimental::awaitable_operators;
    connection->timer.expires_after(options_.patience);
    const tcp::endpoint at(address, static_cast<uint16_t>(peer.port));
    auto first = co_await (connection->socket.async_connect(at, kValue) ||
                           connection->timer.async_wait(kValue));
    ErrorCode error =
        first.index() == 0 ? std::get<0>(std::get<0>(first)) : ErrorCode(asio::error::timed_out);
    if (!error) {
      ErrorCode ignored;
      connection->socket.set_option(tcp::no_delay(true), ignored);
      const Hello hello{kTransferMagic, kTransferVersion, endpoints_[0].cookie, purpose, rank_};
      error = co_await connection->Write(Bytes(&hello));
    }
    if (!error) co_return connection;
    tried += fmt::format("{}{} port {}: {}", tried.empty() ? "" : "; ", address.to_string(),
                         peer.port, error.message());
  }
  co_return Unavailable("rank {} can't be reached: {}", rank,
                        tried.empty() ? "it has no address that others reach" : tried);
}

const KvArena* TransferService::Impl::MemoryOf(int rank) {
  const TransferEndpoint& owner = endpoints_[static_cast<size_t>(rank)];
  if (options_.sockets_only || owner.host != endpoint_.host || owner.descriptor < 0) return nullptr;
  const auto [found, fresh] = memories_.try_emplace(rank);
  if (fresh) {
    auto memory = KvArena::Open(owner.process, owner.descriptor, owner.memory, ShapeOf(owner));
    if (memory.ok()) found->second = std::move(memory).value();
  }
  return found->second.has_value() ? &*found->second : nullptr;
}

const TransferService::Impl::Division& TransferService::Impl::DivisionOf(int replica) {
  const auto [found, fresh] = divisions_.try_emplace(replica);
  Division& division = found->second;
  if (!fresh) return division;
  for (const bool near : {true, false}) {
    for (size_t rank = 0; rank < endpoints_.size(); ++rank) {
      const TransferEndpoint& each = endpoints_[rank];
      if (each.replica == replica && (each.host == endpoint_.host) == near) {
        division.owners.push_back(static_cast<int>(rank));
      }
    }
  }
  std::vector<BlockLayout> layouts;
  for (const int owner : division.owners) {
    layouts.push_back(endpoints_[static_cast<size_t>(owner)].layout);
  }
  division.pieces = DivideBlock(layouts, endpoint_.layout);
  return division;
}

awaitable<void> TransferService::Impl::Copy(const KvArena& source,
                                            const std::vector<BlockPiece>& pieces,
                                            const OrderWork& work) {
  const size_t bytes = arena_.shape().slice_bytes;
  size_t copied = 0;
  for (const BlockPiece& piece : pieces) {
    for (int64_t i = 0; i < piece.slices; ++i) {
      for (size_t block = 0; block < work.from.size(); ++block) {
        std::memcpy(
            arena_.slice(static_cast<size_t>(piece.to + i), static_cast<size_t>(work.to[block])),
            source.slice(static_cast<size_t>(piece.from + i),
                         static_cast<size_t>(work.from[block])),
            bytes);
        copied += bytes;
        if (copied < kCopiedAtOnce) continue;
        copied = 0;
        co_await asio::post(io_, asio::use_awaitable);
      }
    }
  }
}

awaitable<Status> TransferService::Impl::Get(int owner, const std::vector<BlockPiece>& pieces,
                                             const OrderWork& work) {
  ConnectionPointer& connection = gets_[owner];
  if (connection == nullptr) {
    auto connected = co_await Connect(owner, Purpose::kGet);
    if (!connected.ok()) co_return connected.status();
    connection = *connected;
  }
  Status status = co_await TryGet(*connection, pieces, work);
  // Whatever went wrong, what comes next on this connection isn't known.
  if (!status.ok()) connection.reset();
  co_return status.WithContext(fmt::format("get of {} blocks of rank {}", work.from.size(), owner));
}

awaitable<Status> TransferService::Impl::TryGet(Connection& connection,
                                                const std::vector<BlockPiece>& pieces,
                                                const OrderWork& work) {
  const auto failed = [](const ErrorCode& error) {
    return error == asio::error::timed_out ? DeadlineExceeded("no byte came in time")
                                           : Unavailable("{}", error.message());
  };
  std::vector<PieceFrame> wanted;
  for (const BlockPiece& piece : pieces) {
    wanted.push_back({static_cast<uint64_t>(piece.from), static_cast<uint64_t>(piece.slices)});
  }
  const uint64_t bytes = AllBytes(pieces, work.from.size());
  const bool spilled = work.kind == TransferKind::kRestore;
  const GetRequest request{static_cast<uint32_t>(wanted.size()),
                           static_cast<uint32_t>(work.from.size()), spilled ? 1u : 0u, 0};
  ErrorCode error = co_await connection.Write(
      std::array{Bytes(&request), BytesOf(std::span<const PieceFrame>(wanted)),
                 BytesOf(std::span<const int32_t>(work.from))});
  if (error) {
    co_return failed(error);
  }
  GetReply reply{};
  error = co_await connection.Read(Bytes(&reply), options_.patience);
  if (error) {
    co_return failed(error);
  }
  if (reply.code != static_cast<uint32_t>(StatusCode::kOk)) {
    std::string message(std::min(reply.message_bytes, kMostMessage), '\0');
    error = co_await connection.Read(asio::buffer(message), options_.patience);
    if (error) {
      co_return failed(error);
    }
    co_return Status(static_cast<StatusCode>(reply.code), message);
  }
  if (reply.bytes != bytes) {
    co_return Internal("{} bytes are to come, expected {}", reply.bytes, bytes);
  }
  std::vector<asio::mutable_buffer> buffers;
  for (size_t i = 0; spilled && i < work.to.size(); ++i) {
    buffers.clear();
    for (const BlockPiece& piece : pieces) {
      for (int64_t slice = piece.to; slice < piece.to + piece.slices; ++slice) {
        buffers.push_back(
            asio::buffer(arena_.slice(static_cast<size_t>(slice), static_cast<size_t>(work.to[i])),
                         arena_.shape().slice_bytes));
      }
    }
    error = co_await connection.Read(std::span(buffers), options_.patience);
    if (error) {
      co_return failed(error);
    }
  }
  if (spilled) co_return Status();
  for (const BlockPiece& piece : pieces) {
    for (int64_t slice = piece.to; slice < piece.to + piece.slices; ++slice) {
      buffers.clear();
      ForEachRun(arena_, static_cast<size_t>(slice), work.to, [&](std::byte* data, size_t bytes) {
        buffers.push_back(asio::buffer(data, bytes));
      });
      error = co_await connection.Read(std::span(buffers), options_.patience);
      if (error) {
        co_return failed(error);
      }
    }
  }
  co_return Status();
}

awaitable<Status> TransferService::Impl::Fill(const OrderWork& work, uint64_t* bytes) {
  const Division& division = DivisionOf(work.source);
  if (!division.pieces.ok()) co_return division.pieces.status();
  const auto bad = [](const std::vector<int32_t>& blocks, int64_t count) {
    return std::ranges::any_of(blocks, [&](int32_t b) { return b < 0 || b >= count; });
  };
  if (bad(work.to, endpoint_.blocks)) co_return OutOfRange("the order names a block that isn't");
  for (size_t i = 0; i < division.owners.size(); ++i) {
    const std::vector<BlockPiece>& pieces = (*division.pieces)[i];
    if (pieces.empty()) continue;
    const int owner = division.owners[i];
    const TransferEndpoint& from = endpoints_[static_cast<size_t>(owner)];
    const bool spilled = work.kind == TransferKind::kRestore;
    if (!spilled && bad(work.from, from.blocks)) {
      co_return OutOfRange("the order names a block that isn't");
    }
    if (const KvArena* memory = spilled ? nullptr : MemoryOf(owner)) {
      co_await Copy(*memory, pieces, work);
    } else {
      const Status status = co_await Get(owner, pieces, work);
      if (!status.ok()) co_return status;
    }
    *bytes += AllBytes(pieces, work.to.size());
  }
  co_return Status();
}

awaitable<Status> TransferService::Impl::Store(const OrderWork& work, uint64_t* bytes) {
  if (!spill_.has_value()) co_return Unavailable("rank {} has no spill file", rank_);
  const bool out = work.kind == TransferKind::kSpill;
  const std::vector<int32_t>& blocks = out ? work.from : work.to;
  const std::vector<int32_t>& slots = out ? work.to : work.from;
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i] < 0 || blocks[i] >= endpoint_.blocks) {
      co_return OutOfRange("the order names a block that isn't");
    }
    const auto block = static_cast<size_t>(blocks[i]);
    const KvShape& shape = arena_.shape();
    if (out) {
      for (size_t slice = 0; slice < shape.slices; ++slice) {
        std::memcpy(spilled_.data() + slice * shape.slice_bytes, arena_.slice(slice, block),
                    shape.slice_bytes);
      }
    }
    const Status status =
        out ? spill_->Write(slots[i], spilled_) : spill_->Read(slots[i], spilled_);
    if (!status.ok()) co_return status;
    if (!out) {
      for (size_t slice = 0; slice < shape.slices; ++slice) {
        std::memcpy(arena_.slice(slice, block), spilled_.data() + slice * shape.slice_bytes,
                    shape.slice_bytes);
      }
    }
    *bytes += spilled_.size();
    co_await asio::post(io_, asio::use_awaitable);
  }
  co_return Status();
}

void TransferService::Impl::CarryOut(OrderWork work) {
  orders_.push_back(std::move(work));
  if (orders_.size() == 1) asio::co_spawn(io_, CarryOutAll(), asio::detached);
}

awaitable<void> TransferService::Impl::CarryOutAll() {
  while (!orders_.empty()) {
    const OrderWork& work = orders_.front();
    const auto begin = Clock::now();
    Told told;
    if (work.source != endpoint_.replica) {
      told.status = co_await Fill(work, &told.bytes);
    } else {
      told.status = co_await Store(work, &told.bytes);
    }
    told.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (rank_ == 0) {
      Tell(work.ticket, 0, told);
    } else {
      const std::string& message = told.status.message();
      const OutcomeFrame frame{
          work.ticket, static_cast<uint32_t>(told.status.code()),
          static_cast<uint32_t>(std::min<size_t>(message.size(), kMostMessage)), told.seconds,
          told.bytes};
      // Without rank 0 the job ends; nothing is to be said any more.
      co_await control_->Write(std::array{
          Bytes(&frame), asio::const_buffer(asio::buffer(message.data(), frame.message_bytes))});
    }
    orders_.pop_front();
  }
}

awaitable<Status> TransferService::Impl::JoinControl() {
  auto connected = co_await Connect(0, Purpose::kControl);
  if (!connected.ok()) co_return connected.status();
  control_ = *connected;
  NoticeLoss(control_->socket);
  uint32_t welcome = 0;
  const ErrorCode error = co_await control_->Read(Bytes(&welcome), options_.patience);
  if (error) {
    co_return Unavailable("rank 0's transfer service doesn't answer: {}", error.message());
  }
  if (welcome != kTransferMagic)
    co_return Internal("rank 0's transfer service answers {}", welcome);
  asio::co_spawn(io_, ReadOrders(), asio::detached);
  co_return Status();
}

awaitable<void> TransferService::Impl::ReadOrders() {
  for (;;) {
    OrderFrame frame{};
    ErrorCode error = co_await control_->Read(Bytes(&frame));
    if (error) break;
    if (frame.blocks > kMostBlocks) break;
    OrderWork work{frame.ticket, static_cast<TransferKind>(frame.kind), frame.source,
                   std::vector<int32_t>(frame.blocks), std::vector<int32_t>(frame.blocks)};
    error = co_await control_->Read(std::array{asio::buffer(work.from), asio::buffer(work.to)});
    if (error) break;
    CarryOut(std::move(work));
  }
  if (closing_.load(std::memory_order_relaxed)) co_return;
  options_.on_fatal(
      Unavailable("rank 0, or a rank of this one's replica, is lost; rank {} ends", rank_));
}

Status TransferService::Impl::Join(std::vector<TransferEndpoint> endpoints) {
  endpoints_ = std::move(endpoints);
  // Only now: a connection is checked against the job's cookie.
  asio::co_spawn(io_, Accept(), asio::detached);
  if (rank_ == 0) return Status();
  return asio::co_spawn(io_, JoinControl(), asio::use_future).get();
}

// ---- rank 0 -------------------------------------------------------------------------------------

awaitable<void> TransferService::Impl::ReadOutcomes(int rank, ConnectionPointer connection) {
  std::vector<std::byte> welcome(sizeof kTransferMagic);
  std::memcpy(welcome.data(), &kTransferMagic, sizeof kTransferMagic);
  NoticeLoss(connection->socket);
  controls_[rank] = connection;
  Send(connection, std::move(welcome));
  for (;;) {
    OutcomeFrame frame{};
    ErrorCode error = co_await connection->Read(Bytes(&frame));
    if (error) break;
    if (frame.message_bytes > kMostMessage) break;
    std::string message(frame.message_bytes, '\0');
    error = co_await connection->Read(asio::buffer(message));
    if (error) break;
    Tell(frame.ticket, rank,
         {Status(static_cast<StatusCode>(frame.code), std::move(message)), frame.seconds,
          frame.bytes});
  }
  if (!closing_.load(std::memory_order_relaxed)) Lose(rank);
}

void TransferService::Impl::Lose(int rank) {
  controls_.erase(rank);
  std::vector<uint64_t> waiting;
  for (const auto& [ticket, open] : open_) {
    if (std::ranges::find(open.ranks, rank) != open.ranks.end()) waiting.push_back(ticket);
  }
  for (const uint64_t ticket : waiting) Tell(ticket, rank, {Unavailable("it is lost"), 0, 0});
  const int replica = endpoints_[static_cast<size_t>(rank)].replica;
  if (replica == endpoint_.replica) {
    options_.on_fatal(Unavailable("rank {} is lost, and with it the replica of rank 0", rank));
    return;
  }
  if (std::ranges::find(lost_replicas_, replica) != lost_replicas_.end()) return;
  lost_replicas_.push_back(replica);
  // Its other ranks wait for the lost one: an end of their connection ends them.
  for (const auto& [other, connection] : controls_) {
    ErrorCode ignored;
    if (endpoints_[static_cast<size_t>(other)].replica == replica) {
      connection->socket.shutdown(tcp::socket::shutdown_both, ignored);
    }
  }
  {
    const std::lock_guard lock(mutex_);
    lost_.push_back(replica);
    any_lost_.store(true, std::memory_order_release);
  }
  arrived_.notify_one();
}

void TransferService::Impl::Send(const ConnectionPointer& connection,
                                 std::vector<std::byte> bytes) {
  connection->out.push_back(std::move(bytes));
  if (connection->out.size() == 1) asio::co_spawn(io_, WriteAll(connection), asio::detached);
}

awaitable<void> TransferService::Impl::WriteAll(ConnectionPointer connection) {
  while (!connection->out.empty()) {
    // A rank that is lost is noticed where its outcomes are read.
    const ErrorCode error = co_await connection->Write(asio::buffer(connection->out.front()));
    if (error) co_return;
    connection->out.pop_front();
  }
}

void TransferService::Impl::Start(OrderWork work, int destination) {
  Open& open = open_[work.ticket];
  open.outcome = {work.ticket, Status(), 0, 0};
  for (size_t rank = 0; rank < endpoints_.size(); ++rank) {
    if (endpoints_[rank].replica == destination) open.ranks.push_back(static_cast<int>(rank));
  }
  const uint64_t ticket = work.ticket;
  const OrderFrame frame{ticket, static_cast<uint32_t>(work.kind), work.source,
                         static_cast<uint32_t>(work.from.size()), 0};
  const size_t array = work.from.size() * sizeof(int32_t);
  std::vector<std::byte> bytes(sizeof frame + 2 * array);
  std::memcpy(bytes.data(), &frame, sizeof frame);
  std::memcpy(bytes.data() + sizeof frame, work.from.data(), array);
  std::memcpy(bytes.data() + sizeof frame + array, work.to.data(), array);
  bool own = false;
  for (const int rank : std::vector(open.ranks)) {
    if (rank == 0) {
      own = true;
    } else if (const auto found = controls_.find(rank); found != controls_.end()) {
      Send(found->second, bytes);
    } else {
      Tell(ticket, rank, {Unavailable("it is lost"), 0, 0});
    }
  }
  if (own) CarryOut(std::move(work));
}

void TransferService::Impl::Tell(uint64_t ticket, int rank, const Told& told) {
  const auto found = open_.find(ticket);
  if (found == open_.end()) return;
  Open& open = found->second;
  if (std::erase(open.ranks, rank) == 0) return;
  if (open.outcome.status.ok()) {
    open.outcome.status = told.status.WithContext(fmt::format("rank {}", rank));
  }
  open.outcome.seconds = std::max(open.outcome.seconds, told.seconds);
  open.outcome.bytes += told.bytes;
  if (!open.ranks.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    outcomes_.push_back(std::move(open.outcome));
    any_outcome_.store(true, std::memory_order_release);
  }
  arrived_.notify_one();
  open_.erase(found);
}

Status TransferService::Impl::Order(const TransferOrder& order) {
  const bool within = order.source == order.destination;
  const bool wrong = order.kind == TransferKind::kFetch   ? within
                     : order.kind == TransferKind::kSpill ? !within
                                                          : false;
  if (rank_ != 0 || order.from.size() != order.to.size() || order.from.empty() ||
      order.from.size() > kMostBlocks || wrong) {
    return InvalidArgument(
        "transfer of {} blocks of replica {} to {} of replica {}: expected 1 to {} blocks, as many "
        "of one as of the other, ordered by rank 0; a fetch from another replica, a spill within "
        "one",
        order.from.size(), order.source, order.to.size(), order.destination, kMostBlocks);
  }
  asio::post(io_, [this, destination = order.destination,
                   work = OrderWork{order.ticket,
                                    order.kind,
                                    order.source,
                                    {order.from.begin(), order.from.end()},
                                    {order.to.begin(), order.to.end()}}]() mutable {
    Start(std::move(work), destination);
  });
  return Status();
}

bool TransferService::Impl::TakeOutcome(TransferOutcome* outcome) {
  // Asked between all steps: mostly there is none.
  if (!any_outcome_.load(std::memory_order_acquire)) return false;
  const std::lock_guard lock(mutex_);
  *outcome = std::move(outcomes_.front());
  outcomes_.pop_front();
  if (outcomes_.empty()) any_outcome_.store(false, std::memory_order_relaxed);
  return true;
}

void TransferService::Impl::WaitOutcome(std::chrono::microseconds most) {
  std::unique_lock lock(mutex_);
  arrived_.wait_for(lock, most, [this] { return !outcomes_.empty() || !lost_.empty(); });
}

bool TransferService::Impl::TakeLost(int* replica) {
  if (!any_lost_.load(std::memory_order_acquire)) return false;
  const std::lock_guard lock(mutex_);
  *replica = lost_.front();
  lost_.pop_front();
  if (lost_.empty()) any_lost_.store(false, std::memory_order_relaxed);
  return true;
}

bool TransferService::Impl::ShareHost(int source, int destination) const {
  std::optional<int32_t> host;
  for (const TransferEndpoint& each : endpoints_) {
    if (each.replica != source && each.replica != destination) continue;
    if (host.value_or(each.host) != each.host) return false;
    host = each.host;
  }
  return true;
}

// ---- what is seen of it -------------------------------------------------------------------------

TransferService::TransferService(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TransferService::~TransferService() = default;

StatusOr<std::unique_ptr<TransferService>> TransferService::Create(int rank, int replica, int host,
                                                                   const BlockLayout& layout,
                                                                   const KvArena& arena,
                                                                   const TransferOptions& options) {
  if (layout.slices() != static_cast<int64_t>(arena.shape().slices) ||
      layout.slice_bytes() != static_cast<int64_t>(arena.shape().slice_bytes)) {
    return Internal("blocks of {} x {} bytes, but their layout has {} x {}", arena.shape().slices,
                    arena.shape().slice_bytes, layout.slices(), layout.slice_bytes());
  }
  auto impl = std::make_unique<Impl>(rank, replica, host, layout, arena, options);
  LLMIR_RETURN_IF_ERROR(impl->Listen());
  return std::unique_ptr<TransferService>(new TransferService(std::move(impl)));
}

const TransferEndpoint& TransferService::endpoint() const { return impl_->endpoint(); }
Status TransferService::Join(std::vector<TransferEndpoint> endpoints) {
  return impl_->Join(std::move(endpoints));
}
Status TransferService::Order(const TransferOrder& order) { return impl_->Order(order); }
bool TransferService::TakeOutcome(TransferOutcome* outcome) { return impl_->TakeOutcome(outcome); }
void TransferService::WaitOutcome(std::chrono::microseconds most) { impl_->WaitOutcome(most); }
bool TransferService::TakeLost(int* replica) { return impl_->TakeLost(replica); }
bool TransferService::ShareHost(int source, int destination) const {
  return impl_->ShareHost(source, destination);
}
void TransferService::Close() { impl_->Close(); }

}  // namespace llmir::kvpool
