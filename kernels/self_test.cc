#include "kernels/self_test.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/activations.h"

namespace llmir::kernels {
namespace {

// Bytes that start at a multiple of 64.
class Buffer {
 public:
  explicit Buffer(int64_t bytes) : lines_(static_cast<size_t>((bytes + 63) / 64)) {}
  std::byte* data() { return reinterpret_cast<std::byte*>(lines_.data()); }
  float* floats() { return reinterpret_cast<float*>(lines_.data()); }
  bool operator==(const Buffer& other) const {
    return std::memcmp(lines_.data(), other.lines_.data(), lines_.size() * sizeof(Line)) == 0;
  }

 private:
  struct alignas(64) Line {
    std::byte bytes[64] = {};
  };
  std::vector<Line> lines_;
};

Buffer Floats(int64_t count) { return Buffer(count * static_cast<int64_t>(sizeof(float))); }

// Values in (-1, 1), the same on every machine: a linear congruential generator's upper bits
// (Knuth, The Art of Computer Programming 2, 3.3.4, table 1, line 26).
Buffer Values(int64_t count) {
  Buffer values = Floats(count);
  uint64_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    values.floats()[i] = static_cast<float>(static_cast<int32_t>(state >> 32)) * 0x1p-31f;
  }
  return values;
}

constexpr int64_t kRows = 37;      // two panels and a part
constexpr int64_t kColumns = 192;  // three groups of 64
constexpr int64_t kMostTokens = 27;

constexpr int64_t kPanels = (kRows + kPanelRows - 1) / kPanelRows;

Buffer Packed(const LinearKernel& kernel, Buffer& weights) {
  Buffer packed(kPanels * kernel.panel_bytes(kColumns));
  Buffer scratch(kernel.pack_scratch_bytes(kColumns));
  for (int64_t panel = 0; panel < kPanels; ++panel) {
    std::vector<SourceRow> rows;
    for (int64_t row = panel * kPanelRows; row < std::min((panel + 1) * kPanelRows, kRows); ++row) {
      const auto* first = reinterpret_cast<const std::byte*>(weights.floats() + row * kColumns);
      rows.push_back({Encoding::kF32, first});
    }
    kernel.pack_panel(rows, kColumns, packed.data() + panel * kernel.panel_bytes(kColumns),
                      scratch.data());
  }
  return packed;
}

Buffer Product(const LinearKernel& kernel, Buffer& packed, Buffer& activations,
               int64_t activation_stride, int64_t tokens) {
  Buffer output = Floats(tokens * kRows);
  Buffer own(kernel.scratch_bytes(kColumns, tokens));
  LinearArgs args = {};
  args.weights = packed.data();
  args.rows = kRows;
  args.columns = kColumns;
  args.leaf_columns = 64;
  args.activations = activations.data();
  args.activation_stride = activation_stride;
  args.tokens = tokens;
  args.output = output.floats();
  args.output_stride = kRows;
  args.panel_end = kPanels;
  args.scratch = own.data();
  kernel.run(args);
  return output;
}

bool Agrees(const LinearKernel& kernel) {
  const LinearKernel* portable = FindLinear(kernel.name, Isa::kPortable);
  Buffer weights = Values(kRows * kColumns);
  Buffer activations = Values(kMostTokens * kColumns);
  int64_t stride = kColumns * static_cast<int64_t>(sizeof(float));
  if (kernel.int8_activations) {
    stride = Q8RowBytes(kColumns);
    Buffer rows(kMostTokens * stride);
    FindVector(Isa::kPortable)
        .quantize(activations.floats(), kColumns, kMostTokens, kColumns, rows.data(), stride);
    activations = rows;
  }
  Buffer packed = Packed(kernel, weights);
  Buffer portable_packed = Packed(*portable, weights);
  // One row, a few, and many: each its own tile.
  for (const int64_t tokens : {int64_t{1}, int64_t{5}, kMostTokens}) {
    if (!(Product(kernel, packed, activations, stride, tokens) ==
          Product(*portable, portable_packed, activations, stride, tokens))) {
      return false;
    }
  }
  return true;
}

// One sequence: a prompt, and then one token in one pass with it. Returns the cache's bytes and all
// rows of output.
struct Attended {
  Buffer cache;
  Buffer prompt;
  Buffer answer;
};

constexpr int64_t kHeads = 6;
constexpr int64_t kKvHeads = 2;
constexpr int64_t kHeadDim = 40;  // two groups of lanes and a half
constexpr int64_t kQkvWidth = (kHeads + 2 * kKvHeads) * kHeadDim;
constexpr int64_t kOutputWidth = kHeads * kHeadDim;
constexpr int32_t kPrompt = 83;  // a tile and a part
constexpr int64_t kBlockSize = 16;

Attended Attend(const AttentionKernels& kernels, KvType type) {
  constexpr int64_t kExtentBlocks = 2;
  constexpr int64_t kBlocks =
      (kPrompt / kBlockSize + kExtentBlocks) / kExtentBlocks * kExtentBlocks;
  constexpr int64_t kHeadBytes =
      (2 * kBlockSize * kHeadDim + 2 * kBlockSize) * static_cast<int64_t>(sizeof(float));
  constexpr int64_t kTokens = kPrompt + 1;
  Attended result = {Buffer(kBlocks * kKvHeads * kHeadBytes), Floats(kPrompt * kOutputWidth),
                     Floats(kOutputWidth)};
  Buffer qkv = Values(kTokens * kQkvWidth);

  std::vector<float> frequencies;
  for (int64_t i = 0; i < kHeadDim / 2; ++i) {
    frequencies.push_back(1.0f / static_cast<float>(1 + 3 * i));
  }
  std::vector<int32_t> positions;
  for (int32_t i = 0; i < kTokens; ++i) positions.push_back(i);
  std::vector<int32_t> blocks;  // not in order
  for (int32_t i = 0; i < kBlocks; ++i) blocks.push_back((i + 2) % kBlocks);
  const RopeArgs rope = {frequencies.data(), kHeadDim, false};
  Buffer cosines = Floats(kTokens * kHeadDim / 2);
  Buffer sines = Floats(kTokens * kHeadDim / 2);
  kernels.rope_tables(positions.data(), rope, 0, kTokens, cosines.floats(), sines.floats());

  Buffer scratch(kernels.scratch_bytes(kHeadDim, AttentionForm::kFlash, kTokens));
  Buffer partials(AttentionPartialBytes(kPrompt, kHeads, kHeadDim, kTokens));
  const int32_t kv_indptr[] = {0, static_cast<int32_t>(kBlocks)};
  const auto step = [&](int32_t first, int32_t tokens, float* output, bool fused) {
    const int32_t query_indptr[] = {0, tokens};
    const int32_t kv_tokens = first + tokens;
    const SequenceTable table = {1, query_indptr, kv_indptr, blocks.data(), &kv_tokens};
    const KvLayer kv = {result.cache.data(),
                        kExtentBlocks * kKvHeads * kHeadBytes,
                        kHeadBytes / 2,
                        kExtentBlocks,
                        kBlockSize,
                        kHeadDim,
                        type};
    float* rows = qkv.floats() + first * kQkvWidth;
    const RopeAppendArgs append = {rows,
                                   kQkvWidth,
                                   kHeads,
                                   kKvHeads,
                                   rope,
                                   cosines.floats() + first * kHeadDim / 2,
                                   sines.floats() + first * kHeadDim / 2,
                                   kv,
                                   table,
                                   0,
                                   tokens};
    AttentionArgs attention = {};
    attention.q = rows;
    attention.q_stride = kQkvWidth;
    attention.output = output;
    attention.output_stride = kOutputWidth;
    attention.query_heads = kHeads;
    attention.heads_per_kv = kHeads / kKvHeads;
    attention.scale = 0.158f;
    attention.kv = kv;
    attention.table = table;
    attention.partials = partials.data();
    attention.scratch = scratch.data();
    attention.threads = 1;
    if (fused) {
      kernels.append_attend(append, attention);
    } else {
      kernels.rope_append(append);
      kernels.attend(attention);
    }
    kernels.merge(attention);
  };
  step(0, kPrompt, result.prompt.floats(), false);
  step(kPrompt, 1, result.answer.floats(), true);
  return result;
}

const char* FailedAttention(const AttentionKernels& kernels) {
  for (const KvType type : {KvType::kF32, KvType::kBF16, KvType::kI8, KvType::kF8E4M3}) {
    const Attended own = Attend(kernels, type);
    const Attended portable = Attend(FindAttention(Isa::kPortable), type);
    if (!(own.prompt == portable.prompt)) return "attend";
    if (!(own.answer == portable.answer)) return "append_attend";
    if (!(own.cache == portable.cache)) return "rope_append";
  }
  return nullptr;
}

const char* FailedVector(const VectorKernels& kernels) {
  constexpr int64_t kWidth = 160;
  constexpr int64_t kCount = 2 * kWidth;
  const VectorKernels& portable = FindVector(Isa::kPortable);
  Buffer x = Values(kCount);
  const float* values = x.floats();
  Buffer out[2] = {Floats(2 * kCount), Floats(2 * kCount)};
  // Of one kernel, called with each table and where its results go.
  const auto agree = [&](const auto& call) {
    call(kernels, out[0]);
    call(portable, out[1]);
    return out[0] == out[1];
  };
  const auto norm = [&](auto member) {
    return agree([&](const VectorKernels& k, Buffer& to) {
      (k.*member)(values, kWidth, values + 7, 1e-5f, 2, kWidth, to.floats(), kWidth);
    });
  };
  if (!norm(&VectorKernels::rms_norm)) return "rms_norm";
  if (!norm(&VectorKernels::layer_norm)) return "layer_norm";
  if (!agree([&](const VectorKernels& k, Buffer& to) {
        k.rms_norm_q8(values, kWidth, values + 7, 1e-5f, 2, kWidth, to.data(), Q8RowBytes(kWidth));
      })) {
    return "rms_norm_q8";
  }
  if (!agree([&](const VectorKernels& k, Buffer& to) {
        k.quantize(values, kWidth, 2, kWidth, to.data(), Q8RowBytes(kWidth));
      })) {
    return "quantize";
  }
  Buffer rows(2 * Q8RowBytes(kWidth));
  portable.quantize(values, kWidth, 2, kWidth, rows.data(), Q8RowBytes(kWidth));
  if (!agree([&](const VectorKernels& k, Buffer& to) {
        k.dequantize(rows.data(), Q8RowBytes(kWidth), 2, kWidth, to.floats(), kWidth);
      })) {
    return "dequantize";
  }
  constexpr int64_t kPart = 77;
  for (const Activation activation :
       {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
    if (!agree([&](const VectorKernels& k, Buffer& to) {
          k.activate(activation, values, values + kPart, kPart, to.floats());
        })) {
      return "activate";
    }
  }
  if (!agree([&](const VectorKernels& k, Buffer& to) {
        k.add(values, values + kPart, kPart, to.floats());
      })) {
    return "add";
  }
  if (!agree([&](const VectorKernels& k, Buffer& to) {
        k.softcap(values, 0.3f, kPart, to.floats());
      })) {
    return "softcap";
  }
  if (!agree([&](const VectorKernels& k, Buffer& to) {
        const ScorePart part = k.score_part(values, kPart, 5);
        std::memcpy(to.data(), &part, sizeof(part));
      })) {
    return "score_part";
  }
  if (kernels.argmax(values, kPart) != portable.argmax(values, kPart)) return "argmax";
  return nullptr;
}

}  // namespace

const char* FailedKernel(std::span<const LinearKernel> linear, const VectorKernels& vector,
                         const AttentionKernels& attention) {
  for (const LinearKernel& kernel : linear) {
    if (!Agrees(kernel)) return kernel.name;
  }
  const char* failed = FailedVector(vector);
  return failed != nullptr ? failed : FailedAttention(attention);
}

const char* FailedKernel(Isa isa) {
  std::vector<LinearKernel> linear;
  for (const LinearKernel& kernel : LinearKernels()) {
    if (kernel.isa == isa) linear.push_back(kernel);
  }
  return FailedKernel(linear, FindVector(isa), FindAttention(isa));
}

}  // namespace llmir::kernels
