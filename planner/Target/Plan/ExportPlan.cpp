//===- ExportPlan.cpp - Programs of the llm dialect as a plan -------------===//

#include "planner/Target/Plan/ExportPlan.h"

#include <filesystem>
#include <map>

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/TypeSwitch.h"

#include "kernels/attention.h"
#include "kernels/linear.h"
#include "plan_schema/base/hash.h"
#include "plan_schema/base/memory_map.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_features.h"
#include "plan_schema/plan_file.h"
#include "planner/Dialect/LLM/Transforms/Explain.h"
#include "planner/Dialect/LLM/Transforms/Passes.h"
#include "planner/Target/Plan/LeafHashes.h"
#include "planner/Target/Plan/PackWeights.h"
#include "planner/Target/Plan/PlanTypes.h"
#include "planner/Target/Plan/StepCosts.h"

using namespace mlir;
using namespace llmir;
using llm::ProgramAttr;
using llm::StageAttr;
using llm::WeightOp;

namespace {

/// Raised when an order of sums in kernels/linear.h or kernels/attention.h
/// changes, so that numerics ids change with it.
constexpr uint32_t kOrderOfSums = 1;
/// The same for the tree in plan_schema/sum_tree.h.
constexpr uint32_t kSumTree = 1;

/// The programs of one stage, in the module's order.
struct StagePrograms {
  StageAttr stage;
  SmallVector<func::FuncOp> functions;
};

/// Whether the step for `op` names what it rewrites once, as its input.
bool worksInPlace(Operation *op) {
  auto inPlace = dyn_cast<llm::InPlaceOpInterface>(op);
  return inPlace && inPlace.worksInPlace();
}

/// The weight that `op` reads, or null.
WeightOp getWeight(Operation *op) {
  for (Value operand : op->getOperands())
    if (auto weight = operand.getDefiningOp<WeightOp>())
      return weight;
  return {};
}

plan::Unit getPlanUnit(llm::Unit unit) { return static_cast<plan::Unit>(unit); }
plan::Axis getPlanAxis(llm::Axis axis) { return static_cast<plan::Axis>(axis); }

/// `path` as seen from `folder`.
std::string getRelativePath(const std::string &path,
                            const std::string &folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path result =
      fs::proximate(fs::absolute(path, error),
                    fs::absolute(folder.empty() ? "." : folder, error), error);
  return error ? path : result.string();
}

/// Texts whose ids show a wrong tokenizer: spaces, digits, accents, scripts
/// without spaces, characters of four bytes, code, special tokens.
std::vector<std::string>
getTokenizerTexts(const checkpoint::Tokenizer &tokenizer) {
  std::vector<std::string> texts = {
      "Hello, world!",
      "  leading spaces,\ttabs\n\nand   runs of them  ",
      "In 1969, 3.14159 was 42 % of 7,488,000.",
      "Crème brûlée, naïve façade, Übergröße, señor",
      "敏捷的棕色狐狸跳过了懒狗。 日本語のテキスト 한국어",
      "👩‍🚀 rockets 🚀🚀 and 🇫🇷",
      "for (int i = 0; i < n; ++i) { sum += a[i]; } // it's done, isn't it?"};
  std::string special;
  if (tokenizer.bos() >= 0)
    special += tokenizer.TokenBytes(tokenizer.bos(), /*keep_special=*/true);
  special += "user\nHi";
  for (int32_t id : tokenizer.end_ids())
    special += tokenizer.TokenBytes(id, /*keep_special=*/true);
  texts.push_back(special);
  return texts;
}

class PlanExporter {
public:
  PlanExporter(ModuleOp module, const checkpoint::Checkpoint &checkpoint,
               const checkpoint::Tokenizer *tokenizer,
               const ExportOptions &options)
      : module(module), checkpoint(checkpoint), tokenizer(tokenizer),
        options(options),
        model(module->getAttrOfType<llm::ModelAttr>("llm.model")),
        plan(std::make_unique<plan::PlanT>()) {}

  StatusOr<std::unique_ptr<plan::PlanT>> run() {
    llvm::MapVector<int64_t, StagePrograms> byStage;
    for (auto function : module.getOps<func::FuncOp>()) {
      auto stage = function->getAttrOfType<StageAttr>("llm.stage");
      if (!model || !stage ||
          !function->getAttrOfType<ProgramAttr>("llm.program"))
        return Internal("@{} isn't a program of a stage: run the whole "
                        "pipeline before the export",
                        function.getSymName().str());
      byStage[stage.getIndex()].stage = stage;
      byStage[stage.getIndex()].functions.push_back(function);
    }
    for (auto &[index, programs] : byStage)
      stages.push_back(programs);

    plan->version = std::make_unique<plan::VersionT>();
    plan->version->major = plan::kMajorVersion;
    plan->version->minor = plan::kMinorVersion;
    plan->limits = std::make_unique<plan::LimitsT>(options.limits);
    plan->reproducible = !options.isa.empty();
    plan->isa = options.isa;
    plan->bf16_activations = options.bf16Activations;
    exportProvenance();
    exportModel();
    exportTokenizer();
    exportFiles();
    for (StagePrograms &programs : stages)
      for (func::FuncOp function : programs.functions)
        for (auto weight : function.getOps<WeightOp>())
          LLMIR_RETURN_IF_ERROR(exportWeight(weight));
    if (options.bf16Activations &&
        llvm::none_of(plan->weights, [](const auto &weight) {
          return weight->dtype == plan::DType::bf16;
        }))
      return InvalidArgument("--bf16-activations: no weight is bf16; add "
                             "--weights bf16");
    if (checkpoint.has_weights() && options.isHashed)
      hashLeaves(checkpoint, sources, *plan, options.threads);

    auto replica = std::make_unique<plan::ReplicaT>();
    for (auto [index, programs] : llvm::enumerate(stages))
      replica->stages.push_back(exportStage(programs, index));
    plan->replicas.push_back(std::move(replica));
    LLMIR_RETURN_IF_ERROR(exportKvCache());
    exportMemory();
    if (!options.pack.empty())
      LLMIR_RETURN_IF_ERROR(packWeights(
          checkpoint,
          {options.pack, getRelativePath(options.pack, options.planFolder),
           options.packIsa, options.threads, options.progress},
          *plan));
    plan->required_features = getFeatures();
    plan->numerics = getNumericsId();
    return std::move(plan);
  }

private:
  //===--------------------------------------------------------------------===//
  // What the plan was made from
  //===--------------------------------------------------------------------===//

