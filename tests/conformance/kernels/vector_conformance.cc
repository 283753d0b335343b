// Kernels over rows of floats, each function by itself. u = 2^-24. Sums of n terms over 16 lanes
// and their folding round a term n / 16 + 4 times.
#include <array>
#include <cstring>

#include "kernels/activations.h"
#include "kernels/vector.h"
#include "tests/conformance/kernels/cases.h"
#include "tests/unit/kernels/families.h"

namespace llmir::kernels {
namespace {

constexpr int kFunctions = 10;
constexpr float kLargest = std::numeric_limits<float>::max();

class VectorConformance : public testing::TestWithParam<Isa> {
 protected:
  const VectorKernels& kernels() const { return FindVector(GetParam()); }
  const VectorKernels& portable() const { return FindVector(Isa::kPortable); }
  template <typename Body>
  void Check(const Body& body) {
    const auto tests = static_cast<int64_t>(AvailableFamilies().size()) * kFunctions;
    ForCases("", (kVectorCases + tests - 1) / tests, body);
  }
};
INSTANTIATE_TEST_SUITE_P(Families, VectorConformance, testing::ValuesIn(AvailableFamilies()),
                         FamilyName);

int64_t RaggedColumns(Draw& draw) { return draw.Ragged(draw.OneIn(20) ? 2000 : 200); }

// Rows of a normal distribution; every second case has special values, some of them not finite.
GuardedRows RandomRows(int64_t rows, int64_t columns, float deviation, float large, Draw& draw) {
  GuardedRows x(rows, columns, draw);
  x.Fill(draw, deviation);
  if (columns > 0 && draw.OneIn(2)) {
    const bool finite = draw.OneIn(2);
    for (int64_t i = draw.Uniform(1, 3); i > 0; --i)
      x.Row(draw.Uniform(0, rows - 1))[draw.Uniform(0, columns - 1)] = draw.Special(finite, large);
  }
  return x;
}

// int8 rows at any distance, guarded behind each.
struct Q8Rows {
  Q8Rows(int64_t rows, int64_t columns, Draw& draw)
      : rows(rows), columns(columns), stride(Q8RowBytes(columns) + 4 * draw.Uniform(0, 9)) {
    bytes.assign(static_cast<size_t>((rows - 1) * stride + Q8RowBytes(columns)), kGuard);
  }
  std::byte* Row(int64_t r) { return bytes.data() + r * stride; }
  int Quant(int64_t r, int64_t c) { return static_cast<int8_t>(Row(r)[c]); }
  template <typename T>
  T Word(int64_t r, int64_t at) {
    T value;
    std::memcpy(&value, Row(r) + at, 4);
    return value;
  }
  float Scale(int64_t r, int64_t g) { return Word<float>(r, columns + 4 * g); }
  int32_t Sum(int64_t r, int64_t g) { return Word<int32_t>(r, columns + columns / 8 + 4 * g); }
  bool GuardsStand() const {
    for (size_t i = 0; i < bytes.size(); ++i) {
      if (static_cast<int64_t>(i) % stride >= Q8RowBytes(columns) && bytes[i] != kGuard)
        return false;
    }
    return true;
  }
  // NaN scales count as one.
  bool SameAs(Q8Rows& other) {
    for (int64_t r = 0; r < rows; ++r) {
      if (std::memcmp(Row(r), other.Row(r), static_cast<size_t>(columns)) != 0) return false;
      for (int64_t g = 0; g < columns / 32; ++g) {
        if (BitsOf(Scale(r, g)) != BitsOf(other.Scale(r, g)) || Sum(r, g) != other.Sum(r, g))
          return false;
      }
    }
    return true;
  }
  static constexpr std::byte kGuard{0x5a};
  int64_t rows, columns, stride;
  std::vector<std::byte> bytes;
};

TEST_P(VectorConformance, RmsNorm) {
  Check([&](Draw& draw) {
    const int64_t rows = draw.Uniform(1, 4), columns = RaggedColumns(draw);
    const float epsilon = draw.Of({1e-5f, 1e-6f, 0.1f});
    const GuardedRows x = RandomRows(rows, columns, 3, 1e15f, draw);
    GuardedRows weight(1, columns, draw);
    weight.Fill(draw, 1);
    GuardedRows out(rows, columns, draw), expected(rows, columns, draw), alone(1, columns, draw);
    kernels().rms_norm(x.Row(0), x.stride(), weight.Row(0), epsilon, rows, columns, out.Row(0),
                       out.stride());
    portable().rms_norm(x.Row(0), x.stride(), weight.Row(0), epsilon, rows, columns,
                        expected.Row(0), expected.stride());
    ASSERT_TRUE(out.GuardsStand() && SameBits(out, expected)) << rows << " x " << columns;
    for (int64_t r = 0; r < rows; ++r) {
      kernels().rms_norm(x.Row(r), 0, weight.Row(0), epsilon, 1, columns, alone.Row(0), 0);
      double sum = 0;
      for (int64_t c = 0; c < columns; ++c) sum += double{x.Row(r)[c]} * x.Row(r)[c];
      const double inverse = 1 / std::sqrt(sum / static_cast<double>(columns) + epsilon);
      // Half of the sum's error, and the mean, epsilon, root, quotient and two products.
      const double relative = (static_cast<double>(columns) / 32 + 8) * kRounding;
      for (int64_t c = 0; c < columns; ++c) {
        ASSERT_EQ(BitsOf(alone.Row(0)[c]), BitsOf(out.Row(r)[c])) << "row by itself";
        const double want = x.Row(r)[c] * inverse * weight.Row(0)[c];
        ASSERT_TRUE(Within(out.Row(r)[c], want, relative * std::fabs(want) + 0x1p-140))
            << out.Row(r)[c] << ", expected " << want;
      }
    }
  });
}

TEST_P(VectorConformance, LayerNorm) {
  Check([&](Draw& draw) {
    const int64_t rows = draw.Uniform(1, 4), columns = RaggedColumns(draw);
    const float epsilon = draw.Of({1e-5f, 1e-3f});
    const GuardedRows x = RandomRows(rows, columns, 3, 1e6f, draw);
    GuardedRows weight(1, columns, draw);
    weight.Fill(draw, 1);
    GuardedRows out(rows, columns, draw), expected(rows, columns, draw);
    kernels().layer_norm(x.Row(0), x.stride(), weight.Row(0), epsilon, rows, columns, out.Row(0),
                         out.stride());
    portable().layer_norm(x.Row(0), x.stride(), weight.Row(0), epsilon, rows, columns,
                          expected.Row(0), expected.stride());
    ASSERT_TRUE(out.GuardsStand() && SameBits(out, expected)) << rows << " x " << columns;
    const auto n = static_cast<double>(columns);
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0, size = 0, squares = 0, distances = 0;
      for (int64_t c = 0; c < columns; ++c) {
        sum += x.Row(r)[c];
        size += std::fabs(x.Row(r)[c]);
      }
      const double mean = sum / n;
      for (int64_t c = 0; c < columns; ++c) {
        const double d = x.Row(r)[c] - mean;
        squares += d * d;
        distances += std::fabs(d);
      }
      const double variance = squares / n + epsilon;
      const double inverse = 1 / std::sqrt(variance);
      // The mean's error, what it and the rounded differences do to the variance, the rest.
      const double mean_error = (n / 16 + 6) * kRounding * size / n;
      const double shift = 2 * mean_error * distances / n + mean_error * mean_error;
      const double relative = shift / variance + (n / 32 + 12) * kRounding;
      for (int64_t c = 0; c < columns; ++c) {
        const double d = x.Row(r)[c] - mean;
        const double weighted = inverse * weight.Row(0)[c];
        ASSERT_TRUE(
            Within(out.Row(r)[c], d * weighted,
                   std::fabs(weighted) * ((1 + relative) * mean_error + relative * std::fabs(d)) +
                       0x1p-140))
            << out.Row(r)[c] << ", expected " << d * weighted;
      }
    }
  });
}

TEST_P(VectorConformance, Quantize) {
  Check([&](Draw& draw) {
    const int64_t rows = draw.Uniform(1, 4), columns = 32 * draw.Uniform(1, 12);
    GuardedRows x = RandomRows(rows, columns, draw.Of({1.0f, 1e-30f, 1e30f}), kLargest, draw);
    if (draw.OneIn(3)) std::fill_n(x.Row(0), 32, draw.Of({0.0f, 1e-40f, -0x1p-113f, 0x1p-112f}));
    Q8Rows out(rows, columns, draw), expected(rows, columns, draw);
    kernels().quantize(x.Row(0), x.stride(), rows, columns, out.Row(0), out.stride);
    portable().quantize(x.Row(0), x.stride(), rows, columns, expected.Row(0), expected.stride);
    ASSERT_TRUE(out.GuardsStand() && out.SameAs(expected)) << rows << " x " << columns;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t g = 0; g < columns / 32; ++g) {
        const float* values = x.Row(r) + 32 * g;
        float most = 0;
        for (int i = 0; i < 32; ++i)
          most = std::isnan(values[i]) || std::isnan(most) ? std::nanf("")
                                                           : std::max(most, std::fabs(values[i]));
        int32_t sum = 0;
        for (int i = 0; i < 32; ++i) sum += out.Quant(r, 32 * g + i);
        ASSERT_EQ(out.Sum(r, g), sum);
        if (!std::isfinite(most)) {
          ASSERT_FALSE(std::isfinite(out.Scale(r, g)));
          for (int i = 0; i < 32; ++i) ASSERT_EQ(out.Quant(r, 32 * g + i), 0);
          continue;
        }
        ASSERT_EQ(out.Scale(r, g), most < 0x1p-112f ? 0.0f : most / 127.0f);
        for (int i = 0; i < 32; ++i) {
          const double error = values[i] - out.Quant(r, 32 * g + i) * double{out.Scale(r, g)};
          ASSERT_LE(std::fabs(error), most < 0x1p-112f ? most : 0.50001 * out.Scale(r, g));
        }
      }
    }
  });
}

