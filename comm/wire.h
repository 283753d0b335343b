// The forms in which floats travel between hosts.
//
// kInt8: groups of 32 values, the last one of what is left. A group is its scale as bf16 and then a
// byte per value: 34 bytes in place of 128. The scale is the largest magnitude over 127, rounded to
// bf16, so that a value errs by kInt8WireError of that magnitude at most, and values that have been
// encoded once are kept as they are by encoding them again in the same groups: on their way over
// several ranks they don't change, and whoever sent them can keep what the others got. A group with
// an infinity or NaN is all NaN; one below 1e-34 is all zero.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmir::comm {

enum class Wire : uint8_t { kFloat32, kInt8 };

inline constexpr size_t kWireGroup = 32;
inline constexpr size_t kWireGroupBytes = sizeof(uint16_t) + kWireGroup;
// Half a step of the scale; the scale itself is up to 2^-9 of it too large.
inline constexpr double kInt8WireError = 0.5 / 127 * (1 + 1.0 / 256);

// The bytes on the wire of `bytes` bytes of floats (never more).
size_t WireBytes(Wire wire, size_t bytes);

// `count` floats as WireBytes(kInt8, 4 * count) bytes, and back. No alignment is asked for.
void EncodeInt8(const float* in, size_t count, std::byte* out);
void DecodeInt8(const std::byte* in, size_t count, float* out);
// Both: the values that a receiver gets, in place.
void RoundInt8(float* data, size_t count);

}  // namespace llmir::comm
