#include "plan_schema/cost/calibration.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <tuple>

#include "plan_schema/base/file_map.h"
#include "plan_schema/base/hash.h"

namespace llmir::plan {
namespace {

using Json = nlohmann::json;

constexpr int64_t kVersion = 2;

// Reads fields of one object; keeps going after an error, of which `error`, shared by all objects
// of a file, keeps the first.
class Fields {
 public:
  Fields(const Json& json, std::string path, std::string* error)
      : json_(json), path_(std::move(path)), error_(error) {
    if (!json_.is_object()) Fail("", "expected an object");
  }

  void Read(const char* name, std::string* out) {
    const Json* value = Find(name);
    if (value == nullptr) return;
    if (!value->is_string()) return Fail(name, "expected a string");
    *out = value->get<std::string>();
  }
  void Read(const char* name, bool* out) {
    const Json* value = Find(name);
    if (value == nullptr) return;
    if (!value->is_boolean()) return Fail(name, "expected true or false");
    *out = value->get<bool>();
  }
  // A number above zero, or not below it.
  void Read(const char* name, double* out, bool or_zero = false) {
    const Json* value = Find(name);
    if (value == nullptr) return;
    const double number = value->is_number() ? value->get<double>() : -1;
    if (!std::isfinite(number) || number < 0 || (number == 0 && !or_zero)) {
      return Fail(name, or_zero ? "expected a number from 0" : "expected a number above 0");
    }
    *out = number;
  }
  void Read(const char* name, int64_t* out) {
    const Json* value = Find(name);
    if (value == nullptr) return;
    if (!value->is_number_integer() || value->get<int64_t>() < 1) {
      return Fail(name, "expected an integer above 0");
    }
    *out = value->get<int64_t>();
  }
  bool Has(const char* name) const { return json_.is_object() && json_.contains(name); }
  // Calls `parse` for each object of a list.
  void ReadList(const char* name, const std::function<void(Fields&)>& parse) {
    const Json* value = Find(name);
    if (value == nullptr) return;
    if (!value->is_array()) return Fail(name, "expected a list");
    for (size_t i = 0; i < value->size() && error_->empty(); ++i) {
      Fields fields((*value)[i], fmt::format("{}.{}[{}]", path_, name, i), error_);
      if (error_->empty()) parse(fields);
    }
  }
  void ReadObject(const char* name, const std::function<void(Fields&)>& parse) {
    const Json* value = Find(name);
    if (value == nullptr) return;
    Fields fields(*value, fmt::format("{}.{}", path_, name), error_);
    if (error_->empty()) parse(fields);
  }
  void Fail(const std::string& name, const char* message) {
    if (error_->empty()) {
      *error_ = fmt::format("{} at {}{}{}", message, path_, name.empty() ? "" : ".", name);
    }
  }
  bool ok() const { return error_->empty(); }

 private:
  const Json* Find(const char* name) {
    if (!error_->empty()) return nullptr;
    const auto found = json_.find(name);
    if (found != json_.end()) return &*found;
    Fail(name, "missing");
    return nullptr;
  }

