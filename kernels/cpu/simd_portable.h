// Sixteen float lanes in plain C++: the reference for the SIMD families of simd_avx2.h and
// simd_avx512.h.
//
// All three have the same functions with the same roundings, so that a kernel written once as a
// template over the family gives the same bits on each. Every function is a member of its family's
// type or a template over it: a file compiled with AVX-512 flags must not hand the linker a
// function that the portable family then calls.
#pragma once

#include <cstdint>
#include <cstring>

#define LLMIR_INLINE inline __attribute__((always_inline))
// Loops over a constant number of lanes hold nothing to sanitize, and checking each lane would take
// minutes to compile.
#define LLMIR_LANES static __attribute__((no_sanitize("undefined")))

namespace llmir::kernels {

struct SimdPortable {
  static constexpr int kRegisters = 4;  // vectors of 16 lanes that a kernel may keep at once
  struct F {
    float v[16];
  };
  struct I {
    int32_t v[16];
  };
  using Mask = uint32_t;  // bit i: lane i

  LLMIR_LANES F Zero() { return Set(0.0f); }
  LLMIR_LANES F Set(float x) {
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = x;
    return r;
  }
  LLMIR_LANES F Load(const float* p) {
    F r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
  }
  // The first `count` <= 16 lanes; the others are 0 and their memory isn't touched.
  LLMIR_LANES F LoadPartial(const float* p, int64_t count) {
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = i < count ? p[i] : 0.0f;
    return r;
  }
  LLMIR_LANES void Store(float* p, F a) { std::memcpy(p, a.v, sizeof a.v); }
  LLMIR_LANES void StorePartial(float* p, int64_t count, F a) {
    for (int i = 0; i < count; ++i) p[i] = a.v[i];
  }
  // 16 bfloat16 values.
  LLMIR_LANES F LoadBF16(const uint16_t* p) { return LoadBF16Partial(p, 16); }
  // 16 bfloat16 in whatever order of lanes takes least, and from that order and into it.
  LLMIR_LANES F LoadBF16Pairs(const uint16_t* p) { return LoadBF16(p); }
  LLMIR_LANES F FromPairs(F a) { return a; }
  LLMIR_LANES F ToPairs(F a) { return a; }
  LLMIR_LANES F LoadBF16Partial(const uint16_t* p, int64_t count) {
    F r;
    for (int i = 0; i < 16; ++i) {
      const uint32_t bits = i < count ? static_cast<uint32_t>(p[i]) << 16 : 0;
      std::memcpy(&r.v[i], &bits, 4);
    }
    return r;
  }

  // Rounds to bfloat16, to nearest even with NaN kept, and stores that; returns it as floats.
  LLMIR_LANES F RoundStoreBF16(uint16_t* p, F a) {
    for (int i = 0; i < 16; ++i) {
      uint32_t bits;
      std::memcpy(&bits, &a.v[i], 4);
      const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
      bits = nan ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
      p[i] = static_cast<uint16_t>(bits);
      bits <<= 16;
      std::memcpy(&a.v[i], &bits, 4);
    }
    return a;
  }
  // The same without storing.
  LLMIR_LANES F RoundBF16(F a) {
    uint16_t stored[16];
    return RoundStoreBF16(stored, a);
  }
  // Lane `i` in all lanes.
  template <int i>
  LLMIR_LANES F Broadcast(F a) {
    return Set(a.v[i]);
  }
  // Stores lane `i`, or its upper half: the bfloat16 of a rounded value.
  template <int i>
  LLMIR_LANES void StoreLane(float* p, F a) {
    *p = a.v[i];
  }
  template <int i>
  LLMIR_LANES void StoreLane(uint16_t* p, F a) {
    uint32_t bits;
    std::memcpy(&bits, &a.v[i], 4);
    *p = static_cast<uint16_t>(bits >> 16);
  }
  // 16 int8 values.
  LLMIR_LANES F LoadI8(const int8_t* p) {
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = p[i];
    return r;
  }
  // 16 OCP FP8 E4M3 values.
  LLMIR_LANES F LoadF8(const uint8_t* p) {
    F r;
    for (int i = 0; i < 16; ++i) {
      const uint32_t magnitude = p[i] & 0x7fu;
      uint32_t bits = (magnitude << 20) + (120u << 23);
      if (magnitude == 0x7f) bits = 0x7fffe000u;
      std::memcpy(&r.v[i], &bits, 4);
      if (magnitude < 8) r.v[i] = static_cast<float>(magnitude) * 0x1p-9f;
      if (p[i] & 0x80) r.v[i] = -r.v[i];
    }
    return r;
  }