  void exportProvenance() {
    plan->provenance = std::make_unique<plan::ProvenanceT>(options.provenance);
    if (auto all = module->getAttrOfType<ArrayAttr>(llm::kExplanations))
      for (Attribute attribute : all) {
        auto parts = cast<ArrayAttr>(attribute).getAsValueRange<StringAttr>();
        auto part = parts.begin();
        auto explanation = std::make_unique<plan::ExplanationT>();
        explanation->pass = (*part++).str();
        explanation->text = (*part++).str();
        explanation->gain = (*part++).str();
        plan->provenance->explanations.push_back(std::move(explanation));
      }
    // The plan has them once; the workload is an input.
    module->removeAttr(llm::kExplanations);
    module->removeAttr("llm.workload");
    llvm::raw_string_ostream stream(plan->provenance->ir);
    module.print(stream);
  }

  void exportModel() {
    const checkpoint::ModelConfig &config = checkpoint.config();
    auto result = std::make_unique<plan::ModelT>();
    result->architecture = config.architecture;
    result->name = config.name;
    result->layers = model.getLayers();
    result->hidden = model.getHidden();
    result->query_heads = model.getQueryHeads();
    result->kv_heads = model.getKvHeads();
    result->head_dim = model.getHeadDim();
    result->mlp_columns = model.getMlpColumns();
    result->vocabulary = model.getVocabulary();
    result->context = config.context;
    result->norm_epsilon = config.norm_epsilon;
    result->rope_style = config.rope_style == checkpoint::RopeStyle::kHalves
                             ? plan::RopeStyle::halves
                             : plan::RopeStyle::interleaved;
    result->rope_dim = config.rope_dim;
    result->rope_frequencies = config.rope_frequencies;
    result->tied_head = config.tied_head;
    result->mlp_leaf = model.getMlpLeaf();
    result->vocabulary_leaf = model.getVocabularyLeaf();
    result->attention_windows = getAttentionWindows();
    plan->model = std::move(result);
  }

  void exportTokenizer() {
    auto result = std::make_unique<plan::TokenizerT>();
    if (!tokenizer) {
      // A shape's ids are its rows.
      result->vocabulary = model.getVocabulary();
      plan->tokenizer = std::move(result);
      return;
    }
    result->file = getRelativePath(tokenizer->file(), options.planFolder);
    result->hash = tokenizer->Fingerprint();
    result->vocabulary = tokenizer->vocabulary();
    result->bos = tokenizer->bos();
    result->end_ids = tokenizer->end_ids();
    result->chat_template = tokenizer->chat_template();
    for (std::string &text : getTokenizerTexts(*tokenizer)) {
      auto test = std::make_unique<plan::TokenizerTestT>();
      test->ids = tokenizer->Encode(text);
      test->text = std::move(text);
      result->tests.push_back(std::move(test));
    }
    plan->tokenizer = std::move(result);
  }

  void exportFiles() {
    for (const checkpoint::FileInfo &info : checkpoint.files()) {
      auto file = std::make_unique<plan::CheckpointFileT>();
      file->path = getRelativePath(info.path, options.planFolder);
      switch (info.format) {
      case checkpoint::Format::kGguf:
        file->format = plan::FileFormat::gguf;
        break;
      case checkpoint::Format::kSafetensors:
        file->format = plan::FileFormat::safetensors;
        break;
      case checkpoint::Format::kPacked:
        file->format = plan::FileFormat::packed;
        break;
      }
      file->bytes = info.bytes;
      file->header_bytes = info.header_bytes;
      file->header_hash = info.header_hash;
      plan->files.push_back(std::move(file));
    }
    for (const checkpoint::TensorInfo &tensor : checkpoint.tensors())
      tensorByName[tensor.name] = &tensor;
  }

  //===--------------------------------------------------------------------===//
  // Weights
  //===--------------------------------------------------------------------===//

