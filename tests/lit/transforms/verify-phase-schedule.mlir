// RUN: llmir-opt %s -split-input-file --llm-verify-phase=phase=schedule -verify-diagnostics

func.func @f() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  // expected-error @+1 {{must be step 0}}
  %0 = llm.recv {llm.step = 1 : i64} : tensor<?x64xf32>
  return
}

// -----

func.func @f() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  // expected-error @+1 {{isn't a step but has a number}}
  %0 = llm.create_paged_cache {llm.step = 0 : i64} : !llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>
  return
}

// -----

func.func @f() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %0 = llm.recv {llm.step = 0 : i64} : tensor<?x64xf32>
  // expected-error @+1 {{must signal event 0}}
  %1 = llm.all_reduce_start %0 {llm.step = 1 : i64} : (tensor<?x64xf32>) -> !llm.token
  %2 = llm.wait %1 {llm.step = 2 : i64} : (!llm.token) -> tensor<?x64xf32>
  return
}

// -----

func.func @f() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %0 = llm.recv {llm.step = 0 : i64} : tensor<?x64xf32>
  %1 = llm.all_reduce_start %0 {llm.event = 0 : i64, llm.step = 1 : i64} : (tensor<?x64xf32>) -> !llm.token
  // expected-error @+1 {{must wait for its start's event}}
  %2 = llm.wait %1 {llm.event = 1 : i64, llm.step = 2 : i64} : (!llm.token) -> tensor<?x64xf32>
  return
}
