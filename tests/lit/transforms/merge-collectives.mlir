// RUN: llmir-opt %s --llm-merge-collectives | FileCheck %s

// CHECK-LABEL: func.func @merges_two_sums
// CHECK-NEXT: %[[A:.*]] = llm.add %arg0, %arg1
// CHECK-NEXT: %[[SUM:.*]] = llm.all_reduce %[[A]]
// CHECK-NEXT: return %[[SUM]]
func.func @merges_two_sums(%a: tensor<?x64xf32>, %b: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.all_reduce %a : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.all_reduce %b : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.add %0, %1 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %2 : tensor<?x64xf32>
}

// The residual of a block whose attention and MLP read the same norm.
// CHECK-LABEL: func.func @merges_along_a_residual
// CHECK-NEXT: %[[A:.*]] = llm.add %arg1, %arg2
// CHECK-NEXT: %[[SUM:.*]] = llm.all_reduce %[[A]]
// CHECK-NEXT: %[[Y:.*]] = llm.add %arg0, %[[SUM]]
// CHECK-NEXT: return %[[Y]]
func.func @merges_along_a_residual(%x: tensor<?x64xf32>, %a: tensor<?x64xf32>, %b: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.all_reduce %a : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.add %x, %0 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.all_reduce %b : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.add %1, %2 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %3 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @merges_three_sums
// CHECK: llm.all_reduce
// CHECK-NOT: llm.all_reduce
// CHECK: return
func.func @merges_three_sums(%a: tensor<?x64xf32>, %b: tensor<?x64xf32>, %c: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.all_reduce %a : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.all_reduce %b : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.all_reduce %c : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.add %0, %1 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %4 = llm.add %3, %2 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %4 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @does_not_merge_a_sum_that_is_read
// CHECK-COUNT-2: llm.all_reduce
// CHECK: llm.rms_norm
func.func @does_not_merge_a_sum_that_is_read(%a: tensor<?x64xf32>, %b: tensor<?x64xf32>, %n: tensor<64xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %0 = llm.all_reduce %a : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.all_reduce %b : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.add %0, %1 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.rms_norm %0, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  return %2, %3 : tensor<?x64xf32>, tensor<?x64xf32>
}

// The second summand depends on the first sum: between them the residual is read.
// CHECK-LABEL: func.func @does_not_merge_over_a_use
// CHECK: llm.all_reduce
// CHECK: llm.add
// CHECK: llm.rms_norm
// CHECK: llm.all_reduce
// CHECK: llm.add
func.func @does_not_merge_over_a_use(%x: tensor<?x64xf32>, %a: tensor<?x64xf32>, %n: tensor<64xf32>) -> tensor<?x64xf32> {
  %0 = llm.all_reduce %a : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.add %x, %0 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.rms_norm %1, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %3 = llm.all_reduce %2 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %4 = llm.add %1, %3 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %4 : tensor<?x64xf32>
}

// Two trees make no third one.
// CHECK-LABEL: func.func @does_not_merge_trees
// CHECK-COUNT-2: llm.all_reduce %{{.*}} tree
func.func @does_not_merge_trees(%a: tensor<?x64xf32>, %b: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.all_reduce %a tree query_head : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.all_reduce %b tree mlp_column : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.add %0, %1 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %2 : tensor<?x64xf32>
}
