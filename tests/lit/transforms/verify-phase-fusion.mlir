// RUN: llmir-opt %s -split-input-file --llm-verify-phase=phase=fusion -verify-diagnostics

func.func @f(%x: tensor<?x64xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{is left after fusion, and no step of a plan executes it}}
  %0 = llm.rope %x, %p {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %k: tensor<?x32xf32>, %s: tensor<?xi32>) {
  // expected-error @+1 {{is left after fusion, and no step of a plan executes it}}
  %0, %1 = llm.append_kv %c, %k, %k, %s : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  return
}

// -----

// A step executes each of these.
func.func @steps(%ids: tensor<?xi32>, %embedding: tensor<256x64xf32>, %norm: tensor<64xf32>, %w: tensor<64x64xf32>) -> tensor<?x1xi32> {
  %0 = llm.embedding %ids, %embedding : (tensor<?xi32>, tensor<256x64xf32>) -> tensor<?x64xf32>
  %1 = llm.layer_norm %0, %norm {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %2 = llm.activation gelu %1 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.silu_mul %2, %1 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %4 = llm.quantize %3 : (tensor<?x64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %5 = llm.dequantize %4 : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  %6 = llm.linear %5, %w : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %7 = llm.softcap %6 {cap = 30.0 : f32} : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %8 = llm.sample %7 : (tensor<?x64xf32>) -> tensor<?x1xi32>
  return %8 : tensor<?x1xi32>
}

// -----

// And each of these, behind the fusion.
func.func @fused(%x: tensor<?x64xf32>, %norm: tensor<64xf32>, %qkv: tensor<?x128xf32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %head: tensor<256x64xf32>, %targets: tensor<?xi32>) -> (tensor<?x64xf32>, tensor<?x1xf32>) {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %1, %2, %3 = llm.rope_append %qkv, %0, %positions, %sequences : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  %4 = llm.paged_attention %1, %2, %3 : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  %5 = llm.rms_norm %4, %norm {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %6 = llm.gather_rows %5, %sequences : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %7 = llm.add %6, %x : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %8, %9 = llm.score %7, %head, %targets : (tensor<?x64xf32>, tensor<256x64xf32>, tensor<?xi32>) -> (tensor<?x3xf32>, tensor<?x256xf32>)
  %10 = llm.score_merge %8 : (tensor<?x3xf32>) -> tensor<?x1xf32>
  return %7, %10 : tensor<?x64xf32>, tensor<?x1xf32>
}

// -----

// And every message, whole or split.
func.func @messages(%w: tensor<64x64xf32>, %logits: !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) {
  llm.prefetch %w : tensor<64x64xf32>
  %0 = llm.recv : tensor<?x64xf32>
  %1 = llm.all_reduce %0 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.reduce_scatter %1 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.all_gather %2 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %4 = llm.broadcast %3 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %5 = llm.gather %logits : (!llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) -> !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?, [0, 256, 256]>
  llm.send %4 : tensor<?x64xf32>
  %6 = llm.recv_start : !llm.token
  %7 = llm.wait %6 : (!llm.token) -> tensor<?x64xf32>
  %8 = llm.all_reduce_start %7 : (tensor<?x64xf32>) -> !llm.token
  %9 = llm.wait %8 : (!llm.token) -> tensor<?x64xf32>
  %10 = llm.reduce_scatter_start %9 : (tensor<?x64xf32>) -> !llm.token
  %11 = llm.wait %10 : (!llm.token) -> tensor<?x64xf32>
  %12 = llm.all_gather_start %11 : (tensor<?x64xf32>) -> !llm.token
  %13 = llm.wait %12 : (!llm.token) -> tensor<?x64xf32>
  %14 = llm.broadcast_start %13 : (tensor<?x64xf32>) -> !llm.token
  %15 = llm.wait %14 : (!llm.token) -> tensor<?x64xf32>
  %16 = llm.gather_start %logits : (!llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) -> !llm.token
  %17 = llm.wait %16 : (!llm.token) -> !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?, [0, 256, 256]>
  %18 = llm.send_start %15 : (tensor<?x64xf32>) -> !llm.token
  llm.wait %18 : (!llm.token) -> ()
  return
}

// -----

func.func @f() {
  // expected-error @+1 {{stores keys as 'i8' and values as 'bf16': a plan has one type for both}}
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128, i8, bf16>
  return
}

// -----

func.func @f() {
  // expected-error @+1 {{stores keys and values as f16, which no kernel reads: expected f32, bf16, i8 or f8E4M3FN}}
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<f16, 2, 2, 16, 16, 128>
  return
}

// -----

func.func @append_and_attend(%qkv: tensor<?x128xf32>, %p: tensor<?xi32>, %s: tensor<?xi32>) -> tensor<?x64xf32> {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %a, %ac = llm.append_attention %qkv, %c, %p, %s : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>)
  return %a : tensor<?x64xf32>
}
