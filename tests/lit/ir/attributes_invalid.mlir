// RUN: llmir-opt %s -split-input-file -verify-diagnostics

// expected-error @+1 {{9 query heads can't share 2 KV heads evenly}}
module attributes {llm.model = #llm.model<layers = 2, hidden = 64, query_heads = 9, kv_heads = 2, head_dim = 16, mlp_columns = 128, vocabulary = 256, mlp_leaf = 64, vocabulary_leaf = 64>} {}

// -----

// expected-error @+1 {{every size of a model must be positive, got 0}}
module attributes {llm.model = #llm.model<layers = 0, hidden = 64, query_heads = 9, kv_heads = 3, head_dim = 16, mlp_columns = 128, vocabulary = 256, mlp_leaf = 64, vocabulary_leaf = 64>} {}

// -----

// expected-error @+1 {{'llm.model' must be a #llm.model on a module}}
func.func private @f() attributes {llm.model = 1 : i64}

// -----

// expected-error @+1 {{'llm.speed' isn't an attribute of the llm dialect}}
func.func private @f() attributes {llm.speed = 1 : i64}

// -----

// expected-error @+2 {{unknown enumerator 'prefill'}}
// expected-error @+1 {{failed to parse LLM_ProgramAttr parameter 'kind'}}
func.func private @f() attributes {llm.program = #llm.program<kind = prefill, min_tokens = 1, max_tokens = 2, max_sampled = 1>}

// -----

// expected-error @+1 {{a program is for 1 or more tokens, got [3, 2]}}
func.func private @f() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 3, max_tokens = 2, max_sampled = 1>}

// -----

// expected-error @+1 {{3 sampled rows of 2 tokens}}
func.func private @f() attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 2, max_sampled = 3>}

// -----

// expected-error @+1 {{leaf boundaries must ascend from 0}}
func.func private @f() attributes {llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 2], query_head = [1, 4], kv_head = [0, 2], mlp_column = [0, 2], vocabulary = [0, 4]>}

// -----

// expected-error @+1 {{leaf boundaries of all units must be for the same number of ranks}}
func.func private @f() attributes {llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 2], query_head = [0, 2, 4], kv_head = [0, 2], mlp_column = [0, 2], vocabulary = [0, 4]>}

// -----

// expected-error @+1 {{a stage needs layers [begin, end), not empty}}
func.func private @f() attributes {llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [2, 2], query_head = [0, 4], kv_head = [0, 2], mlp_column = [0, 2], vocabulary = [0, 4]>}

// -----

func.func @f(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  // expected-error @+1 {{offset 32 must be a non-negative multiple of 64}}
  %0 = llm.add %x, %x {llm.buffers = [#llm.buffer<id = 0, rows = tokens, max_rows = 8, arena = 0, offsets = [32], bytes = [64], first = 0, last = 1>]} : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}

// -----

func.func @f(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  // expected-error @+1 {{'llm.buffers' must be a list with a #llm.buffer per activation result}}
  %0 = llm.add %x, %x {llm.buffers = []} : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}

// -----

func.func @f(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  // expected-error @+1 {{'llm.event' must be an integer on a start or a wait}}
  %0 = llm.add %x, %x {llm.event = 0 : i64} : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}

// -----

// expected-error @+1 {{'llm.explanations' must be a list of [pass, text, gain] on a module}}
module attributes {llm.explanations = [["pass", "text"]]} {}

// -----

// expected-error @+1 {{'llm.workload' must be a workload on a module}}
module attributes {llm.workload = {batch = 4 : i64, prompt = array<i64: 1, 2>, answer = array<i64: 1>, prefixes = [], prompts = []}} {}

// -----

// expected-error @+1 {{'llm.workload' must be a workload on a module}}
module attributes {llm.workload = {batch = 4 : i64, prompt = array<i64: 1>, answer = array<i64: 1>, prefixes = [{name = "p"}], prompts = []}} {}

// -----

// expected-error @+1 {{'llm.block_sizes' must be a list of block sizes and their costs on a module}}
module attributes {llm.block_sizes = [{block_size = 16 : i64}]} {}

// -----

// expected-error @+1 {{'llm.prefixes' must be a list of name, ids and share on a module}}
module attributes {llm.prefixes = [{name = "p", ids = [1, 2], share = 1.0 : f64}]} {}

// -----

// expected-error @+1 {{'llm.kv_blocks' must be an integer on a module}}
module attributes {llm.kv_blocks = "many"} {}

// -----

// expected-error @+1 {{repeats a value 0 times, expected 1 to 1048576}}
func.func private @f(!llm.sharded_tensor<tensor<?x9xf32>, 1, 3, ?, [0 x 0, 3, 6, 9]>)

// -----

// expected-error @below {{a window has tokens or is 0, got -3}}
module attributes {test.a = #llm.attention<form = flash, window = -3>} {}

// -----

// expected-error @below {{a softcap is a positive f32}}
module attributes {test.a = #llm.attention<form = flash, softcap = -1.0 : f32>} {}

// -----

// expected-error @+2 {{unknown enumerator 'fast'}}
// expected-error @+1 {{failed to parse LLM_AttentionAttr parameter 'form'}}
module attributes {test.a = #llm.attention<form = fast>} {}

// -----

func.func @wire_of_what_sends_nothing(%a: tensor<?x64xf32>) {
  // expected-error @+1 {{'llm.wire' must be "int8" on what passes on rows of f32, in rank order}}
  %0 = llm.add %a, %a {llm.wire = "int8"} : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @wire_of_a_tree(%a: tensor<?x64xf32>) {
  // expected-error @+1 {{'llm.wire' must be "int8" on what passes on rows of f32, in rank order}}
  %0 = llm.all_reduce %a tree mlp_column {llm.wire = "int8"} : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @wire_of_another_type(%a: tensor<?x64xf32>) {
  // expected-error @+1 {{'llm.wire' must be "int8" on what passes on rows of f32, in rank order}}
  llm.send %a {llm.wire = "int4"} : tensor<?x64xf32>
  return
}
