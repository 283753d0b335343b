//===- Yaml.h - Reading a YAML file into a structure -----------*- C++ -*-===//
//
// For structures that have llvm::yaml::MappingTraits.
//
//===----------------------------------------------------------------------===//

#ifndef LLMIR_PLANNER_YAML_H
#define LLMIR_PLANNER_YAML_H

#include <string>

#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/YAMLTraits.h"

#include "plan_schema/base/status.h"

namespace llmir {

/// The document in the file at `path`. Errors name the file, and the line of
/// the first mistake: NOT_FOUND says that `folder` has examples, and
/// INVALID_ARGUMENT, where YAML gives no reason, that it is not `kind`.
template <typename Document>
StatusOr<Document> readYaml(const std::string &path, const char *folder,
                            const char *kind) {
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (!buffer)
    return NotFound("{}: {}; {} has examples", path,
                    buffer.getError().message(), folder);
  std::string message;
  Document document;
  llvm::yaml::Input input(
      (*buffer)->getBuffer(), nullptr,
      [](const llvm::SMDiagnostic &diagnostic, void *context) {
        auto &message = *static_cast<std::string *>(context);
        if (message.empty())
          message = fmt::format("line {}: {}", diagnostic.getLineNo(),
                                diagnostic.getMessage().str());
      },
      &message);
  input >> document;
  if (input.error())
    return InvalidArgument(
        "{}: {}", path, message.empty() ? std::string("not ") + kind : message);
  return document;
}

} // namespace llmir

#endif // LLMIR_PLANNER_YAML_H
