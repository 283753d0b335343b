//===- Workload.h - What requests a plan is made for ------------*- C++ -*-===//
//
// A workload file (configs/workloads/*.yaml) says how long prompts and answers
// are, how many sequences run at once and what prompts have in common.
//
//===----------------------------------------------------------------------===//

#ifndef LLMIR_WORKLOAD_H
#define LLMIR_WORKLOAD_H

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/tokenizer.h"

namespace mlir {
class ModuleOp;
} // namespace mlir

namespace llmir {

/// Numbers whose logarithm is normal, within [least, most].
struct Lognormal {
  double median = 0;
  double sigma = 0; // of the natural logarithm
  int64_t least = 1;
  int64_t most = 0;
};

struct Workload {
  struct Request {
    int64_t prompt = 0; // tokens
    int64_t answer = 0;
  };
  /// What a share of the prompts begins with: a text as it is written in the
  /// prompt, or ids.
  struct Prefix {
    std::string name;
    std::string text;
    std::vector<int32_t> ids;
    double share = 1;
  };

  std::string file; // without its folder
  std::string name;
  int64_t batch = 1; // sequences that run at once
  /// All equally likely: as listed, or drawn evenly from the distributions.
  std::vector<Request> requests;
  std::vector<Prefix> prefixes;
  /// Whole prompts, whose common beginnings are looked for.
  std::vector<std::string> prompts;

  /// Tokens that a decode step finds in the cache: the prompt and half of the
  /// answer, mean over the requests.
  double getMeanContext() const;
};

/// Reads a workload file. An error names the file and line, or the field, and
/// what was expected.
StatusOr<Workload> readWorkload(const std::string &path);

/// `count` values of `distribution` at evenly spaced quantiles, the i-th at
/// quantile (i * step mod count + 0.5) / count: with a step that has no common
/// divisor with count, another order of the same values.
std::vector<int64_t> drawEvenly(const Lognormal &distribution, int64_t count,
                                int64_t step);

/// Gives `module` what passes ask of a workload, as attribute `llm.workload`: a
/// dictionary of `batch`, lengths `prompt` and `answer`, `prefixes` as ids and
/// `prompts` as ids. `tokenizer` may be null where the workload has no text.
Status attachWorkload(mlir::ModuleOp module, const Workload &workload,
                      const checkpoint::Tokenizer *tokenizer);

} // namespace llmir

#endif // LLMIR_WORKLOAD_H
