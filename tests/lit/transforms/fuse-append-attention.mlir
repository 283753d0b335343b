// RUN: llmir-opt %s --llm-fuse-append-attention | FileCheck %s
// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-make-programs --llm-choose-attention --llm-fuse-append-attention | FileCheck %s --check-prefix=PROGRAMS

// Only the decode program has one token per sequence in every step.
// PROGRAMS: func.func @stage0_mixed
// PROGRAMS-NOT: llm.append_attention
// PROGRAMS: func.func @stage0_decode
// PROGRAMS-NOT: llm.rope_append
// PROGRAMS-COUNT-2: llm.append_attention
// PROGRAMS-NOT: llm.rope_append
// PROGRAMS: func.func @stage0_score
// PROGRAMS-NOT: llm.append_attention

// CHECK: "llm-fuse-append-attention", "Decode appends and attends in one pass in 2 layers", "one barrier less per layer; 128 values per token not read back from the cache"

// CHECK-LABEL: func.func @fuses
// CHECK: %[[A:.*]], %[[C1:.*]] = llm.append_attention %arg0, %{{.*}}, %arg1, %arg2 {attention = #llm.attention<form = flash, window = 32>} : (tensor<?x128xf32>
// CHECK: %[[B:.*]], %{{.*}} = llm.append_attention %arg0, %[[C1]], %arg1, %arg2 {layer = 1 : i64}
// CHECK: return %[[A]], %[[B]]
func.func @fuses(%qkv: tensor<?x128xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 4, max_sampled = 4>} {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %a, %ac, %ai = llm.rope_append %qkv, %c, %p, %s : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %o = llm.paged_attention %a, %ac, %ai {attention = #llm.attention<form = flash, window = 32>} : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  %b, %bc, %bi = llm.rope_append %qkv, %ac, %p, %s {layer = 1 : i64} : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %o1 = llm.paged_attention %b, %bc, %bi {layer = 1 : i64} : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %o, %o1 : tensor<?x64xf32>, tensor<?x64xf32>
}

// The appended keys are not those that are attended to.
// CHECK-LABEL: func.func @does_not_fuse_another_layer
// CHECK-NOT: llm.append_attention
func.func @does_not_fuse_another_layer(%qkv: tensor<?x128xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x64xf32> attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 4, max_sampled = 4>} {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %a, %ac, %ai = llm.rope_append %qkv, %c, %p, %s : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %o = llm.paged_attention %a, %ac, %ai {layer = 1 : i64} : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %o : tensor<?x64xf32>
}

// Attention reads the cache as it was before.
// CHECK-LABEL: func.func @does_not_fuse_another_cache
// CHECK-NOT: llm.append_attention
func.func @does_not_fuse_another_cache(%qkv: tensor<?x128xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x64xf32> attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 4, max_sampled = 4>} {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %a, %ac, %ai = llm.rope_append %qkv, %c, %p, %s : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %o = llm.paged_attention %a, %c, %ai : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %o : tensor<?x64xf32>
}

// The rotated keys are wanted, and the fused step leaves the rows unrotated.
// CHECK-LABEL: func.func @does_not_fuse_keys_used_elsewhere
// CHECK-NOT: llm.append_attention
func.func @does_not_fuse_keys_used_elsewhere(%qkv: tensor<?x128xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>) -> (tensor<?x64xf32>, tensor<?x128xf32>) attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 4, max_sampled = 4>} {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %a, %ac, %ai = llm.rope_append %qkv, %c, %p, %s : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %o = llm.paged_attention %a, %ac, %ai : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %o, %a : tensor<?x64xf32>, tensor<?x128xf32>
}

// The indices are wanted.
// CHECK-LABEL: func.func @does_not_fuse_indices_used_elsewhere
// CHECK-NOT: llm.append_attention
func.func @does_not_fuse_indices_used_elsewhere(%qkv: tensor<?x128xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>) -> (tensor<?x64xf32>, tensor<?xi32>) attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 4, max_sampled = 4>} {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %a, %ac, %ai = llm.rope_append %qkv, %c, %p, %s : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %o = llm.paged_attention %a, %ac, %ai : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %o, %ai : tensor<?x64xf32>, tensor<?xi32>
}

// Attention is of other rows.
// CHECK-LABEL: func.func @does_not_fuse_other_queries
// CHECK-NOT: llm.append_attention
func.func @does_not_fuse_other_queries(%qkv: tensor<?x128xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x64xf32> attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 4, max_sampled = 4>} {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %a, %ac, %ai = llm.rope_append %qkv, %c, %p, %s : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %o = llm.paged_attention %qkv, %ac, %ai : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %o : tensor<?x64xf32>
}

// Another append, with its own keys, lies in between: the two are not merged either.
// CHECK-LABEL: func.func @does_not_fuse_around_another_append
// CHECK-NOT: llm.append_attention
func.func @does_not_fuse_around_another_append(%qkv: tensor<?x128xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 4, max_sampled = 4>} {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %a, %ac, %ai = llm.rope_append %qkv, %c, %p, %s : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %b, %bc, %bi = llm.rope_append %qkv, %ac, %p, %s {layer = 1 : i64} : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %o = llm.paged_attention %a, %ac, %ai : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  %o1 = llm.paged_attention %b, %bc, %bi {attention = #llm.attention<form = masked>, layer = 1 : i64} : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %o, %o1 : tensor<?x64xf32>, tensor<?x64xf32>
}

// A message lies in between, and ranks agree on the order of messages.
// CHECK-LABEL: func.func @does_not_fuse_around_a_message
// CHECK-NOT: llm.append_attention
func.func @does_not_fuse_around_a_message(%qkv: tensor<?x128xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>, %x: tensor<?x64xf32>) -> tensor<?x64xf32> attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 4, max_sampled = 4>} {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %a, %ac, %ai = llm.rope_append %qkv, %c, %p, %s : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  llm.send %x : tensor<?x64xf32>
  %o = llm.paged_attention %a, %ac, %ai : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %o : tensor<?x64xf32>
}

// No step appends and attends in this form.
// CHECK-LABEL: func.func @does_not_fuse_other_forms
// CHECK-NOT: llm.append_attention
func.func @does_not_fuse_other_forms(%qkv: tensor<?x128xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x64xf32> attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 4, max_sampled = 4>} {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %a, %ac, %ai = llm.rope_append %qkv, %c, %p, %s : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %o = llm.paged_attention %a, %ac, %ai {attention = #llm.attention<form = standard>} : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %o : tensor<?x64xf32>
}

// Chunks have several tokens per sequence.
// CHECK-LABEL: func.func @does_not_fuse_chunks
// CHECK-NOT: llm.append_attention
func.func @does_not_fuse_chunks(%qkv: tensor<?x128xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x64xf32> attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 4, max_sampled = 4>} {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %a, %ac, %ai = llm.rope_append %qkv, %c, %p, %s : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %o = llm.paged_attention %a, %ac, %ai : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %o : tensor<?x64xf32>
}

// What is fused stays as it is.
// CHECK-LABEL: func.func @does_not_touch_fused
// CHECK-COUNT-1: llm.append_attention
// CHECK-NOT: llm.append_attention
func.func @does_not_touch_fused(%qkv: tensor<?x128xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x64xf32> attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 4, max_sampled = 4>} {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %a, %ac = llm.append_attention %qkv, %c, %p, %s : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>)
  return %a : tensor<?x64xf32>
}
