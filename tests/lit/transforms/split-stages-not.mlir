// A model can only be cut where one value crosses.
// RUN: not llmir-opt %s --llm-split-stages=stages=2 2>&1 | FileCheck %s

// CHECK: reads a second value from an earlier stage: stages can only be cut where one value crosses
module attributes {llm.model = #llm.model<layers = 2, hidden = 96, query_heads = 3, kv_heads = 1, head_dim = 32, mlp_columns = 160, vocabulary = 200, mlp_leaf = 64, vocabulary_leaf = 64>} {
  func.func @model(%ids: tensor<?xi32>) -> tensor<?x96xf32> {
    %0 = llm.weight @embedding pieces [#llm.piece<"embedding" : tensor<200x96xf32>, vocabulary rows 64>] : tensor<200x96xf32>
    %1 = llm.embedding %ids, %0 : (tensor<?xi32>, tensor<200x96xf32>) -> tensor<?x96xf32>
    %2 = llm.weight @layers.0.o layer 0 pieces [#llm.piece<"layers.0.o" : tensor<96x96xf32>, query_head columns 32>] : tensor<96x96xf32>
    %3 = llm.linear %1, %2 : (tensor<?x96xf32>, tensor<96x96xf32>) -> tensor<?x96xf32>
    %4 = llm.weight @layers.1.o layer 1 pieces [#llm.piece<"layers.1.o" : tensor<96x96xf32>, query_head columns 32>] : tensor<96x96xf32>
    %5 = llm.linear %3, %4 residual %1 : (tensor<?x96xf32>, tensor<96x96xf32>, tensor<?x96xf32>) -> tensor<?x96xf32>
    return %5 : tensor<?x96xf32>
  }
}
