// RUN: llmir-opt %s --llm-share-prefixes | FileCheck %s
// RUN: llmir-opt %s --llm-share-prefixes=min-share=0.6 | FileCheck %s --check-prefix=FEW

// Declared: 20 ids, of which one block is whole, and 3 ids, which are too short. In the 4 prompts: all start with 16 ones (the
// second block differs), 2 of them with 16 ones and 16 twos; that these two go on alike isn't shared, since their third block
// would hold the last token, which every request computes.
// CHECK: "3 prefixes are computed once and shared, 3 blocks; shorter than a block of 16: short", "28 prompt tokens fewer to compute per request"
// CHECK-SAME: llm.prefixes = [
// CHECK-SAME: {ids = array<i32: 1, {{(1, )+}}1>, name = "found in 4 of 4 prompts", share = 1.000000e+00 : f64}
// CHECK-SAME: {ids = array<i32: 1, {{(1, )+(2, )+}}2>, name = "found in 2 of 4 prompts", share = 5.000000e-01 : f64}
// CHECK-SAME: {ids = array<i32: 9, {{(9, )+}}9>, name = "system", share = 2.500000e-01 : f64}]


// FEW: found in 4
// FEW-NOT: found in 2

module attributes {llm.model = #llm.model<layers = 2, hidden = 96, query_heads = 3, kv_heads = 1, head_dim = 32, mlp_columns = 160, vocabulary = 200, mlp_leaf = 64, vocabulary_leaf = 64>, llm.workload = {batch = 4 : i64, prompt = array<i64: 48>, answer = array<i64: 10>,
  prefixes = [{name = "system", ids = array<i32: 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9>, share = 0.25 : f64}, {name = "short", ids = array<i32: 5, 6, 7>, share = 1.0 : f64}],
  prompts = [array<i32: 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3>,
             array<i32: 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3>,
             array<i32: 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4>,
             array<i32: 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5>]}} {
func.func @model(%keys: tensor<?x32xf32>, %values: tensor<?x32xf32>, %sequences: tensor<?xi32>) {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>
  %1, %2 = llm.append_kv %0, %keys, %values, %sequences : (!llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 1, 32, 16, 128>, tensor<?xi32>)
  return
}
}
