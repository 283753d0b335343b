// Weights that a checkpoint doesn't hold and that can't be made from it without the activations
// they were calibrated on: what `llmir-plan --pack FILE` writes beside the plan.
//
//   [8 bytes "LMIRPACK"][u32 version][u32 zero][u64 bytes of the index][index, JSON][zeros to 64]
//   tensors, each at a multiple of 64 bytes, row-major in rows of blocks (kernels/block_formats.h)
//
// The index names each tensor with its type, shape, place and hash, and the checkpoint it belongs
// to. Rows are those of the checkpoint, so any layout of ranks and any instruction set loads them
// as it loads a checkpoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "plan_schema/base/file_map.h"
#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint.h"

namespace llmir::checkpoint {

struct PackedTensor {
  std::string name;
  SourceType type;
  int64_t rows;
  int64_t columns;
  std::vector<std::byte> bytes;  // rows x RowBytes(type, columns)
};

// Writes `tensors`; the file appears whole or not at all. `model_identity`: of the checkpoint
// (activation_file.h).
Status WritePackedFile(const std::string& path, uint64_t model_identity,
                       const std::vector<PackedTensor>& tensors);

struct PackedFile {
  FileInfo info;
  FileMap map;
  uint64_t model_identity;
  std::vector<TensorInfo> tensors;  // by offset; file is 0
};

// Maps and checks a file: version, index, places, and the hash of every tensor.
StatusOr<PackedFile> OpenPackedFile(const std::string& path);

}  // namespace llmir::checkpoint
