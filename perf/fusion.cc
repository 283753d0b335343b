// llmir-fusion: appending and attending in one pass against the two passes, the kernels alone
// (kernels/attention.h). One layer of a decode step: every sequence has `context` tokens in the
// cache and appends one.
//
//   llmir-fusion --pairs 200          times pairs of both in random order, prints JSON
//   llmir-fusion --run fused --steps 10   runs one of them only, to be counted by callgrind
#include <CLI/CLI.hpp>
#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/isa.h"
#include "kernels/worker_pool.h"

namespace llmir::kernels {
namespace {

struct Shape {
  int64_t batch = 32;
  int64_t context = 64;
  int64_t query_heads = 9;
  int64_t kv_heads = 3;
  int64_t head_dim = 64;
  int64_t block_size = 16;
  std::string kv = "bf16";
};

struct Element {
  KvType type;
  int64_t bytes;  // of a value
  int64_t scale_bytes;
};

Element ElementOf(const std::string& name) {
  if (name == "f32") return {KvType::kF32, 4, 0};
  if (name == "i8") return {KvType::kI8, 1, 4};
  if (name == "f8_e4m3") return {KvType::kF8E4M3, 1, 0};
  return {KvType::kBF16, 2, 0};
}

class Layer {
 public:
  Layer(const Shape& shape, Isa isa, int threads)
      : kernels_(FindAttention(isa)), pool_(threads), rope_dim_(shape.head_dim) {
    const Element element = ElementOf(shape.kv);
    const int64_t blocks = shape.context / shape.block_size + 1;
    const int64_t head_bytes =
        2 * shape.block_size * (shape.head_dim * element.bytes + element.scale_bytes);
    const int64_t block_bytes = shape.kv_heads * head_bytes;
    // A sequence in an extent of its own.
    const auto extent_blocks = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(blocks)));
    cache_.resize(static_cast<size_t>(shape.batch * extent_blocks * block_bytes));
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (int64_t s = 0; s < shape.batch; ++s) {
      for (int64_t b = 0; b < blocks; ++b) {
        indices_.push_back(static_cast<int32_t>(s * extent_blocks + b));
      }
    }
    for (int64_t s = 0; s <= shape.batch; ++s) {
      query_indptr_.push_back(static_cast<int32_t>(s));
      kv_indptr_.push_back(static_cast<int32_t>(s * blocks));
    }
    const int64_t stride = (shape.query_heads + 2 * shape.kv_heads) * shape.head_dim;
    qkv_.resize(static_cast<size_t>(shape.batch * stride));
    output_.resize(static_cast<size_t>(shape.batch * shape.query_heads * shape.head_dim));
    const int64_t half = rope_dim_ / 2;
    for (int64_t i = 0; i < half; ++i) {
      const double turns = static_cast<double>(i) / static_cast<double>(half);
      frequencies_.push_back(static_cast<float>(std::pow(10000.0, -turns)));
    }
    cosines_.resize(static_cast<size_t>(shape.batch * half));
    sines_ = cosines_;
    const int64_t tokens = shape.context + 1;
    partials_.resize(static_cast<size_t>(
        AttentionPartialBytes(shape.batch, shape.query_heads, shape.head_dim, tokens)));
    scratch_bytes_ = kernels_.scratch_bytes(shape.head_dim, AttentionForm::kFlash, tokens);
    scratch_bytes_ = (scratch_bytes_ + 63) / 64 * 64;
    scratch_.resize(static_cast<size_t>(scratch_bytes_ * threads));
    kv_tokens_.resize(static_cast<size_t>(shape.batch));
    const SequenceTable table{shape.batch, query_indptr_.data(), kv_indptr_.data(), indices_.data(),
                              kv_tokens_.data()};
    const KvLayer kv{cache_.data(),    extent_blocks * block_bytes,
                     head_bytes / 2,   extent_blocks,
                     shape.block_size, shape.head_dim,
                     element.type};
    const RopeArgs rope{frequencies_.data(), rope_dim_, false};
    append_ = {qkv_.data(),
               stride,
               shape.query_heads,
               shape.kv_heads,
               rope,
               cosines_.data(),
               sines_.data(),
               kv,
               table,
               0,
               shape.batch};
    attention_ = {qkv_.data(),
                  stride,
                  output_.data(),
                  shape.query_heads * shape.head_dim,
                  shape.query_heads,
                  0,
                  0,
                  shape.query_heads / shape.kv_heads,
                  1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
                  kv,
                  table,
                  partials_.data(),
                  nullptr,
                  0,
                  threads};
    // Fill the cache up to the step that is measured.
    std::vector<int32_t> positions(static_cast<size_t>(shape.batch));
    for (int64_t t = 0; t <= shape.context; ++t) {
      for (float& x : qkv_) x = normal(random);
      std::fill(kv_tokens_.begin(), kv_tokens_.end(), static_cast<int32_t>(t + 1));
      std::fill(positions.begin(), positions.end(), static_cast<int32_t>(t));
      kernels_.rope_tables(positions.data(), rope, 0, shape.batch, cosines_.data(), sines_.data());
      if (t < shape.context) kernels_.rope_append(append_);
    }
  }

