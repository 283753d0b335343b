// The paper's listing, as printed (section III.C), is valid IR.
// RUN: llmir-opt %s | llmir-opt | FileCheck %s

// CHECK-LABEL: func.func @paged_attention
func.func @paged_attention(%keys: tensor<1x1x16x64xf16>, %values: tensor<1x1x16x64xf16>, %query: tensor<1x1x16x64xf16>,
                           %seq_ids: tensor<1xi32>) -> tensor<1x1x16x64xf16> {
  // Create paged KV cache
  // CHECK: %[[CACHE:.*]] = llm.create_paged_cache : <f16, 32, 16, 64, 128, 4096>
  %kv_cache = llm.create_paged_cache :
      !llm.paged_kv_cache<f16, 32, 16, 64, 128,
      4096>

  // Append new key-value pairs
  // CHECK: %[[NEW:.*]], %[[INDICES:.*]] = llm.append_kv %[[CACHE]], %{{.*}}, %{{.*}}, %{{.*}} :
  // CHECK-SAME: (!llm.paged_kv_cache<f16, 32, 16, 64, 128, 4096>, tensor<1x1x16x64xf16>, tensor<1x1x16x64xf16>, tensor<1xi32>)
  // CHECK-SAME: -> (!llm.paged_kv_cache<f16, 32, 16, 64, 128, 4096>, tensor<1xi32>)
  %new_kv, %indices = llm.append_kv %kv_cache,
      %keys, %values, %seq_ids :
      (!llm.paged_kv_cache<f16, 32, 16, 64, 128,
      4096>,
      tensor<1x1x16x64xf16>, tensor<1x1x16x64xf16>,
      tensor<1xi32>) ->
      (!llm.paged_kv_cache<f16, 32, 16, 64, 128,
      4096>,
      tensor<1xi32>)

  // Perform paged attention computation
  // CHECK: llm.paged_attention %{{.*}}, %[[NEW]], %[[INDICES]] : (tensor<1x1x16x64xf16>, !llm.paged_kv_cache<f16, 32, 16, 64, 128, 4096>, tensor<1xi32>) -> tensor<1x1x16x64xf16>
  %output = llm.paged_attention %query, %new_kv,
      %indices : (tensor<1x1x16x64xf16>,
      !llm.paged_kv_cache<f16, 32, 16, 64, 128,
      4096>,
      tensor<1xi32>) -> tensor<1x1x16x64xf16>
  return %output : tensor<1x1x16x64xf16>
}
