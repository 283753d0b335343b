// Splits text with a regular expression, as the pre-tokenizers of byte-level BPE do. Internal to
// this folder.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "plan_schema/base/status.h"

namespace llmir::checkpoint {

// One compiled pattern; immutable, any thread may split with it.
class SplitPattern {
 public:
  // `pattern` in Oniguruma's (Ruby's) syntax, as far as PCRE2 shares it: tokenizer.json is written
  // for that library.
  static StatusOr<SplitPattern> Compile(const std::string& pattern);

  // Calls `piece` for each match and each stretch between matches, in order; together they are
  // `text`, which must be well-formed UTF-8. Where the matcher gives up (its backtracking limit),
  // the rest is one piece.
  void Split(std::string_view text, const std::function<void(std::string_view)>& piece) const;

  const std::string& pattern() const { return pattern_; }

 private:
  struct Compiled;
  SplitPattern(std::string pattern, std::shared_ptr<const Compiled> compiled)
      : pattern_(std::move(pattern)), compiled_(std::move(compiled)) {}

  std::string pattern_;
  std::shared_ptr<const Compiled> compiled_;
};

}  // namespace llmir::checkpoint
