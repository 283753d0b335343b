#include "executor/socket_server.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "executor/output_files.h"
#include "executor/protocol.h"
#include "executor/report.h"
#include "plan_schema/base/version.h"

namespace llmir::executor {
namespace {

using Json = nlohmann::json;

// A client that doesn't read is dropped when so much waits for it.
constexpr size_t kMostUnread = 64 << 20;
constexpr int kIdleMs = 100;

std::string Quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string Refusal(uint64_t id, const Status& status) {
  return fmt::format(R"({{"id": {}, "code": "{}", "message": {}}})", id,
                     StatusCodeName(status.code()), Quoted(status.message()));
}

}  // namespace

StatusOr<std::unique_ptr<SocketServer>> SocketServer::Listen(const std::string& path,
                                                             PromptContext context) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return InvalidArgument("--socket: the path has {} bytes, expected fewer than {}", path.size(),
                           sizeof address.sun_path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  const int file = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (file < 0) return Unavailable("no local socket: {}", std::strerror(errno));
  struct stat there{};
  if (lstat(path.c_str(), &there) == 0) {
    const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool stale = S_ISSOCK(there.st_mode) && connect(probe, name, sizeof address) != 0 &&
                       errno == ECONNREFUSED;
    close(probe);
    if (!stale) {
      close(file);
      return InvalidArgument("{}: is there already, and {}; give another path", path,
                             S_ISSOCK(there.st_mode) ? "a server answers" : "isn't a socket");
    }
    unlink(path.c_str());
  }
  const mode_t mask = umask(0177);
  const bool bound = bind(file, name, sizeof address) == 0 && listen(file, 64) == 0;
  const int error = errno;
  umask(mask);
  if (!bound) {
    close(file);
    return InvalidArgument("{}: cannot listen: {}", path, std::strerror(error));
  }
  return std::unique_ptr<SocketServer>(new SocketServer(file, path, std::move(context)));
}

SocketServer::~SocketServer() {
  StopListening();
  for (auto& [file, client] : clients_) close(file);
}

void SocketServer::StopListening() {
  if (listening_ < 0) return;
  close(listening_);
  unlink(path_.c_str());
  listening_ = -1;
}

EngineEvents SocketServer::Events() {
  EngineEvents events;
  events.on_token = [this](const TokenEvent& token) {
    const auto owner = owners_.find(token.request);
    if (owner == owners_.end()) return;
    std::string payload =
        fmt::format(R"({{"id": {}, "answer": {}, "index": {}, "token": {}, "text": {})",
                    owner->second.id, token.candidate, token.index, token.id, Quoted(token.text));
    if (token.details != nullptr) {
      payload += fmt::format(R"(, "logprob": {}, "margin": {})", token.details->logprob,
                             token.details->margin);
    }
    payload += '}';
    AppendFrame(FrameType::kToken, payload, &owner->second.client->out);
  };
  events.on_finish = [this](size_t request, std::vector<Completion>& completions) {
    const auto owner = owners_.find(request);
    if (owner == owners_.end()) return;
    AppendFrame(FrameType::kFinish,
                fmt::format(R"({{"id": {}, "result": {}}})", owner->second.id,
                            CompletionLine({}, completions)),
                &owner->second.client->out);
    owner->second.client->requests.erase(owner->second.id);
    owners_.erase(owner);
  };
  return events;
}

Status SocketServer::Serve(Engine& engine, const std::atomic<int>& signals) {
  for (;;) {
    if (signals.load(std::memory_order_relaxed) > 0 && !draining_) {
      draining_ = true;
      StopListening();
    }
    if (signals.load(std::memory_order_relaxed) > 1) {
      while (!owners_.empty()) engine.Cancel(owners_.begin()->first);
    }
    LLMIR_RETURN_IF_ERROR(Poll(engine, engine.idle() ? kIdleMs : 0));
    if (!engine.idle()) {
      LLMIR_RETURN_IF_ERROR(engine.Step());
      continue;
    }
    if (!draining_) continue;
    for (auto& [file, client] : clients_) Write(client);
    return Status();
  }
}

Status SocketServer::Poll(Engine& engine, int timeout_ms) {
  std::vector<pollfd> files;
  if (listening_ >= 0) files.push_back({listening_, POLLIN, 0});
  for (auto& [file, client] : clients_) {
    const short events = client.out.empty() ? POLLIN : POLLIN | POLLOUT;
    files.push_back({file, events, 0});
  }
  if (poll(files.data(), files.size(), timeout_ms) < 0) {
    if (errno == EINTR) return Status();
    return Internal("poll: {}", std::strerror(errno));
  }
  for (const pollfd& polled : files) {
    if (polled.revents == 0) continue;
    if (polled.fd == listening_) {
      const int file = accept4(listening_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (file < 0) continue;
      Client& client = clients_[file];
      client.file = file;
      AppendFrame(FrameType::kHello,
                  fmt::format(R"({{"protocol": {}, "llmir": "{}", "pid": {}}})", kProtocolVersion,
                              kVersion, getpid()),
                  &client.out);
      continue;
    }
    Client& client = clients_.at(polled.fd);
    if ((polled.revents & (POLLIN | POLLHUP | POLLERR)) != 0) Read(client, engine);
  }
  for (auto entry = clients_.begin(); entry != clients_.end();) {
    Client& client = entry->second;
    if (!client.out.empty()) Write(client);
    if (client.out.size() > kMostUnread) client.lost = true;
    if (!client.lost) {
      ++entry;
      continue;
    }
    // Nobody will read these answers.
    while (!client.requests.empty()) {
      const size_t number = client.requests.begin()->second;
      engine.Cancel(number);
    }
    close(entry->first);
    entry = clients_.erase(entry);
  }
  return Status();
}

void SocketServer::Read(Client& client, Engine& engine) {
  char bytes[1 << 16];
  for (;;) {
    const ssize_t count = read(client.file, bytes, sizeof bytes);
    if (count > 0) {
      client.in.append(bytes, static_cast<size_t>(count));
      continue;
    }
    if (count < 0 && errno == EINTR) continue;
    if (count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) client.lost = true;
    break;
  }
  size_t at = 0;
  while (!client.lost) {
    auto frame = FirstFrame(std::string_view(client.in).substr(at));
    Status status = frame.status();
    if (frame.ok() && frame->bytes == 0) break;
    if (frame.ok()) {
      status = Handle(client, engine, frame->type, frame->payload);
      at += frame->bytes;
    }
    if (!status.ok()) {
      // Not of one request, so what follows can't be trusted either.
      AppendFrame(FrameType::kRefused, Refusal(0, status), &client.out);
      Write(client);
      client.lost = true;
    }
  }
  client.in.erase(0, at);
}

Status SocketServer::Handle(Client& client, Engine& engine, FrameType type,
                            std::string_view payload) {
  if (type == FrameType::kAskStatistics) {
    AppendFrame(FrameType::kStatistics, EngineReport(engine.statistics()), &client.out);
    return Status();
  }
  const Json json = Json::parse(payload, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("id") || !json["id"].is_number_unsigned()) {
    return InvalidArgument("a frame without \"id\", a whole number: {:.60}", payload);
  }
  const auto id = json["id"].get<uint64_t>();
  const auto known = client.requests.find(id);
  if (type == FrameType::kCancel) {
    if (known != client.requests.end()) engine.Cancel(known->second);
    return Status();
  }
  if (type != FrameType::kSubmit) {
    return InvalidArgument("a frame of type {}, expected submit, cancel or statistics",
                           static_cast<int>(type));
  }
  const auto submit = [&]() -> StatusOr<size_t> {
    if (known != client.requests.end()) return InvalidArgument("id {} is in use", id);
    if (draining_) return Unavailable("the engine ends; nothing new is taken");
    if (!json.contains("request")) return InvalidArgument("\"request\" is missing");
    LLMIR_ASSIGN_OR_RETURN(Request request, ParsePromptLine(json["request"].dump(), context_));
    return engine.Submit(std::move(request));
  };
  auto number = submit();
  if (!number.ok()) {
    AppendFrame(FrameType::kRefused, Refusal(id, number.status()), &client.out);
    return Status();
  }
  client.requests[id] = *number;
  owners_[*number] = {&client, id};
  return Status();
}

void SocketServer::Write(Client& client) {
  size_t at = 0;
  while (at < client.out.size()) {
    const ssize_t count =
        send(client.file, client.out.data() + at, client.out.size() - at, MSG_NOSIGNAL);
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) client.lost = true;
      break;
    }
    at += static_cast<size_t>(count);
  }
  client.out.erase(0, at);
}

}  // namespace llmir::executor
