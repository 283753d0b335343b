// Operations on the cache and messages are neither merged nor removed, though nobody reads their results.
// RUN: llmir-opt %s --cse --canonicalize | FileCheck %s

// CHECK-LABEL: func.func @appends_stay
// CHECK-COUNT-2: llm.append_kv
// CHECK: return
func.func @appends_stay(%k: tensor<?x32xf32>, %sequences: tensor<?xi32>) {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %1, %2 = llm.append_kv %0, %k, %k, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %3, %4 = llm.append_kv %0, %k, %k, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  return
}

// The merge that the paper's published code makes, of two appends with different keys, is refused.
// CHECK-LABEL: func.func @appends_of_different_keys
// CHECK-SAME: (%[[K0:.*]]: tensor<?x32xf32>, %[[K1:.*]]: tensor<?x32xf32>, %[[V:.*]]: tensor<?x32xf32>,
// CHECK: %[[C1:.*]], %{{.*}} = llm.append_kv %{{.*}}, %[[K0]], %[[V]], %{{.*}}
// CHECK: %[[C2:.*]], %{{.*}} = llm.append_kv %[[C1]], %[[K1]], %[[V]], %{{.*}}
// CHECK: llm.paged_attention %{{.*}}, %[[C2]],
func.func @appends_of_different_keys(%k0: tensor<?x32xf32>, %k1: tensor<?x32xf32>, %v: tensor<?x32xf32>, %sequences: tensor<?xi32>, %q: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %1, %2 = llm.append_kv %0, %k0, %v, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %3, %4 = llm.append_kv %1, %k1, %v, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %5 = llm.paged_attention %q, %3, %4 : (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %5 : tensor<?x64xf32>
}

// Nor are appends of the same keys to two layers, or to two caches, which are two.
// CHECK-LABEL: func.func @appends_of_same_keys_elsewhere
// CHECK: %[[A:.*]] = llm.create_paged_cache
// CHECK: %[[B:.*]] = llm.create_paged_cache
// CHECK: llm.append_kv %[[A]], %{{.*}} : (
// CHECK: llm.append_kv %[[A]], %{{.*}} {layer = 1 : i64}
// CHECK: llm.append_kv %[[B]], %{{.*}} : (
func.func @appends_of_same_keys_elsewhere(%k: tensor<?x32xf32>, %sequences: tensor<?xi32>) {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %1 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %2, %3 = llm.append_kv %0, %k, %k, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %4, %5 = llm.append_kv %0, %k, %k, %sequences {layer = 1 : i64} : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %6, %7 = llm.append_kv %1, %k, %k, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  return
}

// An append stays behind the reads before it, also where the same was appended already.
// CHECK-LABEL: func.func @append_after_read
// CHECK: llm.append_kv
// CHECK: llm.lookup_kv
// CHECK: llm.append_kv
// CHECK: llm.lookup_kv
func.func @append_after_read(%k: tensor<?x32xf32>, %sequences: tensor<?xi32>) -> (tensor<?x32xf32>, tensor<?x32xf32>) {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %1, %2 = llm.append_kv %0, %k, %k, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %3, %4 = llm.lookup_kv %0, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> (tensor<?x32xf32>, tensor<?x32xf32>)
  %5, %6 = llm.append_kv %0, %k, %k, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %7, %8 = llm.lookup_kv %0, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> (tensor<?x32xf32>, tensor<?x32xf32>)
  return %3, %7 : tensor<?x32xf32>, tensor<?x32xf32>
}

// CHECK-LABEL: func.func @rope_appends_stay
// CHECK-COUNT-2: llm.rope_append
func.func @rope_appends_stay(%qkv: tensor<?x128xf32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>) {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %1:3 = llm.rope_append %qkv, %0, %positions, %sequences : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %2:3 = llm.rope_append %qkv, %0, %positions, %sequences : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  return
}

// CHECK-LABEL: func.func @attention_sees_what_was_appended_between
// CHECK: llm.paged_attention
// CHECK: llm.append_kv
// CHECK: llm.paged_attention
func.func @attention_sees_what_was_appended_between(%q: tensor<?x64xf32>, %k: tensor<?x32xf32>, %sequences: tensor<?xi32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %1 = llm.paged_attention %q, %0, %sequences : (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  %2, %3 = llm.append_kv %0, %k, %k, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %4 = llm.paged_attention %q, %0, %sequences : (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %1, %4 : tensor<?x64xf32>, tensor<?x64xf32>
}

// CHECK-LABEL: func.func @messages_stay
// CHECK: llm.recv
// CHECK: llm.recv
// CHECK-COUNT-2: llm.all_reduce
// CHECK: llm.send
func.func @messages_stay() {
  %0 = llm.recv : tensor<?x64xf32>
  %1 = llm.recv : tensor<?x64xf32>
  %2 = llm.all_reduce %0 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.all_reduce %0 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %1 : tensor<?x64xf32>
  return
}

// Whether anybody reads the rows or not, all ranks take part, and as often as was written.
// CHECK-LABEL: func.func @collectives_stay
// CHECK-COUNT-2: llm.reduce_scatter %
// CHECK-COUNT-2: llm.all_gather %
// CHECK-COUNT-2: llm.broadcast %
// CHECK-COUNT-2: llm.gather %
func.func @collectives_stay(%x: tensor<?x64xf32>, %logits: !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) {
  %0 = llm.reduce_scatter %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.reduce_scatter %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.all_gather %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.all_gather %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %4 = llm.broadcast %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %5 = llm.broadcast %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %6 = llm.gather %logits : (!llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) -> !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?, [0, 256, 256]>
  %7 = llm.gather %logits : (!llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) -> !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?, [0, 256, 256]>
  return
}

// CHECK-LABEL: func.func @starts_stay
// CHECK: llm.all_reduce_start
// CHECK: llm.reduce_scatter_start
// CHECK: llm.all_gather_start
// CHECK: llm.broadcast_start
// CHECK: llm.gather_start
// CHECK: llm.send_start
// CHECK: llm.recv_start
// CHECK-COUNT-7: llm.wait
func.func @starts_stay(%x: tensor<?x64xf32>, %logits: !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) {
  %0 = llm.all_reduce_start %x : (tensor<?x64xf32>) -> !llm.token
  %1 = llm.reduce_scatter_start %x : (tensor<?x64xf32>) -> !llm.token
  %2 = llm.all_gather_start %x : (tensor<?x64xf32>) -> !llm.token
  %3 = llm.broadcast_start %x : (tensor<?x64xf32>) -> !llm.token
  %4 = llm.gather_start %logits : (!llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) -> !llm.token
  %5 = llm.send_start %x : (tensor<?x64xf32>) -> !llm.token
  %6 = llm.recv_start : !llm.token
  %7 = llm.wait %0 : (!llm.token) -> tensor<?x64xf32>
  %8 = llm.wait %1 : (!llm.token) -> tensor<?x64xf32>
  %9 = llm.wait %2 : (!llm.token) -> tensor<?x64xf32>
  %10 = llm.wait %3 : (!llm.token) -> tensor<?x64xf32>
  %11 = llm.wait %4 : (!llm.token) -> !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?, [0, 256, 256]>
  llm.wait %5 : (!llm.token) -> ()
  %12 = llm.wait %6 : (!llm.token) -> tensor<?x64xf32>
  return
}

// A hint stays where it was put.
// CHECK-LABEL: func.func @hints_stay
// CHECK-COUNT-2: llm.prefetch
func.func @hints_stay(%w: tensor<64x64xf32>) {
  llm.prefetch %w : tensor<64x64xf32>
  llm.prefetch %w : tensor<64x64xf32>
  return
}

// What is pure is merged.
// CHECK-LABEL: func.func @equal_quantizes_merge
// CHECK-COUNT-1: = llm.quantize %
// CHECK-NOT: = llm.quantize %
func.func @equal_quantizes_merge(%x: tensor<?x64xf32>, %w: !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %0 = llm.quantize %x : (tensor<?x64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %1 = llm.quantize %x : (tensor<?x64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %2 = llm.linear %0, %w : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  %3 = llm.linear %1, %w residual %x : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %2, %3 : tensor<?x64xf32>, tensor<?x64xf32>
}
