// RUN: llmir-opt %s -split-input-file --llm-verify-phase=phase=parallel -verify-diagnostics

// expected-error @+1 {{isn't a stage}}
func.func @f() {
  return
}

// -----

func.func @f(%h: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, %w: !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>, %x: tensor<?x64xf32>) attributes {llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  // expected-error @+1 {{is a partial sum that is used without an all_reduce}}
  %0 = llm.linear %h, %w : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>) -> tensor<?x64xf32>
  %1 = llm.add %0, %x : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%h: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, %w: !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>) attributes {llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  // expected-error @+1 {{is a partial sum that needs one all_reduce}}
  %0 = llm.linear %h, %w : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) attributes {llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  // expected-error @+1 {{sums what is already whole}}
  %0 = llm.all_reduce %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%h: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) attributes {llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 1], query_head = [0, 1, 2], kv_head = [0, 1, 1, 2], mlp_column = [0, 1, 2], vocabulary = [0, 1, 2]>} {
  %w = llm.weight @o pieces [#llm.piece<"o" : tensor<64x64xf32>, query_head columns 32>] : !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>
  %0 = llm.linear %h, %w : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>) -> tensor<?x64xf32>
  // expected-error @+1 {{sums over the tree of mlp_column what isn't divided by it}}
  %1 = llm.all_reduce %0 tree mlp_column : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}
