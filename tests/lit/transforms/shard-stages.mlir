// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-shard-stages=ranks=2 --llm-verify-phase=phase=parallel | FileCheck %s
// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-shard-stages=ranks=1 | FileCheck %s --check-prefix=ALONE
// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages=stages=2 --llm-shard-stages=ranks=3,2 | FileCheck %s --check-prefix=UNEQUAL
// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-shard-stages="ranks=2 reproducible=true" --llm-verify-phase=phase=parallel | FileCheck %s --check-prefix=TREE
// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-shard-stages="ranks=1 reproducible=true" | FileCheck %s --check-prefix=LONE
// RUN: not llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-shard-stages=ranks=4 2>&1 | FileCheck %s --check-prefix=MANY
// RUN: not llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-shard-stages=ranks=1,1 2>&1 | FileCheck %s --check-prefix=COUNT
// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-shard-stages="ranks=2 speeds=1,2" | FileCheck %s --check-prefix=SPEEDS
// RUN: llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-shard-stages="ranks=3 speeds=100,1,1" | FileCheck %s --check-prefix=LEAST
// RUN: not llmir-opt %S/../inputs/model.mlir --llm-split-stages --llm-shard-stages="ranks=2 speeds=1" 2>&1 | FileCheck %s --check-prefix=SPEED-COUNT

// 2 heads and 1, the KV head on both; 128 MLP columns and the short rest; 128 rows of the vocabulary and the rest.
// CHECK: func.func @stage0
// CHECK-SAME: -> (!llm.sharded_tensor<tensor<?x1xi32>, 1, 2, ?, [0, 1, 1]>, !llm.sharded_tensor<tensor<?x1xf32>, 1, 2, ?, [0, 1, 1]>)
// CHECK-SAME: llm.stage = #llm.stage<index = 0, first_rank = 0, layers = [0, 2], query_head = [0, 2, 3], kv_head = [0, 1, 0, 1], mlp_column = [0, 2, 3], vocabulary = [0, 2, 4]>
// CHECK: llm.weight @embedding {{.*}} : !llm.sharded_tensor<tensor<200x96xf32>, 0, 2, ?, [0, 128, 200]>
// CHECK: %[[E:.*]] = llm.embedding
// CHECK-NEXT: %[[X:.*]] = llm.all_reduce %[[E]]
// CHECK: llm.rms_norm %[[X]]
// CHECK: llm.weight @layers.0.qkv {{.*}} : !llm.sharded_tensor<tensor<160x96xf32>, 0, 2, ?, [0, 128, 224]>
// CHECK: llm.linear {{.*}} -> !llm.sharded_tensor<tensor<?x224xf32>, 1, 2, ?, [0, 128, 224]>
// CHECK: llm.paged_attention {{.*}} -> !llm.sharded_tensor<tensor<?x96xf32>, 1, 2, ?, [0, 64, 96]>
// CHECK: llm.weight @layers.0.o {{.*}} : !llm.sharded_tensor<tensor<96x96xf32>, 1, 2, ?, [0, 64, 96]>
// CHECK: %[[O:.*]] = llm.linear {{.*}} -> tensor<?x96xf32>
// CHECK-NEXT: %[[SUM:.*]] = llm.all_reduce %[[O]]
// CHECK-NEXT: llm.add %[[X]], %[[SUM]]
// CHECK: llm.linear {{.*}} silu_mul {{.*}} -> !llm.sharded_tensor<tensor<?x160xf32>, 1, 2, ?, [0, 128, 160]>
// CHECK: llm.weight @layers.0.down {{.*}} : !llm.sharded_tensor<tensor<96x160xf32>, 1, 2, ?, [0, 128, 160]>
// CHECK: llm.all_reduce
// CHECK: %[[L:.*]] = llm.linear {{.*}} -> !llm.sharded_tensor<tensor<?x200xf32>, 1, 2, ?, [0, 128, 200]>
// CHECK: %[[G:.*]] = llm.gather %[[L]] : {{.*}} -> !llm.sharded_tensor<tensor<?x200xf32>, 1, 2, ?, [0, 200, 200]>
// CHECK: llm.sample %[[G]]
// CHECK: %[[P:.*]], %{{.*}} = llm.score {{.*}} -> (!llm.sharded_tensor<tensor<?x6xf32>, 1, 2, ?, [0, 3, 6]>, !llm.sharded_tensor<tensor<?x200xf32>, 1, 2, ?, [0, 128, 200]>)
// CHECK: %[[GP:.*]] = llm.gather %[[P]] : {{.*}} -> !llm.sharded_tensor<tensor<?x6xf32>, 1, 2, ?, [0, 6, 6]>
// CHECK: llm.score_merge %[[GP]]

// One rank exchanges nothing and shards nothing.
// ALONE-NOT: llm.all_reduce
// ALONE-NOT: llm.gather %
// ALONE-NOT: sharded_tensor

// UNEQUAL: func.func @stage0
// UNEQUAL-SAME: first_rank = 0, layers = [0, 1], query_head = [0, 1, 2, 3], kv_head = [0, 1, 0, 1, 0, 1]
// UNEQUAL: func.func @stage1
// UNEQUAL-SAME: first_rank = 3, layers = [1, 2], query_head = [0, 2, 3]

// Sums of matrices are over the tree of all leaves, and scores in a part for each of 4 leaves; embeddings add zeros.
// TREE: %[[E:.*]] = llm.embedding
// TREE-NEXT: llm.all_reduce %[[E]] : (tensor<?x96xf32>)
// TREE: llm.all_reduce %{{.*}} tree query_head : (tensor<?x96xf32>) -> tensor<?x96xf32>
// TREE: llm.all_reduce %{{.*}} tree mlp_column : (tensor<?x96xf32>) -> tensor<?x96xf32>
// TREE: llm.score {{.*}} by_leaf : {{.*}} -> (!llm.sharded_tensor<tensor<?x12xf32>, 1, 2, ?, [0, 6, 12]>, {{.*}})
// LONE-NOT: llm.all_reduce
// LONE: llm.score {{.*}} by_leaf : {{.*}} -> (tensor<?x12xf32>, tensor<?x200xf32>)

// MANY: 4 ranks for 3 leaves of query_head
// COUNT: one number of ranks for all stages or one per stage; got 2 for 1 stages

// Leaves follow the ranks' speeds, one at least on each.
// SPEEDS: query_head = [0, 1, 3], kv_head = [0, 1, 0, 1], mlp_column = [0, 1, 3], vocabulary = [0, 1, 4]
// LEAST: query_head = [0, 1, 2, 3], kv_head = [0, 1, 0, 1, 0, 1], mlp_column = [0, 1, 2, 3], vocabulary = [0, 2, 3, 4]
// SPEED-COUNT: 1 speeds for 2 ranks: expected one above 0 for each
