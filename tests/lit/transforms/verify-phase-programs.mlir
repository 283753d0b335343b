// RUN: llmir-opt %s -split-input-file --llm-verify-phase=phase=programs -verify-diagnostics

// expected-error @+1 {{isn't a program of a stage}}
func.func @f() attributes {llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  return
}

// -----

// expected-error @+1 {{stages 0 and 1 have different programs}}
module {
  func.func @stage0() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
    return
  }
  func.func @stage1() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 11, max_sampled = 2>, llm.stage = #llm.stage<index = 1, first_rank = 1, layers = [1, 2], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
    return
  }
}
