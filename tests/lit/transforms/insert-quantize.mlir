// RUN: llmir-opt %s --llm-insert-quantize --llm-verify-phase=phase=precision | FileCheck %s

// One quantize for all quantized weights that read an activation.
// CHECK-LABEL: func.func @shared
// CHECK-SAME: %[[X:[a-z0-9]+]]: tensor<?x64xf32>
// CHECK: %[[Q:.*]] = llm.quantize %[[X]]
// CHECK-NOT: = llm.quantize %
// CHECK: llm.linear %[[Q]],
// CHECK: llm.linear %[[Q]], {{.*}} residual %[[X]]
func.func @shared(%x: tensor<?x64xf32>, %a: !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>, %b: !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %0 = llm.linear %x, %a : (tensor<?x64xf32>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  %1 = llm.linear %x, %b residual %x : (tensor<?x64xf32>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %0, %1 : tensor<?x64xf32>, tensor<?x64xf32>
}

// A weight of floats reads floats.
// CHECK-LABEL: func.func @float_weights_read_floats
// CHECK-NOT: = llm.quantize %
// CHECK: return
func.func @float_weights_read_floats(%x: tensor<?x64xf32>, %w: tensor<64x64xbf16>) -> tensor<?x64xf32> {
  %0 = llm.linear %x, %w : (tensor<?x64xf32>, tensor<64x64xbf16>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @score
// CHECK: %[[Q:.*]] = llm.quantize
// CHECK: llm.score %[[Q]],
func.func @score(%x: tensor<?x64xf32>, %w: !llm.quantized_tensor<f16, [128, 64], true, false, 1, 32, 8>, %t: tensor<?xi32>) -> tensor<?x3xf32> {
  %0, %1 = llm.score %x, %w, %t : (tensor<?x64xf32>, !llm.quantized_tensor<f16, [128, 64], true, false, 1, 32, 8>, tensor<?xi32>) -> (tensor<?x3xf32>, tensor<?x128xf32>)
  return %0 : tensor<?x3xf32>
}
