#include "plan_schema/checkpoint/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "gguf_writer.h"
#include "plan_schema/checkpoint/gguf.h"
#include "plan_schema/checkpoint/utf8.h"
#include "test_files.h"

namespace llmir::checkpoint {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

StatusOr<Tokenizer> LoadGguf(const GgufWriter& writer) {
  const TemporaryFolder folder;
  WriteFile(folder / "tokenizer.gguf", writer.Finish());
  return Tokenizer::Load(folder / "tokenizer.gguf");
}

// Letters a to d, the blank (Ġ), "ab" and "abc" by merges, a special token and an added one.
const std::vector<std::string> kTokens = {"<s>", "a",   "b",  "c",      "d", "Ġ",
                                          "ab",  "abc", "Ġa", "<user>", "cd"};
const std::vector<int32_t> kTypes = {3, 1, 1, 1, 1, 1, 1, 1, 1, 4, 1};
const std::vector<std::string> kMerges = {"a b", "Ġ a", "ab c", "c d"};

GgufWriter TinyTokenizer(const std::string& pre = "gpt-2") {
  GgufWriter writer;
  writer.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", pre);
  writer.Strings("tokenizer.ggml.tokens", kTokens).Integers("tokenizer.ggml.token_type", kTypes);
  return writer;
}

json TinyTokenizerJson() {
  json vocabulary = json::object();
  for (size_t i = 0; i < kTokens.size(); ++i) {
    if (kTypes[i] == 1) vocabulary[kTokens[i]] = i;
  }
  const auto added = [](int id, const char* content, bool special) {
    return json{
        {"id", id},        {"content", content}, {"special", special}, {"single_word", false},
        {"lstrip", false}, {"rstrip", false},    {"normalized", false}};
  };
  return {
      {"added_tokens", {added(0, "<s>", true), added(9, "<user>", false)}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", kMerges}}}};
}

StatusOr<Tokenizer> LoadJson(const json& content) {
  const TemporaryFolder folder;
  WriteFile(folder / "tokenizer.json", content.dump());
  return Tokenizer::Load(folder.path());
}

// The real model's tokenizer in the other format, made from its metadata.
void WriteTokenizerJson(const std::string& gguf, const std::string& path) {
  const std::string file = ReadFile(gguf);
  const auto header = ReadGgufHeader(BytesOf(file), gguf);
  ASSERT_TRUE(header.ok()) << header.status().ToString();
  const auto tokens = header->metadata.Strings("tokenizer.ggml.tokens");
  const auto types = header->metadata.Integers("tokenizer.ggml.token_type");
  const auto merges = header->metadata.Strings("tokenizer.ggml.merges");
  json vocabulary = json::object(), added = json::array(), pairs = json::array();
  for (size_t i = 0; i < (*tokens)->size(); ++i) {
    vocabulary[std::string((**tokens)[i])] = i;
    if ((**types)[i] == 3)
      added.push_back({{"id", i}, {"content", (**tokens)[i]}, {"special", true}});
  }
  for (const std::string_view merge : **merges) {
    const size_t space = merge.find(' ');
    pairs.push_back({merge.substr(0, space), merge.substr(space + 1)});
  }
  const json steps = {{{"type", "Digits"}, {"individual_digits", true}},
                      {{"type", "ByteLevel"},
                       {"add_prefix_space", false},
                       {"trim_offsets", true},
                       {"use_regex", true}}};
  WriteFile(
      path,
      json{{"version", "1.0"},
           {"added_tokens", added},
           {"normalizer", nullptr},
           {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", steps}}},
           {"model",
            {{"type", "BPE"}, {"unk_token", nullptr}, {"vocab", vocabulary}, {"merges", pairs}}}}
          .dump());
}

void ExpectGolden(const Tokenizer& tokenizer) {
  const json cases = Golden("tokenizer.json");
  ASSERT_EQ(cases.size(), 20u);
  for (const json& one : cases) {
    const std::string text =
        one.contains("text") ? one["text"].get<std::string>() : ReferredText(one["file"]);
    const auto ids = tokenizer.Encode(text);
    EXPECT_EQ(ids, one["ids"].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(tokenizer.Decode(ids, true), text);
  }
  const json prompts = Golden("golden.json")["prompts"];
  ASSERT_EQ(prompts.size(), 8u);
  for (const json& one : prompts) {
    const std::string text = one.contains("prompt") ? one["prompt"].get<std::string>()
                                                    : ReferredText(one["prompt_file"]);
    EXPECT_EQ(tokenizer.Encode(text), one["prompt_ids"].get<std::vector<int32_t>>()) << one["name"];
    EXPECT_EQ(tokenizer.Decode(one["greedy_64"].get<std::vector<int32_t>>(), true),
              one["greedy_text"].get<std::string>());
  }
}

TEST(Tokenizer, GgufGivesTheIdsOfTheTokenizersLibrary) {
  const auto tokenizer = Tokenizer::Load(TestModel());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  ExpectGolden(*tokenizer);
}

TEST(Tokenizer, TokenizerJsonGivesTheIdsOfTheTokenizersLibrary) {
  const TemporaryFolder folder;
  WriteTokenizerJson(TestModel(), folder / "tokenizer.json");
  const auto tokenizer = Tokenizer::Load(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_EQ(tokenizer->file(), folder / "tokenizer.json");
  ExpectGolden(*tokenizer);
}

TEST(Tokenizer, RealModelsFactsAreRead) {
  const auto tokenizer = Tokenizer::Load(TestModel());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_EQ(tokenizer->vocabulary(), 49152);
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_THAT(tokenizer->end_ids(), ElementsAre(2));
  EXPECT_TRUE(tokenizer->IsSpecial(2));
  EXPECT_FALSE(tokenizer->IsSpecial(905));
  EXPECT_THAT(tokenizer->chat_template(), HasSubstr("add_generation_prompt"));
  EXPECT_EQ(tokenizer->TokenBytes(905), " world");
  EXPECT_EQ(tokenizer->TokenBytes(2), "");
  EXPECT_EQ(tokenizer->TokenBytes(2, true), "<|im_end|>");
  EXPECT_EQ(tokenizer->TokenBytes(-1), "");
  EXPECT_EQ(tokenizer->TokenBytes(49152, true), "");
  EXPECT_EQ(tokenizer->Decode({19556, 905, 2}), "Hello world");
  const auto again = Tokenizer::Load(TestModel());
  EXPECT_EQ(again->Fingerprint(), tokenizer->Fingerprint());
}

TEST(Tokenizer, SpecialTokensInTextAreTextUnlessAskedFor) {
  const auto tokenizer = Tokenizer::Load(TestModel());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  const std::string text = "a<|im_end|>b";
  const auto parsed = tokenizer->Encode(text, true), plain = tokenizer->Encode(text, false);
  EXPECT_EQ(std::ranges::count(parsed, 2), 1);
  EXPECT_EQ(std::ranges::count(plain, 2), 0);
  EXPECT_EQ(tokenizer->Decode(plain), text);
}

TEST(Tokenizer, ArbitraryBytesSurviveTheRoundTrip) {
  const auto tokenizer = Tokenizer::Load(TestModel());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  // The model's vocabulary lacks some bytes, which then are dropped, as in the reference; the
  // others must come back.
  std::string known;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string one(1, static_cast<char>(byte));
    if (tokenizer->Decode(tokenizer->Encode(one)) == one) known += one;
  }
  EXPECT_GT(known.size(), 200u);
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (int i = 0; i < 64; ++i) text += known[random() % known.size()];
    EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text), true), text) << round;
  }
}

// One piece of 400,000 letters: an algorithm that is quadratic in a piece would need minutes.
TEST(Tokenizer, LongPiecesTakeNearlyLinearTime) {
  const auto tokenizer = Tokenizer::Load(TestModel());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  const std::string text(400'000, 'a');
  const auto start = std::chrono::steady_clock::now();
  const auto ids = tokenizer->Encode(text);
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(tokenizer->Decode(ids), text);
  EXPECT_LT(taken.count(), 5);
}

TEST(Tokenizer, MergesGoByRankThenPosition) {
  GgufWriter writer = TinyTokenizer();
  const auto tokenizer = LoadGguf(writer.Strings("tokenizer.ggml.merges", kMerges));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_THAT(tokenizer->Encode("abcd"), ElementsAre(7, 4));          // ab, abc before cd
  EXPECT_THAT(tokenizer->Encode("acd"), ElementsAre(1, 10));          // cd
  EXPECT_THAT(tokenizer->Encode(" ab ac"), ElementsAre(5, 6, 8, 3));  // ab outranks Ġa
  EXPECT_THAT(tokenizer->Encode("abab"), ElementsAre(6, 6));
  EXPECT_THAT(tokenizer->Encode("xaby"), ElementsAre(6)) << "bytes without a token are dropped";
  EXPECT_THAT(tokenizer->Encode(""), IsEmpty());
}

TEST(Tokenizer, AddedTokensAreFoundBeforeMerging) {
  GgufWriter writer = TinyTokenizer();
  const auto tokenizer = LoadGguf(writer.Strings("tokenizer.ggml.merges", kMerges));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_THAT(tokenizer->Encode("a<s>b<user>c"), ElementsAre(1, 0, 2, 9, 3));
  EXPECT_THAT(tokenizer->Encode("a<s>b<user>c", false), ElementsAre(1, 2, 9, 3))
      << "control tokens are text, added ones stay";
  EXPECT_EQ(tokenizer->Decode({0, 1, 9}), "a<user>");
}

TEST(Tokenizer, LongestAddedTokenWins) {
  GgufWriter writer;
  writer.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "smollm");
  writer.Strings("tokenizer.ggml.tokens", {"<a>", "<a><b>", "<", "a", ">", "b"});
  writer.Integers("tokenizer.ggml.token_type", {4, 4, 1, 1, 1, 1})
      .Strings("tokenizer.ggml.merges", {});
  const auto tokenizer = LoadGguf(writer);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_THAT(tokenizer->Encode("<a><b><a><a"), ElementsAre(1, 0, 2, 3));
}

TEST(Tokenizer, WholePieceThatIsATokenSkipsMergesForLlama3) {
  // "cd" has a merge of no rank here: only as a whole piece can it be found.
  for (const auto& [pre, expected] :
       {std::pair("llama-bpe", std::vector<int32_t>{10}), {"gpt-2", {3, 4}}}) {
    GgufWriter writer = TinyTokenizer(pre);
    const auto tokenizer = LoadGguf(writer.Strings("tokenizer.ggml.merges", {"a b", "ab c"}));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
    EXPECT_EQ(tokenizer->Encode("cd"), expected) << pre;
  }
}

TEST(Tokenizer, EveryEndOfTurnOfTheMetadataEndsAnAnswer) {
  GgufWriter writer = TinyTokenizer();
  writer.Strings("tokenizer.ggml.merges", kMerges).Integer("tokenizer.ggml.eos_token_id", 0);
  writer.Integer("tokenizer.ggml.eot_token_id", 9).Integer("tokenizer.ggml.eom_token_id", 0);
  const auto tokenizer = LoadGguf(writer);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_THAT(tokenizer->end_ids(), ElementsAre(0, 9));
  EXPECT_EQ(tokenizer->bos(), -1);
}

TEST(Tokenizer, BrokenGgufTokenizersAreNamed) {
  const auto message = [](const GgufWriter& writer) { return LoadGguf(writer).status().message(); };
  EXPECT_THAT(message(GgufWriter()), HasSubstr("holds no tokenizer"));
  EXPECT_THAT(message(GgufWriter().String("tokenizer.ggml.model", "llama")),
              HasSubstr("\"llama\" is not supported"));
  EXPECT_THAT(message(GgufWriter().String("tokenizer.ggml.model", "gpt2")),
              HasSubstr("tokenizer.ggml.pre is missing"));
  EXPECT_THAT(message(TinyTokenizer("other")), HasSubstr("\"other\" is not supported"));
  EXPECT_THAT(message(TinyTokenizer()), HasSubstr("merges is missing"));
  EXPECT_THAT(message(TinyTokenizer().Strings("tokenizer.ggml.merges", {"ab"})),
              HasSubstr("merges[0]: \"ab\""));
  EXPECT_THAT(message(TinyTokenizer().Strings("tokenizer.ggml.merges", {"a z"})),
              HasSubstr("merges[0]: \"z\" is not a token"));
  EXPECT_THAT(message(TinyTokenizer().Strings("tokenizer.ggml.merges", {"b a"})),
              HasSubstr("\"ba\" is not a token"));
  EXPECT_THAT(message(TinyTokenizer()
                          .Strings("tokenizer.ggml.merges", {})
                          .Integer("tokenizer.ggml.bos_token_id", 11)),
              HasSubstr("token id 11, expected 0 to 10"));
  GgufWriter types;
  types.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "gpt-2");
  types.Strings("tokenizer.ggml.tokens", {"a", "a"});
  EXPECT_THAT(message(GgufWriter(types).Strings("tokenizer.ggml.merges", {})),
              HasSubstr("tokens 0 and 1 are both \"a\""));
  EXPECT_THAT(message(GgufWriter(types).Integers("tokenizer.ggml.token_type", {1})),
              HasSubstr("1 types for 2 tokens"));
  EXPECT_THAT(message(GgufWriter(types).Integers("tokenizer.ggml.token_type", {1, 9})),
              HasSubstr("token_type[1]"));
}

