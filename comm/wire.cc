#include "comm/wire.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace llmir::comm {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffff;
constexpr uint32_t kInfinity = 0x7f800000;
constexpr uint16_t kScaleNan = 0x7fc0;
// Smaller scales would have an infinite reciprocal.
constexpr float kSmallestScale = 0x1p-120F;
// Added to a float of at most 2^22, it leaves the rounded value in the last bits of the sum.
constexpr float kRounder = 0x1.8p23F;

uint16_t NearestBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float FromBF16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// What one group is multiplied by, and what stands for that.
struct Scale {
  uint16_t bits;
  float inverse;
};

Scale ScaleOf(uint32_t largest) {
  if (largest >= kInfinity) return {kScaleNan, 0};
  const uint16_t bits = NearestBF16(std::bit_cast<float>(largest) / 127);
  const float scale = FromBF16(bits);
  if (scale < kSmallestScale) return {0, 0};
  return {bits, 1 / scale};
}

// The loops, for what instructions they are compiled. The largest magnitude is found in integers:
// that of floats is no reduction that a compiler may reorder. Where the scale is NaN, any byte will
// do.
__attribute__((always_inline)) inline void EncodeGroup(const float* in, size_t count,
                                                       std::byte* out) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, in + i, sizeof bits);
    largest = std::max(largest, bits & kMagnitude);
  }
  const Scale scale = ScaleOf(largest);
  std::memcpy(out, &scale.bits, sizeof scale.bits);
  out += sizeof scale.bits;
  for (size_t i = 0; i < count; ++i) {
    const float shifted = in[i] * scale.inverse + kRounder;
    out[i] = static_cast<std::byte>(std::bit_cast<uint32_t>(shifted));
  }
}

__attribute__((always_inline)) inline void DecodeGroup(const std::byte* in, size_t count,
                                                       float* out) {
  uint16_t bits;
  std::memcpy(&bits, in, sizeof bits);
  in += sizeof bits;
  const float scale = FromBF16(bits);
  for (size_t i = 0; i < count; ++i) {
    out[i] = static_cast<float>(static_cast<int8_t>(in[i])) * scale;
  }
}

__attribute__((always_inline)) inline void Encode(const float* in, size_t count, std::byte* out) {
  for (; count >= kWireGroup; count -= kWireGroup, in += kWireGroup, out += kWireGroupBytes) {
    EncodeGroup(in, kWireGroup, out);
  }
  if (count > 0) EncodeGroup(in, count, out);
}

__attribute__((always_inline)) inline void Decode(const std::byte* in, size_t count, float* out) {
  for (; count >= kWireGroup; count -= kWireGroup, in += kWireGroupBytes, out += kWireGroup) {
    DecodeGroup(in, kWireGroup, out);
  }
  if (count > 0) DecodeGroup(in, count, out);
}

using EncodeFunction = void (*)(const float*, size_t, std::byte*);
using DecodeFunction = void (*)(const std::byte*, size_t, float*);

void EncodePortable(const float* in, size_t count, std::byte* out) { Encode(in, count, out); }
void DecodePortable(const std::byte* in, size_t count, float* out) { Decode(in, count, out); }

#if defined(__x86_64__)
// Not with fma: a product that isn't rounded by itself would be another byte.
__attribute__((target("avx2"))) void EncodeAvx2(const float* in, size_t count, std::byte* out) {
  Encode(in, count, out);
}
__attribute__((target("avx2"))) void DecodeAvx2(const std::byte* in, size_t count, float* out) {
  Decode(in, count, out);
}
const EncodeFunction kEncode = __builtin_cpu_supports("avx2") != 0 ? EncodeAvx2 : EncodePortable;
const DecodeFunction kDecode = __builtin_cpu_supports("avx2") != 0 ? DecodeAvx2 : DecodePortable;
#else
constexpr EncodeFunction kEncode = EncodePortable;
constexpr DecodeFunction kDecode = DecodePortable;
#endif

}  // namespace

size_t WireBytes(Wire wire, size_t bytes) {
  if (wire == Wire::kFloat32) return bytes;
  const size_t count = bytes / sizeof(float);
  const size_t rest = count % kWireGroup;
  return count / kWireGroup * kWireGroupBytes + (rest > 0 ? sizeof(uint16_t) + rest : 0);
}

void EncodeInt8(const float* in, size_t count, std::byte* out) { kEncode(in, count, out); }

void DecodeInt8(const std::byte* in, size_t count, float* out) { kDecode(in, count, out); }

void RoundInt8(float* data, size_t count) {
  std::byte group[kWireGroupBytes];
  for (size_t begin = 0; begin < count; begin += kWireGroup) {
    const size_t part = std::min(kWireGroup, count - begin);
    EncodeInt8(data + begin, part, group);
    DecodeInt8(group, part, data + begin);
  }
}

}  // namespace llmir::comm
