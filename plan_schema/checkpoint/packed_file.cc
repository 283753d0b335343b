#include "plan_schema/checkpoint/packed_file.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "plan_schema/base/hash.h"

namespace llmir::checkpoint {
namespace {

constexpr char kMagic[8] = {'L', 'M', 'I', 'R', 'P', 'A', 'C', 'K'};
constexpr uint32_t kPackVersion = 2;
constexpr uint64_t kPage = 4096;
constexpr uint64_t kPrefixBytes = 24;

uint64_t Aligned(uint64_t offset) { return (offset + kPage - 1) / kPage * kPage; }

std::string Index(const PackedFacts& facts, const std::vector<PackedEntry>& entries) {
  nlohmann::ordered_json json;
  json["model_identity"] = fmt::format("{:016x}", facts.model_identity);
  json["isa"] = facts.isa;
  json["weights"] = nlohmann::ordered_json::array();
  for (const PackedEntry& entry : entries) {
    json["weights"].push_back({{"name", entry.name},
                               {"type", entry.type},
                               {"layout", entry.layout},
                               {"tensors", entry.tensors},
                               {"interleaved", entry.interleaved},
                               {"offset", entry.offset},
                               {"bytes", entry.bytes}});
  }
  return json.dump();
}

}  // namespace

PackedFileWriter::PackedFileWriter(const std::string& path, const PackedFacts& facts,
                                   std::vector<PackedEntry> entries)
    : path_(path), entries_(std::move(entries)), file_(path), info_{} {
  // A larger start makes longer numbers: repeat until the index fits before the start it names.
  uint64_t begin = 0;
  std::string text;
  do {
    begin = Aligned(kPrefixBytes + text.size());
    uint64_t offset = begin;
    for (PackedEntry& entry : entries_) {
      entry.offset = offset;
      offset = Aligned(offset + entry.bytes);
    }
    text = Index(facts, entries_);
  } while (kPrefixBytes + text.size() > begin);
  std::string header(kMagic, sizeof kMagic);
  const auto append = [&](const auto& value) {
    header.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  append(kPackVersion);
  append(uint32_t{0});
  append(uint64_t{text.size()});
  header += text;
  header.resize(begin, '\0');
  file_.Add(header.data(), header.size());
  info_ = {path, Format::kPacked, 0, begin, Hash64(header)};
}

void PackedFileWriter::Add(std::span<const std::byte> bytes) {
  static constexpr char kZeros[kPage] = {};
  file_.Add(bytes.data(), bytes.size());
  file_.Add(kZeros, Aligned(file_.bytes()) - file_.bytes());
}

StatusOr<FileInfo> PackedFileWriter::Finish() {
  LLMIR_RETURN_IF_ERROR(file_.Finish());
  info_.bytes = file_.bytes();
  return info_;
}

Status CheckPackedVersion(std::span<const std::byte> file, std::string_view path) {
  if (file.size() < kPrefixBytes || std::memcmp(file.data(), kMagic, sizeof kMagic) != 0)
    return InvalidArgument("{}: not a file that llmir-plan --pack wrote", path);
  uint32_t version = 0;
  std::memcpy(&version, file.data() + sizeof kMagic, sizeof version);
  if (version == kPackVersion) return Status();
  return Incompatible("{}: packed file of version {}, expected {}: plan again", path, version,
                      kPackVersion);
}

void HashPanels(const std::byte* first, uint64_t stride, uint64_t panels,
                std::span<const PanelBytes> leaves, std::span<uint64_t> hashes) {
  if (leaves.size() == 1 && leaves[0].begin == 0 && leaves[0].end == stride) {
    hashes[0] = Hash64(std::span(first, panels * stride));
    return;
  }
  std::vector<Hasher64> hashers(leaves.size());
  for (uint64_t p = 0; p < panels; ++p) {
    const std::byte* panel = first + p * stride;
    for (size_t i = 0; i < leaves.size(); ++i)
      hashers[i].Add(panel + leaves[i].begin, leaves[i].end - leaves[i].begin);
  }
  for (size_t i = 0; i < leaves.size(); ++i) hashes[i] = hashers[i].Finish();
}

}  // namespace llmir::checkpoint
