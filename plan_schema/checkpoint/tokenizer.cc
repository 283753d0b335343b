#include "plan_schema/checkpoint/tokenizer.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <queue>
#include <unordered_map>

#include "plan_schema/base/hash.h"
#include "plan_schema/checkpoint/split_pattern.h"
#include "plan_schema/checkpoint/tokenizer_definition.h"
#include "plan_schema/checkpoint/utf8.h"

namespace llmir::checkpoint {
namespace {

struct TextHash {
  size_t operator()(std::string_view text) const { return Hash64(text); }
};
using TokenIndex = std::unordered_map<std::string_view, int32_t, TextHash>;

// The byte-level alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and up,
// in order.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    byte_of_.fill(-1);
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
      const uint32_t code = printable ? byte : next++;
      byte_of_[code] = static_cast<int16_t>(byte);
      AppendUtf8(code, text_of_[byte]);
    }
  }

  const std::string& TextOf(uint8_t byte) const { return text_of_[byte]; }

  // The bytes that `text` stands for; nothing if a character of it is not of the alphabet.
  std::optional<std::string> BytesOf(std::string_view text) const {
    std::string bytes;
    while (!text.empty()) {
      const Utf8Character character = ReadUtf8(text);
      if (character.length == 0 || character.code >= byte_of_.size() ||
          byte_of_[character.code] < 0)
        return std::nullopt;
      bytes += static_cast<char>(byte_of_[character.code]);
      text.remove_prefix(character.length);
    }
    return bytes;
  }

 private:
  std::array<std::string, 256> text_of_;
  std::array<int16_t, 0x144> byte_of_;  // 256 + the 68 bytes that aren't printable
};

const ByteAlphabet& Alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

struct Merge {
  int32_t rank;
  int32_t token;  // what the two become
};

// Pair of ids → merge. Open addressing: a lookup per neighbouring pair is where BPE spends its
// time.
class MergeTable {
 public:
  explicit MergeTable(size_t count) {
    size_t size = 16;
    while (size < 2 * count) size *= 2;
    slots_.resize(size, {kFree, {}});
  }

  // The first of equal pairs stays: it has the better rank.
  void Add(int32_t left, int32_t right, Merge merge) {
    Slot& slot = slots_[SlotOf(Key(left, right))];
    if (slot.key == kFree) slot = {Key(left, right), merge};
  }

  const Merge* Find(int32_t left, int32_t right) const {
    const Slot& slot = slots_[SlotOf(Key(left, right))];
    return slot.key == kFree ? nullptr : &slot.merge;
  }

 private:
  static constexpr uint64_t kFree = ~uint64_t{0};  // no pair: ids are never negative
  struct Slot {
    uint64_t key;
    Merge merge;
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t SlotOf(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    size_t slot = (key * 0x9e3779b97f4a7c15) >> 32 & mask;
    while (slots_[slot].key != key && slots_[slot].key != kFree) slot = (slot + 1) & mask;
    return slot;
  }
  std::vector<Slot> slots_;
};

// What one thread needs while it merges; kept over the pieces of a text so that they don't
// allocate.
struct MergeScratch {
  struct Symbol {
    int32_t token;  // -1: merged into the one before
    int32_t before, after;
  };
  struct Candidate {
    int32_t rank, position, token;
    // std::*_heap keep the largest in front: the best is the lowest rank, then the leftmost.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

}  // namespace

struct Tokenizer::Data {
  std::string file;
  std::vector<std::string> bytes;  // by id
  std::vector<TokenKind> kinds;    // by id
  std::array<int32_t, 256> byte_tokens{};
  MergeTable merges{0};
  TokenIndex
      whole_pieces;  // bytes → normal token; only filled when a piece that is a token skips merging
  std::vector<SplitPattern> splits;
  std::array<std::vector<int32_t>, 256> added;  // added tokens by their first byte, longest first
  int32_t bos = -1;
  std::vector<int32_t> end_ids;
  std::string chat_template;
  uint64_t fingerprint = 0;

