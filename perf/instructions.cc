// llmir-instructions: runs every linear kernel of a family on one matrix, to be counted by
// callgrind (perf/instructions.py), which is asked for a dump per kernel and number of tokens.
#include <valgrind/callgrind.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstddef>
#include <iostream>
#include <new>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kernels/activations.h"
#include "kernels/isa.h"
#include "kernels/linear.h"
#include "kernels/vector.h"

namespace llmir::kernels {
namespace {

constexpr int64_t kRows = 16 * kPanelRows;
constexpr int64_t kColumns = 576;  // SmolLM2's
constexpr int64_t kTokens[] = {1, 8, 64};

class Bytes {
 public:
  explicit Bytes(int64_t size)
      : data_(static_cast<std::byte*>(
            ::operator new[](static_cast<size_t>(size), std::align_val_t{64}))) {}
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  ~Bytes() { ::operator delete[](data_, std::align_val_t{64}); }
  std::byte* get() const { return data_; }

 private:
  std::byte* data_;
};

void Count(const LinearKernel& kernel, int64_t tokens) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  std::vector<float> values(static_cast<size_t>(kPanelRows * kColumns));
  for (float& value : values) value = normal(random);
  std::vector<SourceRow> rows;
  for (int64_t r = 0; r < kPanelRows; ++r) {
    rows.push_back({Encoding::kF32, reinterpret_cast<const std::byte*>(&values[r * kColumns])});
  }
  const int64_t panel_bytes = kernel.panel_bytes(kColumns);
  const Bytes weights(kRows / kPanelRows * panel_bytes);
  const Bytes pack_scratch(kernel.pack_scratch_bytes(kColumns));
  for (int64_t p = 0; p < kRows / kPanelRows; ++p) {
    kernel.pack_panel(rows, kColumns, weights.get() + p * panel_bytes, pack_scratch.get());
  }

  std::vector<float> inputs(static_cast<size_t>(tokens * kColumns));
  for (float& value : inputs) value = normal(random);
  const int64_t stride =
      ((kernel.int8_activations ? Q8RowBytes(kColumns) : kColumns * 4) + 63) / 64 * 64;
  const Bytes activations(tokens * stride);
  for (int64_t t = 0; t < tokens; ++t) {
    float* const row = reinterpret_cast<float*>(activations.get() + t * stride);
    std::copy_n(&inputs[t * kColumns], kernel.int8_activations ? 0 : kColumns, row);
  }
  if (kernel.int8_activations) {
    FindVector(kernel.isa)
        .quantize(inputs.data(), kColumns, tokens, kColumns, activations.get(), stride);
  }
  const Bytes scratch(kernel.scratch_bytes(kColumns, tokens));
  std::vector<float> output(static_cast<size_t>(tokens * kRows));
  LinearArgs args{};
  args.weights = weights.get();
  args.rows = kRows;
  args.columns = kColumns;
  args.activations = activations.get();
  args.activation_stride = stride;
  args.tokens = tokens;
  args.output = output.data();
  args.output_stride = kRows;
  args.panel_end = kRows / kPanelRows;
  args.scratch = scratch.get();
  const std::string name = std::string(kernel.name) + "/" + std::to_string(tokens);
  CALLGRIND_ZERO_STATS;
  kernel.run(args);
  CALLGRIND_DUMP_STATS_AT(name.c_str());
}

int Main(int argc, char** argv) {
  CLI::App app("Every linear kernel of a family, once for each number of tokens, under callgrind");
  std::string family = "avx2";
  app.add_option("--isa", family, "portable, avx2 or avx512");
  CLI11_PARSE(app, argc, argv);
  const std::optional<Isa> isa = ParseIsa(family);
  if (!isa || !IsaAvailable(*isa)) {
    std::cerr << "llmir-instructions: --isa " << family << " isn't available here\n";
    return 2;
  }
  for (const LinearKernel& kernel : LinearKernels()) {
    if (kernel.isa != *isa) continue;
    for (const int64_t tokens : kTokens) Count(kernel, tokens);
  }
  return 0;
}

}  // namespace
}  // namespace llmir::kernels

int main(int argc, char** argv) { return llmir::kernels::Main(argc, argv); }
