// What messages cost: among the threads of this process as ranks of one host, by shared memory, and
// among the ranks of the job, by what their channels use.
#pragma once

#include <atomic>
#include <nlohmann/json.hpp>

#include "comm/channel.h"
#include "plan_schema/base/status.h"

namespace llmir::executor {

// Times collectives and messages of a few sizes on `channel`; called by all its ranks at once. A
// list of {operation, sizes: [{bytes, us}]}; `bytes` are those that one rank brings (a gather, a
// reduce_scatter, an all_gather: all ranks' together). Each time is the best of a few turns' means.
StatusOr<nlohmann::ordered_json> MeasureChannel(comm::Channel& channel,
                                                const std::atomic<bool>& cancelled);

// The same for 2 to `cores` ranks of this host, as threads on a core each: a list of {channel,
// ranks, hosts, operations}. Of `cores` < 2 an empty one.
StatusOr<nlohmann::ordered_json> MeasureHostLinks(int cores, const std::atomic<bool>& cancelled);

}  // namespace llmir::executor
