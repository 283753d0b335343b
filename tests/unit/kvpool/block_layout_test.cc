#include "kvpool/block_layout.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace llmir::kvpool {
namespace {

constexpr int64_t kHeadBytes = 24;

// A block of which each byte says where in the model it belongs.
std::vector<uint8_t> Block(const BlockLayout& layout, uint8_t salt) {
  std::vector<uint8_t> bytes;
  for (int32_t layer = 0; layer < layout.layers; ++layer) {
    for (int32_t head = 0; head < layout.kv_heads; ++head) {
      for (int64_t i = 0; i < layout.head_bytes; ++i) {
        bytes.push_back(static_cast<uint8_t>(salt + 131 * (layout.first_layer + layer) +
                                             29 * (layout.first_kv_head + head) + 7 * i));
      }
    }
  }
  return bytes;
}

// The ranks of a replica: layers cut into `stages`, heads of each into `ranks`, both unevenly;
// where there are more ranks than heads, neighbours have the same one.
std::vector<BlockLayout> Replica(int32_t layers, int32_t heads, int32_t stages, int32_t ranks,
                                 std::mt19937& random) {
  const auto cuts = [&](int32_t total, int32_t parts) {
    std::vector<int32_t> at{0};
    for (int32_t i = 1; i < parts; ++i) {
      const int32_t left = total - at.back() - (parts - i);
      at.push_back(at.back() + 1 + static_cast<int32_t>(random() % static_cast<uint32_t>(left)));
    }
    at.push_back(total);
    return at;
  };
  std::vector<BlockLayout> layouts;
  const std::vector<int32_t> stage_at = cuts(layers, stages);
  for (int32_t s = 0; s < stages; ++s) {
    const int32_t first = stage_at[static_cast<size_t>(s)];
    const int32_t count = stage_at[static_cast<size_t>(s) + 1] - first;
    if (ranks > heads) {
      for (int32_t r = 0; r < ranks; ++r) {
        layouts.push_back({first, count, r * heads / ranks, 1, kHeadBytes});
      }
      continue;
    }
    const std::vector<int32_t> head_at = cuts(heads, ranks);
    for (int32_t r = 0; r < ranks; ++r) {
      const int32_t begin = head_at[static_cast<size_t>(r)];
      layouts.push_back(
          {first, count, begin, head_at[static_cast<size_t>(r) + 1] - begin, kHeadBytes});
    }
  }
  return layouts;
}

TEST(BlockLayout, EqualBlocksMoveInOnePiece) {
  const BlockLayout layout{3, 5, 2, 4, kHeadBytes};
  const auto pieces = DivideBlock(std::span(&layout, 1), layout);
  ASSERT_TRUE(pieces.ok()) << pieces.status().ToString();
  ASSERT_EQ((*pieces)[0].size(), 1u);
  EXPECT_EQ((*pieces)[0][0], (BlockPiece{0, 0, layout.slices()}));
}

TEST(BlockLayout, ARankThatHasAHeadLessTakesAPieceOfEachLayer) {
  const BlockLayout owner{0, 4, 0, 3, kHeadBytes};
  const BlockLayout taker{1, 2, 1, 2, kHeadBytes};
  const auto pieces = DivideBlock(std::span(&owner, 1), taker);
  ASSERT_TRUE(pieces.ok()) << pieces.status().ToString();
  EXPECT_EQ((*pieces)[0],
            (std::vector<BlockPiece>{{2 * (1 * 3 + 1), 0, 4}, {2 * (2 * 3 + 1), 4, 4}}));
}

TEST(BlockLayout, AHeadThatSeveralHaveComesFromTheFirst) {
  const std::vector<BlockLayout> owners{
      {0, 2, 0, 1, kHeadBytes}, {0, 2, 0, 1, kHeadBytes}, {0, 2, 1, 1, kHeadBytes}};
  const auto pieces = DivideBlock(owners, {0, 2, 0, 2, kHeadBytes});
  ASSERT_TRUE(pieces.ok()) << pieces.status().ToString();
  EXPECT_FALSE((*pieces)[0].empty());
  EXPECT_TRUE((*pieces)[1].empty());
  EXPECT_FALSE((*pieces)[2].empty());
}

TEST(BlockLayout, WhatNobodyHasIsNamed) {
  const BlockLayout owner{0, 2, 0, 1, kHeadBytes};
  const auto missing = DivideBlock(std::span(&owner, 1), {0, 2, 0, 2, kHeadBytes});
  EXPECT_EQ(missing.status().ToString(), "NOT_FOUND: no rank has KV head 1 of layer 0");
  const auto unlike = DivideBlock(std::span(&owner, 1), {0, 2, 0, 1, 2 * kHeadBytes});
  EXPECT_EQ(unlike.status().code(), StatusCode::kIncompatible);
}

TEST(BlockLayout, AnyCutFillsAnyOtherOne) {
  std::mt19937 random(1);
  const auto between = [&](int32_t low, int32_t high) {
    return low + static_cast<int32_t>(random() % static_cast<uint32_t>(high - low + 1));
  };
  for (int i = 0; i < 500; ++i) {
    const int32_t layers = between(1, 8);
    const int32_t heads = between(1, 6);
    const auto owners =
        Replica(layers, heads, between(1, std::min(layers, 3)), between(1, 8), random);
    const auto takers =
        Replica(layers, heads, between(1, std::min(layers, 3)), between(1, 8), random);
    for (const BlockLayout& taker : takers) {
      const auto pieces = DivideBlock(owners, taker);
      ASSERT_TRUE(pieces.ok()) << pieces.status().ToString();
      const auto slice_bytes = static_cast<size_t>(taker.slice_bytes());
      std::vector<uint8_t> block(static_cast<size_t>(taker.slices()) * slice_bytes, 0xee);
      size_t written = 0;
      for (size_t owner = 0; owner < owners.size(); ++owner) {
        const std::vector<uint8_t> source = Block(owners[owner], static_cast<uint8_t>(i));
        for (const BlockPiece& piece : (*pieces)[owner]) {
          ASSERT_LE(piece.from + piece.slices, owners[owner].slices());
          ASSERT_LE(piece.to + piece.slices, taker.slices());
          const size_t bytes = static_cast<size_t>(piece.slices) * slice_bytes;
          std::memcpy(block.data() + static_cast<size_t>(piece.to) * slice_bytes,
                      source.data() + static_cast<size_t>(piece.from) * slice_bytes, bytes);
          written += bytes;
        }
      }
      ASSERT_EQ(written, block.size()) << "each byte once";
      ASSERT_EQ(block, Block(taker, static_cast<uint8_t>(i)));
    }
  }
}

}  // namespace
}  // namespace llmir::kvpool
