// What works in place can't, if its operand is read later.
// RUN: llmir-opt %s --llm-schedule-steps --llm-plan-memory -verify-diagnostics

func.func @f() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %0 = llm.recv : tensor<?x64xf32>
  // expected-error @+1 {{rewrites its operand, which is read later}}
  %1 = llm.all_reduce %0 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.add %0, %1 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %2 : tensor<?x64xf32>
  return
}