  Status Build(const TokenizerDefinition& definition);
  int32_t AddedTokenAt(std::string_view text, bool parse_special) const;
  void EncodeText(std::string_view text, MergeScratch& scratch, std::vector<int32_t>& ids) const;
  void EncodeSplit(size_t stage, std::string_view text, MergeScratch& scratch,
                   std::vector<int32_t>& ids) const;
  void EncodePiece(std::string_view piece, MergeScratch& scratch, std::vector<int32_t>& ids) const;
};

Status Tokenizer::Data::Build(const TokenizerDefinition& definition) {
  const size_t count = definition.texts.size();
  kinds = definition.kinds;
  bytes.reserve(count);
  TokenIndex index(count);  // normal tokens by the file's text
  Hasher64 hasher;
  for (size_t id = 0; id < count; ++id) {
    const std::string& text = definition.texts[id];
    hasher.AddValue(text.size());
    hasher.Add(text);
    hasher.AddValue(static_cast<uint8_t>(kinds[id]));
    const auto token = static_cast<int32_t>(id);
    std::optional<std::string> mapped;
    if (kinds[id] == TokenKind::kNormal) mapped = Alphabet().BytesOf(text);
    bytes.push_back(mapped ? std::move(*mapped) : text);
    if (kinds[id] == TokenKind::kUnused) continue;
    if (text.empty()) return InvalidArgument("{}: token {} is empty", file, id);
    // Merges and byte tokens may name added tokens too, as the vocabulary of a tokenizer.json holds
    // both.
    if (const auto [at, fresh] = index.emplace(text, token); !fresh) {
      return InvalidArgument("{}: tokens {} and {} are both \"{}\"", file, at->second, id, text);
    }
    if (kinds[id] != TokenKind::kNormal) added[static_cast<uint8_t>(text[0])].push_back(token);
  }
  for (auto& tokens : added) {
    std::ranges::stable_sort(tokens, std::ranges::greater(),
                             [&](int32_t id) { return bytes[static_cast<size_t>(id)].size(); });
  }
  for (size_t byte = 0; byte < 256; ++byte) {
    const auto found = index.find(Alphabet().TextOf(static_cast<uint8_t>(byte)));
    byte_tokens[byte] = found == index.end() ? -1 : found->second;
  }

  merges = MergeTable(definition.merges.size());
  for (size_t rank = 0; rank < definition.merges.size(); ++rank) {
    const auto& [left, right] = definition.merges[rank];
    const auto a = index.find(left), b = index.find(right), merged = index.find(left + right);
    for (const auto& [found, text] :
         {std::pair(a, left), std::pair(b, right), std::pair(merged, left + right)}) {
      if (found == index.end())
        return InvalidArgument("{}: merges[{}]: \"{}\" is not a token", file, rank, text);
    }
    merges.Add(a->second, b->second, {static_cast<int32_t>(rank), merged->second});
    hasher.AddValue(a->second);
    hasher.AddValue(b->second);
  }
  if (definition.ignore_merges) {
    for (size_t id = 0; id < count; ++id) {
      if (kinds[id] == TokenKind::kNormal)
        whole_pieces.emplace(bytes[id], static_cast<int32_t>(id));
    }
  }
  for (const std::string& pattern : definition.split_patterns) {
    auto split = SplitPattern::Compile(pattern);
    if (!split.ok()) return split.status().WithContext(file);
    hasher.Add(pattern);
    splits.push_back(std::move(split).value());
  }
  bos = definition.bos;
  end_ids = definition.end_ids;
  chat_template = definition.chat_template;
  hasher.AddValue(definition.ignore_merges);
  hasher.AddValue(bos);
  for (const int32_t id : end_ids) hasher.AddValue(id);
  fingerprint = hasher.Finish();
  return {};
}

// The longest added token that `text` starts with, or -1.
int32_t Tokenizer::Data::AddedTokenAt(std::string_view text, bool parse_special) const {
  for (const int32_t id : added[static_cast<uint8_t>(text[0])]) {
    const auto index = static_cast<size_t>(id);
    if ((parse_special || kinds[index] == TokenKind::kUserDefined) &&
        text.starts_with(bytes[index]))
      return id;
  }
  return -1;
}

// Text without added tokens: well-formed stretches are split and merged, stray bytes stand alone.
void Tokenizer::Data::EncodeText(std::string_view text, MergeScratch& scratch,
                                 std::vector<int32_t>& ids) const {
  while (!text.empty()) {
    size_t well_formed = 0;
    while (well_formed < text.size()) {
      const size_t length = ReadUtf8(text.substr(well_formed)).length;
      if (length == 0) break;
      well_formed += length;
    }
    if (well_formed > 0) EncodeSplit(0, text.substr(0, well_formed), scratch, ids);
    text.remove_prefix(well_formed);
    if (text.empty()) return;
    if (const int32_t id = byte_tokens[static_cast<uint8_t>(text[0])]; id >= 0) ids.push_back(id);
    text.remove_prefix(1);
  }
}

void Tokenizer::Data::EncodeSplit(size_t stage, std::string_view text, MergeScratch& scratch,
                                  std::vector<int32_t>& ids) const {
  if (stage == splits.size()) return EncodePiece(text, scratch, ids);
  splits[stage].Split(text,
                      [&](std::string_view piece) { EncodeSplit(stage + 1, piece, scratch, ids); });
}

void Tokenizer::Data::EncodePiece(std::string_view piece, MergeScratch& scratch,
                                  std::vector<int32_t>& ids) const {
  if (const auto whole = whole_pieces.find(piece); whole != whole_pieces.end()) {
    ids.push_back(whole->second);
    return;
  }
  auto& [symbols, heap] = scratch;
  symbols.clear();
  heap.clear();
  for (const char c : piece) {
    const int32_t token = byte_tokens[static_cast<uint8_t>(c)];
    if (token < 0) continue;
    const auto position = static_cast<int32_t>(symbols.size());
    symbols.push_back({token, position - 1, position + 1});
  }
  if (symbols.empty()) return;
  symbols.back().after = -1;

  const auto propose = [&](int32_t position) {
    const auto& left = symbols[static_cast<size_t>(position)];
    if (left.after < 0) return;
    if (const Merge* merge =
            merges.Find(left.token, symbols[static_cast<size_t>(left.after)].token)) {
      heap.push_back({merge->rank, position, merge->token});
      std::push_heap(heap.begin(), heap.end());
    }
  };
  for (size_t i = 0; i < symbols.size(); ++i) propose(static_cast<int32_t>(i));
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const MergeScratch::Candidate best = heap.back();
    heap.pop_back();
    auto& left = symbols[static_cast<size_t>(best.position)];
    if (left.token < 0 || left.after < 0) continue;
    auto& right = symbols[static_cast<size_t>(left.after)];
    // Either side may have changed since the candidate was proposed.
    const Merge* merge = merges.Find(left.token, right.token);
    if (merge == nullptr || merge->token != best.token) continue;
    left.token = best.token;
    right.token = -1;
    left.after = right.after;
    if (left.after >= 0) symbols[static_cast<size_t>(left.after)].before = best.position;
    if (left.before >= 0) propose(left.before);
    propose(best.position);
  }
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].after)
    ids.push_back(symbols[static_cast<size_t>(i)].token);
}

