// exp and what follows from it, once for all families: the same operations on the lanes of a Simd
// type (simd_portable.h, simd_avx2.h, simd_avx512.h), so the same bits on each.
#pragma once

#include "kernels/cpu/simd_portable.h"

namespace llmir::kernels {

// e^x within 1 ulp (0.9 found over all floats). Infinity above 88.7228, 0 below -87.3365 (a
// subnormal result is flushed), NaN stays NaN. Exp(0) == 1.
template <typename S>
LLMIR_INLINE typename S::F Exp(typename S::F x) {
  using F = typename S::F;
  // Adding 1.5 * 2^23 rounds x / ln 2 to an integer n and leaves n in the low bits of the sum.
  const F magic = S::Set(12582912.0f);
  const F shifted = S::Fma(x, S::Set(0x1.715476p+0f), magic);
  const F n = S::Sub(shifted, magic);
  // r = x - n ln 2 in two parts; the first product is exact.
  F r = S::NegFma(n, S::Set(0x1.62e4p-1f), x);
  r = S::NegFma(n, S::Set(0x1.7f7d1cp-20f), r);
  // e^r = 1 + r + r^2 q(r), q minimax of degree 4 on |r| <= ln 2 / 2 (relative error 3.6e-9).
  F p = S::Set(0x1.6a23dp-10f);
  p = S::Fma(p, r, S::Set(0x1.123a2p-7f));
  p = S::Fma(p, r, S::Set(0x1.5558f2p-5f));
  p = S::Fma(p, r, S::Set(0x1.555492p-3f));
  p = S::Fma(p, r, S::Set(0x1.fffffcp-2f));
  p = S::Fma(p, r, S::Set(1.0f));
  p = S::Fma(p, r, S::Set(1.0f));
  p = S::AddExponent(p, S::Bits(shifted));
  p = S::Select(S::Less(S::Set(88.7228f), x), S::Set(__builtin_inff()), p);
  return S::Select(S::Less(x, S::Set(-87.3365f)), S::Zero(), p);
}

// x / (1 + e^-x).
template <typename S>
LLMIR_INLINE typename S::F Silu(typename S::F x) {
  const typename S::F one = S::Set(1.0f);
  return S::Div(x, S::Add(one, Exp<S>(S::Sub(S::Zero(), x))));
}

}  // namespace llmir::kernels
