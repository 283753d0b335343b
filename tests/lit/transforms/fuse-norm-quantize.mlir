// RUN: llmir-opt %s --llm-fuse-norm-quantize | FileCheck %s

// CHECK-LABEL: func.func @fuses
// CHECK: llm.rms_norm %arg0, %arg1 {epsilon = 9.99999974E-6 : f32} : {{.*}} -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
// CHECK-NOT: = llm.quantize %
// CHECK: llm.linear
func.func @fuses(%x: tensor<?x64xf32>, %n: tensor<64xf32>, %w: !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32> {
  %0 = llm.rms_norm %x, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %1 = llm.quantize %0 : (tensor<?x64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %2 = llm.linear %1, %w : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  return %2 : tensor<?x64xf32>
}

// Somebody else reads the floats.
// CHECK-LABEL: func.func @does_not_take_what_others_read
// CHECK: llm.rms_norm {{.*}} -> tensor<?x64xf32>
// CHECK: = llm.quantize %
func.func @does_not_take_what_others_read(%x: tensor<?x64xf32>, %n: tensor<64xf32>, %w: !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32> {
  %0 = llm.rms_norm %x, %n {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %1 = llm.quantize %0 : (tensor<?x64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %2 = llm.linear %1, %w residual %0 : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %2 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @does_not_reach_beyond_a_norm
// CHECK: = llm.quantize %
func.func @does_not_reach_beyond_a_norm(%x: tensor<?x64xf32>, %w: !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32> {
  %0 = llm.add %x, %x : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.quantize %0 : (tensor<?x64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %2 = llm.linear %1, %w : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  return %2 : tensor<?x64xf32>
}
