#include "plan_schema/checkpoint/packed_file.h"

#include <algorithm>
#include <cstring>

#include "plan_schema/base/hash.h"
#include "plan_schema/checkpoint/checkpoint_parts.h"
#include "plan_schema/checkpoint/json.h"
#include "plan_schema/checkpoint/new_file.h"

namespace llmir::checkpoint {
namespace {

constexpr char kMagic[8] = {'L', 'M', 'I', 'R', 'P', 'A', 'C', 'K'};
constexpr uint32_t kPackVersion = 1;
constexpr uint64_t kAlignment = 64;
constexpr uint64_t kPrefixBytes = 24;
constexpr uint64_t kMaxIndexBytes = 100'000'000;

uint64_t Aligned(uint64_t offset) { return (offset + kAlignment - 1) / kAlignment * kAlignment; }

std::string Hex(uint64_t hash) { return fmt::format("{:016x}", hash); }

StatusOr<TensorInfo> ReadEntry(const Json& entry, std::span<const std::byte> file, uint64_t begin,
                               const std::string& path) {
  TensorInfo tensor{};
  LLMIR_ASSIGN_OR_RETURN(const auto name, JsonString(entry, "name", path));
  if (!name) return InvalidArgument("{}: a tensor of the index has no name", path);
  tensor.name = *name;
  const std::string where = fmt::format("{}: tensor {}", path, tensor.name);
  LLMIR_ASSIGN_OR_RETURN(const auto type, JsonString(entry, "type", where));
  const auto found = FindSourceType(type.value_or(""));
  if (!found) return InvalidArgument("{}: type \"{}\" is unknown", where, type.value_or(""));
  tensor.type = *found;
  LLMIR_ASSIGN_OR_RETURN(const auto rows, JsonInteger(entry, "rows", where));
  LLMIR_ASSIGN_OR_RETURN(const auto columns, JsonInteger(entry, "columns", where));
  LLMIR_ASSIGN_OR_RETURN(const auto offset, JsonInteger(entry, "offset", where));
  LLMIR_ASSIGN_OR_RETURN(const auto hash, JsonString(entry, "hash", where));
  constexpr int64_t kMost = int64_t{1} << 28;
  if (!rows || !columns || *rows < 1 || *columns < 1 || *rows > kMost || *columns > kMost ||
      *columns % Traits(tensor.type).block_values != 0) {
    return InvalidArgument("{}: {} rows of {}, expected 1 to {}, in blocks of {} columns", where,
                           rows.value_or(0), columns.value_or(0), kMost,
                           Traits(tensor.type).block_values);
  }
  tensor.rows = *rows;
  tensor.columns = *columns;
  tensor.bytes = static_cast<uint64_t>(RowBytes(tensor.type, *columns)) * *rows;
  if (!offset || *offset < 0 || static_cast<uint64_t>(*offset) < begin ||
      static_cast<uint64_t>(*offset) % kAlignment != 0) {
    return InvalidArgument("{}: offset {}, expected a multiple of {} from {}", where,
                           offset.value_or(-1), kAlignment, begin);
  }
  tensor.offset = static_cast<uint64_t>(*offset);
  if (tensor.offset > file.size() || tensor.bytes > file.size() - tensor.offset) {
    return DataLoss("{}: truncated: its {} bytes start at {}, but the file has {}: plan again",
                    where, tensor.bytes, tensor.offset, file.size());
  }
  const uint64_t actual = Hash64(file.subspan(tensor.offset, tensor.bytes));
  if (!hash || *hash != Hex(actual)) {
    return DataLoss("{}: its bytes hash to {}, the index says {}: the file was damaged: plan again",
                    where, Hex(actual), hash.value_or("nothing"));
  }
  return tensor;
}

}  // namespace

Status WritePackedFile(const std::string& path, uint64_t model_identity,
                       const std::vector<PackedTensor>& tensors) {
  // Offsets are of fixed width, so that the index has its size before they are known.
  auto index = [&](uint64_t begin) {
    nlohmann::ordered_json json;
    json["model_identity"] = Hex(model_identity);
    json["tensors"] = nlohmann::ordered_json::array();
    uint64_t offset = begin;
    for (const PackedTensor& tensor : tensors) {
      json["tensors"].push_back({{"name", tensor.name},
                                 {"type", Traits(tensor.type).name},
                                 {"rows", tensor.rows},
                                 {"columns", tensor.columns},
                                 {"offset", offset},
                                 {"hash", Hex(Hash64(std::span(tensor.bytes)))}});
      offset = Aligned(offset + tensor.bytes.size());
    }
    return json.dump();
  };
  // A larger start makes longer numbers: repeat until the index fits before the start it names.
  uint64_t begin = 0;
  std::string text;
  do {
    begin = Aligned(kPrefixBytes + text.size());
    text = index(begin);
  } while (kPrefixBytes + text.size() > begin);
  const uint64_t index_bytes = text.size();
  const uint32_t version[2] = {kPackVersion, 0};
  const char zeros[kAlignment] = {};
  NewFile out(path);
  out.Add(kMagic, sizeof kMagic);
  out.Add(version, sizeof version);
  out.Add(&index_bytes, sizeof index_bytes);
  out.Add(text.data(), text.size());
  out.Add(zeros, begin - out.bytes());
  for (const PackedTensor& tensor : tensors) {
    out.Add(tensor.bytes.data(), tensor.bytes.size());
    out.Add(zeros, Aligned(out.bytes()) - out.bytes());
  }
  return out.Finish();
}

StatusOr<PackedFile> OpenPackedFile(const std::string& path) {
  PackedFile result{};
  LLMIR_ASSIGN_OR_RETURN(result.map, FileMap::Open(path));
  const std::span<const std::byte> file = result.map.bytes();
  if (file.size() < kPrefixBytes || std::memcmp(file.data(), kMagic, sizeof kMagic) != 0)
    return InvalidArgument("{}: not a file that llmir-plan --pack wrote", path);
  uint32_t version = 0;
  uint64_t index_bytes = 0;
  std::memcpy(&version, file.data() + 8, sizeof version);
  std::memcpy(&index_bytes, file.data() + 16, sizeof index_bytes);
  if (version != kPackVersion) {
    return Incompatible("{}: packed file of version {}, expected {}: plan again", path, version,
                        kPackVersion);
  }
  if (index_bytes > kMaxIndexBytes || index_bytes > file.size() - kPrefixBytes) {
    return DataLoss("{}: truncated: index of {} bytes, but the file has {}: plan again", path,
                    index_bytes, file.size());
  }
  LLMIR_ASSIGN_OR_RETURN(
      const Json json,
      ParseJsonObject({reinterpret_cast<const char*>(file.data()) + kPrefixBytes, index_bytes},
                      path + ": index"));
  LLMIR_ASSIGN_OR_RETURN(const auto identity, JsonString(json, "model_identity", path));
  if (!identity) return InvalidArgument("{}: model_identity is missing", path);
  result.model_identity = std::strtoull(identity->c_str(), nullptr, 16);
  const Json* tensors = JsonField(json, "tensors");
  if (tensors == nullptr || !tensors->is_array() || tensors->empty())
    return InvalidArgument("{}: tensors: expected an array", path);
  const uint64_t begin = Aligned(kPrefixBytes + index_bytes);
  for (const Json& entry : *tensors) {
    LLMIR_ASSIGN_OR_RETURN(TensorInfo tensor, ReadEntry(entry, file, begin, path));
    result.tensors.push_back(std::move(tensor));
  }
  std::ranges::sort(result.tensors, {}, &TensorInfo::offset);
  LLMIR_RETURN_IF_ERROR(CheckTensorTable(result.tensors, path));
  result.info = {path, Format::kPacked, file.size(), begin, Hash64(file.first(begin))};
  return result;
}

}  // namespace llmir::checkpoint
