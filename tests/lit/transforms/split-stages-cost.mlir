// RUN: llmir-opt %s --llm-split-stages=stages=2 | FileCheck %s
// RUN: llmir-opt %s --llm-split-stages="stages=2 calibration=%S/../inputs/calibration-linear.json" | FileCheck %s --check-prefix=MEASURED
// RUN: not llmir-opt %s --llm-split-stages="stages=2 calibration=none.json" 2>&1 | FileCheck %s --check-prefix=MISSING

// Two layers of q8_0 read about as many bytes as one of bf16; on a machine whose q8_0 kernel takes three times as long, one
// of them takes as long as the two other layers.
// CHECK: "llm-split-stages", "2 stages of 2, 1 layers; the slowest costs
// CHECK: layers = [0, 2]
// CHECK: layers = [2, 3]
// MEASURED: "llm-split-stages", "2 stages of 1, 2 layers; the slowest costs 40 us of 70 us per token"
// MEASURED: layers = [0, 1]
// MEASURED: layers = [1, 3]
// MISSING: none.json
module attributes {llm.model = #llm.model<layers = 3, hidden = 64, query_heads = 2, kv_heads = 2, head_dim = 32, mlp_columns = 64, vocabulary = 64, mlp_leaf = 64, vocabulary_leaf = 64>} {
func.func @model(%ids: tensor<?xi32>) -> tensor<?x64xf32> {
  %e = llm.weight @embedding pieces [#llm.piece<"e" : tensor<64x64xf32>, vocabulary rows 64>] : tensor<64x64xf32>
  %x0 = llm.embedding %ids, %e : (tensor<?xi32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  %w0 = llm.weight @layers.0.o layer 0 pieces [#llm.piece<"a" : tensor<64x64xf16>, whole none 0>] : !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>
  %x1 = llm.linear %x0, %w0 : (tensor<?x64xf32>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  %w1 = llm.weight @layers.1.o layer 1 pieces [#llm.piece<"b" : tensor<64x64xf16>, whole none 0>] : !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>
  %x2 = llm.linear %x1, %w1 : (tensor<?x64xf32>, !llm.quantized_tensor<f16, [64, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  %w2 = llm.weight @layers.2.o layer 2 pieces [#llm.piece<"c" : tensor<64x64xf16>, whole none 0>] : tensor<64x64xbf16>
  %x3 = llm.linear %x2, %w2 : (tensor<?x64xf32>, tensor<64x64xbf16>) -> tensor<?x64xf32>
  return %x3 : tensor<?x64xf32>
}
}
