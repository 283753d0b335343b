// Where the ranks of the conformance suite come from: threads over the loopback backend, or the
// processes of an MPI job over the backend that the command line names. The suite itself doesn't
// know.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "comm/channel.h"

namespace llmir::comm {

// The group sizes that this program can run.
std::vector<int> GroupSizes();

// What one rank does with its ends of the channels.
using RankBody = std::function<void(std::span<const std::unique_ptr<Channel>> channels)>;

// Runs `body` on each of `size` ranks, with `channels` channels among them; returns when all have
// returned.
void OnEachRank(int size, size_t max_bytes, int channels, const RankBody& body);

}  // namespace llmir::comm
