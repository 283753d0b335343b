// RUN: llmir-opt %s --llm-encode-messages | FileCheck %s
// RUN: llmir-opt %s --llm-split-collectives --llm-encode-messages --llm-schedule-steps --llm-verify-phase=phase=schedule | FileCheck %s --check-prefix=STEPS

// Also after a collective has been split; a wait has no form of its own.
// CHECK-LABEL: func.func @encodes
// CHECK: llm.recv {llm.wire = "int8"}
// CHECK: llm.all_reduce %{{.*}} {llm.wire = "int8"}
// CHECK: llm.send %{{.*}} {llm.wire = "int8"}
// STEPS-LABEL: func.func @encodes
// STEPS: llm.recv {{.*}}llm.wire = "int8"
// STEPS: llm.all_reduce_start {{.*}}llm.wire = "int8"
// STEPS: llm.wait
// STEPS-NOT: llm.wire
// STEPS: llm.send {{.*}}llm.wire = "int8"
func.func @encodes() attributes {llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 2, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %1 = llm.all_reduce %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %1 : tensor<?x64xf32>
  return
}

// Sums over a tree don't depend on the layout, and int8 is int8 already.
// CHECK-LABEL: func.func @leaves_trees_and_int8_alone
// CHECK: llm.reduce_scatter %{{.*}} tree {{ *}}mlp_column : {{.*}}
// CHECK: llm.all_gather %{{[a-z0-9]*}} : {{.*}}
func.func @leaves_trees_and_int8_alone(%x: tensor<?x64xf32>, %q: !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>) {
  %0 = llm.reduce_scatter %x tree mlp_column : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.all_gather %q : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  return
}

// What a request sees comes as it is.
// CHECK-LABEL: func.func @leaves_gathered_columns_alone
// CHECK: llm.gather %{{[a-z0-9]*}} : {{.*}}
func.func @leaves_gathered_columns_alone(%x: tensor<?x64xf32>) {
  %0 = llm.gather %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}
