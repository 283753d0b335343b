// RUN: llmir-opt %s --llm-fuse-qkv | FileCheck %s

// CHECK-LABEL: func.func @fuses
// CHECK: %[[C:.*]] = llm.create_paged_cache
// CHECK: %[[W:.*]] = llm.weight @layers.0.qkv layer 0 pieces [#llm.piece<"layers.0.q" : {{.*}}, query_head rows 16>, #llm.piece<"layers.0.k" : {{.*}}, kv_head rows 16>, #llm.piece<"layers.0.v" : {{.*}}, kv_head rows 16>] : tensor<128x64xf32>
// CHECK: %[[QKV:.*]] = llm.linear %arg0, %[[W]] : {{.*}} -> tensor<?x128xf32>
// CHECK: %[[R:.*]], %[[NEW:.*]], %[[I:.*]] = llm.rope_append %[[QKV]], %[[C]], %arg2, %arg4
// CHECK: llm.paged_attention %[[R]], %[[NEW]], %[[I]] : (tensor<?x128xf32>, {{.*}}) -> tensor<?x64xf32>
// CHECK-NOT: llm.append_kv
func.func @fuses(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>, %p: tensor<?xi32>, %p2: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x64xf32> {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>
  %0 = llm.weight @layers.0.q layer 0 pieces [#llm.piece<"layers.0.q" : tensor<64x64xf32>, query_head rows 16>] : tensor<64x64xf32>
  %1 = llm.weight @layers.0.k layer 0 pieces [#llm.piece<"layers.0.k" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xf32>
  %2 = llm.weight @layers.0.v layer 0 pieces [#llm.piece<"layers.0.v" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xf32>
  %3 = llm.linear %x, %0 : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %4 = llm.linear %x, %1 : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  %5 = llm.linear %x, %2 : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  %6 = llm.rope %3, %p {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %7 = llm.rope %4, %p {head_dim = 16 : i64} : (tensor<?x32xf32>, tensor<?xi32>) -> tensor<?x32xf32>
  %8, %i = llm.append_kv %c, %7, %5, %s : (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>)
  %9 = llm.paged_attention %6, %8, %i : (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %9 : tensor<?x64xf32>
}

// Queries and keys at different positions.
// CHECK-LABEL: func.func @does_not_mix_positions
// CHECK: llm.append_kv
func.func @does_not_mix_positions(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>, %p: tensor<?xi32>, %p2: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x64xf32> {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>
  %0 = llm.weight @layers.0.q layer 0 pieces [#llm.piece<"layers.0.q" : tensor<64x64xf32>, query_head rows 16>] : tensor<64x64xf32>
  %1 = llm.weight @layers.0.k layer 0 pieces [#llm.piece<"layers.0.k" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xf32>
  %2 = llm.weight @layers.0.v layer 0 pieces [#llm.piece<"layers.0.v" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xf32>
  %3 = llm.linear %x, %0 : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %4 = llm.linear %x, %1 : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  %5 = llm.linear %x, %2 : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  %6 = llm.rope %3, %p {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %7 = llm.rope %4, %p2 {head_dim = 16 : i64} : (tensor<?x32xf32>, tensor<?xi32>) -> tensor<?x32xf32>
  %8, %i = llm.append_kv %c, %7, %5, %s : (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>)
  %9 = llm.paged_attention %6, %8, %i : (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %9 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @does_not_mix_inputs
// CHECK: llm.append_kv
func.func @does_not_mix_inputs(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>, %p: tensor<?xi32>, %p2: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x64xf32> {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>
  %0 = llm.weight @layers.0.q layer 0 pieces [#llm.piece<"layers.0.q" : tensor<64x64xf32>, query_head rows 16>] : tensor<64x64xf32>
  %1 = llm.weight @layers.0.k layer 0 pieces [#llm.piece<"layers.0.k" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xf32>
  %2 = llm.weight @layers.0.v layer 0 pieces [#llm.piece<"layers.0.v" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xf32>
  %3 = llm.linear %x, %0 : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %4 = llm.linear %y, %1 : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  %5 = llm.linear %x, %2 : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  %6 = llm.rope %3, %p {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %7 = llm.rope %4, %p {head_dim = 16 : i64} : (tensor<?x32xf32>, tensor<?xi32>) -> tensor<?x32xf32>
  %8, %i = llm.append_kv %c, %7, %5, %s : (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>)
  %9 = llm.paged_attention %6, %8, %i : (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %9 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @does_not_mix_encodings
// CHECK: llm.append_kv
func.func @does_not_mix_encodings(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>, %p: tensor<?xi32>, %p2: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x64xf32> {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>
  %0 = llm.weight @layers.0.q layer 0 pieces [#llm.piece<"layers.0.q" : tensor<64x64xf32>, query_head rows 16>] : tensor<64x64xf32>
  %1 = llm.weight @layers.0.k layer 0 pieces [#llm.piece<"layers.0.k" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xbf16>
  %2 = llm.weight @layers.0.v layer 0 pieces [#llm.piece<"layers.0.v" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xf32>
  %3 = llm.linear %x, %0 : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %4 = llm.linear %x, %1 : (tensor<?x64xf32>, tensor<32x64xbf16>) -> tensor<?x32xf32>
  %5 = llm.linear %x, %2 : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  %6 = llm.rope %3, %p {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %7 = llm.rope %4, %p {head_dim = 16 : i64} : (tensor<?x32xf32>, tensor<?xi32>) -> tensor<?x32xf32>
  %8, %i = llm.append_kv %c, %7, %5, %s : (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>)
  %9 = llm.paged_attention %6, %8, %i : (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %9 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @does_not_mix_layers
// CHECK: llm.append_kv
func.func @does_not_mix_layers(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>, %p: tensor<?xi32>, %p2: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x64xf32> {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>
  %0 = llm.weight @layers.0.q layer 0 pieces [#llm.piece<"layers.0.q" : tensor<64x64xf32>, query_head rows 16>] : tensor<64x64xf32>
  %1 = llm.weight @layers.0.k layer 0 pieces [#llm.piece<"layers.0.k" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xf32>
  %2 = llm.weight @layers.0.v layer 1 pieces [#llm.piece<"layers.0.v" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xf32>
  %3 = llm.linear %x, %0 : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %4 = llm.linear %x, %1 : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  %5 = llm.linear %x, %2 : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  %6 = llm.rope %3, %p {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %7 = llm.rope %4, %p {head_dim = 16 : i64} : (tensor<?x32xf32>, tensor<?xi32>) -> tensor<?x32xf32>
  %8, %i = llm.append_kv %c, %7, %5, %s : (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>)
  %9 = llm.paged_attention %6, %8, %i : (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %9 : tensor<?x64xf32>
}

// Keys that somebody else reads, before their rotation.
// CHECK-LABEL: func.func @does_not_take_what_others_read
// CHECK: llm.append_kv
func.func @does_not_take_what_others_read(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>, %p: tensor<?xi32>, %p2: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x32xf32> {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>
  %0 = llm.weight @layers.0.q layer 0 pieces [#llm.piece<"layers.0.q" : tensor<64x64xf32>, query_head rows 16>] : tensor<64x64xf32>
  %1 = llm.weight @layers.0.k layer 0 pieces [#llm.piece<"layers.0.k" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xf32>
  %2 = llm.weight @layers.0.v layer 0 pieces [#llm.piece<"layers.0.v" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xf32>
  %3 = llm.linear %x, %0 : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %4 = llm.linear %x, %1 : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  %5 = llm.linear %x, %2 : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  %6 = llm.rope %3, %p {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %7 = llm.rope %4, %p {head_dim = 16 : i64} : (tensor<?x32xf32>, tensor<?xi32>) -> tensor<?x32xf32>
  %8, %i = llm.append_kv %c, %7, %5, %s : (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>)
  %9 = llm.paged_attention %6, %8, %i : (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %4 : tensor<?x32xf32>
}
