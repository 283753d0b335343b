// Equal parts of a FlatBuffer stored once. Internal to this folder.
#pragma once

#include <flatbuffers/flatbuffers.h>
#include <flatbuffers/minireflect.h>

namespace llmir::plan {

// Copies the table at the root of `buffer`, of type `type` (generated with --reflect-types), into
// `builder`, so that equal tables, vectors and strings are stored once and referred to from each
// place: a reader sees the same values. Only tables, strings, scalars and vectors of these; no
// unions and no structs. Returns the root's offset, to be finished by the caller.
flatbuffers::Offset<flatbuffers::Table> CopyShared(const uint8_t* buffer,
                                                   const flatbuffers::TypeTable& type,
                                                   flatbuffers::FlatBufferBuilder& builder);

}  // namespace llmir::plan
