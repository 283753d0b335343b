#include "plan_schema/table_sharing.h"

#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

namespace llmir::plan {
namespace {

using flatbuffers::ElementaryType;
using flatbuffers::Offset;
using flatbuffers::Table;
using flatbuffers::TypeCode;
using flatbuffers::TypeTable;
using flatbuffers::uoffset_t;

class SharingCopier {
 public:
  explicit SharingCopier(flatbuffers::FlatBufferBuilder& builder) : builder_(builder) {}

  uoffset_t CopyTable(const Table& table, const TypeTable& type) {
    std::vector<Field> fields;
    // What makes two tables equal: their type and the fields that are there.
    std::string key(1, 't');
    Append(key, &type);
    for (size_t i = 0; i < type.num_elems; ++i) {
      const auto slot = flatbuffers::FieldIndexToOffset(static_cast<flatbuffers::voffset_t>(i));
      const uint8_t* data = table.GetAddressOf(slot);
      if (data == nullptr) continue;
      const TypeCode code = type.type_codes[i];
      Field field{slot, Size(code), 0};
      if (IsReference(code)) {
        const uoffset_t child = CopyReferred(data, code, type);
        std::memcpy(&field.bits, &child, sizeof child);
      } else {
        std::memcpy(&field.bits, data, field.size);
      }
      field.is_reference = IsReference(code);
      Append(key, slot);
      Append(key, field.bits);
      fields.push_back(field);
    }
    return Once(std::move(key), [&] {
      const uoffset_t start = builder_.StartTable();
      // Large fields first: no padding between them.
      for (const size_t size : {8, 4, 2, 1}) {
        for (const Field& field : fields) {
          if (field.size == size) Add(field);
        }
      }
      return builder_.EndTable(start);
    });
  }

 private:
  struct Field {
    flatbuffers::voffset_t slot;
    size_t size;
    uint64_t bits;  // the value, or the offset of what it refers to
    bool is_reference = false;
  };

  static bool IsReference(TypeCode code) {
    return code.is_repeating || code.base_type == flatbuffers::ET_STRING ||
           code.base_type == flatbuffers::ET_SEQUENCE;
  }
  static size_t ScalarSize(TypeCode code) {
    switch (static_cast<ElementaryType>(code.base_type)) {
      case flatbuffers::ET_UTYPE:
      case flatbuffers::ET_BOOL:
      case flatbuffers::ET_CHAR:
      case flatbuffers::ET_UCHAR:
        return 1;
      case flatbuffers::ET_SHORT:
      case flatbuffers::ET_USHORT:
        return 2;
      case flatbuffers::ET_LONG:
      case flatbuffers::ET_ULONG:
      case flatbuffers::ET_DOUBLE:
        return 8;
      default:
        return 4;
    }
  }
  static size_t Size(TypeCode code) {
    return IsReference(code) ? sizeof(uoffset_t) : ScalarSize(code);
  }
  template <typename T>
  static void Append(std::string& key, const T& value) {
    key.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static const uint8_t* Follow(const uint8_t* reference) {
    return reference + flatbuffers::ReadScalar<uoffset_t>(reference);
  }

  // The offset of what `key` stands for, made by `make` the first time.
  template <typename Make>
  uoffset_t Once(std::string key, Make&& make) {
    const auto [entry, is_new] = offsets_.try_emplace(std::move(key), 0);
    if (is_new) entry->second = make();
    return entry->second;
  }

  void Add(const Field& field) {
    if (field.is_reference) {
      builder_.AddOffset(field.slot, Offset<void>(static_cast<uoffset_t>(field.bits)));
      return;
    }
    switch (field.size) {
      case 8:
        return builder_.AddElement<uint64_t>(field.slot, field.bits);
      case 4:
        return builder_.AddElement<uint32_t>(field.slot, static_cast<uint32_t>(field.bits));
      case 2:
        return builder_.AddElement<uint16_t>(field.slot, static_cast<uint16_t>(field.bits));
      default:
        return builder_.AddElement<uint8_t>(field.slot, static_cast<uint8_t>(field.bits));
    }
  }

  uoffset_t CopyReferred(const uint8_t* reference, TypeCode code, const TypeTable& owner) {
    const uint8_t* data = Follow(reference);
    if (code.is_repeating) return CopyVector(data, code, owner);
    if (code.base_type == flatbuffers::ET_STRING) return CopyString(data);
    return CopyTable(*reinterpret_cast<const Table*>(data), *owner.type_refs[code.sequence_ref]());
  }

  uoffset_t CopyString(const uint8_t* data) {
    const auto* text = reinterpret_cast<const flatbuffers::String*>(data);
    std::string key(1, 's');
    key.append(text->c_str(), text->size());
    return Once(std::move(key), [&] { return builder_.CreateString(text).o; });
  }

  uoffset_t CopyVector(const uint8_t* data, TypeCode code, const TypeTable& owner) {
    const auto count = flatbuffers::ReadScalar<uoffset_t>(data);
    const uint8_t* elements = data + sizeof(uoffset_t);
    TypeCode element = code;
    element.is_repeating = 0;
    const size_t size = Size(element);
    std::string key(1, 'v');
    Append(key, size);
    if (!IsReference(element)) {
      key.append(reinterpret_cast<const char*>(elements), count * size);
      return Once(std::move(key), [&] {
        uint8_t* copy = nullptr;
        const uoffset_t vector = builder_.CreateUninitializedVector(count, size, &copy);
        std::memcpy(copy, elements, count * size);
        return vector;
      });
    }
    std::vector<Offset<void>> children;
    for (uoffset_t i = 0; i < count; ++i) {
      children.emplace_back(CopyReferred(elements + i * size, element, owner));
    }
    key[0] = 'r';
    key.append(reinterpret_cast<const char*>(children.data()), children.size() * sizeof(uoffset_t));
    return Once(std::move(key), [&] { return builder_.CreateVector(children).o; });
  }

  flatbuffers::FlatBufferBuilder& builder_;
  std::unordered_map<std::string, uoffset_t> offsets_;
};

}  // namespace

Offset<Table> CopyShared(const uint8_t* buffer, const TypeTable& type,
                         flatbuffers::FlatBufferBuilder& builder) {
  return SharingCopier(builder).CopyTable(*flatbuffers::GetRoot<Table>(buffer), type);
}

}  // namespace llmir::plan