TEST_P(VectorConformance, RmsNormQ8) {
  Check([&](Draw& draw) {
    const int64_t rows = draw.Uniform(1, 4), columns = 32 * draw.Uniform(1, 12);
    const GuardedRows x = RandomRows(rows, columns, 3, 1e15f, draw);
    GuardedRows weight(1, columns, draw);
    weight.Fill(draw, 1);
    Q8Rows out(rows, columns, draw), separate(rows, columns, draw);
    GuardedRows normed(rows, columns, draw);
    kernels().rms_norm_q8(x.Row(0), x.stride(), weight.Row(0), 1e-6f, rows, columns, out.Row(0),
                          out.stride);
    portable().rms_norm(x.Row(0), x.stride(), weight.Row(0), 1e-6f, rows, columns, normed.Row(0),
                        normed.stride());
    portable().quantize(normed.Row(0), normed.stride(), rows, columns, separate.Row(0),
                        separate.stride);
    ASSERT_TRUE(out.GuardsStand() && out.SameAs(separate)) << rows << " x " << columns;
  });
}

TEST_P(VectorConformance, Dequantize) {
  Check([&](Draw& draw) {
    const int64_t rows = draw.Uniform(1, 4), columns = 32 * draw.Uniform(1, 12);
    const GuardedRows x = RandomRows(rows, columns, 3, 1e30f, draw);
    Q8Rows q8(rows, columns, draw);
    portable().quantize(x.Row(0), x.stride(), rows, columns, q8.Row(0), q8.stride);
    GuardedRows out(rows, columns, draw);
    kernels().dequantize(q8.Row(0), q8.stride, rows, columns, out.Row(0), out.stride());
    ASSERT_TRUE(out.GuardsStand());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        const double want = double{q8.Scale(r, c / 32)} * q8.Quant(r, c);
        ASSERT_EQ(BitsOf(out.Row(r)[c]), BitsOf(static_cast<float>(want)));
      }
    }
  });
}

