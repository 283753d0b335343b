// Renders a parsed template. Internal to the checkpoint folder.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "plan_schema/checkpoint/jinja/parser.h"
#include "plan_schema/checkpoint/jinja/value.h"

namespace llmir::checkpoint::jinja {

// Renders `block` with the global names `globals`; throws Error, also when the template runs or
// grows without end, and RaisedError when the template itself calls raise_exception.
std::string Render(const Block& block, Dict globals);

class RaisedError : public Error {
 public:
  using Error::Error;
};

}  // namespace llmir::checkpoint::jinja
