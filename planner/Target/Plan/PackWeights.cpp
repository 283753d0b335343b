//===- PackWeights.cpp - Write weights as kernels read them ---------------===//

#include "planner/Target/Plan/PackWeights.h"

#include <algorithm>
#include <tuple>

#include "kernels/linear.h"
#include "plan_schema/checkpoint/packed_file.h"
#include "plan_schema/plan_facts.h"
#include "planner/Quantization/DenseKernels.h"

using namespace llmir;
using kernels::Encoding;
using kernels::kPanelRows;
using quantization::parallelFor;

namespace {

/// A tensor of a weight, and which of the weight's panels are its.
struct Piece {
  const plan::TensorT *tensor;
  checkpoint::TensorInfo source;
  int64_t firstPanel;
  int64_t panelStep; // from one of its panels to its next, in panels
  int64_t panels;
};

/// A weight with what packs it; a vector has no kernel.
struct Packing {
  plan::WeightT *weight;
  const kernels::LinearKernel *kernel;
  std::vector<Piece> pieces;
  int64_t panels;
  int64_t panelBytes;
  uint64_t bytes;
};

StatusOr<Packing> describe(const checkpoint::Checkpoint &checkpoint,
                           kernels::Isa isa, plan::PlanT &plan,
                           plan::WeightT &weight) {
  Packing packing{&weight, nullptr, {}, 0, 0, 0};
  const bool alternates = weight.interleave == plan::Interleave::panels;
  for (uint32_t index : weight.pieces) {
    const plan::TensorT &tensor = *plan.tensors[index];
    auto source = std::ranges::lower_bound(checkpoint.tensors(), tensor.name,
                                           {}, &checkpoint::TensorInfo::name);
    if (source == checkpoint.tensors().end() || source->name != tensor.name)
      return Internal("{}: no tensor {}", checkpoint.path(), tensor.name);
    const int64_t panels = (source->rows + kPanelRows - 1) / kPanelRows;
    const int64_t before = alternates
                               ? static_cast<int64_t>(packing.pieces.size())
                               : packing.panels;
    packing.pieces.push_back(
        {&tensor, *source, before, alternates ? 2 : 1, panels});
    packing.panels += panels;
  }
  const checkpoint::TensorInfo &first = packing.pieces.front().source;
  if (first.rows == 1) {
    packing.bytes = first.columns * sizeof(float);
    return packing;
  }
  packing.kernel = kernels::FindLinear(
      plan::LinearKernelName(weight.dtype, plan.bf16_activations), isa);
  packing.panelBytes = packing.kernel->panel_bytes(first.columns);
  packing.bytes = packing.panels * packing.panelBytes;
  return packing;
}

Encoding getEncoding(const checkpoint::TensorInfo &source) {
  return *kernels::FindEncoding(checkpoint::Traits(source.type).name);
}

/// Panel `index` of a piece.
void packPanel(const checkpoint::Checkpoint &checkpoint, const Packing &packing,
               const Piece &piece, int64_t index, std::byte *weight) {
  const int64_t columns = piece.source.columns;
  const int64_t rowBytes = checkpoint::RowBytes(piece.source.type, columns);
  const std::byte *source = checkpoint.Bytes(piece.source).data();
  kernels::SourceRow rows[kPanelRows];
  const int64_t begin = index * kPanelRows;
  const int64_t count = std::min(kPanelRows, piece.source.rows - begin);
  for (int64_t r = 0; r < count; ++r)
    rows[r] = {getEncoding(piece.source), source + (begin + r) * rowBytes};
  std::vector<std::byte> scratch(packing.kernel->pack_scratch_bytes(columns));
  packing.kernel->pack_panel({rows, static_cast<size_t>(count)}, columns,
                             weight +
                                 (piece.firstPanel + index * piece.panelStep) *
                                     packing.panelBytes,
                             scratch.data());
}

/// Leaf hashes of a piece in the packed weight.
std::vector<uint64_t> hashPiece(const Packing &packing, const Piece &piece,
                                std::span<const std::byte> weight,
                                int threads) {
  const plan::TensorT &tensor = *piece.tensor;
  const bool byRows = tensor.axis == plan::Axis::rows;
  const bool isWhole = tensor.axis == plan::Axis::none;
  const uint64_t total = byRows ? tensor.rows : tensor.columns;
  std::vector<uint64_t> hashes(
      isWhole ? 1 : (total + tensor.leaf_size - 1) / tensor.leaf_size);
  if (!packing.kernel) {
    const checkpoint::PanelBytes all{0, weight.size()};
    checkpoint::HashPanels(weight.data(), weight.size(), 1, {&all, 1}, hashes);
    return hashes;
  }
  const std::byte *first =
      weight.data() + piece.firstPanel * packing.panelBytes;
  const int64_t stride = piece.panelStep * packing.panelBytes;
  const int64_t rows = tensor.rows, columns = tensor.columns;
  parallelFor(threads, hashes.size(), [&](int64_t leaf) {
    plan::Extent rowPart{0, tensor.rows}, columnPart{0, tensor.columns};
    const auto number = static_cast<uint32_t>(leaf);
    if (!isWhole)
      (byRows ? rowPart : columnPart) = plan::LeafExtent(
          {number, number + 1}, tensor.leaf_size, byRows ? rows : columns);
    const kernels::PanelPart part =
        kernels::PanelPartOf(*packing.kernel, columns, rowPart.begin,
                             rowPart.end, columnPart.begin, columnPart.end);
    const checkpoint::PanelBytes bytes{static_cast<uint64_t>(part.byte_begin),
                                       static_cast<uint64_t>(part.byte_end)};
    checkpoint::HashPanels(first + part.panel_begin * stride, stride,
                           part.panel_end - part.panel_begin, {&bytes, 1},
                           {&hashes[leaf], 1});
  });
  return hashes;
}

std::vector<std::byte> pack(const checkpoint::Checkpoint &checkpoint,
                            const Packing &packing, int threads) {
  std::vector<std::byte> bytes(packing.bytes);
  if (!packing.kernel) {
    const checkpoint::TensorInfo &source = packing.pieces.front().source;
    kernels::DecodeRow(getEncoding(source), checkpoint.Bytes(source).data(),
                       source.columns, reinterpret_cast<float *>(bytes.data()));
    return bytes;
  }
  for (const Piece &piece : packing.pieces)
    parallelFor(threads, piece.panels, [&](int64_t panel) {
      packPanel(checkpoint, packing, piece, panel, bytes.data());
    });
  return bytes;
}

/// The plan's packed file, added if there is none.
uint32_t getPackedFile(plan::PlanT &plan) {
  for (size_t i = 0; i < plan.files.size(); ++i)
    if (plan.files[i]->format == plan::FileFormat::packed)
      return static_cast<uint32_t>(i);
  plan.files.push_back(std::make_unique<plan::CheckpointFileT>());
  plan.files.back()->format = plan::FileFormat::packed;
  return static_cast<uint32_t>(plan.files.size() - 1);
}

} // namespace

