//===- LeafHashes.cpp - Identify the bytes that a plan was made for -------===//

#include "planner/Target/Plan/LeafHashes.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>

#include "plan_schema/base/hash.h"
#include "plan_schema/plan_facts.h"

using namespace llmir;

namespace {

/// The hash of one leaf's bytes, in row order.
uint64_t hashLeaf(const checkpoint::Checkpoint &checkpoint,
                  const checkpoint::TensorInfo &source,
                  const plan::TensorT &tensor, uint32_t leaf) {
  std::span<const std::byte> bytes = checkpoint.Bytes(source);
  const int64_t rowBytes = checkpoint::RowBytes(source.type, source.columns);
  if (tensor.axis == plan::Axis::none)
    return Hash64(bytes);
  if (tensor.axis == plan::Axis::rows) {
    const plan::Extent rows =
        plan::LeafExtent({leaf, leaf + 1}, tensor.leaf_size, tensor.rows);
    return Hash64(bytes.subspan(rows.begin * rowBytes, rows.size() * rowBytes));
  }
  const plan::Extent columns =
      plan::LeafExtent({leaf, leaf + 1}, tensor.leaf_size, tensor.columns);
  const int64_t begin = checkpoint::RowBytes(source.type, columns.begin);
  const int64_t size = checkpoint::RowBytes(source.type, columns.size());
  Hasher64 hasher;
  for (int64_t row = 0; row < source.rows; ++row)
    hasher.Add(bytes.subspan(row * rowBytes + begin, size));
  return hasher.Finish();
}

uint32_t getLeafCount(const plan::TensorT &tensor) {
  if (tensor.axis == plan::Axis::none)
    return 1;
  const uint64_t total =
      tensor.axis == plan::Axis::rows ? tensor.rows : tensor.columns;
  return static_cast<uint32_t>((total + tensor.leaf_size - 1) /
                               tensor.leaf_size);
}

} // namespace

void llmir::hashLeaves(const checkpoint::Checkpoint &checkpoint,
                       const std::vector<checkpoint::TensorInfo> &sources,
                       plan::PlanT &plan, int threads) {
  uint64_t total = 0;
  for (auto &tensor : plan.tensors) {
    if (tensor->bytes != 0)
      tensor->leaf_hashes.resize(getLeafCount(*tensor));
    total += tensor->bytes;
  }
  std::atomic<size_t> next{0};
  std::atomic<uint64_t> done{0};
  std::mutex mutex;
  std::condition_variable finished;
  int running = threads;
  auto work = [&] {
    for (size_t i; (i = next.fetch_add(1)) < plan.tensors.size();) {
      plan::TensorT &tensor = *plan.tensors[i];
      for (uint32_t leaf = 0; leaf < tensor.leaf_hashes.size(); ++leaf)
        tensor.leaf_hashes[leaf] =
            hashLeaf(checkpoint, sources[i], tensor, leaf);
      done += tensor.bytes;
    }
    std::lock_guard lock(mutex);
    --running;
    finished.notify_one();
  };
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i)
    workers.emplace_back(work);
  bool hasReported = false;
  {
    std::unique_lock lock(mutex);
    while (!finished.wait_for(lock, std::chrono::seconds(1),
                              [&] { return running == 0; })) {
      std::fprintf(stderr, "\rhashing weights: %.0f of %.0f MB", done / 1e6,
                   total / 1e6);
      std::fflush(stderr);
      hasReported = true;
    }
  }
  for (std::thread &worker : workers)
    worker.join();
  if (hasReported)
    std::fputc('\n', stderr);
}
