#include "plan_schema/checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "plan_schema/checkpoint/json.h"

namespace llmir::checkpoint {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

StatusOr<SourceType> ReadType(const Json& entry, const std::string& where) {
  LLMIR_ASSIGN_OR_RETURN(const auto dtype, JsonString(entry, "dtype", where));
  if (!dtype) return InvalidArgument("{}: dtype is missing", where);
  if (*dtype == "F32") return SourceType::kF32;
  if (*dtype == "F16") return SourceType::kF16;
  if (*dtype == "BF16") return SourceType::kBF16;
  return Incompatible("{}: dtype \"{}\" cannot be read; expected F32, F16 or BF16", where, *dtype);
}

StatusOr<uint64_t> ReadUnsigned(const Json& value, const std::string& where) {
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return InvalidArgument("{}: {}, expected an integer from 0 to 2^63 - 1", where,
                           JsonExcerpt(value));
  }
  return value.get<uint64_t>();
}

// The entry of tensor `name`; `offset` is still relative to the end of the header, `room` the bytes
// after it.
StatusOr<TensorInfo> ReadTensor(const std::string& name, const Json& entry, uint64_t room,
                                const std::string& path) {
  const std::string where = fmt::format("{}: tensor {}", path, name);
  TensorInfo tensor{};
  tensor.name = name;
  LLMIR_ASSIGN_OR_RETURN(tensor.type, ReadType(entry, where));
  const Json* shape = JsonField(entry, "shape");
  if (shape == nullptr || !shape->is_array())
    return InvalidArgument("{}: shape is missing or not an array", where);
  tensor.rows = tensor.columns = 1;
  for (size_t i = 0; i < shape->size(); ++i) {
    LLMIR_ASSIGN_OR_RETURN(const uint64_t extent,
                           ReadUnsigned((*shape)[i], fmt::format("{}: shape[{}]", where, i)));
    int64_t& product = i + 1 == shape->size() ? tensor.columns : tensor.rows;
    if (extent == 0 || __builtin_mul_overflow(product, static_cast<int64_t>(extent), &product)) {
      return InvalidArgument("{}: shape[{}] = {} is out of range", where, i, extent);
    }
  }
  const int64_t value_bytes = Traits(tensor.type).block_bytes;
  int64_t bytes = 0;
  if (__builtin_mul_overflow(tensor.columns, value_bytes, &bytes) ||
      __builtin_mul_overflow(bytes, tensor.rows, &bytes)) {
    return InvalidArgument("{}: shape {} has more bytes than a file can have", where,
                           JsonExcerpt(*shape));
  }
  tensor.bytes = static_cast<uint64_t>(bytes);

  const Json* range = JsonField(entry, "data_offsets");
  if (range == nullptr || !range->is_array() || range->size() != 2) {
    return InvalidArgument("{}: data_offsets is not an array of 2 offsets", where);
  }
  LLMIR_ASSIGN_OR_RETURN(const uint64_t begin,
                         ReadUnsigned((*range)[0], where + ": data_offsets[0]"));
  LLMIR_ASSIGN_OR_RETURN(const uint64_t end,
                         ReadUnsigned((*range)[1], where + ": data_offsets[1]"));
  if (begin > end || end - begin != tensor.bytes) {
    return InvalidArgument("{}: data_offsets [{}, {}], expected {} bytes for shape {} of {}", where,
                           begin, end, tensor.bytes, JsonExcerpt(*shape), Traits(tensor.type).name);
  }
  if (end > room) {
    return DataLoss(
        "{}: truncated: its {} bytes start at data offset {}, but the file has {} bytes of data: "
        "fetch it again",
        where, tensor.bytes, begin, room);
  }
  tensor.offset = begin;
  return tensor;
}

}  // namespace

StatusOr<SafetensorsHeader> ReadSafetensorsHeader(std::span<const std::byte> file,
                                                  const std::string& path) {
  uint64_t json_bytes = 0;
  if (file.size() < sizeof json_bytes) {
    return DataLoss("{}: truncated: {} bytes, expected at least the 8 of the header's length", path,
                    file.size());
  }
  std::memcpy(&json_bytes, file.data(), sizeof json_bytes);
  if (json_bytes > kMaxHeaderBytes) {
    return InvalidArgument("{}: header of {} bytes, expected at most {}: not a safetensors file?",
                           path, json_bytes, kMaxHeaderBytes);
  }
  if (json_bytes > file.size() - sizeof json_bytes) {
    return DataLoss("{}: truncated: header of {} bytes, but the file has {}: fetch it again", path,
                    json_bytes, file.size());
  }
  SafetensorsHeader header{{}, sizeof json_bytes + json_bytes};
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof json_bytes,
                              json_bytes);
  LLMIR_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text, path + ": header"));
  const uint64_t room = file.size() - header.header_bytes;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    LLMIR_ASSIGN_OR_RETURN(TensorInfo tensor, ReadTensor(name, entry, room, path));
    tensor.offset += header.header_bytes;
    const auto value_bytes = static_cast<uint64_t>(Traits(tensor.type).block_bytes);
    if (tensor.offset % value_bytes != 0) {
      return InvalidArgument(
          "{}: tensor {}: misaligned: offset {} is not a multiple of {} ({}): write the file again "
          "with a "
          "current safetensors library",
          path, name, tensor.offset, value_bytes, Traits(tensor.type).name);
    }
    header.tensors.push_back(std::move(tensor));
  }
  std::ranges::sort(header.tensors, {}, &TensorInfo::offset);
  LLMIR_RETURN_IF_ERROR(CheckTensorTable(header.tensors, path));
  uint64_t expected = header.header_bytes;
  for (const TensorInfo& tensor : header.tensors) {
    if (tensor.offset != expected) {
      return InvalidArgument("{}: tensor {}: data at {}, expected {}: the format allows no holes",
                             path, tensor.name, tensor.offset, expected);
    }
    expected += tensor.bytes;
  }
  if (expected != file.size()) {
    return InvalidArgument("{}: {} bytes, expected {} as the header says", path, file.size(),
                           expected);
  }
  return header;
}

}  // namespace llmir::checkpoint
