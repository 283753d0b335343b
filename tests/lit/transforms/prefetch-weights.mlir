// RUN: llmir-opt %s --llm-prefetch-weights | FileCheck %s
// RUN: llmir-opt %s --llm-prefetch-weights --llm-schedule-steps --llm-verify-phase=phase=schedule | FileCheck %s --check-prefix=STEPS

// CHECK-LABEL: func.func @prefetches
// CHECK: llm.all_reduce_start
// CHECK: %[[W:.*]] = llm.weight @w
// CHECK: llm.prefetch %[[W]]
// CHECK: llm.rms_norm
// CHECK: llm.linear %{{.*}}, %[[W]]

// STEPS-LABEL: func.func @prefetches
// STEPS: llm.all_reduce_start
// STEPS-NEXT: llm.prefetch
// STEPS-NEXT: llm.wait
// STEPS-NEXT: llm.rms_norm
func.func @prefetches(%n: tensor<64xf32>) attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 2, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %0 = llm.all_reduce_start %x : (tensor<?x64xf32>) -> !llm.token
  %1 = llm.wait %0 : (!llm.token) -> tensor<?x64xf32>
  %2 = llm.rms_norm %1, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %w = llm.weight @w pieces [#llm.piece<"w" : tensor<64x64xf32>, whole none 0>] : tensor<64x64xf32>
  %3 = llm.linear %2, %w : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  llm.send %3 : tensor<?x64xf32>
  return
}

// CHECK-LABEL: func.func @does_not_prefetch_what_was_just_read
// CHECK-NOT: llm.prefetch
// CHECK: return
func.func @does_not_prefetch_what_was_just_read() attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 2, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %w = llm.weight @w pieces [#llm.piece<"w" : tensor<64x64xf32>, whole none 0>] : tensor<64x64xf32>
  %0 = llm.linear %x, %w : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %1 = llm.all_reduce_start %0 : (tensor<?x64xf32>) -> !llm.token
  %2 = llm.wait %1 : (!llm.token) -> tensor<?x64xf32>
  %3 = llm.linear %2, %w : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  llm.send %3 : tensor<?x64xf32>
  return
}

// CHECK-LABEL: func.func @does_not_prefetch_where_no_matrix_follows
// CHECK-NOT: llm.prefetch
// CHECK: return
func.func @does_not_prefetch_where_no_matrix_follows() attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 2, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %1 = llm.all_reduce_start %x : (tensor<?x64xf32>) -> !llm.token
  %2 = llm.wait %1 : (!llm.token) -> tensor<?x64xf32>
  llm.send %2 : tensor<?x64xf32>
  return
}
