#include "executor/text_stream.h"

#include <algorithm>

namespace llmir::executor {

TextStream::TextStream(const checkpoint::Tokenizer* tokenizer, const std::vector<std::string>& stop)
    : tokenizer_(tokenizer), stop_(stop) {}

std::string TextStream::Push(int32_t id) {
  if (tokenizer_ == nullptr || stopped_) return "";
  return Release(characters_.Push(tokenizer_->TokenBytes(id)), false);
}

std::string TextStream::Finish() {
  if (stopped_) return "";
  return Release(characters_.Finish(), true);
}

std::string TextStream::Release(std::string fresh, bool last) {
  held_ += fresh;
  size_t cut = std::string::npos;
  for (const std::string& stop : stop_) cut = std::min(cut, held_.find(stop));
  std::string shown;
  if (cut != std::string::npos) {
    stopped_ = true;
    shown = held_.substr(0, cut);
    held_.clear();
  } else {
    // The longest end of the text that a stop string starts with waits for more.
    size_t keep = 0;
    for (const std::string& stop : stop_) {
      if (last) break;
      for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
        if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) keep = n;
      }
    }
    shown = held_.substr(0, held_.size() - keep);
    held_.erase(0, shown.size());
  }
  text_ += shown;
  return shown;
}

}  // namespace llmir::executor
