// RUN: llmir-opt %s --llm-verify-phase=phase=communication --split-input-file --verify-diagnostics

func.func @cuts_and_joins(%n: tensor<64xf32>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %0 = llm.reduce_scatter %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.all_gather %0 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.rows %1 first_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.rows %1 second_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %4 = llm.join_rows %2, %3 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  llm.send %4 : tensor<?x64xf32>
  return
}

// -----

func.func @sends_a_share() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %0 = llm.reduce_scatter %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // expected-error @+1 {{reads rows 'share', expected 'tokens'}}
  llm.send %0 : tensor<?x64xf32>
  return
}

// -----

func.func @adds_different_parts() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %0 = llm.rows %x first_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // expected-error @+1 {{reads rows 'tokens', expected 'first_half'}}
  %1 = llm.add %0, %x : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @joins_the_wrong_way_round() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %0 = llm.rows %x first_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.rows %x second_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // expected-error @+1 {{reads rows 'second_half', expected 'first_half'}}
  %2 = llm.join_rows %1, %0 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @gathers_all_rows() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %0 = llm.all_gather_start %x : (tensor<?x64xf32>) -> !llm.token // expected-error {{reads rows 'tokens', expected 'share'}}
  %1 = llm.wait %0 : (!llm.token) -> tensor<?x64xf32>
  return
}

// -----

func.func @sums_shares() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 10, max_sampled = 2>, llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %x = llm.recv : tensor<?x64xf32>
  %0 = llm.rows %x share : (tensor<?x64xf32>) -> tensor<?x64xf32>
  // expected-error @+1 {{reads rows 'share', expected 'tokens'}}
  %1 = llm.all_reduce %0 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}
