// A model of two layers after the fusion phase, for tests of the phases behind it: 3 query heads on 1 KV head, 3 MLP leaves
// (the last of 32 columns), 4 vocabulary leaves (the last of 8 rows), a tied head.
module attributes {llm.model = #llm.model<layers = 2, hidden = 96, query_heads = 3, kv_heads = 1, head_dim = 32, mlp_columns = 160, vocabulary = 200, mlp_leaf = 64, vocabulary_leaf = 64>} {
func.func @model(%ids: tensor<?xi32>, %positions: tensor<?xi32>, %sequences: tensor<?xi32>, %rows: tensor<?xi32>, %targets: tensor<?xi32>) -> (tensor<?x1xi32>, tensor<?x1xf32>) {
  %cache0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>
  %embedding = llm.weight @embedding pieces [#llm.piece<"embedding" : tensor<200x96xf32>, vocabulary rows 64>] : tensor<200x96xf32>
  %x0 = llm.embedding %ids, %embedding : (tensor<?xi32>, tensor<200x96xf32>) -> tensor<?x96xf32>
  %g0 = llm.weight @layers.0.attention_norm layer 0 pieces [#llm.piece<"layers.0.attention_norm" : tensor<96xf32>, whole none 0>] : tensor<96xf32>
  %n0 = llm.rms_norm %x0, %g0 {epsilon = 1.0e-5 : f32} : (tensor<?x96xf32>, tensor<96xf32>) -> tensor<?x96xf32>
  %wqkv0 = llm.weight @layers.0.qkv layer 0 pieces [#llm.piece<"q0" : tensor<96x96xf32>, query_head rows 32>, #llm.piece<"k0" : tensor<32x96xf32>, kv_head rows 32>, #llm.piece<"v0" : tensor<32x96xf32>, kv_head rows 32>] : tensor<160x96xf32>
  %qkv0 = llm.linear %n0, %wqkv0 : (tensor<?x96xf32>, tensor<160x96xf32>) -> tensor<?x160xf32>
  %r0, %cache1, %i0 = llm.rope_append %qkv0, %cache0, %positions, %sequences {layer = 0 : i64} : (tensor<?x160xf32>, !llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x160xf32>, !llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?xi32>)
  %h0 = llm.paged_attention %r0, %cache1, %i0 {layer = 0 : i64} : (tensor<?x160xf32>, !llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?xi32>) -> tensor<?x96xf32>
  %wo0 = llm.weight @layers.0.o layer 0 pieces [#llm.piece<"layers.0.o" : tensor<96x96xf32>, query_head columns 32>] : tensor<96x96xf32>
  %o0 = llm.linear %h0, %wo0 : (tensor<?x96xf32>, tensor<96x96xf32>) -> tensor<?x96xf32>
  %a0 = llm.add %x0, %o0 : (tensor<?x96xf32>, tensor<?x96xf32>) -> tensor<?x96xf32>
  %mg0 = llm.weight @layers.0.mlp_norm layer 0 pieces [#llm.piece<"layers.0.mlp_norm" : tensor<96xf32>, whole none 0>] : tensor<96xf32>
  %m0 = llm.rms_norm %a0, %mg0 {epsilon = 1.0e-5 : f32} : (tensor<?x96xf32>, tensor<96xf32>) -> tensor<?x96xf32>
  %wgu0 = llm.weight @layers.0.gate_up layer 0 pieces [#llm.piece<"gate0" : tensor<160x96xf32>, mlp_column rows 64>, #llm.piece<"up0" : tensor<160x96xf32>, mlp_column rows 64>] interleaved : tensor<320x96xf32>
  %u0 = llm.linear %m0, %wgu0 silu_mul : (tensor<?x96xf32>, tensor<320x96xf32>) -> tensor<?x160xf32>
  %wd0 = llm.weight @layers.0.down layer 0 pieces [#llm.piece<"layers.0.down" : tensor<96x160xf32>, mlp_column columns 64>] : tensor<96x160xf32>
  %d0 = llm.linear %u0, %wd0 : (tensor<?x160xf32>, tensor<96x160xf32>) -> tensor<?x96xf32>
  %x1 = llm.add %a0, %d0 : (tensor<?x96xf32>, tensor<?x96xf32>) -> tensor<?x96xf32>
  %g1 = llm.weight @layers.1.attention_norm layer 1 pieces [#llm.piece<"layers.1.attention_norm" : tensor<96xf32>, whole none 0>] : tensor<96xf32>
  %n1 = llm.rms_norm %x1, %g1 {epsilon = 1.0e-5 : f32} : (tensor<?x96xf32>, tensor<96xf32>) -> tensor<?x96xf32>
  %wqkv1 = llm.weight @layers.1.qkv layer 1 pieces [#llm.piece<"q1" : tensor<96x96xf32>, query_head rows 32>, #llm.piece<"k1" : tensor<32x96xf32>, kv_head rows 32>, #llm.piece<"v1" : tensor<32x96xf32>, kv_head rows 32>] : tensor<160x96xf32>
  %qkv1 = llm.linear %n1, %wqkv1 : (tensor<?x96xf32>, tensor<160x96xf32>) -> tensor<?x160xf32>
  %r1, %cache2, %i1 = llm.rope_append %qkv1, %cache1, %positions, %sequences {layer = 1 : i64} : (tensor<?x160xf32>, !llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x160xf32>, !llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?xi32>)
  %h1 = llm.paged_attention %r1, %cache2, %i1 {layer = 1 : i64} : (tensor<?x160xf32>, !llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?xi32>) -> tensor<?x96xf32>
  %wo1 = llm.weight @layers.1.o layer 1 pieces [#llm.piece<"layers.1.o" : tensor<96x96xf32>, query_head columns 32>] : tensor<96x96xf32>
  %o1 = llm.linear %h1, %wo1 : (tensor<?x96xf32>, tensor<96x96xf32>) -> tensor<?x96xf32>
  %a1 = llm.add %x1, %o1 : (tensor<?x96xf32>, tensor<?x96xf32>) -> tensor<?x96xf32>
  %mg1 = llm.weight @layers.1.mlp_norm layer 1 pieces [#llm.piece<"layers.1.mlp_norm" : tensor<96xf32>, whole none 0>] : tensor<96xf32>
  %m1 = llm.rms_norm %a1, %mg1 {epsilon = 1.0e-5 : f32} : (tensor<?x96xf32>, tensor<96xf32>) -> tensor<?x96xf32>
  %wgu1 = llm.weight @layers.1.gate_up layer 1 pieces [#llm.piece<"gate1" : tensor<160x96xf32>, mlp_column rows 64>, #llm.piece<"up1" : tensor<160x96xf32>, mlp_column rows 64>] interleaved : tensor<320x96xf32>
  %u1 = llm.linear %m1, %wgu1 silu_mul : (tensor<?x96xf32>, tensor<320x96xf32>) -> tensor<?x160xf32>
  %wd1 = llm.weight @layers.1.down layer 1 pieces [#llm.piece<"layers.1.down" : tensor<96x160xf32>, mlp_column columns 64>] : tensor<96x160xf32>
  %d1 = llm.linear %u1, %wd1 : (tensor<?x160xf32>, tensor<96x160xf32>) -> tensor<?x96xf32>
  %x2 = llm.add %a1, %d1 : (tensor<?x96xf32>, tensor<?x96xf32>) -> tensor<?x96xf32>
  %on = llm.weight @output_norm pieces [#llm.piece<"output_norm" : tensor<96xf32>, whole none 0>] : tensor<96xf32>
  %last = llm.gather_rows %x2, %rows : (tensor<?x96xf32>, tensor<?xi32>) -> tensor<?x96xf32>
  %ln = llm.rms_norm %last, %on {epsilon = 1.0e-5 : f32} : (tensor<?x96xf32>, tensor<96xf32>) -> tensor<?x96xf32>
  %logits = llm.linear %ln, %embedding : (tensor<?x96xf32>, tensor<200x96xf32>) -> tensor<?x200xf32>
  %sampled = llm.sample %logits : (tensor<?x200xf32>) -> tensor<?x1xi32>
  %sn = llm.rms_norm %x2, %on {epsilon = 1.0e-5 : f32} : (tensor<?x96xf32>, tensor<96xf32>) -> tensor<?x96xf32>
  %parts, %chunk = llm.score %sn, %embedding, %targets : (tensor<?x96xf32>, tensor<200x96xf32>, tensor<?xi32>) -> (tensor<?x3xf32>, tensor<?x200xf32>)
  %scores = llm.score_merge %parts : (tensor<?x3xf32>) -> tensor<?x1xf32>
  return %sampled, %scores : tensor<?x1xi32>, tensor<?x1xf32>
}
}
