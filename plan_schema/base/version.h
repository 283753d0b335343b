// The version of this build, written into every plan's provenance and printed by every --version.
#pragma once

namespace llmir {
inline constexpr const char kVersion[] = "0.1.0";
}  // namespace llmir
