// What a recv brings is in use from its start on, what a send takes until its wait.
// RUN: llmir-opt %s --llm-schedule-steps --llm-plan-memory --llm-verify-phase=phase=memory | FileCheck %s

// CHECK-LABEL: func.func @starts
// CHECK: llm.recv_start {{.*}}llm.step = 0
// CHECK: llm.wait {{.*}}id = 0, rows = tokens, max_rows = 10, arena = 0, offsets = [0], bytes = [2560], first = 0, last = 4>
// CHECK: llm.rms_norm {{.*}}id = 1, rows = tokens, max_rows = 10, arena = 0, offsets = [2560], bytes = [2560], first = 2, last = 6>
// CHECK: llm.send_start {{.*}}llm.step = 3
// CHECK: llm.rms_norm {{.*}}id = 2, rows = tokens, max_rows = 10, arena = 0, offsets = [5120], bytes = [2560], first = 4, last = 5>
// CHECK: llm.send
// CHECK: llm.wait {{.*}}llm.step = 6
func.func @starts(%n: tensor<64xf32>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %0 = llm.recv_start : !llm.token
  %1 = llm.wait %0 : (!llm.token) -> tensor<?x64xf32>
  %2 = llm.rms_norm %1, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %3 = llm.send_start %2 : (tensor<?x64xf32>) -> !llm.token
  %4 = llm.rms_norm %1, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  llm.send %4 : tensor<?x64xf32>
  llm.wait %3 : (!llm.token) -> ()
  return
}
