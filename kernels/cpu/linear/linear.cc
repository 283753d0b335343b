#include "kernels/linear.h"

#include <algorithm>
#include <bit>

#include "kernels/cpu/linear/linear_kernels.h"
#include "kernels/cpu/linear/packing.h"
#include "kernels/cpu/linear/rounded.h"
#include "kernels/cpu/linear/tile.h"
#include "kernels/cpu/linear/unpacked.h"

namespace llmir::kernels {
namespace {

// As many levels as the count of leaves has bits; a leaf has at least one column.
int64_t TreeLevels(int64_t columns) {
  return static_cast<int64_t>(std::bit_width(static_cast<uint64_t>(columns)));
}

// Of a tile: the sums of the parts and the tree of leaf sums. Of a block of tokens (unpacked.h): an
// unpacked segment, the tokens' sums and their trees.
int64_t DriverBytes(int64_t columns, int64_t max_tokens) {
  const int64_t levels = TreeLevels(columns);
  const int64_t block = std::min(max_tokens, kMaxBlockTokens);
  return std::max((MaxParts(columns) + levels) * kMaxTile * kLine,
                  kSegmentBytes + (2 * kMaxBlockTokens + levels * block) * kLine);
}

template <PanelLayout kLayout>
int64_t ScratchBytes(int64_t columns, int64_t max_tokens) {
  const bool rounded = kLayout == PanelLayout::kBF16Pairs;
  return DriverBytes(columns, max_tokens) + (rounded ? RoundedBytes(columns, max_tokens) : 0);
}

constexpr LinearKernel kKernels[] = {
#define LLMIR_LINEAR(activation, weight, family, isa, encoding, int8, layout) \
  {"linear_" #activation "_" #weight,                                         \
   Isa::isa,                                                                  \
   Encoding::encoding,                                                        \
   int8,                                                                      \
   PanelLayout::layout == PanelLayout::kBF16Pairs,                            \
   static_cast<uint32_t>(PanelLayout::layout),                                \
   &Packing<PanelLayout::layout>::PanelBytes,                                 \
   ColumnStep(PanelLayout::layout),                                           \
   &Packing<PanelLayout::layout>::PackPanel,                                  \
   &PackScratchBytes,                                                         \
   &Packing<PanelLayout::layout>::UnpackRow,                                  \
   &Packing<PanelLayout::layout>::RestoreRow,                                 \
   &linear_##activation##_##weight##__##family,                               \
   &ScratchBytes<PanelLayout::layout>},
#include "kernels/cpu/linear/linear_list.inc"
#undef LLMIR_LINEAR
};

}  // namespace

std::span<const LinearKernel> LinearKernels() { return kKernels; }

int64_t MaxParts(int64_t columns) { return 2 * TreeLevels(columns); }

const LinearKernel* FindLinear(std::string_view name, Isa isa) {
  const LinearKernel* best = nullptr;
  for (const LinearKernel& kernel : kKernels) {
    if (kernel.name != name || kernel.isa > isa) continue;
    if (best == nullptr || kernel.isa > best->isa) best = &kernel;
  }
  return best;
}

const LinearKernel* FindLinearByLayout(uint32_t layout) {
  for (const LinearKernel& kernel : kKernels) {
    if (kernel.layout == layout) return &kernel;
  }
  return nullptr;
}

PanelPart PanelPartOf(const LinearKernel& kernel, int64_t columns, int64_t row_begin,
                      int64_t row_end, int64_t column_begin, int64_t column_end) {
  const int64_t step = kernel.column_step;
  const int64_t end = (column_end + step - 1) / step * step;
  return {row_begin / kPanelRows, (row_end + kPanelRows - 1) / kPanelRows,
          kernel.panel_bytes(column_begin / step * step),
          kernel.panel_bytes(end < columns ? end : columns)};
}

}  // namespace llmir::kernels
