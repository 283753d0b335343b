//===- PlanTypes.cpp - Types of the llm dialect in a plan's terms ---------===//

#include "planner/Target/Plan/PlanTypes.h"

#include <fmt/format.h>

#include "plan_schema/plan_facts.h"

using namespace mlir;
using namespace llmir;

plan::DType llmir::getPlanDType(Type type) {
  if (llm::isActivationType(type)) {
    if (llm::isQuantized(type))
      return plan::DType::q8_rows;
    return llm::isIdMatrix(type) ? plan::DType::i32 : plan::DType::f32;
  }
  StringRef encoding = llm::getEncoding(type);
  for (plan::DType dtype : plan::EnumValuesDType())
    if (encoding == plan::EnumNameDType(dtype))
      return dtype;
  return plan::DType::none;
}

std::string llmir::getLinearKernel(Type weight) {
  return fmt::format("linear_{}_{}", llm::isQuantized(weight) ? "q8" : "f32",
                     std::string_view(llm::getEncoding(weight)));
}

int64_t llmir::getActivationRowBytes(Type type, int64_t rank) {
  return plan::RowBytes(getPlanDType(type), llm::getColumns(type, rank));
}

plan::DType llmir::getKvDType(llm::PagedKVCacheType cache) {
  Type element = cache.getElementType();
  if (element.isF32())
    return plan::DType::f32;
  if (element.isInteger(8))
    return plan::DType::i8;
  if (isa<Float8E4M3FNType>(element))
    return plan::DType::f8_e4m3;
  return plan::DType::bf16;
}

int64_t llmir::getKvHeadBytes(llm::PagedKVCacheType cache) {
  return plan::KvHeadBytes(getKvDType(cache), cache.getBlockSize(),
                           cache.getHeadDim());
}
