// Every type, and every attribute, reads back as it was printed.
// RUN: llmir-opt %s | llmir-opt | FileCheck %s

// CHECK: module attributes {llm.model = #llm.model<layers = 2, hidden = 64, query_heads = 4, kv_heads = 2, head_dim = 16, mlp_columns = 128, vocabulary = 256, mlp_leaf = 64, vocabulary_leaf = 64>}
module attributes {llm.model = #llm.model<layers = 2, hidden = 64, query_heads = 4, kv_heads = 2, head_dim = 16,
                                          mlp_columns = 128, vocabulary = 256, mlp_leaf = 64, vocabulary_leaf = 64>} {
  // CHECK: func.func private @caches(!llm.paged_kv_cache<bf16, 30, 3, 64, 16, 4096>)
  func.func private @caches(!llm.paged_kv_cache<bf16, 30, 3, 64, 16, 4096>)
  // Keys and values of types of their own.
  // CHECK: func.func private @cache_types(!llm.paged_kv_cache<bf16, 30, 3, 64, 16, 4096, i8, f8E4M3FN>, !llm.paged_kv_cache<i8, 30, 3, 64, 16, 4096>)
  func.func private @cache_types(!llm.paged_kv_cache<bf16, 30, 3, 64, 16, 4096, i8, f8E4M3FN>,
                                 !llm.paged_kv_cache<i8, 30, 3, 64, 16, 4096>)

  // CHECK: func.func private @short_caches(!llm.paged_kv_cache<i8, 1, 3, 64, 16, 4096>, !llm.paged_kv_cache<f8E4M3FN, 1, 3, 64, 16, 4096>)
  func.func private @short_caches(!llm.paged_kv_cache<i8, 1, 3, 64, 16, 4096>, !llm.paged_kv_cache<f8E4M3FN, 1, 3, 64, 16, 4096>)

  // Evenly divided; one shard of a known index; uneven; more than the dimension where parts are replicated.
  // CHECK: func.func private @shards(!llm.sharded_tensor<tensor<8x8xf32>, 0, 4, ?>, !llm.sharded_tensor<tensor<8x8xf32>, 1, 2, 1>,
  // CHECK-SAME: !llm.sharded_tensor<tensor<?x576xf32>, 1, 2, ?, [0, 320, 576]>, !llm.sharded_tensor<tensor<?x192xf32>, 1, 2, ?, [0, 128, 256]>)
  func.func private @shards(!llm.sharded_tensor<tensor<8x8xf32>, 0, 4, ?>,
                            !llm.sharded_tensor<tensor<8x8xf32>, 1, 2, 1>,
                            !llm.sharded_tensor<tensor<?x576xf32>, 1, 2, ?, [0, 320, 576]>,
                            !llm.sharded_tensor<tensor<?x192xf32>, 1, 2, ?, [0, 128, 256]>)

  // A q4_1 weight, int8 activations, scales per channel, a shard of a quantized tensor.
  // CHECK: func.func private @quantized(!llm.quantized_tensor<f16, [64, 128], false, false, 1, 32, 4>, !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>,
  // CHECK-SAME: !llm.quantized_tensor<f32, [64, 128], true, true, 0, 0, 8>, !llm.sharded_tensor<!llm.quantized_tensor<f16, [64, 128], true, false, 1, 32, 8>, 1, 2, ?>)
  func.func private @quantized(!llm.quantized_tensor<f16, [64, 128], false, false, 1, 32, 4>,
                               !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>,
                               !llm.quantized_tensor<f32, [64, 128], true, true, 0, 0, 8>,
                               !llm.sharded_tensor<!llm.quantized_tensor<f16, [64, 128], true, false, 1, 32, 8>, 1, 2, ?>)
  // Fewest and most bits.
  // CHECK: func.func private @bits(!llm.quantized_tensor<f16, [64, 128], true, false, 1, 64, 2>, !llm.quantized_tensor<f16, [64, 128], false, false, 1, 32, 8>)
  func.func private @bits(!llm.quantized_tensor<f16, [64, 128], true, false, 1, 64, 2>,
                          !llm.quantized_tensor<f16, [64, 128], false, false, 1, 32, 8>)

  // CHECK: func.func private @tokens(!llm.token)
  func.func private @tokens(!llm.token)

  // CHECK: func.func private @stage0_mixed() attributes {
  // CHECK-SAME: llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 520, max_sampled = 8>
  // CHECK-SAME: llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 2], query_head = [0, 3, 4], kv_head = [0, 2, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 2, 4]>
  func.func private @stage0_mixed() attributes {
    llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 520, max_sampled = 8>,
    llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 2], query_head = [0, 3, 4], kv_head = [0, 2, 1, 2],
                           mlp_column = [0, 1, 2], vocabulary = [0, 2, 4]>}
}
