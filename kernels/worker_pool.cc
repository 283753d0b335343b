#include "kernels/worker_pool.h"

#include <chrono>
#include <system_error>

namespace llmir::kernels {
namespace {

// A pause is 20 to 60 ns: waits within a busy step end while spinning, and where threads share a
// core, or another process has taken one, the thread that is waited for gets it soon.
constexpr int kSpinsBeforeYield = 256;
// How long an idle worker looks for work before it sleeps; the gap between two steps is shorter.
constexpr std::chrono::microseconds kIdleTime{100};

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

template <typename Ready>
bool Spin(bool yield_at_once, Ready ready) {
  if (yield_at_once) return ready();
  for (int i = 0; i < kSpinsBeforeYield; ++i) {
    if (ready()) return true;
    Pause();
  }
  return false;
}

// Spins, then gives the core away between looks, until `ready()`.
template <typename Ready>
void Await(bool yield_at_once, Ready ready) {
  if (Spin(yield_at_once, ready)) return;
  while (!ready()) std::this_thread::yield();
}

// As Await, but gives up after kIdleTime; true if `ready()` came true.
template <typename Ready>
bool AwaitBriefly(bool yield_at_once, Ready ready) {
  if (Spin(yield_at_once, ready)) return true;
  const auto deadline = std::chrono::steady_clock::now() + kIdleTime;
  do {
    if (ready()) return true;
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

}  // namespace

// Each group of words that one side writes and another polls has its own pair of cache lines.
struct WorkerPool::Shared {
  alignas(128) std::atomic<uint32_t> generation{
      0};                       // one more for each Run; workers wait for it to change
  Function function = nullptr;  // written before generation, read after
  void* context = nullptr;
  bool stop = false;
  bool yield = false;
  alignas(128) std::atomic<int> finished{0};    // workers that have returned from this Run
  alignas(128) std::atomic<int> arrived{0};     // threads that have come to the present barrier
  alignas(128) std::atomic<uint32_t> phase{0};  // barriers passed
};

WorkerPool::WorkerPool(int threads, bool oversubscribed)
    : threads_(threads < 1 ? 1 : threads), shared_(std::make_unique<Shared>()) {
  const unsigned cores = std::thread::hardware_concurrency();
  shared_->yield = oversubscribed || (cores != 0 && static_cast<unsigned>(threads_) > cores);
  workers_.reserve(static_cast<size_t>(threads_ - 1));
  for (int t = 1; t < threads_; ++t) {
    try {
      workers_.emplace_back([shared = shared_.get(), t] {
        uint32_t seen = 0;
        for (;;) {
          const auto changed = [&] {
            return shared->generation.load(std::memory_order_acquire) != seen;
          };
          while (!AwaitBriefly(shared->yield, changed)) {
            shared->generation.wait(seen, std::memory_order_acquire);
          }
          ++seen;
          if (shared->stop) return;
          shared->function(shared->context, t);
          shared->finished.fetch_add(1, std::memory_order_release);
        }
      });
    } catch (const std::system_error&) {
      threads_ = t;  // as many as the system allows
      break;
    }
  }
}

WorkerPool::~WorkerPool() {
  shared_->stop = true;
  shared_->generation.fetch_add(1, std::memory_order_release);
  shared_->generation.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void WorkerPool::Run(Function function, void* context) {
  Shared& shared = *shared_;
  if (threads_ > 1) {
    shared.function = function;
    shared.context = context;
    shared.finished.store(0, std::memory_order_relaxed);
    shared.generation.fetch_add(1, std::memory_order_release);
    shared.generation.notify_all();  // costs a load where nobody sleeps
  }
  function(context, 0);
  Await(shared.yield,
        [&] { return shared.finished.load(std::memory_order_acquire) == threads_ - 1; });
}

void WorkerPool::Barrier() {
  Shared& shared = *shared_;
  const uint32_t phase = shared.phase.load(std::memory_order_relaxed);
  if (shared.arrived.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
    shared.arrived.store(0, std::memory_order_relaxed);
    shared.phase.store(phase + 1, std::memory_order_release);
  } else {
    Await(shared.yield, [&] { return shared.phase.load(std::memory_order_acquire) != phase; });
  }
}

}  // namespace llmir::kernels
