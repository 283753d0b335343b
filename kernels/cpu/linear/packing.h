// Packers of the layouts in panel_layouts.h and their inverse. One struct per layout with the
// functions of LinearKernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cpu/linear/panel_layouts.h"
#include "kernels/linear.h"

namespace llmir::kernels {

template <PanelLayout kLayout>
struct Packing {
  static int64_t PanelBytes(int64_t columns);
  static void PackPanel(std::span<const SourceRow> rows, int64_t columns, std::byte* panel,
                        std::byte* scratch);
  static void UnpackRow(const std::byte* weights, int64_t row, int64_t columns, float* out);
  static void RestoreRow(const std::byte* panel, int64_t row, int64_t columns, std::byte* out);
};

// All layouts decode a source row into floats first.
int64_t PackScratchBytes(int64_t columns);

}  // namespace llmir::kernels
