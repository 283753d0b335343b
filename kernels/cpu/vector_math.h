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

// tanh x within 3 ulp; odd, NaN stays NaN.
template <typename S>
LLMIR_INLINE typename S::F Tanh(typename S::F x) {
  using F = typename S::F;
  const F one = S::Set(1.0f);
  const F negative = S::Sub(S::Zero(), x);
  const auto below = S::Less(x, S::Zero());
  const F magnitude = S::Select(below, negative, x);
  const F e = Exp<S>(S::Mul(magnitude, S::Set(-2.0f)));
  const F far = S::Div(S::Sub(one, e), S::Add(one, e));
  // Taylor, where 1 - e would cancel: to x^13 the rest is below 4e-9 of tanh x.
  const F square = S::Mul(x, x);
  F p = S::Set(21844.0f / 6081075.0f);
  p = S::Fma(p, square, S::Set(-1382.0f / 155925.0f));
  p = S::Fma(p, square, S::Set(62.0f / 2835.0f));
  p = S::Fma(p, square, S::Set(-17.0f / 315.0f));
  p = S::Fma(p, square, S::Set(2.0f / 15.0f));
  p = S::Fma(p, square, S::Set(-1.0f / 3.0f));
  const F near = S::Fma(S::Mul(p, square), x, x);
  const F wide = S::Select(below, S::Sub(S::Zero(), far), far);
  return S::Select(S::Less(magnitude, S::Set(0.35f)), near, wide);
}

// x / (1 + e^-x).
template <typename S>
LLMIR_INLINE typename S::F Silu(typename S::F x) {
  const typename S::F one = S::Set(1.0f);
  return S::Div(x, S::Add(one, Exp<S>(S::Sub(S::Zero(), x))));
}

// x times the normal distribution's probability of less than x.
template <typename S>
LLMIR_INLINE typename S::F Gelu(typename S::F x) {
  using F = typename S::F;
  const F one = S::Set(1.0f);
  // P(less than -m) = exp(-m^2 / 2) r(m). Beyond 14 it is below every normal float.
  const auto below = S::Less(x, S::Zero());
  const F size = S::Select(below, S::Sub(S::Zero(), x), x);
  const F far = S::Set(14.0f);
  const F m = S::Select(S::Less(size, far), size, far);
  // r as t times a polynomial in t = 1 / (1 + 0.35 m): relative error 3.3e-8 for m up to 14.5,
  // fitted to exp(m^2 / 2) erfc(m / sqrt(2)) / 2 in double precision.
  const F t = S::Div(one, S::Fma(m, S::Set(0.35f), one));
  F p = S::Set(-0x1.ddb3e8p-6f);
  p = S::Fma(p, t, S::Set(0x1.26f6d0p-3f));
  p = S::Fma(p, t, S::Set(-0x1.05f7f0p-2f));
  p = S::Fma(p, t, S::Set(0x1.4643b4p-3f));
  p = S::Fma(p, t, S::Set(-0x1.7c32d4p-6f));
  p = S::Fma(p, t, S::Set(0x1.b05502p-4f));
  p = S::Fma(p, t, S::Set(0x1.eaca62p-4f));
  p = S::Fma(p, t, S::Set(0x1.1e70b8p-3f));
  p = S::Fma(p, t, S::Set(0x1.1df1c8p-3f));
  // What rounding added to m^2 counts in the tail: exp(rest / 2) is 1 + rest / 2.
  const F square = S::Mul(m, m);
  const F rest = S::NegFma(m, m, square);
  const F half = S::Set(0.5f);
  F e = Exp<S>(S::Sub(S::Zero(), S::Mul(square, half)));
  e = S::Fma(S::Mul(e, half), rest, e);
  const F tail = S::Mul(e, S::Mul(p, t));
  return S::Mul(x, S::Select(below, tail, S::Sub(one, tail)));
}

// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, which is x / (1 + exp(-2 sqrt(2 / pi) (...))):
// nothing cancels.
template <typename S>
LLMIR_INLINE typename S::F GeluTanh(typename S::F x) {
  using F = typename S::F;
  const F one = S::Set(1.0f);
  const F slope = S::Fma(S::Mul(x, x), S::Set(-0x1.2444f2p-4f), S::Set(-0x1.988454p+0f));
  return S::Div(x, S::Add(one, Exp<S>(S::Mul(x, slope))));
}

}  // namespace llmir::kernels