  StatusOr<uint32_t> exportTensor(llm::PieceAttr piece) {
    auto [entry, isNew] =
        tensorIndex.try_emplace(piece.getTensor(), plan->tensors.size());
    if (!isNew)
      return entry->second;
    auto source = tensorByName.find(piece.getTensor());
    if (source == tensorByName.end())
      return NotFound("{}: no tensor {}", checkpoint.path(),
                      piece.getTensor().str());
    const checkpoint::TensorInfo &info = *source->second;
    auto tensor = std::make_unique<plan::TensorT>();
    tensor->name = info.name;
    tensor->file = info.file;
    const bool hasRows =
        checkpoint.files()[info.file].format != checkpoint::Format::kPacked;
    tensor->offset = hasRows ? info.offset : 0;
    tensor->bytes = hasRows ? info.bytes : 0;
    tensor->dtype = getPlanDType(piece.getType());
    tensor->rows = info.rows;
    tensor->columns = info.columns;
    tensor->unit = getPlanUnit(piece.getUnit());
    tensor->axis = getPlanAxis(piece.getAxis());
    tensor->leaf_size = piece.getLeaf();
    plan->tensors.push_back(std::move(tensor));
    sources.push_back(info);
    return entry->second;
  }

  Status exportWeight(WeightOp op) {
    StringRef name = op.getSymName();
    auto [entry, isNew] = weightOps.try_emplace(name, op);
    if (!isNew) {
      if (entry->second.getPieces() != op.getPieces() ||
          entry->second.getInterleaved() != op.getInterleaved() ||
          llm::getWholeType(entry->second.getType()) !=
              llm::getWholeType(op.getType()))
        return Internal("weight {} is referred to in two different ways",
                        name.str());
      return Status();
    }
    weightIndex[name] = plan->weights.size();
    auto weight = std::make_unique<plan::WeightT>();
    weight->name = name.str();
    weight->layer = op.getLayer() ? *op.getLayer() : -1;
    weight->dtype = getPlanDType(op.getType());
    weight->interleave =
        op.getInterleaved() ? plan::Interleave::panels : plan::Interleave::none;
    weight->unit = getPlanUnit(op.getUnit());
    weight->axis = getPlanAxis(op.getAxis());
    weight->leaf_columns = op.getLeafColumns();
    for (llm::PieceAttr piece : op.getPieceList()) {
      LLMIR_ASSIGN_OR_RETURN(uint32_t tensor, exportTensor(piece));
      weight->pieces.push_back(tensor);
    }
    setMethod(op, *weight);
    plan->weights.push_back(std::move(weight));
    return Status();
  }

  /// Pieces of a weight share a method; their errors add up by their squares.
  void setMethod(WeightOp op, plan::WeightT &weight) {
    double squares = 0;
    for (llm::PieceAttr piece : op.getPieceList()) {
      auto entry = options.quantized.find(piece.getTensor().str());
      if (entry == options.quantized.end())
        return;
      weight.method = std::max(weight.method, entry->second.method);
      squares += entry->second.error * entry->second.error;
    }
    weight.error = std::sqrt(squares / op.getPieceList().size());
  }

  //===--------------------------------------------------------------------===//
  // Stages and programs
  //===--------------------------------------------------------------------===//

  std::unique_ptr<plan::StageT> exportStage(StagePrograms &programs,
                                            size_t index) {
    StageAttr attr = programs.stage;
    auto stage = std::make_unique<plan::StageT>();
    stage->layer_begin = attr.getLayers()[0];
    stage->layer_end = attr.getLayers()[1];
    stage->group = plan->groups.size();
    auto group = std::make_unique<plan::GroupT>();
    group->name = fmt::format("stage{}", index);
    llvm::SetVector<uint32_t> weights;
    for (func::FuncOp function : programs.functions)
      for (auto weight : function.getOps<WeightOp>())
        weights.insert(weightIndex.lookup(weight.getSymName()));
    for (int64_t r = 0; r < attr.getRanks(); ++r) {
      auto rank = std::make_unique<plan::RankT>();
      rank->world_rank = attr.getFirstRank() + r;
      for (llm::Unit unit : {llm::Unit::QueryHead, llm::Unit::KvHead,
                             llm::Unit::MlpColumn, llm::Unit::Vocabulary}) {
        auto range = std::make_unique<plan::LeafRangeT>();
        range->unit = getPlanUnit(unit);
        std::tie(range->begin, range->end) = attr.getLeaves(unit, r);
        rank->ranges.push_back(std::move(range));
      }
      rank->arena_bytes = {0};
      rank->weights.assign(weights.begin(), weights.end());
      group->ranks.push_back(rank->world_rank);
      stage->ranks.push_back(std::move(rank));
    }
    plan->groups.push_back(std::move(group));
    for (func::FuncOp function : programs.functions)
      stage->programs.push_back(exportProgram(function, *stage, index));
    stage->efficiency = getEfficiency(programs);
    return stage;
  }

  std::unique_ptr<plan::ProgramT>
  exportProgram(func::FuncOp function, plan::StageT &stage, size_t stageIndex) {
    auto attr = function->getAttrOfType<ProgramAttr>("llm.program");
    auto program = std::make_unique<plan::ProgramT>();
    program->kind = static_cast<plan::ProgramKind>(attr.getKind());
    program->min_tokens = attr.getMinTokens();
    program->max_tokens = attr.getMaxTokens();
    program->max_sampled = attr.getMaxSampled();

    llvm::DenseMap<Value, uint32_t> bufferOf;
    llvm::DenseMap<Operation *, std::pair<std::string, int64_t>> subjects;
    // A view may name its buffer, and a start use one, before the operation
    // that has it as result: buffers first.
    std::map<int64_t, std::unique_ptr<plan::BufferT>> buffers;
    for (Operation &op : function.front()) {
      if (!llm::isStep(&op) && !llm::isView(&op))
        continue;
      subjects[&op] = getSubject(&op, subjects, stages[stageIndex].stage);
      exportBuffers(&op, getStepName(&op, subjects[&op].first), buffers,
                    stages[stageIndex].stage, stage, bufferOf);
    }
    for (auto &[id, buffer] : buffers)
      program->buffers.push_back(std::move(buffer));
    for (Operation &op : function.front())
      if (llm::isStep(&op))
        program->steps.push_back(
            exportStep(&op, getStepName(&op, subjects[&op].first),
                       subjects[&op].second, *program, stageIndex, bufferOf));
    return program;
  }