TEST_P(VectorConformance, Add) {
  Check([&](Draw& draw) {
    const int64_t count = draw.OneIn(20) ? 0 : RaggedColumns(draw);
    const GuardedRows a = RandomRows(1, count, 1, kLargest, draw);
    const GuardedRows b = RandomRows(1, count, 1, kLargest, draw);
    GuardedRows out(1, count, draw);
    kernels().add(a.Row(0), b.Row(0), count, out.Row(0));
    ASSERT_TRUE(out.GuardsStand()) << count;
    for (int64_t i = 0; i < count; ++i) {
      const double want = double{a.Row(0)[i]} + b.Row(0)[i];
      ASSERT_TRUE(Within(out.Row(0)[i], want, kRounding * std::fabs(want)));
    }
  });
}

TEST_P(VectorConformance, Argmax) {
  Check([&](Draw& draw) {
    const int64_t count = draw.OneIn(20) ? 0 : RaggedColumns(draw);
    GuardedRows x = RandomRows(1, count, 1, 1e30f, draw);
    if (draw.OneIn(3)) {
      // Few values, so that equals meet, and NaN among them or alone.
      for (int64_t i = 0; i < count; ++i) {
        x.Row(0)[i] = draw.Of({0.0f, -0.0f, 1.0f, std::nanf("")});
        if (count % 3 == 0) x.Row(0)[i] = std::nanf("");
      }
    }
    int64_t want = -1;
    for (int64_t i = 0; i < count; ++i) {
      const float value = x.Row(0)[i];
      if (!std::isnan(value) && (want < 0 || value > x.Row(0)[want])) want = i;
    }
    ASSERT_EQ(kernels().argmax(x.Row(0), count), want) << count;
  });
}

