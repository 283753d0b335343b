// RUN: llmir-opt %s --llm-scatter-norms=collective-bytes=100 --llm-verify-phase=phase=communication | FileCheck %s

// Sums are scattered, what follows them works on each rank's share, and the linear gets all rows, in int8. The residual stays
// scattered to the end, where the message to the next stage needs all of it.
// CHECK-LABEL: func.func @scatters
// CHECK: %[[X:.*]] = llm.recv
// CHECK: %[[R0:.*]] = llm.reduce_scatter %arg0
// CHECK-NEXT: %[[XS:.*]] = llm.rows %[[X]] share
// CHECK-NEXT: %[[Y:.*]] = llm.add %[[XS]], %[[R0]]
// CHECK-NEXT: %[[N:.*]] = llm.rms_norm %[[Y]], %arg1
// CHECK-NEXT: %[[ALL:.*]] = llm.all_gather %[[N]] : (!llm.quantized_tensor
// CHECK-NEXT: %[[L:.*]] = llm.linear %[[ALL]], %arg2
// CHECK-NEXT: %[[R1:.*]] = llm.reduce_scatter %[[L]]
// CHECK-NEXT: %[[Z:.*]] = llm.add %[[Y]], %[[R1]]
// CHECK-NEXT: %[[WHOLE:.*]] = llm.all_gather %[[Z]] : (tensor<?x64xf32>)
// CHECK-NEXT: llm.send %[[WHOLE]]
func.func @scatters(%p: tensor<?x64xf32>, %n: tensor<64xf32>, %w: !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 100, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %0 = llm.all_reduce %p : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.add %x, %0 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.rms_norm %1, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %3 = llm.linear %2, %w : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  %4 = llm.all_reduce %3 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %5 = llm.add %1, %4 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %5 : tensor<?x64xf32>
  return
}

// One gather serves all who read the rows.
// CHECK-LABEL: func.func @gathers_once
// CHECK: llm.all_gather
// CHECK: llm.linear
// CHECK-NOT: llm.all_gather
// CHECK: llm.linear
func.func @gathers_once(%p: tensor<?x64xf32>, %n: tensor<64xf32>, %w: tensor<64x64xf32>) attributes {llm.program = #llm.program<kind = score, min_tokens = 1, max_tokens = 100, max_sampled = 0>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %0 = llm.all_reduce %p : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.rms_norm %0, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %2 = llm.linear %1, %w : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %3 = llm.linear %1, %w : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  llm.send %2 : tensor<?x64xf32>
  llm.send %3 : tensor<?x64xf32>
  return
}

// Few tokens: another collective costs more than it saves.
// CHECK-LABEL: func.func @does_not_scatter_few_tokens
// CHECK: llm.all_reduce
// CHECK-NOT: llm.reduce_scatter
// CHECK: return
func.func @does_not_scatter_few_tokens(%p: tensor<?x64xf32>, %n: tensor<64xf32>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 1, max_sampled = 1>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %0 = llm.all_reduce %p : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.rms_norm %0, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  llm.send %0 : tensor<?x64xf32>
  llm.send %1 : tensor<?x64xf32>
  return
}

// CHECK-LABEL: func.func @does_not_scatter_decode_steps
// CHECK: llm.all_reduce
// CHECK-NOT: llm.reduce_scatter
// CHECK: return
func.func @does_not_scatter_decode_steps(%p: tensor<?x64xf32>, %n: tensor<64xf32>) attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 1000, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %0 = llm.all_reduce %p : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.rms_norm %0, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  llm.send %1 : tensor<?x64xf32>
  return
}

// A sum that is read whole at once has nothing to do on shares.
// CHECK-LABEL: func.func @does_not_scatter_what_nothing_follows
// CHECK: llm.all_reduce
// CHECK-NOT: llm.reduce_scatter
// CHECK: return
func.func @does_not_scatter_what_nothing_follows(%p: tensor<?x64xf32>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 1000, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %0 = llm.all_reduce %p : (tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %0 : tensor<?x64xf32>
  return
}
