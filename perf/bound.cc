// llmir-bound: measures what this machine can give, and prints it as JSON: bytes read per second
// (best of 1, 2, 4, 8 streams a thread, with and without huge pages), fp32, bf16 and int8
// operations per second.
#include <sched.h>
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "perf/bound_loops.h"

namespace llmir::perf {
namespace {

using nlohmann::json;

const BoundLoops& ChooseLoops() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
    return avx512::kLoops;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::kLoops;
  return portable::kLoops;
}

std::vector<int> AllowedCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof(set), &set);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

// Seconds that `body(thread)` takes on `threads` threads that start together, each on a CPU of its
// own.
double Time(const std::vector<int>& cpus, int threads, const std::function<void(int)>& body) {
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(cpus[t % cpus.size()], &set);
      sched_setaffinity(0, sizeof(set), &set);
      ++ready;
      while (!go) std::this_thread::yield();
      body(t);
    });
  }
  while (ready < threads) std::this_thread::yield();
  const auto begin = std::chrono::steady_clock::now();
  go = true;
  for (std::thread& thread : pool) thread.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

json Summary(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {{"median", values[values.size() / 2]}, {"min", values.front()}, {"max", values.back()}};
}

class Buffer {
 public:
  Buffer(size_t bytes, bool huge_pages) : mapped_(bytes + kHugePage) {
    address_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address_ == MAP_FAILED) return;
    madvise(address_, mapped_, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    const auto at = reinterpret_cast<uintptr_t>(address_);
    data_ = reinterpret_cast<char*>((at + kHugePage - 1) / kHugePage * kHugePage);
    // Pages that were never written share one page of zeros and would be read from the cache.
    for (size_t i = 0; i < bytes; i += 4096) data_[i] = static_cast<char>(i >> 12 | 1);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (data_ != nullptr) munmap(address_, mapped_);
  }
  const char* data() const { return data_; }

 private:
  static constexpr size_t kHugePage = size_t{2} << 20;
  size_t mapped_;
  void* address_;
  char* data_ = nullptr;
};

int Main(int argc, char** argv) {
  CLI::App app(
      "Measures what this machine can give: GB/s read from memory, fp32, bf16 and int8 operations "
      "per second. Prints JSON.");
  const std::vector<int> cpus = AllowedCpus();
  int threads = static_cast<int>(cpus.size());
  int mebibytes = 512;
  int repeats = 5;
  app.add_option("--threads", threads, "Threads, one per core")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--mib", mebibytes, "Memory read in all, MiB; several times the last-level cache")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--repeats", repeats, "Measurements of each kind")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const BoundLoops& loops = ChooseLoops();
  std::vector<uint64_t> sinks(threads);
  // A multiple of a line for each of 8 streams.
  const size_t bytes = (static_cast<size_t>(mebibytes) << 20) / threads / 512 * 512;
  json reads = json::array();
  json best = nullptr;
  for (const bool huge_pages : {false, true}) {
    std::vector<std::unique_ptr<Buffer>> buffers;
    for (int t = 0; t < threads; ++t) {
      buffers.push_back(std::make_unique<Buffer>(bytes, huge_pages));
      if (buffers.back()->data() == nullptr) {
        std::fprintf(
            stderr, "llmir-bound: error: %zu bytes cannot be mapped; try a smaller --mib than %d\n",
            bytes, mebibytes);
        return 1;
      }
    }
    for (const int streams : {1, 2, 4, 8}) {
      std::vector<double> rates;
      for (int r = 0; r < repeats; ++r) {
        const double seconds = Time(cpus, threads, [&](int t) {
          sinks[t] ^= loops.read(buffers[t]->data(), bytes, streams);
        });
        rates.push_back(static_cast<double>(bytes) * threads / seconds / 1e9);
      }
      json read = Summary(rates);
      read["streams"] = streams;
      read["huge_pages"] = huge_pages;
      reads.push_back(read);
      if (best.is_null() || read["median"] > best["median"]) best = read;
    }
  }

  // About a tenth of a second each on a core of today.
  constexpr int64_t kIterations = 20'000'000;
  const auto rate = [&]<typename Sink>(double (*loop)(int64_t, Sink*)) {
    std::vector<double> done(threads);
    const double seconds = Time(cpus, threads, [&](int t) {
      Sink sink = 0;
      done[t] = loop(kIterations, &sink);
      sinks[t] += static_cast<uint64_t>(sink);
    });
    return done[0] * threads / seconds / 1e9;
  };
  std::vector<double> flops, bf16_flops, ops;
  for (int r = 0; r < repeats; ++r) {
    flops.push_back(rate(loops.multiply_add));
    bf16_flops.push_back(rate(loops.bf16_dot));
    ops.push_back(rate(loops.int8_dot));
  }

  uint64_t checksum = 0;
  for (const uint64_t sink : sinks) checksum ^= sink;
  const json result = {{"isa", loops.family},
                       {"threads", threads},
                       {"mib", mebibytes},
                       {"repeats", repeats},
                       {"read_gb_per_s", best},
                       {"reads", reads},
                       {"fp32_gflop_per_s", Summary(flops)},
                       {"bf16_gflop_per_s", Summary(bf16_flops)},
                       {"int8_gop_per_s", Summary(ops)},
                       {"checksum", checksum}};
  std::printf("%s\n", result.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace llmir::perf

int main(int argc, char** argv) { return llmir::perf::Main(argc, argv); }