TEST_P(VectorConformance, ScorePart) {
  Check([&](Draw& draw) {
    const int64_t count = draw.OneIn(20) ? 0 : RaggedColumns(draw);
    const GuardedRows x = RandomRows(1, count, draw.Of({1.0f, 8.0f, 60.0f}), 50.0f, draw);
    const int64_t target = draw.Uniform(-1, count - 1);
    const ScorePart part = kernels().score_part(x.Row(0), count, target);
    const ScorePart same = portable().score_part(x.Row(0), count, target);
    ASSERT_EQ(BitsOf(part.maximum), BitsOf(same.maximum)) << count;
    ASSERT_EQ(BitsOf(part.sum), BitsOf(same.sum)) << count;
    ASSERT_EQ(BitsOf(part.target), BitsOf(target < 0 ? 0.0f : x.Row(0)[target]));
    float most = -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < count; ++i) {
      if (x.Row(0)[i] > most) most = x.Row(0)[i];
    }
    ASSERT_EQ(part.maximum, most);
    double sum = 0, error = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double distance =
          std::isinf(most) && most < 0 ? x.Row(0)[i] : double{x.Row(0)[i]} - most;
      sum += std::exp(distance);
      // The difference is rounded, which exp multiplies by the distance; exp is off by an ulp, and
      // 0 below e^-87.
      if (std::isfinite(distance))
        error += std::exp(distance) * (std::fabs(distance) + 2) * kRounding + 0x1p-125;
    }
    error += (static_cast<double>(count) / 16 + 6) * kRounding * sum;
    ASSERT_TRUE(Within(part.sum, sum, error)) << part.sum << ", expected " << sum;
  });
}

double ActivationOf(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGelu:
      return 0.5 * x * std::erfc(-x / M_SQRT2);
    case Activation::kGeluTanh:
      // As a quotient, in which nothing cancels.
      return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      return x < 0 ? 0 : x;
  }
  return 0;
}

