// RUN: llmir-opt %s --llm-fuse-gate-up | FileCheck %s

// CHECK-LABEL: func.func @fuses
// CHECK: %[[W:.*]] = llm.weight @layers.3.gate_up layer 3 pieces [#llm.piece<"layers.3.gate" : {{.*}}>, #llm.piece<"layers.3.up" : {{.*}}>] interleaved : tensor<256x64xf32>
// CHECK: llm.linear %arg0, %[[W]] silu_mul : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x128xf32>
// CHECK-NOT: llm.silu_mul
func.func @fuses(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>) -> tensor<?x128xf32> {
  %0 = llm.weight @layers.3.gate layer 3 pieces [#llm.piece<"layers.3.gate" : tensor<128x64xf32>, mlp_column rows 64>] : tensor<128x64xf32>
  %1 = llm.weight @layers.3.up layer 3 pieces [#llm.piece<"layers.3.up" : tensor<128x64xf32>, mlp_column rows 64>] : tensor<128x64xf32>
  %2 = llm.linear %x, %0 : (tensor<?x64xf32>, tensor<128x64xf32>) -> tensor<?x128xf32>
  %3 = llm.linear %x, %1 : (tensor<?x64xf32>, tensor<128x64xf32>) -> tensor<?x128xf32>
  %4 = llm.silu_mul %2, %3 : (tensor<?x128xf32>, tensor<?x128xf32>) -> tensor<?x128xf32>
  return %4 : tensor<?x128xf32>
}

// CHECK-LABEL: func.func @does_not_mix_inputs
// CHECK: llm.silu_mul
func.func @does_not_mix_inputs(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>) -> tensor<?x128xf32> {
  %0 = llm.weight @layers.3.gate layer 3 pieces [#llm.piece<"layers.3.gate" : tensor<128x64xf32>, mlp_column rows 64>] : tensor<128x64xf32>
  %1 = llm.weight @layers.3.up layer 3 pieces [#llm.piece<"layers.3.up" : tensor<128x64xf32>, mlp_column rows 64>] : tensor<128x64xf32>
  %2 = llm.linear %x, %0 : (tensor<?x64xf32>, tensor<128x64xf32>) -> tensor<?x128xf32>
  %3 = llm.linear %y, %1 : (tensor<?x64xf32>, tensor<128x64xf32>) -> tensor<?x128xf32>
  %4 = llm.silu_mul %2, %3 : (tensor<?x128xf32>, tensor<?x128xf32>) -> tensor<?x128xf32>
  return %4 : tensor<?x128xf32>
}

// CHECK-LABEL: func.func @does_not_mix_encodings
// CHECK: llm.silu_mul
func.func @does_not_mix_encodings(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>) -> tensor<?x128xf32> {
  %0 = llm.weight @layers.3.gate layer 3 pieces [#llm.piece<"layers.3.gate" : tensor<128x64xf32>, mlp_column rows 64>] : tensor<128x64xf32>
  %1 = llm.weight @layers.3.up layer 3 pieces [#llm.piece<"layers.3.up" : tensor<128x64xf32>, mlp_column rows 64>] : tensor<128x64xbf16>
  %2 = llm.linear %x, %0 : (tensor<?x64xf32>, tensor<128x64xf32>) -> tensor<?x128xf32>
  %3 = llm.linear %x, %1 : (tensor<?x64xf32>, tensor<128x64xbf16>) -> tensor<?x128xf32>
  %4 = llm.silu_mul %2, %3 : (tensor<?x128xf32>, tensor<?x128xf32>) -> tensor<?x128xf32>
  return %4 : tensor<?x128xf32>
}

// CHECK-LABEL: func.func @does_not_square
// CHECK: llm.silu_mul
func.func @does_not_square(%x: tensor<?x64xf32>) -> tensor<?x128xf32> {
  %0 = llm.weight @layers.3.gate layer 3 pieces [#llm.piece<"layers.3.gate" : tensor<128x64xf32>, mlp_column rows 64>] : tensor<128x64xf32>
  %1 = llm.linear %x, %0 : (tensor<?x64xf32>, tensor<128x64xf32>) -> tensor<?x128xf32>
  %2 = llm.silu_mul %1, %1 : (tensor<?x128xf32>, tensor<?x128xf32>) -> tensor<?x128xf32>
  return %2 : tensor<?x128xf32>
}
