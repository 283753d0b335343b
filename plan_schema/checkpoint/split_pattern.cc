#include "plan_schema/checkpoint/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace llmir::checkpoint {
namespace {

// Writes `pattern`, in Oniguruma's syntax, for PCRE2. They differ in \s, which PCRE2 lets match
// U+180E (it stopped being white space in Unicode 6.3), so \s and \S are spelled out; and in sets
// inside sets, which PCRE2 would read as something else.
StatusOr<std::string> Translate(const std::string& pattern) {
  static constexpr std::string_view kSpace = "\\t-\\r\\x{85}\\p{Z}";
  std::string translated;
  bool in_set = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        translated += in_set ? std::string(kSpace) : fmt::format("[{}]", kSpace);
      } else if (escaped == 'S' && !in_set) {
        translated += fmt::format("[^{}]", kSpace);
      } else {
        translated += {c, escaped};
      }
      continue;
    }
    if (in_set && (c == '[' || pattern.compare(i, 2, "&&") == 0)) {
      return Incompatible("split pattern \"{}\": the set inside a set at byte {} is not supported",
                          pattern, i);
    }
    if (c == '[') in_set = true;
    if (c == ']') in_set = false;
    translated += c;
  }
  return translated;
}

}  // namespace

struct SplitPattern::Compiled {
  explicit Compiled(pcre2_code* code) : code(code) {}
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
  ~Compiled() { pcre2_code_free(code); }
  pcre2_code* const code;
};

StatusOr<SplitPattern> SplitPattern::Compile(const std::string& pattern) {
  LLMIR_ASSIGN_OR_RETURN(const std::string translated, Translate(pattern));
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof message);
    return InvalidArgument(
        "split pattern \"{}\" is not a regular expression that PCRE2 accepts: {} at byte {} of "
        "\"{}\"",
        pattern, reinterpret_cast<const char*>(message), offset, translated);
  }
  auto compiled = std::make_shared<const Compiled>(code);
  // Without the JIT (a hardened kernel may forbid it) the interpreter gives the same matches,
  // slower.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return SplitPattern(pattern, std::move(compiled));
}

void SplitPattern::Split(std::string_view text,
                         const std::function<void(std::string_view)>& piece) const {
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(
      pcre2_match_data_create_from_pattern(compiled_->code, nullptr), pcre2_match_data_free);
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t done = 0;   // what was handed out
  size_t start = 0;  // where to look for the next match
  while (match != nullptr && start < text.size()) {
    int result = pcre2_match(compiled_->code, subject, text.size(), start, PCRE2_NO_UTF_CHECK,
                             match.get(), nullptr);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
      result = pcre2_match(compiled_->code, subject, text.size(), start,
                           PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match.get(), nullptr);
    }
    if (result < 0) break;
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
    if (range[1] <= range[0]) {  // an empty match splits nothing: look on behind the next character
      ++start;
      while (start < text.size() && (static_cast<uint8_t>(text[start]) & 0xc0) == 0x80) ++start;
      continue;
    }
    if (range[0] > done) piece(text.substr(done, range[0] - done));
    piece(text.substr(range[0], range[1] - range[0]));
    done = start = range[1];
  }
  if (done < text.size()) piece(text.substr(done));
}

}  // namespace llmir::checkpoint
