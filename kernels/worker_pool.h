// The threads of one rank. The caller is thread 0; the others spin for work for a while and then
// sleep on a futex, so that an idle rank uses no core and a step starts within a microsecond while
// steps follow each other.
//
// One pool per rank, used by one thread at a time. No allocation after construction.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace llmir::kernels {

class WorkerPool {
 public:
  using Function = void (*)(void* context, int thread);

  // `threads` >= 1 in all; threads() tells how many the system gave. `oversubscribed`: ranks
  // outnumber cores, so the core is given away while waiting.
  explicit WorkerPool(int threads, bool oversubscribed = false);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int threads() const { return threads_; }

  // Calls function(context, t) for t = 0 .. threads - 1, t = 0 on this thread; returns when all
  // have returned.
  void Run(Function function, void* context);
  template <typename F>
  void Run(F&& function) {
    Run([](void* context,
           int thread) { (*static_cast<std::remove_reference_t<F>*>(context))(thread); },
        &function);
  }

  // Within Run, called by all threads: none goes on before all have come. What each wrote before is
  // seen by all after.
  void Barrier();

 private:
  struct Shared;
  int threads_;
  std::unique_ptr<Shared> shared_;
  std::vector<std::thread> workers_;
};

// The range [begin, end) of `count` items in multiples of `grain` that is thread `thread`'s of
// `threads`.
struct Share {
  int64_t begin;
  int64_t end;
};
constexpr Share ShareOf(int64_t count, int64_t grain, int thread, int threads) {
  const int64_t grains = (count + grain - 1) / grain;
  const int64_t begin = grains * thread / threads * grain;
  const int64_t end = grains * (thread + 1) / threads * grain;
  return {begin < count ? begin : count, end < count ? end : count};
}

}  // namespace llmir::kernels
