// RUN: llmir-opt %s -split-input-file --llm-verify-phase=phase=fusion -verify-diagnostics

func.func @f(%x: tensor<?x64xf32>, %p: tensor<?xi32>) {
  // expected-error @+1 {{is left after fusion, and no step of a plan executes it}}
  %0 = llm.rope %x, %p {head_dim = 16 : i64} : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  // expected-error @+1 {{is left after fusion, and no step of a plan executes it}}
  %0 = llm.silu_mul %x, %x : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return
}
