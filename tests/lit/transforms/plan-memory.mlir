// RUN: llmir-opt %s --llm-schedule-steps --llm-plan-memory=score-rows=4 --llm-verify-phase=phase=memory | FileCheck %s

// The residual is written over (one buffer to the end); places are taken again when their reader is done: 10 rows of 256
// bytes for x, 10 of 80 for int8, the second of which lies where the first did.
// CHECK-LABEL: func.func @shares_places
// CHECK: llm.recv {{.*}}id = 0, rows = tokens, max_rows = 10, arena = 0, offsets = [0], bytes = [2560], first = 0, last = 5>
// CHECK: llm.rms_norm {{.*}}id = 1, rows = tokens, max_rows = 10, arena = 0, offsets = [2560], bytes = [800], first = 1, last = 2>
// CHECK: llm.linear {{.*}} residual {{.*}}id = 0,
// CHECK: llm.rms_norm {{.*}}id = 2, {{.*}}offsets = [2560],
// CHECK: llm.linear {{.*}} residual {{.*}}id = 0,
func.func @shares_places(%n: tensor<64xf32>, %w: !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %0 = llm.recv : tensor<?x64xf32>
  %1 = llm.rms_norm %0, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %2 = llm.linear %1, %w residual %0 : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.rms_norm %2, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %4 = llm.linear %3, %w residual %2 : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>, tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %4 : tensor<?x64xf32>
  return
}

// The residual is read again after the linear, which gets a place of its own; the add may write over it.
// CHECK-LABEL: func.func @does_not_write_over_what_is_read_later
// CHECK: llm.recv {{.*}}id = 0,
// CHECK: llm.recv {{.*}}id = 1,
// CHECK: llm.linear {{.*}}id = 2,
// CHECK: llm.add {{.*}}id = 0,
func.func @does_not_write_over_what_is_read_later(%w: tensor<64x64xf32>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %0 = llm.recv : tensor<?x64xf32>
  %1 = llm.recv : tensor<?x64xf32>
  %2 = llm.linear %1, %w residual %0 : (tensor<?x64xf32>, tensor<64x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.add %0, %2 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %3 : tensor<?x64xf32>
  return
}

// A linear must not write over its own input, though nobody reads that later.
// CHECK-LABEL: func.func @does_not_write_over_an_input
// CHECK: llm.recv {{.*}}id = 0,
// CHECK: llm.linear {{.*}}id = 1,
func.func @does_not_write_over_an_input(%w: tensor<64x64xf32>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %0 = llm.recv : tensor<?x64xf32>
  %1 = llm.linear %0, %w residual %0 : (tensor<?x64xf32>, tensor<64x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %1 : tensor<?x64xf32>
  return
}

// A buffer that is being summed stays until the wait. Ranks have sizes and places of their own.
// CHECK-LABEL: func.func @holds_sums_until_the_wait
// CHECK: llm.quantize {{.*}}id = 0, rows = tokens, max_rows = 10, arena = 0, offsets = [0, 0], bytes = [800, 400], first = 0, last = 1>
// CHECK: llm.linear {{.*}}id = 1, rows = tokens, max_rows = 10, arena = 0, offsets = [832, 448], bytes = [2560, 2560], first = 1, last = 4>
// CHECK: llm.all_reduce_start
// CHECK-NOT: llm.buffers
// CHECK-SAME: -> !llm.token
// CHECK: llm.quantize {{.*}}id = 2, {{.*}}offsets = [0, 0],
// CHECK: llm.wait {{.*}}id = 1,
func.func @holds_sums_until_the_wait(%h: !llm.sharded_tensor<tensor<?x96xf32>, 1, 2, ?, [0, 64, 96]>, %w: !llm.sharded_tensor<!llm.quantized_tensor<f16, [64, 96], true, false, 1, 32, 8>, 1, 2, ?, [0, 64, 96]>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %0 = llm.quantize %h : (!llm.sharded_tensor<tensor<?x96xf32>, 1, 2, ?, [0, 64, 96]>) -> !llm.sharded_tensor<!llm.quantized_tensor<f32, [?, 96], true, false, 1, 32, 8>, 1, 2, ?, [0, 64, 96]>
  %1 = llm.linear %0, %w : (!llm.sharded_tensor<!llm.quantized_tensor<f32, [?, 96], true, false, 1, 32, 8>, 1, 2, ?, [0, 64, 96]>, !llm.sharded_tensor<!llm.quantized_tensor<f16, [64, 96], true, false, 1, 32, 8>, 1, 2, ?, [0, 64, 96]>) -> tensor<?x64xf32>
  %2 = llm.all_reduce_start %1 : (tensor<?x64xf32>) -> !llm.token
  %3 = llm.quantize %h : (!llm.sharded_tensor<tensor<?x96xf32>, 1, 2, ?, [0, 64, 96]>) -> !llm.sharded_tensor<!llm.quantized_tensor<f32, [?, 96], true, false, 1, 32, 8>, 1, 2, ?, [0, 64, 96]>
  %4 = llm.wait %2 : (!llm.token) -> tensor<?x64xf32>
  return
}

// Sampled rows are fewer than tokens; the logits of a score step are few rows at a time.
// CHECK-LABEL: func.func @counts_rows
// CHECK: llm.gather_rows {{.*}}rows = sampled, max_rows = 2, {{.*}}bytes = [512]
// CHECK: llm.linear {{.*}}rows = sampled, max_rows = 2,
// CHECK: llm.sample {{.*}}rows = sampled, max_rows = 2, {{.*}}bytes = [8]
// CHECK: llm.score {{.*}}rows = tokens, max_rows = 10, {{.*}}bytes = [120]{{.*}}rows = one, max_rows = 4, {{.*}}bytes = [2048]
// CHECK: llm.score_merge {{.*}}rows = tokens, max_rows = 10, {{.*}}bytes = [40]
func.func @counts_rows(%w: tensor<128x64xf32>, %rows: tensor<?xi32>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %0 = llm.recv : tensor<?x64xf32>
  %1 = llm.gather_rows %0, %rows : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %2 = llm.linear %1, %w : (tensor<?x64xf32>, tensor<128x64xf32>) -> tensor<?x128xf32>
  %3 = llm.sample %2 : (tensor<?x128xf32>) -> tensor<?x1xi32>
  %4, %5 = llm.score %0, %w, %rows : (tensor<?x64xf32>, tensor<128x64xf32>, tensor<?xi32>) -> (tensor<?x3xf32>, tensor<?x128xf32>)
  %6 = llm.score_merge %4 : (tensor<?x3xf32>) -> tensor<?x1xf32>
  return
}
