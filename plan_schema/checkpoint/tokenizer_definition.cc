#include "plan_schema/checkpoint/tokenizer_definition.h"

#include <algorithm>
#include <filesystem>

#include "plan_schema/base/file_map.h"

namespace llmir::checkpoint {
namespace {

constexpr const char* kDigit = R"(\p{N})";
constexpr const char* kDigits = R"(\p{N}+)";
constexpr const char* kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// tokenizer.ggml.token_type.
StatusOr<TokenKind> KindOf(int64_t type) {
  switch (type) {
    case 1:
      return TokenKind::kNormal;
    case 2:  // unknown
    case 3:
      return TokenKind::kControl;
    case 4:
      return TokenKind::kUserDefined;
    case 5:
      return TokenKind::kUnused;
    default:
      return InvalidArgument(
          "token type {}, expected 1 to 5 (normal, unknown, control, user-defined, unused)", type);
  }
}

Status SetGgufSplit(const GgufMetadata& metadata, TokenizerDefinition& definition) {
  LLMIR_ASSIGN_OR_RETURN(const auto name, metadata.String("tokenizer.ggml.pre"));
  if (!name) {
    return Incompatible(
        "{}: metadata tokenizer.ggml.pre is missing, so that text cannot be split as the model "
        "expects: "
        "convert the model again",
        metadata.path());
  }
  if (*name == "smollm") {
    definition.split_patterns = {kDigit, kGpt2};
  } else if (*name == "gpt-2") {
    definition.split_patterns = {kGpt2};
  } else if (*name == "llama-bpe") {
    definition.split_patterns = {kLlama3};
    definition.ignore_merges = true;
  } else if (*name == "qwen2") {
    definition.split_patterns = {kQwen2};
  } else {
    return Incompatible(
        "{}: metadata tokenizer.ggml.pre: \"{}\" is not supported; expected smollm, gpt-2, "
        "llama-bpe or qwen2",
        metadata.path(), *name);
  }
  return {};
}

Status AddEndId(int64_t id, std::string_view where, TokenizerDefinition& definition) {
  if (id < 0 || id >= static_cast<int64_t>(definition.texts.size())) {
    return InvalidArgument("{}: token id {}, expected 0 to {}", where, id,
                           definition.texts.size() - 1);
  }
  const auto narrow = static_cast<int32_t>(id);
  if (std::ranges::find(definition.end_ids, narrow) == definition.end_ids.end())
    definition.end_ids.push_back(narrow);
  return {};
}

Status SetBos(int64_t id, std::string_view where, TokenizerDefinition& definition) {
  if (id < 0 || id >= static_cast<int64_t>(definition.texts.size())) {
    return InvalidArgument("{}: token id {}, expected 0 to {}", where, id,
                           definition.texts.size() - 1);
  }
  definition.bos = static_cast<int32_t>(id);
  return {};
}

Status RequireAbsent(const Json& object, std::initializer_list<const char*> keys,
                     const std::string& where) {
  for (const char* key : keys) {
    const Json* value = JsonField(object, key);
    const bool neutral = value == nullptr || *value == Json(false) || *value == Json("");
    if (!neutral)
      return Incompatible("{}: {}: {} is not supported", where, key, JsonExcerpt(*value));
  }
  return {};
}

// One step of the pre-tokenizer; sets `byte_level` when it's the one that maps bytes to the
// byte-level alphabet.
Status AddPreTokenizer(const Json& step, const std::string& where, TokenizerDefinition& definition,
                       bool& byte_level) {
  LLMIR_ASSIGN_OR_RETURN(const auto type, JsonString(step, "type", where));
  if (!type) return InvalidArgument("{}: type is missing", where);
  if (byte_level) return Incompatible("{}: a {} behind ByteLevel is not supported", where, *type);
  if (*type == "Digits") {
    LLMIR_ASSIGN_OR_RETURN(const auto individual, JsonBool(step, "individual_digits", where));
    definition.split_patterns.push_back(individual.value_or(false) ? kDigit : kDigits);
    return {};
  }
  if (*type == "ByteLevel") {
    LLMIR_ASSIGN_OR_RETURN(const auto prefix, JsonBool(step, "add_prefix_space", where));
    if (prefix.value_or(true)) return Incompatible("{}: add_prefix_space is not supported", where);
    LLMIR_ASSIGN_OR_RETURN(const auto use_regex, JsonBool(step, "use_regex", where));
    if (use_regex.value_or(true)) definition.split_patterns.push_back(kGpt2);
    byte_level = true;
    return {};
  }
  if (*type == "Split") {
    LLMIR_ASSIGN_OR_RETURN(const auto behavior, JsonString(step, "behavior", where));
    // "invert" isn't read: with matches and gaps both kept, it changes nothing.
    if (behavior != "Isolated") {
      return Incompatible("{}: behavior \"{}\" is not supported; expected Isolated", where,
                          behavior.value_or(""));
    }
    const Json* pattern = JsonField(step, "pattern");
    if (pattern == nullptr) return InvalidArgument("{}: pattern is missing", where);
    LLMIR_ASSIGN_OR_RETURN(const auto regex, JsonString(*pattern, "Regex", where));
    LLMIR_ASSIGN_OR_RETURN(const auto literal, JsonString(*pattern, "String", where));
    if (regex) {
      definition.split_patterns.push_back(*regex);
    } else if (literal && literal->find("\\E") == std::string::npos) {
      definition.split_patterns.push_back("\\Q" + *literal + "\\E");
    } else {
      return InvalidArgument("{}: pattern: {}, expected Regex or String", where,
                             JsonExcerpt(*pattern));
    }
    return {};
  }
  return Incompatible("{}: \"{}\" is not supported; expected Digits, Split or ByteLevel", where,
                      *type);
}

Status SetJsonSplit(const Json& json, const std::string& path, TokenizerDefinition& definition) {
  const std::string where = path + ": pre_tokenizer";
  const Json* pre_tokenizer = JsonField(json, "pre_tokenizer");
  if (pre_tokenizer == nullptr)
    return Incompatible("{} is missing; expected one that ends in ByteLevel", where);
  LLMIR_ASSIGN_OR_RETURN(const auto type, JsonString(*pre_tokenizer, "type", where));
  bool byte_level = false;
  if (type == "Sequence") {
    const Json* steps = JsonField(*pre_tokenizer, "pretokenizers");
    if (steps == nullptr || !steps->is_array())
      return InvalidArgument("{}: pretokenizers: expected an array", where);
    for (size_t i = 0; i < steps->size(); ++i) {
      LLMIR_RETURN_IF_ERROR(
          AddPreTokenizer((*steps)[i], fmt::format("{}[{}]", where, i), definition, byte_level));
    }
  } else {
    LLMIR_RETURN_IF_ERROR(AddPreTokenizer(*pre_tokenizer, where, definition, byte_level));
  }
  if (!byte_level)
    return Incompatible("{}: no ByteLevel step; only byte-level BPE is supported", where);
  return {};
}

Status SetJsonMerges(const Json& model, const std::string& where, TokenizerDefinition& definition) {
  const Json* merges = JsonField(model, "merges");
  if (merges == nullptr || !merges->is_array())
    return InvalidArgument("{}: merges: expected an array", where);
  definition.merges.reserve(merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    const Json& merge = (*merges)[i];
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      definition.merges.push_back({merge[0].get<std::string>(), merge[1].get<std::string>()});
      continue;
    }
    const std::string text = merge.is_string() ? merge.get<std::string>() : "";
    const size_t space = text.find(' ', 1);
    if (text.empty() || space == std::string::npos) {
      return InvalidArgument("{}: merges[{}]: {}, expected two tokens", where, i,
                             JsonExcerpt(merge));
    }
    definition.merges.push_back({text.substr(0, space), text.substr(space + 1)});
  }
  return {};
}

// Vocabulary and added tokens. Ids may leave holes, but not so many that the table would be mostly
// holes.
Status SetJsonTokens(const Json& json, const Json& model, const std::string& where,
                     TokenizerDefinition& definition) {
  const Json* vocabulary = JsonField(model, "vocab");
  if (vocabulary == nullptr || !vocabulary->is_object() || vocabulary->empty()) {
    return InvalidArgument("{}: model: vocab: expected an object of tokens", where);
  }
  static const Json kNone = Json::array();
  const Json* added = JsonField(json, "added_tokens");
  if (added == nullptr) added = &kNone;
  if (!added->is_array()) return InvalidArgument("{}: added_tokens: expected an array", where);
  const size_t limit = 4 * (vocabulary->size() + added->size()) + 65536;

  const auto place = [&](const Json& id, const std::string& text, TokenKind kind) -> Status {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= limit) {
      return InvalidArgument("{}: id of token \"{}\": {}, expected 0 to {}", where, text,
                             JsonExcerpt(id), limit - 1);
    }
    const auto index = id.get<uint64_t>();
    if (index >= definition.texts.size()) {
      definition.texts.resize(index + 1);
      definition.kinds.resize(index + 1, TokenKind::kUnused);
    }
    if (definition.kinds[index] != TokenKind::kUnused && definition.texts[index] != text) {
      return InvalidArgument("{}: tokens \"{}\" and \"{}\" have the same id {}", where,
                             definition.texts[index], text, index);
    }
    definition.texts[index] = text;
    definition.kinds[index] = kind;
    return {};
  };
  for (const auto& [text, id] : vocabulary->items())
    LLMIR_RETURN_IF_ERROR(place(id, text, TokenKind::kNormal));
  for (size_t i = 0; i < added->size(); ++i) {
    const Json& token = (*added)[i];
    const std::string entry = fmt::format("{}: added_tokens[{}]", where, i);
    LLMIR_ASSIGN_OR_RETURN(const auto content, JsonString(token, "content", entry));
    const Json* id = JsonField(token, "id");
    if (!content || content->empty() || id == nullptr)
      return InvalidArgument("{}: expected an id and a content", entry);
    LLMIR_RETURN_IF_ERROR(RequireAbsent(token, {"single_word", "lstrip", "rstrip"}, entry));
    LLMIR_ASSIGN_OR_RETURN(const auto special, JsonBool(token, "special", entry));
    LLMIR_RETURN_IF_ERROR(place(
        *id, *content, special.value_or(false) ? TokenKind::kControl : TokenKind::kUserDefined));
  }
  return {};
}

