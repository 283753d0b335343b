//===- EncodeMessages.cpp - Rows travel between hosts in int8 -------------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

#include <fmt/format.h>

namespace llmir::llm {
#define GEN_PASS_DEF_ENCODEMESSAGES
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

struct EncodeMessagesPass
    : public llmir::llm::impl::EncodeMessagesBase<EncodeMessagesPass> {
  void runOnOperation() override {
    int64_t count = 0;
    auto int8 = StringAttr::get(&getContext(), "int8");
    getOperation().walk([&](Operation *op) {
      if (!canLoseBits(op))
        return;
      op->setAttr("llm.wire", int8);
      ++count;
    });
    if (count > 0)
      explain(
          getOperation(), "llm-encode-messages",
          fmt::format("the rows of {} messages are int8 between hosts", count),
          "34 bytes for 128 there");
  }
};

} // namespace
