//===- ImportShape.h - A model's shape without its weights ------*- C++ -*-===//

#ifndef LLMIR_FRONTEND_IMPORTSHAPE_H
#define LLMIR_FRONTEND_IMPORTSHAPE_H

#include <string>

#include "plan_schema/base/status.h"
#include "plan_schema/checkpoint/checkpoint.h"

namespace llmir {

/// A shape as in configs/models/*.yaml, as a checkpoint that has no weights:
/// every matrix counts as bf16, every norm as f32, under the names of a Hugging
/// Face folder. importCheckpoint makes the same module of it as of the model
/// itself. An error names the file and line, or the key, and what was expected.
StatusOr<checkpoint::Checkpoint> readShape(const std::string &path);

/// Whether `path` names a shape, not a checkpoint.
bool isShape(const std::string &path);

} // namespace llmir

#endif // LLMIR_FRONTEND_IMPORTSHAPE_H
