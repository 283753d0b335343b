// RUN: llmir-opt %s --llm-choose-precision | FileCheck %s --check-prefixes=CHECK,KEEP
// RUN: llmir-opt %s --llm-choose-precision=weights=f32 | FileCheck %s --check-prefixes=CHECK,F32
// RUN: llmir-opt %s --llm-choose-precision=weights=bf16 | FileCheck %s --check-prefixes=CHECK,BF16
// RUN: llmir-opt %s --llm-choose-precision=weights=q8 | FileCheck %s --check-prefixes=CHECK,Q8
// RUN: llmir-opt %s --llm-choose-precision=weights=q4 | FileCheck %s --check-prefixes=CHECK,Q4
// RUN: llmir-opt %s --llm-choose-precision=weights=q3 | FileCheck %s --check-prefixes=CHECK,Q3
// RUN: llmir-opt %s --llm-choose-precision=weights=q5_0 | FileCheck %s --check-prefixes=CHECK,Q50
// RUN: llmir-opt %s --llm-choose-precision=weights=q5 | FileCheck %s --check-prefixes=CHECK,Q50
// RUN: llmir-opt %s --llm-choose-precision=weights=q6 | FileCheck %s --check-prefixes=CHECK,Q6
// RUN: llmir-opt %s --llm-choose-precision=weights=q4_1_64 | FileCheck %s --check-prefixes=CHECK,Q464

// Vectors are f32 whatever is asked for.
// CHECK-LABEL: func.func @vector
// CHECK: llm.weight @norm {{.*}} : tensor<64xf32>
func.func @vector(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.weight @norm pieces [#llm.piece<"norm" : tensor<64xf16>, whole none 0>] : tensor<64xf16>
  %1 = llm.rms_norm %x, %0 {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf16>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @matrix
// KEEP: llm.weight @layers.0.o {{.*}}] : !llm.quantized_tensor<f16, [64, 64], false, false, 1, 32, 4>
// F32: llm.weight @layers.0.o {{.*}}] : tensor<64x64xf32>
// BF16: llm.weight @layers.0.o {{.*}}] : tensor<64x64xbf16>
// Q8: llm.weight @layers.0.o {{.*}}] : !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>
// Q3: llm.weight @layers.0.o {{.*}}] : !llm.quantized_tensor<f16, [64, 64], false, false, 1, 32, 3>
// Q50: llm.weight @layers.0.o {{.*}}] : !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 5>
// Q6: llm.weight @layers.0.o {{.*}}] : !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 6>
// Leaves of 32 columns take no groups of 64.
// Q464: llm.weight @layers.0.o {{.*}}] : !llm.quantized_tensor<f16, [64, 64], false, false, 1, 32, 4>
// Q4: llm.weight @layers.0.o {{.*}}] : !llm.quantized_tensor<f16, [64, 64], false, false, 1, 32, 4>
func.func @matrix(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.weight @layers.0.o layer 0 pieces [#llm.piece<"layers.0.o" : !llm.quantized_tensor<f16, [64, 64], false, false, 1, 32, 4>, query_head columns 32>] : !llm.quantized_tensor<f16, [64, 64], false, false, 1, 32, 4>
  %1 = llm.linear %x, %0 : (tensor<?x64xf32>, !llm.quantized_tensor<f16, [64, 64], false, false, 1, 32, 4>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// What the checkpoint stores in several types, but reads the same activations, becomes bf16.
// CHECK-LABEL: func.func @mixed
// KEEP: llm.weight @layers.0.gate {{.*}}] : tensor<64x64xbf16>
// KEEP: llm.weight @layers.0.up {{.*}}] : tensor<64x64xbf16>
// Q464: llm.weight @layers.0.gate {{.*}}] : !llm.quantized_tensor<f16, [64, 64], false, false, 1, 64, 4>
// Q8: llm.weight @layers.0.gate {{.*}}] : !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>
// Q8: llm.weight @layers.0.up {{.*}}] : !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>
func.func @mixed(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.weight @layers.0.gate layer 0 pieces [#llm.piece<"layers.0.gate" : !llm.quantized_tensor<f16, [64, 64], false, false, 1, 32, 4>, mlp_column rows 64>] : !llm.quantized_tensor<f16, [64, 64], false, false, 1, 32, 4>
  %1 = llm.weight @layers.0.up layer 0 pieces [#llm.piece<"layers.0.up" : tensor<64x64xf16>, mlp_column rows 64>] : tensor<64x64xf16>
  %2 = llm.linear %x, %0 : (tensor<?x64xf32>, !llm.quantized_tensor<f16, [64, 64], false, false, 1, 32, 4>) -> tensor<?x64xf32>
  %3 = llm.linear %x, %1 : (tensor<?x64xf32>, tensor<64x64xf16>) -> tensor<?x64xf32>
  %4 = llm.silu_mul %2, %3 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %4 : tensor<?x64xf32>
}

// Two references to one weight get one type: a tied head.
// CHECK-LABEL: func.func @tied
// Q4: llm.weight @embedding {{.*}}] : !llm.quantized_tensor<f16, [128, 64], false, false, 1, 32, 4>
// Q4: llm.weight @embedding {{.*}}] : !llm.quantized_tensor<f16, [128, 64], false, false, 1, 32, 4>
func.func @tied(%ids: tensor<?xi32>) -> tensor<?x128xf32> {
  %0 = llm.weight @embedding pieces [#llm.piece<"embedding" : tensor<128x64xf16>, vocabulary rows 64>] : tensor<128x64xf16>
  %1 = llm.weight @embedding pieces [#llm.piece<"embedding" : tensor<128x64xf16>, vocabulary rows 64>] : tensor<128x64xf16>
  %2 = llm.embedding %ids, %0 : (tensor<?xi32>, tensor<128x64xf16>) -> tensor<?x64xf32>
  %3 = llm.linear %2, %1 : (tensor<?x64xf32>, tensor<128x64xf16>) -> tensor<?x128xf32>
  return %3 : tensor<?x128xf32>
}
