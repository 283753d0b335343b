// The paper's listing (section III.C), between the two lines of dashes as it is printed, line breaks and all, is valid IR.
// RUN: llmir-opt %s | llmir-opt | FileCheck %s

// CHECK-LABEL: func.func @paged_attention
// CHECK: %[[CACHE:.*]] = llm.create_paged_cache : <f16, 32, 16, 64, 128, 4096>
// CHECK: %[[NEW:.*]], %[[INDICES:.*]] = llm.append_kv %[[CACHE]], %{{.*}}, %{{.*}}, %{{.*}} :
// CHECK-SAME: (!llm.paged_kv_cache<f16, 32, 16, 64, 128, 4096>, tensor<1x1x16x64xf16>, tensor<1x1x16x64xf16>, tensor<1xi32>)
// CHECK-SAME: -> (!llm.paged_kv_cache<f16, 32, 16, 64, 128, 4096>, tensor<1xi32>)
// CHECK: %[[OUTPUT:.*]] = llm.paged_attention %{{.*}}, %[[NEW]], %[[INDICES]] :
// CHECK-SAME: (tensor<1x1x16x64xf16>, !llm.paged_kv_cache<f16, 32, 16, 64, 128, 4096>, tensor<1xi32>) -> tensor<1x1x16x64xf16>
// CHECK: return %[[OUTPUT]]
func.func @paged_attention(%query: tensor<1x1x16x64xf16>, %keys: tensor<1x1x16x64xf16>, %values: tensor<1x1x16x64xf16>,
                           %seq_ids: tensor<1xi32>) -> tensor<1x1x16x64xf16> {
// ---------------------------------------------------------------------------------------------------------------------
// Create paged KV cache
%kv_cache = llm.create_paged_cache :
    !llm.paged_kv_cache<f16, 32, 16, 64, 128,
    4096>

// Append new key-value pairs
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
%output = llm.paged_attention %query, %new_kv,
    %indices : (tensor<1x1x16x64xf16>,
    !llm.paged_kv_cache<f16, 32, 16, 64, 128,
    4096>,
    tensor<1xi32>) -> tensor<1x1x16x64xf16>
// ---------------------------------------------------------------------------------------------------------------------
  return %output : tensor<1x1x16x64xf16>
}