// How many roundings u of its result an activation may differ by, from the operations of
// kernels/cpu/vector_math.h to first order; exp is within 1 ulp, at most 2 u. Below 2^-121, where
// exp leaves its range, the result may be 0 instead.
double ActivationRoundings(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu:
      // 1 + exp(-x): its rounding and at most exp's 2; the quotient.
      return 1 + 2 + 1;
    case Activation::kGelu:
      // The tail is exp(-m^2 / 2) p(t) t. Horner: 8 steps, the sum of the terms' sizes is at most
      // 2.2 p. t is off by 2.5 (a constant, an fma, a quotient), and t p(t) grows with t to the
      // power of 2.3 at most. The fit 0.6, exp and its correction 3, two products 2. 1 - tail adds
      // its own rounding, the product with x one more.
      return 8 * 2.2 + 2.5 * 2.3 + 0.6 + 3 + 2 + 2 + 1;
    case Activation::kGeluTanh: {
      // Four roundings of exp's argument a, its constants among them, are multiplied by |a|, at
      // most 89 where the result isn't 0; then as silu.
      const double a = 2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
      return 4 * std::min(std::fabs(a), 89.0) + 4;
    }
    case Activation::kRelu:
      return 0;
  }
  return 0;
}

TEST_P(VectorConformance, Activate) {
  Check([&](Draw& draw) {
    const auto activation =
        draw.Of({Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu});
    const int64_t count = draw.OneIn(20) ? 0 : RaggedColumns(draw);
    const GuardedRows gate = RandomRows(1, count, draw.Of({0.1f, 3.0f, 20.0f}), 1e9f, draw);
    const GuardedRows up = RandomRows(1, count, 1, 1e9f, draw);
    const float* second = draw.OneIn(2) ? up.Row(0) : nullptr;
    GuardedRows out(1, count, draw), expected(1, count, draw);
    kernels().activate(activation, gate.Row(0), second, count, out.Row(0));
    portable().activate(activation, gate.Row(0), second, count, expected.Row(0));
    ASSERT_TRUE(out.GuardsStand() && SameBits(out, expected)) << count;
    for (int64_t i = 0; i < count; ++i) {
      const double x = gate.Row(0)[i];
      const double y = second != nullptr ? second[i] : 1.0;
      const double f = ActivationOf(activation, x);
      // Far below 0 the result leaves float's range and is 0, or times infinity NaN.
      if (std::fabs(f) < 0x1p-121 && !std::isfinite(y)) continue;
      if (std::isinf(x) && x < 0) continue;  // minus infinity times 0: the families' bits say what
      const double error =
          (ActivationRoundings(activation, x) * kRounding * std::fabs(f) + 0x1p-121) *
              std::fabs(y) +
          kRounding * std::fabs(f * y);
      ASSERT_TRUE(Within(out.Row(0)[i], f * y, error + 0x1p-149))
          << static_cast<int>(activation) << " of " << x << " times " << y << ": " << out.Row(0)[i]
          << ", expected " << f * y;
    }
  });
}

TEST_P(VectorConformance, Softcap) {
  Check([&](Draw& draw) {
    const int64_t count = draw.OneIn(20) ? 0 : RaggedColumns(draw);
    const float cap = draw.Of({0.5f, 1.0f, 30.0f, 50.0f});
    const GuardedRows x = RandomRows(1, count, draw.Of({0.01f, 1.0f, 40.0f}), 1e30f, draw);
    GuardedRows out(1, count, draw), expected(1, count, draw);
    kernels().softcap(x.Row(0), cap, count, out.Row(0));
    portable().softcap(x.Row(0), cap, count, expected.Row(0));
    ASSERT_TRUE(out.GuardsStand() && SameBits(out, expected)) << count;
    for (int64_t i = 0; i < count; ++i) {
      const double want = cap * std::tanh(double{x.Row(0)[i]} / cap);
      // x / cap as a product 2, tanh of what is off by that no more; tanh from exp where 1 - exp
      // cancels most (at 0.35) 5.7, the product with cap 1. And what subnormal numbers round.
      ASSERT_TRUE(Within(out.Row(0)[i], want,
                         (2 + 5.7 + 1) * kRounding * std::fabs(want) + (cap + 1) * 0x1p-149))
          << x.Row(0)[i] << ": " << out.Row(0)[i] << ", expected " << want;
    }
  });
}

}  // namespace
}  // namespace llmir::kernels
