// The project's one 64-bit content hash (XXH3, from Debian's libxxhash): plan files, checkpoint
// headers, weight leaves and tokenizers are identified by it. It guards against damage and mix-ups,
// not against an adversary.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace llmir {

inline uint64_t Hash64(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}
// Another function for each seed: a chain of hashes seeds each with the one before it.
inline uint64_t Hash64(std::span<const std::byte> bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}
inline uint64_t Hash64(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

// The hash of several spans as if they were one: Add(a); Add(b); Finish() == Hash64(a + b).
class Hasher64 {
 public:
  Hasher64() { XXH3_64bits_reset(&state_); }
  void Add(const void* data, size_t bytes) { XXH3_64bits_update(&state_, data, bytes); }
  void Add(std::span<const std::byte> bytes) { Add(bytes.data(), bytes.size()); }
  void Add(std::string_view text) { Add(text.data(), text.size()); }
  template <typename T>
    requires std::is_arithmetic_v<T>
  void AddValue(T value) {
    Add(&value, sizeof value);
  }
  uint64_t Finish() const { return XXH3_64bits_digest(&state_); }

 private:
  XXH3_state_t state_;
};

}  // namespace llmir
