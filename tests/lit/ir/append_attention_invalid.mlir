// RUN: llmir-opt %s -split-input-file -verify-diagnostics

func.func @append_attention_form(%qkv: tensor<?x128xf32>, %c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %p: tensor<?xi32>) -> tensor<?x64xf32> {
  // expected-error @below {{appends and attends as flash only, got masked}}
  %0, %1 = llm.append_attention %qkv, %c, %p, %p {attention = #llm.attention<form = masked>} : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>)
  return %0 : tensor<?x64xf32>
}

// -----

func.func @append_attention_layer(%qkv: tensor<?x128xf32>, %c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %p: tensor<?xi32>) -> tensor<?x64xf32> {
  // expected-error @below {{layer 2 of a cache of 2 layers}}
  %0, %1 = llm.append_attention %qkv, %c, %p, %p {layer = 2 : i64} : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>)
  return %0 : tensor<?x64xf32>
}

// -----

func.func @append_attention_columns(%qkv: tensor<?x128xf32>, %c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %p: tensor<?xi32>) -> tensor<?x40xf32> {
  // expected-error @below {{queries of 128 columns can't give 40 columns of heads of size 16}}
  %0, %1 = llm.append_attention %qkv, %c, %p, %p : (tensor<?x128xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x40xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>)
  return %0 : tensor<?x40xf32>
}

// -----

func.func @append_attention_of_queries_alone(%q: tensor<?x64xf32>, %c: !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, %p: tensor<?xi32>) -> tensor<?x64xf32> {
  // expected-error @below {{needs keys and values beside the queries}}
  %0, %1 = llm.append_attention %q, %c, %p, %p : (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>, tensor<?xi32>, tensor<?xi32>) -> (tensor<?x64xf32>, !llm.paged_kv_cache<bf16, 2, 2, 16, 16, 128>)
  return %0 : tensor<?x64xf32>
}
