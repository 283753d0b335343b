// llmir-load: a cheap client of the engine protocol (docs/protocol.md). Submits the requests of a
// JSON-lines file at their times and writes what came back, and when.
//
// A line of --requests: {"at": seconds since the start, "request": {a line of llmir-exec
// --prompts}}. A line of --output, in their order: {"ids", "margins", "token_ms": [when each came,
// since it was submitted], "error"}.

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "executor/protocol.h"

namespace {

using llmir::Status;
using llmir::executor::FrameType;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

struct Sent {
  double at = 0;
  std::string request;
  Clock::time_point submitted;
  std::vector<int32_t> ids;
  std::vector<float> margins;
  std::vector<double> token_ms;
  std::string error;
  bool done = false;
};

struct Options {
  std::string socket;
  std::string requests;
  std::string output;
  bool serial = false;
};

double MillisecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

llmir::StatusOr<std::vector<Sent>> ReadRequests(const std::string& path) {
  std::ifstream file(path);
  if (!file) return llmir::NotFound("{}: cannot be read", path);
  std::vector<Sent> requests;
  std::string line;
  while (std::getline(file, line)) {
    const Json json = Json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("request")) {
      return llmir::InvalidArgument("{}:{}: expected {{\"at\": …, \"request\": {{…}}}}", path,
                                    requests.size() + 1);
    }
    Sent sent;
    sent.at = json.value("at", 0.0);
    sent.request = json["request"].dump();
    requests.push_back(std::move(sent));
  }
  return requests;
}

class Load {
 public:
  Load(int file, std::vector<Sent> requests, bool serial)
      : file_(file), requests_(std::move(requests)), serial_(serial) {}

  Status Run() {
    const auto begin = Clock::now();
    while (done_ < requests_.size()) {
      double wait_ms = 1000;
      while (next_ < requests_.size() && (!serial_ || done_ == next_)) {
        const double due = serial_ ? 0 : requests_[next_].at * 1e3 - MillisecondsSince(begin);
        if (due > 0) {
          wait_ms = std::min(wait_ms, due);
          break;
        }
        Submit(next_++);
      }
      pollfd polled{file_, static_cast<short>(out_.empty() ? POLLIN : POLLIN | POLLOUT), 0};
      poll(&polled, 1, static_cast<int>(wait_ms) + (wait_ms < 1000 ? 1 : 0));
      if ((polled.revents & POLLOUT) != 0) LLMIR_RETURN_IF_ERROR(Write());
      if ((polled.revents & (POLLIN | POLLHUP)) != 0) LLMIR_RETURN_IF_ERROR(Read());
    }
    seconds_ = MillisecondsSince(begin) / 1e3;
    // The engine's own account, when all is done.
    llmir::executor::AppendFrame(FrameType::kAskStatistics, "{}", &out_);
    while (statistics_.empty()) {
      pollfd polled{file_, static_cast<short>(out_.empty() ? POLLIN : POLLIN | POLLOUT), 0};
      poll(&polled, 1, 1000);
      if ((polled.revents & POLLOUT) != 0) LLMIR_RETURN_IF_ERROR(Write());
      if ((polled.revents & (POLLIN | POLLHUP)) != 0) LLMIR_RETURN_IF_ERROR(Read());
    }
    return Status();
  }

  Status Print(const std::string& path) const {
    std::ofstream file(path);
    for (const Sent& sent : requests_) {
      file << Json{{"ids", sent.ids},
                   {"margins", sent.margins},
                   {"token_ms", sent.token_ms},
                   {"error", sent.error}}
                  .dump()
           << '\n';
    }
    file.close();
    if (!file) return llmir::DataLoss("{}: writing failed", path);
    std::printf("%s\n",
                Json{{"seconds", seconds_}, {"engine", Json::parse(statistics_)}}.dump().c_str());
    return Status();
  }

 private:
  void Submit(size_t number) {
    Sent& sent = requests_[number];
    llmir::executor::AppendFrame(
        FrameType::kSubmit, fmt::format(R"({{"id": {}, "request": {}}})", number, sent.request),
        &out_);
    sent.submitted = Clock::now();
  }

  Status Write() {
    const ssize_t count = send(file_, out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0) {
      if (errno == EAGAIN || errno == EINTR) return Status();
      return llmir::Unavailable("the engine has gone: {}", std::strerror(errno));
    }
    out_.erase(0, static_cast<size_t>(count));
    return Status();
  }

  Status Read() {
    char bytes[1 << 16];
    const ssize_t count = recv(file_, bytes, sizeof bytes, MSG_DONTWAIT);
    if (count == 0) return llmir::Unavailable("the engine has gone");
    if (count < 0) {
      if (errno == EAGAIN || errno == EINTR) return Status();
      return llmir::Unavailable("the engine has gone: {}", std::strerror(errno));
    }
    in_.append(bytes, static_cast<size_t>(count));
    size_t at = 0;
    for (;;) {
      LLMIR_ASSIGN_OR_RETURN(const auto frame,
                             llmir::executor::FirstFrame(std::string_view(in_).substr(at)));
      if (frame.bytes == 0) break;
      Handle(frame.type, frame.payload);
      at += frame.bytes;
    }
    in_.erase(0, at);
    return Status();
  }

  void Handle(FrameType type, std::string_view payload) {
    if (type == FrameType::kHello) return;
    if (type == FrameType::kStatistics) {
      statistics_ = payload;
      return;
    }
    const Json json = Json::parse(payload);
    Sent& sent = requests_.at(json["id"].get<size_t>());
    if (type == FrameType::kToken) {
      sent.ids.push_back(json["token"].get<int32_t>());
      if (json.contains("margin")) sent.margins.push_back(json["margin"].get<float>());
      sent.token_ms.push_back(MillisecondsSince(sent.submitted));
      return;
    }
    if (type == FrameType::kRefused) sent.error = json["message"].get<std::string>();
    sent.done = true;
    ++done_;
  }

  int file_;
  std::vector<Sent> requests_;
  bool serial_;
  size_t next_ = 0;
  size_t done_ = 0;
  double seconds_ = 0;
  std::string in_;
  std::string out_;
  std::string statistics_;
};

Status Main(const Options& options) {
  LLMIR_ASSIGN_OR_RETURN(std::vector<Sent> requests, ReadRequests(options.requests));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (options.socket.size() >= sizeof address.sun_path) {
    return llmir::InvalidArgument("--socket: the path is longer than {} bytes",
                                  sizeof address.sun_path - 1);
  }
  std::memcpy(address.sun_path, options.socket.c_str(), options.socket.size() + 1);
  const int file = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (file < 0 || connect(file, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return llmir::Unavailable("{}: {}; is llmir-exec --socket running?", options.socket,
                              std::strerror(errno));
  }
  Load load(file, std::move(requests), options.serial);
  Status status = load.Run();
  close(file);
  return status.ok() ? load.Print(options.output) : status;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Drives llmir-exec --socket with requests from a file", "llmir-load"};
  app.add_option("--socket", options.socket, "The engine's socket")->required();
  app.add_option("--requests", options.requests, "JSON lines, each with \"at\" and \"request\"")
      ->required();
  app.add_option("--output", options.output, "JSON lines: what came back, and when")->required();
  app.add_flag("--serial", options.serial, "Submit each when the one before it has ended");
  CLI11_PARSE(app, argc, argv);
  const Status status = Main(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "llmir-load: %s\n", status.ToString().c_str());
  return 1;
}