  /// What a step works on, for its name, and its layer: that of its weight, or
  /// of the step whose result it passes on.
  std::pair<std::string, int64_t>
  getSubject(Operation *op,
             const llvm::DenseMap<Operation *, std::pair<std::string, int64_t>>
                 &subjects,
             StageAttr stage) {
    auto ofLayer = [&](int64_t local, const char *name) {
      int64_t layer = stage.getLayers()[0] + local;
      return std::pair(fmt::format("layers.{}.{}", layer, name), layer);
    };
    return llvm::TypeSwitch<Operation *, std::pair<std::string, int64_t>>(op)
        .Case([&](llm::RopeAppendOp append) {
          return ofLayer(append.getLayer(), "rope_append");
        })
        .Case([&](llm::PagedAttentionOp attention) {
          return ofLayer(attention.getLayer(), "attention");
        })
        .Case([&](llm::AppendAttentionOp both) {
          return ofLayer(both.getLayer(), "append_attention");
        })
        .Case([&](llm::AddOp add) {
          return subjects.lookup(add.getRhs().getDefiningOp());
        })
        .Case([&](llm::PrefetchOp prefetch) {
          WeightOp weight = getWeight(prefetch);
          return std::pair(
              weight.getSymName().str(),
              static_cast<int64_t>(weight.getLayer().value_or(-1)));
        })
        .Default([&](Operation *other) {
          if (passesOn(other))
            return subjects.lookup(other->getOperand(0).getDefiningOp());
          WeightOp weight = getWeight(other);
          int64_t layer = weight && weight.getLayer() ? *weight.getLayer() : -1;
          // A tied head is the embedding's weight, but not its step.
          if (isa<llm::LinearOp>(other) && layer < 0)
            return std::pair(std::string("head"), layer);
          if (weight && !isa<llm::ScoreOp>(other))
            return std::pair(weight.getSymName().str(), layer);
          return std::pair(other->getName().stripDialect().str(), int64_t(-1));
        });
  }

  /// Whether `op` is named after what gave it its operand.
  static bool passesOn(Operation *op) {
    if (isa<llm::CommunicationOpInterface>(op))
      return op->getNumOperands() == 1 && op->getNumResults() == 1;
    return isa<llm::QuantizeOp, llm::DequantizeOp, llm::ActivationOp,
               llm::SiluMulOp, llm::SoftcapOp, llm::RowsOp, llm::JoinRowsOp>(
        op);
  }

  static std::string getStepName(Operation *op, const std::string &subject) {
    if (isa<llm::AddOp, llm::PrefetchOp>(op) || passesOn(op))
      return subject + "." + op->getName().stripDialect().str();
    return subject;
  }

  void exportBuffers(Operation *op, const std::string &name,
                     std::map<int64_t, std::unique_ptr<plan::BufferT>> &buffers,
                     StageAttr stageAttr, plan::StageT &stage,
                     llvm::DenseMap<Value, uint32_t> &bufferOf) {
    auto places = op->getAttrOfType<ArrayAttr>("llm.buffers");
    size_t next = 0;
    for (Value result : op->getResults()) {
      if (!llm::isActivationType(result.getType()))
        continue;
      auto place = cast<llm::BufferAttr>(places[next++]);
      bufferOf[result] = place.getId();
      std::unique_ptr<plan::BufferT> &buffer = buffers[place.getId()];
      if (buffer)
        continue; // rewritten in place
      buffer = std::make_unique<plan::BufferT>();
      buffer->name = next == 1 ? name : name + ".scratch";
      buffer->dtype = getPlanDType(result.getType());
      buffer->rows = static_cast<plan::Rows>(place.getRows());
      SmallVector<int64_t> nodes = getSummedNodes(result, stageAttr);
      // A buffer of one row holds the rows of a chunk side by side.
      bool isOne = place.getRows() == llm::Rows::One;
      buffer->max_rows = isOne ? 1 : place.getMaxRows();
      buffer->arena = place.getArena();
      buffer->first_step = place.getFirst();
      buffer->last_step = place.getLast();
      for (size_t r = 0; r < stage.ranks.size(); ++r) {
        buffer->columns.push_back(llm::getColumns(result.getType(), r) *
                                  (isOne ? place.getMaxRows() : 1));
        buffer->offsets.push_back(place.getOffsets()[r]);
        buffer->bytes.push_back(place.getBytes()[r]);
        if (!nodes.empty())
          buffer->nodes.push_back(nodes[r]);
        uint64_t &arena = stage.ranks[r]->arena_bytes[0];
        arena = std::max<uint64_t>(arena,
                                   place.getOffsets()[r] + place.getBytes()[r]);
      }
    }
  }

