// A channel over which nothing goes: every operation ends as soon as it has started, and results
// stay what they were. For measuring what ranks compute without what they exchange.
#pragma once

#include <cstddef>
#include <memory>

#include "comm/channel.h"

namespace llmir::comm {

// One rank's end of a group of `size`; no other rank is asked.
std::unique_ptr<Channel> CreateSilentChannel(int rank, int size);

}  // namespace llmir::comm