  const Json& json_;
  const std::string path_;
  std::string* const error_;
};

// The value at `x` of a line through `points`, sorted by their first; beyond the last one in
// proportion to x, before the first one its own.
double Interpolate(const Curve& points, double x) {
  if (x <= points.front().first) return points.front().second;
  if (x >= points.back().first) return points.back().second * x / points.back().first;
  const auto after =
      std::find_if(points.begin(), points.end(), [&](const auto& p) { return p.first >= x; });
  const auto before = std::prev(after);
  const double share = (x - before->first) / (after->first - before->first);
  return before->second + share * (after->second - before->second);
}

// The same of what has a fixed part: the outermost lines go on, but never below what is in
// proportion to the first point.
double Extend(const Curve& points, double x) {
  if (points.size() == 1) return points[0].second * x / points[0].first;
  size_t i = 1;
  while (i + 1 < points.size() && points[i].first < x) ++i;
  const auto& [x0, y0] = points[i - 1];
  const auto& [x1, y1] = points[i];
  const double slope = std::max(0.0, (y1 - y0) / (x1 - x0));
  const double least = points[0].second * std::min(1.0, x / points[0].first);
  return std::max(x > x1 ? y1 + slope * (x - x1) : y0 + slope * (x - x0), least);
}

// How unlike two sizes are: 0 for equal ones.
double Distance(double a, double b) { return std::abs(std::log(a / b)); }

void ReadProfile(Fields& fields, Profile* profile) {
  fields.Read("threads", &profile->threads);
  fields.Read("memory_bytes_per_s", &profile->memory_bytes_per_s);
  fields.Read("barrier_us", &profile->barrier_us, /*or_zero=*/true);
  fields.Read("launch_us", &profile->launch_us, /*or_zero=*/true);
  fields.Read("rope_us_per_element", &profile->rope_us_per_element, /*or_zero=*/true);
  fields.Read("sample_us_per_id", &profile->sample_us_per_id, /*or_zero=*/true);
  fields.ReadList("linear", [&](Fields& entry) {
    Profile::Linear linear{};
    entry.Read("kernel", &linear.kernel);
    entry.Read("rows", &linear.rows);
    entry.Read("columns", &linear.columns);
    if (entry.Has("leaf_columns")) entry.Read("leaf_columns", &linear.leaf_columns);
    entry.ReadList("tokens", [&](Fields& point) {
      double tokens = 0, us = 0;
      point.Read("tokens", &tokens);
      point.Read("us", &us);
      linear.points.emplace_back(tokens, us);
    });
    std::sort(linear.points.begin(), linear.points.end());
    if (linear.points.empty()) entry.Fail("tokens", "expected at least one measurement");
    profile->linears.push_back(std::move(linear));
  });
  fields.ReadList("attention", [&](Fields& entry) {
    Profile::Attention attention{};
    AttentionShape& shape = attention.shape;
    entry.Read("kv", &shape.kv);
    entry.Read("form", &shape.form);
    entry.Read("fused", &shape.fused);
    entry.Read("block_size", &shape.block_size);
    entry.Read("head_dim", &shape.head_dim);
    entry.Read("heads_per_kv", &shape.heads_per_kv);
    if (entry.Has("kv_heads")) entry.Read("kv_heads", &shape.kv_heads);
    entry.Read("batch", &shape.batch);
    entry.Read("context", &shape.context);
    entry.Read("tokens", &shape.tokens);
    entry.Read("us", &attention.us);
    if (entry.Has("append_us")) entry.Read("append_us", &attention.append_us);
    profile->attentions.push_back(std::move(attention));
  });
  fields.ReadList("vector", [&](Fields& entry) {
    Profile::Vector vector;
    entry.Read("kernel", &vector.kernel);
    entry.Read("columns", &vector.columns);
    entry.Read("us_per_row", &vector.us_per_row);
    profile->vectors.push_back(std::move(vector));
  });
}

}  // namespace

StatusOr<Calibration> Calibration::Read(const std::string& path) {
  auto file = FileMap::Open(path);
  if (!file.ok()) {
    return NotFound("{}; llmir-exec --calibrate FILE writes one", file.status().message());
  }
  const auto bytes = file->bytes();
  const char* text = reinterpret_cast<const char*>(bytes.data());
  const Json json = Json::parse(text, text + bytes.size(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return InvalidArgument("{}: no JSON, expected what llmir-exec --calibrate writes", path);
  }
  Calibration result;
  result.file_ = std::filesystem::path(path).filename();
  result.hash_ = Hash64(bytes);
  std::string error;
  Fields top(json, "calibration", &error);
  int64_t version = 0;
  top.Read("version", &version);
  if (top.ok() && version != kVersion) {
    return Incompatible(
        "{}: calibration of version {}, this program reads {}: measure again with its own "
        "llmir-exec",
        path, version, kVersion);
  }
  if (top.Has("process_bytes")) top.Read("process_bytes", &result.process_bytes_);
  ReadProfile(top, &result.all_);
  if (top.Has("alone")) {
    top.ReadObject("alone", [&](Fields& fields) { ReadProfile(fields, &result.alone_.emplace()); });
    if (result.alone_) result.alone_->few_block_sizes = true;
  }
  if (top.Has("links")) {
    top.ReadList("links", [&](Fields& entry) {
      Link link;
      entry.Read("channel", &link.channel);
      entry.Read("ranks", &link.ranks);
      entry.Read("hosts", &link.hosts);
      entry.ReadList("operations", [&](Fields& of) {
        auto& [operation, curve] = link.operations.emplace_back();
        of.Read("operation", &operation);
        of.ReadList("sizes", [&, &points = curve](Fields& point) {
          double size = 0, us = 0;
          point.Read("bytes", &size);
          point.Read("us", &us);
          points.emplace_back(size, us);
        });
        std::sort(curve.begin(), curve.end());
        if (curve.empty()) of.Fail("sizes", "expected at least one measurement");
      });
      result.links_.push_back(std::move(link));
    });
  }
  if (!error.empty()) return InvalidArgument("{}: {}", path, error);
  return result;
}

std::optional<double> Profile::LinearUs(const std::string& kernel, double rows, double columns,
                                        double tokens, bool leaves) const {
  Curve by_elements;
  for (const Linear& linear : linears) {
    if (linear.kernel != kernel || (linear.leaf_columns > 0) != leaves) continue;
    const double us = Interpolate(linear.points, tokens);
    if (static_cast<double>(linear.rows) == rows && static_cast<double>(linear.columns) == columns)
      return us;
    by_elements.emplace_back(static_cast<double>(linear.rows) * linear.columns, us);
  }
  if (by_elements.empty()) {
    return leaves ? LinearUs(kernel, rows, columns, tokens) : std::nullopt;
  }
  std::sort(by_elements.begin(), by_elements.end());
  return Extend(by_elements, rows * columns);
}

std::optional<double> Profile::AttentionUs(const AttentionShape& shape) const {
  // Times per (sequence, token, query head, element of a head), by the tokens attended to, of the
  // most similar shape.
  const auto unlike = [&](const AttentionShape& other) {
    return (few_block_sizes ? Distance(static_cast<double>(shape.block_size), other.block_size)
                            : 0) +
           Distance(static_cast<double>(shape.head_dim), other.head_dim) +
           Distance(static_cast<double>(shape.heads_per_kv), other.heads_per_kv) +
           Distance(shape.kv_heads, other.kv_heads) + Distance(shape.batch, other.batch) +
           Distance(shape.tokens, other.tokens);
  };
  const auto work = [](const AttentionShape& of) {
    return of.batch * of.tokens * of.kv_heads * static_cast<double>(of.heads_per_kv * of.head_dim);
  };
  using Key = std::tuple<double, double, double, int64_t, int64_t, double, int64_t>;
  std::map<Key, Curve> by_distance;
  for (const Attention& attention : attentions) {
    const AttentionShape& other = attention.shape;
    if (other.kv == shape.kv && other.form == shape.form && other.fused == shape.fused &&
        (few_block_sizes || other.block_size == shape.block_size)) {
      by_distance[{unlike(other), other.batch, other.tokens, other.head_dim, other.heads_per_kv,
                   other.kv_heads, other.block_size}]
          .emplace_back(other.MeanAttended(), attention.us / work(other));
    }
  }
  if (by_distance.empty()) return std::nullopt;
  Curve& points = by_distance.begin()->second;
  std::sort(points.begin(), points.end());
  return Interpolate(points, shape.MeanAttended()) * work(shape);
}

std::optional<double> Calibration::AttentionUs(const Profile& profile,
                                               const AttentionShape& shape) const {
  if (const auto us = profile.AttentionUs(shape)) return us;
  AttentionShape flash = shape;
  flash.form = AttentionShape().form;
  const auto own = profile.AttentionUs(flash);
  const auto other_of_all = all_.AttentionUs(shape);
  const auto flash_of_all = all_.AttentionUs(flash);
  if (!own || !other_of_all || !flash_of_all || *flash_of_all <= 0) return std::nullopt;
  return *own * *other_of_all / *flash_of_all;
}

std::optional<double> Profile::AppendUs(const AttentionShape& shape) const {
  const Attention* nearest = nullptr;
  double least = 0;
  for (const Attention& attention : attentions) {
    const AttentionShape& other = attention.shape;
    if (attention.append_us <= 0 || other.kv != shape.kv || other.form != "flash") continue;
    const double distance = Distance(static_cast<double>(shape.head_dim), other.head_dim) +
                            Distance(static_cast<double>(shape.heads_per_kv), other.heads_per_kv) +
                            Distance(shape.batch * shape.tokens, other.batch * other.tokens);
    if (nearest == nullptr || distance < least) {
      nearest = &attention;
      least = distance;
    }
  }
  if (nearest == nullptr) return std::nullopt;
  const auto elements = [](const AttentionShape& of) {
    return of.batch * of.tokens * of.kv_heads *
           static_cast<double>((of.heads_per_kv + 2) * of.head_dim);
  };
  return nearest->append_us * elements(shape) / elements(nearest->shape);
}

std::optional<double> Profile::VectorUs(const std::string& kernel, double columns,
                                        double rows) const {
  const Vector* nearest = nullptr;
  for (const Vector& vector : vectors) {
    if (vector.kernel == kernel &&
        (nearest == nullptr || Distance(columns, static_cast<double>(vector.columns)) <
                                   Distance(columns, static_cast<double>(nearest->columns)))) {
      nearest = &vector;
    }
  }
  if (nearest == nullptr) return std::nullopt;
  return nearest->us_per_row * columns / static_cast<double>(nearest->columns) *
         std::ceil(rows / static_cast<double>(threads));
}

std::optional<double> Calibration::LinkUs(const std::string& operation, bool between_hosts,
                                          int64_t ranks, double bytes) const {
  const Curve* nearest = nullptr;
  double least = 0;
  for (const Link& link : links_) {
    // Among ranks of a host MPI isn't what carries messages.
    if (between_hosts ? link.hosts < 2 : link.channel != "shared-memory") continue;
    const double distance = Distance(static_cast<double>(ranks), static_cast<double>(link.ranks));
    for (const auto& [name, curve] : link.operations) {
      if (name != operation || (nearest != nullptr && distance >= least)) continue;
      nearest = &curve;
      least = distance;
    }
  }
  if (nearest == nullptr) return std::nullopt;
  return bytes <= nearest->front().first ? nearest->front().second : Extend(*nearest, bytes);
}

}  // namespace llmir::plan