  std::unique_ptr<plan::StepT>
  exportStep(Operation *op, const std::string &name, int64_t layer,
             plan::ProgramT &program, size_t stageIndex,
             const llvm::DenseMap<Value, uint32_t> &bufferOf) {
    StageAttr stage = stages[stageIndex].stage;
    auto step = std::make_unique<plan::StepT>();
    step->kind = *getStepKind(op);
    step->name = name;
    step->layer = layer;
    for (Value operand : op->getOperands())
      if (auto buffer = bufferOf.find(operand); buffer != bufferOf.end())
        step->inputs.push_back(buffer->second);
    if (!worksInPlace(op) && !isa<llm::WaitOp>(op))
      for (Value result : op->getResults())
        if (auto buffer = bufferOf.find(result); buffer != bufferOf.end())
          step->outputs.push_back(buffer->second);
    // A start that gives another buffer than its own names that from here on.
    if (isa<llm::ReduceScatterStartOp, llm::AllGatherStartOp,
            llm::GatherStartOp, llm::RecvStartOp>(op))
      step->outputs.push_back(bufferOf.lookup(op->user_begin()->getResult(0)));
    if (WeightOp weight = getWeight(op))
      step->weight = weightIndex.lookup(weight.getSymName());
    if (std::string kernel = getKernel(op, step->kind); !kernel.empty())
      step->kernel = exportKernel(kernel);
    step->attention = getAttention(op);
    if (std::optional<llm::Unit> tree = llm::getSumTree(op))
      step->tree = getPlanUnit(*tree);
    if (op->hasAttr("llm.wire")) {
      step->wire = plan::Wire::int8;
      plan->wire_error = plan::kInt8WireError;
    }
    if (auto linear = dyn_cast<llm::LinearOp>(op)) {
      if (linear.getSiluMul())
        step->epilogue = plan::Epilogue::silu_mul;
      else if (linear.getResidual())
        step->epilogue = plan::Epilogue::residual;
    }
    if (auto activation = dyn_cast<llm::ActivationOp>(op))
      step->activation = static_cast<plan::Activation>(activation.getKind());
    if (auto softcap = dyn_cast<llm::SoftcapOp>(op))
      step->softcap = softcap.getCap().convertToFloat();
    if (auto message = dyn_cast<llm::CommunicationOpInterface>(op);
        message && message.isCollective())
      step->group = stageIndex;
    if (auto event = op->getAttrOfType<IntegerAttr>("llm.event")) {
      program.events = std::max<uint32_t>(program.events, event.getInt() + 1);
      if (isa<llm::WaitOp>(op))
        step->waits.push_back(event.getInt());
      else
        step->signals = event.getInt();
    }
    for (int64_t r = 0; r < stage.getRanks(); ++r) {
      auto rank = std::make_unique<plan::StepRankT>();
      rank->peers = getPeers(op, stageIndex, r);
      rank->skip = isSkipped(op, r, *rank);
      rank->cost = std::make_unique<plan::CostT>();
      if (!rank->skip)
        *rank->cost = getStepCost(op, stage, model, r);
      rank->cost->message_bytes_per_token *=
          isa<llm::SendOp, llm::SendStartOp>(op) ? rank->peers.size() : 1;
      double part = getPartOfTokens(*step, program, stage.getRanks());
      for (double *perToken :
           {&rank->cost->bytes_per_token, &rank->cost->flops_per_token,
            &rank->cost->message_bytes_per_token})
        *perToken *= part;
      rank->cost->message_bytes_per_token *= plan::WireShare(step->wire);
      step->ranks.push_back(std::move(rank));
    }
    return step;
  }

  /// The part of a step's tokens whose rows `step` works on.
  static double getPartOfTokens(const plan::StepT &step,
                                const plan::ProgramT &program, int64_t ranks) {
    if (step.inputs.empty() || plan::IsSplitCollective(step.kind))
      return 1; // a collective over shares says what it sends
    switch (program.buffers[step.inputs[0]]->rows) {
    case plan::Rows::first_half:
    case plan::Rows::second_half:
      return 0.5;
    case plan::Rows::share:
      return 1.0 / ranks;
    default:
      return 1;
    }
  }

  /// Null where it is flash over everything, or no attention.
  static std::unique_ptr<plan::AttentionChoiceT> getAttention(Operation *op) {
    auto attr = op->getAttrOfType<llm::AttentionAttr>("attention");
    if (!attr)
      return nullptr;
    auto choice = std::make_unique<plan::AttentionChoiceT>();
    choice->form = static_cast<plan::AttentionForm>(attr.getForm());
    choice->window = attr.getWindow();
    choice->share_kv = attr.getShareKv();
    choice->softcap = attr.getSoftcapOrZero();
    bool isDefault = choice->form == plan::AttentionForm::flash &&
                     choice->window == 0 && choice->share_kv &&
                     choice->softcap == 0;
    return isDefault ? nullptr : std::move(choice);
  }

  /// What each layer attends to; empty where all attend to everything.
  std::vector<uint32_t> getAttentionWindows() {
    std::vector<uint32_t> windows(model.getLayers(), 0);
    for (StagePrograms &programs : stages)
      for (Operation &op : programs.functions.front().front())
        llvm::TypeSwitch<Operation *>(&op)
            .Case<llm::PagedAttentionOp,
                  llm::AppendAttentionOp>([&](auto attention) {
              if (llm::AttentionAttr attr = attention.getAttentionAttr())
                windows[programs.stage.getLayers()[0] + attention.getLayer()] =
                    attr.getWindow();
            });
    if (llvm::all_of(windows, [](uint32_t window) { return window == 0; }))
      windows.clear();
    return windows;
  }

