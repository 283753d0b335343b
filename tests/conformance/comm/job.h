// The MPI job of the programs that have ranks as processes.
#pragma once

#include "comm/world.h"

namespace llmir::comm {

World& JobWorld();
// The backend that the command line asked for.
Backend JobBackend();

}  // namespace llmir::comm
