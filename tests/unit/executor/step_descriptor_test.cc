#include "executor/step_descriptor.h"

#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "comm/world.h"

namespace llmir::executor {
namespace {

constexpr StepCapacity kCapacity{600, 8, 8, 512, 40};

void Fill(StepDescriptor& d, plan::ProgramKind kind, int32_t tokens, int32_t sequences,
          int32_t sampled, int32_t blocks) {
  d.Resize(kind, tokens, sequences, sampled, blocks, 5 * sequences);
  std::iota(d.token_ids().begin(), d.token_ids().end(), 1000);
  std::iota(d.positions().begin(), d.positions().end(), 2000);
  std::iota(d.query_indptr().begin(), d.query_indptr().end(), 1);
  std::iota(d.kv_indptr().begin(), d.kv_indptr().end(), 2);
  std::iota(d.kv_tokens().begin(), d.kv_tokens().end(), 3);
  std::iota(d.kv_indices().begin(), d.kv_indices().end(), 4);
  std::iota(d.sampled_rows().begin(), d.sampled_rows().end(), 5);
  std::iota(d.sampled_positions().begin(), d.sampled_positions().end(), 6);
  for (size_t i = 0; i < d.sampling().size(); ++i)
    d.sampling()[i] = {0.5f, static_cast<int32_t>(i), 0.9f, 0.1f, 77 + i};
  for (size_t i = 0; i < d.copies().size(); ++i)
    d.copies()[i] = {static_cast<int32_t>(i), static_cast<int32_t>(900 + i)};
  if (kind == plan::ProgramKind::score) std::iota(d.targets().begin(), d.targets().end(), 9);
}

TEST(StepDescriptorTest, ArraysDoNotOverlap) {
  StepDescriptor d(kCapacity);
  Fill(d, plan::ProgramKind::score, 600, 8, 8, 512);
  EXPECT_EQ(d.token_ids().back(), 1599);
  EXPECT_EQ(d.positions().back(), 2599);
  EXPECT_EQ(d.targets().back(), 608);
  EXPECT_EQ(d.kv_indices().back(), 515);
  EXPECT_EQ(d.copies().back().to, 939);
  EXPECT_EQ(d.sampling().back().seed, 84u);
  EXPECT_EQ(d.header().tokens, 600);
}

void ExpectSame(StepDescriptor& received, StepDescriptor& sent) {
  EXPECT_EQ(received.header().bytes, sent.header().bytes);
  EXPECT_TRUE(std::ranges::equal(received.token_ids(), sent.token_ids()));
  EXPECT_TRUE(std::ranges::equal(received.kv_indices(), sent.kv_indices()));
  EXPECT_TRUE(std::ranges::equal(received.sampled_positions(), sent.sampled_positions()));
  ASSERT_EQ(received.copies().size(), sent.copies().size());
  for (size_t i = 0; i < sent.copies().size(); ++i)
    EXPECT_EQ(received.copies()[i].to, sent.copies()[i].to);
  ASSERT_EQ(received.sampling().size(), sent.sampling().size());
  for (size_t i = 0; i < sent.sampling().size(); ++i)
    EXPECT_EQ(received.sampling()[i].seed, sent.sampling()[i].seed);
}

TEST(StepDescriptorTest, ShortAndLongOnesArriveWhole) {
  auto channels = comm::CreateLoopbackChannels(2, 64 << 10);
  StepDescriptor sent(kCapacity);
  StepDescriptor received(kCapacity);
  struct Shape {
    int32_t tokens, sequences, sampled, blocks;
  };
  for (const Shape& shape :
       {Shape{1, 1, 1, 1}, Shape{600, 8, 8, 512}, Shape{0, 0, 0, 0}, Shape{40, 3, 2, 100}}) {
    Fill(sent, plan::ProgramKind::mixed, shape.tokens, shape.sequences, shape.sampled,
         shape.blocks);
    Status status;
    // To all ranks, and to one.
    for (const bool all : {true, false}) {
      received.header().bytes = 0;
      std::thread other([&] {
        status = all ? received.Broadcast(*channels[1]) : received.Receive(*channels[1], 0, 7);
      });
      if (all) {
        EXPECT_TRUE(sent.Broadcast(*channels[0]).ok());
      } else {
        std::vector<comm::Request> requests;
        EXPECT_TRUE(sent.StartSend(*channels[0], 1, 7, &requests).ok());
        for (const comm::Request request : requests) {
          EXPECT_TRUE(channels[0]->Wait(request).ok());
        }
      }
      other.join();
      ASSERT_TRUE(status.ok()) << status.ToString();
      ExpectSame(received, sent);
    }
  }
}

}  // namespace
}  // namespace llmir::executor
