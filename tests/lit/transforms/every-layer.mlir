// A model of the operations that the Llama family doesn't have, in the forms that a frontend gives, through every phase:
// each becomes a step with a place.
// RUN: llmir-opt %s --llm-lower-operations --canonicalize --llm-verify-phase=phase=operations \
// RUN:   --llm-insert-quantize --llm-verify-phase=phase=precision --llm-fuse-qkv --llm-fuse-gate-up --llm-verify-phase=phase=fusion \
// RUN:   --llm-split-stages --llm-shard-stages=ranks=2 --llm-verify-phase=phase=parallel --llm-split-collectives \
// RUN:   --llm-make-programs --llm-verify-phase=phase=programs --llm-schedule-steps --llm-verify-phase=phase=schedule \
// RUN:   --llm-plan-memory --llm-verify-phase=phase=memory | FileCheck %s

// CHECK: func.func @stage0_mixed
// CHECK: llm.embedding {{.*}}llm.step = 0
// CHECK: llm.layer_norm {{.*}}llm.buffers
// CHECK: llm.linear
// CHECK: llm.rope_append
// CHECK: llm.paged_attention
// CHECK: llm.quantize {{.*}}llm.step
// CHECK: llm.linear
// CHECK: llm.all_reduce_start
// CHECK: llm.wait
// CHECK: llm.add
// CHECK: llm.layer_norm
// CHECK: llm.activation gelu %{{.*}} times {{.*}} : (!llm.sharded_tensor<tensor<?x160xf32>, 1, 2, ?, [0, 128, 160]>
// CHECK: llm.quantize
// CHECK: llm.dequantize {{.*}}llm.step {{.*}} -> !llm.sharded_tensor<tensor<?x160xf32>, 1, 2, ?, [0, 128, 160]>
// CHECK: llm.linear
// CHECK: llm.gather_rows
// CHECK: llm.layer_norm
// CHECK: %[[LOGITS:.*]] = llm.linear
// CHECK: %[[CAPPED:.*]] = llm.softcap %[[LOGITS]] {{.*}}llm.step {{.*}} -> !llm.sharded_tensor<tensor<?x256xf32>, 1, 2, ?, [0, 128, 256]>
// CHECK: %[[ALL:.*]] = llm.gather %[[CAPPED]]
// CHECK: llm.sample %[[ALL]]
module attributes {llm.model = #llm.model<layers = 1, hidden = 64, query_heads = 4, kv_heads = 2, head_dim = 16, mlp_columns = 160, vocabulary = 256, mlp_leaf = 64, vocabulary_leaf = 64>} {
func.func @model(%ids: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %rows: tensor<?xi32>, %targets: tensor<?xi32>) -> (tensor<?x1xi32>, tensor<?x1xf32>) {
  %cache = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>
  %embedding = llm.weight @embedding pieces [#llm.piece<"embedding" : tensor<256x64xf32>, vocabulary rows 64>] : tensor<256x64xf32>
  %x = llm.embedding %ids, %embedding : (tensor<?xi32>, tensor<256x64xf32>) -> tensor<?x64xf32>
  %gain = llm.weight @layers.0.attention_norm layer 0 pieces [#llm.piece<"attention_norm" : tensor<64xf32>, whole none 0>] : tensor<64xf32>
  %n = llm.layer_norm %x, %gain {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %wq = llm.weight @layers.0.q layer 0 pieces [#llm.piece<"q" : tensor<64x64xf32>, query_head rows 16>] : tensor<64x64xf32>
  %wk = llm.weight @layers.0.k layer 0 pieces [#llm.piece<"k" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xf32>
  %wv = llm.weight @layers.0.v layer 0 pieces [#llm.piece<"v" : tensor<32x64xf32>, kv_head rows 16>] : tensor<32x64xf32>
  %q0 = llm.linear %n, %wq : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %k0 = llm.linear %n, %wk : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  %v = llm.linear %n, %wv : (tensor<?x64xf32>, tensor<32x64xf32>) -> tensor<?x32xf32>
  %q = llm.rope %q0, %positions {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %k = llm.rope %k0, %positions {head_dim = 16 : i64} : (tensor<?x32xf32>, tensor<?xi32>) -> tensor<?x32xf32>
  %new, %indices = llm.append_kv %cache, %k, %v, %sequences : (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>)
  %all_k, %all_v = llm.lookup_kv %new, %indices : (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>) -> (tensor<?x32xf32>, tensor<?x32xf32>)
  %heads = llm.attention %q, %all_k, %all_v {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?x32xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  %wo = llm.weight @layers.0.o layer 0 pieces [#llm.piece<"o" : !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>, query_head columns 16>] : !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>
  %o = llm.quantized_matmul %heads, %wo : (tensor<?x64xf32>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  %a = llm.add %x, %o : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %gain1 = llm.weight @layers.0.mlp_norm layer 0 pieces [#llm.piece<"mlp_norm" : tensor<64xf32>, whole none 0>] : tensor<64xf32>
  %m = llm.layer_norm %a, %gain1 {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %wg = llm.weight @layers.0.gate layer 0 pieces [#llm.piece<"gate" : tensor<160x64xf32>, mlp_column rows 64>] : tensor<160x64xf32>
  %wu = llm.weight @layers.0.up layer 0 pieces [#llm.piece<"up" : tensor<160x64xf32>, mlp_column rows 64>] : tensor<160x64xf32>
  %g = llm.linear %m, %wg : (tensor<?x64xf32>, tensor<160x64xf32>) -> tensor<?x160xf32>
  %u = llm.linear %m, %wu : (tensor<?x64xf32>, tensor<160x64xf32>) -> tensor<?x160xf32>
  %h = llm.activation gelu %g times %u : (tensor<?x160xf32>, tensor<?x160xf32>) -> tensor<?x160xf32>
  %few = llm.quantize %h : (tensor<?x160xf32>) -> !llm.quantized_tensor<f32, [?, 160], true, false, 1, 32, 8>
  %again = llm.dequantize %few : (!llm.quantized_tensor<f32, [?, 160], true, false, 1, 32, 8>) -> tensor<?x160xf32>
  %wd = llm.weight @layers.0.down layer 0 pieces [#llm.piece<"down" : tensor<64x160xf32>, mlp_column columns 64>] : tensor<64x160xf32>
  %d = llm.linear %again, %wd : (tensor<?x160xf32>, tensor<64x160xf32>) -> tensor<?x64xf32>
  %y = llm.add %a, %d : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %on = llm.weight @output_norm pieces [#llm.piece<"output_norm" : tensor<64xf32>, whole none 0>] : tensor<64xf32>
  %last = llm.gather_rows %y, %rows : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %ln = llm.layer_norm %last, %on {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %logits = llm.logits %ln, %embedding softcap 30.0 : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x256xf32>
  %sampled = llm.sample %logits : (tensor<?x256xf32>) -> tensor<?x1xi32>
  %sn = llm.layer_norm %y, %on {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %parts, %chunk = llm.score %sn, %embedding, %targets : (tensor<?x64xf32>, tensor<256x64xf32>, tensor<?xi32>) -> (tensor<?x3xf32>, tensor<?x256xf32>)
  %scores = llm.score_merge %parts : (tensor<?x3xf32>) -> tensor<?x1xf32>
  return %sampled, %scores : tensor<?x1xi32>, tensor<?x1xf32>
}
}
