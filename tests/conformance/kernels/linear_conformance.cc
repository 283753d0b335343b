// Linear kernels. With u = 2^-24, what a result may be off by:
//
//   f32, f16, bf16 weights: a product enters its leaf's sum exactly (fma) and is rounded with it
//     once per column from there on, then once per level of the tree: at most K roundings in all
//     (a leaf has at least one column), so K u / (1 - K u) sum |w x|.
//   q weights: the product of the two scales, or of x_scale and x_sum, is rounded once, and each
//     group of 32 rounds the sum once or twice: at most 1 + 2 K / 32 roundings and fewer levels of
//     the tree than groups, so n = 1 + 3 K / 32 and n u / (1 - n u) sum (|scale q| + |minimum|)
//     |x_scale x_q|.
//   A rounding among subnormals is off by 2^-150 at most, which q weights multiply by a dot below
//     2^19 or a minimum below 2^16 per 32 columns: K 2^-149, and K 2^-130 for q weights.
//   silu(g) up: silu's slope is at most 1.1, silu itself is off by 2 ulp (4 u) and by 2^-119 where
//     exp(-g) overflows, and the product is rounded once. A residual is added with one rounding.
#include <gmock/gmock.h>

#include <numeric>

#include "tests/conformance/kernels/cases.h"
#include "tests/unit/kernels/linear/linear_problem.h"