StatusOr<Tokenizer> Tokenizer::Load(const std::string& path) {
  auto data = std::make_unique<Data>();
  std::error_code error;
  data->file = std::filesystem::is_directory(path, error)
                   ? (std::filesystem::path(path) / "tokenizer.json").string()
                   : path;
  if (data->file.ends_with(".json")) {
    LLMIR_ASSIGN_OR_RETURN(const TokenizerDefinition definition,
                           HuggingFaceTokenizerDefinition(data->file));
    LLMIR_RETURN_IF_ERROR(data->Build(definition));
  } else {
    LLMIR_ASSIGN_OR_RETURN(const FileMap map, FileMap::Open(data->file));
    LLMIR_ASSIGN_OR_RETURN(const GgufHeader header, ReadGgufHeader(map.bytes(), data->file));
    LLMIR_ASSIGN_OR_RETURN(const TokenizerDefinition definition,
                           GgufTokenizerDefinition(header.metadata));
    LLMIR_RETURN_IF_ERROR(data->Build(definition));
  }
  return Tokenizer(std::move(data));
}

Tokenizer::Tokenizer(std::unique_ptr<Data> data) : data_(std::move(data)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

std::vector<int32_t> Tokenizer::Encode(std::string_view text, bool parse_special) const {
  std::vector<int32_t> ids;
  MergeScratch scratch;
  size_t start = 0;  // of the text since the last added token
  for (size_t i = 0; i < text.size();) {
    const int32_t added = data_->AddedTokenAt(text.substr(i), parse_special);
    if (added < 0) {
      ++i;
      continue;
    }
    data_->EncodeText(text.substr(start, i - start), scratch, ids);
    ids.push_back(added);
    i += data_->bytes[static_cast<size_t>(added)].size();
    start = i;
  }
  data_->EncodeText(text.substr(start), scratch, ids);
  return ids;
}

std::string Tokenizer::Decode(const std::vector<int32_t>& ids, bool keep_special) const {
  std::string text;
  for (const int32_t id : ids) text += TokenBytes(id, keep_special);
  return text;
}

std::string Tokenizer::TokenBytes(int32_t id, bool keep_special) const {
  if (id < 0 || id >= vocabulary() || (IsSpecial(id) && !keep_special)) return {};
  return data_->bytes[static_cast<size_t>(id)];
}

int32_t Tokenizer::vocabulary() const { return static_cast<int32_t>(data_->bytes.size()); }
int32_t Tokenizer::bos() const { return data_->bos; }
const std::vector<int32_t>& Tokenizer::end_ids() const { return data_->end_ids; }
bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocabulary() &&
         data_->kinds[static_cast<size_t>(id)] == TokenKind::kControl;
}
const std::string& Tokenizer::chat_template() const { return data_->chat_template; }
const std::string& Tokenizer::file() const { return data_->file; }
uint64_t Tokenizer::Fingerprint() const { return data_->fingerprint; }

std::string Utf8Stream::Push(std::string_view bytes) {
  pending_ += bytes;
  std::string_view rest = pending_;
  std::string shown;
  while (!rest.empty()) {
    const Utf8Character character = ReadUtf8(rest);
    if (character.unfinished) break;
    if (character.length > 0) {
      shown += rest.substr(0, character.length);
    } else {
      AppendUtf8(0xfffd, shown);
    }
    rest.remove_prefix(std::max<size_t>(character.length, 1));
  }
  pending_ = std::string(rest);
  return shown;
}

std::string Utf8Stream::Finish() {
  std::string shown;
  if (!pending_.empty()) AppendUtf8(0xfffd, shown);
  pending_.clear();
  return shown;
}

}  // namespace llmir::checkpoint