// A token in tokenizer_config.json: its text, or an object with the text as "content".
std::string TokenText(const Json& config, const char* key) {
  const Json* token = JsonField(config, key);
  if (token != nullptr && token->is_object()) token = JsonField(*token, "content");
  return token != nullptr && token->is_string() ? token->get<std::string>() : "";
}

// "bos_token_id": 1 or "eos_token_id": [2, 3].
StatusOr<std::vector<int64_t>> TokenIds(const Json& config, const char* key,
                                        const std::string& where) {
  const Json* value = JsonField(config, key);
  if (value == nullptr) return std::vector<int64_t>();
  const Json ids = value->is_array() ? *value : Json::array({*value});
  std::vector<int64_t> result;
  for (const Json& id : ids) {
    if (!id.is_number_unsigned())
      return InvalidArgument("{}: {}: {}, expected token ids", where, key, JsonExcerpt(*value));
    result.push_back(id.get<int64_t>());
  }
  return result;
}

StatusOr<std::string> ChatTemplateOf(const Json& config, const std::string& where) {
  const Json* source = JsonField(config, "chat_template");
  if (source == nullptr) return std::string();
  if (source->is_string()) return source->get<std::string>();
  if (source->is_array()) {
    for (const Json& named : *source) {
      LLMIR_ASSIGN_OR_RETURN(const auto name, JsonString(named, "name", where));
      LLMIR_ASSIGN_OR_RETURN(const auto text, JsonString(named, "template", where));
      if (name == "default" && text) return *text;
    }
  }
  return InvalidArgument("{}: chat_template: expected a string, or an array with one named default",
                         where);
}

}  // namespace

