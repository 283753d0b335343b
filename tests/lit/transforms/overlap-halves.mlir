// RUN: llmir-opt %s --llm-overlap-halves --llm-verify-phase=phase=communication | FileCheck %s
// RUN: llmir-opt %s --llm-overlap-halves --llm-split-collectives --llm-schedule-steps --llm-plan-memory --llm-verify-phase=phase=memory | FileCheck %s --check-prefix=STEPS

// After attention, which takes all tokens, each half goes to its sum in turn: the second half's linear is beside the first
// half's sum, the first half's norm and linear beside the second's. Both halves together go to the next stage.
// CHECK-LABEL: func.func @overlaps
// CHECK: %[[X:.*]] = llm.recv
// CHECK: %[[A:.*]] = llm.paged_attention
// CHECK-NEXT: llm.weight @w
// CHECK-NEXT: %[[A0:.*]] = llm.rows %[[A]] first_half
// CHECK-NEXT: %[[O0:.*]] = llm.linear %[[A0]], %[[W:[0-9a-z_]+]] :
// CHECK-NEXT: %[[R0:.*]] = llm.all_reduce %[[O0]]
// CHECK-NEXT: %[[A1:.*]] = llm.rows %[[A]] second_half
// CHECK-NEXT: %[[O1:.*]] = llm.linear %[[A1]], %[[W]] :
// CHECK-NEXT: %[[R1:.*]] = llm.all_reduce %[[O1]]
// CHECK-NEXT: %[[X0:.*]] = llm.rows %[[X]] first_half
// CHECK-NEXT: %[[Y0:.*]] = llm.add %[[X0]], %[[R0]]
// CHECK-NEXT: %[[N0:.*]] = llm.rms_norm %[[Y0]]
// CHECK-NEXT: llm.linear %[[N0]]
// CHECK-NEXT: %[[X1:.*]] = llm.rows %[[X]] second_half
// CHECK-NEXT: %[[Y1:.*]] = llm.add %[[X1]], %[[R1]]
// CHECK-NEXT: %[[N1:.*]] = llm.rms_norm %[[Y1]]
// CHECK-NEXT: llm.linear %[[N1]]
// CHECK-NEXT: llm.join_rows
// CHECK-NEXT: llm.send

// The halves of a result lie in one buffer. Between a half's start and its wait lies the other half's work.
// STEPS-LABEL: func.func @overlaps
// STEPS: llm.linear {{.*}}rows = first_half, {{.*}}offsets = [[PLACE:\[[0-9]+, [0-9]+\]]]
// STEPS-NEXT: %[[E0:.*]] = llm.all_reduce_start
// STEPS: llm.linear {{.*}}rows = second_half, {{.*}}offsets = [[PLACE]]
// STEPS-NEXT: %[[E1:.*]] = llm.all_reduce_start
// STEPS: llm.wait %[[E0]]
// STEPS: llm.add {{.*}}rows = first_half
// STEPS-NEXT: llm.rms_norm
// STEPS-NEXT: llm.linear
// STEPS: llm.wait %[[E1]]
// STEPS: llm.add {{.*}}rows = second_half
// STEPS: llm.send
func.func @overlaps(%wq: !llm.sharded_tensor<tensor<192x64xf32>, 0, 2, ?>, %n: tensor<64xf32>, %w2: tensor<64x64xf32>, %indices: tensor<?xi32>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 100, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %cache = llm.create_paged_cache : !llm.paged_kv_cache<f32, 1, 2, 32, 16, 256>
  %x = llm.recv : tensor<?x64xf32>
  %q = llm.linear %x, %wq : (tensor<?x64xf32>, !llm.sharded_tensor<tensor<192x64xf32>, 0, 2, ?>) -> !llm.sharded_tensor<tensor<?x192xf32>, 1, 2, ?>
  %0 = llm.paged_attention %q, %cache, %indices : (!llm.sharded_tensor<tensor<?x192xf32>, 1, 2, ?>, !llm.paged_kv_cache<f32, 1, 2, 32, 16, 256>, tensor<?xi32>) -> !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>
  %w = llm.weight @w pieces [#llm.piece<"w" : tensor<64x64xf32>, query_head columns 32>] : !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>
  %1 = llm.linear %0, %w : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>) -> tensor<?x64xf32>
  %2 = llm.all_reduce %1 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.add %x, %2 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %4 = llm.rms_norm %3, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %5 = llm.linear %4, %w2 : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  llm.send %5 : tensor<?x64xf32>
  return
}

// CHECK-LABEL: func.func @does_not_cut_few_tokens
// CHECK-NOT: llm.rows
// CHECK: llm.all_reduce
// CHECK-NOT: llm.rows
func.func @does_not_cut_few_tokens(%w: !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 63, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %2 = llm.all_reduce %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %2 : tensor<?x64xf32>
  return
}

// CHECK-LABEL: func.func @does_not_cut_decode_steps
// CHECK-NOT: llm.rows
// CHECK: llm.all_reduce
// CHECK-NOT: llm.rows
func.func @does_not_cut_decode_steps() attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 100, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %2 = llm.all_reduce %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %2 : tensor<?x64xf32>
  return
}

// Nothing is summed, so there is nothing to hide.
// CHECK-LABEL: func.func @does_not_cut_without_sums
// CHECK-NOT: llm.rows
// CHECK: llm.send
func.func @does_not_cut_without_sums(%n: tensor<64xf32>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 100, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %x = llm.recv : tensor<?x64xf32>
  %0 = llm.rms_norm %x, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  llm.send %0 : tensor<?x64xf32>
  return
}
