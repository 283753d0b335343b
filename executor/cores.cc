#include "executor/cores.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace llmir::executor {

void ReleaseDefaultBinding() {
  // Open MPI hands a binding policy that was asked for to its ranks in this variable, and sets none
  // for its default.
  const bool by_mpirun = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE") != nullptr;
  const bool asked_for = std::getenv("OMPI_MCA_hwloc_base_binding_policy") != nullptr;
  if (!by_mpirun || asked_for) return;
  cpu_set_t all;
  std::memset(&all, 0xff, sizeof all);
  // The kernel takes only the cores of this process's cpuset.
  sched_setaffinity(0, sizeof all, &all);
}

int AllowedCores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
}

int DefaultThreads(int ranks_on_host) {
  return std::max(1, AllowedCores() / std::max(1, ranks_on_host));
}

bool PinThreads(kernels::WorkerPool& pool, int local_rank, int local_size, int cores) {
  // Some schedulers pack two spinning threads on one core for milliseconds; a barrier then costs 10
  // us instead of 0.3.
  if (pool.threads() * local_size != cores) return false;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return false;
  std::vector<int> list;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) list.push_back(core);
  }
  std::atomic<bool> all{true};
  pool.Run([&](int thread) {
    const size_t index = static_cast<size_t>(local_rank * pool.threads() + thread);
    cpu_set_t one;
    CPU_ZERO(&one);
    if (index < list.size()) CPU_SET(list[index], &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0) all = false;
  });
  return all;
}

KeptCores::KeptCores() {
  CPU_ZERO(&cores_);
  sched_getaffinity(0, sizeof cores_, &cores_);
}
KeptCores::~KeptCores() { sched_setaffinity(0, sizeof cores_, &cores_); }

std::string ProcessorName() {
  std::FILE* file = std::fopen("/proc/cpuinfo", "re");
  if (file == nullptr) return "unknown";
  char line[512];
  std::string name = "unknown";
  while (std::fgets(line, sizeof line, file) != nullptr) {
    const std::string_view text = line;
    const size_t colon = text.find(": ");
    if (text.substr(0, 10) != "model name" || colon == text.npos) continue;
    name = text.substr(colon + 2, text.find('\n') - colon - 2);
    break;
  }
  std::fclose(file);
  return name;
}

}  // namespace llmir::executor
