// What folds and canonicalizes, and next to it what must not.
// RUN: llmir-opt %s --canonicalize | FileCheck %s

// Only the rows that are asked for are normed.
// CHECK-LABEL: func.func @rows_first
// CHECK-SAME: (%[[X:.*]]: tensor<?x64xf32>, %[[Y:.*]]: tensor<?x64xf32>,
// CHECK: %[[GX:.*]] = llm.gather_rows %[[X]]
// CHECK: %[[GY:.*]] = llm.gather_rows %[[Y]]
// CHECK: %[[SUM:.*]] = llm.add %[[GX]], %[[GY]]
// CHECK: %[[NORM:.*]] = llm.rms_norm %[[SUM]]
// CHECK: return %[[NORM]]
func.func @rows_first(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>, %norm: tensor<64xf32>, %rows: tensor<?xi32>) -> tensor<?x64xf32> {
  %0 = llm.add %x, %y : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.rms_norm %0, %norm {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %2 = llm.gather_rows %1, %rows : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  return %2 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @rows_of_a_linear
// CHECK-SAME: (%[[X:.*]]: tensor<?x64xf32>,
// CHECK: %[[ROWS:.*]] = llm.gather_rows %[[X]], %{{.*}} : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
// CHECK: llm.linear %[[ROWS]], %{{.*}} : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x256xf32>
func.func @rows_of_a_linear(%x: tensor<?x64xf32>, %w: tensor<256x64xf32>, %rows: tensor<?xi32>) -> tensor<?x256xf32> {
  %0 = llm.linear %x, %w : (tensor<?x64xf32>, tensor<256x64xf32>) -> tensor<?x256xf32>
  %1 = llm.gather_rows %0, %rows : (tensor<?x256xf32>, tensor<?xi32>) -> tensor<?x256xf32>
  return %1 : tensor<?x256xf32>
}

// Others read the rows too: they are computed once.
// CHECK-LABEL: func.func @rows_read_twice
// CHECK: %[[NORM:.*]] = llm.rms_norm
// CHECK: llm.gather_rows %[[NORM]]
func.func @rows_read_twice(%x: tensor<?x64xf32>, %norm: tensor<64xf32>, %rows: tensor<?xi32>) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %0 = llm.rms_norm %x, %norm {epsilon = 1.0e-5 : f32} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %1 = llm.gather_rows %0, %rows : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  return %0, %1 : tensor<?x64xf32>, tensor<?x64xf32>
}

// Rows of attention depend on other rows, rows of rows on their numbers, and dequantize reads what can't be gathered.
// CHECK-LABEL: func.func @rows_not_by_themselves
// CHECK: %[[HEADS:.*]] = llm.paged_attention
// CHECK: llm.gather_rows %[[HEADS]]
// CHECK: %[[SOME:.*]] = llm.gather_rows %{{.*}}
// CHECK: llm.gather_rows %[[SOME]]
// CHECK: %[[FLOATS:.*]] = llm.dequantize
// CHECK: llm.gather_rows %[[FLOATS]]
func.func @rows_not_by_themselves(%x: tensor<?x64xf32>, %q: !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>, %rows: tensor<?xi32>) -> (tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>) {
  %0 = llm.create_paged_cache : !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>
  %1 = llm.paged_attention %x, %0, %rows : (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>) -> tensor<?x64xf32>
  %2 = llm.gather_rows %1, %rows : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %3 = llm.gather_rows %x, %rows : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %4 = llm.gather_rows %3, %rows : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %5 = llm.dequantize %q : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  %6 = llm.gather_rows %5, %rows : (tensor<?x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  return %2, %4, %6 : tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>
}

// Halves of what was joined, and the join of both halves, are what there was before.
// CHECK-LABEL: func.func @halves
// CHECK-SAME: (%[[A:.*]]: tensor<?x64xf32>, %[[B:.*]]: tensor<?x64xf32>)
// CHECK-NOT: llm
// CHECK: return %[[A]], %[[B]], %[[A]]
func.func @halves(%a: tensor<?x64xf32>, %b: tensor<?x64xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>) {
  %0 = llm.join_rows %a, %b : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.rows %0 first_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.rows %0 second_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.rows %a first_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %4 = llm.rows %a second_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %5 = llm.join_rows %3, %4 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1, %2, %5 : tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>
}

// CHECK-LABEL: func.func @part_of_the_same_part
// CHECK: %[[SHARE:.*]] = llm.rows %{{.*}} share
// CHECK-NOT: llm.rows
// CHECK: return %[[SHARE]]
func.func @part_of_the_same_part(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.rows %x share : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.rows %0 share : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// A rank's share lies across both halves; halves in the other order, or of two matrices, aren't one matrix.
// CHECK-LABEL: func.func @parts_stay
// CHECK: %[[ALL:.*]] = llm.join_rows
// CHECK: llm.rows %[[ALL]] share
// CHECK: llm.rows %{{.*}} second_half
// CHECK: llm.rows %{{.*}} first_half
// CHECK: llm.join_rows
// CHECK: llm.rows %{{.*}} second_half
// CHECK: llm.join_rows
func.func @parts_stay(%a: tensor<?x64xf32>, %b: tensor<?x64xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>) {
  %0 = llm.join_rows %a, %b : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.rows %0 share : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.rows %a second_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.rows %a first_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %4 = llm.join_rows %2, %3 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %5 = llm.rows %b second_half : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %6 = llm.join_rows %3, %5 : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1, %4, %6 : tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>
}

// CHECK-LABEL: func.func @sum_on_every_rank
// CHECK: llm.all_reduce %{{.*}} : (tensor<?x64xf32>) -> tensor<?x64xf32>
// CHECK-NOT: llm.all_gather
// CHECK: return
func.func @sum_on_every_rank(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.reduce_scatter %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.all_gather %0 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// Not where the shares are read as well, or something else is gathered.
// CHECK-LABEL: func.func @shares_are_read
// CHECK: llm.reduce_scatter
// CHECK: llm.add
// CHECK: llm.all_gather
// CHECK: llm.reduce_scatter
// CHECK: llm.all_gather
func.func @shares_are_read(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>) -> (tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>) {
  %0 = llm.reduce_scatter %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.add %0, %y : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = llm.all_gather %1 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %3 = llm.reduce_scatter %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %4 = llm.all_gather %3 : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return %2, %3, %4 : tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>
}

// CHECK-LABEL: func.func @silu_mul
// CHECK: llm.silu_mul %{{.*}}, %{{.*}}
func.func @silu_mul(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.activation silu %x times %y : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @other_activations
// CHECK: llm.activation silu %{{.*}} : (tensor
// CHECK: llm.activation gelu %{{.*}} times
func.func @other_activations(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %0 = llm.activation silu %x : (tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = llm.activation gelu %0 times %x : (tensor<?x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// Rounding isn't undone, in either direction.
// CHECK-LABEL: func.func @rounding_stays
// CHECK: %[[Q:.*]] = llm.quantize
// CHECK: %[[F:.*]] = llm.dequantize %[[Q]]
// CHECK: %[[AGAIN:.*]] = llm.quantize %[[F]]
// CHECK: return %[[F]], %[[AGAIN]]
func.func @rounding_stays(%x: tensor<?x64xf32>) -> (tensor<?x64xf32>, !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>) {
  %0 = llm.quantize %x : (tensor<?x64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  %1 = llm.dequantize %0 : (!llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>) -> tensor<?x64xf32>
  %2 = llm.quantize %1 : (tensor<?x64xf32>) -> !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
  return %1, %2 : tensor<?x64xf32>, !llm.quantized_tensor<f32, [?, 64], true, false, 1, 32, 8>
}
