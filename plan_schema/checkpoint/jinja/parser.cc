#include "plan_schema/checkpoint/jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "plan_schema/checkpoint/utf8.h"

namespace llmir::checkpoint::jinja {
namespace {

// Deeper nesting than any template has: bounds of the recursion of the parser, and of that over its
// result (a chain such as a + b + c is parsed in a loop, but nests).
constexpr int kMaxDepth = 200;
constexpr int kMaxExpressionDepth = 500;

struct Token {
  enum class Kind {
    kText,
    kOutputBegin,
    kOutputEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd
  };
  Kind kind;
  int line;
  std::string text;
};

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// Every line ends in \n alone, and one newline at the end is dropped, as Jinja does.
std::string NormalizeNewlines(std::string_view source) {
  std::string text;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
    } else if (!source.substr(i + 1).starts_with('\n')) {
      text += '\n';
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

class Lexer {
 public:
  // `source` with newlines as NormalizeNewlines leaves them.
  explicit Lexer(std::string_view source) : source_(source) {}

  std::vector<Token> Run() {
    while (at_ < source_.size()) {
      LexText();
      if (at_ == source_.size()) break;
      const char kind = source_[at_ + 1];
      const int line = line_;
      at_ += 2;
      if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) ++at_;
      if (kind == '#') {
        const size_t end = source_.find("#}", at_);
        if (end == std::string_view::npos) throw Error(line, "a comment is not closed");
        Advance(end);
        CloseTag(true);
        continue;
      }
      Push(kind == '{' ? Token::Kind::kOutputBegin : Token::Kind::kBlockBegin, "");
      LexCode(kind == '{' ? "}}" : "%}", line);
      Push(kind == '{' ? Token::Kind::kOutputEnd : Token::Kind::kBlockEnd, "");
      CloseTag(kind == '%');
    }
    Push(Token::Kind::kEnd, "end of the template");
    return std::move(tokens_);
  }

 private:
  void Push(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, line_, std::move(text)});
  }

