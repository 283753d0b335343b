// Serves an engine over a local (Unix) socket: clients submit, get tokens as they are drawn, cancel
// (docs/protocol.md). One thread: between two steps of the engine it reads and writes what it can
// without waiting, and sleeps in poll where nothing is to be done.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>

#include "executor/engine/engine.h"
#include "executor/prompt_file.h"
#include "executor/protocol.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

class SocketServer {
 public:
  // Binds and listens at `path`, which only this user may open. A file that a killed server left
  // there is replaced; one that a server answers at is an error.
  static StatusOr<std::unique_ptr<SocketServer>> Listen(const std::string& path,
                                                        PromptContext context);
  // Closes all and removes the file.
  ~SocketServer();

  // What the engine that is served must call.
  EngineEvents Events();
  // Until `signals` is 1: then nothing new is taken, and it returns when what runs is done; at 2
  // what runs is cancelled. `engine` must be the one with Events().
  Status Serve(Engine& engine, const std::atomic<int>& signals);

 private:
  struct Client {
    int file = -1;
    std::string in;
    std::string out;
    std::map<uint64_t, size_t> requests;  // engine's numbers by the client's
    bool lost = false;
  };
  struct Owner {
    Client* client;
    uint64_t id;
  };
  SocketServer(int file, std::string path, PromptContext context)
      : listening_(file), path_(std::move(path)), context_(std::move(context)) {}

  Status Poll(Engine& engine, int timeout_ms);
  void Read(Client& client, Engine& engine);
  Status Handle(Client& client, Engine& engine, FrameType type, std::string_view payload);
  void Write(Client& client);
  void StopListening();

  int listening_;
  std::string path_;
  PromptContext context_;
  bool draining_ = false;
  std::map<int, Client> clients_;
  std::map<size_t, Owner> owners_;  // by the engine's number
};

}  // namespace llmir::executor