  void Run(bool fused) {
    pool_.Run([&](int thread) {
      AttentionArgs attention = attention_;
      attention.thread = thread;
      attention.scratch = scratch_.data() + thread * scratch_bytes_;
      if (fused) {
        kernels_.append_attend(append_, attention);
      } else {
        RopeAppendArgs append = append_;
        const Share share = ShareOf(append.token_end, 1, thread, pool_.threads());
        append.token_begin = share.begin;
        append.token_end = share.end;
        if (share.begin < share.end) kernels_.rope_append(append);
        pool_.Barrier();
        kernels_.attend(attention);
      }
      if (partials_.empty()) return;
      pool_.Barrier();
      kernels_.merge(attention);
    });
  }

  double Time(bool fused) {
    const auto before = std::chrono::steady_clock::now();
    Run(fused);
    const auto after = std::chrono::steady_clock::now();
    return std::chrono::duration<double, std::micro>(after - before).count();
  }

 private:
  const AttentionKernels& kernels_;
  WorkerPool pool_;
  int64_t rope_dim_;
  int64_t scratch_bytes_ = 0;
  std::vector<std::byte> cache_, partials_, scratch_;
  std::vector<int32_t> query_indptr_, kv_indptr_, indices_, kv_tokens_;
  std::vector<float> qkv_, output_, frequencies_, cosines_, sines_;
  RopeAppendArgs append_{};
  AttentionArgs attention_{};
};

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (at - static_cast<double>(low)) * (values[high] - values[low]);
}

nlohmann::json Quartiles(const std::vector<double>& values) {
  return {{"median", Quantile(values, 0.5)},
          {"q25", Quantile(values, 0.25)},
          {"q75", Quantile(values, 0.75)}};
}

int Main(int argc, char** argv) {
  CLI::App app("Appending and attending in one pass against two, the kernels alone");
  Shape shape;
  int threads = 1;
  int pairs = 200;
  int steps = 1;
  std::string run;
  app.add_option("--batch", shape.batch, "sequences")->check(CLI::Range(1, 4096));
  app.add_option("--context", shape.context, "tokens in the cache before the step")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--query-heads", shape.query_heads)->check(CLI::Range(1, 1024));
  app.add_option("--kv-heads", shape.kv_heads)->check(CLI::Range(1, 1024));
  app.add_option("--head-dim", shape.head_dim)->check(CLI::Range(2, 1024));
  app.add_option("--kv", shape.kv, "elements of K and V")
      ->check(CLI::IsMember({"f32", "bf16", "i8", "f8_e4m3"}));
  app.add_option("--threads", threads)->check(CLI::Range(1, 256));
  app.add_option("--pairs", pairs, "timed pairs")->check(CLI::Range(1, 1000000));
  app.add_option("--run", run, "run only this one, untimed")
      ->check(CLI::IsMember({"fused", "unfused"}));
  app.add_option("--steps", steps, "how often --run runs it")->check(CLI::Range(0, 1000000));
  CLI11_PARSE(app, argc, argv);
  if (shape.query_heads % shape.kv_heads != 0 || shape.head_dim % 2 != 0) {
    std::cerr << "llmir-fusion: KV heads must divide query heads, and heads have an even size\n";
    return 2;
  }
  Isa isa = DetectIsa();
  if (const char* name = std::getenv("LLMIR_CPU_ISA")) {
    const std::optional<Isa> asked = ParseIsa(name);
    if (!asked || !IsaAvailable(*asked)) {
      std::cerr << "llmir-fusion: LLMIR_CPU_ISA=" << name << " isn't available here\n";
      return 2;
    }
    isa = *asked;
  }
  Layer layer(shape, isa, threads);
  if (!run.empty()) {
    for (int i = 0; i < steps; ++i) layer.Run(run == "fused");
    return 0;
  }
  std::mt19937 random(2);
  std::vector<double> fused, unfused, ratios;
  constexpr int kWarmUp = 20;
  for (int i = 0; i < kWarmUp + pairs; ++i) {
    double times[2];
    const bool first = random() % 2 == 0;
    times[first] = layer.Time(first);
    times[!first] = layer.Time(!first);
    if (i < kWarmUp) continue;
    unfused.push_back(times[false]);
    fused.push_back(times[true]);
    ratios.push_back(times[true] / times[false]);
  }
  std::cout << nlohmann::json{{"isa", IsaName(isa)},
                              {"batch", shape.batch},
                              {"context", shape.context},
                              {"query_heads", shape.query_heads},
                              {"kv_heads", shape.kv_heads},
                              {"head_dim", shape.head_dim},
                              {"kv", shape.kv},
                              {"threads", threads},
                              {"pairs", pairs},
                              {"fused_us", Quartiles(fused)},
                              {"unfused_us", Quartiles(unfused)},
                              {"ratio", Quartiles(ratios)}}
                   .dump(2)
            << "\n";
  return 0;
}

}  // namespace
}  // namespace llmir::kernels

int main(int argc, char** argv) { return llmir::kernels::Main(argc, argv); }