StatusOr<TokenizerDefinition> GgufTokenizerDefinition(const GgufMetadata& metadata) {
  const std::string& path = metadata.path();
  LLMIR_ASSIGN_OR_RETURN(const auto model, metadata.String("tokenizer.ggml.model"));
  if (!model)
    return NotFound("{}: holds no tokenizer (metadata tokenizer.ggml.model is missing)", path);
  if (*model != "gpt2") {
    return Incompatible(
        "{}: tokenizer model \"{}\" is not supported; expected gpt2 (byte-level BPE)", path,
        *model);
  }
  TokenizerDefinition definition;
  LLMIR_RETURN_IF_ERROR(SetGgufSplit(metadata, definition));
  LLMIR_ASSIGN_OR_RETURN(const auto prefix, metadata.Bool("tokenizer.ggml.add_space_prefix"));
  if (prefix.value_or(false))
    return Incompatible("{}: metadata tokenizer.ggml.add_space_prefix is not supported", path);

  LLMIR_ASSIGN_OR_RETURN(const auto tokens, metadata.Strings("tokenizer.ggml.tokens"));
  if (!tokens || tokens->empty())
    return InvalidArgument("{}: metadata tokenizer.ggml.tokens is missing or empty", path);
  definition.texts.assign(tokens->begin(), tokens->end());
  LLMIR_ASSIGN_OR_RETURN(const auto types, metadata.Integers("tokenizer.ggml.token_type"));
  definition.kinds.assign(tokens->size(), TokenKind::kNormal);
  if (types && types->size() != tokens->size()) {
    return InvalidArgument("{}: metadata tokenizer.ggml.token_type: {} types for {} tokens", path,
                           types->size(), tokens->size());
  }
  for (size_t i = 0; types && i < types->size(); ++i) {
    auto kind = KindOf((*types)[i]);
    if (!kind.ok())
      return kind.status().WithContext(
          fmt::format("{}: metadata tokenizer.ggml.token_type[{}]", path, i));
    definition.kinds[i] = *kind;
  }
  LLMIR_ASSIGN_OR_RETURN(const auto merges, metadata.Strings("tokenizer.ggml.merges"));
  if (!merges) return InvalidArgument("{}: metadata tokenizer.ggml.merges is missing", path);
  definition.merges.reserve(merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    const std::string_view text = (*merges)[i];
    // The first part is never empty, so that a token that begins with a space keeps it.
    const size_t space = text.find(' ', 1);
    if (text.empty() || space == std::string_view::npos) {
      return InvalidArgument(
          "{}: metadata tokenizer.ggml.merges[{}]: \"{}\", expected two tokens with a space "
          "between",
          path, i, text);
    }
    definition.merges.push_back(
        {std::string(text.substr(0, space)), std::string(text.substr(space + 1))});
  }

  LLMIR_ASSIGN_OR_RETURN(const auto bos, metadata.Integer("tokenizer.ggml.bos_token_id"));
  if (bos)
    LLMIR_RETURN_IF_ERROR(
        SetBos(*bos, path + ": metadata tokenizer.ggml.bos_token_id", definition));
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    LLMIR_ASSIGN_OR_RETURN(const auto id, metadata.Integer(key));
    if (id)
      LLMIR_RETURN_IF_ERROR(AddEndId(*id, fmt::format("{}: metadata {}", path, key), definition));
  }
  LLMIR_ASSIGN_OR_RETURN(const auto chat_template, metadata.String("tokenizer.chat_template"));
  definition.chat_template = chat_template.value_or("");
  return definition;
}

