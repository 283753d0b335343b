//===- ImportShape.cpp - A model's shape without its weights --------------===//

#include "planner/Frontend/ImportShape.h"

#include <optional>

#include "llvm/ADT/StringRef.h"

#include "plan_schema/checkpoint/rope.h"
#include "planner/Yaml.h"

using namespace llmir;
namespace yaml = llvm::yaml;

namespace {

/// Keys as in perf/make_model.py, which makes models of the same files.
struct Scaling {
  std::string type;
  double factor = 1;
  double lowFactor = 0, highFactor = 0, originalContext = 0;
};

struct Shape {
  checkpoint::ModelConfig config{};
  double epsilon = 0, theta = 0;
  std::optional<Scaling> scaling;
};

} // namespace

namespace llvm::yaml {

template <> struct MappingTraits<Scaling> {
  static void mapping(IO &io, Scaling &scaling) {
    io.mapRequired("rope_type", scaling.type);
    io.mapRequired("factor", scaling.factor);
    io.mapOptional("low_freq_factor", scaling.lowFactor);
    io.mapOptional("high_freq_factor", scaling.highFactor);
    io.mapOptional("original_max_position_embeddings", scaling.originalContext);
  }
  static std::string validate(IO &, Scaling &scaling) {
    if (scaling.type != "linear" && scaling.type != "llama3")
      return "rope_type: " + scaling.type + ", expected linear or llama3";
    if (!(scaling.factor > 0))
      return fmt::format("factor: {}, expected a number above 0",
                         scaling.factor);
    if (scaling.type == "llama3" &&
        !(scaling.lowFactor > 0 && scaling.highFactor > scaling.lowFactor &&
          scaling.originalContext > 0))
      return "llama3: expected 0 < low_freq_factor < high_freq_factor and "
             "original_max_position_embeddings above 0";
    return "";
  }
};

template <> struct MappingTraits<Shape> {
  static void mapping(IO &io, Shape &shape) {
    checkpoint::ModelConfig &config = shape.config;
    io.mapRequired("name", config.name);
    io.mapRequired("layers", config.layers);
    io.mapRequired("hidden", config.hidden);
    io.mapRequired("query_heads", config.query_heads);
    io.mapRequired("kv_heads", config.kv_heads);
    io.mapRequired("head_dim", config.head_dim);
    io.mapRequired("mlp_columns", config.mlp_columns);
    io.mapRequired("vocabulary", config.vocabulary);
    io.mapRequired("context", config.context);
    io.mapRequired("norm_epsilon", shape.epsilon);
    io.mapRequired("rope_theta", shape.theta);
    io.mapRequired("tied_head", config.tied_head);
    io.mapOptional("rope_scaling", shape.scaling);
  }
  static std::string validate(IO &, Shape &shape) {
    if (shape.theta > 1)
      return "";
    return fmt::format("rope_theta: {}, expected a number above 1",
                       shape.theta);
  }
};

} // namespace llvm::yaml

bool llmir::isShape(const std::string &path) {
  return llvm::StringRef(path).ends_with(".yaml");
}

StatusOr<checkpoint::Checkpoint> llmir::readShape(const std::string &path) {
  LLMIR_ASSIGN_OR_RETURN(
      Shape shape, readYaml<Shape>(path, "configs/models", "a model's shape"));

  checkpoint::ModelConfig &config = shape.config;
  config.architecture = "llama";
  config.norm_epsilon = static_cast<float>(shape.epsilon);
  config.rope_style = checkpoint::RopeStyle::kHalves;
  config.rope_dim = config.head_dim;
  checkpoint::RopeScaling scaling;
  if (shape.scaling && shape.scaling->type == "linear")
    scaling.linear_factor = shape.scaling->factor;
  else if (shape.scaling)
    scaling.llama3 = {shape.scaling->factor, shape.scaling->lowFactor,
                      shape.scaling->highFactor,
                      shape.scaling->originalContext};
  // FromShape checks the head size, of which the frequencies are made.
  if (config.head_dim > 0 && config.head_dim <= int64_t{1} << 14)
    config.rope_frequencies =
        checkpoint::RopeFrequencies(config.rope_dim, shape.theta, scaling);
  return checkpoint::Checkpoint::FromShape(config,
                                           checkpoint::SourceType::kBF16, path);
}
