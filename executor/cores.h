// The cores that a rank may run on.
#pragma once

#include <sched.h>

#include <string>

#include "kernels/worker_pool.h"

namespace llmir::executor {

// mpirun binds each rank of a job of one or two ranks to a single core unless told otherwise, and a
// rank's threads would share it. Takes that default binding away; one that the user asked for
// (mpirun --bind-to, taskset, a cgroup) stays. Call before any thread is started.
void ReleaseDefaultBinding();

// How many cores this process may run on. Ask before PinThreads.
int AllowedCores();

// Gives each thread of the rank's pool a core of its own where the host's ranks and their threads
// fill its `cores` allowed cores exactly; `local_rank` chooses which. Otherwise other jobs may be
// meant to run beside this one, and placing threads is left to the system. Returns whether it did.
bool PinThreads(kernels::WorkerPool& pool, int local_rank, int local_size, int cores);

// Gives this thread back the cores that it had when the object was made: pools pin the thread that
// made them, and later ones would have no core but that.
class KeptCores {
 public:
  KeptCores();
  ~KeptCores();
  KeptCores(const KeptCores&) = delete;
  KeptCores& operator=(const KeptCores&) = delete;

 private:
  cpu_set_t cores_;
};

// The cores that this process may use, divided by its ranks on the host; at least 1.
int DefaultThreads(int ranks_on_host);

// The processor as the system names it, or "unknown".
std::string ProcessorName();

}  // namespace llmir::executor
