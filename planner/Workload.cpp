//===- Workload.cpp - What requests a plan is made for --------------------===//

#include "planner/Workload.h"

#include <cmath>
#include <filesystem>
#include <numeric>

#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"

#include "planner/Yaml.h"

using namespace mlir;
using namespace llmir;
namespace yaml = llvm::yaml;

namespace {

/// A prompt or answer has at most so many tokens, a step so many sequences.
constexpr int64_t kMostTokens = int64_t{1} << 24;
constexpr int64_t kMostSequences = int64_t{1} << 16;
/// Requests that stand for a pair of distributions.
constexpr int64_t kDrawn = 256;
/// Divides kDrawn by nearly the golden ratio: long prompts meet answers of all
/// lengths.
constexpr int64_t kAnswerStep = 159;

struct Lengths {
  Lognormal prompt, answer;
};

/// The file as it is written.
struct WorkloadFile : Workload {
  std::optional<Lengths> lengths;
};

} // namespace

LLVM_YAML_IS_SEQUENCE_VECTOR(Workload::Request)
LLVM_YAML_IS_SEQUENCE_VECTOR(Workload::Prefix)

namespace llvm::yaml {

template <> struct MappingTraits<Workload::Request> {
  static void mapping(IO &io, Workload::Request &request) {
    io.mapRequired("prompt", request.prompt);
    io.mapRequired("answer", request.answer);
  }
  static std::string validate(IO &, Workload::Request &request) {
    for (int64_t length : {request.prompt, request.answer})
      if (length < 1 || length > kMostTokens)
        return fmt::format("a request of {} and {} tokens: expected 1 to {}",
                           request.prompt, request.answer, kMostTokens);
    return "";
  }
};

template <> struct MappingTraits<Lognormal> {
  static void mapping(IO &io, Lognormal &lengths) {
    io.mapRequired("median", lengths.median);
    io.mapRequired("sigma", lengths.sigma);
    io.mapOptional("least", lengths.least);
    io.mapRequired("most", lengths.most);
  }
  static std::string validate(IO &, Lognormal &lengths) {
    if (!(lengths.median >= 1 && lengths.median <= kMostTokens))
      return fmt::format("median: {}, expected 1 to {} tokens", lengths.median,
                         kMostTokens);
    if (!(lengths.sigma >= 0 && lengths.sigma <= 10))
      return fmt::format("sigma: {}, expected 0 to 10", lengths.sigma);
    if (lengths.least < 1 || lengths.most < lengths.least ||
        lengths.most > kMostTokens)
      return fmt::format("least and most: {} and {}, expected 1 <= least <= "
                         "most <= {}",
                         lengths.least, lengths.most, kMostTokens);
    return "";
  }
};

template <> struct MappingTraits<Lengths> {
  static void mapping(IO &io, Lengths &lengths) {
    io.mapRequired("prompt", lengths.prompt);
    io.mapRequired("answer", lengths.answer);
  }
};

template <> struct MappingTraits<Workload::Prefix> {
  static void mapping(IO &io, Workload::Prefix &prefix) {
    io.mapRequired("name", prefix.name);
    io.mapOptional("text", prefix.text);
    io.mapOptional("ids", prefix.ids);
    io.mapOptional("share", prefix.share);
  }
  static std::string validate(IO &, Workload::Prefix &prefix) {
    if (prefix.text.empty() == prefix.ids.empty())
      return fmt::format("prefix {}: expected either text or ids", prefix.name);
    if (!(prefix.share > 0 && prefix.share <= 1))
      return fmt::format("prefix {}: share {}, expected above 0 and at most 1",
                         prefix.name, prefix.share);
    for (int32_t id : prefix.ids)
      if (id < 0)
        return fmt::format("prefix {}: id {}, expected 0 or more", prefix.name,
                           id);
    return "";
  }
};

template <> struct MappingTraits<WorkloadFile> {
  static void mapping(IO &io, WorkloadFile &document) {
    io.mapRequired("name", document.name);
    io.mapRequired("batch", document.batch);
    io.mapOptional("requests", document.requests);
    io.mapOptional("lengths", document.lengths);
    io.mapOptional("prefixes", document.prefixes);
    io.mapOptional("prompts", document.prompts);
  }
  static std::string validate(IO &, WorkloadFile &document) {
    if (document.batch < 1 || document.batch > kMostSequences)
      return fmt::format("batch: {}, expected 1 to {}", document.batch,
                         kMostSequences);
    if (document.requests.empty() != document.lengths.has_value())
      return "expected either requests, a list of lengths, or lengths, their "
             "distributions";
    return "";
  }
};

} // namespace llvm::yaml

