// Syntax of the Jinja subset that chat templates use, parsed with trim_blocks and lstrip_blocks on,
// as `transformers` does. Internal to the checkpoint folder.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "plan_schema/checkpoint/jinja/value.h"

namespace llmir::checkpoint::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kLiteral,      // value
    kName,         // text
    kList,         // arguments
    kDict,         // arguments: key, value, key, value, ...
    kMember,       // arguments[0].text
    kIndex,        // arguments[0][arguments[1]]
    kSlice,        // arguments[0][arguments[1]:arguments[2]:arguments[3]], those absent null
    kCall,         // arguments[0](arguments[1...], named...)
    kFilter,       // arguments[0] | text(arguments[1...], named...)
    kTest,         // arguments[0] is text arguments[1...]
    kUnary,        // text: "not", "-", "+"
    kBinary,       // text: the operator, among them "and", "or", "in", "not in", "~"
    kConditional,  // arguments: then, condition, else (or null)
  };
  Kind kind;
  int line;
  int depth =
      1;  // levels of expressions in this one: what evaluating and freeing it costs in stack
  std::string text;
  Value value;
  std::vector<ExpressionPtr> arguments;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Statement;
using Block = std::vector<Statement>;

struct Statement {
  enum class Kind {
    kText,      // text
    kOutput,    // expression
    kIf,        // expression, body, otherwise (an elif is an if alone in `otherwise`)
    kFor,       // targets, expression, condition (or null), body, otherwise
    kSet,       // targets = expression; or text.targets[0] = expression for a member of a namespace
    kSetBlock,  // targets[0] = the rendered body
    kGroup,     // body, in the same scope
    kBreak,
    kContinue,
  };
  Kind kind;
  int line;
  std::string text;
  std::vector<std::string> targets;
  ExpressionPtr expression;
  ExpressionPtr condition;
  Block body;
  Block otherwise;
};

// Parses a template; throws Error.
Block Parse(const std::string& source);

// The names that the interpreter knows; asked by the parser so that an unknown one is found before
// anything is rendered.
bool IsFilter(const std::string& name);
bool IsTest(const std::string& name);

}  // namespace llmir::checkpoint::jinja
