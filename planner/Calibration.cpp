//===- Calibration.cpp - What this machine's kernels cost -----------------===//

#include "planner/Calibration.h"

#include <cmath>
#include <filesystem>
#include <map>
#include <tuple>

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"

#include "plan_schema/base/hash.h"

using namespace llmir;
namespace json = llvm::json;

namespace {

constexpr int64_t kVersion = 1;

/// Reads fields of one object; keeps going after an error, which `path`'s root
/// remembers.
class Fields {
public:
  Fields(const json::Value &value, json::Path path)
      : object(value.getAsObject()), path(path) {
    if (!object)
      fail(path, "expected an object");
  }
  bool ok() const { return isValid; }

  void read(llvm::StringLiteral name, std::string &out) {
    if (const json::Value *value = find(name)) {
      if (std::optional<llvm::StringRef> text = value->getAsString())
        out = text->str();
      else
        fail(path.field(name), "expected a string");
    }
  }
  void read(llvm::StringLiteral name, bool &out) {
    if (const json::Value *value = find(name)) {
      if (std::optional<bool> flag = value->getAsBoolean())
        out = *flag;
      else
        fail(path.field(name), "expected true or false");
    }
  }
  /// A number above zero, or not below it.
  void read(llvm::StringLiteral name, double &out, bool orZero = false) {
    if (const json::Value *value = find(name)) {
      std::optional<double> number = value->getAsNumber();
      if (number && std::isfinite(*number) &&
          (*number > 0 || (orZero && *number == 0)))
        out = *number;
      else
        orZero ? fail(path.field(name), "expected a number from 0")
               : fail(path.field(name), "expected a number above 0");
    }
  }
  void read(llvm::StringLiteral name, int64_t &out) {
    if (const json::Value *value = find(name)) {
      std::optional<int64_t> number = value->getAsInteger();
      if (number && *number > 0)
        out = *number;
      else
        fail(path.field(name), "expected an integer above 0");
    }
  }
  bool has(llvm::StringLiteral name) const {
    return object && object->get(name);
  }
  /// Calls `parse(Fields)` for each object of a list.
  void readList(llvm::StringLiteral name,
                llvm::function_ref<void(Fields &, json::Path)> parse) {
    const json::Value *value = find(name);
    if (!value)
      return;
    const json::Array *array = value->getAsArray();
    if (!array)
      return fail(path.field(name), "expected a list");
    for (auto [index, element] : llvm::enumerate(*array)) {
      Fields fields(element, path.field(name).index(index));
      if (fields.ok())
        parse(fields, path.field(name).index(index));
      isValid &= fields.ok();
      if (!isValid)
        return;
    }
  }
  void fail(json::Path at, llvm::StringLiteral message) {
    if (isValid)
      at.report(message);
    isValid = false;
  }

private:
  const json::Value *find(llvm::StringLiteral name) {
    if (!isValid)
      return nullptr;
    const json::Value *value = object->get(name);
    if (!value)
      fail(path.field(name), "missing");
    return value;
  }

  const json::Object *object;
  json::Path path;
  bool isValid = true;
};

/// The value at `x` of a line through `points`, sorted by their first; beyond
/// the last one in proportion to x, before the first one its own.
double interpolate(llvm::ArrayRef<std::pair<double, double>> points, double x) {
  if (x <= points.front().first)
    return points.front().second;
  if (x >= points.back().first)
    return points.back().second * x / points.back().first;
  auto after = llvm::find_if(points, [&](auto &p) { return p.first >= x; });
  auto before = std::prev(after);
  double share = (x - before->first) / (after->first - before->first);
  return before->second + share * (after->second - before->second);
}

/// How unlike two sizes are: 0 for equal ones.
double getDistance(double a, double b) { return std::abs(std::log(a / b)); }

} // namespace