Status llmir::packWeights(const checkpoint::Checkpoint &checkpoint,
                          const PackOptions &options, plan::PlanT &plan) {
  std::vector<Packing> packings;
  std::vector<checkpoint::PackedEntry> entries;
  uint64_t total = 0, done = 0;
  // The plan's order is that of its steps, which differs from layout to layout.
  std::vector<plan::WeightT *> weights;
  for (auto &weight : plan.weights)
    weights.push_back(weight.get());
  std::ranges::sort(
      weights, [](const plan::WeightT *a, const plan::WeightT *b) {
        return std::tie(a->layer, a->name) < std::tie(b->layer, b->name);
      });
  for (plan::WeightT *weight : weights) {
    LLMIR_ASSIGN_OR_RETURN(Packing packing,
                           describe(checkpoint, options.isa, plan, *weight));
    checkpoint::PackedEntry entry;
    entry.name = weight->name;
    entry.type = plan::DTypeName(weight->dtype);
    entry.layout = packing.kernel ? packing.kernel->layout : 0;
    for (const Piece &piece : packing.pieces)
      entry.tensors.push_back(piece.tensor->name);
    entry.interleaved = weight->interleave == plan::Interleave::panels;
    entry.bytes = packing.bytes;
    total += packing.bytes;
    entries.push_back(std::move(entry));
    packings.push_back(std::move(packing));
  }
  checkpoint::PackedFileWriter writer(
      options.file, {checkpoint.identity(), kernels::IsaName(options.isa)},
      std::move(entries));
  const uint32_t file = getPackedFile(plan);
  for (size_t i = 0; i < packings.size(); ++i) {
    const Packing &packing = packings[i];
    const std::vector<std::byte> bytes =
        pack(checkpoint, packing, options.threads);
    for (const Piece &piece : packing.pieces) {
      auto packed = std::make_unique<plan::PackedPieceT>();
      packed->file = file;
      packed->offset =
          writer.entries()[i].offset + piece.firstPanel * packing.panelBytes;
      packed->layout = writer.entries()[i].layout;
      packed->leaf_hashes = hashPiece(packing, piece, bytes, options.threads);
      packing.weight->packed.push_back(std::move(packed));
    }
    writer.Add(bytes);
    done += packing.bytes;
    if (options.progress)
      options.progress(
          fmt::format("packed: {:.0f} of {:.0f} MB", done / 1e6, total / 1e6));
  }
  LLMIR_ASSIGN_OR_RETURN(checkpoint::FileInfo info, writer.Finish());
  plan::CheckpointFileT &entry = *plan.files[file];
  entry.path = options.recorded;
  entry.bytes = info.bytes;
  entry.header_bytes = info.header_bytes;
  entry.header_hash = info.header_hash;
  return Status();
}
