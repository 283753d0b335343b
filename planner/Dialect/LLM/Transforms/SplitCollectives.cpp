//===- SplitCollectives.cpp - Split all_reduce into start and wait --------===//

#include "planner/Dialect/LLM/Transforms/Passes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_SPLITCOLLECTIVES
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir::llm;

namespace {

struct SplitCollectivesPass
    : public llmir::llm::impl::SplitCollectivesBase<SplitCollectivesPass> {
  void runOnOperation() override {
    getOperation().walk([](AllReduceOp reduce) {
      OpBuilder builder(reduce);
      auto start = AllReduceStartOp::create(
          builder, reduce.getLoc(), TokenType::get(builder.getContext()),
          reduce.getInput());
      auto wait =
          WaitOp::create(builder, reduce.getLoc(), reduce.getType(), start);
      reduce.replaceAllUsesWith(wait.getResult());
      reduce.erase();
    });
  }
};

} // namespace
