// What both halves of the verifier (plan_verifier.cc, program_verifier.cc) need to look at
// untrusted tables: absent vectors and strings, arithmetic that cannot wrap, enum values that this
// schema knows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "plan_schema/base/status.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_generated.h"

namespace llmir::plan {

// The largest count or dimension that a plan may name. Products of two of them and an element size
// fit 64 bits.
inline constexpr uint64_t kLargestCount = uint64_t{1} << 28;

template <typename T>
uint32_t Count(const flatbuffers::Vector<T>* items) {
  return items == nullptr ? 0 : items->size();
}

inline bool Empty(const flatbuffers::String* text) { return text == nullptr || text->size() == 0; }

inline std::optional<uint64_t> Sum(uint64_t a, uint64_t b) {
  uint64_t result;
  if (__builtin_add_overflow(a, b, &result)) return std::nullopt;
  return result;
}
inline std::optional<uint64_t> Product(uint64_t a, uint64_t b) {
  uint64_t result;
  if (__builtin_mul_overflow(a, b, &result)) return std::nullopt;
  return result;
}

// Types in which a checkpoint stores, or a kernel packs, a matrix.
inline bool IsWeightType(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 || IsQuantized(dtype);
}

// `name`: what EnumName... gave for the value; it is empty for values that the schema doesn't have.
inline Status CheckEnum(const std::string& where, const char* name, unsigned value) {
  if (name[0] != '\0') return Status();
  return InvalidArgument("{}: {} is no value of this enum", where, value);
}

// An index into a vector of `count` `what`.
inline Status CheckIndex(const std::string& where, uint64_t index, uint64_t count,
                         const char* what) {
  if (index < count) return Status();
  return InvalidArgument("{}: {}, but there are {} {}", where, index, count, what);
}

// The weight is one vector, kept as f32 whatever its source.
inline bool IsVector(const Plan& plan, const Weight& weight) {
  return plan.tensors()->Get(weight.pieces()->Get(0))->rows() == 1;
}

}  // namespace llmir::plan