namespace llmir::kernels {
namespace {

class LinearConformance : public testing::TestWithParam<const LinearKernel*> {};
INSTANTIATE_TEST_SUITE_P(Kernels, LinearConformance, testing::ValuesIn(AvailableKernels()),
                         [](const testing::TestParamInfo<const LinearKernel*>& info) {
                           return std::string(info.param->name) + "__" + IsaName(info.param->isa);
                         });

// A value and what a kernel may be off by.
struct Estimate {
  double value = 0;
  double error = 0;
};

// Overwrites some values: the largest and smallest quants, zero and subnormal scales; floats that
// are zero, subnormal unless `normal`, large and, rarely, infinite or NaN.
void MakeExtreme(Matrix& w, bool normal, Draw& draw) {
  if (!IsBlockFormat(w.encoding)) {
    const bool finite = !draw.OneIn(4);
    for (int64_t i = draw.Uniform(1, 4); i > 0; --i) {
      const int64_t at = draw.Uniform(0, w.rows * w.columns - 1);
      const float value = draw.Special(finite, 3e4f, normal);
      std::byte* row = w.bytes.data() + at / w.columns * w.row_bytes;
      EncodeRow(w.encoding, &value, 1, row + RowBytes(w.encoding, at % w.columns));
      float stored;
      DecodeRow(w.encoding, row + RowBytes(w.encoding, at % w.columns), 1, &stored);
      w.values[static_cast<size_t>(at)] = stored;
    }
    return;
  }
  const BlockShape shape = ShapeOf(w.encoding);
  const int64_t block_bytes = RowBytes(w.encoding, shape.group);
  const int64_t head = shape.minimum ? 4 : 2;
  const int64_t blocks = w.columns / shape.group;
  for (int64_t i = draw.Uniform(1, 2 * w.rows); i > 0; --i) {
    const int64_t r = draw.Uniform(0, w.rows - 1);
    const int64_t b = draw.Uniform(0, blocks - 1);
    std::byte* block = w.bytes.data() + r * w.row_bytes + b * block_bytes;
    if (draw.OneIn(2)) {
      std::memset(block + head, draw.Of({0xff, 0x80, 0x7f, 0x00}),
                  static_cast<size_t>(block_bytes - head));
    }
    for (int64_t at = 0; at < head; at += 2) {
      const auto half = static_cast<uint16_t>(
          draw.Of({0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x3c00, 0x7bff, 0xfbff}));
      std::memcpy(block + at, &half, 2);
    }
    uint16_t halves[2];
    std::memcpy(halves, block, 4);
    for (int k = 0; k < shape.group; ++k) {
      w.values[static_cast<size_t>(r * w.columns + b * shape.group + k)] =
          HalfValue(halves[0]) * QuantOf(w.encoding, block, k) +
          (shape.minimum ? HalfValue(halves[1]) : 0.0);
    }
  }
}

// Rows of zeros, huge and tiny rows, special values; for q weights in the scales of groups, as
// quantizing such values gives them. `normal`: products of them are no subnormals.
void MakeExtreme(Activations& x, bool int8, bool normal, Draw& draw) {
  const bool finite = draw.OneIn(2);
  for (int64_t t = 0; t < x.tokens; ++t) {
    if (!draw.OneIn(3)) continue;
    const float factor =
        normal ? draw.Of({0.0f, 1e-3f, 1e12f}) : draw.Of({0.0f, 1e-36f, 1e-20f, 1e12f, 1e20f});
    const int64_t begin = draw.Uniform(0, x.columns - 1);
    const int64_t end = draw.Uniform(begin + 1, x.columns);
    for (int64_t k = begin; k < end; ++k) x.Float(t)[k] *= factor;
  }
  if (int8) x.Quantize();
  if (finite) return;
  const int64_t t = draw.Uniform(0, x.tokens - 1);
  if (!int8) {
    x.Float(t)[draw.Uniform(0, x.columns - 1)] = draw.Special(false, 1e20f, normal);
    return;
  }
  const int64_t g = draw.Uniform(0, x.columns / 32 - 1);
  std::byte* row = x.q8.data() + t * x.q8_stride;
  const float scale = draw.OneIn(2) ? std::numeric_limits<float>::infinity() : std::nanf("");
  std::memset(row + g * 32, 0, 32);
  std::memcpy(row + x.columns + g * 4, &scale, 4);
  std::memset(row + x.columns + x.columns / 32 * 4 + g * 4, 0, 4);
}

// Magnitudes of each weight's parts: |scale q| + |minimum|, or |w|.
std::vector<double> Magnitudes(const Matrix& w) {
  std::vector<double> magnitudes(w.values.size());
  const BlockShape shape = ShapeOf(w.encoding);
  for (int64_t r = 0; r < w.rows; ++r) {
    for (int64_t k = 0; k < w.columns; ++k) {
      const double value = w.values[static_cast<size_t>(r * w.columns + k)];
      double minimum = 0;
      if (shape.minimum) {
        uint16_t bits;
        std::memcpy(&bits, w.Row(r).data + k / shape.group * RowBytes(w.encoding, shape.group) + 2,
                    2);
        minimum = HalfValue(bits);
      }
      magnitudes[static_cast<size_t>(r * w.columns + k)] =
          std::fabs(value - minimum) + std::fabs(minimum);
    }
  }
  return magnitudes;
}

// What one call is about; the kernel of any family runs it.
struct Problem {
  int64_t rows = 0;
  int64_t first_column = 0;  // of the packed ones
  int64_t leaf_columns = 0;
  bool silu_mul = false;
  const Matrix* weights = nullptr;
  const Activations* x = nullptr;
  int64_t outputs() const { return silu_mul ? rows / 2 : rows; }
};

// Panels [0, panels) as one call for each share between two of `cuts`. `residual` may be null or
// `output`.
void Run(const LinearKernel& kernel, const Problem& problem, const AlignedBytes& packed,
         int64_t first_token, int64_t tokens, const std::vector<int64_t>& cuts,
         const GuardedRows* residual, GuardedRows& output) {
  LinearArgs args{};
  const Activations& x = *problem.x;
  args.weights = packed.data() + kernel.panel_bytes(problem.first_column);
  args.panel_stride = kernel.panel_bytes(problem.weights->columns);
  args.rows = problem.rows;
  args.columns = x.columns;
  args.leaf_columns = problem.leaf_columns;
  args.activation_stride = kernel.int8_activations ? x.q8_stride : x.float_stride;
  args.activations = (kernel.int8_activations ? x.q8.data() : x.floats.data()) +
                     first_token * args.activation_stride;
  args.tokens = tokens;
  args.output = output.Row(0);
  args.output_stride = output.stride();
  args.residual = residual != nullptr ? residual->Row(first_token) : nullptr;
  if (residual == &output) args.residual = output.Row(0);
  args.residual_stride = residual != nullptr ? residual->stride() : 0;
  args.silu_mul = problem.silu_mul;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    AlignedBytes scratch(kernel.scratch_bytes(x.columns, tokens));
    args.scratch = scratch.data();
    args.panel_begin = cuts[i];
    args.panel_end = cuts[i + 1];
    kernel.run(args);
  }
}

class Reference {
 public:
  Reference(const Problem& problem, const LinearKernel& kernel)
      : problem_(problem),
        int8_(kernel.int8_activations),
        magnitudes_(Magnitudes(*problem.weights)) {
    const Activations& x = *problem.x;
    for (int64_t t = 0; t < x.tokens; ++t) {
      for (int64_t k = 0; k < x.columns; ++k) {
        x_.push_back(int8_ ? double{x.Scale(t, k / 32)} * x.Quants(t)[k]
                           : double{x.Value(t, k, kernel.bf16_activations)});
      }
    }
  }

