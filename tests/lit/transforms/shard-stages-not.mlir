// A norm is over whole rows, and takes none of which each rank has some columns.
// RUN: llmir-opt %s --llm-shard-stages=ranks=2 -split-input-file -verify-diagnostics

module attributes {llm.model = #llm.model<layers = 1, hidden = 64, query_heads = 4, kv_heads = 2, head_dim = 16, mlp_columns = 128, vocabulary = 256, mlp_leaf = 64, vocabulary_leaf = 64>} {
func.func @stage0(%x: tensor<?x64xf32>, %norm: tensor<128xf32>) -> tensor<?x128xf32> attributes {llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 4], kv_head = [0, 2], mlp_column = [0, 2], vocabulary = [0, 4]>} {
  %w = llm.weight @layers.0.up layer 0 pieces [#llm.piece<"up" : tensor<128x64xf32>, mlp_column rows 64>] : tensor<128x64xf32>
  %0 = llm.linear %x, %w : (tensor<?x64xf32>, tensor<128x64xf32>) -> tensor<?x128xf32>
  // expected-error @+1 {{can't be divided among ranks}}
  %1 = llm.rms_norm %0, %norm {epsilon = 1.0e-5 : f32} : (tensor<?x128xf32>, tensor<128xf32>) -> tensor<?x128xf32>
  return %1 : tensor<?x128xf32>
}
}

// -----

// Nor does what isn't an operation of this dialect.
module attributes {llm.model = #llm.model<layers = 1, hidden = 64, query_heads = 4, kv_heads = 2, head_dim = 16, mlp_columns = 128, vocabulary = 256, mlp_leaf = 64, vocabulary_leaf = 64>} {
func.func private @elsewhere(%x: tensor<?x128xf32>) -> tensor<?x128xf32>
func.func @stage0(%x: tensor<?x64xf32>) -> tensor<?x128xf32> attributes {llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 4], kv_head = [0, 2], mlp_column = [0, 2], vocabulary = [0, 4]>} {
  %w = llm.weight @layers.0.up layer 0 pieces [#llm.piece<"up" : tensor<128x64xf32>, mlp_column rows 64>] : tensor<128x64xf32>
  %0 = llm.linear %x, %w : (tensor<?x64xf32>, tensor<128x64xf32>) -> tensor<?x128xf32>
  // expected-error @+1 {{can't be divided among ranks}}
  %1 = func.call @elsewhere(%0) : (tensor<?x128xf32>) -> tensor<?x128xf32>
  return %1 : tensor<?x128xf32>
}
}
