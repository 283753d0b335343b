// Byte-level BPE as GPT-2-style models use it (SmolLM2, Llama 3, Qwen 2, ...), from a GGUF file's
// metadata or from a Hugging Face tokenizer.json. Gives exactly the ids of the `tokenizers`
// library.
//
// Immutable after Load; Encode and Decode may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "plan_schema/base/status.h"

namespace llmir::checkpoint {

class Tokenizer {
 public:
  // `path`: a .gguf file, a tokenizer.json, or a folder that holds one.
  static StatusOr<Tokenizer> Load(const std::string& path);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Ids of UTF-8 `text`. Special tokens written in the text are recognised when `parse_special`;
  // none is added. Invalid UTF-8 is encoded byte by byte, never an error.
  std::vector<int32_t> Encode(std::string_view text, bool parse_special = true) const;

  // The bytes of `ids`, special tokens included as their text when `keep_special`. An id out of
  // range gives nothing.
  std::string Decode(const std::vector<int32_t>& ids, bool keep_special = false) const;

  // The bytes of one id.
  std::string TokenBytes(int32_t id, bool keep_special = false) const;

  int32_t vocabulary() const;
  int32_t bos() const;                          // -1: none
  const std::vector<int32_t>& end_ids() const;  // ids that end an answer (EOS, end of turn)
  bool IsSpecial(int32_t id) const;
  const std::string& chat_template() const;  // Jinja source; empty: the checkpoint has none
  const std::string& file() const;           // the file that it was read from

  // Hash64 over everything that changes ids: tokens, merges, types, special ids, split pattern.
  // Equal for the same tokenizer whether it came from GGUF or tokenizer.json is not promised.
  uint64_t Fingerprint() const;

 private:
  struct Data;
  explicit Tokenizer(std::unique_ptr<Data> data);
  std::unique_ptr<Data> data_;
};

// Turns a stream of token bytes into text that never ends inside a UTF-8 character: bytes of an
// unfinished character are held back until it is complete or turns out to be invalid (then each bad
// byte gives U+FFFD).
class Utf8Stream {
 public:
  std::string Push(std::string_view bytes);  // what can be shown now
  std::string Finish();                      // the rest, an unfinished character as U+FFFD

 private:
  std::string pending_;
};

}  // namespace llmir::checkpoint
