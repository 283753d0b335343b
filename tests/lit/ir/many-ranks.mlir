// What many ranks have alike is written once, and reads back: sharded types by a name, equal values of a list by their number.
// RUN: llmir-opt %s | FileCheck %s
// RUN: llmir-opt %s | llmir-opt | FileCheck %s

// CHECK: ![[SHARDED:.*]] = !llm.sharded_tensor<tensor<?x10xf32>, 1, 9, ?, [0, 2, 3, 4, 5, 6, 7, 8, 9, 10]>
// CHECK: func.func @f(%{{.*}}: ![[SHARDED]]) -> ![[SHARDED]]
func.func @f(%x: !llm.sharded_tensor<tensor<?x10xf32>, 1, 9, ?, [0, 2, 3, 4, 5, 6, 7, 8, 9, 10]>)
    -> !llm.sharded_tensor<tensor<?x10xf32>, 1, 9, ?, [0, 2, 3, 4, 5, 6, 7, 8, 9, 10]> {
  // CHECK: offsets = [0 x 9], bytes = [128, 64 x 7, 96]
  %0 = llm.add %x, %x {llm.buffers = [#llm.buffer<id = 0, rows = tokens, max_rows = 16, arena = 0, offsets = [0, 0, 0, 0, 0, 0, 0, 0, 0], bytes = [128, 64, 64 x 5, 64, 96], first = 0, last = 1>]}
      : (!llm.sharded_tensor<tensor<?x10xf32>, 1, 9, ?, [0, 2, 3, 4, 5, 6, 7, 8, 9, 10]>, !llm.sharded_tensor<tensor<?x10xf32>, 1, 9, ?, [0, 2, 3, 4, 5, 6, 7, 8, 9, 10]>)
      -> !llm.sharded_tensor<tensor<?x10xf32>, 1, 9, ?, [0, 2, 3, 4, 5, 6, 7, 8, 9, 10]>
  return %0 : !llm.sharded_tensor<tensor<?x10xf32>, 1, 9, ?, [0, 2, 3, 4, 5, 6, 7, 8, 9, 10]>
}
