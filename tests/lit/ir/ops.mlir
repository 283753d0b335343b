// Every operation reads back as it was printed; none is changed by canonicalization or CSE that must stay.
// RUN: llmir-opt %s | llmir-opt | FileCheck %s

// CHECK-LABEL: func.func @weights
func.func @weights(%ids: tensor<?xi32>) -> tensor<?x64xf32> {
  // CHECK: llm.weight @embedding pieces [#llm.piece<"token_embd.weight" : tensor<256x64xf16>, vocabulary rows 64>] : tensor<256x64xbf16>
  %0 = llm.weight @embedding pieces [#llm.piece<"token_embd.weight" : tensor<256x64xf16>, vocabulary rows 64>] : tensor<256x64xbf16>
  // CHECK: llm.weight @layers.1.gate_up layer 1 pieces [{{.*}}, {{.*}}] interleaved : !llm.quantized_tensor<f16, [256, 64], false, false, 1, 32, 4>
  %1 = llm.weight @layers.1.gate_up layer 1 pieces [#llm.piece<"gate" : tensor<128x64xf16>, mlp_column rows 64>, #llm.piece<"up" : tensor<128x64xf16>, mlp_column rows 64>] interleaved : !llm.quantized_tensor<f16, [256, 64], false, false, 1, 32, 4>
  // CHECK: llm.weight @output_norm pieces [#llm.piece<"output_norm.weight" : tensor<64xf32>, whole none 0>] : tensor<64xf32>
  %2 = llm.weight @output_norm pieces [#llm.piece<"output_norm.weight" : tensor<64xf32>, whole none 0>] : tensor<64xf32>
  // CHECK: llm.embedding %{{.*}}, %{{.*}} : (tensor<?xi32>, tensor<256x64xbf16>) -> tensor<?x64xf32>
  %3 = llm.embedding %ids, %0 : (tensor<?xi32>, tensor<256x64xbf16>) -> tensor<?x64xf32>
  return %3 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @dense
func.func @dense(%x: tensor<?x64xf32>, %norm: tensor<64xf32>, %w: tensor<64x64xf32>, %gate_up: tensor<256x64xf32>,
                 %q: !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32> {
  // CHECK: llm.rms_norm %{{.*}}, %{{.*}} {epsilon = 9.99999974E-6 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %0 = llm.rms_norm %x, %norm {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.rms_norm {{.*}} -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %1 = llm.rms_norm %x, %norm {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  // CHECK: llm.quantize %{{.*}} : (tensor<?x64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %2 = llm.quantize %0 : (tensor<?x64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  // CHECK: llm.linear %{{.*}}, %{{.*}} : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  %3 = llm.linear %2, %q : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  // CHECK: llm.linear %{{.*}}, %{{.*}} residual %{{.*}} : (tensor<?x64xf32>, tensor<64x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %4 = llm.linear %3, %w residual %x : (tensor<?x64xf32>, tensor<64x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.linear %{{.*}}, %{{.*}} silu_mul : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x128xf32>
  %5 = llm.linear %4, %gate_up silu_mul : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x128xf32>
  // CHECK: llm.silu_mul %{{.*}}, %{{.*}} : (tensor<?x128xf32>, tensor<?x128xf32>) -> tensor<?x128xf32>
  %6 = llm.silu_mul %5, %5 : (tensor<?x128xf32>, tensor<?x128xf32>) -> tensor<?x128xf32>
  // CHECK: llm.add %{{.*}}, %{{.*}} : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %7 = llm.add %4, %x : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %7 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @other_layers
func.func @other_layers(%x: tensor<?x64xf32>, %norm: tensor<64xf32>, %q: !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>,
                        %w: !llm.quantized_tensor<f32, [64, 64], true, true, 0, 0, 8>) -> tensor<?x64xf32> {
  // CHECK: llm.layer_norm %{{.*}}, %{{.*}} {epsilon = 9.99999974E-6 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %0 = llm.layer_norm %x, %norm {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.activation gelu %{{.*}} : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.activation gelu %0 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.activation gelu_tanh %{{.*}} times %{{.*}} : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.activation gelu_tanh %1 times %x : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.activation relu %{{.*}} : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.activation relu %2 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.activation silu %{{.*}} : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %4 = llm.activation silu %3 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.softcap %{{.*}} {cap = 3.000000e+01 : f32} : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %5 = llm.softcap %4 {cap = 30.0 : f32} : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.dequantize %{{.*}} : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  %6 = llm.dequantize %q : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  // CHECK: llm.quantized_matmul %{{.*}}, %{{.*}} : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f32, [64, 64], true, true, 0, 0, 8>) -> tensor<?x64xf32>
  %7 = llm.quantized_matmul %q, %w : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f32, [64, 64], true, true, 0, 0, 8>) -> tensor<?x64xf32>
  %8 = llm.add %5, %6 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %9 = llm.add %7, %8 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %9 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @standard_attention
func.func @standard_attention(%q: tensor<?x64xf32>, %indices: tensor<?xi32>, %q4: tensor<1x1x4x16xf16>, %k4: tensor<1x1x2x16xf16>)
    -> (tensor<?x64xf32>, tensor<1x1x4x16xf16>) {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  // CHECK: %[[K:.*]], %[[V:.*]] = llm.lookup_kv %{{.*}}, %{{.*}} {layer = 1 : i64} : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> (tensor<?x32xf32>, tensor<?x32xf32>)
  %1, %2 = llm.lookup_kv %0, %indices {layer = 1 : i64} : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> (tensor<?x32xf32>, tensor<?x32xf32>)
  // CHECK: llm.attention %{{.*}}, %[[K]], %[[V]] {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?x32xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  %3 = llm.attention %q, %1, %2 {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?x32xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  // CHECK: llm.attention %{{.*}}, %{{.*}}, %{{.*}} : (tensor<1x1x4x16xf16>, tensor<1x1x2x16xf16>, tensor<1x1x2x16xf16>) -> tensor<1x1x4x16xf16>
  %4 = llm.attention %q4, %k4, %k4 : (tensor<1x1x4x16xf16>, tensor<1x1x2x16xf16>, tensor<1x1x2x16xf16>) -> tensor<1x1x4x16xf16>
  return %3, %4 : tensor<?x64xf32>, tensor<1x1x4x16xf16>
}

// CHECK-LABEL: func.func @attention
func.func @attention(%q: tensor<?x64xf32>, %k: tensor<?x32xf32>, %v: tensor<?x32xf32>, %qkv: tensor<?x128xf32>,
                     %positions: tensor<?xi32>, %sequences: tensor<?xi32>) -> tensor<?x64xf32> {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  // CHECK: llm.rope %{{.*}}, %{{.*}} {head_dim = 16 : i64} : (tensor<?x32xf32>, tensor<?xi32>) -> tensor<?x32xf32>
  %1 = llm.rope %k, %positions {head_dim = 16 : i64} : (tensor<?x32xf32>, tensor<?xi32>) -> tensor<?x32xf32>
  // CHECK: llm.append_kv %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} {layer = 1 : i64} :
  %2, %3 = llm.append_kv %0, %1, %v, %sequences {layer = 1 : i64} : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  // CHECK: llm.paged_attention %{{.*}}, %{{.*}}, %{{.*}} {layer = 1 : i64} : (tensor<?x64xf32>, {{.*}}) -> tensor<?x64xf32>
  %4 = llm.paged_attention %q, %2, %3 {layer = 1 : i64} : (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  // CHECK: llm.rope_append %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} : (tensor<?x128xf32>, {{.*}}) -> (tensor<?x128xf32>, {{.*}}, tensor<?xi32>)
  %5, %6, %7 = llm.rope_append %qkv, %2, %positions, %sequences : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  // CHECK: llm.paged_attention %{{.*}}, %{{.*}}, %{{.*}} : (tensor<?x128xf32>, {{.*}}) -> tensor<?x64xf32>
  %8 = llm.paged_attention %5, %6, %7 : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  %9 = llm.add %4, %8 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.append_attention %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} {attention = #llm.attention<form = flash, window = 24, share_kv = false, softcap = 5.000000e+01 : f32>, layer = 1 : i64} : (tensor<?x128xf32>, {{.*}}) -> (tensor<?x64xf32>, {{.*}})
  %10, %11 = llm.append_attention %qkv, %6, %positions, %sequences {attention = #llm.attention<form = flash, window = 24, share_kv = false, softcap = 5.0e+01 : f32>, layer = 1 : i64} : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>)
  %12 = llm.add %9, %10 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %12 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @ends
func.func @ends(%x: tensor<?x64xf32>, %head: tensor<256x64xf32>, %rows: tensor<?xi32>, %targets: tensor<?xi32>)
    -> (tensor<?x1xi32>, tensor<?x1xf32>) {
  // CHECK: llm.gather_rows %{{.*}}, %{{.*}} : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %0 = llm.gather_rows %x, %rows : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  // CHECK: llm.logits %{{.*}}, %{{.*}} : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x256xf32>
  %1 = llm.logits %0, %head : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x256xf32>
  // CHECK: llm.logits %{{.*}}, %{{.*}} softcap 3.000000e+01 : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x256xf32>
  %capped = llm.logits %0, %head softcap 30.0 : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x256xf32>
  // CHECK: llm.sample %{{.*}} : (tensor<?x256xf32>) -> tensor<?x1xi32>
  %2 = llm.sample %1 : (tensor<?x256xf32>) -> tensor<?x1xi32>
  // CHECK: llm.score %{{.*}}, %{{.*}}, %{{.*}} : (tensor<?x64xf32>, tensor<256x64xf32>, tensor<?xi32>) -> (tensor<?x3xf32>, tensor<?x256xf32>)
  %3, %4 = llm.score %x, %head, %targets : (tensor<?x64xf32>, tensor<256x64xf32>, tensor<?xi32>) -> (tensor<?x3xf32>, tensor<?x256xf32>)
  // CHECK: llm.score_merge %{{.*}} : (tensor<?x3xf32>) -> tensor<?x1xf32>
  %5 = llm.score_merge %3 : (tensor<?x3xf32>) -> tensor<?x1xf32>
  // CHECK: llm.score %{{.*}}, %{{.*}}, %{{.*}} by_leaf : {{.*}} -> (tensor<?x12xf32>, tensor<?x256xf32>)
  %6, %7 = llm.score %x, %head, %targets by_leaf : (tensor<?x64xf32>, tensor<256x64xf32>, tensor<?xi32>) -> (tensor<?x12xf32>, tensor<?x256xf32>)
  return %2, %5 : tensor<?x1xi32>, tensor<?x1xf32>
}

// CHECK-LABEL: func.func @messages
func.func @messages(%logits: !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) {
  // CHECK: %[[X:.*]] = llm.recv : tensor<?x64xf32>
  %0 = llm.recv : tensor<?x64xf32>
  // CHECK: llm.all_reduce %[[X]] : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.all_reduce %0 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.all_reduce %{{.*}} tree mlp_column : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %tree = llm.all_reduce %0 tree mlp_column : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: %[[TOKEN:.*]] = llm.all_reduce_start %{{.*}} : (tensor<?x64xf32>) -> !llm.token
  %2 = llm.all_reduce_start %1 : (tensor<?x64xf32>) -> !llm.token
  // CHECK: llm.wait %[[TOKEN]] : (!llm.token) -> tensor<?x64xf32>
  %3 = llm.wait %2 : (!llm.token) -> tensor<?x64xf32>
  // CHECK: llm.gather %{{.*}} : (!llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) -> !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?, [0, 256, 256]>
  %4 = llm.gather %logits : (!llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) -> !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?, [0, 256, 256]>
  // CHECK: llm.send %{{.*}} : tensor<?x64xf32>
  llm.send %3 : tensor<?x64xf32>
  return
}

// CHECK-LABEL: func.func @collectives
func.func @collectives(%x: tensor<?x64xf32>, %q: !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32> {
  // CHECK: %[[SHARE:.*]] = llm.reduce_scatter %{{.*}} : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %0 = llm.reduce_scatter %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.all_gather %[[SHARE]] : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.all_gather %0 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.all_gather %{{.*}} : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %2 = llm.all_gather %q : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  // CHECK: llm.broadcast %{{.*}} : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.broadcast %1 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return %3 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @starts
func.func @starts(%x: tensor<?x64xf32>, %logits: !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) -> tensor<?x64xf32> {
  // CHECK: %[[RECV:.*]] = llm.recv_start : !llm.token
  %0 = llm.recv_start : !llm.token
  // CHECK: %[[X:.*]] = llm.wait %[[RECV]] : (!llm.token) -> tensor<?x64xf32>
  %1 = llm.wait %0 : (!llm.token) -> tensor<?x64xf32>
  // CHECK: %[[REDUCE:.*]] = llm.reduce_scatter_start %[[X]] : (tensor<?x64xf32>) -> !llm.token
  %2 = llm.reduce_scatter_start %1 : (tensor<?x64xf32>) -> !llm.token
  // CHECK: %[[SHARE:.*]] = llm.wait %[[REDUCE]] : (!llm.token) -> tensor<?x64xf32>
  %3 = llm.wait %2 : (!llm.token) -> tensor<?x64xf32>
  // CHECK: %[[ALL:.*]] = llm.all_gather_start %[[SHARE]] : (tensor<?x64xf32>) -> !llm.token
  %4 = llm.all_gather_start %3 : (tensor<?x64xf32>) -> !llm.token
  // CHECK: %[[WHOLE:.*]] = llm.wait %[[ALL]] : (!llm.token) -> tensor<?x64xf32>
  %5 = llm.wait %4 : (!llm.token) -> tensor<?x64xf32>
  // CHECK: %[[BROADCAST:.*]] = llm.broadcast_start %[[WHOLE]] : (tensor<?x64xf32>) -> !llm.token
  %6 = llm.broadcast_start %5 : (tensor<?x64xf32>) -> !llm.token
  // CHECK: %[[SAME:.*]] = llm.wait %[[BROADCAST]] : (!llm.token) -> tensor<?x64xf32>
  %7 = llm.wait %6 : (!llm.token) -> tensor<?x64xf32>
  // CHECK: %[[GATHER:.*]] = llm.gather_start %{{.*}} : (!llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) -> !llm.token
  %8 = llm.gather_start %logits : (!llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?>) -> !llm.token
  // CHECK: llm.wait %[[GATHER]] : (!llm.token) -> !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?, [0, 256, 256]>
  %9 = llm.wait %8 : (!llm.token) -> !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?, [0, 256, 256]>
  // CHECK: %[[SEND:.*]] = llm.send_start %[[SAME]] : (tensor<?x64xf32>) -> !llm.token
  %10 = llm.send_start %7 : (tensor<?x64xf32>) -> !llm.token
  // CHECK: llm.wait %[[SEND]] : (!llm.token) -> ()
  llm.wait %10 : (!llm.token) -> ()
  return %7 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @row_views
func.func @row_views(%x: tensor<?x64xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  // CHECK: %[[FIRST:.*]] = llm.rows %{{.*}} first_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %0 = llm.rows %x first_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: %[[SECOND:.*]] = llm.rows %{{.*}} second_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.rows %x second_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.rows %{{.*}} share : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.rows %x share : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: llm.join_rows %[[FIRST]], %[[SECOND]] : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.join_rows %0, %1 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %2, %3 : tensor<?x64xf32>, tensor<?x64xf32>
}

// CHECK-LABEL: func.func @hints
func.func @hints() {
  %w = llm.weight @w pieces [#llm.piece<"w" : tensor<64x64xf16>, whole none 0>] : tensor<64x64xf16>
  // CHECK: llm.prefetch %{{.*}} : tensor<64x64xf16>
  llm.prefetch %w : tensor<64x64xf16>
  return
}
