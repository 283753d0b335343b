// Cluster files: what they say, what is refused, and where ranks go.
#include "plan_schema/cost/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/unit/plan_schema/checkpoint/test_files.h"

namespace llmir::plan {
namespace {

using checkpoint::TemporaryFolder;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kFile = R"(name: two
nodes:
  - name: big
    count: 2
    cores: 4
    memory_gb: 8
    read_gb_per_s: 20
    gflop_per_s: 100
    int8_gop_per_s: 300
    link: {latency_us: 0.5, gb_per_s: 10}
  - name: small
    cores: 2
    memory_gb: 4
    read_gb_per_s: 10
    gflop_per_s: 50
    link: {latency_us: 0.5, gb_per_s: 5}
network: {latency_us: 30, start_us: 2, gb_per_s: 1.25}
)";

class ClusterTest : public testing::Test {
 protected:
  StatusOr<Cluster> Read(const std::string& text) {
    const std::string path = folder_ / "c.yaml";
    checkpoint::WriteFile(path, text);
    return ReadCluster(path);
  }
  // kFile with `before` replaced by `after`.
  std::string Refusal(const std::string& before, const std::string& after) {
    return checkpoint::RefusalOf(Read(checkpoint::Replaced(kFile, before, after)));
  }
  const TemporaryFolder folder_;
};

TEST_F(ClusterTest, EveryClusterOfTheProjectLoads) {
  int files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(LLMIR_SOURCE_DIR "/configs/clusters")) {
    const auto cluster = ReadCluster(entry.path());
    ASSERT_TRUE(cluster.ok()) << cluster.status().ToString();
    EXPECT_EQ(cluster->name + ".yaml", entry.path().filename());
    EXPECT_EQ(cluster->file, entry.path().filename());
    EXPECT_GE(cluster->places(), 1);
    ++files;
  }
  EXPECT_GE(files, 4);
}

TEST_F(ClusterTest, NodesAreReadAsListedAndCounted) {
  const auto cluster = Read(kFile);
  ASSERT_TRUE(cluster.ok()) << cluster.status().ToString();
  ASSERT_EQ(cluster->nodes.size(), 3u);
  EXPECT_EQ(cluster->nodes[1].name, "big1");
  EXPECT_EQ(cluster->nodes[1].cores, 4);
  EXPECT_DOUBLE_EQ(cluster->nodes[1].device.read_bytes_per_s, 20e9);
  EXPECT_DOUBLE_EQ(cluster->nodes[1].device.int8_ops_per_s, 300e9);
  // Without a figure of its own int8 is as fast as f32.
  EXPECT_DOUBLE_EQ(cluster->nodes[2].device.int8_ops_per_s, 50e9);
  EXPECT_DOUBLE_EQ(cluster->network.latency_us, 30);
  EXPECT_DOUBLE_EQ(cluster->network.start_us, 2);
  EXPECT_DOUBLE_EQ(cluster->network.bytes_per_s, 1.25e9);
  EXPECT_EQ(cluster->places(), 10);
}

TEST_F(ClusterTest, RanksGoToAllNodesInProportionToTheirCores) {
  const auto cluster = Read(kFile);
  ASSERT_TRUE(cluster.ok());
  EXPECT_THAT(PlaceRanks(*cluster, 1), ElementsAre(0));
  EXPECT_THAT(PlaceRanks(*cluster, 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(PlaceRanks(*cluster, 5), ElementsAre(0, 0, 1, 1, 2));
  EXPECT_THAT(PlaceRanks(*cluster, 10), ElementsAre(0, 0, 0, 0, 1, 1, 1, 1, 2, 2));
}

TEST_F(ClusterTest, AcceleratorsAreFilledNodeByNode) {
  Cluster cluster;
  cluster.nodes.resize(2);
  for (Node& node : cluster.nodes) node.accelerators = 2;
  EXPECT_THAT(PlaceRanks(cluster, 2), ElementsAre(0, 0));
  EXPECT_THAT(PlaceRanks(cluster, 3), ElementsAre(0, 0, 1));
}

TEST_F(ClusterTest, AnErrorNamesFileLineKeyAndWhatWasExpected) {
  EXPECT_THAT(Refusal("cores: 4", "cores: -4"),
              AllOf(HasSubstr("c.yaml: line 5: nodes[0].cores: -4"), HasSubstr("expected")));
  EXPECT_THAT(Refusal("cores: 2", "cores: 2.5"),
              AllOf(HasSubstr("line 12: nodes[1].cores: 2.5"), HasSubstr("whole number")));
  EXPECT_THAT(Refusal("read_gb_per_s: 10", "read_gb_per_s: fast"),
              AllOf(HasSubstr("line 14: nodes[1].read_gb_per_s: fast"), HasSubstr("GB/s")));
  EXPECT_THAT(Refusal("    memory_gb: 8\n", ""), HasSubstr("nodes[0].memory_gb: missing"));
  EXPECT_THAT(Refusal("memory_gb: 8", "memory_gb: 8\n    colour: red"),
              AllOf(HasSubstr("line 7: nodes[0].colour: unknown key"), HasSubstr("memory_gb")));
  EXPECT_THAT(Refusal("latency_us: 30, ", ""), HasSubstr("network.latency_us: missing"));
  EXPECT_THAT(Refusal("network: {latency_us: 30, start_us: 2, gb_per_s: 1.25}\n", ""),
              HasSubstr("the link between its 3 nodes"));
  EXPECT_THAT(Refusal("nodes:\n  - name: big", "nodes: 3\nx:\n  - name: big"),
              HasSubstr("line 2: nodes: expected a list"));
  EXPECT_THAT(Refusal("name: two", "name: [two"), HasSubstr("c.yaml: line "));
  EXPECT_THAT(ReadCluster(folder_ / "none.yaml").status().message(),
              AllOf(HasSubstr("none.yaml"), HasSubstr("configs/clusters has examples")));
}

}  // namespace
}  // namespace llmir::plan
