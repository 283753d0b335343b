// UTF-8 by the Unicode standard's table of well-formed sequences (no surrogates, no overlong
// forms). Internal to this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace llmir::checkpoint {

// What stands at the start of a text.
struct Utf8Character {
  uint32_t code = 0;
  size_t length = 0;        // bytes of a well-formed character; 0: there is none
  bool unfinished = false;  // none, but the text is too short to tell: more bytes could complete it
};

// Reads the first character of a text that isn't empty.
inline Utf8Character ReadUtf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, false};
  const size_t length = lead >= 0xc2 && lead <= 0xdf   ? 2
                        : (lead & 0xf0) == 0xe0        ? 3
                        : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                       : 0;
  if (length == 0) return {};
  // Only the second byte's range depends on the lead: that is where overlong forms and surrogates
  // are excluded.
  const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  uint32_t code = lead & (0x7f >> length);
  for (size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {0, 0, true};
    if (byte(i) < (i == 1 ? low : 0x80) || byte(i) > (i == 1 ? high : 0xbf)) return {};
    code = code << 6 | (byte(i) & 0x3f);
  }
  return {code, length, false};
}

inline void AppendUtf8(uint32_t code, std::string& text) {
  if (code < 0x80) {
    text += static_cast<char>(code);
    return;
  }
  const int continuations = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  static constexpr uint8_t kLeads[] = {0, 0xc0, 0xe0, 0xf0};
  text += static_cast<char>(kLeads[continuations] | code >> (6 * continuations));
  for (int i = continuations - 1; i >= 0; --i)
    text += static_cast<char>(0x80 | (code >> (6 * i) & 0x3f));
}

}  // namespace llmir::checkpoint
