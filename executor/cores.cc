#include "executor/cores.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

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

}  // namespace llmir::executor