  /// Rank j of a stage receives from rank j mod n of the n ranks before it.
  std::vector<uint32_t> getPeers(Operation *op, size_t stageIndex, int64_t r) {
    std::vector<uint32_t> peers;
    if (isa<llm::RecvOp, llm::RecvStartOp>(op)) {
      StageAttr previous = stages[stageIndex - 1].stage;
      peers.push_back(previous.getFirstRank() + r % previous.getRanks());
    } else if (isa<llm::SendOp, llm::SendStartOp>(op)) {
      int64_t ranks = stages[stageIndex].stage.getRanks();
      StageAttr next = stages[stageIndex + 1].stage;
      for (int64_t j = r; j < next.getRanks(); j += ranks)
        peers.push_back(next.getFirstRank() + j);
    }
    return peers;
  }

  /// A rank skips a step of which it has no operand and no result, and a send
  /// that nobody gets.
  static bool isSkipped(Operation *op, int64_t r, const plan::StepRankT &rank) {
    if (isa<llm::SendOp, llm::SendStartOp>(op))
      return rank.peers.empty();
    auto isAbsent = [&](Type type) {
      return llm::isActivationType(type) && llm::getColumns(type, r) == 0;
    };
    return llvm::any_of(op->getOperandTypes(), isAbsent) &&
           llvm::any_of(op->getResultTypes(), isAbsent);
  }

  std::string getKernel(Operation *op, plan::StepKind kind) {
    if (isa<llm::CommunicationOpInterface, llm::PrefetchOp>(op))
      return "";
    if (isa<llm::LinearOp, llm::ScoreOp, llm::EmbeddingOp>(op))
      return getLinearKernel(getWeight(op).getType(), options.bf16Activations);
    const char *type = "f32";
    if (isa<llm::RMSNormOp, llm::QuantizeOp>(op) &&
        llm::isQuantized(op->getResult(0).getType()))
      type = "q8";
    if (isa<llm::RopeAppendOp, llm::PagedAttentionOp, llm::AppendAttentionOp>(
            op))
      type = plan::DTypeName(getKvType());
    return fmt::format("{}_{}", plan::EnumNameStepKind(kind), type);
  }

  uint32_t exportKernel(const std::string &name) {
    auto entry = llvm::find(plan->kernels, name);
    uint32_t index = entry - plan->kernels.begin();
    if (entry == plan->kernels.end())
      plan->kernels.push_back(name);
    return index;
  }

  /// The speed-up of this cut over one rank, by bytes of weights that a decode
  /// step reads, divided by the ranks. All ranks meet at each collective, so
  /// that the slowest counts between two of them.
  float getEfficiency(StagePrograms &programs) {
    int64_t ranks = programs.stage.getRanks();
    double alone = 0, together = 0;
    SmallVector<double> segment(ranks, 0);
    auto meet = [&] {
      together += *llvm::max_element(segment);
      segment.assign(ranks, 0);
    };
    for (func::FuncOp function : programs.functions) {
      auto attr = function->getAttrOfType<ProgramAttr>("llm.program");
      if (attr.getKind() != llm::ProgramKind::Decode)
        continue;
      for (Operation &op : function.front()) {
        auto message = dyn_cast<llm::CommunicationOpInterface>(op);
        if (message && message.isCollective() && !llm::isStart(&op))
          meet();
        alone += getReadWeightBytes(&op, -1);
        for (int64_t r = 0; r < ranks; ++r)
          segment[r] += getReadWeightBytes(&op, r);
      }
    }
    meet();
    return together > 0 ? std::min(1.0, alone / together / ranks) : 1;
  }

  //===--------------------------------------------------------------------===//
  // KV cache and memory
  //===--------------------------------------------------------------------===//

  llm::PagedKVCacheType getCacheType() {
    llm::PagedKVCacheType type;
    stages.front().functions.front().walk(
        [&](llm::CreatePagedCacheOp cache) { type = cache.getType(); });
    return type;
  }
  plan::DType getKvType() { return getKvDType(getCacheType()); }

  /// As plan::KvWindow of the plan.
  uint32_t getKvWindow() {
    const std::vector<uint32_t> &windows = plan->model->attention_windows;
    if (windows.empty() || llvm::is_contained(windows, 0u))
      return 0;
    return *llvm::max_element(windows);
  }

