// The cores that a rank may run on.
#pragma once

namespace llmir::executor {

// mpirun binds each rank of a job of one or two ranks to a single core unless told otherwise, and a
// rank's threads would share it. Takes that default binding away; one that the user asked for
// (mpirun --bind-to, taskset, a cgroup) stays. Call before any thread is started.
void ReleaseDefaultBinding();

// How many cores this process may run on.
int AllowedCores();

// The cores that this process may use, divided by its ranks on the host; at least 1.
int DefaultThreads(int ranks_on_host);

}  // namespace llmir::executor