  Estimate Output(int64_t t, int64_t c, const float* residual) const {
    Estimate y;
    if (problem_.silu_mul) {
      const int64_t gate_row = c / kPanelRows * 2 * kPanelRows + c % kPanelRows;
      const Estimate gate = Sum(t, gate_row);
      const Estimate up = Sum(t, gate_row + kPanelRows);
      const double silu = gate.value / (1 + std::exp(-gate.value));
      const double silu_error =
          1.1 * gate.error + 5 * kRounding * (std::fabs(silu) + 1.1 * gate.error) + 0x1p-119;
      y.value = silu * up.value;
      y.error = silu_error * (std::fabs(up.value) + up.error) + std::fabs(silu) * up.error;
      y.error += kRounding * (std::fabs(y.value) + y.error) + 0x1p-149;
    } else {
      y = Sum(t, c);
    }
    if (residual != nullptr) {
      y.value += *residual;
      y.error += kRounding * (std::fabs(y.value) + y.error);
    }
    return y;
  }

 private:
  Estimate Sum(int64_t t, int64_t n) const {
    const int64_t columns = problem_.x->columns;
    const int64_t at = n * problem_.weights->columns + problem_.first_column;
    double value = 0;
    double magnitude = 0;
    for (int64_t k = 0; k < columns; ++k) {
      const double x = x_[static_cast<size_t>(t * columns + k)];
      value += problem_.weights->values[static_cast<size_t>(at + k)] * x;
      magnitude += magnitudes_[static_cast<size_t>(at + k)] * std::fabs(x);
    }
    const double roundings =
        int8_ ? 1.0 + 3.0 * static_cast<double>(columns) / 32 : static_cast<double>(columns);
    const double unit = roundings * kRounding;
    return {value, unit / (1 - unit) * magnitude +
                       static_cast<double>(columns) * (int8_ ? 0x1p-130 : 0x1p-149)};
  }

