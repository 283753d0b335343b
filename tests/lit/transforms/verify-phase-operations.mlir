// RUN: llmir-opt %s --llm-verify-phase=phase=operations -verify-diagnostics

func.func @f(%x: tensor<?x64xf32>, %head: tensor<256x64xf32>) {
  // expected-error @+1 {{isn't lowered, and no step of a plan executes it}}
  %0 = llm.logits %x, %head : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x256xf32>
  return
}
