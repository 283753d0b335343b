// Without a workload there is nothing to choose by: the size stays.
// RUN: llmir-opt %s --llm-choose-block-size | FileCheck %s

// CHECK-NOT: llm.block_sizes
// CHECK: "blocks of 16 tokens, the smallest: there is no workload to choose by"
// CHECK: llm.create_paged_cache : <bf16, 2, 1, 32, 16, 128>

module attributes {llm.model = #llm.model<layers = 2, hidden = 96, query_heads = 3, kv_heads = 1, head_dim = 32, mlp_columns = 160, vocabulary = 200, mlp_leaf = 64, vocabulary_leaf = 64>} {
func.func @model(%keys: tensor<?x32xf32>, %values: tensor<?x32xf32>, %sequences: tensor<?xi32>) {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>
  %1, %2 = llm.append_kv %0, %keys, %values, %sequences : (!llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?xi32>)
  return
}
}
