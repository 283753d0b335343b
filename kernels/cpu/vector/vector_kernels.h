// The kernels of kernels/vector.h as templates over a Simd family; each vector_<family>.cc
// instantiates one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/activations.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/vector.h"

namespace llmir::kernels {

extern const VectorKernels kVectorPortable;
extern const VectorKernels kVectorAvx2;
extern const VectorKernels kVectorAvx512;

template <typename S>
struct VectorImpl {
  using F = typename S::F;
  using I = typename S::I;

  // 1 / sqrt(mean(x^2) + epsilon)
  static LLMIR_INLINE float InverseNorm(const float* x, int64_t columns, float epsilon) {
    F sum = S::Zero();
    int64_t c = 0;
    for (; c + 16 <= columns; c += 16) {
      const F v = S::Load(x + c);
      sum = S::Fma(v, v, sum);
    }
    if (c < columns) {
      const F v = S::LoadPartial(x + c, columns - c);
      sum = S::Fma(v, v, sum);
    }
    const float mean = S::FoldAdd(sum) / static_cast<float>(columns);
    return 1.0f / __builtin_sqrtf(mean + epsilon);
  }

  static LLMIR_INLINE F Normalize(F x, F inverse_norm, F weight) {
    return S::Mul(S::Mul(x, inverse_norm), weight);
  }

  static void RmsNorm(const float* x, int64_t x_stride, const float* weight, float epsilon,
                      int64_t rows, int64_t columns, float* out, int64_t out_stride) {
    for (int64_t row = 0; row < rows; ++row, x += x_stride, out += out_stride) {
      const F inverse_norm = S::Set(InverseNorm(x, columns, epsilon));
      int64_t c = 0;
      for (; c + 16 <= columns; c += 16) {
        S::Store(out + c, Normalize(S::Load(x + c), inverse_norm, S::Load(weight + c)));
      }
      if (c < columns) {
        const int64_t rest = columns - c;
        S::StorePartial(
            out + c, rest,
            Normalize(S::LoadPartial(x + c, rest), inverse_norm, S::LoadPartial(weight + c, rest)));
      }
    }
  }

  // One group of 32 (two vectors) into the int8 row `out` of `columns` values.
  static LLMIR_INLINE void QuantizeGroup(F a, F b, int64_t group, int64_t columns, std::byte* out) {
    // Compared as integers, so that a NaN is the maximum whatever its place.
    const int32_t bits = S::ReduceMaxInt(S::MaxInt(S::AbsBits(a), S::AbsBits(b)));
    float maximum;
    std::memcpy(&maximum, &bits, 4);

    float scale = maximum / 127.0f;
    int32_t sum = 0;
    auto* quants = reinterpret_cast<int8_t*>(out) + group * kActivationGroup;
    // Below, 127 / maximum or the scale would leave float's normal range: such values are as good
    // as zero.
    constexpr float kSmallest = 0x1p-112f;
    constexpr float kLargest = 0x1.fffffep+127f;
    if (maximum >= kSmallest && maximum <= kLargest) {
      const F inverse = S::Set(127.0f / maximum);
      const I qa = S::Round(S::Mul(a, inverse));
      const I qb = S::Round(S::Mul(b, inverse));
      S::StoreBytes(quants, qa);
      S::StoreBytes(quants + 16, qb);
      sum = S::ReduceAddInt(S::AddInt(qa, qb));
    } else {
      // An infinite or NaN scale times 0 is NaN in every product: what went wrong stays visible.
      if (maximum < kSmallest) scale = 0.0f;
      std::memset(quants, 0, kActivationGroup);
    }
    std::byte* scales = out + columns;
    std::memcpy(scales + group * 4, &scale, 4);
    std::memcpy(scales + columns / kActivationGroup * 4 + group * 4, &sum, 4);
  }

