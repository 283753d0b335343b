//===- ChooseAttention.cpp - How each layer of each program attends -------===//

#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"

#include "llvm/ADT/SetVector.h"

#include "plan_schema/cost/calibration.h"
#include "plan_schema/plan_facts.h"
#include "planner/Target/Plan/PlanTypes.h"

namespace llmir::llm {
#define GEN_PASS_DEF_CHOOSEATTENTION
#include "planner/Dialect/LLM/Transforms/Passes.h.inc"
} // namespace llmir::llm

using namespace mlir;
using namespace llmir;
using namespace llmir::llm;
using llmir::plan::AttentionShape;
using llmir::plan::Calibration;

namespace {

/// The narrower of two windows, of which 0 is none.
int64_t getNarrower(int64_t a, int64_t b) {
  if (a == 0 || b == 0)
    return std::max(a, b);
  return std::min(a, b);
}

constexpr AttentionForm kForms[] = {
    AttentionForm::Flash, AttentionForm::FusedSoftmax, AttentionForm::Masked,
    AttentionForm::Standard};

/// What an attention of `program` looks like on a rank, at half of the longest
/// context: full batches of one token, or a chunk of one prompt.
AttentionShape getShape(func::FuncOp program, ProgramAttr kind,
                        PagedAttentionOp op) {
  PagedKVCacheType cache = op.getCache().getType();
  bool isDecode = kind.getKind() == ProgramKind::Decode;
  AttentionShape shape;
  shape.kv = plan::DTypeName(getKvDType(cache));
  shape.block_size = cache.getBlockSize();
  shape.head_dim = cache.getHeadDim();
  shape.kv_heads = cache.getNumHeads();
  if (auto stage = program->getAttrOfType<StageAttr>("llm.stage"))
    shape.kv_heads = stage.getLeaves(Unit::KvHead, 0).second -
                     stage.getLeaves(Unit::KvHead, 0).first;
  if (auto model =
          program->getParentOfType<ModuleOp>()->getAttrOfType<ModelAttr>(
              "llm.model"))
    shape.heads_per_kv = model.getHeadsPerKv();
  shape.batch = isDecode ? kind.getMaxTokens() : 1;
  shape.tokens = isDecode ? 1 : kind.getMaxTokens();
  shape.context = std::max<double>(cache.getMaxSeqLen() / 2, shape.tokens);
  return shape;
}

struct ChooseAttentionPass
    : public llmir::llm::impl::ChooseAttentionBase<ChooseAttentionPass> {
  using ChooseAttentionBase::ChooseAttentionBase;

  void runOnOperation() override {
    std::optional<AttentionForm> given;
    if (form != "auto") {
      given = symbolizeAttentionForm(form);
      if (!given) {
        getOperation().emitError()
            << "attention form '" << form << "': expected auto, flash, "
            << "fused_softmax, masked or standard";
        return signalPassFailure();
      }
    }
    if (window < 0) {
      getOperation().emitError()
          << "an attention window has tokens or is 0, got " << int64_t(window);
      return signalPassFailure();
    }
    std::optional<Calibration> measured;
    if (!calibration.empty() && !given) {
      StatusOr<Calibration> read = Calibration::Read(calibration);
      if (!read.ok()) {
        getOperation().emitError() << read.status().message();
        return signalPassFailure();
      }
      measured = std::move(read).value();
    }
    std::string chosen, gain;
    llvm::SetVector<int64_t> windows;
    for (auto program : getOperation().getOps<func::FuncOp>()) {
      auto kind = program->getAttrOfType<ProgramAttr>("llm.program");
      if (!kind)
        continue;
      AttentionForm best = given.value_or(AttentionForm::Flash);
      std::string times;
      if (measured)
        program.walk([&](PagedAttentionOp op) {
          best = getFastest(*measured, getShape(program, kind, op), times);
          return WalkResult::interrupt();
        });
      int64_t layers = 0;
      program.walk([&](PagedAttentionOp op) {
        AttentionAttr model = op.getAttentionAttr();
        int64_t narrow = getNarrower(model ? model.getWindow() : 0, window);
        op.setAttentionAttr(
            AttentionAttr::get(&getContext(), best, narrow, shareKv,
                               model ? model.getSoftcap() : FloatAttr()));
        windows.insert(narrow);
        ++layers;
      });
      auto stage = program->getAttrOfType<StageAttr>("llm.stage");
      if (layers == 0 || (stage && stage.getIndex() != 0))
        continue;
      if (!times.empty())
        gain += (gain.empty() ? "" : "; ") +
                stringifyProgramKind(kind.getKind()).str() + ":" + times;
      chosen += (chosen.empty() ? "" : ", ") +
                stringifyProgramKind(kind.getKind()).str() + " " +
                stringifyAttentionForm(best).str();
    }
    if (chosen.empty())
      return;
    std::string text = "Attention by kind of program: " + chosen;
    text += given ? " (given)" : "";
    if (!shareKv)
      text += "; each query head reads its KV head by itself";
    for (int64_t tokens : windows)
      if (tokens > 0)
        text += "; a window of " + std::to_string(tokens) + " tokens";
    explain(getOperation(), getArgument(), text, gain);
  }

  /// The form that takes least time; `times` gets what was measured of all.
  static AttentionForm getFastest(const Calibration &measured,
                                  AttentionShape shape, std::string &times) {
    AttentionForm best = AttentionForm::Flash;
    double least = 0;
    for (AttentionForm form : kForms) {
      shape.form = stringifyAttentionForm(form).str();
      std::optional<double> us = measured.all().AttentionUs(shape);
      if (!us)
        continue;
      if (times.empty() || *us < least) {
        best = form;
        least = *us;
      }
      times += fmt::format(" {} {:.1f} us", shape.form, *us);
    }
    return best;
  }
};

} // namespace