  Problem problem_;
  bool int8_;
  std::vector<double> magnitudes_;
  std::vector<double> x_;
};

void OneCase(const LinearKernel& kernel, Draw& draw) {
  const bool int8 = kernel.int8_activations;
  const int64_t group = int8 ? ShapeOf(kernel.weight).group : 1;
  // Where the processor multiplies bf16, subnormals are zeros.
  const bool normal = kernel.bf16_activations;
  Problem problem;
  problem.silu_mul = draw.OneIn(4);
  problem.rows =
      problem.silu_mul ? 32 * draw.Uniform(1, 3) : draw.Ragged(draw.OneIn(12) ? 200 : 70);
  const int64_t most = draw.OneIn(25) ? 640 : 192;
  const int64_t columns = int8 ? group * draw.Uniform(1, most / group) : draw.Ragged(most);
  int64_t tokens = 1;
  if (!draw.OneIn(3)) tokens = draw.OneIn(5) ? draw.Uniform(17, 40) : draw.Uniform(2, 16);
  if (!draw.OneIn(3)) {
    const int64_t grain = int8 ? group : kernel.bf16_activations ? 2 : 1;
    problem.leaf_columns = grain * draw.Uniform(1, (columns + grain - 1) / grain + 1);
  }
  // A part of the columns of what was packed.
  int64_t packed_columns = columns;
  if (draw.OneIn(4)) {
    problem.first_column = std::max(kernel.column_step, group) * draw.Uniform(0, 2);
    packed_columns = problem.first_column + columns + group * draw.Uniform(0, 2);
  }
  SCOPED_TRACE("rows " + std::to_string(problem.rows) + ", columns " + std::to_string(columns) +
               " from " + std::to_string(problem.first_column) + " of " +
               std::to_string(packed_columns) + ", tokens " + std::to_string(tokens) + ", leaf " +
               std::to_string(problem.leaf_columns) + ", silu_mul " +
               std::to_string(problem.silu_mul));

  Matrix w(kernel.weight, problem.rows, packed_columns, draw.random());
  if (draw.OneIn(2)) MakeExtreme(w, normal, draw);
  Activations x(tokens, columns, draw.random());
  if (draw.OneIn(2)) MakeExtreme(x, int8, normal, draw);
  problem.weights = &w;
  problem.x = &x;

  GuardedRows residual(tokens, problem.outputs(), draw);
  residual.Fill(draw, 1.0f);
  if (draw.OneIn(8)) {
    residual.Row(draw.Uniform(0, tokens - 1))[draw.Uniform(0, problem.outputs() - 1)] =
        draw.Special(false, 1e30f);
  }
  const int form = static_cast<int>(draw.Uniform(0, 2));  // no residual, apart, in place
  GuardedRows output(tokens, problem.outputs(), draw);
  if (form == 2) {
    for (int64_t t = 0; t < tokens; ++t)
      std::copy_n(residual.Row(t), problem.outputs(), output.Row(t));
  }

  const int64_t panels = (problem.rows + kPanelRows - 1) / kPanelRows;
  const int64_t grain = problem.silu_mul ? 2 : 1;
  std::vector<int64_t> cuts = {0, panels};
  for (int64_t i = draw.Uniform(0, 7); i > 0; --i)
    cuts.push_back(grain * draw.Uniform(0, panels / grain));
  std::sort(cuts.begin(), cuts.end());

  const AlignedBytes packed = Pack(kernel, w);
  Run(kernel, problem, packed, 0, tokens, cuts,
      form == 0   ? nullptr
      : form == 1 ? &residual
                  : &output,
      output);
  ASSERT_TRUE(output.GuardsStand()) << "written beside the rows";
  ASSERT_TRUE(residual.GuardsStand());

  const GuardedRows* added = form == 0 ? nullptr : &residual;
  const LinearKernel& portable = *FindLinear(kernel.name, Isa::kPortable);
  GuardedRows expected(tokens, problem.outputs(), draw);
  Run(portable, problem, Pack(portable, w), 0, tokens, {0, panels}, added, expected);
  ASSERT_TRUE(SameBits(output, expected)) << "other bits than portable's in one share";

  const int64_t alone = draw.Uniform(0, tokens - 1);
  GuardedRows row(1, problem.outputs(), draw);
  Run(kernel, problem, packed, alone, 1, {0, panels}, added, row);
  for (int64_t c = 0; c < problem.outputs(); ++c) {
    ASSERT_EQ(BitsOf(row.Row(0)[c]), BitsOf(output.Row(alone)[c]))
        << "token " << alone << " by itself, column " << c;
  }

  const Reference reference(problem, kernel);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < problem.outputs(); ++c) {
      const Estimate exact = reference.Output(t, c, added != nullptr ? added->Row(t) + c : nullptr);
      ASSERT_TRUE(Within(output.Row(t)[c], exact.value, exact.error))
          << "token " << t << ", column " << c << ": " << output.Row(t)[c] << ", expected "
          << exact.value << " within " << exact.error;
    }
  }
}

TEST_P(LinearConformance, AgreesWithDoubleAndItsBitsAreThePortableOnes) {
  const auto kernels = static_cast<int64_t>(AvailableKernels().size());
  ForCases(GetParam()->name, (kLinearCases + kernels - 1) / kernels,
           [&](Draw& draw) { OneCase(*GetParam(), draw); });
}

}  // namespace
}  // namespace llmir::kernels
