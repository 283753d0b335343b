// RUN: llmir-opt %S/../inputs/model.mlir --llm-plan | FileCheck %s
// RUN: llmir-opt %S/../inputs/model.mlir --llm-plan="stages=2 ranks=2 weights=q8" | FileCheck %s --check-prefix=ALL
// RUN: llmir-opt %S/../inputs/model.mlir --llm-plan="stages=2 ranks=2 weights=q8 disable=kv,precision,attention,parallel,fusion" | FileCheck %s --check-prefix=NONE
// RUN: llmir-opt %S/../inputs/model.mlir --llm-plan="weights=q8 disable=llm-fuse-residual" | FileCheck %s --check-prefix=ONE
// RUN: llmir-opt %S/../inputs/model.mlir --llm-plan="ranks=2 reproducible=true" | FileCheck %s --check-prefix=TREE
// RUN: not llmir-opt %S/../inputs/model.mlir --llm-plan=disable=llm-plan-memory 2>&1 | FileCheck %s --check-prefix=NEEDED
// RUN: not llmir-opt %S/../inputs/model.mlir --llm-plan=disable=speed 2>&1 | FileCheck %s --check-prefix=UNKNOWN

// CHECK: func.func @stage0_mixed
// CHECK: llm.linear {{.*}} residual
// CHECK: func.func @stage0_decode
// CHECK: func.func @stage0_score

// ALL: func.func @stage0_mixed
// ALL: llm.all_reduce_start
// ALL: llm.rms_norm {{.*}} -> !llm.quantized_tensor

// Every operation is a step of its own.
// NONE: func.func @stage0_mixed
// NONE-NOT: llm.all_reduce_start
// NONE: llm.all_reduce
// NONE: llm.rms_norm {{.*}} -> tensor<?x96xf32>
// NONE: llm.quantize

// ONE-NOT: residual
// ONE: llm.add

// TREE: llm.all_reduce_start {{.*}} tree query_head
// TREE: llm.all_reduce_start {{.*}} tree mlp_column

// NEEDED: --disable llm-plan-memory: every plan needs this pass; expected a family ({{.*}}) or a pass ({{.*}})
// UNKNOWN: --disable speed: expected a family (kv, precision, attention, parallel, fusion) or a pass (llm-choose-block-size, {{.*}})
