// What can't be lowered stays, and the phase's check names it.
// RUN: llmir-opt %s --llm-lower-operations | FileCheck %s
// RUN: llmir-opt %s -split-input-file --llm-lower-operations --llm-verify-phase=phase=operations -verify-diagnostics

// No cache has the keys.
// CHECK-LABEL: func.func @no_cache
// CHECK: llm.attention
func.func @no_cache(%q: tensor<?x64xf32>, %k: tensor<?x32xf32>) -> tensor<?x64xf32> {
  // expected-error @+1 {{isn't lowered, and no step of a plan executes it}}
  %0 = llm.attention %q, %k, %k {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?x32xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}

// -----

// The layer is written between the look-up and the attention, which must not see that.
// CHECK-LABEL: func.func @written_in_between
// CHECK: llm.lookup_kv
// CHECK: llm.append_kv
// CHECK: llm.attention
func.func @written_in_between(%q: tensor<?x64xf32>, %k: tensor<?x32xf32>, %sequences: tensor<?xi32>) -> tensor<?x64xf32> {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  // expected-error @+1 {{isn't lowered, and no step of a plan executes it}}
  %1, %2 = llm.lookup_kv %0, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> (tensor<?x32xf32>, tensor<?x32xf32>)
  %3, %4 = llm.append_kv %0, %k, %k, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %5 = llm.attention %q, %1, %2 {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?x32xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  return %5 : tensor<?x64xf32>
}

// -----

// Keys and values are appended, but after the attention; or they are those of two appends.
// CHECK-LABEL: func.func @appended_otherwise
// CHECK: llm.attention
// CHECK: llm.attention
func.func @appended_otherwise(%q: tensor<?x64xf32>, %k: tensor<?x32xf32>, %v: tensor<?x32xf32>, %sequences: tensor<?xi32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  // expected-error @+1 {{isn't lowered, and no step of a plan executes it}}
  %1 = llm.attention %q, %k, %k {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?x32xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  %2, %3 = llm.append_kv %0, %k, %k, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %4 = llm.attention %q, %k, %v {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?x32xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  return %1, %4 : tensor<?x64xf32>, tensor<?x64xf32>
}

// -----

// The cache has heads of another size.
// CHECK-LABEL: func.func @other_heads
// CHECK: llm.attention
func.func @other_heads(%q: tensor<?x64xf32>, %k: tensor<?x32xf32>, %sequences: tensor<?xi32>) -> tensor<?x64xf32> {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %1, %2 = llm.append_kv %0, %k, %k, %sequences : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  // expected-error @+1 {{isn't lowered, and no step of a plan executes it}}
  %3 = llm.attention %q, %k, %k {head_dim = 32 : i64} : (tensor<?x64xf32>, tensor<?x32xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  return %3 : tensor<?x64xf32>
}

// -----

// No kernel has scales per channel.
// CHECK-LABEL: func.func @unknown_format
// CHECK: llm.quantized_matmul
func.func @unknown_format(%x: tensor<?x64xf32>, %w: !llm.quantized_tensor<f32, [8, 64], true, true, 0, 0, 8>) -> tensor<?x8xf32> {
  // expected-error @+1 {{isn't lowered, and no step of a plan executes it}}
  %0 = llm.quantized_matmul %x, %w : (tensor<?x64xf32>, !llm.quantized_tensor<f32, [8, 64], true, true, 0, 0, 8>) -> tensor<?x8xf32>
  return %0 : tensor<?x8xf32>
}
