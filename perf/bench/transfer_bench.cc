// transfer_bench: KV blocks that one rank of an MPI job gets of another by the transfer service,
// beside the same bytes by other means, in turns: copies of the same pieces out of the same memory
// where the ranks share a host, and an MPI message. Prints JSON on rank 0.
//
//   mpirun --bind-to none -n 2 transfer_bench --blocks 64
//   tests/cluster/hosts.sh --rate 1gbit 1,1 -- transfer_bench --blocks 64
#include <mpi.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "comm/world.h"
#include "kvpool/transfer_service.h"
#include "plan_schema/plan_facts.h"

namespace llmir::kvpool {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

struct Shape {
  int32_t layers = 30;
  int32_t kv_heads = 3;
  int32_t taken_heads = 2;
  int32_t head_dim = 64;
  int32_t block_size = 16;
  size_t blocks = 64;  // of a transfer
  size_t all_blocks = 2048;
  int turns = 15;
  bool sockets = false;
};

struct Times {
  std::vector<double> service;  // what the rank took, without the order and its outcome
  std::vector<double> whole;    // from order to outcome
  std::vector<double> copy;
  std::vector<double> message;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

json Row(const std::vector<double>& seconds, double bytes) {
  std::vector<double> rates;
  for (const double s : seconds) rates.push_back(bytes / 1e9 / s);
  return {{"gb_per_s", Median(rates)},
          {"min", *std::min_element(rates.begin(), rates.end())},
          {"max", *std::max_element(rates.begin(), rates.end())},
          {"median_us", 1e6 * Median(seconds)}};
}

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Waits without keeping the core that the other rank's service needs.
void AwaitMessage(void* data, int bytes, int from) {
  MPI_Request request;
  MPI_Irecv(data, bytes, MPI_BYTE, from, 0, MPI_COMM_WORLD, &request);
  for (int done = 0; done == 0; usleep(200)) MPI_Test(&request, &done, MPI_STATUS_IGNORE);
}

StatusOr<json> Run(comm::World* world, const Shape& shape) {
  if (world->size() != 2) return InvalidArgument("expected 2 ranks, got {}", world->size());
  const int rank = world->rank();
  const bool same_host = world->host_leader(0) == world->host_leader(1);
  const int64_t head_bytes = 4LL * shape.block_size * shape.head_dim;  // K and V in 16 bits
  const BlockLayout all{0, shape.layers, 0, shape.kv_heads, head_bytes};
  const BlockLayout part{0, shape.layers, 0, shape.taken_heads, head_bytes};
  const BlockLayout& layout = rank == 0 ? part : all;
  const auto blocks_of = [&](const BlockLayout& of) {
    return KvShape{shape.all_blocks, static_cast<size_t>(of.slices()),
                   static_cast<size_t>(of.slice_bytes()),
                   plan::KvExtentBlocks(static_cast<uint64_t>(head_bytes), shape.all_blocks)};
  };
  LLMIR_ASSIGN_OR_RETURN(KvArena arena, KvArena::Create(blocks_of(layout), Sharing::kShared));
  std::memset(arena.data(), rank, arena.bytes());
  TransferOptions options;
  options.between_hosts = !same_host;
  options.sockets_only = shape.sockets;
  LLMIR_ASSIGN_OR_RETURN(
      const std::unique_ptr<TransferService> service,
      TransferService::Create(rank, rank, world->host_leader(rank), layout, arena, options));
  std::vector<TransferEndpoint> endpoints(2);
  MPI_Allgather(&service->endpoint(), sizeof(TransferEndpoint), MPI_BYTE, endpoints.data(),
                sizeof(TransferEndpoint), MPI_BYTE, MPI_COMM_WORLD);
  LLMIR_RETURN_IF_ERROR(world->Agree(service->Join(endpoints)));

  const std::vector<BlockLayout> owners{all};
  LLMIR_ASSIGN_OR_RETURN(const auto divided, DivideBlock(owners, part));
  const std::vector<BlockPiece>& pieces = divided[0];
  const size_t bytes = blocks_of(part).block_bytes() * shape.blocks;
  std::optional<KvArena> memory;
  if (rank == 0 && same_host) {
    auto opened = KvArena::Open(endpoints[1].process, endpoints[1].descriptor, endpoints[1].memory,
                                blocks_of(all));
    if (opened.ok()) memory = std::move(opened).value();
  }
  std::vector<std::byte> message(bytes);
  std::mt19937 random(1);
  Times times;
  uint64_t ticket = 0;
  // Other blocks each time: what the last one has read is in a cache. They follow each other, as a
  // prefix's do.
  const auto draw = [&] {
    std::vector<int32_t> blocks(shape.blocks);
    std::iota(blocks.begin(), blocks.end(),
              static_cast<int32_t>(random() % (shape.all_blocks - shape.blocks + 1)));
    return blocks;
  };
  for (int turn = -2; turn < shape.turns; ++turn) {
    char go = 0;
    if (rank == 1) {
      AwaitMessage(&go, 1, 0);
      MPI_Send(message.data(), static_cast<int>(bytes), MPI_BYTE, 0, 0, MPI_COMM_WORLD);
      continue;
    }
    const std::vector<int32_t> from = draw();
    const std::vector<int32_t> to = draw();
    const auto ordered = Clock::now();
    LLMIR_RETURN_IF_ERROR(service->Order({ticket++, TransferKind::kFetch, 1, 0, from, to}));
    TransferOutcome outcome;
    while (!service->TakeOutcome(&outcome)) service->WaitOutcome(std::chrono::milliseconds(10));
    const double whole = Since(ordered);
    LLMIR_RETURN_IF_ERROR(outcome.status);
    const std::vector<int32_t> copied_from = draw();
    const std::vector<int32_t> copied_to = draw();
    const auto copying = Clock::now();
    for (const BlockPiece& piece : pieces) {
      for (int64_t s = 0; memory.has_value() && s < piece.slices; ++s) {
        for (size_t i = 0; i < shape.blocks; ++i) {
          std::memcpy(
              arena.slice(static_cast<size_t>(piece.to + s), static_cast<size_t>(copied_to[i])),
              memory->slice(static_cast<size_t>(piece.from + s),
                            static_cast<size_t>(copied_from[i])),
              arena.shape().slice_bytes);
        }
      }
    }
    const double copied = Since(copying);
    const auto sending = Clock::now();
    MPI_Send(&go, 1, MPI_BYTE, 1, 0, MPI_COMM_WORLD);
    MPI_Recv(message.data(), static_cast<int>(bytes), MPI_BYTE, 1, 0, MPI_COMM_WORLD,
             MPI_STATUS_IGNORE);
    const double sent = Since(sending);
    if (turn < 0) continue;  // memory is touched, connections are made
    times.service.push_back(outcome.seconds);
    times.whole.push_back(whole);
    if (memory.has_value()) times.copy.push_back(copied);
    times.message.push_back(sent);
  }
  service->Close();
  LLMIR_RETURN_IF_ERROR(world->Agree(Status()));
  if (rank != 0) return json();
  const auto size = static_cast<double>(bytes);
  json rows = {{"service", Row(times.service, size)},
               {"order_to_outcome", Row(times.whole, size)},
               {"mpi_message", Row(times.message, size)}};
  if (!times.copy.empty()) {
    std::vector<double> ratios;
    for (size_t i = 0; i < times.copy.size(); ++i) {
      ratios.push_back(times.copy[i] / times.service[i]);
    }
    rows["memcpy"] = Row(times.copy, size);
    rows["of_memcpy"] = {{"ratio", Median(ratios)},
                         {"min", *std::min_element(ratios.begin(), ratios.end())},
                         {"max", *std::max_element(ratios.begin(), ratios.end())}};
  }
  return json{{"same_host", same_host},
              {"sockets", shape.sockets || !same_host},
              {"blocks", shape.blocks},
              {"bytes", bytes},
              {"piece_bytes", pieces[0].slices * part.slice_bytes()},
              {"turns", shape.turns},
              {"results", rows}};
}

int Main(int argc, char** argv) {
  CLI::App app(
      "KV blocks from rank to rank, by the transfer service and by other means; prints JSON.");
  Shape shape;
  app.add_option("--layers", shape.layers)->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--kv-heads", shape.kv_heads, "of the rank that has the blocks")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--taken-heads", shape.taken_heads, "of them, those of the rank that gets them")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--head-dim", shape.head_dim)->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--block-size", shape.block_size)
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--blocks", shape.blocks, "of a transfer")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--all-blocks", shape.all_blocks, "of a rank: more than caches hold")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--turns", shape.turns)->capture_default_str()->check(CLI::PositiveNumber);
  app.add_flag("--sockets", shape.sockets, "also within a host");
  CLI11_PARSE(app, argc, argv);
  auto world = comm::World::Create(&argc, &argv);
  if (!world.ok()) {
    std::cerr << "transfer_bench: " << world.status().ToString() << "\n";
    return 1;
  }
  const StatusOr<json> report = Run(world->get(), shape);
  if ((*world)->rank() == 0) {
    if (report.ok()) {
      std::cout << report->dump(1) << "\n";
    } else {
      std::cerr << "transfer_bench: " << report.status().ToString() << "\n";
    }
  }
  if (!report.ok()) MPI_Abort(MPI_COMM_WORLD, 1);  // the other one waits
  return 0;
}

}  // namespace
}  // namespace llmir::kvpool

int main(int argc, char** argv) { return llmir::kvpool::Main(argc, argv); }