  static void RmsNormQ8(const float* x, int64_t x_stride, const float* weight, float epsilon,
                        int64_t rows, int64_t columns, std::byte* out, int64_t out_stride) {
    for (int64_t row = 0; row < rows; ++row, x += x_stride, out += out_stride) {
      const F inverse_norm = S::Set(InverseNorm(x, columns, epsilon));
      for (int64_t c = 0; c < columns; c += 32) {
        QuantizeGroup(Normalize(S::Load(x + c), inverse_norm, S::Load(weight + c)),
                      Normalize(S::Load(x + c + 16), inverse_norm, S::Load(weight + c + 16)),
                      c / 32, columns, out);
      }
    }
  }

  static void Quantize(const float* x, int64_t x_stride, int64_t rows, int64_t columns,
                       std::byte* out, int64_t out_stride) {
    for (int64_t row = 0; row < rows; ++row, x += x_stride, out += out_stride) {
      for (int64_t c = 0; c < columns; c += 32) {
        QuantizeGroup(S::Load(x + c), S::Load(x + c + 16), c / 32, columns, out);
      }
    }
  }

  static void Add(const float* a, const float* b, int64_t count, float* out) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) S::Store(out + i, S::Add(S::Load(a + i), S::Load(b + i)));
    if (i < count) {
      const int64_t rest = count - i;
      S::StorePartial(out + i, rest,
                      S::Add(S::LoadPartial(a + i, rest), S::LoadPartial(b + i, rest)));
    }
  }

  // -infinity for count 0 and where all are NaN.
  static LLMIR_INLINE float Maximum(const float* x, int64_t count) {
    const F lowest = S::Set(-__builtin_inff());
    F best[4] = {lowest, lowest, lowest, lowest};
    int64_t i = 0;
    for (; i + 64 <= count; i += 64) {
      for (int k = 0; k < 4; ++k) best[k] = S::Max(S::Load(x + i + 16 * k), best[k]);
    }
    for (; i < count; i += 16) {
      const int64_t rest = count - i;
      best[0] = S::Max(
          S::Select(S::FirstLanes(rest), S::LoadPartial(x + i, rest < 16 ? rest : 16), lowest),
          best[0]);
    }
    return S::FoldMax(S::Max(S::Max(best[0], best[1]), S::Max(best[2], best[3])));
  }

  static int64_t Argmax(const float* x, int64_t count) {
    const F maximum = S::Set(Maximum(x, count));
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      const uint32_t equal = S::EqualBits(S::Load(x + i), maximum);
      if (equal != 0) return i + __builtin_ctz(equal);
    }
    if (i < count) {
      const int64_t rest = count - i;
      const uint32_t equal =
          S::EqualBits(S::LoadPartial(x + i, rest), maximum) & ((1u << rest) - 1);
      if (equal != 0) return i + __builtin_ctz(equal);
    }
    return -1;
  }

  static ScorePart Score(const float* logits, int64_t count, int64_t target) {
    ScorePart part;
    part.maximum = Maximum(logits, count);
    // Where all are -infinity, exp(x - 0) is 0 as it should be, and x - maximum would be NaN.
    const F shift = S::Set(part.maximum == -__builtin_inff() ? 0.0f : part.maximum);
    F sum = S::Zero();
    int64_t i = 0;
    for (; i + 32 <= count; i += 32) {
      const F a = Exp<S>(S::Sub(S::Load(logits + i), shift));
      const F b = Exp<S>(S::Sub(S::Load(logits + i + 16), shift));
      sum = S::Add(S::Add(sum, a), b);
    }
    for (; i < count; i += 16) {
      const int64_t rest = count - i < 16 ? count - i : 16;
      const F e = Exp<S>(S::Sub(S::LoadPartial(logits + i, rest), shift));
      sum = S::Add(sum, S::Select(S::FirstLanes(rest), e, S::Zero()));
    }
    part.sum = S::FoldAdd(sum);
    part.target = target >= 0 && target < count ? logits[target] : 0.0f;
    return part;
  }

  // out = f(x) for `count` values, the rest of a vector too.
  template <typename Function>
  static LLMIR_INLINE void Map(const float* x, int64_t count, float* out, const Function& f) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) S::Store(out + i, f(S::Load(x + i)));
    if (i < count) S::StorePartial(out + i, count - i, f(S::LoadPartial(x + i, count - i)));
  }
  template <typename Function>
  static LLMIR_INLINE void Gate(const float* gate, const float* up, int64_t count, float* out,
                                const Function& f) {
    if (up == nullptr) return Map(gate, count, out, f);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      S::Store(out + i, S::Mul(f(S::Load(gate + i)), S::Load(up + i)));
    }
    if (i < count) {
      const int64_t rest = count - i;
      S::StorePartial(out + i, rest,
                      S::Mul(f(S::LoadPartial(gate + i, rest)), S::LoadPartial(up + i, rest)));
    }
  }

  static void LayerNorm(const float* x, int64_t x_stride, const float* weight, float epsilon,
                        int64_t rows, int64_t columns, float* out, int64_t out_stride) {
    const auto count = static_cast<float>(columns);
    for (int64_t row = 0; row < rows; ++row, x += x_stride, out += out_stride) {
      F sum = S::Zero();
      int64_t c = 0;
      for (; c + 16 <= columns; c += 16) sum = S::Add(sum, S::Load(x + c));
      if (c < columns) sum = S::Add(sum, S::LoadPartial(x + c, columns - c));
      const F mean = S::Set(S::FoldAdd(sum) / count);
      F squares = S::Zero();
      for (c = 0; c + 16 <= columns; c += 16) {
        const F d = S::Sub(S::Load(x + c), mean);
        squares = S::Fma(d, d, squares);
      }
      if (c < columns) {
        const int64_t rest = columns - c;
        const F d =
            S::Select(S::FirstLanes(rest), S::Sub(S::LoadPartial(x + c, rest), mean), S::Zero());
        squares = S::Fma(d, d, squares);
      }
      const F inverse = S::Set(1.0f / __builtin_sqrtf(S::FoldAdd(squares) / count + epsilon));
      for (c = 0; c + 16 <= columns; c += 16) {
        S::Store(out + c, Normalize(S::Sub(S::Load(x + c), mean), inverse, S::Load(weight + c)));
      }
      if (c < columns) {
        const int64_t rest = columns - c;
        S::StorePartial(out + c, rest,
                        Normalize(S::Sub(S::LoadPartial(x + c, rest), mean), inverse,
                                  S::LoadPartial(weight + c, rest)));
      }
    }
  }

  static void Activate(Activation activation, const float* gate, const float* up, int64_t count,
                       float* out) {
    switch (activation) {
      case Activation::kSilu:
        return Gate(gate, up, count, out, [](F v) { return Silu<S>(v); });
      case Activation::kGelu:
        return Gate(gate, up, count, out, [](F v) { return Gelu<S>(v); });
      case Activation::kGeluTanh:
        return Gate(gate, up, count, out, [](F v) { return GeluTanh<S>(v); });
      case Activation::kRelu:
        // NaN stays.
        return Gate(gate, up, count, out,
                    [](F v) { return S::Select(S::Less(v, S::Zero()), S::Zero(), v); });
    }
  }

  static void Softcap(const float* x, float cap, int64_t count, float* out) {
    const F wide = S::Set(cap);
    const F inverse = S::Set(1.0f / cap);
    Map(x, count, out, [&](F v) { return S::Mul(wide, Tanh<S>(S::Mul(v, inverse))); });
  }

  static void Dequantize(const std::byte* x, int64_t x_stride, int64_t rows, int64_t columns,
                         float* out, int64_t out_stride) {
    for (int64_t row = 0; row < rows; ++row, x += x_stride, out += out_stride) {
      const auto* quants = reinterpret_cast<const int8_t*>(x);
      for (int64_t group = 0; group < columns / kActivationGroup; ++group) {
        float scale;
        std::memcpy(&scale, x + columns + group * 4, 4);
        for (int64_t i = group * kActivationGroup; i < (group + 1) * kActivationGroup; ++i) {
          out[i] = scale * static_cast<float>(quants[i]);
        }
      }
    }
  }

  static constexpr VectorKernels Table(Isa isa) {
    return {isa,   RmsNorm,   RmsNormQ8, Quantize, Add,       Argmax,
            Score, LayerNorm, Activate,  Softcap,  Dequantize};
  }
};

}  // namespace llmir::kernels
