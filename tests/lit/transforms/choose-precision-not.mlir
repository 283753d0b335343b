// Weights whose rows, or leaves of rows, aren't whole groups of 32 aren't quantized, and a remark says so.
// RUN: llmir-opt %s --llm-choose-precision=weights=q8 2>&1 | FileCheck %s
// RUN: llmir-opt %s --llm-choose-precision=weights=q5_1_64 2>&1 | FileCheck %s --check-prefix=PAIRS
// RUN: not llmir-opt %s --llm-choose-precision=weights=int3 2>&1 | FileCheck %s --check-prefix=UNKNOWN

// UNKNOWN: unknown choice of weights 'int3': expected keep, q3, q4, q5, q6, q8, or a type by name, such as bf16 or q4_1_64

// Groups of 64 give way to groups of 32, and those to bf16.
// PAIRS: remark: 2 weights are packed as bf16, not q5_1_64: rows of 'layers.0.q' have 48 columns in leaves of 48, not multiples of 32
// PAIRS: remark: 1 weight is packed as q5_1, not q5_1_64: rows of 'layers.0.k' have 96 columns in leaves of 96, not multiples of 64

// CHECK: remark: 2 weights are packed as bf16, not q8_0: rows of 'layers.0.q' have 48 columns in leaves of 48, not multiples of 32

// CHECK-LABEL: func.func @rows
// CHECK: llm.weight @layers.0.q {{.*}}] : tensor<64x48xbf16>
func.func @rows(%x: tensor<?x48xf32>) -> tensor<?x64xf32> {
  %0 = llm.weight @layers.0.q layer 0 pieces [#llm.piece<"layers.0.q" : tensor<64x48xf16>, query_head rows 16>] : tensor<64x48xf16>
  %1 = llm.linear %x, %0 : (tensor<?x48xf32>, tensor<64x48xf16>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @leaves
// CHECK: llm.weight @layers.0.o {{.*}}] : tensor<64x64xbf16>
func.func @leaves(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.weight @layers.0.o layer 0 pieces [#llm.piece<"layers.0.o" : tensor<64x64xf16>, query_head columns 16>] : tensor<64x64xf16>
  %1 = llm.linear %x, %0 : (tensor<?x64xf32>, tensor<64x64xf16>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @half_a_pair
// CHECK: llm.weight @layers.0.k {{.*}}] : !llm.quantized_tensor<f16, [64, 96], true, false, 1, 32, 8>
// PAIRS: llm.weight @layers.0.k {{.*}}] : !llm.quantized_tensor<f16, [64, 96], false, false, 1, 32, 5>
func.func @half_a_pair(%x: tensor<?x96xf32>) -> tensor<?x64xf32> {
  %0 = llm.weight @layers.0.k layer 0 pieces [#llm.piece<"layers.0.k" : tensor<64x96xf16>, kv_head rows 16>] : tensor<64x96xf16>
  %1 = llm.linear %x, %0 : (tensor<?x96xf32>, tensor<64x96xf16>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}
