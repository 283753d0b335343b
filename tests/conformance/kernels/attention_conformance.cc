// Attention over random batches, chunks, threads and shapes. With u = 2^-24, n tokens attended to
// and D the greatest error of a score, what an output may be off by, relative to the largest
// magnitude of the values it averages:
//
//   score: head_dim + 3 roundings of sum |q k| scale; softcap: its slope is at most 1, tanh is off
//     by 3 ulp and the quotient and product by one each: 8 u cap.
//   p: the score's difference from the maximum is rounded, which exp multiplies by its size, at
//   most
//     128: e^(2 D + 128 u) - 1, for both p and the sum that it is divided by.
//   sums: p v and p are each rounded n times, and rescaled three times per tile and split.
#include "tests/conformance/kernels/cases.h"
#include "tests/unit/kernels/attention_rank.h"

namespace llmir::kernels {
namespace {

class AttentionConformance : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(Families, AttentionConformance, testing::ValuesIn(AvailableFamilies()),
                         FamilyName);

struct Problem {
  Shape shape;
  float amplitude = 1;
  std::vector<int64_t> lengths;  // of the sequences in the end
  int64_t tokens = 0;            // what the cache must hold
  // A value that isn't finite, in one token's row.
  bool bad = false;
  int bad_sequence = 0;
  int64_t bad_position = 0;
  int64_t bad_index = 0;
  float bad_value = 0;

  void Prepare(Rank& rank, bool with_bad) const {
    rank.set_amplitude(amplitude);
    if (with_bad) rank.Replace(bad_sequence, bad_position, bad_index, bad_value);
  }
};

Problem RandomProblem(Draw& draw) {
  Problem problem;
  Shape& shape = problem.shape;
  shape.type = draw.Of({KvType::kF32, KvType::kBF16, KvType::kI8, KvType::kF8E4M3});
  shape.head_dim = draw.OneIn(4)    ? draw.Uniform(1, 45)
                   : draw.OneIn(12) ? 8 * draw.Uniform(9, 32)
                                    : 8 * draw.Uniform(1, 8);
  shape.rope_dim = 2 * draw.Uniform(0, shape.head_dim / 2);
  shape.interleaved = draw.OneIn(2);
  shape.block_size = draw.Of({16, 32, 64, 128});
  shape.heads_per_kv = draw.OneIn(12) ? draw.Uniform(6, 26) : draw.Uniform(1, 4);
  shape.model_heads = shape.heads_per_kv * draw.Uniform(1, shape.heads_per_kv > 4 ? 1 : 3);
  shape.first_head = draw.OneIn(2) ? 0 : draw.Uniform(0, shape.model_heads - 1);
  shape.end_head =
      draw.OneIn(2) ? shape.model_heads : draw.Uniform(shape.first_head + 1, shape.model_heads);
  shape.window = draw.OneIn(2) ? 0 : draw.OneIn(2) ? draw.Uniform(1, 70) : draw.Uniform(1, 330);
  shape.softcap = draw.OneIn(4) ? draw.Of({0.7f, 30.0f}) : 0.0f;
  shape.form = draw.OneIn(3) ? draw.Of({AttentionForm::kFusedSoftmax, AttentionForm::kMasked,
                                        AttentionForm::kStandard})
                             : AttentionForm::kFlash;
  shape.share_kv = !draw.OneIn(4);
  shape.fused = shape.form == AttentionForm::kFlash && draw.OneIn(2);
  problem.amplitude = draw.Of({1.0f, 1.0f, 1.0f, 1e-3f, 6.0f});
  for (int64_t s = draw.Uniform(1, 4); s > 0; --s) {
    int64_t length = draw.Uniform(1, 40);
    if (draw.OneIn(4)) length = 64 + draw.Uniform(-2, 2);
    if (draw.OneIn(14)) length = 256 + draw.Uniform(-2, 3);
    if (draw.OneIn(80)) length = 512 + draw.Uniform(-2, 3);
    problem.lengths.push_back(length);
    problem.tokens += (length + shape.block_size - 1) / shape.block_size * shape.block_size;
  }
  problem.bad = draw.OneIn(4);
  problem.bad_sequence = static_cast<int>(draw.Uniform(0, std::ssize(problem.lengths) - 1));
  problem.bad_position = draw.Uniform(0, problem.lengths[problem.bad_sequence] - 1);
  problem.bad_index =
      draw.Uniform(0, (shape.model_heads + 2 * shape.model_kv_heads()) * shape.head_dim - 1);
  problem.bad_value = draw.Special(false, std::nanf(""));
  if (std::isfinite(problem.bad_value)) problem.bad_value = std::nanf("");
  return problem;
}

// Steps of ragged chunks of some of the sequences, decodes among them.
void RunInChunks(const Problem& problem, Rank& rank, Draw draw) {
  std::vector<int64_t> done(problem.lengths.size());
  while (done != problem.lengths) {
    const bool decode = draw.OneIn(2);
    const int64_t most = draw.Of({3, 40, 150});
    std::vector<Part> parts;
    for (size_t s = 0; s < done.size(); ++s) {
      const int64_t left = problem.lengths[s] - done[s];
      if (left == 0 || draw.OneIn(4)) continue;
      // Long ones mostly by chunks: token by token they would take all of the time.
      const int64_t tokens =
          decode && (left < 30 || draw.OneIn(2)) ? 1 : std::min(left, draw.Uniform(1, most));
      parts.push_back({static_cast<int>(s), tokens});
      done[s] += tokens;
    }
    if (draw.OneIn(2)) std::reverse(parts.begin(), parts.end());
    if (!parts.empty()) rank.Step(parts);
  }
}

// Each sequence by itself and in one step.
void RunWhole(const Problem& problem, Rank& rank) {
  for (size_t s = 0; s < problem.lengths.size(); ++s)
    rank.Step({{static_cast<int>(s), problem.lengths[s]}});
}

void ExpectSame(const std::vector<float>& a, const std::vector<float>& b, const char* what) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) ASSERT_EQ(BitsOf(a[i]), BitsOf(b[i])) << what << " " << i;
}

