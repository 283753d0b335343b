// RUN: llmir-opt %s --llm-fuse-residual | FileCheck %s

// CHECK-LABEL: func.func @fuses
// CHECK: llm.linear %arg0, %arg1 residual %arg0
// CHECK-NOT: llm.add
func.func @fuses(%x: tensor<?x64xf32>, %w: tensor<64x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.linear %x, %w : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %1 = llm.add %x, %0 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @fuses_from_the_left
// CHECK: llm.linear %arg0, %arg1 residual %arg0
// CHECK-NOT: llm.add
func.func @fuses_from_the_left(%x: tensor<?x64xf32>, %w: tensor<64x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.linear %x, %w : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %1 = llm.add %0, %x : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// Every rank would add the residual.
// CHECK-LABEL: func.func @does_not_enter_a_partial_sum
// CHECK: llm.add
func.func @does_not_enter_a_partial_sum(%x: tensor<?x64xf32>, %h: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, %w: !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>) -> tensor<?x64xf32> {
  %0 = llm.linear %h, %w : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>) -> tensor<?x64xf32>
  %1 = llm.add %x, %0 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @does_not_cross_a_reduction
// CHECK: llm.all_reduce
// CHECK: llm.add
func.func @does_not_cross_a_reduction(%x: tensor<?x64xf32>, %h: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, %w: !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>) -> tensor<?x64xf32> {
  %0 = llm.linear %h, %w : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>) -> tensor<?x64xf32>
  %1 = llm.all_reduce %0 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.add %x, %1 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %2 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @does_not_replace_an_epilogue
// CHECK: llm.linear {{.*}} silu_mul
// CHECK: llm.add
func.func @does_not_replace_an_epilogue(%x: tensor<?x64xf32>, %w: tensor<128x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.linear %x, %w silu_mul : (tensor<?x64xf32>, tensor<128x64xf32>) -> tensor<?x64xf32>
  %1 = llm.add %x, %0 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @does_not_take_what_others_read
// CHECK: llm.add
func.func @does_not_take_what_others_read(%x: tensor<?x64xf32>, %w: tensor<64x64xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %0 = llm.linear %x, %w : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %1 = llm.add %x, %0 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %0, %1 : tensor<?x64xf32>, tensor<?x64xf32>
}
