#include "plan_schema/cost/cluster.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>

namespace llmir::plan {
namespace {

// A wrong file. Inside of this file only.
struct Wrong {
  int line;  // from 0; -1: unknown
  std::string message;
};

// One mapping, whose keys are taken; what is left in the end is an error.
class Keys {
 public:
  Keys(const YAML::Node& node, std::string path) : node_(node), path_(std::move(path)) {
    if (!node.IsMap()) throw Wrong{node.Mark().line, Of("") + ": expected keys with values"};
  }

  bool Has(const char* key) {
    known_.insert(key);
    return static_cast<bool>(node_[key]);
  }
  std::string Text(const char* key) {
    const YAML::Node value = Get(key);
    if (!value.IsScalar()) throw Wrong{value.Mark().line, Of(key) + ": expected a text"};
    return value.Scalar();
  }
  double Number(const char* key, double least, double most, const char* unit) {
    const YAML::Node value = Get(key);
    double number = std::numeric_limits<double>::quiet_NaN();
    if (value.IsScalar()) YAML::convert<double>::decode(value, number);
    if (!(number >= least && number <= most)) {
      throw Wrong{value.Mark().line,
                  fmt::format("{}: {}, expected a number from {:g} to {:g}{}{}", Of(key),
                              value.IsScalar() ? value.Scalar() : "not a number", least, most,
                              *unit == '\0' ? "" : " ", unit)};
    }
    return number;
  }
  int Count(const char* key, int most) {
    const double number = Number(key, 1, most, "");
    if (number != std::floor(number)) {
      throw Wrong{Get(key).Mark().line,
                  fmt::format("{}: {:g}, expected a whole number", Of(key), number)};
    }
    return static_cast<int>(number);
  }
  Keys Map(const char* key) { return Keys(Get(key), Of(key)); }
  YAML::Node Get(const char* key) {
    known_.insert(key);
    const YAML::Node value = node_[key];
    if (!value) throw Wrong{node_.Mark().line, Of(key) + ": missing"};
    return value;
  }
  void Finish() const {
    for (const auto& entry : node_) {
      const std::string key = entry.first.Scalar();
      if (known_.contains(key)) continue;
      std::string expected;
      for (const std::string& name : known_) expected += (expected.empty() ? "" : ", ") + name;
      throw Wrong{entry.first.Mark().line,
                  fmt::format("{}: unknown key, expected one of {}", Of(key), expected)};
    }
  }

 private:
  std::string Of(const std::string& key) const {
    return path_.empty() ? key : key.empty() ? path_ : path_ + "." + key;
  }
  YAML::Node node_;
  std::string path_;
  std::set<std::string> known_;
};

constexpr double kGiga = 1e9;

LinkSpeed ReadLink(Keys keys) {
  LinkSpeed link;
  link.latency_us = keys.Number("latency_us", 0, 1e6, "us");
  if (keys.Has("start_us")) link.start_us = keys.Number("start_us", 0, 1e6, "us");
  link.bytes_per_s = keys.Number("gb_per_s", 1e-6, 1e6, "GB/s") * kGiga;
  keys.Finish();
  return link;
}

void ReadDevice(Keys& keys, Device* device) {
  device->memory_bytes = keys.Number("memory_gb", 1e-3, 1e6, "GB") * kGiga;
  device->read_bytes_per_s = keys.Number("read_gb_per_s", 1e-3, 1e6, "GB/s") * kGiga;
  device->flops_per_s = keys.Number("gflop_per_s", 1e-3, 1e9, "GFLOP/s") * kGiga;
  device->int8_ops_per_s = keys.Has("int8_gop_per_s")
                               ? keys.Number("int8_gop_per_s", 1e-3, 1e9, "GOP/s") * kGiga
                               : device->flops_per_s;
  if (keys.Has("launch_us")) device->launch_us = keys.Number("launch_us", 0, 1e6, "us");
}

void ReadNodes(const YAML::Node& list, Cluster* cluster) {
  constexpr int kMost = 4096;
  if (!list.IsSequence() || list.size() == 0) {
    throw Wrong{list.Mark().line, "nodes: expected a list of at least one node"};
  }
  for (size_t i = 0; i < list.size(); ++i) {
    Keys keys(list[i], fmt::format("nodes[{}]", i));
    Node node;
    node.name = keys.Text("name");
    const int count = keys.Has("count") ? keys.Count("count", kMost) : 1;
    node.cores = keys.Count("cores", kMost);
    if (keys.Has("accelerators")) {
      Keys accelerators = keys.Map("accelerators");
      node.accelerators = accelerators.Count("count", kMost);
      ReadDevice(accelerators, &node.device);
      accelerators.Finish();
    } else {
      ReadDevice(keys, &node.device);
    }
    node.link = ReadLink(keys.Map("link"));
    keys.Finish();
    const std::string name = node.name;
    for (int k = 0; k < count; ++k) {
      if (count > 1) node.name = fmt::format("{}{}", name, k);
      cluster->nodes.push_back(node);
    }
  }
}

}  // namespace

int Cluster::places() const {
  int sum = 0;
  for (const Node& node : nodes) sum += node.places();
  return sum;
}

StatusOr<Cluster> ReadCluster(const std::string& path) {
  Cluster cluster;
  cluster.file = std::filesystem::path(path).filename();
  try {
    Keys keys(YAML::LoadFile(path), "");
    cluster.name = keys.Text("name");
    ReadNodes(keys.Get("nodes"), &cluster);
    if (keys.Has("network")) {
      cluster.network = ReadLink(keys.Map("network"));
    } else if (cluster.nodes.size() > 1) {
      throw Wrong{-1, fmt::format("network: missing, expected the link between its {} nodes",
                                  cluster.nodes.size())};
    }
    keys.Finish();
  } catch (const Wrong& wrong) {
    if (wrong.line < 0) return InvalidArgument("{}: {}", path, wrong.message);
    return InvalidArgument("{}: line {}: {}", path, wrong.line + 1, wrong.message);
  } catch (const YAML::BadFile&) {
    return NotFound("{}: cannot be read; configs/clusters has examples", path);
  } catch (const YAML::Exception& error) {
    return InvalidArgument("{}: line {}: {}", path, error.mark.line + 1, error.msg);
  }
  return cluster;
}

std::vector<int> PlaceRanks(const Cluster& cluster, int ranks) {
  const int nodes = static_cast<int>(cluster.nodes.size());
  std::vector<int> on(static_cast<size_t>(nodes), 0);
  int left = ranks;
  if (cluster.nodes[0].accelerators > 0) {
    for (int n = 0; n < nodes && left > 0; ++n) {
      on[n] = std::min(left, cluster.nodes[n].places());
      left -= on[n];
    }
  }
  // The next rank goes where most cores are there for each, to the emptier of two alike.
  for (; left > 0; --left) {
    const auto free = [&](int n) {
      return static_cast<double>(cluster.nodes[n].places()) / (on[n] + 1);
    };
    int best = 0;
    for (int n = 1; n < nodes; ++n) {
      if (free(n) > free(best) || (free(n) == free(best) && on[n] < on[best])) best = n;
    }
    ++on[best];
  }
  std::vector<int> places;
  for (int n = 0; n < nodes; ++n) places.insert(places.end(), static_cast<size_t>(on[n]), n);
  return places;
}

}  // namespace llmir::plan
