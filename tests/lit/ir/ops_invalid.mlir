// What each operation refuses, and why.
// RUN: llmir-opt %s -split-input-file -verify-diagnostics

func.func @f() {
  // expected-error @+1 {{needs at least one piece}}
  %0 = llm.weight @w pieces [] : tensor<8x8xf32>
  return
}

// -----

func.func @f() {
  // expected-error @+1 {{piece 'a' of type 'tensor<8x16xf32>' doesn't fit a weight of 8 columns}}
  %0 = llm.weight @w pieces [#llm.piece<"a" : tensor<8x16xf32>, vocabulary rows 4>] : tensor<8x8xf32>
  return
}

// -----

func.func @f() {
  // expected-error @+1 {{pieces have 8 rows, the weight has 16}}
  %0 = llm.weight @w pieces [#llm.piece<"a" : tensor<8x8xf32>, vocabulary rows 4>] : tensor<16x8xf32>
  return
}

// -----

func.func @f() {
  // expected-error @+1 {{pieces are divided along different axes}}
  %0 = llm.weight @w pieces [#llm.piece<"a" : tensor<8x8xf32>, query_head rows 4>, #llm.piece<"b" : tensor<8x8xf32>, query_head columns 4>] : tensor<16x8xf32>
  return
}

// -----

func.func @f() {
  // expected-error @+1 {{weights divided by columns can't be joined by rows}}
  %0 = llm.weight @w pieces [#llm.piece<"a" : tensor<8x8xf32>, query_head columns 4>, #llm.piece<"b" : tensor<8x8xf32>, query_head columns 4>] : tensor<16x8xf32>
  return
}

// -----

func.func @f() {
  // expected-error @+1 {{only two pieces of equal shape can be interleaved}}
  %0 = llm.weight @w pieces [#llm.piece<"a" : tensor<8x8xf32>, mlp_column rows 4>, #llm.piece<"b" : tensor<4x8xf32>, mlp_column rows 4>] interleaved : tensor<12x8xf32>
  return
}

// -----

func.func @f() {
  // expected-error @+1 {{is sharded along dimension 1, its pieces are divided by rows}}
  %0 = llm.weight @w pieces [#llm.piece<"a" : tensor<8x8xf32>, mlp_column rows 4>] : !llm.sharded_tensor<tensor<8x8xf32>, 1, 2, ?>
  return
}

// -----

func.func @f() {
  // expected-error @+1 {{a divided tensor needs unit, axis and leaf, a whole one none of them}}
  %0 = llm.weight @w pieces [#llm.piece<"a" : tensor<8x8xf32>, whole rows 4>] : tensor<8x8xf32>
  return
}

// -----

func.func @f(%i: tensor<?xi32>, %w: tensor<256x64xf32>) {
  // expected-error @+1 {{the result has 32 columns, expected 64}}
  %0 = llm.embedding %i, %w : (tensor<?xi32>, tensor<256x64xf32>) -> tensor<?x32xf32>
  return
}

// -----

func.func @f(%i: tensor<?xi32>, %w: tensor<64xf32>) {
  // expected-error @+1 {{the weight must be a matrix, got 'tensor<64xf32>'}}
  %0 = llm.embedding %i, %w : (tensor<?xi32>, tensor<64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%i: tensor<?xi32>, %w: !llm.sharded_tensor<tensor<256x64xf32>, 1, 2, ?>) {
  // expected-error @+1 {{an embedding is divided by rows, not columns}}
  %0 = llm.embedding %i, %w : (tensor<?xi32>, !llm.sharded_tensor<tensor<256x64xf32>, 1, 2, ?>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x32xf32>, %w: tensor<8x64xf32>) {
  // expected-error @+1 {{the input has 32 columns, expected 64}}
  %0 = llm.linear %x, %w : (tensor<?x32xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // expected-error @+1 {{the result has 9 columns, expected 8}}
  %0 = llm.linear %x, %w : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x9xf32>
  return
}

// -----

func.func @f(%x: !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, %w: tensor<8x64xf32>) {
  // expected-error @+1 {{int8 activations need a quantized weight}}
  %0 = llm.linear %x, %w : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %r: tensor<?x32xf32>, %w: tensor<64x64xf32>) {
  // expected-error @+1 {{has one epilogue: residual or silu_mul, not both}}
  %0 = llm.linear %x, %w residual %r silu_mul : (tensor<?x64xf32>, tensor<64x64xf32>, tensor<?x32xf32>) -> tensor<?x32xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<9x64xf32>) {
  // expected-error @+1 {{silu_mul needs two pieces of equal size}}
  %0 = llm.linear %x, %w silu_mul : (tensor<?x64xf32>, tensor<9x64xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, %r: tensor<?x64xf32>, %w: !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>) {
  // expected-error @+1 {{a partial sum can't take the residual: every rank would add it}}
  %0 = llm.linear %x, %w residual %r : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, %w: !llm.sharded_tensor<tensor<64x64xf32>, 1, 4, ?>) {
  // expected-error @+1 {{mixes tensors of 2 and 4 shards}}
  %0 = llm.linear %x, %w : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, !llm.sharded_tensor<tensor<64x64xf32>, 1, 4, ?>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?, [0, 40, 64]>, %w: !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>) {
  // expected-error @+1 {{the input has 40 columns on rank 0, expected 32}}
  %0 = llm.linear %x, %w : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?, [0, 40, 64]>, !llm.sharded_tensor<tensor<64x64xf32>, 1, 2, ?>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // expected-error @+1 {{the weight must be a vector}}
  %0 = llm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, %w: tensor<64xf32>) {
  // expected-error @+1 {{needs whole rows}}
  %0 = llm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>, tensor<64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %y: tensor<?x32xf32>) {
  // expected-error @+1 {{all of {gate, up, result} have same type}}
  %0 = llm.silu_mul %x, %y : (tensor<?x64xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %y: tensor<?x32xf32>) {
  // expected-error @+1 {{all of {lhs, rhs, result} have same type}}
  %0 = llm.add %x, %y : (tensor<?x64xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  // expected-error @+1 {{the result must be a quantized tensor}}
  %0 = llm.quantize %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?, [0, 48, 64]>) {
  // expected-error @+1 {{48 columns aren't a multiple of 32}}
  %0 = llm.quantize %x : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?, [0, 48, 64]>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  return
}

// -----

func.func @f(%x: tensor<8x64xf32>) {
  // expected-error @+1 {{operand #0 must be matrix of float activations with one row per token}}
  %0 = llm.quantize %x : (tensor<8x64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{all of {input, result} have same type}}
  %0 = llm.rope %x, %p {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x32xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{64 columns aren't heads of an even size 7}}
  %0 = llm.rope %x, %p {head_dim = 7 : i64} : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %k: tensor<?x16xf32>, %s: tensor<?xi32>) {
  // expected-error @+1 {{keys has 16 columns, expected 32}}
  %0, %1 = llm.append_kv %c, %k, %k, %s : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x16xf32>, tensor<?x16xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %k: tensor<?x32xf32>, %s: tensor<?xi32>) {
  // expected-error @+1 {{layer 2 of a cache of 2 layers}}
  %0, %1 = llm.append_kv %c, %k, %k, %s {layer = 2 : i64} : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %k: tensor<1x1x3x16xf32>, %s: tensor<?xi32>) {
  // expected-error @+1 {{keys has 3 heads, the cache has 2}}
  %0, %1 = llm.append_kv %c, %k, %k, %s : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<1x1x3x16xf32>, tensor<1x1x3x16xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %k: tensor<1x1x2x16xf32>, %v: tensor<1x1x2x8xf32>, %s: tensor<?xi32>) {
  // expected-error @+1 {{differ}}
  %0, %1 = llm.append_kv %c, %k, %v, %s : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<1x1x2x16xf32>, tensor<1x1x2x8xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %x: tensor<?x120xf32>, %s: tensor<?xi32>) {
  // expected-error @+1 {{120 columns aren't queries, keys and values of heads of size 16}}
  %0, %1, %2 = llm.rope_append %x, %c, %s, %s : (tensor<?x120xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x120xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %q: tensor<1x1x4x8xf32>, %s: tensor<?xi32>) {
  // expected-error @+1 {{the query has heads of size 8, the cache of 16}}
  %0 = llm.paged_attention %q, %c, %s : (tensor<1x1x4x8xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<1x1x4x8xf32>
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %q: tensor<1x1x3x16xf32>, %s: tensor<?xi32>) {
  // expected-error @+1 {{3 query heads can't share 2 KV heads evenly}}
  %0 = llm.paged_attention %q, %c, %s : (tensor<1x1x3x16xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<1x1x3x16xf32>
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %q: tensor<?x80xf32>, %s: tensor<?xi32>) {
  // expected-error @+1 {{queries of 80 columns can't give 64 columns of heads of size 16}}
  %0 = llm.paged_attention %q, %c, %s : (tensor<?x80xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %r: tensor<?xi32>) {
  // expected-error @+1 {{all of {input, result} have same type}}
  %0 = llm.gather_rows %x, %r : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x32xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  // expected-error @+1 {{the result has 2 columns, expected 1}}
  %0 = llm.sample %x : (tensor<?x64xf32>) -> tensor<?x2xi32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %t: tensor<?xi32>) {
  // expected-error @+1 {{the parts has 4 columns, expected 3}}
  %0, %1 = llm.score %x, %w, %t : (tensor<?x64xf32>, tensor<8x64xf32>, tensor<?xi32>) -> (tensor<?x4xf32>, tensor<?x8xf32>)
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %t: tensor<?xi32>) {
  // expected-error @+1 {{the logits has 9 columns, expected 8}}
  %0, %1 = llm.score %x, %w, %t : (tensor<?x64xf32>, tensor<8x64xf32>, tensor<?xi32>) -> (tensor<?x3xf32>, tensor<?x9xf32>)
  return
}

// -----

func.func @f(%x: tensor<?x4xf32>) {
  // expected-error @+1 {{parts come in threes, got 4 columns}}
  %0 = llm.score_merge %x : (tensor<?x4xf32>) -> tensor<?x1xf32>
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) {
  // expected-error @+1 {{needs whole rows}}
  %0 = llm.all_reduce %x : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) -> !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) {
  // expected-error @+1 {{needs whole rows}}
  %0 = llm.all_reduce_start %x : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) -> !llm.token
  return
}

// -----

func.func @f(%t: !llm.token) {
  // expected-error @+1 {{waits for a token that no started operation gave}}
  %0 = llm.wait %t : (!llm.token) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) {
  // expected-error @+1 {{the result has 32 columns on rank 0, expected 64}}
  %0 = llm.gather %x : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) -> !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  %0 = llm.all_reduce_start %x : (tensor<?x64xf32>) -> !llm.token
  // expected-error @+1 {{a token can be waited for once}}
  %1 = llm.wait %0 : (!llm.token) -> tensor<?x64xf32>
  %2 = llm.wait %0 : (!llm.token) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  %0 = llm.all_reduce_start %x : (tensor<?x64xf32>) -> !llm.token
  // expected-error @+1 {{started with 'tensor<?x64xf32>', returns 'tensor<?x32xf32>'}}
  %1 = llm.wait %0 : (!llm.token) -> tensor<?x32xf32>
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) {
  // expected-error @+1 {{needs whole rows}}
  %0 = llm.reduce_scatter %x : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) -> !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) {
  // expected-error @+1 {{needs whole rows}}
  %0 = llm.reduce_scatter_start %x : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) -> !llm.token
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  // expected-error @+1 {{all of {input, result} have same type}}
  %0 = llm.all_gather %x : (tensor<?x64xf32>) -> tensor<?x128xf32>
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) {
  // expected-error @+1 {{needs whole rows}}
  %0 = llm.all_gather_start %x : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) -> !llm.token
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  // expected-error @+1 {{all of {input, result} have same type}}
  %0 = llm.broadcast %x : (tensor<?x64xf32>) -> tensor<?x32xf32>
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) {
  // expected-error @+1 {{needs whole rows}}
  %0 = llm.broadcast_start %x : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) -> !llm.token
  return
}

// -----

func.func @f(%x: tensor<?x1xi32>) {
  // expected-error @+1 {{operand #0 must be matrix of float activations with one row per token}}
  llm.send %x : tensor<?x1xi32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  %0 = llm.send_start %x : (tensor<?x64xf32>) -> !llm.token
  // expected-error @+1 {{a send gives nothing, this returns 'tensor<?x64xf32>'}}
  %1 = llm.wait %0 : (!llm.token) -> tensor<?x64xf32>
  return
}

// -----

func.func @f() {
  // expected-error @+1 {{result #0 must be matrix of float activations with one row per token}}
  %0 = llm.recv : tensor<?x1xi32>
  return
}

// -----

func.func @f() {
  %0 = llm.recv_start : !llm.token
  // expected-error @+1 {{must return what llm.recv_start gives}}
  llm.wait %0 : (!llm.token) -> ()
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) {
  %0 = llm.gather_start %x : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) -> !llm.token
  // expected-error @+1 {{the result has 32 columns on rank 0, expected 64}}
  %1 = llm.wait %0 : (!llm.token) -> !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  // expected-error @+1 {{'tokens' isn't a part of the rows: expected first_half, second_half or share}}
  %0 = llm.rows %x tokens : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %y: tensor<?x32xf32>) {
  // expected-error @+1 {{all of {first, second, result} have same type}}
  %0 = llm.join_rows %x, %y : (tensor<?x64xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%n: tensor<64xf32>) {
  // expected-error @+1 {{the weight must be a matrix, got 'tensor<64xf32>'}}
  llm.prefetch %n : tensor<64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // expected-error @+1 {{the weight must be a vector}}
  %0 = llm.layer_norm %x, %w {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<64xf32>) {
  // expected-error @+1 {{epsilon must not be negative}}
  %0 = llm.layer_norm %x, %w {epsilon = -1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<64xf32>) {
  // expected-error @+1 {{epsilon must not be negative}}
  %0 = llm.rms_norm %x, %w {epsilon = 0x7FC00000 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %y: tensor<?x32xf32>) {
  // expected-error @+1 {{multiplies 'tensor<?x64xf32>' with 'tensor<?x32xf32>'}}
  %0 = llm.activation gelu %x times %y : (tensor<?x64xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  // expected-error @+2 {{expected ::llmir::llm::ActivationKind to be one of: silu, gelu, gelu_tanh, relu}}
  // expected-error @+1 {{failed to parse LLM_ActivationKindAttr parameter 'value'}}
  %0 = llm.activation tanh %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  // expected-error @+1 {{the cap must be positive}}
  %0 = llm.softcap %x {cap = 0.0 : f32} : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  // expected-error @+1 {{the input must be a quantized tensor}}
  %0 = llm.dequantize %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>) {
  // expected-error @+1 {{the result has 32 columns, expected 64}}
  %0 = llm.dequantize %x : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>) -> tensor<?x32xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // expected-error @+1 {{operand #1 must be quantized matrix}}
  %0 = llm.quantized_matmul %x, %w : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: !llm.quantized_tensor<f16, [8, 32], true, true, 0, 0, 8>) {
  // expected-error @+1 {{the input has 64 columns, expected 32}}
  %0 = llm.quantized_matmul %x, %w : (tensor<?x64xf32>, !llm.quantized_tensor<f16, [8, 32], true, true, 0, 0, 8>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: !llm.sharded_tensor<!llm.quantized_tensor<f16, [8, 64], true, true, 0, 0, 8>, 0, 2, ?>) {
  // expected-error @+1 {{must be lowered before it's divided}}
  %0 = llm.quantized_matmul %x, %w : (tensor<?x64xf32>, !llm.sharded_tensor<!llm.quantized_tensor<f16, [8, 64], true, true, 0, 0, 8>, 0, 2, ?>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // expected-error @+1 {{the result has 9 columns, expected 8}}
  %0 = llm.logits %x, %w : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x9xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // expected-error @+1 {{the cap must be positive}}
  %0 = llm.logits %x, %w softcap -30.0 : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%q: tensor<?x48xf32>, %k: tensor<?x32xf32>) {
  // expected-error @+1 {{3 query heads can't share 2 KV heads evenly}}
  %0 = llm.attention %q, %k, %k {head_dim = 16 : i64} : (tensor<?x48xf32>, tensor<?x32xf32>, tensor<?x32xf32>) -> tensor<?x48xf32>
  return
}

// -----

func.func @f(%q: tensor<?x64xf32>, %k: tensor<?x32xf32>) {
  // expected-error @+1 {{rows of heads need 'head_dim'}}
  %0 = llm.attention %q, %k, %k : (tensor<?x64xf32>, tensor<?x32xf32>, tensor<?x32xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%q: tensor<1x1x4x16xf32>, %k: tensor<1x1x2x8xf32>) {
  // expected-error @+1 {{have heads of different sizes}}
  %0 = llm.attention %q, %k, %k : (tensor<1x1x4x16xf32>, tensor<1x1x2x8xf32>, tensor<1x1x2x8xf32>) -> tensor<1x1x4x16xf32>
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %s: tensor<?xi32>) {
  // expected-error @+1 {{keys has 48 columns, expected 32}}
  %0, %1 = llm.lookup_kv %c, %s : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> (tensor<?x48xf32>, tensor<?x48xf32>)
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %s: tensor<?xi32>) {
  // expected-error @+1 {{layer 7 of a cache of 2 layers}}
  %0, %1 = llm.lookup_kv %c, %s {layer = 7 : i64} : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> (tensor<?x32xf32>, tensor<?x32xf32>)
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %k: tensor<?x32xf32>, %s: tensor<?xi32>) {
  // expected-error @+1 {{appends to '!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>' but returns '!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>'}}
  %0, %1 = llm.append_kv %c, %k, %k, %s : (!llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?x32xf32>, tensor<?x32xf32>, tensor<?xi32>) -> (!llm.paged_kv_cache<bf16, 1, 2, 16, 16, 128>, tensor<?xi32>)
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %x: tensor<?x112xf32>, %s: tensor<?xi32>) {
  // expected-error @+1 {{3 query heads can't share 2 KV heads evenly}}
  %0, %1, %2 = llm.rope_append %x, %c, %s, %s : (tensor<?x112xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x112xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>)
  return
}

// -----

func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %q: tensor<?x48xf32>, %s: tensor<?xi32>) {
  // expected-error @+1 {{3 query heads can't share 2 KV heads evenly}}
  %0 = llm.paged_attention %q, %c, %s : (tensor<?x48xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x48xf32>
  return
}

// -----

// expected-error @+1 {{a block holds a power of two of tokens, got 24}}
func.func @f(%c: !llm.paged_kv_cache<bf16, 2, 2, 16, 24, 128>) {
  return
}

// -----

func.func @f() {
  // expected-error @+1 {{expected '<'}}
  %0 = llm.create_paged_cache : tensor<4xf32>
  return
}

// -----

func.func @f(%x: !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) {
  // expected-error @+1 {{needs whole rows}}
  %0 = llm.broadcast %x : (!llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>) -> !llm.sharded_tensor<tensor<?x64xf32>, 1, 2, ?>
  return
}

// -----

func.func @f(%x: tensor<?x1xi32>) {
  // expected-error @+1 {{operand #0 must be matrix of float activations with one row per token}}
  %0 = llm.send_start %x : (tensor<?x1xi32>) -> !llm.token
  return
}

// -----

func.func @f(%x: tensor<?x1xi32>) {
  // expected-error @+1 {{operand #0 must be matrix of float activations with one row per token}}
  %0 = llm.gather_start %x : (tensor<?x1xi32>) -> !llm.token
  return
}

// -----

func.func @f() {
  // expected-error @+1 {{invalid kind of type specified}}
  %0 = llm.recv_start : tensor<?x64xf32>
  return
}

// -----

func.func @tree_of_rows(%x: tensor<?x64xf32>) {
  // expected-error @+1 {{no matrix is cut along its columns by vocabulary}}
  %0 = llm.all_reduce %x tree vocabulary : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}
