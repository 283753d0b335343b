// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-shard-stages=ranks=1 --llm-allocate-blocks | FileCheck %s
// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages=stages=2 --llm-shard-stages=ranks=3 --llm-allocate-blocks="kv-memory=40960 max-batch=2" | FileCheck %s --check-prefix=MEMORY
// RUN: not llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-shard-stages=ranks=1 --llm-allocate-blocks=kv-blocks=7 2>&1 | FileCheck %s --check-prefix=FEW
// RUN: not llmir-opt %S/../inputs/model.mlir --llm-allocate-blocks 2>&1 | FileCheck %s --check-prefix=NONE

// 8 sequences of 128 tokens in blocks of 16; a block of 2 layers and a KV head: 2 x 2 x 16 x 32 bf16.
// CHECK: "64 blocks per rank, at most 262.1 kB: 8 sequences of --context 128 tokens", "each of 8 sequences lies in one piece up to 128 tokens"
// CHECK: llm.kv_blocks = 64 : i64

// Each rank of the 2 stages has a layer and the KV head: 2048 bytes.
// MEMORY: llm.kv_blocks = 20 : i64

// FEW: 7 KV blocks (28672 bytes on the rank with most heads and layers), but one sequence of 128 tokens needs 8: raise --kv-blocks or --kv-memory, or lower --context
// NONE: needs stages with a paged cache
