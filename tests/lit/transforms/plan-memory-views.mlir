// RUN: llmir-opt %s --llm-schedule-steps --llm-plan-memory --llm-verify-phase=phase=memory --split-input-file --verify-diagnostics | FileCheck %s

// A share lies where the rows that it is of lie; the start of a gather has all rows in use, the wait ends the share's.
// CHECK-LABEL: func.func @cuts_in_place
// CHECK: llm.recv {{.*}}id = 0, rows = tokens, max_rows = 10, arena = 0, offsets = [0, 0], bytes = [2560, 2560], first = 0, last = 2>
// CHECK: llm.reduce_scatter_start
// CHECK: llm.wait {{.*}}id = 1, rows = share, max_rows = 10, arena = 0, offsets = [0, 0], bytes = [2560, 2560], first = 1, last = 3>
// CHECK: llm.rms_norm {{.*}}id = 2, rows = share, max_rows = 10, arena = 0, offsets = [2560, 2560], bytes = [2560, 2560], first = 3, last = 5>
// CHECK: llm.all_gather_start
// CHECK: llm.wait {{.*}}id = 3, rows = tokens, max_rows = 10, arena = 0, offsets = [2560, 2560], bytes = [2560, 2560], first = 4, last = 6>
func.func @cuts_in_place(%n: tensor<64xf32>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %0 = llm.reduce_scatter_start %x : (tensor<?x64xf32>) -> !llm.token
  %1 = llm.wait %0 : (!llm.token) -> tensor<?x64xf32>
  %2 = llm.rms_norm %1, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %3 = llm.all_gather_start %2 : (tensor<?x64xf32>) -> !llm.token
  %4 = llm.wait %3 : (!llm.token) -> tensor<?x64xf32>
  llm.send %4 : tensor<?x64xf32>
  return
}

// -----

// The halves of the residual are written over, each when its last reader is done; both are the residual again.
// CHECK-LABEL: func.func @rewrites_halves
// CHECK: llm.recv {{.*}}id = 0, {{.*}}offsets = [0, 0],
// CHECK: llm.recv {{.*}}id = 3, {{.*}}offsets = [2560, 2560],
// CHECK: llm.rows {{.*}}id = [[X0:[0-9]+]], rows = first_half, {{.*}}offsets = [0, 0],
// CHECK: llm.add {{.*}}id = [[X0]], rows = first_half
// CHECK: llm.rows {{.*}}id = [[X1:[0-9]+]], rows = second_half, {{.*}}offsets = [0, 0],
// CHECK: llm.add {{.*}}id = [[X1]], rows = second_half
// CHECK: llm.join_rows {{.*}}rows = tokens, {{.*}}offsets = [0, 0],
func.func @rewrites_halves() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %y = llm.recv : tensor<?x64xf32>
  %x0 = llm.rows %x first_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %x1 = llm.rows %x second_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %y0 = llm.rows %y first_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %y1 = llm.rows %y second_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %0 = llm.add %x0, %y0 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.add %x1, %y1 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.join_rows %0, %1 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %2 : tensor<?x64xf32>
  return
}

// -----

// All rows are read after the first half's sum: it gets a place of its own.
// CHECK-LABEL: func.func @does_not_write_over_a_half_that_is_read_whole
// CHECK: llm.recv {{.*}}id = 0, {{.*}}offsets = [0, 0],
// CHECK: llm.rms_norm {{.*}}rows = first_half, {{.*}}offsets = [2560, 2560]
// CHECK: llm.add {{.*}}rows = first_half, {{.*}}offsets = [2560, 2560]
func.func @does_not_write_over_a_half_that_is_read_whole(%n: tensor<64xf32>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %x0 = llm.rows %x first_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %0 = llm.rms_norm %x0, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %1 = llm.add %x0, %0 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.rms_norm %1, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  llm.send %x : tensor<?x64xf32>
  return
}

// -----

// Scattering sums would destroy rows that are read later.
func.func @does_not_scatter_what_is_read_later() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  // expected-error @+1 {{rewrites rows that are read later}}
  %0 = llm.reduce_scatter %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %x : tensor<?x64xf32>
  return
}

// -----

// Of 9 heads the first 5 are two nodes of the tree over them, the others three: a buffer for as many rows of each.
// CHECK-LABEL: func.func @keeps_nodes_apart
// CHECK: llm.recv {{.*}}id = 0, rows = tokens, max_rows = 10, arena = 0, offsets = [0, 0], bytes = [5120, 7680], first = 0, last = 2>
// CHECK: llm.all_reduce %{{.*}} tree query_head {{.*}}id = 0,
func.func @keeps_nodes_apart() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 5, 9], kv_head = [0, 2, 1, 3], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %0 = llm.all_reduce %x tree query_head : (tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %0 : tensor<?x64xf32>
  return
}
