#include "plan_schema/plan_file.h"

#include <bit>
#include <cstring>
#include <utility>

#include "plan_schema/base/file_map.h"
#include "plan_schema/base/hash.h"
#include "plan_schema/base/version.h"
#include "plan_schema/table_sharing.h"

namespace llmir::plan {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the trailer is read as it lies in the file");

constexpr char kMagic[sizeof(PlanTrailer::magic) + 1] = "LLMIRPLN";

// The smallest FlatBuffer with an identifier: root offset, identifier, an empty table and its
// vtable.
constexpr size_t kSmallestBuffer = 16;

PlanTrailer TrailerOf(std::span<const std::byte> bytes) {
  PlanTrailer trailer;
  std::memcpy(&trailer, bytes.data() + bytes.size() - sizeof trailer, sizeof trailer);
  return trailer;
}

// "tensor_parallel, bit 9": the names of known bits, the numbers of the others.
std::string FeatureNames(uint64_t features) {
  std::string names;
  for (int bit = 0; bit < 64; ++bit) {
    const uint64_t flag = uint64_t{1} << bit;
    if ((features & flag) == 0) continue;
    if (!names.empty()) names += ", ";
    names += (kKnownFeatures & flag) != 0 ? EnumNameFeature(static_cast<Feature>(flag))
                                          : fmt::format("bit {}", bit);
  }
  return names;
}

Status CheckMagic(std::span<const std::byte> bytes, const std::string& origin) {
  const bool begins_like_a_plan = bytes.size() >= kSmallestBuffer &&
                                  flatbuffers::BufferHasIdentifier(bytes.data(), PlanIdentifier());
  if (bytes.size() < kSmallestBuffer + sizeof(PlanTrailer)) {
    return DataLoss("{}: {} bytes, too short for a plan (at least {}); plan it again", origin,
                    bytes.size(), kSmallestBuffer + sizeof(PlanTrailer));
  }
  if (std::memcmp(TrailerOf(bytes).magic, kMagic, sizeof(PlanTrailer::magic)) == 0) {
    return Status();
  }
  if (begins_like_a_plan) {
    return DataLoss(
        "{}: truncated: it begins like a plan, but its last 8 of {} bytes are not \"{}\"; copy or "
        "plan it again",
        origin, bytes.size(), kMagic);
  }
  return InvalidArgument("{}: not a plan (its last 8 bytes are not \"{}\"); llmir-plan makes plans",
                         origin, kMagic);
}

Status CheckTrailer(std::span<const std::byte> bytes, const PlanTrailer& trailer,
                    const std::string& origin) {
  const uint64_t checksum = Hash64(bytes.first(bytes.size() - sizeof trailer));
  if (checksum != trailer.checksum) {
    return DataLoss(
        "{}: truncated or damaged: checksum {:016x}, expected {:016x}; copy or plan it again",
        origin, checksum, trailer.checksum);
  }
  if (trailer.major > kMajorVersion) {
    return Incompatible(
        "{}: made for plan version {}.{}, this llmir reads {}.x; plan it again with this "
        "version's llmir-plan or run it with a newer llmir-exec",
        origin, trailer.major, trailer.minor, kMajorVersion);
  }
  if (const uint64_t unknown = trailer.required_features & ~kKnownFeatures; unknown != 0) {
    return Incompatible(
        "{}: needs features that this llmir {} does not have: {} (it has {}); run it with a newer "
        "llmir-exec or plan it again with this version's llmir-plan",
        origin, kVersion, FeatureNames(unknown), FeatureNames(kKnownFeatures));
  }
  return Status();
}

}  // namespace

StatusOr<PlanFile> PlanFile::Read(const std::string& path) {
  LLMIR_ASSIGN_OR_RETURN(const FileMap map, FileMap::Open(path));
  const std::span<const std::byte> bytes = map.bytes();
  return FromBytes(std::vector<std::byte>(bytes.begin(), bytes.end()), path);
}

StatusOr<PlanFile> PlanFile::FromBytes(std::vector<std::byte> bytes, const std::string& origin) {
  LLMIR_RETURN_IF_ERROR(CheckMagic(bytes, origin));
  const PlanTrailer trailer = TrailerOf(bytes);
  LLMIR_RETURN_IF_ERROR(CheckTrailer(bytes, trailer, origin));

  // Equal tables are shared, so their number isn't bounded by the file's size. A plan of 200 layers
  // on 64 ranks has less than a million; one that shares tables to blow up the work is refused.
  constexpr flatbuffers::uoffset_t kMaxTables = 1 << 24;
  const size_t buffer_bytes = bytes.size() - sizeof trailer;
  constexpr flatbuffers::uoffset_t kMaxDepth = 16;
  if (buffer_bytes >= FLATBUFFERS_MAX_BUFFER_SIZE) {
    return DataLoss("{}: {} bytes, more than a FlatBuffer can hold ({})", origin, buffer_bytes,
                    FLATBUFFERS_MAX_BUFFER_SIZE);
  }
  flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(bytes.data()), buffer_bytes,
                                 kMaxDepth, kMaxTables);
  if (!VerifyPlanBuffer(verifier)) {
    return DataLoss(
        "{}: its checksum holds but FlatBuffers' verifier refuses it: the program that wrote it is "
        "defective; plan it again",
        origin);
  }

  PlanFile file;
  file.bytes_ = std::move(bytes);
  file.origin_ = origin;
  const Plan& plan = file.plan();
  if (plan.required_features() != trailer.required_features) {
    return DataLoss("{}: required features {:#x} in the trailer, but {:#x} in the plan", origin,
                    trailer.required_features, plan.required_features());
  }
  if (const Version* version = plan.version();
      version != nullptr &&
      (version->major() != trailer.major || version->minor() != trailer.minor)) {
    return DataLoss("{}: version {}.{} in the trailer, but {}.{} in the plan", origin,
                    trailer.major, trailer.minor, version->major(), version->minor());
  }
  return file;
}

std::vector<std::byte> PlanFile::Serialize(const PlanT& plan) {
  // Layers and ranks repeat each other: the tables, lists and names in which they agree go to the
  // file once.
  flatbuffers::FlatBufferBuilder unshared(1 << 20);
  FinishPlanBuffer(unshared, CreatePlan(unshared, &plan));
  flatbuffers::FlatBufferBuilder builder(1 << 20);
  FinishPlanBuffer(builder,
                   flatbuffers::Offset<Plan>(
                       CopyShared(unshared.GetBufferPointer(), *PlanTypeTable(), builder).o));
  const std::span<const std::byte> buffer =
      std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));

  PlanTrailer trailer{};
  trailer.checksum = Hash64(buffer);
  trailer.required_features = plan.required_features;
  trailer.major = plan.version ? plan.version->major : kMajorVersion;
  trailer.minor = plan.version ? plan.version->minor : kMinorVersion;
  std::memcpy(trailer.magic, kMagic, sizeof trailer.magic);

  std::vector<std::byte> bytes(buffer.size() + sizeof trailer);
  std::memcpy(bytes.data(), buffer.data(), buffer.size());
  std::memcpy(bytes.data() + buffer.size(), &trailer, sizeof trailer);
  return bytes;
}

uint64_t PlanFile::checksum() const { return TrailerOf(bytes_).checksum; }

}  // namespace llmir::plan
