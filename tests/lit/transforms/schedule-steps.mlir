// RUN: llmir-opt %s --llm-schedule-steps --llm-verify-phase=phase=schedule | FileCheck %s

// Weights come first and aren't steps. The start moves up to its producer, the wait down to its use, so that the norm and
// the linear between them overlap with the sum.
// CHECK-LABEL: func.func @overlaps
// CHECK: llm.weight @w
// CHECK-NOT: llm.step
// CHECK-SAME: tensor<64x64xf32>
// CHECK-NEXT: %[[A:.*]] = llm.add {{.*}}llm.step = 0
// CHECK-NEXT: %[[TOKEN:.*]] = llm.all_reduce_start %[[A]] {llm.event = 0 : i64, llm.step = 1 : i64}
// CHECK-NEXT: %[[N:.*]] = llm.rms_norm {{.*}}llm.step = 2
// CHECK-NEXT: llm.linear {{.*}}llm.step = 3
// CHECK-NEXT: llm.wait %[[TOKEN]] {llm.event = 0 : i64, llm.step = 4 : i64}
// CHECK-NEXT: llm.add {{.*}}llm.step = 5
// CHECK-NEXT: return
func.func @overlaps(%x: tensor<?x64xf32>, %n: tensor<64xf32>) -> tensor<?x64xf32> attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %0 = llm.add %x, %x : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.rms_norm %x, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %2 = llm.all_reduce_start %0 : (tensor<?x64xf32>) -> !llm.token
  %3 = llm.wait %2 : (!llm.token) -> tensor<?x64xf32>
  %w = llm.weight @w pieces [#llm.piece<"w" : tensor<64x64xf32>, whole none 0>] : tensor<64x64xf32>
  %4 = llm.linear %1, %w : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %5 = llm.add %4, %3 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %5 : tensor<?x64xf32>
}

// Two sums keep their order, the same on all ranks.
// CHECK-LABEL: func.func @keeps_the_order_of_sums
// CHECK: llm.all_reduce_start {{.*}}llm.event = 0
// CHECK: llm.all_reduce_start {{.*}}llm.event = 1
// CHECK: llm.wait {{.*}}llm.event = 0
// CHECK: llm.wait {{.*}}llm.event = 1
func.func @keeps_the_order_of_sums(%x: tensor<?x64xf32>) -> tensor<?x64xf32> attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %0 = llm.add %x, %x : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.add %x, %0 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.all_reduce_start %0 : (tensor<?x64xf32>) -> !llm.token
  %3 = llm.all_reduce_start %1 : (tensor<?x64xf32>) -> !llm.token
  %4 = llm.wait %2 : (!llm.token) -> tensor<?x64xf32>
  %5 = llm.wait %3 : (!llm.token) -> tensor<?x64xf32>
  %6 = llm.add %4, %5 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %6 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @leaves_other_functions_alone
// CHECK-NOT: llm.step
func.func @leaves_other_functions_alone(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.add %x, %x : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}