  Status exportKvCache() {
    llm::PagedKVCacheType cache = getCacheType();
    auto kv = std::make_unique<plan::KvGeometryT>();
    kv->dtype = getKvType();
    kv->block_size = cache.getBlockSize();
    kv->head_dim = cache.getHeadDim();
    kv->head_bytes = getKvHeadBytes(cache);
    kv->max_blocks_per_sequence =
        (options.limits.context + kv->block_size - 1) / kv->block_size;
    for (auto &stage : plan->replicas[0]->stages)
      for (auto &rank : stage->ranks) {
        uint64_t layers = stage->layer_end - stage->layer_begin;
        const plan::LeafRangeT &heads = *rank->ranges[1];
        rank->memory = std::make_unique<plan::MemoryT>();
        rank->memory->kv_block =
            layers * (heads.end - heads.begin) * kv->head_bytes;
      }
    auto blocks = module->getAttrOfType<IntegerAttr>("llm.kv_blocks");
    if (!blocks)
      return Internal("llm-allocate-blocks didn't run before the export");
    kv->blocks = blocks.getInt();
    kv->extent_blocks =
        plan::KvExtentBlocks(kv->head_bytes, kv->blocks, options.kvRunBytes);
    if (auto sizes = module->getAttrOfType<ArrayAttr>("llm.block_sizes"))
      for (auto size : sizes.getAsRange<DictionaryAttr>()) {
        auto number = [&](StringRef name) {
          return size.getAs<FloatAttr>(name).getValueAsDouble();
        };
        auto alternative = std::make_unique<plan::BlockSizeAlternativeT>();
        alternative->block_size =
            size.getAs<IntegerAttr>("block_size").getInt();
        alternative->wasted_bytes = number("wasted_bytes");
        alternative->attention_us = number("attention_us");
        alternative->cost = number("cost");
        kv->alternatives.push_back(std::move(alternative));
      }
    if (auto prefixes = module->getAttrOfType<ArrayAttr>("llm.prefixes"))
      for (auto from : prefixes.getAsRange<DictionaryAttr>()) {
        auto prefix = std::make_unique<plan::PinnedPrefixT>();
        prefix->name = from.getAs<StringAttr>("name").str();
        ArrayRef<int32_t> ids = from.getAs<DenseI32ArrayAttr>("ids");
        prefix->ids.assign(ids.begin(), ids.end());
        prefix->share = from.getAs<FloatAttr>("share").getValueAsDouble();
        plan->prefixes.push_back(std::move(prefix));
      }
    plan->kv = std::move(kv);
    return Status();
  }

  void exportMemory() {
    for (auto [index, stage] : llvm::enumerate(plan->replicas[0]->stages))
      for (auto [r, rank] : llvm::enumerate(stage->ranks)) {
        for (uint64_t arena : rank->arena_bytes)
          rank->memory->activations += arena;
        for (uint32_t weight : rank->weights)
          addWeightMemory(*plan->weights[weight], index, r, *rank->memory);
        rank->memory->fixed = getFixedBytes(*stage, *rank);
        if (options.kvInArena) {
          rank->kv_arena = 0;
          rank->kv_offset = MemoryMap::WholeHugePages(rank->arena_bytes[0]);
        }
      }
  }

  /// Packed bytes of a weight on a rank, and the checkpoint's bytes behind it.
  void addWeightMemory(const plan::WeightT &weight, size_t stageIndex,
                       int64_t r, plan::MemoryT &memory) {
    StageAttr stage = stages[stageIndex].stage;
    Type type = weightOps.lookup(weight.name).getType();
    uint64_t rows = 0, columns = 0;
    for (uint32_t piece : weight.pieces) {
      const plan::TensorT &tensor = *plan->tensors[piece];
      auto [begin, end] =
          stage.getLeaves(static_cast<llm::Unit>(tensor.unit), r);
      plan::Extent all{0, tensor.rows}, part = all,
                                        columnPart{0, tensor.columns};
      plan::Leaves leaves{static_cast<uint32_t>(begin),
                          static_cast<uint32_t>(end)};
      if (tensor.axis == plan::Axis::rows)
        part = plan::LeafExtent(leaves, tensor.leaf_size, tensor.rows);
      else if (tensor.axis == plan::Axis::columns)
        columnPart = plan::LeafExtent(leaves, tensor.leaf_size, tensor.columns);
      rows += part.size();
      columns = columnPart.size();
      memory.source +=
          part.size() * plan::RowBytes(tensor.dtype, columnPart.size());
      bool isDivided = stage.getRanks() > 1;
      if (isDivided && tensor.axis != plan::Axis::rows)
        memory.source_shared += tensor.bytes;
    }
    constexpr uint64_t kAlignment = 64;
    if (llm::getShape(type).size() == 1) {
      memory.weights += llvm::alignTo(columns * sizeof(float), kAlignment);
      return;
    }
    // The packed size is the same for every instruction set.
    const kernels::LinearKernel *kernel =
        kernels::FindLinear(getLinearKernel(type, options.bf16Activations),
                            kernels::Isa::kPortable);
    uint64_t pieces = weight.interleave == plan::Interleave::panels ? 2 : 1;
    uint64_t panels =
        pieces * llvm::divideCeil(rows / pieces, kernels::kPanelRows);
    memory.weights += panels * kernel->panel_bytes(columns);
  }

  /// Page table and descriptor of a step, and what each program keeps beside
  /// its arena: rotation tables, attention's partial results, the columns that
  /// are gathered, one message between ranks.
  uint64_t getFixedBytes(const plan::StageT &stage, const plan::RankT &rank) {
    const plan::LimitsT &limits = *plan->limits;
    constexpr uint64_t kDescriptorFields = 4; // ids, positions, rows, targets
    uint64_t bytes =
        sizeof(int32_t) * limits.steps_in_flight *
        (uint64_t{limits.max_batch} * plan->kv->max_blocks_per_sequence +
         kDescriptorFields * limits.max_tokens + 4 * (limits.max_batch + 1));
    for (auto &program : stage.programs) {
      bytes +=
          uint64_t{program->max_tokens} * plan->model->rope_dim * sizeof(float);
      bytes += kernels::AttentionPartialBytes(
          program->max_tokens, rank.ranges[0]->end - rank.ranges[0]->begin,
          plan->model->head_dim, limits.context, getKvWindow());
      for (auto &step : program->steps)
        if (step->kind == plan::StepKind::gather) {
          const plan::BufferT &part = *program->buffers[step->inputs[0]];
          for (uint32_t columns : part.columns)
            bytes += uint64_t{columns} * part.max_rows * sizeof(float);
        }
    }
    uint64_t nodes = 1; // that one message carries of each row
    for (auto &program : stage.programs)
      for (auto &buffer : program->buffers)
        for (uint32_t count : buffer->nodes)
          nodes = std::max<uint64_t>(nodes, count);
    if (stage.ranks.size() > 1 || stages.size() > 1)
      bytes += nodes * limits.max_tokens * plan->model->hidden * sizeof(float);
    return bytes;
  }

