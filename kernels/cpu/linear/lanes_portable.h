// The 16 rows of a panel in plain C++.
#pragma once

#include <bit>

#include "kernels/cpu/linear/half.h"
#include "kernels/cpu/linear/panel_layouts.h"
#include "kernels/cpu/simd_portable.h"

namespace llmir::kernels {

struct LanesPortable : SimdPortable {
  static F LoadHalf(const void* from) {
    uint16_t halves[16];
    std::memcpy(halves, from, sizeof halves);
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = HalfToFloat(halves[i]);
    return r;
  }
  static I LoadLine(const void* from) {
    I r;
    std::memcpy(r.v, from, sizeof r.v);
    return r;
  }
  // The even and the odd columns of a line of bf16 pairs.
  static F EvenBF16(const I& pairs) {
    F r;
    for (int i = 0; i < 16; ++i)
      r.v[i] = std::bit_cast<float>(static_cast<uint32_t>(pairs.v[i]) << 16);
    return r;
  }
  static F OddBF16(const I& pairs) {
    F r;
    for (int i = 0; i < 16; ++i) {
      r.v[i] = std::bit_cast<float>(static_cast<uint32_t>(pairs.v[i]) & 0xffff0000u);
    }
    return r;
  }
  static F ToFloat(const I& v) {
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(v.v[i]);
    return r;
  }
};

}  // namespace llmir::kernels
