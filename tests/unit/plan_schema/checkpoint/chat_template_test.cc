#include "plan_schema/checkpoint/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <map>

#include "plan_schema/checkpoint/tokenizer.h"
#include "test_files.h"

namespace llmir::checkpoint {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using Messages = std::vector<ChatMessage>;

// The rendered text, or the error as text.
std::string Render(const std::string& source, const Messages& messages = {},
                   bool add_generation_prompt = true) {
  const auto chat = ChatTemplate::Parse(source, "<s>", "</s>");
  if (!chat.ok()) return chat.status().ToString();
  const auto text = chat->Render(messages, add_generation_prompt);
  return text.ok() ? *text : text.status().ToString();
}

const Messages kDialog = {
    {"system", " Be brief.\n"}, {"user", "Hi"}, {"assistant", "Hello. "}, {"user", "Again?"}};

TEST(ChatTemplate, RealModelRendersTheGoldenPrompts) {
  const auto tokenizer = Tokenizer::Load(TestModel());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  const auto chat =
      ChatTemplate::Parse(tokenizer->chat_template(), tokenizer->TokenBytes(tokenizer->bos(), true),
                          tokenizer->TokenBytes(tokenizer->end_ids()[0], true));
  ASSERT_TRUE(chat.ok()) << chat.status().ToString();
  const std::map<std::string, Messages> chats = {
      {"chat_capital", {{"user", "What is the capital of France?"}}},
      {"chat_code", {{"user", "Write a Python function that returns the n-th Fibonacci number."}}},
      {"chat_system",
       {{"system", "You answer briefly, as a numbered list."},
        {"user", "Give me three tips for learning C++."}}},
  };
  size_t compared = 0;
  const nlohmann::json golden = Golden("golden.json");
  for (const auto& prompt : golden["prompts"]) {
    const auto found = chats.find(prompt["name"]);
    if (found == chats.end()) continue;
    const auto text = chat->Render(found->second);
    ASSERT_TRUE(text.ok()) << text.status().ToString();
    EXPECT_EQ(*text, prompt["prompt"].get<std::string>());
    ++compared;
  }
  EXPECT_EQ(compared, chats.size());
}

// The expected texts below are what jinja2 3.1 renders with the settings of `transformers`
// (trim_blocks, lstrip_blocks).

TEST(ChatTemplate, HeaderStyleWithDefaultsAndSlices) {
  const std::string source = R"({{- bos_token }}
{%- if not date is defined %}
    {%- set date = "today" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message goes first. #}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|header|>system\n" }}
{%- if tools is not none %}
    {{- "tools: " + tools | tojson }}
{%- endif %}
{{- "Date: " + date + "\n" + system + "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|header|>' + message['role'] + '\n' + message['content'] | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|header|>assistant\n' }}
{%- endif %}
)";
  EXPECT_EQ(Render(source, kDialog),
            "<s><|header|>system\nDate: today\nBe "
            "brief.<|eot|><|header|>user\nHi<|eot|><|header|>assistant\nHello.<|eot|>"
            "<|header|>user\nAgain?<|eot|><|header|>assistant\n");
  EXPECT_EQ(Render(source, {{"user", "Hi"}}, false),
            "<s><|header|>system\nDate: today\n<|eot|><|header|>user\nHi<|eot|>");
}

TEST(ChatTemplate, NamespaceReversalAndMethods) {
  const std::string source = R"({%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and not(message.content.startswith('<') and message.content.endswith('>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if '</think>' in message.content %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}
    {%- else %}
        {%- set content = message.content %}
    {%- endif %}
    {{- '[' + message.role + ']' + content }}
{%- endfor %}
{{ ns.last }})";
  EXPECT_EQ(Render(source, {{"user", "q"}, {"assistant", "hm</think>\n\nyes"}, {"user", "<tool>"}}),
            "[user]q[assistant]yes[user]<tool>0");
}

TEST(ChatTemplate, AlternationIsCheckedByTheTemplateItself) {
  const std::string source = R"({%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %})";
  EXPECT_EQ(Render(source, kDialog),
            "<s>[INST] Hi[/INST] Hello.</s>[INST]  Be brief.\n\n\nAgain?[/INST]");
  EXPECT_EQ(Render(source, {{"user", "a"}, {"user", "b"}}),
            "INVALID_ARGUMENT: chat template: roles must alternate");
}

TEST(ChatTemplate, BlockTagsTakeTheirLineWithThem) {
  const std::string source =
      "{% for message in messages %}\n  {% if message['role'] == 'user' %}\n{{ '<|user|>\n' + "
      "message['content'] + eos_token }}\n"
      "  {% else %}\n{{ '<|other|>\n' + message['content'] }}\n  {% endif %}\n{% endfor %}\n\ntail "
      "{# note #}\n x {#- c -#}  y\n";
  EXPECT_EQ(Render(source, {{"user", "a"}, {"assistant", "b"}}),
            "<|user|>\na</s>\n<|other|>\nb\n\ntail  xy");
  EXPECT_EQ(Render("a\n  {%+ if true %} b {% endif +%}\n c"), "a\n   b \n c");
  EXPECT_EQ(Render("a \n\t{%- if true -%} \n b {{- 1 -}} c{% endif %}\r\nd\r\n"), "ab1cd");
  EXPECT_EQ(Render("  {{ 1 }}\n  {{ 2 }}\n"), "  1\n  2");
}

TEST(ChatTemplate, Expressions) {
  const std::pair<const char*, const char*> kCases[] = {
      {"1 + 2 * 3", "7"},
      {"-7 // 2", "-4"},
      {"-7 % 3", "2"},
      {"7 / 2", "3.5"},
      {"1e5", "100000.0"},
      {"'a' ~ 1 ~ none ~ true", "a1NoneTrue"},
      {"[1, 'a', 2.0, none, {'k': 'v'}]", "[1, 'a', 2.0, None, {'k': 'v'}]"},
      {"['it\\'s']", "[\"it's\"]"},
      {"'a' 'b'", "ab"},
      {"'\\x41\\u00e9'", "Aé"},
      {"'héllo'[1]", "é"},
      {"'héllo'[::-1]", "olléh"},
      {"[1, 2, 3, 4][1::2]", "[2, 4]"},
      {"[1, 2, 3][:-1]", "[1, 2]"},
      {"[1, 2, 3][-100:100]", "[1, 2, 3]"},
      {"[1, 2, 3][::-2]", "[3, 1]"},
      {"messages.0.role", "system"},
      {"messages[9] is defined", "False"},
      {"missing", ""},
      {"missing.length is defined",
       "INCOMPATIBLE: chat template: line 1: \"missing\" is undefined, so it has no \"length\""},
      {"missing | default('d')", "d"},
      {"'' | default('d')", ""},
      {"'' | default('d', true)", "d"},
      {"1 if missing else 2", "2"},
      {"(1 if missing)", ""},
      {"'a' not in ['b']", "True"},
      {"'k' in {'k': 1}", "True"},
      {"not 1 == 2", "True"},
      {"1 == 1.0", "True"},
      {"0 or 'x'", "x"},
      {"'' and 'x'", ""},
      {"1 <= 2 and 3 >= 3 and 'a' < 'b'", "True"},
      {"none is none and 'a' is string and 1 is number and {} is mapping and [] is sequence",
       "True"},
      {"4 is divisibleby 2", "True"},
      {"[1, 2, 3] | join('-')", "1-2-3"},
      {"messages | map(attribute='role') | join(',')", "system,user,assistant,user"},
      {"messages | selectattr('role', 'equalto', 'user') | list | length", "2"},
      {"(messages | rejectattr('role', 'eq', 'user') | first).content | trim", "Be brief."},
      {"{'a': [1, {'b': none}], 'é': '\"\\\\'} | tojson",
       R"({"a": [1, {"b": null}], "é": "\"\\"})"},
      {"{'a': [1], 'c': [], 'd': {}} | tojson(indent=2)",
       "{\n  \"a\": [\n    1\n  ],\n  \"c\": [],\n  \"d\": {}\n}"},
      {"' a  b '.split()", "['a', 'b']"},
      {"'a,b,c'.split(',', 1)", "['a', 'b,c']"},
      {"'aaa'.replace('a', 'b', 2)", "bba"},
      {"'xyx'.strip('x')", "y"},
      {"'\\u00a0 q \\u2003' | trim", "q"},
      {"'AbC dEf' | title", "Abc Def"},
      {"'abC' | capitalize", "Abc"},
      {"'héllo' | length", "5"},
      {"'12' | int + 1", "13"},
      {"{'a': 1}.get('b', 'z')", "z"},
      {"{'items': 3}['items']", "3"},
      {"{'a': 1, 'b': 2}.items() | list | length", "2"},
  };
  for (const auto& [expression, expected] : kCases) {
    EXPECT_EQ(Render("{{ " + std::string(expression) + " }}", kDialog), expected) << expression;
  }
}

TEST(ChatTemplate, LoopsAndScopes) {
  EXPECT_EQ(Render("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }}{{ ', ' if not "
                   "loop.last }}{% endfor %}"),
            "a=1, b=2");
  EXPECT_EQ(
      Render("{% for x in [1, 2, 3, 4] if x % 2 == 0 %}{{ loop.index }}:{{ x }};{% endfor %}"),
      "1:2;2:4;");
  EXPECT_EQ(Render("{% for x in [] %}x{% else %}empty{% endfor %}"), "empty");
  EXPECT_EQ(Render("{% for x in range(5) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 3 "
                   "%}{% break %}{% endif %}{{ x }}{% endfor %}"),
            "02");
  EXPECT_EQ(Render("{% set x = 1 %}{% for i in range(3) %}{{ x }}{% set x = x + 1 %}{{ x }}{% "
                   "endfor %}{{ x }}"),
            "1212121");
  EXPECT_EQ(Render("{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% "
                   "endfor %}{{ ns.n }}"),
            "3");
  EXPECT_EQ(
      Render("{% set b %} x {{ 1 }}{% endset %}[{{ b }}]{% set p, q = [1, 2] %}{{ p }}{{ q }}"),
      "[ x 1]12");
  EXPECT_EQ(Render("{% for x in 'ab' %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ "
                   "loop.first }}{{ loop.length }} {% endfor %}"),
            "102True2 211False2 ");
  EXPECT_EQ(Render("{% for x in [1, 2] %}{{ loop.previtem is defined }}{{ loop.nextitem is defined "
                   "}} {% endfor %}"),
            "FalseTrue TrueFalse ");
}

TEST(ChatTemplate, UnknownConstructsAreNamedWithTheirLine) {
  const std::pair<const char*, const char*> kCases[] = {
      {"\n\n{% macro f() %}{% endmacro %}", "line 3: statement \"macro\" is not supported"},
      {"{{ x | nope }}", "line 1: filter \"nope\" is not supported"},
      {"{{ x is nope }}", "line 1: test \"nope\" is not supported"},
      {"\n{{ nope() }}", "line 2: function \"nope\" is not supported"},
      {"{{ 'a'.nope() }}", "line 1: method \"nope\" of a string is not supported"},
      {"{% if x %}\n", "expected endif"},
      {"{% endif %}", "\"endif\" is not supported"},
      {"{% break %}", "break outside a loop"},
      {"{{ 1 + }}", "unexpected end of the tag, expected an expression"},
      {"{{ 'a", "a string is not closed"},
      {"{{ 1 ", "a tag is not closed"},
      {"{# 1 ", "a comment is not closed"},
      {"{{ 1 ? 2 }}", "unexpected character '?'"},
      {"{{ 'a' + 1 }}", "a string + an integer is not possible"},
      {"{{ missing + 'a' }}", "\"missing\" is undefined"},
      {"{{ 1 // 0 }}", "division by zero"},
      {"{{ 9223372036854775807 + 1 }}", "grows beyond 64 bits"},
      {"{{ 9223372036854775808 }}", "is too large"},
      {"{{ 1 < 2 < 3 }}", "chained comparisons"},
      {"{% for x in 3 %}{% endfor %}", "an integer cannot be iterated"},
      {"{% set messages.x = 1 %}", "expected a namespace"},
  };
  for (const auto& [source, expected] : kCases)
    EXPECT_THAT(Render(source), HasSubstr(expected)) << source;
}

TEST(ChatTemplate, HostileTemplatesEndInAnError) {
  EXPECT_THAT(
      Render("{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}"),
      HasSubstr("more than 2000000 steps"));
  EXPECT_THAT(Render("{{ range(1000000000) }}"), HasSubstr("more than 100000 elements"));
  EXPECT_THAT(Render("{{ 'a' * 1000000000000 }}"), HasSubstr("grows beyond"));
  EXPECT_THAT(Render("{% set ns = namespace(s='aa') %}{% for i in range(99) %}{% set ns.s = ns.s ~ "
                     "ns.s %}{% endfor %}"),
              HasSubstr("grows beyond"));
  EXPECT_THAT(Render("{% set ns = namespace(s=[]) %}{% for i in range(99999) %}{% set ns.s = "
                     "[ns.s] %}{% endfor %}"),
              HasSubstr("nested more than"));
  EXPECT_THAT(Render("{% set ns = namespace() %}{% set ns.me = ns %}"),
              HasSubstr("a namespace inside"));
  const auto repeat = [](const char* text) {
    std::string repeated;
    for (int i = 0; i < 100'000; ++i) repeated += text;
    return repeated;
  };
  for (const auto& [begin, middle, end, close] : {std::array{"", "(", "1", ")"},
                                                  {"", "[", "1", "]"},
                                                  {"1", "+1", "", ""},
                                                  {"a", ".b", "", ""},
                                                  {"", "not ", "1", ""},
                                                  {"", "-", "1", ""},
                                                  {"a", "|trim", "", ""},
                                                  {"1", " if 1 else 1", "", ""}}) {
    const std::string source =
        fmt::format("{{{{ {}{}{}{} }}}}", begin, repeat(middle), end, repeat(close));
    EXPECT_THAT(Render(source), HasSubstr("nested more than")) << middle;
  }
  EXPECT_THAT(Render(repeat("{% if 1 %}")), HasSubstr("nested more than"));
}

TEST(ChatTemplate, OneTemplateRendersManyTimes) {
  const auto chat = ChatTemplate::Parse("{% set x = messages|length %}{{ x }}", "", "");
  ASSERT_TRUE(chat.ok());
  EXPECT_EQ(*chat->Render({}), "0");
  EXPECT_EQ(*chat->Render(kDialog), "4");
  EXPECT_EQ(*chat->Render({}), "0");
}

}  // namespace
}  // namespace llmir::checkpoint
