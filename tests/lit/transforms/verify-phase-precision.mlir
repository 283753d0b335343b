// RUN: llmir-opt %s -split-input-file --llm-verify-phase=phase=precision -verify-diagnostics

func.func @f(%x: tensor<?x64xf32>, %w: !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) {
  // expected-error @+1 {{can't read activations 'tensor<?x64xf32>'}}
  %0 = llm.linear %x, %w : (tensor<?x64xf32>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>, %t: tensor<?xi32>) {
  // expected-error @+1 {{can't read activations 'tensor<?x64xf32>'}}
  %0, %1 = llm.score %x, %w, %t : (tensor<?x64xf32>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>, tensor<?xi32>) -> (tensor<?x3xf32>, tensor<?x64xf32>)
  return
}
