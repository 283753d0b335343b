// Hardware that a plan may run on, as a file in configs/clusters says it: nodes, cores or
// accelerators, memory and links.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan_schema/base/status.h"

namespace llmir::plan {

struct LinkSpeed {
  double latency_us = 0;   // of a hop
  double start_us = 0;     // of an operation, whatever its hops
  double bytes_per_s = 0;  // one direction
};

// What computes: all cores of a node together, or one accelerator.
struct Device {
  double memory_bytes = 0;
  double read_bytes_per_s = 0;
  double flops_per_s = 0;     // matrices of f32, f16 and bf16
  double int8_ops_per_s = 0;  // matrices of q types
  double launch_us = 0;       // before each step
};

struct Node {
  std::string name;
  int cores = 1;
  int accelerators = 0;  // 0: ranks compute on the cores and share memory and its bandwidth
  Device device;
  LinkSpeed link;  // among the ranks of the node

  // Ranks that do not disturb each other.
  int places() const { return accelerators > 0 ? accelerators : cores; }
};

struct Cluster {
  std::string file;  // without its folder
  std::string name;
  std::vector<Node> nodes;
  LinkSpeed network;  // from each node to each other; of one node: unused

  int places() const;
};

// Reads a cluster file. An error names the file, the line, the key, what it is and what was
// expected.
StatusOr<Cluster> ReadCluster(const std::string& path);

// Which node each of `ranks` ranks runs on: contiguous runs of ranks, in the order of the nodes. On
// cores, ranks go to as many nodes as there are, in proportion to their cores; accelerators are
// filled node by node. What is beyond the places goes round.
std::vector<int> PlaceRanks(const Cluster& cluster, int ranks);

}  // namespace llmir::plan