StatusOr<TokenizerDefinition> JsonTokenizerDefinition(const Json& json, const std::string& where) {
  if (const Json* normalizer = JsonField(json, "normalizer")) {
    return Incompatible("{}: normalizer: {} is not supported; expected null", where,
                        JsonExcerpt(*normalizer));
  }
  const Json* model = JsonField(json, "model");
  if (model == nullptr || !model->is_object())
    return InvalidArgument("{}: model: expected an object", where);
  LLMIR_ASSIGN_OR_RETURN(const auto type, JsonString(*model, "type", where + ": model"));
  if (type && *type != "BPE")
    return Incompatible("{}: model: type \"{}\" is not supported; expected BPE", where, *type);
  // A byte-level vocabulary has a token for every byte, so that the unknown token can never appear.
  LLMIR_RETURN_IF_ERROR(RequireAbsent(
      *model, {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"},
      where + ": model"));
  TokenizerDefinition definition;
  LLMIR_ASSIGN_OR_RETURN(const auto ignore_merges,
                         JsonBool(*model, "ignore_merges", where + ": model"));
  definition.ignore_merges = ignore_merges.value_or(false);
  LLMIR_RETURN_IF_ERROR(SetJsonSplit(json, where, definition));
  LLMIR_RETURN_IF_ERROR(SetJsonTokens(json, *model, where, definition));
  LLMIR_RETURN_IF_ERROR(SetJsonMerges(*model, where + ": model", definition));
  return definition;
}

StatusOr<TokenizerDefinition> HuggingFaceTokenizerDefinition(const std::string& path) {
  LLMIR_ASSIGN_OR_RETURN(const Json json, ReadJsonObject(path));
  LLMIR_ASSIGN_OR_RETURN(TokenizerDefinition definition, JsonTokenizerDefinition(json, path));

  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  // The ids that generation uses come first; the tokenizer's own texts serve when no file names
  // ids.
  for (const char* name : {"generation_config.json", "config.json"}) {
    const std::string file = (folder / name).string();
    auto config = ReadJsonObject(file);
    if (config.status().code() == StatusCode::kNotFound) continue;
    if (!config.ok()) return config.status();
    LLMIR_ASSIGN_OR_RETURN(const auto bos, TokenIds(*config, "bos_token_id", file));
    if (definition.bos < 0 && !bos.empty())
      LLMIR_RETURN_IF_ERROR(SetBos(bos[0], file + ": bos_token_id", definition));
    LLMIR_ASSIGN_OR_RETURN(const auto eos, TokenIds(*config, "eos_token_id", file));
    for (const int64_t id : eos)
      LLMIR_RETURN_IF_ERROR(AddEndId(id, file + ": eos_token_id", definition));
  }
  const std::string config_path = (folder / "tokenizer_config.json").string();
  auto config = ReadJsonObject(config_path);
  if (config.ok()) {
    LLMIR_ASSIGN_OR_RETURN(definition.chat_template, ChatTemplateOf(*config, config_path));
    const auto id_of = [&](const char* key) -> int64_t {
      const std::string text = TokenText(*config, key);
      const auto found = std::ranges::find(definition.texts, text);
      return text.empty() || found == definition.texts.end() ? -1
                                                             : found - definition.texts.begin();
    };
    if (const int64_t bos = id_of("bos_token"); definition.bos < 0 && bos >= 0) {
      LLMIR_RETURN_IF_ERROR(SetBos(bos, config_path, definition));
    }
    // The tokenizer's EOS is often the end of a turn where the model's is the end of a document:
    // both end an answer.
    if (const int64_t eos = id_of("eos_token"); eos >= 0)
      LLMIR_RETURN_IF_ERROR(AddEndId(eos, config_path, definition));
  } else if (config.status().code() != StatusCode::kNotFound) {
    return config.status();
  }
  if (auto file = FileMap::Open((folder / "chat_template.jinja").string()); file.ok()) {
    definition.chat_template.assign(reinterpret_cast<const char*>(file->bytes().data()),
                                    file->size());
  }
  return definition;
}

}  // namespace llmir::checkpoint