  LLMIR_LANES F Add(F a, F b) {
    for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] + b.v[i];
    return a;
  }
  LLMIR_LANES F Sub(F a, F b) {
    for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] - b.v[i];
    return a;
  }
  LLMIR_LANES F Mul(F a, F b) {
    for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] * b.v[i];
    return a;
  }
  LLMIR_LANES F Div(F a, F b) {
    for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] / b.v[i];
    return a;
  }
  // a * b + c with one rounding.
  LLMIR_LANES F Fma(F a, F b, F c) {
    for (int i = 0; i < 16; ++i) a.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return a;
  }
  // c - a * b with one rounding.
  LLMIR_LANES F NegFma(F a, F b, F c) {
    for (int i = 0; i < 16; ++i) a.v[i] = __builtin_fmaf(-a.v[i], b.v[i], c.v[i]);
    return a;
  }
  // a > b ? a : b; so b where either is NaN.
  LLMIR_LANES F Max(F a, F b) {
    for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
  }
  LLMIR_LANES Mask Less(F a, F b) {
    Mask m = 0;
    for (int i = 0; i < 16; ++i) m |= static_cast<Mask>(a.v[i] < b.v[i]) << i;
    return m;
  }
  LLMIR_LANES F Select(Mask m, F yes, F no) {
    for (int i = 0; i < 16; ++i) no.v[i] = (m >> i & 1) ? yes.v[i] : no.v[i];
    return no;
  }
  LLMIR_LANES Mask FirstLanes(int64_t count) { return count >= 16 ? 0xffffu : (1u << count) - 1; }
  LLMIR_LANES uint32_t EqualBits(F a, F b) {
    uint32_t m = 0;
    for (int i = 0; i < 16; ++i) m |= static_cast<uint32_t>(a.v[i] == b.v[i]) << i;
    return m;
  }

  LLMIR_LANES I Bits(F a) {
    I r;
    std::memcpy(r.v, a.v, sizeof r.v);
    return r;
  }
  // The bits of a plus `exponent` << 23: a * 2^exponent, where exponent's upper bits are ignored
  // and all stays normal.
  LLMIR_LANES F AddExponent(F a, I exponent) {
    for (int i = 0; i < 16; ++i) {
      uint32_t bits;
      std::memcpy(&bits, &a.v[i], 4);
      bits += static_cast<uint32_t>(exponent.v[i]) << 23;
      std::memcpy(&a.v[i], &bits, 4);
    }
    return a;
  }
  LLMIR_LANES I ZeroInt() { return I{}; }
  // Bits of |a|: ordered like the values, with NaN above infinity.
  LLMIR_LANES I AbsBits(F a) {
    I r = Bits(a);
    for (int i = 0; i < 16; ++i) r.v[i] &= 0x7fffffff;
    return r;
  }
  LLMIR_LANES I MaxInt(I a, I b) {
    for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
  }
  LLMIR_LANES I AddInt(I a, I b) {
    for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] + b.v[i];
    return a;
  }
  LLMIR_LANES int32_t ReduceMaxInt(I a) {
    int32_t r = a.v[0];
    for (int i = 1; i < 16; ++i) r = r > a.v[i] ? r : a.v[i];
    return r;
  }
  LLMIR_LANES int32_t ReduceAddInt(I a) {
    int32_t r = 0;
    for (int i = 0; i < 16; ++i) r += a.v[i];
    return r;
  }
  // To the nearest integer, ties to even; |a| < 2^22.
  LLMIR_LANES I Round(F a) {
    I r;
    for (int i = 0; i < 16; ++i) {
      r.v[i] = static_cast<int32_t>((a.v[i] + 12582912.0f) - 12582912.0f);
    }
    return r;
  }
  // Lanes as bytes; every lane is in [-128, 127].
  LLMIR_LANES void StoreBytes(int8_t* p, I a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.v[i]);
  }

  // Sum of the lanes: lane i + lane (i + 8), then 4, 2, 1.
  LLMIR_LANES float FoldAdd(F a) {
    for (int width = 8; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) a.v[i] = a.v[i] + a.v[i + width];
    }
    return a.v[0];
  }
  // The largest lane, folded likewise with Max.
  LLMIR_LANES float FoldMax(F a) {
    for (int width = 8; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) a.v[i] = a.v[i] > a.v[i + width] ? a.v[i] : a.v[i + width];
    }
    return a.v[0];
  }
};

#undef LLMIR_LANES

}  // namespace llmir::kernels
