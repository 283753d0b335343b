// RUN: llmir-opt %s --llm-split-collectives | FileCheck %s

// CHECK-LABEL: func.func @splits
// CHECK: %[[TOKEN:.*]] = llm.all_reduce_start %arg0
// CHECK-NEXT: %[[SUM:.*]] = llm.wait %[[TOKEN]]
// CHECK-NEXT: llm.add %[[SUM]], %arg1
func.func @splits(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.all_reduce %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.add %0, %y : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @splits_scatters_and_gathers
// CHECK: %[[SCATTER:.*]] = llm.reduce_scatter_start %arg0
// CHECK-NEXT: %[[SHARE:.*]] = llm.wait %[[SCATTER]]
// CHECK-NEXT: %[[GATHER:.*]] = llm.all_gather_start %[[SHARE]]
// CHECK-NEXT: llm.wait %[[GATHER]]
func.func @splits_scatters_and_gathers(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.reduce_scatter %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.all_gather %0 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// What one rank alone reads has nothing to be hidden behind.
// CHECK-LABEL: func.func @does_not_split_a_gather
// CHECK: llm.gather
// CHECK-NOT: llm.wait
func.func @does_not_split_a_gather(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) {
  %0 = llm.gather %x : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) -> !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?, [0, 64, 64]>
  return
}

// CHECK-LABEL: func.func @keeps_trees
// CHECK: llm.all_reduce_start %arg0 tree query_head :
// CHECK: llm.reduce_scatter_start %{{.*}} tree mlp_column :
func.func @keeps_trees(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.all_reduce %x tree query_head : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.reduce_scatter %0 tree mlp_column : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}
