// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-make-programs="max-batch=4 prefill-chunk=32" --llm-verify-phase=phase=programs | FileCheck %s
// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages=stages=2 --llm-make-programs --llm-verify-phase=phase=programs | FileCheck %s --check-prefix=TWO

// CHECK: func.func @stage0_mixed({{.*}} -> tensor<?x1xi32>
// CHECK-SAME: llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 36, max_sampled = 4>
// CHECK: llm.rope_append
// CHECK: llm.gather_rows
// CHECK: llm.sample
// CHECK-NOT: llm.score
// CHECK: func.func @stage0_decode({{.*}} -> tensor<?x1xi32>
// CHECK-SAME: llm.program = #llm.program<kind = decode, min_tokens = 1, max_tokens = 4, max_sampled = 4>
// CHECK: llm.rope_append
// CHECK-NOT: llm.gather_rows
// CHECK-NOT: llm.score
// CHECK: llm.sample
// CHECK: func.func @stage0_score({{.*}} -> tensor<?x1xf32>
// CHECK-SAME: llm.program = #llm.program<kind = score, min_tokens = 1, max_tokens = 32, max_sampled = 0>
// CHECK: llm.rope_append
// CHECK-NOT: llm.sample
// CHECK: llm.score_merge
// CHECK-NOT: @stage0(

// A stage that isn't the last sends its rows in every kind of program.
// TWO: func.func @stage0_mixed(
// TWO: llm.send
// TWO: func.func @stage0_decode(
// TWO: llm.send
// TWO: func.func @stage0_score(
// TWO: llm.send
// TWO: func.func @stage1_mixed(
// TWO: llm.recv
