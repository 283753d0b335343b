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
