// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages=stages=1 | FileCheck %s --check-prefix=ONE
// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages=stages=2 | FileCheck %s --check-prefix=TWO
// RUN: not llmir-opt %S/../inputs/model.mlir --llm-split-stages=stages=3 2>&1 | FileCheck %s --check-prefix=THREE
// RUN: not llmir-opt %S/../inputs/model.mlir --llm-split-stages=stages=0 2>&1 | FileCheck %s --check-prefix=NONE

// ONE-NOT: @model(
// ONE: func.func @stage0({{.*}} -> (tensor<?x1xi32>, tensor<?x1xf32>)
// ONE-SAME: llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 2], query_head = [0, 3], kv_head = [0, 1], mlp_column = [0, 3], vocabulary = [0, 4]>
// ONE-NOT: llm.send
// ONE-NOT: llm.recv

// Each stage has a cache for its layers only, which it counts from 0; the tied embedding is in the first and the last.
// TWO: func.func @stage0(
// TWO-NOT: ->
// TWO-SAME: layers = [0, 1]
// TWO: llm.weight @embedding
// TWO: llm.create_paged_cache : <bf16, 1, 1, 32, 16, 128>
// TWO: llm.rope_append
// TWO-NOT: layer = 1
// TWO: llm.send %{{.*}} : tensor<?x96xf32>
// TWO: return
// TWO: func.func @stage1({{.*}} -> (tensor<?x1xi32>, tensor<?x1xf32>)
// TWO-SAME: layers = [1, 2]
// TWO-NOT: llm.embedding
// TWO: llm.recv : tensor<?x96xf32>
// TWO: llm.create_paged_cache : <bf16, 1, 1, 32, 16, 128>
// TWO: llm.paged_attention
// TWO-NOT: layer = 1
// TWO: llm.weight @embedding
// TWO: llm.sample

// THREE: 3 stages of a model with 2 layers: expected 1 to 2
// NONE: 0 stages of a model with 2 layers: expected 1 to 2