  void Advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(at_),
                                         source_.begin() + static_cast<ptrdiff_t>(to), '\n'));
    at_ = to;
  }

  // Text up to the next tag, with the white space that this tag eats.
  void LexText() {
    size_t tag = at_;
    while ((tag = source_.find('{', tag)) != std::string_view::npos) {
      if (tag + 1 < source_.size() &&
          std::string_view("{%#").find(source_[tag + 1]) != std::string_view::npos)
        break;
      ++tag;
    }
    if (tag == std::string_view::npos) tag = source_.size();
    std::string_view text = source_.substr(at_, tag - at_);
    const bool has_tag = tag < source_.size();
    const char mark = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (has_tag && mark == '-') {
      while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
    } else if (has_tag && mark != '+' && source_[tag + 1] != '{') {
      // lstrip_blocks: blanks between the start of the line and the tag.
      std::string_view stripped = text;
      while (!stripped.empty() && (stripped.back() == ' ' || stripped.back() == '\t'))
        stripped.remove_suffix(1);
      const bool line_start =
          stripped.empty() ? at_ == 0 || source_[at_ - 1] == '\n' : stripped.back() == '\n';
      if (line_start) text = stripped;
    }
    if (!text.empty()) Push(Token::Kind::kText, std::string(text));
    Advance(tag);
  }

  // Behind the content of a tag: the tag's end, and the white space that it eats.
  void CloseTag(bool trims_newline) {
    const char mark = at_ > 0 ? source_[at_ - 1] : '\0';
    size_t next = at_ + 2;
    if (mark == '-') {
      while (next < source_.size() && IsSpace(source_[next])) ++next;
    } else if (trims_newline && mark != '+' &&
               source_.substr(next).starts_with('\n')) {  // trim_blocks
      ++next;
    }
    Advance(next);
  }

  // Tokens up to the tag's `end`, where at_ then is.
  void LexCode(std::string_view end, int tag_line) {
    int open = 0;  // brackets: "}}" inside a dict of dicts doesn't end the tag
    while (at_ < source_.size()) {
      const char c = source_[at_];
      const std::string_view rest = source_.substr(at_);
      if (open == 0 && rest.starts_with(end)) return;
      if (open == 0 && (c == '-' || c == '+') && rest.substr(1).starts_with(end)) {
        ++at_;
        return;
      }
      if (IsSpace(c)) {
        Advance(at_ + 1);
      } else if (c == '\'' || c == '"') {
        LexString(c);
      } else if (IsDigit(c)) {
        LexNumber();
      } else if (IsNameStart(c)) {
        size_t stop = at_;
        while (stop < source_.size() && (IsNameStart(source_[stop]) || IsDigit(source_[stop])))
          ++stop;
        Push(Token::Kind::kName, std::string(source_.substr(at_, stop - at_)));
        at_ = stop;
      } else {
        static constexpr std::string_view kTwo[] = {"==", "!=", "<=", ">=", "//", "**"};
        const bool two = std::ranges::find(kTwo, rest.substr(0, 2)) != std::end(kTwo);
        if (!two && std::string_view("+-*/%~<>=()[]{}.,:|").find(c) == std::string_view::npos) {
          throw Error(line_, fmt::format("unexpected character '{}'", c));
        }
        if (c == '(' || c == '[' || c == '{') ++open;
        if ((c == ')' || c == ']' || c == '}') && --open < 0)
          throw Error(line_, fmt::format("'{}' closes nothing", c));
        Push(Token::Kind::kOperator, std::string(rest.substr(0, two ? 2 : 1)));
        at_ += two ? 2 : 1;
      }
    }
    throw Error(tag_line, fmt::format("a tag is not closed; expected {}", end));
  }

  void LexString(char quote) {
    std::string text;
    size_t i = at_ + 1;
    for (; i < source_.size() && source_[i] != quote; ++i) {
      if (source_[i] != '\\' || i + 1 == source_.size()) {
        text += source_[i];
        continue;
      }
      const char escaped = source_[++i];
      switch (escaped) {
        case 'n':
          text += '\n';
          break;
        case 't':
          text += '\t';
          break;
        case 'r':
          text += '\r';
          break;
        case '\\':
        case '\'':
        case '"':
          text += escaped;
          break;
        case 'x':
          AppendUtf8(Hex(i, 2), text);
          break;
        case 'u':
          AppendUtf8(Hex(i, 4), text);
          break;
        default:
          text += {'\\', escaped};  // as Python does
      }
    }
    if (i == source_.size()) throw Error(line_, "a string is not closed");
    Push(Token::Kind::kString, std::move(text));
    Advance(i + 1);
  }

  // `digits` hexadecimal digits behind position `i`, which moves to the last of them.
  uint32_t Hex(size_t& i, size_t digits) {
    uint32_t code = 0;
    const std::string_view text = source_.substr(i + 1, digits);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), code, 16);
    if (text.size() != digits || error != std::errc() || end != text.data() + digits ||
        (code >= 0xd800 && code <= 0xdfff)) {
      throw Error(line_, "an escape in a string is malformed");
    }
    i += digits;
    return code;
  }

  void LexNumber() {
    size_t stop = at_;
    const auto skip = [&] {
      while (stop < source_.size() && IsDigit(source_[stop])) ++stop;
    };
    skip();
    bool is_float = false;
    if (stop + 1 < source_.size() && source_[stop] == '.' && IsDigit(source_[stop + 1])) {
      is_float = true;
      ++stop;
      skip();
    }
    size_t exponent = stop;
    if (exponent < source_.size() && (source_[exponent] == 'e' || source_[exponent] == 'E')) {
      ++exponent;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-'))
        ++exponent;
      if (exponent < source_.size() && IsDigit(source_[exponent])) {
        is_float = true;
        stop = exponent;
        skip();
      }
    }
    Push(is_float ? Token::Kind::kFloat : Token::Kind::kInteger,
         std::string(source_.substr(at_, stop - at_)));
    at_ = stop;
  }

  std::string_view source_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Block Run() {
    Block block = ParseBlock({});
    if (Current().kind != Token::Kind::kEnd) Fail("text or a tag");
    return block;
  }

 private:
  using Kind = Token::Kind;

  // Counts how deep the parser is, for as long as it lives.
  class Depth {
   public:
    explicit Depth(Parser& parser) : parser_(parser) {
      if (++parser.depth_ > kMaxDepth)
        throw Error(parser.Current().line, fmt::format("nested more than {} deep", kMaxDepth));
    }
    ~Depth() { --parser_.depth_; }

   private:
    Parser& parser_;
  };

  const Token& Current() const { return tokens_[at_]; }
  const Token& Next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token Take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }

  [[noreturn]] void Fail(std::string_view expected) const {
    const Token& token = Current();
    const bool shown = token.kind != Kind::kOutputEnd && token.kind != Kind::kBlockEnd;
    throw Error(
        token.line,
        fmt::format("unexpected {}, expected {}",
                    shown ? fmt::format("\"{}\"", token.text) : "end of the tag", expected));
  }

  bool Is(Kind kind, std::string_view text) const {
    return Current().kind == kind && Current().text == text;
  }
  bool IsOperator(std::string_view text) const { return Is(Kind::kOperator, text); }
  bool IsName(std::string_view text) const { return Is(Kind::kName, text); }
  bool Accept(Kind kind, std::string_view text) {
    if (!Is(kind, text)) return false;
    Take();
    return true;
  }
  bool AcceptOperator(std::string_view text) { return Accept(Kind::kOperator, text); }
  bool AcceptName(std::string_view text) { return Accept(Kind::kName, text); }
  void Expect(Kind kind, std::string_view text) {
    if (!Accept(kind, text)) Fail(text.empty() ? "end of the tag" : text);
  }
  std::string ExpectName() {
    if (Current().kind != Kind::kName) Fail("a name");
    return Take().text;
  }
  void EndTag() { Expect(Kind::kBlockEnd, ""); }

  ExpressionPtr Make(Expression::Kind kind, int line, std::string text = "") {
    auto expression = std::make_unique<Expression>();
    expression->kind = kind;
    expression->line = line;
    expression->text = std::move(text);
    return expression;
  }
  template <typename... Arguments>
  ExpressionPtr Make(Expression::Kind kind, int line, std::string text, Arguments... arguments) {
    ExpressionPtr expression = Make(kind, line, std::move(text));
    (Adopt(*expression, std::move(arguments)), ...);
    return expression;
  }

  static void CountDepth(Expression& parent, const ExpressionPtr& child) {
    if (child != nullptr) parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxExpressionDepth) {
      throw Error(parent.line,
                  fmt::format("an expression nested more than {} deep", kMaxExpressionDepth));
    }
  }
  static void Adopt(Expression& parent, ExpressionPtr child) {
    CountDepth(parent, child);
    parent.arguments.push_back(std::move(child));
  }

  // Statements up to a tag that begins with one of `ends`; its name has then been read, not the
  // rest.
  Block ParseBlock(std::initializer_list<std::string_view> ends) {
    const Depth depth(*this);
    Block block;
    while (true) {
      const Token& token = Current();
      if (token.kind == Kind::kEnd) {
        if (ends.size() > 0) Fail(*ends.begin());
        return block;
      }
      if (token.kind == Kind::kText) {
        block.push_back(MakeStatement(Statement::Kind::kText, token.line));
        block.back().text = Take().text;
      } else if (token.kind == Kind::kOutputBegin) {
        Take();
        block.push_back(MakeStatement(Statement::Kind::kOutput, Current().line));
        block.back().expression = ParseTuple();
        Expect(Kind::kOutputEnd, "");
      } else {
        Expect(Kind::kBlockBegin, "");
        const int line = Current().line;
        const std::string name = ExpectName();
        if (std::ranges::find(ends, name) != ends.end()) {
          block_end_ = name;
          return block;
        }
        block.push_back(ParseStatement(name, line));
      }
    }
  }

  static Statement MakeStatement(Statement::Kind kind, int line) {
    return {kind, line, {}, {}, {}, {}, {}, {}};
  }

  Statement ParseStatement(const std::string& name, int line) {
    if (name == "if") return ParseIf(line);
    if (name == "for") return ParseFor(line);
    if (name == "set") return ParseSet(line);
    if (name == "break" || name == "continue") {
      if (loops_ == 0) throw Error(line, fmt::format("{} outside a loop", name));
      EndTag();
      return MakeStatement(name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue,
                           line);
    }
    // transformers' own tag: marks what an assistant said; nothing to render.
    if (name == "generation") {
      EndTag();
      Statement statement = MakeStatement(Statement::Kind::kGroup, line);
      statement.body = ParseBlock({"endgeneration"});
      EndTag();
      return statement;
    }
    throw Error(
        line,
        fmt::format("statement \"{}\" is not supported; expected if, for, set, break or continue",
                    name));
  }

  Statement ParseIf(int line) {
    const Depth depth(*this);
    Statement statement = MakeStatement(Statement::Kind::kIf, line);
    statement.expression = ParseExpression();
    EndTag();
    statement.body = ParseBlock({"endif", "elif", "else"});
    if (block_end_ == "elif") {
      statement.otherwise.push_back(ParseIf(Current().line));
      return statement;  // the inner one read endif
    }
    if (block_end_ == "else") {
      EndTag();
      statement.otherwise = ParseBlock({"endif"});
    }
    EndTag();
    return statement;
  }

  Statement ParseFor(int line) {
    Statement statement = MakeStatement(Statement::Kind::kFor, line);
    statement.targets = ParseTargets();
    if (!AcceptName("in")) Fail("in");
    statement.expression = ParseOr();
    if (AcceptName("if")) statement.condition = ParseExpression();
    if (IsName("recursive")) throw Error(line, "recursive loops are not supported");
    EndTag();
    ++loops_;
    statement.body = ParseBlock({"endfor", "else"});
    --loops_;
    if (block_end_ == "else") {
      EndTag();
      statement.otherwise = ParseBlock({"endfor"});
    }
    EndTag();
    return statement;
  }

  std::vector<std::string> ParseTargets() {
    const bool bracket = AcceptOperator("(");
    std::vector<std::string> targets = {ExpectName()};
    while (AcceptOperator(",")) targets.push_back(ExpectName());
    if (bracket) Expect(Kind::kOperator, ")");
    return targets;
  }

  Statement ParseSet(int line) {
    Statement statement = MakeStatement(Statement::Kind::kSet, line);
    statement.targets = ParseTargets();
    if (statement.targets.size() == 1 && AcceptOperator(".")) {
      statement.text = statement.targets[0];
      statement.targets[0] = ExpectName();
    }
    if (AcceptOperator("=")) {
      statement.expression = ParseTuple();
      EndTag();
      return statement;
    }
    if (!statement.text.empty() || statement.targets.size() != 1) Fail("=");
    statement.kind = Statement::Kind::kSetBlock;
    EndTag();
    statement.body = ParseBlock({"endset"});
    EndTag();
    return statement;
  }

  // a, b, c is a list; a alone is itself.
  ExpressionPtr ParseTuple() {
    const int line = Current().line;
    ExpressionPtr first = ParseExpression();
    if (!IsOperator(",")) return first;
    ExpressionPtr list = Make(Expression::Kind::kList, line, "", std::move(first));
    while (AcceptOperator(",")) {
      if (Current().kind == Kind::kOutputEnd || Current().kind == Kind::kBlockEnd ||
          IsOperator(")"))
        break;
      Adopt(*list, ParseExpression());
    }
    return list;
  }

  ExpressionPtr ParseExpression() {
    const Depth depth(*this);
    ExpressionPtr expression = ParseOr();
    while (IsName("if")) {
      const int line = Take().line;
      ExpressionPtr condition = ParseOr();
      ExpressionPtr otherwise;
      if (AcceptName("else")) otherwise = ParseExpression();
      expression = Make(Expression::Kind::kConditional, line, "", std::move(expression),
                        std::move(condition), std::move(otherwise));
    }
    return expression;
  }

  ExpressionPtr ParseOr() {
    ExpressionPtr left = ParseAnd();
    while (IsName("or")) {
      const int line = Take().line;
      left = Make(Expression::Kind::kBinary, line, "or", std::move(left), ParseAnd());
    }
    return left;
  }

  ExpressionPtr ParseAnd() {
    ExpressionPtr left = ParseNot();
    while (IsName("and")) {
      const int line = Take().line;
      left = Make(Expression::Kind::kBinary, line, "and", std::move(left), ParseNot());
    }
    return left;
  }

  ExpressionPtr ParseNot() {
    if (!IsName("not")) return ParseComparison();
    const Depth depth(*this);
    const int line = Take().line;
    return Make(Expression::Kind::kUnary, line, "not", ParseNot());
  }

  // The comparison operator that stands here, taken; nothing if there is none.
  std::optional<std::string> TakeComparison() {
    if (Current().kind == Kind::kOperator) {
      static constexpr std::string_view kComparisons[] = {"==", "!=", "<", ">", "<=", ">="};
      if (std::ranges::find(kComparisons, Current().text) != std::end(kComparisons))
        return Take().text;
    } else if (AcceptName("in")) {
      return "in";
    } else if (IsName("not") && Next().kind == Kind::kName && Next().text == "in") {
      Take();
      Take();
      return "not in";
    }
    return std::nullopt;
  }

  ExpressionPtr ParseComparison() {
    ExpressionPtr left = ParseSum();
    const int line = Current().line;
    const auto comparison = TakeComparison();
    if (!comparison) return left;
    ExpressionPtr result =
        Make(Expression::Kind::kBinary, line, *comparison, std::move(left), ParseSum());
    if (TakeComparison())
      throw Error(line, "chained comparisons are not supported; join them with and");
    return result;
  }

  ExpressionPtr ParseSum() {
    ExpressionPtr left = ParseConcatenation();
    while (IsOperator("+") || IsOperator("-")) {
      const Token token = Take();
      left = Make(Expression::Kind::kBinary, token.line, token.text, std::move(left),
                  ParseConcatenation());
    }
    return left;
  }

  ExpressionPtr ParseConcatenation() {
    ExpressionPtr left = ParseProduct();
    while (IsOperator("~")) {
      const int line = Take().line;
      left = Make(Expression::Kind::kBinary, line, "~", std::move(left), ParseProduct());
    }
    return left;
  }

  ExpressionPtr ParseProduct() {
    ExpressionPtr left = ParseUnary(true);
    while (IsOperator("*") || IsOperator("/") || IsOperator("//") || IsOperator("%")) {
      const Token token = Take();
      left = Make(Expression::Kind::kBinary, token.line, token.text, std::move(left),
                  ParseUnary(true));
    }
    return left;
  }

  ExpressionPtr ParseUnary(bool with_filters) {
    const Depth depth(*this);
    ExpressionPtr expression;
    if (IsOperator("-") || IsOperator("+")) {
      const Token token = Take();
      expression = Make(Expression::Kind::kUnary, token.line, token.text, ParseUnary(false));
    } else {
      expression = ParsePostfix(ParsePrimary());
    }
    return with_filters ? ParseFilters(std::move(expression)) : std::move(expression);
  }

  ExpressionPtr ParsePrimary() {
    const int line = Current().line;
    switch (Current().kind) {
      case Kind::kName:
        return ParseName();
      case Kind::kString: {
        ExpressionPtr literal = Make(Expression::Kind::kLiteral, line);
        std::string text;
        while (Current().kind == Kind::kString) text += Take().text;
        literal->value = Value(std::move(text));
        return literal;
      }
      case Kind::kInteger: {
        ExpressionPtr literal = Make(Expression::Kind::kLiteral, line);
        const std::string digits = Take().text;
        int64_t value = 0;
        if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec !=
            std::errc()) {
          throw Error(line, fmt::format("integer {} is too large", digits));
        }
        literal->value = Value(value);
        return literal;
      }
      case Kind::kFloat: {
        ExpressionPtr literal = Make(Expression::Kind::kLiteral, line);
        const std::string digits = Take().text;
        double value = 0;
        std::from_chars(digits.data(), digits.data() + digits.size(), value);
        literal->value = Value(value);
        return literal;
      }
      case Kind::kOperator:
        return ParseBracketed();
      default:
        Fail("an expression");
    }
  }

  ExpressionPtr ParseName() {
    const Token token = Take();
    ExpressionPtr literal = Make(Expression::Kind::kLiteral, token.line);
    if (token.text == "true" || token.text == "True") {
      literal->value = Value(true);
    } else if (token.text == "false" || token.text == "False") {
      literal->value = Value(false);
    } else if (token.text == "none" || token.text == "None") {
      literal->value = Value(None{});
    } else {
      return Make(Expression::Kind::kName, token.line, token.text);
    }
    return literal;
  }

  ExpressionPtr ParseBracketed() {
    const int line = Current().line;
    if (AcceptOperator("(")) {
      if (AcceptOperator(")")) return Make(Expression::Kind::kList, line);
      ExpressionPtr inner = ParseTuple();
      Expect(Kind::kOperator, ")");
      return inner;
    }
    if (AcceptOperator("[")) {
      ExpressionPtr list = Make(Expression::Kind::kList, line);
      while (!IsOperator("]")) {
        Adopt(*list, ParseExpression());
        if (!AcceptOperator(",")) break;
      }
      Expect(Kind::kOperator, "]");
      return list;
    }
    if (AcceptOperator("{")) {
      ExpressionPtr dict = Make(Expression::Kind::kDict, line);
      while (!IsOperator("}")) {
        Adopt(*dict, ParseExpression());
        Expect(Kind::kOperator, ":");
        Adopt(*dict, ParseExpression());
        if (!AcceptOperator(",")) break;
      }
      Expect(Kind::kOperator, "}");
      return dict;
    }
    Fail("an expression");
  }

  ExpressionPtr ParsePostfix(ExpressionPtr expression) {
    while (true) {
      const int line = Current().line;
      if (AcceptOperator(".")) {
        if (Current().kind == Kind::kInteger) {  // list.0 is list[0]
          expression =
              Make(Expression::Kind::kIndex, line, "", std::move(expression), ParsePrimary());
        } else {
          expression = Make(Expression::Kind::kMember, line, ExpectName(), std::move(expression));
        }
      } else if (AcceptOperator("[")) {
        expression = ParseSubscript(std::move(expression), line);
      } else if (IsOperator("(")) {
        ExpressionPtr call = Make(Expression::Kind::kCall, line, "", std::move(expression));
        ParseArguments(*call);
        expression = std::move(call);
      } else {
        return expression;
      }
    }
  }

  ExpressionPtr ParseSubscript(ExpressionPtr object, int line) {
    ExpressionPtr parts[3];
    int colons = 0;
    while (!IsOperator("]")) {
      if (AcceptOperator(":")) {
        if (++colons > 2) Fail("]");
      } else if (parts[colons] == nullptr) {
        parts[colons] = ParseExpression();
      } else {
        Fail("]");
      }
    }
    if (colons == 0 && parts[0] == nullptr) Fail("an index");
    Take();
    if (colons == 0)
      return Make(Expression::Kind::kIndex, line, "", std::move(object), std::move(parts[0]));
    return Make(Expression::Kind::kSlice, line, "", std::move(object), std::move(parts[0]),
                std::move(parts[1]), std::move(parts[2]));
  }

  void ParseArguments(Expression& call) {
    Expect(Kind::kOperator, "(");
    while (!IsOperator(")")) {
      if (Current().kind == Kind::kName && Next().kind == Kind::kOperator && Next().text == "=") {
        std::string name = Take().text;
        Take();
        call.named.emplace_back(std::move(name), ParseExpression());
        CountDepth(call, call.named.back().second);
      } else {
        Adopt(call, ParseExpression());
      }
      if (!AcceptOperator(",")) break;
    }
    Expect(Kind::kOperator, ")");
  }

  ExpressionPtr ParseFilters(ExpressionPtr expression) {
    while (true) {
      const int line = Current().line;
      if (AcceptOperator("|")) {
        const std::string name = ExpectName();
        if (!IsFilter(name)) throw Error(line, fmt::format("filter \"{}\" is not supported", name));
        expression = Make(Expression::Kind::kFilter, line, name, std::move(expression));
        if (IsOperator("(")) ParseArguments(*expression);
      } else if (AcceptName("is")) {
        const bool negated = AcceptName("not");
        const std::string name = IsName("in") ? Take().text : ExpectName();
        if (!IsTest(name)) throw Error(line, fmt::format("test \"{}\" is not supported", name));
        expression = Make(Expression::Kind::kTest, line, name, std::move(expression));
        if (IsOperator("(")) {
          ParseArguments(*expression);
        } else if (StartsTestArgument()) {
          Adopt(*expression, ParsePostfix(ParsePrimary()));
        }
        if (negated)
          expression = Make(Expression::Kind::kUnary, line, "not", std::move(expression));
      } else {
        return expression;
      }
    }
  }

  // `x is divisibleby 3`: an argument without brackets.
  bool StartsTestArgument() const {
    const Token& token = Current();
    if (token.kind == Kind::kString || token.kind == Kind::kInteger || token.kind == Kind::kFloat)
      return true;
    if (token.kind == Kind::kOperator) return token.text == "[" || token.text == "{";
    static constexpr std::string_view kKeywords[] = {"else", "or", "and", "is",
                                                     "if",   "in", "not", "recursive"};
    return token.kind == Kind::kName &&
           std::ranges::find(kKeywords, token.text) == std::end(kKeywords);
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;
  std::string block_end_;  // the name that ended the last block
};

}  // namespace

Block Parse(const std::string& source) {
  const std::string text = NormalizeNewlines(source);
  return Parser(Lexer(text).Run()).Run();
}

}  // namespace llmir::checkpoint::jinja
