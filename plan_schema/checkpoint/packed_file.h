// What `llmir-plan --pack FILE` writes beside the plan: weights as kernels read them, so that a
// rank maps them and does nothing else.
//
//   [8 bytes "LMIRPACK"][u32 version][u32 zero][u64 bytes of the index][index, JSON][zeros to 4096]
//   weights, each at a multiple of 4096 bytes: the panels (kernels/linear.h) of its pieces one
//   after the other, or alternating where the plan interleaves them; a vector as f32
//
// Panels hold all of a matrix's columns, in ascending order, so leaves of either axis are found in
// them: rows are whole panels, columns a range of bytes in each. Any layout of ranks maps the same
// file. The index says for people what is where; the plan says it for the runtime, with a hash of
// the index and of every leaf.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint.h"
#include "plan_schema/checkpoint/new_file.h"

namespace llmir::checkpoint {

struct PackedEntry {
  std::string name;
  std::string type;                  // "q4_0"
  uint32_t layout = 0;               // of the panels; 0: a vector
  std::vector<std::string> tensors;  // its pieces in order
  bool interleaved = false;
  uint64_t bytes = 0;
  uint64_t offset = 0;  // from the start of the file; given by PackedFileWriter
};

struct PackedFacts {
  uint64_t model_identity = 0;  // of the checkpoint (activation_file.h)
  std::string isa;              // the family whose layouts these are
};

// Writes a packed file weight by weight; it appears whole or not at all. One thread.
class PackedFileWriter {
 public:
  // `entries` in the order in which Add will bring their bytes.
  PackedFileWriter(const std::string& path, const PackedFacts& facts,
                   std::vector<PackedEntry> entries);
  const std::vector<PackedEntry>& entries() const { return entries_; }
  // The bytes of the next entry, all of them.
  void Add(std::span<const std::byte> bytes);
  // After the last entry. RESOURCE_EXHAUSTED: it could not be written.
  StatusOr<FileInfo> Finish();

 private:
  std::string path_;
  std::vector<PackedEntry> entries_;
  NewFile file_;
  FileInfo info_;
};

// Whether `file`, found at `path`, is a packed file of this version: INVALID_ARGUMENT,
// INCOMPATIBLE. Its size and index are compared by those who know what they should be.
Status CheckPackedVersion(std::span<const std::byte> file, std::string_view path);

// A range of bytes within each panel.
struct PanelBytes {
  uint64_t begin = 0;
  uint64_t end = 0;
};
// Hashes of leaves in `panels` panels that lie `stride` bytes apart: hashes[i] is of the bytes
// leaves[i] of each, in panel order. One pass over the panels.
void HashPanels(const std::byte* first, uint64_t stride, uint64_t panels,
                std::span<const PanelBytes> leaves, std::span<uint64_t> hashes);

}  // namespace llmir::checkpoint
