// Nothing is shared where no workload says what requests have in common, or its prompts differ in their first block.
// RUN: llmir-opt %s --split-input-file --llm-share-prefixes | FileCheck %s

// CHECK-NOT: llm.prefixes =
// CHECK: "0 prefixes are computed once and shared, 0 blocks", ""
// CHECK-NOT: llm.prefixes =

module attributes {llm.model = #llm.model<layers = 2, hidden = 96, query_heads = 3, kv_heads = 1, head_dim = 32, mlp_columns = 160, vocabulary = 200, mlp_leaf = 64, vocabulary_leaf = 64>} {
func.func @model(%keys: tensor<?x32xf32>, %values: tensor<?x32xf32>, %sequences: tensor<?xi32>) {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>
  %1, %2 = llm.append_kv %0, %keys, %values, %sequences : (!llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?xi32>)
  return
}
}

// -----

module attributes {llm.model = #llm.model<layers = 2, hidden = 96, query_heads = 3, kv_heads = 1, head_dim = 32, mlp_columns = 160, vocabulary = 200, mlp_leaf = 64, vocabulary_leaf = 64>, llm.workload = {batch = 4 : i64, prompt = array<i64: 48>, answer = array<i64: 10>, prefixes = [],
  prompts = [array<i32: 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1>, array<i32: 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2>]}} {
func.func @model(%keys: tensor<?x32xf32>, %values: tensor<?x32xf32>, %sequences: tensor<?xi32>) {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>
  %1, %2 = llm.append_kv %0, %keys, %values, %sequences : (!llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?xi32>)
  return
}
}
