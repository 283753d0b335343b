// Guesses how ids go on: as they did after the last place where the same three stood.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace llmir::executor {

class NgramIndex {
 public:
  // For at most `tokens` ids. Without this call there are no guesses, and no memory is taken.
  void Reserve(int32_t tokens);
  // Appends up to `most` ids that followed the last occurrence of the last three of `ids` to
  // `guess`. `ids` may only have grown since the last call.
  void Guess(std::span<const int32_t> ids, int32_t most, std::vector<int32_t>* guess);

 private:
  static constexpr int32_t kLength = 3;
  size_t SlotOf(const int32_t* ngram) const;

  std::vector<int32_t> after_;  // by hash: where the last such three ended; 0: nowhere
  int32_t indexed_ = 0;         // ids whose threes, but for the last one, are there
};

}  // namespace llmir::executor
