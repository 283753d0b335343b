// RUN: llmir-opt %s --llm-lower-operations --llm-verify-phase=phase=operations | FileCheck %s

// CHECK-LABEL: func.func @logits
// CHECK-NOT: llm.logits
// CHECK: %[[PLAIN:.*]] = llm.linear %{{.*}}, %{{.*}} : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x256xf32>
// CHECK: %[[LOGITS:.*]] = llm.linear %{{.*}}, %{{.*}} : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x256xf32>
// CHECK: %[[CAPPED:.*]] = llm.softcap %[[LOGITS]] {cap = 3.000000e+01 : f32}
// CHECK: return %[[PLAIN]], %[[CAPPED]]
func.func @logits(%x: tensor<?x64xf32>, %head: tensor<256x64xf32>) -> (tensor<?x256xf32>, tensor<?x256xf32>) {
  %0 = llm.logits %x, %head : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x256xf32>
  %1 = llm.logits %x, %head softcap 30.0 : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x256xf32>
  return %0, %1 : tensor<?x256xf32>, tensor<?x256xf32>
}

// CHECK-LABEL: func.func @quantized_matmul
// CHECK: %[[Q:.*]] = llm.quantize
// CHECK: llm.linear %[[Q]], %{{.*}} : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f16, [8, 64], true, false, 1, 32, 8>) -> tensor<?x8xf32>
// CHECK: llm.linear %{{.*}}, %{{.*}} : (tensor<?x64xf32>, !llm.quantized_tensor<f16, [8, 64], true, false, 1, 32, 8>) -> tensor<?x8xf32>
func.func @quantized_matmul(%x: tensor<?x64xf32>, %w: !llm.quantized_tensor<f16, [8, 64], true, false, 1, 32, 8>) -> (tensor<?x8xf32>, tensor<?x8xf32>) {
  %0 = llm.quantize %x : (tensor<?x64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %1 = llm.quantized_matmul %0, %w : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f16, [8, 64], true, false, 1, 32, 8>) -> tensor<?x8xf32>
  %2 = llm.quantized_matmul %x, %w : (tensor<?x64xf32>, !llm.quantized_tensor<f16, [8, 64], true, false, 1, 32, 8>) -> tensor<?x8xf32>
  return %1, %2 : tensor<?x8xf32>, tensor<?x8xf32>
}

// CHECK-LABEL: func.func @attention_to_what_is_appended
// CHECK: %[[CACHE:.*]], %[[INDICES:.*]] = llm.append_kv
// CHECK: llm.paged_attention %{{.*}}, %[[CACHE]], %[[INDICES]] {layer = 1 : i64} : (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
func.func @attention_to_what_is_appended(%q: tensor<?x64xf32>, %k: tensor<?x32xf32>, %v: tensor<?x32xf32>, %sequences: tensor<?xi32>) -> tensor<?x64xf32> {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %1, %2 = llm.append_kv %0, %k, %v, %sequences {layer = 1 : i64} : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %3 = llm.attention %q, %k, %v {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?x32xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  return %3 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @attention_to_what_is_looked_up
// CHECK-NOT: llm.lookup_kv
// CHECK: llm.append_kv %{{.*}} {layer = 1 : i64}
// CHECK: llm.paged_attention %{{.*}} : (tensor<1x1x4x16xf16>, !llm.paged_kv_cache<f16, 2, 2, 16, 16, 128>, tensor<1xi32>) -> tensor<1x1x4x16xf16>
func.func @attention_to_what_is_looked_up(%q: tensor<1x1x4x16xf16>, %k: tensor<1x1x2x16xf16>, %sequences: tensor<1xi32>) -> tensor<1x1x4x16xf16> {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<f16, 2, 2, 16, 16, 128>
  %1, %2 = llm.append_kv %0, %k, %k, %sequences : (!llm.paged_kv_cache<f16, 2, 2, 16, 16, 128>, tensor<1x1x2x16xf16>, tensor<1x1x2x16xf16>, tensor<1xi32>) -> (!llm.paged_kv_cache<f16, 2, 2, 16, 16, 128>, tensor<1xi32>)
  %3, %4 = llm.lookup_kv %1, %2 : (!llm.paged_kv_cache<f16, 2, 2, 16, 16, 128>, tensor<1xi32>) -> (tensor<1x?x2x16xf16>, tensor<1x?x2x16xf16>)
  // Another layer is written: that changes nothing here.
  %5, %6 = llm.append_kv %1, %k, %k, %sequences {layer = 1 : i64} : (!llm.paged_kv_cache<f16, 2, 2, 16, 16, 128>, tensor<1x1x2x16xf16>, tensor<1x1x2x16xf16>, tensor<1xi32>) -> (!llm.paged_kv_cache<f16, 2, 2, 16, 16, 128>, tensor<1xi32>)
  %7 = llm.attention %q, %3, %4 : (tensor<1x1x4x16xf16>, tensor<1x?x2x16xf16>, tensor<1x?x2x16xf16>) -> tensor<1x1x4x16xf16>
  return %7 : tensor<1x1x4x16xf16>
}
