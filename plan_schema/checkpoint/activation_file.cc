#include "plan_schema/checkpoint/activation_file.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "plan_schema/base/hash.h"
#include "plan_schema/base/version.h"
#include "plan_schema/checkpoint/json.h"
#include "plan_schema/checkpoint/new_file.h"
#include "plan_schema/checkpoint/safetensors.h"

namespace llmir::checkpoint {
namespace {

constexpr int64_t kVersionOfFile = 1;
constexpr const char* kUses = "embedding_uses";

Status WriteMatrices(const ActivationFile& file, NewFile& out) {
  nlohmann::ordered_json header;
  uint64_t offset = 0;
  auto describe = [&](const std::string& name, std::initializer_list<int64_t> shape,
                      uint64_t bytes) {
    header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  };
  for (const ActivationInput& input : file.inputs)
    describe(input.name, {input.columns, input.columns}, input.gram.size_bytes());
  describe(kUses, {static_cast<int64_t>(file.embedding_uses.size())},
           file.embedding_uses.size_bytes());
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data is aligned as its values are
  const uint64_t size = text.size();
  out.Add(&size, sizeof size);
  out.Add(text.data(), text.size());
  for (const ActivationInput& input : file.inputs)
    out.Add(input.gram.data(), input.gram.size_bytes());
  out.Add(file.embedding_uses.data(), file.embedding_uses.size_bytes());
  return out.Finish();
}

StatusOr<std::string> Text(const Json& object, const char* key, const std::string& where) {
  LLMIR_ASSIGN_OR_RETURN(auto value, JsonString(object, key, where));
  if (!value) return InvalidArgument("{}: {} is missing", where, key);
  return *std::move(value);
}

StatusOr<uint64_t> HexHash(const Json& object, const char* key, const std::string& where) {
  LLMIR_ASSIGN_OR_RETURN(const std::string text, Text(object, key, where));
  char* end = nullptr;
  const uint64_t value = std::strtoull(text.c_str(), &end, 16);
  if (text.size() != 16 || *end != '\0')
    return InvalidArgument("{}: {} is \"{}\", expected 16 hexadecimal digits", where, key, text);
  return value;
}

StatusOr<std::vector<float>> Floats(const Json& object, const char* key, int64_t count,
                                    const std::string& where) {
  const Json* values = JsonField(object, key);
  if (values == nullptr || !values->is_array() || values->size() != static_cast<size_t>(count))
    return InvalidArgument("{}: {}: expected an array of {} numbers", where, key, count);
  std::vector<float> result;
  for (const Json& value : *values) {
    if (!value.is_number() || !(value.get<double>() >= 0) || !std::isfinite(value.get<double>()))
      return InvalidArgument("{}: {}: {}, expected a number from 0", where, key,
                             JsonExcerpt(value));
    result.push_back(value.get<float>());
  }
  return result;
}

StatusOr<ActivationInput> ReadInput(const Json& entry, const std::string& path) {
  ActivationInput input;
  LLMIR_ASSIGN_OR_RETURN(input.name, Text(entry, "name", path + ": inputs"));
  const std::string where = fmt::format("{}: input {}", path, input.name);
  const Json* tensors = JsonField(entry, "tensors");
  if (tensors == nullptr || !tensors->is_array())
    return InvalidArgument("{}: tensors: expected an array of names", where);
  for (const Json& tensor : *tensors) {
    if (!tensor.is_string())
      return InvalidArgument("{}: tensors: {}, expected a name", where, JsonExcerpt(tensor));
    input.tensors.push_back(tensor.get<std::string>());
  }
  LLMIR_ASSIGN_OR_RETURN(const auto columns, JsonInteger(entry, "columns", where));
  LLMIR_ASSIGN_OR_RETURN(const auto tokens, JsonInteger(entry, "tokens", where));
  constexpr int64_t kMost = int64_t{1} << 24;
  if (!columns || *columns < 1 || *columns > kMost || !tokens || *tokens < 0)
    return InvalidArgument("{}: columns and tokens: expected counts", where);
  input.columns = *columns;
  input.tokens = static_cast<uint64_t>(*tokens);
  LLMIR_ASSIGN_OR_RETURN(input.mean_abs, Floats(entry, "mean_abs", *columns, where));
  LLMIR_ASSIGN_OR_RETURN(input.mean_square, Floats(entry, "mean_square", *columns, where));
  LLMIR_ASSIGN_OR_RETURN(input.max_abs, Floats(entry, "max_abs", *columns, where));
  return input;
}

}  // namespace

const ActivationInput* ActivationFile::Find(std::string_view name) const {
  for (const ActivationInput& input : inputs)
    if (std::ranges::find(input.tensors, name) != input.tensors.end()) return &input;
  return nullptr;
}

void ModelIdentity::Add(uint64_t bytes, uint64_t header_hash) {
  Hasher64 hasher;
  hasher.AddValue(value_);
  hasher.AddValue(bytes);
  hasher.AddValue(header_hash);
  value_ = hasher.Finish();
}

Status WriteActivationFile(const std::string& path, const ActivationFile& file) {
  NewFile matrices(path + ".safetensors");
  LLMIR_RETURN_IF_ERROR(WriteMatrices(file, matrices));
  nlohmann::ordered_json json;
  auto hex = [](uint64_t hash) { return fmt::format("{:016x}", hash); };
  json["activations_version"] = kVersionOfFile;
  json["llmir_version"] = kVersion;
  json["command"] = file.facts.command;
  json["machine"] = file.facts.machine;
  json["model"] = file.facts.model;
  json["model_identity"] = hex(file.facts.model_identity);
  json["text"] = file.facts.text;
  json["text_hash"] = hex(file.facts.text_hash);
  json["matrices"] = {{"file", std::filesystem::path(path + ".safetensors").filename().string()},
                      {"bytes", matrices.bytes()},
                      {"hash", hex(matrices.hash())}};
  json["embedding"] = file.embedding;
  json["inputs"] = nlohmann::ordered_json::array();
  for (const ActivationInput& input : file.inputs) {
    json["inputs"].push_back({{"name", input.name},
                              {"tensors", input.tensors},
                              {"columns", input.columns},
                              {"tokens", input.tokens},
                              {"mean_abs", input.mean_abs},
                              {"mean_square", input.mean_square},
                              {"max_abs", input.max_abs}});
  }
  const std::string text =
      json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  NewFile out(path);
  out.Add(text.data(), text.size());
  return out.Finish();
}

StatusOr<ActivationFile> ReadActivationFile(const std::string& path) {
  LLMIR_ASSIGN_OR_RETURN(const FileMap source, FileMap::Open(path));
  LLMIR_ASSIGN_OR_RETURN(
      const Json json,
      ParseJsonObject({reinterpret_cast<const char*>(source.bytes().data()), source.size()}, path));
  LLMIR_ASSIGN_OR_RETURN(const auto version, JsonInteger(json, "activations_version", path));
  if (!version || *version != kVersionOfFile)
    return Incompatible(
        "{}: activations_version is {}, expected {}: collect it with this version's llmir-exec "
        "--collect-activations",
        path, version ? fmt::to_string(*version) : "missing", kVersionOfFile);
  ActivationFile file;
  file.hash = Hash64(source.bytes());
  LLMIR_ASSIGN_OR_RETURN(file.facts.command, Text(json, "command", path));
  LLMIR_ASSIGN_OR_RETURN(file.facts.machine, Text(json, "machine", path));
  LLMIR_ASSIGN_OR_RETURN(file.facts.model, Text(json, "model", path));
  LLMIR_ASSIGN_OR_RETURN(file.facts.model_identity, HexHash(json, "model_identity", path));
  LLMIR_ASSIGN_OR_RETURN(file.facts.text, Text(json, "text", path));
  LLMIR_ASSIGN_OR_RETURN(file.facts.text_hash, HexHash(json, "text_hash", path));
  LLMIR_ASSIGN_OR_RETURN(file.embedding, Text(json, "embedding", path));

  const Json* matrices = JsonField(json, "matrices");
  const std::string where = path + ": matrices";
  if (matrices == nullptr) return InvalidArgument("{} is missing", where);
  LLMIR_ASSIGN_OR_RETURN(const std::string name, Text(*matrices, "file", where));
  LLMIR_ASSIGN_OR_RETURN(const auto bytes, JsonInteger(*matrices, "bytes", where));
  LLMIR_ASSIGN_OR_RETURN(const uint64_t hash, HexHash(*matrices, "hash", where));
  namespace fs = std::filesystem;
  if (name.empty() || fs::path(name).filename() != name)
    return InvalidArgument("{}: file is \"{}\", expected a name in the same folder", where, name);
  const std::string matrix_path = (fs::path(path).parent_path() / name).string();
  LLMIR_ASSIGN_OR_RETURN(file.map, FileMap::Open(matrix_path));
  if (!bytes || file.map.size() != static_cast<uint64_t>(*bytes) ||
      Hash64(file.map.bytes()) != hash)
    return DataLoss("{}: not the {} bytes that {} was written with: collect both again",
                    matrix_path, bytes.value_or(0), path);
  LLMIR_ASSIGN_OR_RETURN(const SafetensorsHeader header,
                         ReadSafetensorsHeader(file.map.bytes(), matrix_path));
  auto find = [&](const std::string& tensor) -> std::span<const float> {
    for (const TensorInfo& info : header.tensors) {
      if (info.name == tensor && info.type == SourceType::kF32)
        return {reinterpret_cast<const float*>(file.map.bytes().data() + info.offset),
                info.bytes / sizeof(float)};
    }
    return {};
  };

  const Json* inputs = JsonField(json, "inputs");
  if (inputs == nullptr || !inputs->is_array())
    return InvalidArgument("{}: inputs: expected an array", path);
  for (const Json& entry : *inputs) {
    LLMIR_ASSIGN_OR_RETURN(ActivationInput input, ReadInput(entry, path));
    input.gram = find(input.name);
    if (input.gram.size() != static_cast<uint64_t>(input.columns) * input.columns)
      return InvalidArgument("{}: tensor {}: expected F32 of [{}, {}]", matrix_path, input.name,
                             input.columns, input.columns);
    if (!std::ranges::all_of(input.gram, [](float value) { return std::isfinite(value); }))
      return InvalidArgument("{}: tensor {}: a value isn't finite", matrix_path, input.name);
    file.inputs.push_back(std::move(input));
  }
  file.embedding_uses = find(kUses);
  if (file.embedding_uses.empty())
    return InvalidArgument("{}: tensor {} is missing", matrix_path, kUses);
  return file;
}

}  // namespace llmir::checkpoint
