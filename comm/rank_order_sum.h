// The one order in which floats of several ranks are added.
#pragma once

#include <cstddef>
#include <span>

namespace llmir::comm {

// out[i] = ((sources[0][i] + sources[1][i]) + sources[2][i]) + ... for i < count. `out` may be one
// of the sources; other overlaps are not allowed. At least one source.
void SumInRankOrder(std::span<const float* const> sources, size_t count, float* out);

}  // namespace llmir::comm
