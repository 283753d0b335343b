// The text of one answer as it grows, id by id: never ends inside a UTF-8 character, stops before a
// stop string, and holds back what may still become one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan_schema/checkpoint/tokenizer.h"

namespace llmir::executor {

class TextStream {
 public:
  // `tokenizer` may be null (a checkpoint without one): the text stays empty and stop strings can't
  // match.
  TextStream(const checkpoint::Tokenizer* tokenizer, const std::vector<std::string>& stop);

  // Adds an id; returns the text that can be shown now.
  std::string Push(int32_t id);
  // The rest, when the answer ends without a stop string.
  std::string Finish();

  bool stopped() const { return stopped_; }          // a stop string was met
  const std::string& text() const { return text_; }  // all that was shown

 private:
  std::string Release(std::string fresh, bool last);

  const checkpoint::Tokenizer* tokenizer_;
  std::vector<std::string> stop_;
  checkpoint::Utf8Stream characters_;
  std::string held_;  // decoded but not shown
  std::string text_;
  bool stopped_ = false;
};

}  // namespace llmir::executor
