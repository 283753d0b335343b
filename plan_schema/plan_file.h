// A plan file: the FlatBuffer of plan.fbs followed by a 32-byte trailer. The trailer lets a reader
// tell "not a plan", "truncated", "damaged" and "made by a later LLMIR" apart before it trusts a
// single offset.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "plan_schema/base/status.h"
#include "plan_schema/plan_generated.h"

namespace llmir::plan {

inline constexpr uint16_t kMajorVersion = 0;
inline constexpr uint16_t kMinorVersion = 1;
// Feature bits that this build can run.
inline constexpr uint64_t kKnownFeatures = static_cast<uint64_t>(Feature::ANY);

// The last 32 bytes of a plan file, little endian.
struct PlanTrailer {
  uint64_t checksum;  // Hash64 of everything before the trailer
  uint64_t required_features;
  uint16_t major;
  uint16_t minor;
  uint32_t reserved;  // 0
  char magic[8];      // "LLMIRPLN"
};
static_assert(sizeof(PlanTrailer) == 32);

// A plan in memory: owns its bytes; `plan()` points into them. Immutable, any thread may read.
class PlanFile {
 public:
  // Reads `path` and checks, in this order: magic, checksum, version, required features,
  // FlatBuffers' verifier. The semantic verifier (plan_verifier.h) is a separate call.
  static StatusOr<PlanFile> Read(const std::string& path);
  // The same for bytes received from another rank; `origin` names them in errors.
  static StatusOr<PlanFile> FromBytes(std::vector<std::byte> bytes, const std::string& origin);
  // FlatBuffer + trailer of `plan`, ready to be written.
  static std::vector<std::byte> Serialize(const PlanT& plan);

  const Plan& plan() const { return *GetPlan(bytes_.data()); }
  std::span<const std::byte> bytes() const { return bytes_; }
  uint64_t checksum() const;  // identifies the plan; the same on all ranks
  const std::string& origin() const { return origin_; }

 private:
  std::vector<std::byte> bytes_;
  std::string origin_;
};

}  // namespace llmir::plan