  //===--------------------------------------------------------------------===//
  // Identity
  //===--------------------------------------------------------------------===//

  uint64_t getFeatures() {
    flatbuffers::FlatBufferBuilder builder;
    builder.Finish(plan::Plan::Pack(builder, plan.get()));
    return plan::UsedFeatures(
        *flatbuffers::GetRoot<plan::Plan>(builder.GetBufferPointer()));
  }

  /// All that a result's bits depend on beside the checkpoint and the ISA.
  uint64_t getNumericsId() {
    Hasher64 hasher;
    hasher.AddValue(kOrderOfSums);
    hasher.AddValue(kernels::kPanelRows);
    hasher.AddValue(kernels::kKvTile);
    hasher.AddValue(kernels::kKvSplit);
    hasher.AddValue(static_cast<uint8_t>(plan->kv->dtype));
    hasher.AddValue(plan->model->mlp_leaf);
    hasher.AddValue(plan->model->vocabulary_leaf);
    // Joined or not, a weight's sums are the same: tensors identify them.
    std::map<std::string, std::pair<plan::DType, uint32_t>> types;
    for (auto &weight : plan->weights)
      for (uint32_t piece : weight->pieces)
        types[plan->tensors[piece]->name] = {weight->dtype,
                                             weight->leaf_columns};
    for (auto &[name, type] : types) {
      hasher.Add(name);
      hasher.AddValue(static_cast<uint8_t>(type.first));
      hasher.AddValue(type.second);
    }
    if (plan->bf16_activations)
      hasher.Add("bf16 activations");
    if (plan->reproducible) {
      addReproducible(hasher);
      return hasher.Finish();
    }
    // Forms differ in their order of sums, windows and caps in what is summed.
    for (auto &stage : plan->replicas[0]->stages)
      for (auto &program : stage->programs)
        for (auto &step : program->steps)
          if (const plan::AttentionChoiceT *choice = step->attention.get()) {
            hasher.AddValue(static_cast<uint8_t>(program->kind));
            hasher.AddValue(step->layer);
            hasher.AddValue(static_cast<uint8_t>(choice->form));
            hasher.AddValue(choice->window);
            hasher.AddValue(choice->softcap);
          }
    // What loses bits between hosts.
    if (plan->wire_error > 0)
      hasher.AddValue(plan->wire_error);
    // Sums over ranks group a matrix's leaves by rank.
    for (auto &stage : plan->replicas[0]->stages) {
      if (stage->ranks.size() == 1)
        continue;
      hasher.AddValue(stage->layer_begin);
      hasher.AddValue(stage->layer_end);
      for (auto &rank : stage->ranks)
        for (auto &range : rank->ranges) {
          hasher.AddValue(range->begin);
          hasher.AddValue(range->end);
        }
    }
    return hasher.Finish();
  }

  /// What is the same in all layouts: each layer attends alike in all programs,
  /// sums over ranks are those of the tree over all leaves.
  void addReproducible(Hasher64 &hasher) {
    hasher.AddValue(kSumTree);
    hasher.Add(plan->isa);
    std::map<int32_t, const plan::AttentionChoiceT *> choices; // null: flash
    for (auto &stage : plan->replicas[0]->stages)
      for (auto &step : stage->programs[0]->steps)
        if (step->kind == plan::StepKind::paged_attention ||
            step->kind == plan::StepKind::append_attend)
          choices[step->layer] = step->attention.get();
    const plan::AttentionChoiceT flash;
    for (auto [layer, choice] : choices) {
      if (!choice)
        choice = &flash;
      hasher.AddValue(layer);
      hasher.AddValue(static_cast<uint8_t>(choice->form));
      hasher.AddValue(choice->window);
      hasher.AddValue(choice->softcap);
    }
  }

  ModuleOp module;
  const checkpoint::Checkpoint &checkpoint;
  const checkpoint::Tokenizer *tokenizer; // null for a shape
  const ExportOptions &options;
  llm::ModelAttr model;
  std::unique_ptr<plan::PlanT> plan;
  SmallVector<StagePrograms> stages;
  llvm::StringMap<const checkpoint::TensorInfo *> tensorByName;
  llvm::StringMap<uint32_t> tensorIndex;
  std::vector<checkpoint::TensorInfo> sources; // of plan->tensors
  llvm::StringMap<uint32_t> weightIndex;
  llvm::MapVector<StringRef, WeightOp> weightOps;
};

} // namespace

StatusOr<std::unique_ptr<plan::PlanT>>
llmir::exportPlan(ModuleOp module, const checkpoint::Checkpoint &checkpoint,
                  const checkpoint::Tokenizer *tokenizer,
                  const ExportOptions &options) {
  return PlanExporter(module, checkpoint, tokenizer, options).run();
}
