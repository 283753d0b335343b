// RUN: llmir-opt %s -split-input-file --llm-verify-phase=phase=memory -verify-diagnostics

func.func @f() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  // expected-error @+1 {{has no place for its results}}
  %0 = llm.recv {llm.step = 0 : i64} : tensor<?x64xf32>
  return
}

// -----

func.func @f() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  // expected-error @+1 {{has a place that isn't for 1 ranks, or not for its step}}
  %0 = llm.recv {llm.buffers = [#llm.buffer<id = 0, rows = tokens, max_rows = 10, arena = 0, offsets = [0], bytes = [2560], first = 1, last = 2>], llm.step = 0 : i64} : tensor<?x64xf32>
  return
}

// -----

func.func @f() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %0 = llm.recv {llm.buffers = [#llm.buffer<id = 0, rows = tokens, max_rows = 10, arena = 0, offsets = [0], bytes = [2560], first = 0, last = 1>], llm.step = 0 : i64} : tensor<?x64xf32>
  // expected-error @+1 {{overlaps buffer 0 on rank 0}}
  %1 = llm.add %0, %0 {llm.buffers = [#llm.buffer<id = 1, rows = tokens, max_rows = 10, arena = 0, offsets = [2496], bytes = [2560], first = 1, last = 1>], llm.step = 1 : i64} : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %0 = llm.recv {llm.buffers = [#llm.buffer<id = 0, rows = tokens, max_rows = 10, arena = 0, offsets = [0], bytes = [2560], first = 0, last = 1>], llm.step = 0 : i64} : tensor<?x64xf32>
  // expected-error @+1 {{disagrees about buffer 0}}
  %1 = llm.add %0, %0 {llm.buffers = [#llm.buffer<id = 0, rows = tokens, max_rows = 10, arena = 0, offsets = [64], bytes = [2560], first = 0, last = 1>], llm.step = 1 : i64} : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

// Places that are used at different times may be the same.
func.func @f() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1], kv_head = [0, 1], mlp_column = [0, 1], vocabulary = [0, 1]>} {
  %0 = llm.recv {llm.buffers = [#llm.buffer<id = 0, rows = tokens, max_rows = 10, arena = 0, offsets = [0], bytes = [2560], first = 0, last = 1>], llm.step = 0 : i64} : tensor<?x64xf32>
  llm.send %0 {llm.step = 1 : i64} : tensor<?x64xf32>
  %1 = llm.recv {llm.buffers = [#llm.buffer<id = 1, rows = tokens, max_rows = 10, arena = 0, offsets = [0], bytes = [2560], first = 2, last = 2>], llm.step = 2 : i64} : tensor<?x64xf32>
  return
}
