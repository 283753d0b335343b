// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-make-programs --llm-choose-attention | FileCheck %s --check-prefix=AUTO
// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-make-programs --llm-choose-attention="form=masked share-kv=false window=40" | FileCheck %s --check-prefix=GIVEN
// RUN: llmir-opt %s --llm-choose-attention="form=standard window=64" | FileCheck %s --check-prefix=MODEL
// RUN: not llmir-opt %s --llm-choose-attention=form=fast 2>&1 | FileCheck %s --check-prefix=FORM
// RUN: not llmir-opt %s --llm-choose-attention=window=-1 2>&1 | FileCheck %s --check-prefix=WINDOW

// AUTO: "llm-choose-attention", "Attention by kind of program: mixed flash, decode flash, score flash"
// AUTO-COUNT-6: llm.paged_attention {{.*}}attention = #llm.attention<form = flash>
// AUTO-NOT: form =
// GIVEN: mixed masked, decode masked, score masked (given); each query head reads its KV head by itself; a window of 40 tokens
// GIVEN-COUNT-6: #llm.attention<form = masked, window = 40, share_kv = false>

// FORM: attention form 'fast': expected auto, flash, fused_softmax, masked or standard
// WINDOW: an attention window has tokens or is 0, got -1

// What the model asks for stays: the narrower window, the softcap. What isn't a program is left alone.
// MODEL-LABEL: func.func @layers
// MODEL: llm.paged_attention {{.*}}#llm.attention<form = standard, window = 48, softcap = 5.000000e+01 : f32>
// MODEL: llm.paged_attention {{.*}}#llm.attention<form = standard, window = 64>
// MODEL-LABEL: func.func @no_program
// MODEL-NOT: #llm.attention
func.func @layers(%q: tensor<?x64xf32>, %i: tensor<?xi32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) attributes {llm.program = #llm.program<kind = mixed, min_tokens = 1, max_tokens = 8, max_sampled = 4>} {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<i8, 2, 2, 16, 16, 128>
  %0 = llm.paged_attention %q, %c, %i {attention = #llm.attention<form = flash, window = 48, softcap = 5.0e+01 : f32>} : (tensor<?x64xf32>, !llm.paged_kv_cache<i8, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  %1 = llm.paged_attention %q, %c, %i {layer = 1 : i64} : (tensor<?x64xf32>, !llm.paged_kv_cache<i8, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %0, %1 : tensor<?x64xf32>, tensor<?x64xf32>
}

func.func @no_program(%q: tensor<?x64xf32>, %i: tensor<?xi32>) -> tensor<?x64xf32> {
  %c = llm.create_paged_cache : !llm.paged_kv_cache<i8, 2, 2, 16, 16, 128>
  %0 = llm.paged_attention %q, %c, %i : (tensor<?x64xf32>, !llm.paged_kv_cache<i8, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}