StatusOr<Calibration> Calibration::read(const std::string &path) {
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (!buffer)
    return NotFound("{}: {}; llmir-exec --calibrate FILE writes one", path,
                    buffer.getError().message());
  llvm::StringRef text = (*buffer)->getBuffer();
  llvm::Expected<json::Value> document = json::parse(text);
  if (!document)
    return InvalidArgument("{}: no JSON: {}", path,
                           llvm::toString(document.takeError()));

  Calibration result;
  result.file = std::filesystem::path(path).filename();
  result.hash = Hash64(std::as_bytes(std::span(text.data(), text.size())));
  json::Path::Root root("calibration");
  Fields top(*document, root);
  int64_t version = 0;
  top.read("version", version);
  if (top.ok() && version != kVersion)
    return Incompatible("{}: calibration of version {}, this llmir-plan reads "
                        "{}: measure again with its own llmir-exec",
                        path, version, kVersion);
  top.read("threads", result.threads);
  top.read("memory_bytes_per_s", result.memoryBytesPerSecond);
  top.read("barrier_us", result.barrierUs, /*orZero=*/true);
  top.readList("linear", [&](Fields &fields, json::Path at) {
    Linear linear;
    fields.read("kernel", linear.kernel);
    fields.read("rows", linear.rows);
    fields.read("columns", linear.columns);
    fields.readList("tokens", [&](Fields &point, json::Path) {
      double tokens = 0, us = 0;
      point.read("tokens", tokens);
      point.read("us", us);
      linear.points.push_back({tokens, us});
    });
    llvm::sort(linear.points);
    if (linear.points.empty())
      fields.fail(at.field("tokens"), "expected at least one measurement");
    result.linears.push_back(std::move(linear));
  });
  top.readList("attention", [&](Fields &fields, json::Path) {
    Attention attention;
    AttentionShape &shape = attention.shape;
    fields.read("kv", shape.kv);
    fields.read("form", shape.form);
    fields.read("fused", shape.fused);
    fields.read("block_size", shape.blockSize);
    fields.read("head_dim", shape.headDim);
    fields.read("heads_per_kv", shape.headsPerKv);
    if (fields.has("kv_heads"))
      fields.read("kv_heads", shape.kvHeads);
    fields.read("batch", shape.batch);
    fields.read("context", shape.context);
    fields.read("tokens", shape.tokens);
    fields.read("us", attention.us);
    result.attentions.push_back(std::move(attention));
  });
  top.readList("vector", [&](Fields &fields, json::Path) {
    Vector vector;
    fields.read("kernel", vector.kernel);
    fields.read("columns", vector.columns);
    fields.read("us_per_row", vector.usPerRow);
    result.vectors.push_back(std::move(vector));
  });
  if (!top.ok())
    return InvalidArgument("{}: {}", path, llvm::toString(root.getError()));
  return result;
}

std::optional<double> Calibration::getLinearUs(const std::string &kernel,
                                               double rows, double columns,
                                               double tokens) const {
  // The nearest shapes with not more, and not fewer elements.
  double elements = rows * columns;
  const Linear *below = nullptr, *above = nullptr;
  auto size = [](const Linear &linear) {
    return static_cast<double>(linear.rows) * linear.columns;
  };
  for (const Linear &linear : linears) {
    if (linear.kernel != kernel)
      continue;
    if (linear.rows == rows && linear.columns == columns)
      return interpolate(linear.points, tokens);
    if (size(linear) <= elements && (!below || size(linear) > size(*below)))
      below = &linear;
    if (size(linear) >= elements && (!above || size(linear) < size(*above)))
      above = &linear;
  }
  if (!below && !above)
    return std::nullopt;
  auto perElement = [&](const Linear &linear) {
    return interpolate(linear.points, tokens) / size(linear);
  };
  if (!below || !above || size(*below) == size(*above))
    return elements * perElement(below ? *below : *above);
  double share = (elements - size(*below)) / (size(*above) - size(*below));
  return elements *
         (perElement(*below) * (1 - share) + perElement(*above) * share);
}

std::optional<double>
Calibration::getAttentionUs(const AttentionShape &shape) const {
  // Times per (sequence, token, query head, element of a head), by context, of
  // the most similar shape.
  auto unlike = [&](const AttentionShape &other) {
    return getDistance(shape.headDim, other.headDim) +
           getDistance(shape.headsPerKv, other.headsPerKv) +
           getDistance(shape.kvHeads, other.kvHeads) +
           getDistance(shape.batch, other.batch) +
           getDistance(shape.tokens, other.tokens);
  };
  auto work = [](const AttentionShape &of) {
    return of.batch * of.tokens * of.kvHeads * of.headsPerKv * of.headDim;
  };
  using Key = std::tuple<double, double, double, int64_t, int64_t, int64_t>;
  std::map<Key, std::vector<std::pair<double, double>>> byDistance;
  for (const Attention &attention : attentions) {
    const AttentionShape &other = attention.shape;
    if (other.kv == shape.kv && other.form == shape.form &&
        other.fused == shape.fused && other.blockSize == shape.blockSize)
      byDistance[{unlike(other), other.batch, other.tokens, other.headDim,
                  other.headsPerKv, other.kvHeads}]
          .push_back({other.context, attention.us / work(other)});
  }
  if (byDistance.empty())
    return std::nullopt;
  auto &points = byDistance.begin()->second;
  llvm::sort(points);
  return interpolate(points, shape.context) * work(shape);
}

std::optional<double> Calibration::getVectorUs(const std::string &kernel,
                                               double columns,
                                               double rows) const {
  const Vector *nearest = nullptr;
  for (const Vector &vector : vectors)
    if (vector.kernel == kernel &&
        (!nearest || getDistance(columns, vector.columns) <
                         getDistance(columns, nearest->columns)))
      nearest = &vector;
  if (!nearest)
    return std::nullopt;
  return nearest->usPerRow * columns / nearest->columns *
         std::ceil(rows / threads);
}