namespace {

/// The value below which a standard normal one lies with this probability.
double getNormalQuantile(double probability) {
  double low = -40, high = 40;
  for (int i = 0; i < 80; ++i) {
    double middle = (low + high) / 2;
    (std::erfc(-middle / std::sqrt(2.0)) / 2 < probability ? low : high) =
        middle;
  }
  return (low + high) / 2;
}

} // namespace

std::vector<int64_t> llmir::drawEvenly(const Lognormal &distribution,
                                       int64_t count, int64_t step) {
  std::vector<int64_t> values(count);
  for (int64_t i = 0; i < count; ++i) {
    double quantile = ((i * step) % count + 0.5) / count;
    double value = distribution.median *
                   std::exp(distribution.sigma * getNormalQuantile(quantile));
    values[i] = std::llround(
        std::clamp<double>(value, distribution.least, distribution.most));
  }
  return values;
}

double Workload::getMeanContext() const {
  double sum = 0;
  for (const Request &request : requests)
    sum += request.prompt + request.answer / 2.0;
  return sum / requests.size();
}

StatusOr<Workload> llmir::readWorkload(const std::string &path) {
  LLMIR_ASSIGN_OR_RETURN(
      WorkloadFile document,
      readYaml<WorkloadFile>(path, "configs/workloads", "a workload"));
  if (document.lengths) {
    std::vector<int64_t> prompts =
        drawEvenly(document.lengths->prompt, kDrawn, 1);
    std::vector<int64_t> answers =
        drawEvenly(document.lengths->answer, kDrawn, kAnswerStep);
    for (int64_t i = 0; i < kDrawn; ++i)
      document.requests.push_back({prompts[i], answers[i]});
  }
  Workload result = std::move(document);
  result.file = std::filesystem::path(path).filename();
  return result;
}

Status llmir::attachWorkload(ModuleOp module, const Workload &workload,
                             const checkpoint::Tokenizer *tokenizer) {
  Builder builder(module.getContext());
  auto encode = [&](const std::string &text) -> StatusOr<std::vector<int32_t>> {
    if (!tokenizer)
      return InvalidArgument("{}: a shape has no tokenizer for texts: give "
                             "prefixes as ids, and no prompts",
                             workload.file);
    return tokenizer->Encode(text);
  };

  SmallVector<Attribute> prefixes, prompts;
  for (const Workload::Prefix &prefix : workload.prefixes) {
    std::vector<int32_t> ids = prefix.ids;
    if (!prefix.text.empty()) {
      LLMIR_ASSIGN_OR_RETURN(ids, encode(prefix.text));
      // What follows a text may join its last token.
      if (!ids.empty() && !tokenizer->IsSpecial(ids.back()))
        ids.pop_back();
    }
    for (int32_t id : ids)
      if (tokenizer && id >= tokenizer->vocabulary())
        return OutOfRange("{}: prefix {}: id {}, expected below {}",
                          workload.file, prefix.name, id,
                          tokenizer->vocabulary());
    prefixes.push_back(builder.getDictionaryAttr(
        {builder.getNamedAttr("name", builder.getStringAttr(prefix.name)),
         builder.getNamedAttr("ids", builder.getDenseI32ArrayAttr(ids)),
         builder.getNamedAttr("share",
                              builder.getF64FloatAttr(prefix.share))}));
  }
  for (const std::string &prompt : workload.prompts) {
    LLMIR_ASSIGN_OR_RETURN(std::vector<int32_t> ids, encode(prompt));
    prompts.push_back(builder.getDenseI32ArrayAttr(ids));
  }
  SmallVector<int64_t> promptLengths, answerLengths;
  for (const Workload::Request &request : workload.requests) {
    promptLengths.push_back(request.prompt);
    answerLengths.push_back(request.answer);
  }
  module->setAttr(
      "llm.workload",
      builder.getDictionaryAttr(
          {builder.getNamedAttr("batch",
                                builder.getI64IntegerAttr(workload.batch)),
           builder.getNamedAttr("prompt",
                                builder.getDenseI64ArrayAttr(promptLengths)),
           builder.getNamedAttr("answer",
                                builder.getDenseI64ArrayAttr(answerLengths)),
           builder.getNamedAttr("prefixes", builder.getArrayAttr(prefixes)),
           builder.getNamedAttr("prompts", builder.getArrayAttr(prompts))}));
  return Status();
}
