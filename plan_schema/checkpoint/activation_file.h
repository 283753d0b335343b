// What `llmir-exec --collect-activations FILE` measured: which values the matrices of a model read
// on a text. FILE is JSON; the Gram matrices lie in a safetensors file beside it, FILE.safetensors,
// which FILE names with its size and hash.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "plan_schema/base/file_map.h"
#include "plan_schema/base/status.h"

namespace llmir::checkpoint {

// The values that one or more matrices read, over all tokens of the text.
struct ActivationInput {
  std::string name;                  // of the step, "layers.3.qkv"; "head"
  std::vector<std::string> tensors;  // of the checkpoint, that read them
  int64_t columns = 0;
  uint64_t tokens = 0;
  // Per column.
  std::vector<float> mean_abs;
  std::vector<float> mean_square;
  std::vector<float> max_abs;
  // [columns][columns], the mean over the tokens of x x^T: the caller's memory, or the map of the
  // ActivationFile that it is part of.
  std::span<const float> gram;
};

struct ActivationFacts {
  std::string command;
  std::string machine;          // processor, ISA family, threads
  std::string model;            // its name, for people
  uint64_t model_identity = 0;  // ModelIdentity of the checkpoint
  std::string text;             // name of the file that was run
  uint64_t text_hash = 0;       // Hash64 of that file
};

struct ActivationFile {
  ActivationFacts facts;
  std::vector<ActivationInput> inputs;
  std::string embedding;                  // tensor in which ids are looked up
  std::span<const float> embedding_uses;  // [vocabulary] how often each id was
  uint64_t hash = 0;  // Hash64 of the JSON file, which holds that of the matrices
  FileMap map;        // of the matrices

  // The input that tensor `name` reads, or null.
  const ActivationInput* Find(std::string_view name) const;
};

// Identifies the files of a checkpoint: a hash of their sizes and headers. Add each file in the
// checkpoint's order.
class ModelIdentity {
 public:
  void Add(uint64_t bytes, uint64_t header_hash);
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0;
};

// Writes the two files; each appears whole or not at all, the JSON file last.
Status WriteActivationFile(const std::string& path, const ActivationFile& file);

// Reads and checks both: versions, sizes, hashes, shapes, finite values.
StatusOr<ActivationFile> ReadActivationFile(const std::string& path);

}  // namespace llmir::checkpoint