// The error that each output of a row may have, by query head.
std::vector<double> ErrorsOf(const Problem& problem, const Rank& rank, int sequence,
                             int64_t position) {
  const Shape& shape = problem.shape;
  std::vector<double> errors;
  for (int64_t h = 0; h < shape.heads(); ++h) {
    const int64_t kv_head = (shape.first_head + h) / shape.heads_per_kv - shape.first_kv_head();
    const float* q = rank.rotated(sequence, position).data() + h * shape.head_dim;
    const int64_t begin = shape.window > 0 ? std::max<int64_t>(0, position + 1 - shape.window) : 0;
    double score = 0;
    double value = 0;
    for (int64_t t = begin; t <= position; ++t) {
      double sum = 0;
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        sum += std::fabs(double{q[d]} * rank.CachedKey(sequence, t, kv_head, d));
        value = std::max<double>(value, std::fabs(rank.CachedValue(sequence, t, kv_head, d)));
      }
      score = std::max(score, sum * rank.scale());
    }
    const double off =
        static_cast<double>(shape.head_dim + 3) * kRounding * score + 8 * kRounding * shape.softcap;
    const auto n = static_cast<double>(position + 1 - begin);
    errors.push_back(value * (2 * std::expm1(2 * off + 128 * kRounding) +
                              (2 * n + 6 * (n / 64 + 2)) * kRounding) +
                     0x1p-140);
  }
  return errors;
}

void OneCase(Isa isa, Draw& draw) {
  const Problem problem = RandomProblem(draw);
  const Shape& shape = problem.shape;
  SCOPED_TRACE(
      "type " + std::to_string(static_cast<int>(shape.type)) + ", head_dim " +
      std::to_string(shape.head_dim) + ", heads " + std::to_string(shape.first_head) + " to " +
      std::to_string(shape.end_head) + " of " + std::to_string(shape.model_heads) + ", per KV " +
      std::to_string(shape.heads_per_kv) + ", window " + std::to_string(shape.window) + ", form " +
      std::to_string(static_cast<int>(shape.form)) + ", softcap " + std::to_string(shape.softcap) +
      ", fused " + std::to_string(shape.fused) + ", block " + std::to_string(shape.block_size) +
      ", bad " + std::to_string(problem.bad) + " at " + std::to_string(problem.bad_sequence) + "/" +
      std::to_string(problem.bad_position));
  Rank rank(shape, isa, static_cast<int>(draw.Uniform(1, 8)), 0xff, problem.tokens);
  problem.Prepare(rank, problem.bad);
  RunInChunks(problem, rank, draw);
  Shape plain = shape;
  plain.fused = false;
  Rank whole(plain, Isa::kPortable, 1, 0x00, problem.tokens);
  problem.Prepare(whole, problem.bad);
  RunWhole(problem, whole);
  Rank clean(plain, isa, 2, 0xff, problem.tokens);
  problem.Prepare(clean, false);
  if (problem.bad) RunWhole(problem, clean);

  int64_t i = 0;
  for (const auto& [key, row] : rank.outputs()) {
    const auto& [sequence, position] = key;
    const bool spoiled = problem.bad && sequence == problem.bad_sequence;
    // The other forms multiply masked values by p = 0, which a value that isn't finite survives.
    const bool masked = spoiled && shape.form != AttentionForm::kFlash;
    SCOPED_TRACE("sequence " + std::to_string(sequence) + ", position " + std::to_string(position));
    if (!masked) ExpectSame(row, whole.outputs().at(key), "other bits in portable's one step:");
    const bool attends = spoiled && position >= problem.bad_position &&
                         (shape.window == 0 || position < problem.bad_position + shape.window);
    if (problem.bad && !attends && !masked)
      ExpectSame(row, clean.outputs().at(key), "reached by what it doesn't attend to:");
    if (testing::Test::HasFailure()) return;
    if (i++ % 11 != 0 && position + 1 != rank.length(sequence)) continue;
    if (masked && !attends) continue;
    // A fused step leaves its queries unrotated, so the reference takes those of the other run.
    const std::vector<double> exact = whole.Reference(sequence, position);
    const std::vector<double> errors = ErrorsOf(problem, whole, sequence, position);
    for (size_t c = 0; c < row.size(); ++c) {
      if (!std::isfinite(exact[c])) {
        ASSERT_FALSE(std::isfinite(row[c])) << "column " << c;
        continue;
      }
      // An infinite score of the wrong sign is p = 0, unless a tile has no other.
      if (spoiled && std::isinf(problem.bad_value)) continue;
      const double error = errors[c / static_cast<size_t>(shape.head_dim)];
      ASSERT_TRUE(Within(row[c], exact[c], std::isfinite(error) ? error : 0x1p100))
          << "column " << c << ": " << row[c] << ", expected " << exact[c] << " within " << error;
    }
  }
}

TEST_P(AttentionConformance, AgreesWithDoubleWhateverTheBatchChunksAndThreads) {
  const auto families = static_cast<int64_t>(AvailableFamilies().size());
  ForCases("", (kAttentionCases + families - 1) / families,
           [&](Draw& draw) { OneCase(GetParam(), draw); });
}

}  // namespace
}  // namespace llmir::kernels