TEST(Tokenizer, TokenizerJsonMatchesGguf) {
  GgufWriter writer = TinyTokenizer();
  const auto gguf = LoadGguf(writer.Strings("tokenizer.ggml.merges", kMerges));
  const auto from_json = LoadJson(TinyTokenizerJson());
  ASSERT_TRUE(from_json.ok()) << from_json.status().ToString();
  for (const char* text : {"abcd ab", "a<s>b<user>", "  abc", "dcba"}) {
    EXPECT_EQ(from_json->Encode(text), gguf->Encode(text)) << text;
    EXPECT_EQ(from_json->Encode(text, false), gguf->Encode(text, false)) << text;
  }
}

TEST(Tokenizer, SplitStepsOfTokenizerJsonApplyInOrder) {
  json content = TinyTokenizerJson();
  const json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const auto with_split = [&](const json& pattern) {
    const json split = {
        {"type", "Split"}, {"pattern", pattern}, {"behavior", "Isolated"}, {"invert", false}};
    content["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}};
    return LoadJson(content)->Encode("abc abc");
  };
  EXPECT_THAT(with_split({{"Regex", "b"}}), ElementsAre(1, 2, 3, 8, 2, 3));
  EXPECT_THAT(with_split({{"String", "c"}}), ElementsAre(6, 3, 5, 6, 3));
  EXPECT_THAT(with_split({{"String", "."}}), ElementsAre(7, 5, 7));
}

TEST(Tokenizer, UnsupportedTokenizerJsonIsNamed) {
  const auto message = [](const char* pointer, const json& value) {
    json content = TinyTokenizerJson();
    content[json::json_pointer(pointer)] = value;
    return LoadJson(content).status().message();
  };
  EXPECT_EQ(message("/version", "1.0"), "");
  EXPECT_THAT(message("/normalizer", {{"type", "NFC"}}),
              AllOf(HasSubstr("normalizer"), HasSubstr("NFC")));
  EXPECT_THAT(message("/model/type", "Unigram"), HasSubstr("\"Unigram\""));
  EXPECT_THAT(message("/model/byte_fallback", true), HasSubstr("byte_fallback"));
  EXPECT_THAT(message("/pre_tokenizer/type", "Whitespace"),
              HasSubstr("\"Whitespace\" is not supported"));
  EXPECT_THAT(message("/pre_tokenizer/type", "Digits"), HasSubstr("no ByteLevel step"));
  EXPECT_THAT(message("/pre_tokenizer/add_prefix_space", true), HasSubstr("add_prefix_space"));
  EXPECT_THAT(message("/pre_tokenizer", nullptr), HasSubstr("pre_tokenizer is missing"));
  EXPECT_THAT(message("/added_tokens/0/lstrip", true), HasSubstr("added_tokens[0]: lstrip"));
  EXPECT_THAT(message("/added_tokens/0/id", 4'000'000'000u), HasSubstr("id of token \"<s>\""));
  EXPECT_THAT(message("/added_tokens/0/id", 1), HasSubstr("have the same id 1"));
  EXPECT_THAT(message("/model/vocab/a", -3), HasSubstr("id of token \"a\": -3"));
  EXPECT_THAT(message("/model/vocab", json::array()), HasSubstr("vocab"));
  EXPECT_THAT(message("/model/merges/0", "ab"), HasSubstr("merges[0]: \"ab\""));
  EXPECT_THAT(message("/model/merges/0", json::array({"a", "b", "c"})), HasSubstr("merges[0]"));
}

TEST(Tokenizer, SpecialIdsAndTemplateComeFromTheFilesBeside) {
  const TemporaryFolder folder;
  WriteFile(folder / "tokenizer.json", TinyTokenizerJson().dump());
  WriteFile(folder / "config.json", R"({"bos_token_id": 0, "eos_token_id": 9})");
  WriteFile(folder / "tokenizer_config.json",
            R"({"eos_token": {"content": "cd"}, "chat_template": "T"})");
  auto tokenizer = Tokenizer::Load(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_EQ(tokenizer->bos(), 0);
  EXPECT_THAT(tokenizer->end_ids(), ElementsAre(9, 10));
  EXPECT_EQ(tokenizer->chat_template(), "T");
  WriteFile(folder / "generation_config.json", R"({"eos_token_id": [4, 9]})");
  WriteFile(folder / "chat_template.jinja", "U");
  tokenizer = Tokenizer::Load(folder.path());
  EXPECT_THAT(tokenizer->end_ids(), ElementsAre(4, 9, 10));
  EXPECT_EQ(tokenizer->chat_template(), "U");
  WriteFile(folder / "config.json", R"({"eos_token_id": 11})");
  EXPECT_THAT(Tokenizer::Load(folder.path()).status().message(), HasSubstr("token id 11"));
}

TEST(Tokenizer, FingerprintChangesWithWhatChangesIds) {
  GgufWriter base = TinyTokenizer(), other_pre = TinyTokenizer("smollm"), fewer = TinyTokenizer(),
             end = TinyTokenizer();
  base.Strings("tokenizer.ggml.merges", kMerges);
  other_pre.Strings("tokenizer.ggml.merges", kMerges);
  fewer.Strings("tokenizer.ggml.merges", {"a b"});
  end.Strings("tokenizer.ggml.merges", kMerges).Integer("tokenizer.ggml.eos_token_id", 0);
  const uint64_t fingerprint = LoadGguf(base)->Fingerprint();
  EXPECT_EQ(LoadGguf(base)->Fingerprint(), fingerprint);
  for (const GgufWriter& changed : {other_pre, fewer, end})
    EXPECT_NE(LoadGguf(changed)->Fingerprint(), fingerprint);
}

TEST(Utf8, WellFormedSequencesOnly) {
  EXPECT_EQ(ReadUtf8("é").code, 0xe9u);
  EXPECT_EQ(ReadUtf8("\U0010ffff").length, 4u);
  for (const std::string bad :
       {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
        "\xf4\x90\x80\x80", "\xf8\x88\x80\x80", "\xff", "\xe2\x28\xa1"}) {
    EXPECT_EQ(ReadUtf8(bad).length, 0u) << testing::PrintToString(bad);
    EXPECT_FALSE(ReadUtf8(bad).unfinished) << testing::PrintToString(bad);
  }
  for (const std::string cut : {"\xc3", "\xe2\x82", "\xf0\x9f\x98"})
    EXPECT_TRUE(ReadUtf8(cut).unfinished);
}

TEST(Utf8, EveryCodePointIsWrittenAndReadBack) {
  for (uint32_t code = 0; code < 0x110000; ++code) {
    if (code == 0xd800) code = 0xe000;
    std::string text;
    AppendUtf8(code, text);
    const Utf8Character character = ReadUtf8(text);
    ASSERT_EQ(character.code, code);
    ASSERT_EQ(character.length, text.size());
  }
}

TEST(Utf8Stream, HoldsBackUnfinishedCharacters) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Push("a\xf0\x9f"), "a");
  EXPECT_EQ(stream.Push("\x99"), "");
  EXPECT_EQ(stream.Push("\x82"
                        "b"),
            "🙂b");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(Utf8Stream, BadBytesBecomeReplacementCharacters) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Push("a\xff"
                        "b"),
            "a\ufffdb");
  EXPECT_EQ(stream.Push("\xe2\x82"), "");
  EXPECT_EQ(stream.Push("c"), "\ufffd\ufffdc");
  EXPECT_EQ(stream.Push("\xe2\x82"), "");
  EXPECT_EQ(stream.Finish(), "\ufffd");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(Utf8Stream, ByteByByteGivesTheWholeText) {
  const std::string text = "Ünïcödé, 日本語, 🙂🚀, plain";
  Utf8Stream stream;
  std::string shown;
  for (const char c : text) shown += stream.Push({&c, 1});
  EXPECT_EQ(shown + stream.Finish(), text);
}

}  // namespace
}  // namespace llmir::checkpoint
